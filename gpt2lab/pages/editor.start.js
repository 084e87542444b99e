// The page begins: the server, the document, the views, the language.

import {$, h, fill, dark} from './kit.js';
import {connect, useKey} from './editor.api.js';
import {app, t, translate, say, failed, chooseModel, changed, onChange} from './editor.state.js';
import * as doc from './editor.document.js';
import * as store from './editor.store.js';
import * as write from './editor.write.js';
import * as here from './editor.here.js';
import * as share from './editor.share.js';
import * as chat from './editor.chat.js';
import * as read from './editor.read.js';
import * as inside from './editor.inside.js';
import * as compare from './editor.compare.js';

const VIEWS = ['write', 'chat', 'read', 'inside', 'compare'];
const SEEN = 'gpt2lab.seen', LANGUAGE = 'gpt2lab.language';
const remember = (name, value) => { try { localStorage.setItem(name, value); } catch { /* no storage: every visit is the first */ } };

function visit(name) {
  app.view = name;
  for (const view of VIEWS) {
    $(view).hidden = view !== name;
    const tab = $('tab-' + view);
    tab.setAttribute('aria-selected', String(view === name));
    tab.tabIndex = view === name ? 0 : -1;
  }
  changed('view');
}
function tabs() {
  for (const name of VIEWS) $('tab-' + name).addEventListener('click', () => visit(name));
  $('tabs').addEventListener('keydown', event => {
    const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!by) return;
    const to = VIEWS[(VIEWS.indexOf(app.view) + by + VIEWS.length) % VIEWS.length];
    visit(to);
    $('tab-' + to).focus();
  });
}
function speak(language) {
  app.language = language;
  remember(LANGUAGE, language);
  translate();
  fill($('language'), language === 'zh' ? 'English' : '中文');
  $('language').lang = language === 'zh' ? 'en' : 'zh';
  document.title = 'gpt2lab · ' + t('title');
  changed('language');
}
/** The first visit: five sentences, one at a time or all at once. */
function tour() {
  const close = () => { $('tour').close(); $('area').focus(); };
  fill($('tour'), h('h2', {id: 'tourtitle'}, t('tourTitle')),
    h('ol', null, [1, 2, 3, 4, 5].map(i => h('li', null, t('tour' + i)))),
    h('div', {class: 'row'}, h('button', {class: 'main', onclick: close, autofocus: true}, t('tourClose'))));
  $('tour').showModal();
  remember(SEEN, '1');
}
function models() {
  fill($('model'), app.models.map(one => h('option', {value: one.id}, one.id)));
  $('model').value = app.model.id;
}

/** The server's models; where it asks for a key, the reader does too. */
async function connected() {
  for (;;) {
    try { return await connect(); } catch (error) {
      if (error.status !== 401) throw error;
      useKey(await keyFor(error.message));
    }
  }
}
function keyFor(said) {
  return new Promise(done => {
    const input = h('input', {class: 'pad', type: 'password', id: 'key', autocomplete: 'off'});
    fill($('tour'), h('form', {method: 'dialog', onsubmit: () => done(input.value.trim())}, h('h2', {id: 'tourtitle'}, t('keyTitle')),
      h('p', null, said), h('label', {for: 'key'}, t('keyLabel')), input, h('div', {class: 'row above'}, h('button', {class: 'main'}, t('tourClose')))));
    $('tour').addEventListener('cancel', event => event.preventDefault(), {once: true});
    $('tour').showModal();
  });
}

async function start() {
  const wanted = localStorage.getItem(LANGUAGE) || (navigator.language.startsWith('zh') ? 'zh' : 'en');
  app.language = wanted;
  translate();
  app.backend = await connected();
  app.models = app.backend.models;
  const given = await share.shared(), document = given || await store.mine();
  if (document) doc.show(document);
  store.claim(doc.open.id);
  chooseModel(doc.open.model);
  models();
  for (const view of [write, here, share, chat, read, inside, compare]) view.start();
  tabs();
  visit('write');
  speak(wanted);
  $('model').addEventListener('change', () => chooseModel($('model').value));
  onChange(what => { if (what === 'model') $('model').value = app.model.id; });
  $('language').addEventListener('click', () => speak(app.language === 'zh' ? 'en' : 'zh'));
  $('help').addEventListener('click', tour);
  dark.addEventListener('change', () => changed('theme'));
  doc.onFailure(error => say(t('notSaved', error.message), true));
  const end = doc.text().length;
  $('area').setSelectionRange(end, end);
  if (!localStorage.getItem(SEEN)) tour(); else $('area').focus();
  window.ready = true;
}
start().catch(failed);
