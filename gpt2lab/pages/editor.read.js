// Read: how well the model expected a text, token by token; two texts side by side; and which words
// made a word, by leaving out one at a time.

import {$, h, fill, warm, diverging, paint, percent, fixed, significant} from './kit.js';
import {app, t, failed, say, word, onChange, textOfBytes, number, SURPRISING, LIMITS, bits, bucket, scale, told} from './editor.state.js';
import * as doc from './editor.document.js';
import {pieces} from './editor.surface.js';
import * as store from './editor.store.js';

const ROWS = 400, WORDS = 48; // rows of the table; words that are left out
let texts = ['', ''], found = [null, null], busy = null;

/** What a text comes to: sums of its tokens' scores. */
export function summary({logprobs, bytes}) {
  const scored = logprobs.filter(x => x !== null), total = -scored.reduce((a, b) => a + b, 0);
  const size = bytes.reduce((sum, one, i) => sum + (logprobs[i] === null ? 0 : one.length), 0);
  return {tokens: scored.length, size, nats: total, bitsPerByte: bits(total) / size, perplexity: Math.exp(total / scored.length),
    bitsPerToken: bits(total) / scored.length};
}
async function measure() {
  busy?.abort();
  busy = new AbortController();
  texts = [0, 1].map(i => $('read-' + i).value);
  const wanted = texts.map((text, i) => [text, i]).filter(([text]) => text);
  if (!wanted.length) { say(t('nothingToRead'), true); return; }
  say(t('measuring'));
  try {
    const scores = await app.backend.score(app.model.id, wanted.map(([text]) => text), {start: true}, busy.signal);
    found = [null, null];
    wanted.forEach(([text, i], k) => { found[i] = {...scores[k], text}; });
    say('');
    draw();
  } catch (error) { failed(error); }
}

// ---- What was found.

