// Chat: a base model is no assistant, so the conversation is a script that it continues; the frame is
// that of `gpt2lab chat`, and the page shows the very prompt and which turns no longer fit.

import {$, h, fill} from './kit.js';
import {app, t, say, failed, onChange, number} from './editor.state.js';
import * as doc from './editor.document.js';
import {asked} from './editor.write.js';

let control = null, editing = -1, dropped = 0, prompt = '';

/** The script up to where the reply begins, with the turns from `first` on. */
export function script({opening, them}, turns, first = 0) {
  return [...(opening ? [opening] : []), ...turns.slice(first).map(one => one.who + ': ' + one.text), them + ':'].join('\n');
}
/** The prompt cut by whole turns, the oldest first, until it and the reply fit the window. */
async function cut(turns) {
  const window = app.model.n_ctx, room = window - Math.min(doc.open.settings.max_new_tokens, Math.floor(window / 2));
  for (let first = 0; first < turns.length; first++) {
    const text = script(doc.open.talk, turns, first), length = (await app.backend.tokenize(app.model.id, text)).ids.length;
    if (length <= room) return {text, first};
    if (first === turns.length - 1) throw new Error(t('tooLong', number(length), number(room)));
  }
  return {text: script(doc.open.talk, turns), first: 0};
}

/** Let the model speak after some turns. */
async function reply(turns) {
  stop();
  const own = control = new AbortController(), {you, them} = doc.open.talk;
  try {
    const found = await cut(turns);
    [prompt, dropped] = [found.text, found.first];
    const answer = {who: them, text: ''};
    doc.talk({turns: [...turns, answer]});
    const {overflow, ...settings} = {...asked({n: 1}), stop: ['\n' + you + ':', '\n' + them + ':']};
    await app.backend.stream(app.model.id, prompt, settings, ({text}) => {
      answer.text = answer.text ? answer.text + text : text.trimStart();
      doc.talk({turns: [...turns, answer]});
    }, own.signal);
    answer.text = answer.text.trimEnd();
    doc.talk({turns: [...turns, answer]});
    say('');
  } catch (error) { if (!own.signal.aborted) failed(error); }
  if (control === own) control = null;
  doc.settings({seed: (doc.open.settings.seed + 1) % 2 ** 32});
  draw();
}
function stop() {
  if (control) control.abort();
  control = null;
}
function send() {
  const text = $('message').value.trim();
  if (!text) return;
  $('message').value = '';
  reply([...doc.open.talk.turns, {who: doc.open.talk.you, text}]);
}

function turn(one, i) {
  const {turns, them} = doc.open.talk, model = one.who === them, last = i === turns.length - 1;
  const set = text => { editing = -1; doc.talk({turns: turns.map((old, k) => (k === i ? {...old, text} : old))}); };
  const area = h('textarea', {class: 'pad', rows: 3, 'aria-label': t('edit')});
  area.value = one.text;
  return h('div', {class: 'turn ' + (model ? 'model' : 'person') + (i < dropped ? ' dropped' : '')},
    h('div', {class: 'muted small'}, one.who, i < dropped ? ' · ' + t('dropped') : ''),
    editing === i ? [area, h('div', {class: 'row'}, h('button', {class: 'plain', onclick: () => set(area.value)}, t('keep')),
      h('button', {class: 'plain', onclick: () => { editing = -1; draw(); }}, t('cancel')))]
      : [h('div', {class: 'prose'}, one.text || '…'), h('div', {class: 'row'},
        h('button', {class: 'plain small', onclick: () => { editing = i; draw(); }}, t('edit')),
        model ? h('button', {class: 'plain small', onclick: () => reply(turns.slice(0, i))}, t('retry')) : null,
        !model && !last ? null : h('button', {class: 'plain small', onclick: () => doc.talk({turns: turns.slice(0, i)})}, t('deleteFrom')))]);
}
function field(name) {
  const input = h(name === 'opening' ? 'textarea' : 'input', {class: 'pad', id: 'talk-' + name, rows: name === 'opening' ? 2 : null,
    onchange: () => doc.talk({[name]: input.value})});
  input.value = doc.open.talk[name];
  return [h('label', {for: 'talk-' + name}, t('talk_' + name)), input];
}
function draw() {
  if (app.view !== 'chat') return;
  fill($('turns'), doc.open.talk.turns.length ? doc.open.talk.turns.map(turn) : h('p', {class: 'muted'}, t('chatAbout')));
  fill($('frame'), prompt ? [h('p', {class: 'small muted'}, dropped ? t('droppedTurns', dropped) : t('allTurns')), h('pre', {tabindex: 0}, prompt)] : h('p', {class: 'muted small'}, t('noPrompt')));
  $('halt').disabled = !control;
}
function build() {
  const message = h('textarea', {class: 'pad', id: 'message', rows: 2, 'aria-label': t('message'), onkeydown: event => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  }});
  fill($('chat'), h('div', {class: 'desk'}, h('div', null, h('div', {id: 'turns', 'aria-live': 'polite'}), message,
    h('div', {class: 'row'}, h('button', {class: 'main', onclick: send}, t('send')), h('button', {id: 'halt', onclick: stop}, t('stop')),
      h('button', {onclick: () => { stop(); [prompt, dropped] = ['', 0]; doc.talk({turns: []}); }}, t('startOver')))),
  h('div', null, h('div', {class: 'card'}, h('h2', {class: 'h3'}, t('frame')), h('div', {class: 'fields'}, ['you', 'them', 'opening'].map(field))),
    h('div', {class: 'card'}, h('h2', {class: 'h3'}, t('prompt')), h('div', {id: 'frame'})))));
  draw();
}
export function start() {
  build();
  let drawing = 0;
  doc.watch(what => {
    if (what === 'all') { stop(); [prompt, dropped, editing] = ['', 0, -1]; build(); }
    if (what === 'talk') { cancelAnimationFrame(drawing); drawing = requestAnimationFrame(draw); }
  });
  onChange(what => { if (what === 'language') build(); if (what === 'view') draw(); });
}
