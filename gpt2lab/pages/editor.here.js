// What could come next at the cursor: the distribution before and after the settings, the sliders that
// change it without asking the model again, and the mass of what could follow, three steps deep.

import {$, h, s as svg, fill, percent, blue, css, ink} from './kit.js';
import {app, t, failed, word, names, after, onChange, plainWord, share} from './editor.state.js';
import * as doc from './editor.document.js';
import {boundary, hereSoon, insert, known, onHere, view} from './editor.write.js';

const ROWS = 12, BOOST = 3; // alternatives shown; what a boost adds to a logit
const KNOBS = [['temperature', 0, 2, 0.05], ['top_k', 0, 200, 1], ['top_p', 0.05, 1, 0.01], ['min_p', 0, 0.5, 0.01],
  ['repetition_penalty', 0.8, 2, 0.02], ['presence_penalty', -2, 2, 0.1], ['frequency_penalty', -2, 2, 0.1],
  ['max_new_tokens', 1, 200, 1], ['n', 1, 8, 1]];

// ---- The distribution.

let asking = null;
/** The ids before a place of the text, as a prompt: an empty one is the beginning of a document. */
const before = i => known.ids.slice(0, i);

async function drawHere() {
  const place = boundary();
  if (!place || !app.model) return;
  const [i, start] = place, key = before(i).join() + app.model.id;
  asking = key;
  try {
    const {logits} = await after(before(i));
    if (asking === key) drawRows(logits, i, start);
  } catch (error) { failed(error); }
}
function drawRows(logits, i, start) {
  const seen = view(logits, i, ROWS), own = known.ids[i], most = Math.max(1e-9, ...seen.rows.map(row => Math.max(row.before, row.after)));
  const bar = (share, kind) => h('span', {class: 'thin ' + kind, style: {width: 100 * share / most + '%'}});
  const left = Array.from(seen.after).filter(p => p > 0).length;
  fill($('here'), h('h2', {class: 'h3'}, i < known.ids.length ? t('inPlaceOf') : t('next'), ' ',
    i < known.ids.length ? word(names(own)) : null),
  h('table', {class: 'bars here'}, h('thead', null, h('tr', null, h('th', {scope: 'col'}, t('token')), h('th', {scope: 'col'}, t('mass')),
    h('th', {class: 'num', scope: 'col'}, t('before')), h('th', {class: 'num', scope: 'col'}, t('after')), h('th', {scope: 'col'}, h('span', {class: 'hide'}, t('biasing'))))),
  h('tbody', null, seen.rows.map(row => line(row, own, start, bar)))),
  h('p', {class: 'small muted'}, t('leftOver', left.toLocaleString('en'), app.model.n_vocab.toLocaleString('en'))));
}
function line(row, own, start, bar) {
  const name = names(row.id), bias = doc.open.settings.logit_bias[row.id], banned = doc.open.settings.bad_words.some(one => one.length === 1 && one[0] === row.id);
  const state = banned ? 'ban' : bias ? 'boost' : 'free';
  return h('tr', {class: (row.reason ? 'out' : '') + (row.id === own ? ' mine' : '')},
    h('td', null, h('button', {class: 'alternative', 'aria-label': t('branchWith', plainWord(name)), onclick: () => insert(start, name, {model: app.model.id, chosen: row.id}, false)}, word(name))),
    h('td', null, bar(row.before, 'was'), bar(row.after, 'is')),
    h('td', {class: 'num'}, share(row.before)),
    h('td', {class: 'num'}, row.reason ? h('span', {class: 'why'}, t('why_' + row.reason)) : share(row.after)),
    h('td', null, h('button', {class: 'plain bias ' + state, 'aria-label': t('bias_' + state, plainWord(name)), tip: () => t('bias_' + state, plainWord(name)),
      onclick: () => turn(row.id, state)}, {free: '±', ban: '✕', boost: '+'}[state])));
}
/** Each click goes on: free, banned, boosted, free. */
function turn(id, state) {
  const {logit_bias: bias, bad_words: words} = doc.open.settings, free = words.filter(one => !(one.length === 1 && one[0] === id));
  const {[id]: _, ...rest} = bias;
  doc.settings({free: {bad_words: [...free, [id]], logit_bias: rest}, ban: {bad_words: free, logit_bias: {...rest, [id]: BOOST}},
    boost: {bad_words: free, logit_bias: rest}}[state]);
  drawKnobs();
}

// ---- The sliders.