function facts(one) {
  const s = summary(one);
  return h('dl', {class: 'facts'}, [['bitsPerByte', fixed(s.bitsPerByte, 4)], ['perplexity', significant(s.perplexity, 5)],
    ['bitsPerToken', fixed(s.bitsPerToken, 4)], ['tokens', number(s.tokens)], ['bytes', number(s.size)]]
    .map(([name, value]) => [h('dt', null, t(name)), h('dd', null, value)]));
}
function coloured(one) {
  return h('div', {class: 'prose coloured', tabindex: 0, role: 'group', 'aria-label': t('coloured')}, pieces(one.text, one.bytes.map(raw => raw.length)).map(piece => {
    const nats = Math.max(...piece.tokens.map(i => -(one.logprobs[i] ?? 0)));
    const node = h('span', {class: 'tok', tip: () => told(one, piece.tokens), onclick: () => attribute(one, piece)}, piece.text);
    if (piece.tokens.length) paint(node, warm(nats / SURPRISING));
    return node;
  }));
}
function histogram(title, counts, names) {
  const most = Math.max(1, ...counts);
  return h('div', null, h('h3', null, title), h('table', {class: 'bars'}, counts.map((count, k) => {
    const bar = h('div', {class: 'bar framed', style: {width: 100 * count / most + '%'}});
    paint(bar, warm(k / (counts.length - 1)));
    return h('tr', null, h('th', {scope: 'row'}, names[k]), h('td', {class: 'num'}, number(count)), h('td', null, bar));
  })));
}
function histograms(one) {
  const ranks = LIMITS.map(() => 0), surprise = Array(8).fill(0);
  one.logprobs.forEach((x, i) => {
    if (x === null) return;
    ranks[bucket(one.ranks[i])]++;
    surprise[Math.min(7, Math.floor(bits(-x) / 2))]++;
  });
  return h('div', {class: 'two'}, histogram(t('ranks'), ranks, LIMITS.map(limit => (limit < Infinity ? '≤ ' + number(limit) : t('beyond')))),
    histogram(t('surprisals'), surprise, surprise.map((_, k) => (k < 7 ? 2 * k + '–' + (2 * k + 2) : '14 +'))));
}
function table(one, places) {
  return h('table', null, h('thead', null, h('tr', null, ['position', 'token', 'mass', 'rank', 'bitsShort', 'entropyShort'].map((name, k) =>
    h('th', {scope: 'col', class: k === 1 ? null : 'num'}, t(name))))),
  h('tbody', null, places.map(i => h('tr', null, h('td', {class: 'num muted'}, String(i)), h('td', null, word(textOfBytes(one.bytes[i]))),
    one.logprobs[i] === null ? h('td', {colspan: 4, class: 'muted'}, t('firstToken')) : [h('td', {class: 'num'}, percent(Math.exp(one.logprobs[i]))), h('td', {class: 'num'}, number(one.ranks[i])),
      h('td', {class: 'num'}, fixed(bits(-one.logprobs[i]), 3)), h('td', {class: 'num'}, fixed(bits(one.entropies[i]), 3))]))));
}
function column(one, i) {
  if (!one) return null;
  const places = one.ids.map((_, k) => k), worst = [...places].filter(k => one.logprobs[k] !== null)
    .sort((a, b) => one.logprobs[a] - one.logprobs[b]).slice(0, 10);
  return h('div', {class: 'card'}, found[0] && found[1] ? h('h2', {class: 'h3'}, t('textNumber', i + 1)) : null, facts(one), coloured(one),
    h('p', {class: 'legend'}, scale(warm, 0, 0, t('bitsOrMore', fixed(bits(SURPRISING), 1)))),
    h('p', {class: 'small muted'}, t('attributionHint')), h('div', {id: 'made-' + i}),
    histograms(one), h('h3', null, t('mostSurprising')), h('div', {class: 'scroll'}, table(one, worst)),
    h('details', null, h('summary', null, t('tokenTable')), h('div', {class: 'scroll tall', tabindex: 0, role: 'group', 'aria-label': t('tokenTable')}, table(one, places.slice(0, ROWS))),
      places.length > ROWS ? h('p', {class: 'small muted'}, t('rowsShown', number(ROWS), number(places.length))) : null),
    h('button', {class: 'plain', onclick: () => store.download('tokens.csv', csv(one), 'text/csv;charset=utf-8')}, t('saveTable')));
}
const csv = one => ['position,id,token,logprob,rank,entropy', ...one.ids.map((id, i) => [i, id, JSON.stringify(textOfBytes(one.bytes[i])).replace(/\\"/g, '""'),
  one.logprobs[i] ?? '', one.logprobs[i] === null ? '' : one.ranks[i], one.logprobs[i] === null ? '' : one.entropies[i]].join(','))].join('\n') + '\n';
function compared() {
  if (!found[0] || !found[1]) return null;
  const [a, b] = found.map(summary), lower = a.bitsPerByte <= b.bitsPerByte ? 1 : 2;
  return h('p', {class: 'card'}, t('comparedTexts', lower, fixed(Math.abs(a.bitsPerByte - b.bitsPerByte), 4)));
}
function draw() {
  fill($('readings'), compared(), h('div', {class: 'two'}, found.map(column)));
}

// ---- Which words made this word: the same text with one word left out, all in one request.

/** The words of a text as [start, end], white space before each included. */
export const words = text => Array.from(text.matchAll(/\s*\S+/g), one => [one.index, one.index + one[0].length]);
/** The log-probability of the last `size` bytes of a scored text. */
function ending(one, size) {
  let sum = 0, left = size;
  for (let i = one.ids.length - 1; i >= 0 && left > 0; i--) {
    sum += one.logprobs[i] ?? 0;
    left -= one.bytes[i].length;
  }
  return sum;
}
async function attribute(one, piece) {
  const all = words(one.text), target = all.findIndex(([start, end]) => piece.start >= start && piece.start < end);
  if (target < 1) { say(t('noWordBefore')); return; }
  const [start, end] = all[target], first = Math.max(0, target - WORDS), from = all[first][0], place = $('made-' + found.indexOf(one));
  const context = one.text.slice(from, start), own = one.text.slice(start, end), size = new TextEncoder().encode(own).length;
  const left = all.slice(first, target), variants = left.map(([a, b]) => context.slice(0, a - from) + context.slice(b - from) + own);
  fill(place, h('p', {class: 'muted small'}, t('measuring')));
  try {
    const [plain, ...without] = await app.backend.score(app.model.id, [context + own, ...variants], {start: true});
    const base = ending(plain, size), change = without.map(each => base - ending(each, size)), most = Math.max(1e-9, ...change.map(Math.abs));
    fill(place, h('h3', null, t('madeBy'), ' ', word(own.trim()), h('span', {class: 'muted'}, '  ' + fixed(bits(-base), 2) + ' ' + t('bitsShort'))),
      h('p', {class: 'prose coloured'}, left.map(([a, b], k) => {
        const node = h('span', {class: 'tok', tip: () => t('withoutWord', fixed(bits(change[k]), 2))}, one.text.slice(a, b));
        paint(node, diverging(change[k] / most));
        return node;
      }), h('b', null, own)),
      h('p', {class: 'legend'}, scale(diverging, -1, fixed(-bits(most), 2), fixed(bits(most), 2) + ' ' + t('bitsLost'))));
  } catch (error) { failed(error); fill(place); }
}

function build() {
  const area = i => h('textarea', {class: 'pad', id: 'read-' + i, rows: 6, 'aria-label': t('textNumber', i + 1), placeholder: t(i ? 'secondText' : 'firstText')});
  const kept = [0, 1].map(i => $('read-' + i)?.value ?? texts[i]);
  fill($('read'), h('div', {class: 'two'}, area(0), area(1)),
    h('div', {class: 'row above'}, h('button', {class: 'main', id: 'measure', onclick: measure}, t('measure')),
      h('button', {onclick: () => { $('read-0').value = doc.text(); measure(); }}, t('takeText'))),
    h('p', {class: 'small muted'}, t('readAbout')), h('div', {id: 'readings'}));
  kept.forEach((text, i) => { $('read-' + i).value = text; });
  draw();
}
export function start() {
  build();
  onChange(what => {
    if (what === 'language') build();
    if (what === 'model' && found[0]) measure();
    if (what === 'theme') draw();
  });
}
