// Compare: two checkpoints or two settings on one prompt: the texts, the first token that differs, and
// how far apart the distributions are at each position.

import {$, h, fill, warm, paint, fixed} from './kit.js';
import {app, t, failed, say, word, onChange, textOfBytes, scale} from './editor.state.js';
import * as doc from './editor.document.js';
import {process, softmax} from './editor.sampling.js';

const PLACES = 40, AT_ONCE = 8, FAR = 4; // positions compared; in one request; nats, the end of the scale
const FIELDS = [['temperature', 0, 2, 0.05], ['top_p', 0.05, 1, 0.01], ['top_k', 0, 200, 1], ['seed', 0, 2 ** 32 - 1, 1]];
let sides = null, control = null, texts = ['', ''];

const own = () => Object.fromEntries([...FIELDS.map(([name]) => [name, doc.open.settings[name]]), ['model', app.model.id]]);
const settings = side => ({...side.asked, max_new_tokens: doc.open.settings.max_new_tokens, n: 1});

function read(i) {
  const asked = Object.fromEntries(FIELDS.map(([name]) => [name, Number($('side-' + i + '-' + name).value)]));
  return {model: $('side-' + i + '-model').value, asked};
}
async function run() {
  control?.abort();
  const mine = control = new AbortController(), prompt = $('compare-text').value;
  const both = [0, 1].map(read);
  texts = ['', ''];
  fill($('distances'));
  say(t('generating'));
  try {
    await Promise.all(both.map((side, i) => app.backend.stream(side.model, prompt, settings(side), ({text}) => {
      texts[i] += text;
      drawTexts(null);
    }, mine.signal)));
    await drawTexts(both);
    await distances(both, prompt, mine.signal);
    say('');
  } catch (error) { failed(error); }
}
/** Both continuations; after the first token that differs, the rest is in another ink. */
async function drawTexts(both) {
  let same = null;
  if (both) {
    const [a, b] = await Promise.all(both.map((side, i) => app.backend.tokenize(side.model, texts[i])));
    let k = 0;
    while (k < Math.min(a.ids.length, b.ids.length) && String(a.bytes[k]) === String(b.bytes[k])) k++;
    same = {k, raw: [a, b].map(one => one.bytes), all: k === a.ids.length && k === b.ids.length};
  }
  const size = same && same.raw[0].slice(0, same.k).reduce((sum, one) => sum + one.length, 0);
  [0, 1].forEach(i => fill($('text-' + i), same ? split(texts[i], size) : texts[i]));
  fill($('diverges'), !same ? null : same.all ? t('sameText') : [t('divergesAt', same.k + 1), ' ',
    same.raw.map((raw, i) => [i ? ' / ' : '', raw[same.k] ? word(textOfBytes(raw[same.k])) : t('ended')])]);
}
function split(text, size) {
  const raw = new TextEncoder().encode(text), decoder = new TextDecoder();
  const first = decoder.decode(raw.slice(0, size), {stream: true});
  return [first, h('mark', null, text.slice(first.length))];
}
/** The divergence of the second distribution from the first, in nats, after the settings of each. */
export function divergence(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) if (a[i] > 0) sum += a[i] * Math.log(a[i] / b[i]);
  return sum;
}
async function distances(both, prompt, signal) {
  const [one, two] = both.map(side => app.models.find(model => model.id === side.model));
  const {ids, bytes} = await app.backend.tokenize(one.id, prompt + texts[0], signal);
  const other = one === two ? ids : (await app.backend.tokenize(two.id, prompt + texts[0], signal)).ids;
  if (one.n_vocab !== two.n_vocab || String(ids) !== String(other)) { fill($('distances'), h('p', {class: 'muted'}, t('otherVocabulary'))); return; }
  const first = Math.max(1, ids.length - PLACES), found = [];
  for (let i = first; i < ids.length; i += AT_ONCE) {
    const places = Array.from({length: Math.min(AT_ONCE, ids.length - i)}, (_, k) => i + k), prompts = places.map(k => ids.slice(0, k));
    const asked = one === two ? [await app.backend.next(one.id, prompts, {top: 1, logits: true}, signal)]
      : await Promise.all([one, two].map(model => app.backend.next(model.id, prompts, {top: 1, logits: true}, signal)));
    places.forEach((k, j) => {
      const seen = {tokens: ids.slice(0, k), promptLength: k};
      const [p, q] = both.map((side, m) => softmax(process((asked[m] || asked[0])[j].logits, side.asked, seen).left));
      found.push([k, divergence(p, q), divergence(q, p)]);
    });
    drawDistances(found, bytes);
  }
}
function drawDistances(found, bytes) {
  const told = x => (x === Infinity ? '∞' : fixed(x, 3));
  fill($('distances'), h('h2', {class: 'h3'}, t('klTitle')), h('p', {class: 'prose coloured'}, found.map(([k, ab, ba]) => {
    const node = h('span', {class: 'tok', tip: () => [word(textOfBytes(bytes[k])), '\nKL(1‖2) ' + told(ab) + ', KL(2‖1) ' + told(ba)]}, textOfBytes(bytes[k]));
    paint(node, warm(Math.min(ab, 2 * FAR) / FAR));
    return node;
  })), h('p', {class: 'legend'}, scale(warm, 0, 0, t('klLegend', FAR))),
  h('p', {class: 'small muted'}, t('klAbout', found.length)));
}
function side(i) {
  const model = h('select', {id: 'side-' + i + '-model'}, app.models.map(one => h('option', {value: one.id}, one.id)));
  model.value = sides[i].model;
  return h('div', {class: 'card'}, h('h2', {class: 'h3'}, t('side', i + 1)), h('div', {class: 'fields'},
    h('label', {for: 'side-' + i + '-model'}, t('model')), model, FIELDS.map(([name, min, max, step]) => {
      const input = h('input', {class: 'pad', type: 'number', min, max, step, id: 'side-' + i + '-' + name});
      input.value = sides[i][name];
      return [h('label', {for: 'side-' + i + '-' + name}, t('knob_' + name)), input];
    })), h('div', {class: 'prose answer', id: 'text-' + i, tabindex: 0, role: 'group', 'aria-label': t('side', i + 1)}));
}
function build() {
  const prompt = $('compare-text')?.value ?? '';
  sides ||= [own(), app.models[1] ? {...own(), model: app.models[1].id} : {...own(), temperature: own().temperature + 0.4, top_p: 1}];
  fill($('compare'), h('textarea', {class: 'pad', id: 'compare-text', rows: 3, 'aria-label': t('prompt'), placeholder: t('prompt')}),
    h('div', {class: 'row above'}, h('button', {class: 'main', id: 'run', onclick: run}, t('compareBoth')), h('button', {onclick: () => control?.abort()}, t('stop'))),
    h('div', {class: 'two'}, side(0), side(1)), h('p', {id: 'diverges'}), h('div', {id: 'distances'}));
  $('compare-text').value = prompt;
}
export function start() {
  build();
  onChange(what => {
    if (what === 'language') { sides = [0, 1].map(i => ({model: read(i).model, ...read(i).asked})); build(); }
    if (what === 'view' && app.view === 'compare' && !$('compare-text').value) $('compare-text').value = doc.text();
  });
}