function drawKnobs() {
  const s = doc.open.settings, changed = [...Object.keys(s.logit_bias).map(Number), ...s.bad_words.map(one => one.at(-1))];
  fill($('knobs'), h('h2', {class: 'h3'}, t('settings'), ' ', h('button', {class: 'plain small', onclick: () => {
    doc.settings({...doc.SETTINGS, seed: s.seed});
    drawKnobs();
  }}, t('reset'))),
  h('div', {class: 'knobs'}, KNOBS.map(knob), seed()),
  changed.length ? h('p', {class: 'small'}, t('changedTokens'), ' ', changed.map(id => h('button', {class: 'plain chip',
    onclick: () => { turn(id, s.bad_words.some(one => one.at(-1) === id) ? 'ban' : 'boost'); }},
  s.logit_bias[id] ? '+' : '✕', ' ', word(names(id))))) : null,
  h('p', {class: 'small muted'}, t('penaltiesAbout')));
}
function knob([name, low, high, step]) {
  const output = h('output', {class: 'num'}), input = h('input', {type: 'range', min: low, max: high, step, id: 'knob-' + name,
    oninput: () => { told(); doc.settings({[name]: Number(input.value)}); }});
  input.value = doc.open.settings[name];
  const off = {top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1, presence_penalty: 0, frequency_penalty: 0}[name];
  const told = () => { output.textContent = Number(input.value) === off ? t('off') : name === 'temperature' && input.value === '0' ? t('greedy') : input.value; };
  told();
  return [h('label', {for: 'knob-' + name}, t('knob_' + name)), input, output];
}
function seed() {
  const input = h('input', {type: 'number', min: 0, max: 2 ** 32 - 1, step: 1, id: 'knob-seed',
    onchange: () => doc.settings({seed: Math.max(0, Math.min(2 ** 32 - 1, Math.floor(Number(input.value) || 0)))})});
  input.value = doc.open.settings.seed;
  return [h('label', {for: 'knob-seed'}, t('knob_seed')), input, h('output', {class: 'num'})];
}

// ---- What could come, three steps deep.

const DEEP = 3, BROAD = 8, WIDTH = 720, HEIGHT = 360;
let future = null; // {key, root: {p, children}}
async function drawFuture() {
  const place = boundary();
  if (!$('futurebox').open || !place) return;
  const ids = before(place[0]), key = ids.join() + app.model.id;
  if (future?.key !== key) {
    const own = future = {key, start: place[1], root: {p: 1, ids: [], texts: [], children: []}};
    try {
      let level = [own.root];
      for (let depth = 0; depth < DEEP; depth++) {
        const found = await app.backend.next(app.model.id, level.map(one => [...ids, ...one.ids]), {top: BROAD});
        if (future !== own) return;
        level = level.flatMap((one, k) => one.children = found[k].top.map(({id, bytes, logprob}) =>
          ({p: one.p * Math.exp(logprob), ids: [...one.ids, id], texts: [...one.texts, names(id, bytes)], bytes, children: []})));
        drawMass();
      }
    } catch (error) { failed(error); }
    return;
  }
  drawMass();
}
function drawMass() {
  const cells = [], column = WIDTH / DEEP;
  const place = (node, depth, top, scale) => {
    let y = top;
    for (const child of node.children) {
      const high = child.p * scale;
      if (high < 2) break;
      cells.push(cell(child, depth * column, y, column, high));
      place(child, depth + 1, y, scale);
      y += high;
    }
  };
  place(future.root, 0, 0, HEIGHT);
  fill($('future'), svg('svg', {viewBox: '0 0 ' + WIDTH + ' ' + HEIGHT, class: 'mass', role: 'group', 'aria-label': t('future')}, cells));
}
function cell(node, x, y, wide, high) {
  const whole = node.texts.join(''), shade = blue(Math.sqrt(node.p)), go = () => insert(future.start, whole, {model: app.model.id, chosen: node.ids}, false);
  const named = plainWord(whole) + ' ' + percent(node.p);
  return svg('g', {class: 'cell', role: 'button', tabindex: high > 14 ? 0 : null, 'aria-label': named, tip: () => [word(whole), '  ' + percent(node.p)], onclick: go,
    onkeydown: event => { if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); go(); } }},
  svg('rect', {x, y, width: wide - 1, height: Math.max(1, high - 1), fill: css(shade)}),
  high > 11 ? svg('text', {x: x + 6, y: y + high / 2 + 4, fill: ink(shade)}, plainWord(node.texts.at(-1)) + '  ' + percent(node.p)) : null);
}

export function start() {
  onHere(() => { drawHere(); drawFuture(); });
  $('futurebox').addEventListener('toggle', () => hereSoon(0));
  doc.watch(what => {
    if (what === 'all') drawKnobs();
    if (what === 'settings' && document.activeElement?.id !== 'knob-seed' && $('knob-seed')) $('knob-seed').value = doc.open.settings.seed;
  });
  onChange(what => { if (what === 'theme') drawFuture(); else if (what !== 'view') drawKnobs(); });
  drawKnobs();
}
