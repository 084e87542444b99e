// Inside: the page of `gpt2lab look`, live, in a frame; heads can be silenced or scaled.

import {$, h, fill} from './kit.js';
import {app, t, failed, say, onChange, number} from './editor.state.js';
import * as doc from './editor.document.js';

let acts = [], asked = null, text = '';

async function look() {
  asked?.abort();
  const own = asked = new AbortController();
  text = $('inside-text').value;
  if (!text) { say(t('nothingToRead'), true); return; }
  say(t('looking'));
  try {
    const data = await app.backend.look(app.model.id, text, {scale: acts}, own.signal);
    if (asked === own) { await draw(data); say(''); }
  } catch (error) { failed(error); }
}
/** A fresh frame takes the numbers as a message; its address remembers what was chosen in it. */
async function draw(data) {
  const before = $('lookframe').querySelector('iframe'), hash = before ? before.contentWindow.location.hash : '';
  const frame = h('iframe', {src: 'look.html' + hash, title: t('lookTitle'), class: 'look'});
  await new Promise(done => { frame.addEventListener('load', done, {once: true}); fill($('lookframe'), frame); });
  frame.contentWindow.postMessage(data, location.origin);
}
function change() {
  const [layer, head, factor] = ['layer', 'head', 'factor'].map(name => Number($('act-' + name).value));
  const limits = [app.model.n_layer, app.model.n_head];
  if (![layer, head].every((x, i) => Number.isInteger(x) && x >= 0 && x < limits[i]) || !Number.isFinite(factor)) {
    say(t('badHead', number(limits[0] - 1), number(limits[1] - 1)), true);
    return;
  }
  acts = [...acts.filter(one => one[0] !== layer || one[1] !== head), [layer, head, factor]];
  drawActs();
  look();
}
function drawActs() {
  fill($('actlist'), acts.length ? acts.map(one => h('button', {class: 'plain', 'aria-label': t('undoAct', one[0], one[1]),
    onclick: () => { acts = acts.filter(other => other !== one); drawActs(); look(); }},
  one[0] + '.' + one[1] + ' × ' + one[2] + ' ✕')) : null);
}
function build() {
  const kept = $('inside-text')?.value ?? '', frame = $('lookframe')?.querySelector('iframe');
  const small = (name, value) => h('input', {class: 'pad tiny', id: 'act-' + name, type: 'number', step: name === 'factor' ? 0.1 : 1, value});
  const shown = h('div', {id: 'lookframe'});
  const old = $('lookframe');
  fill($('inside'), h('label', {for: 'inside-text', class: 'hide'}, t('firstText')), h('textarea', {class: 'pad', id: 'inside-text', rows: 2, placeholder: t('insideText')}),
    h('div', {class: 'tools above'}, h('div', {class: 'row'}, h('button', {class: 'main', id: 'look', onclick: look}, t('lookInside')),
      h('button', {onclick: take}, t('takeText'))),
    h('div', {class: 'row small'}, h('label', {for: 'act-layer'}, t('layer')), small('layer', 0), h('label', {for: 'act-head'}, t('head')), small('head', 0),
      h('label', {for: 'act-factor'}, '×'), small('factor', 0), h('button', {id: 'act', onclick: change}, t('scaleHead')), h('span', {id: 'actlist'}))),
    frame ? old : shown);
  $('inside-text').value = kept;
  drawActs();
}
function take() {
  $('inside-text').value = doc.text().slice(-400).replace(/^\S*\s/, all => (doc.text().length > 400 ? '' : all));
  look();
}
export function start() {
  build();
  onChange(what => {
    if (what === 'language') build();
    if (what === 'model') { acts = []; drawActs(); fill($('lookframe')); }
    if (what === 'view' && app.view === 'inside' && !text && doc.text()) take();
  });
}
