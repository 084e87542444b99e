'use strict';
// The look inside, drawn: one state (a token, a layer, a head, ...), and views that follow it.
// Text from the model is only ever set as text, never read as HTML.

(async () => {
/** The page's data: JSON, compressed where the text is long. */
async function data() {
  const node = document.getElementById('data');
  if (node.type === 'application/json') return JSON.parse(node.textContent);
  const packed = Uint8Array.from(atob(node.textContent), one => one.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  return JSON.parse(await new Response(stream).text());
}
const D = await data();
const C = D.model.config, T = D.tokens.length, L = C.n_layer, H = C.n_head;
const $ = id => document.getElementById(id);

// ---- Making elements.

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'tip') { node.tip = value; continue; }
    if (name === 'style') { Object.assign(node.style, value); continue; }
    if (name.startsWith('on')) { node.addEventListener(name.slice(2), value); continue; }
    node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined));
  return node;
}
const h = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
const SVG = document.querySelector('svg').namespaceURI;
const s = (tag, attributes, ...children) =>
  put(document.createElementNS(SVG, tag), attributes, children);
const fill = (node, ...children) => node.replaceChildren(...children.flat(Infinity).filter(Boolean));

// ---- Words and numbers.

const runs = id => D.words[id] || ['[' + id + ']'];
const plain = id => runs(id).join('');
/** A token as an element: what cannot be seen stands as a faint sign. */
const word = id =>
  h('bdi', {class: 't'}, runs(id).map((run, i) => (i % 2 ? h('i', null, run) : run)));
const at = i => D.tokens[i];
const percent = p => (p === null || p === undefined ? '?' : significant(100 * p, 3) + '%');
function significant(x, digits) {
  if (x === 0) return '0';
  const size = Math.abs(x);
  if (size < 1e-4 || size >= 1e7) return minus(x.toExponential(digits - 1));
  return minus(x.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size)))));
}
/** A number with a minus sign of its own, and none before a zero. */
const minus = text => text.replace(/^-/, /[1-9]/.test(text) ? '−' : '');
const fixed = (x, digits) => (x === null || x === undefined ? '?' : minus(x.toFixed(digits)));
const signed = x => (x === null ? '?' : (x < 0 ? '−' : '+') + Math.abs(x).toFixed(4));
const shape = axes => '[' + axes.join(', ') + ']';
const plural = (n, what) => n.toLocaleString('en') + ' ' + what + (n === 1 ? '' : 's');

// ---- Colours: each scale goes one way in lightness; in the dark it goes the other way.

const SCALES = {
  light: {
    blue: [[246, 245, 240], [198, 221, 229], [121, 178, 206], [47, 115, 168], [17, 49, 105]],
    warm: [[247, 245, 240], [250, 220, 165], [241, 165, 102], [202, 88, 84], [110, 31, 87]],
    orange: [[246, 245, 240], [249, 217, 176], [235, 165, 96], [196, 105, 28], [122, 54, 8]],
  },
  dark: {
    blue: [[32, 37, 42], [27, 63, 93], [39, 105, 155], [98, 166, 212], [214, 235, 247]],
    warm: [[33, 36, 40], [88, 50, 45], [166, 78, 52], [229, 141, 72], [255, 224, 160]],
    orange: [[32, 37, 42], [84, 53, 22], [151, 88, 27], [227, 154, 87], [253, 228, 196]],
  },
};
const dark = window.matchMedia('(prefers-color-scheme: dark)');
function mix(name, value) {
  const anchors = SCALES[dark.matches ? 'dark' : 'light'][name];
  const place = Math.min(Math.max(value || 0, 0), 1) * (anchors.length - 1);
  const first = Math.min(Math.floor(place), anchors.length - 2);
  return anchors[first].map((one, i) =>
    Math.round(one + (anchors[first + 1][i] - one) * (place - first)));
}
const blue = value => mix('blue', value);
const warm = value => mix('warm', value);
const diverging = value => mix(value < 0 ? 'orange' : 'blue', Math.abs(value));
/** The colours of 256 levels as words of an image, for pictures of many cells. */
const made256 = {};
function colourOf(name, colour) {
  return made256[name + dark.matches] ||= Uint32Array.from({length: 256}, (_, k) => {
    const [r, g, b] = colour(k);
    return (255 << 24 | b << 16 | g << 8 | r) >>> 0;
  });
}
const levels256 = () => colourOf('share', k => blue(k / 255));
const css = colour => 'rgb(' + colour.join(',') + ')';
function ink(colour) {
  const linear = colour.map(c => (c <= 10 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 ? '#000' : '#fff';
}
function paint(node, colour) {
  node.style.background = css(colour);
  node.style.color = ink(colour);
}
const swatches = (scale, from) =>
  Array.from({length: 9}, (_, i) =>
    h('span', {style: {background: css(scale(from + (1 - from) * i / 8))}}));

// ---- Packed numbers.

function bytes(text) {
  const raw = atob(text), found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found;
}
const TRIANGLE = T * (T + 1) / 2, WIDE = D.model.head_width, EXACT = 'scores' in D.attention;
const SCORES = EXACT ? new DataView(bytes(D.attention.scores).buffer) : null;
/** Numbers of 12 bits: two in three bytes. */
function twelve(text) {
  const raw = bytes(text), found = new Int16Array(raw.length / 3 * 2);
  for (let i = 0, j = 0; i < raw.length; i += 3) {
    found[j++] = (raw[i] << 4 | raw[i + 1] >> 4) - 2048;
    found[j++] = ((raw[i + 1] & 15) << 8 | raw[i + 2]) - 2048;
  }
  return found;
}
const [Q, K] = EXACT ? [] : ['q', 'k'].map(name => twelve(D.attention[name]));
/** The scaled score of source j for token i, as attention has it before the softmax. */
function score(layer, head, i, j) {
  const one = layer * H + head;
  if (EXACT) return SCORES.getFloat32(4 * (one * TRIANGLE + i * (i + 1) / 2 + j), true);
  let sum = 0;
  for (let d = 0, a = (one * T + i) * WIDE, b = (one * T + j) * WIDE; d < WIDE; d++) sum += Q[a + d] * K[b + d];
  return sum * D.attention.units[layer][head];
}
/** Where token i looks: its softmax over the sources 0 to i. */
function row(layer, head, i) {
  const found = new Float64Array(i + 1);
  let most = -Infinity, total = 0;
  for (let j = 0; j <= i; j++) {
    found[j] = score(layer, head, i, j);
    if (found[j] > most) most = found[j];
  }
  for (let j = 0; j <= i; j++) total += found[j] = Math.exp(found[j] - most);
  for (let j = 0; j <= i; j++) found[j] /= total;
  return found;
}

// ---- The state, and the views that follow it.

const state = {
  token: T - 1, layer: L - 1, head: 0, mode: 'surprisal', lens: 'probability', axis: 'linear',
  temperature: 10, pinned: null, target: 'likeliest', order: 'share', call: 0, line: 0,
  stage: 'softmax', look: null,
};
const LIMITS = {token: T, layer: L, head: H};
const views = [];
/** A view is drawn again when one of what it depends on changes. */
const view = (names, draw) => views.push({names: names.split(' '), draw});
/** What reads sizes waits until all is drawn: one layout for a key press, not one for each view. */
const afterwards = new Set();
function settle() {
  for (const act of afterwards) act();
  afterwards.clear();
}
function choose(changes, quiet) {
  const changed = Object.keys(changes).filter(name => state[name] !== changes[name]);
  if (!changed.length) return;
  Object.assign(state, changes);
  for (const one of views) if (one.names.some(name => changed.includes(name))) one.draw();
  settle();
  if (!quiet && changed.some(name => name in LIMITS)) {
    $('said').textContent = 'token ' + state.token + ' ' + plain(at(state.token)) + ', layer ' +
      state.layer + ', head ' + state.head;
    remember();
  }
}
function move(name, by) {
  choose({[name]: Math.min(Math.max(state[name] + by, 0), LIMITS[name] - 1)});
}
let section = '';
function remember() {
  const places = ['token', 'layer', 'head'].map(name => name + '=' + state[name]).join('&') +
    (section && '&section=' + section);
  try { history.replaceState(null, '', '#' + places); } catch { /* a frame may forbid it */ }
}
function recall() {
  const wanted = new URLSearchParams(location.hash.slice(1)), found = {};
  for (const [name, limit] of Object.entries(LIMITS)) {
    const value = Number(wanted.get(name));
    if (wanted.has(name) && Number.isInteger(value) && value >= 0 && value < limit) {
      found[name] = value;
    }
  }
  return found;
}

/** Scroll to a section and keep it in the address, beside what is chosen. */
function visit(name) {
  section = name;
  $(name).scrollIntoView();
  remember();
}
document.querySelectorAll('nav a').forEach(link => link.addEventListener('click', event => {
  event.preventDefault();
  visit(link.hash.slice(1));
}));

/** Buttons of which one is chosen. */
function choices(node, name, label, options, then) {
  const buttons = options.map(([value, text, tip]) =>
    h('button', {role: 'radio', tip: tip || null, onclick: () => choose({[name]: value, ...then})},
      text));
  fill(node, h('span', {class: 'choice', role: 'radiogroup', 'aria-label': label}, buttons));
  const draw = () => options.forEach(([value], i) =>
    buttons[i].setAttribute('aria-checked', String(value === state[name])));
  view(name, draw);
  draw();
}

/** Arrow keys in a grid of buttons: one of them can be reached by Tab, the rest by arrows. */
function roving(node, find, where, rows, columns, chosen) {
  node.addEventListener('keydown', event => {
    const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
      Home: [0, -columns], End: [0, columns]}[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    const [r, c] = where();
    const to = [r + step[0], c + step[1]].map((x, i) =>
      Math.min(Math.max(x, 0), [rows, columns][i] - 1));
    chosen(...to);
    find(...to).focus({preventScroll: true});
    reveal(find(...to));
  });
}
/** Scroll the nearest box that scrolls, not the page, until a node is seen. */
function reveal(node) {
  const box = node.closest('.scroll, #text, .sumtable');
  if (!box) return;
  const a = node.getBoundingClientRect(), b = box.getBoundingClientRect();
  const left = box.querySelector('tbody th') ? 110 : 0;
  if (a.left < b.left + left) box.scrollLeft -= b.left + left - a.left + 20;
  if (a.right > b.right) box.scrollLeft += a.right - b.right + 20;
  if (a.top < b.top) box.scrollTop -= b.top - a.top + 4;
  if (a.bottom > b.bottom) box.scrollTop += a.bottom - b.bottom + 4;
}
/** Mark one of many nodes; only the one marked before is looked at again. */
function marker(nodes) {
  let last = null;
  for (const node of nodes) mark(node, false);
  return node => {
    if (last) mark(last, false);
    mark(last = node, true);
  };
}
function mark(node, on) {
  node.classList.toggle('on', on);
  node.setAttribute('aria-selected', String(on));
  node.tabIndex = on ? 0 : -1;
}

// ---- The box beside the pointer.

const tip = $('tip');
function point(event) {
  let node = event.target;
  while (node && node !== document && !node.tip) node = node.parentNode;
  if (!node || !node.tip) { tip.hidden = true; return; }
  show(node.tip(event), event.clientX, event.clientY);
}
function show(content, x, y) {
  if (!content) { tip.hidden = true; return; }
  fill(tip, [content].flat());
  tip.hidden = false;
  const {width, height} = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - width - 8)) + 'px';
  tip.style.top = (y + 18 + height > innerHeight ? Math.max(4, y - height - 12) : y + 18) + 'px';
}
document.addEventListener('mousemove', point);
document.addEventListener('scroll', () => { tip.hidden = true; }, true);
document.addEventListener('mouseleave', () => { tip.hidden = true; });
document.addEventListener('focusin', event => {
  const node = event.target;
  if (!node.tip || !node.matches(':focus-visible')) { tip.hidden = true; return; }
  const box = node.getBoundingClientRect();
  show(node.tip({clientX: box.left, clientY: box.top}), box.left, box.bottom - 8);
});

// ---- The bar: the text and what is chosen.

const SURPRISING = 8; // nats; see show.py
const RANKS = [[1, '1'], [10, 'to 10'], [100, 'to 100'], [1000, 'to 1,000'], [Infinity, 'beyond']];
const bucket = rank => RANKS.findIndex(([limit]) => rank <= limit);
const MODES = {
  surprisal: e => warm(e.surprisal / SURPRISING),
  rank: e => warm(bucket(e.rank) / 4),
  entropy: e => warm(e.entropy / Math.log(C.n_vocab)),
};
const LEGENDS = {
  surprisal: () => ['0', swatches(warm, 0), SURPRISING + ' nats of surprise or more'],
  rank: () => RANKS.map(([, name], i) =>
    [h('span', {style: {background: css(warm(i / 4))}}), name]),
  entropy: () => ['0', swatches(warm, 0), fixed(Math.log(C.n_vocab), 1) +
    ' nats of uncertainty before the token'],
};
const tokens = D.tokens.map((id, i) => {
  const node = h('button', {class: 'tok', role: 'option', tip: () => told(i),
    onclick: () => choose({token: i})}, word(id), h('u'));
  return node;
});
function told(i) {
  const e = D.expected[i], title = [h('b', null, word(at(i))), '  token ' + i + ', id ' + at(i)];
  if (!e) return [...title, '\nThe first token: nothing expected it.'];
  return [...title, '\nprobability ' + percent(e.p) + ', rank ' + e.rank.toLocaleString('en') +
    '\nsurprisal ' + fixed(e.surprisal, 4) + ' nats, entropy ' + fixed(e.entropy, 4)];
}
choices($('modes'), 'mode', 'colour of the text', [['surprisal', 'surprise'], ['rank', 'rank'], ['entropy', 'uncertainty']]);
fill($('text'), D.tokens.map((id, i) =>
  [tokens[i], plain(id).includes('↵') ? h('br') : null]));
roving($('text'), (_, i) => tokens[i], () => [0, state.token], 1, T, (_, i) => choose({token: i}));
function drawText() {
  D.expected.forEach((e, i) => {
    if (e) paint(tokens[i], MODES[state.mode](e));
    else Object.assign(tokens[i].style, {background: '', color: ''});
  });
  fill($('legend'), LEGENDS[state.mode](), h('u'), 'where the chosen head looks');
}
const looked = new Float64Array(T);
function drawLooks() {
  const from = state.look === null ? state.token : state.look;
  const shares = row(state.layer, state.head, from);
  tokens.forEach((node, i) => {
    const width = Math.round(1000 * (shares[i] || 0)) / 10;
    if (width !== looked[i]) node.lastChild.style.width = (looked[i] = width) + '%';
  });
}
view('mode theme', drawText);
view('token layer head look', drawLooks);
const markToken = marker(tokens), revealToken = () => reveal(tokens[state.token]);
view('token size', () => {
  markToken(tokens[state.token]);
  afterwards.add(revealToken);
});
const steppers = Object.keys(LIMITS).map(name => {
  const value = h('b');
  view(name, () => { value.textContent = state[name]; });
  const step = (by, sign, word) =>
    h('button', {'aria-label': word + ' ' + name, onclick: () => move(name, by)}, sign);
  return h('span', null, name + ' ', step(-1, '‹', 'previous'), value, step(1, '›', 'next'));
});
fill($('steppers'), steppers);
document.addEventListener('keydown', event => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.target.closest('input, #panel')) return;
  const moves = event.shiftKey
    ? {ArrowLeft: ['head', -1], ArrowRight: ['head', 1],
      ArrowUp: ['layer', -1], ArrowDown: ['layer', 1]}
    : {ArrowLeft: ['token', -1], ArrowRight: ['token', 1]};
  if (!moves[event.key]) return;
  event.preventDefault();
  move(...moves[event.key]);
});

// ---- What was expected, and what comes next.

const TEMPERATURES = Array.from({length: 20}, (_, i) => (i + 1) / 10);
/** The probabilities after token i of the likeliest ids, and of all others together. */
function spread(i, temperature) {
  const {logits, rest} = D.next[i];
  if (temperature === 0) return {p: logits.map((_, k) => Number(k === 0)), others: 0};
  const scaled = logits.map(x => x / TEMPERATURES[temperature - 1]);
  const other = rest[temperature - 1];
  const most = Math.max(scaled[0], other === null ? -Infinity : other);
  const p = scaled.map(x => Math.exp(x - most));
  const others = other === null ? 0 : Math.exp(other - most);
  const total = p.reduce((a, b) => a + b, others);
  return {p: p.map(x => x / total), others: others / total};
}
const bar = (share, extra) =>
  h('div', {class: 'bar ' + (extra || ''), style: {width: 100 * share + '%'}});

function drawToken() {
  const i = state.token, e = D.expected[i];
  const title = h('h3', null, 'Token ' + i + ': ', word(at(i)),
    h('span', {class: 'muted'}, '  id ' + at(i)));
  if (!e) {
    fill($('token'), title, h('p', {class: 'muted'}, 'The first token: nothing stands before it, ' +
      'so nothing expected it.'));
    return;
  }
  const facts = [
    ['probability', percent(e.p)],
    ...(D.plain ? [['without the act', percent(D.plain.expected[i])]] : []),
    ['rank', e.rank.toLocaleString('en') + ' of ' + C.n_vocab.toLocaleString('en')],
    ['surprisal', fixed(e.surprisal, 4) + ' nats, ' + fixed(e.surprisal / Math.LN2, 4) + ' bits'],
    ['entropy', fixed(e.entropy, 4) + ' nats: as unsure as among ' +
      significant(Math.exp(e.entropy), 3) + ' equally likely'],
  ];
  const {p} = spread(i - 1, 10), before = D.next[i - 1].ids;
  const likelier = before.slice(0, Math.min(e.rank - 1, 8));
  fill($('token'), title,
    h('dl', {class: 'facts'}, facts.map(([name, value]) => [h('dt', null, name), h('dd', null, value)])),
    likelier.length
      ? [h('h3', null, 'Likelier were'), h('table', {class: 'bars'}, likelier.map((id, k) =>
        h('tr', null, h('td', {class: 'num muted'}, String(k + 1)), h('td', null, word(id)),
          h('td', null, bar(p[k])), h('td', {class: 'num'}, percent(p[k])))))]
      : h('p', {class: 'muted'}, 'No token was likelier: greedy writing would have written it.'));
}
view('token theme', drawToken);

/** The whole text in one card: how likely it is, and at which ranks its tokens stood. */
function drawWhole() {
  const known = D.expected.filter(Boolean), total = D.total;
  if (!known.length) { fill($('whole'), h('p', {class: 'muted'}, 'A text of one token has nothing that was expected.')); return; }
  const mean = total / known.length, counts = RANKS.map((_, k) => known.filter(e => bucket(e.rank) === k).length);
  fill($('whole'), h('h3', null, 'The whole text'),
    h('p', {class: 'small'}, fixed(total, 4) + ' nats over the ' + plural(known.length, 'token') + ' after the first: ' +
      fixed(mean, 4) + ' a token, perplexity ' + significant(Math.exp(mean), 4) + '. Ranks of the tokens:'),
    h('table', {class: 'bars'}, counts.map((count, k) => h('tr', null, h('td', {class: 'muted'}, RANKS[k][1]), h('td', {class: 'num'}, String(count)),
      h('td', null, h('div', {class: 'bar', style: {width: 100 * count / known.length + '%', background: css(warm(k / 4)),
        boxShadow: 'inset 0 0 0 1px var(--line)'}})), h('td', {class: 'num'}, Math.round(100 * count / known.length) + '%')))));
}
view('theme', drawWhole);

const heat = h('output', {class: 'num'});
const slider = h('input', {type: 'range', min: 0, max: 20, step: 1, value: 10, id: 'heat',
  'aria-label': 'temperature', oninput: () => choose({temperature: Number(slider.value)})});
const nextTitle = h('h3'), nextTable = h('table', {class: 'bars'}), nextNote = h('p', {class: 'small muted'});
fill($('next'), nextTitle, h('label', {class: 'slider'}, 'temperature ', slider, heat), nextTable, nextNote);
function drawNext() {
  const i = state.token, {ids, entropy} = D.next[i], {p, others} = spread(i, state.temperature);
  const written = i + 1 < T ? at(i + 1) : null;
  const shown = Math.min(20, ids.length);
  const left = others + p.slice(shown).reduce((a, b) => a + b, 0);
  heat.textContent = state.temperature ? TEMPERATURES[state.temperature - 1].toFixed(1) : '0: greedy';
  fill(nextTitle, 'After token ' + i + ' ', word(at(i)), h('span', {class: 'muted'},
    '  entropy ' + fixed(entropy, 4) + ' nats'));
  fill(nextTable,
    D.plain && h('tr', null, ['', '', '', 'acted', 'plain'].map(name => h('th', {class: 'num', tip: name === 'plain' ?
      () => 'the model without the act, at temperature 1' : null}, name))),
    ids.slice(0, shown).map((id, k) => h('tr', {class: id === written ? 'mine' : null,
      tip: () => [h('b', null, word(id)), '  id ' + id + '\nlogit ' + fixed(D.next[i].logits[k], 4) +
        '\nprobability ' + percent(p[k])]},
    h('td', {class: 'num muted'}, String(k + 1)), h('td', null, word(id)),
    h('td', null, bar(p[k])), h('td', {class: 'num'}, percent(p[k])),
    D.plain && h('td', {class: 'num muted'}, percent(D.plain.next[i][k])))),
    C.n_vocab > shown && h('tr', {class: 'rest'}, h('td'), h('td', {class: 'muted'},
      'all ' + (C.n_vocab - shown).toLocaleString('en') + ' others'),
    h('td', null, bar(left)), h('td', {class: 'num'}, percent(left))));
  nextNote.textContent = (written === null ? 'The text ends here. '
    : ids.slice(0, shown).includes(written) ? 'The marked one is what follows in the text. ' : '') +
    'Exact at every temperature on the slider: what the other tokens have together was computed for each.';
}
view('token temperature theme', drawNext);

// ---- The flow.

const F = D.flow, STAGES = Object.fromEntries(F.stages.map(stage => [stage.id, stage]));
const ATTENTION = ['ln_1', 'c_attn', 'split_heads', 'dots', 'scale', 'mask', 'softmax', 'mix',
  'merge_heads', 'attn_proj'];
const MLP = ['ln_2', 'c_fc', 'act', 'mlp_proj'];
const stageAt = (id, layer) => STAGES[id].at[STAGES[id].at.length === 1 ? 0 : layer];
/** The values that a stage made: those of its line, or what its call gave. */
function made(call, line) {
  const found = line ? F.calls[call].seen[line] : null;
  return found && found.length ? found : F.calls[call].outputs;
}
const PICTURES = [];
/** A small picture of a value: 128 is zero, orange below and blue above, nothing where masked. */
function picture(value) {
  const [index, rows, columns] = F.values[value][8];
  if (index === undefined) return null;
  const levels = PICTURES[index] || (PICTURES[index] = bytes(F.pictures[index]));
  const canvas = h('canvas', {class: 'pic', width: columns, height: rows, 'aria-hidden': 'true'});
  const context = canvas.getContext('2d'), image = context.createImageData(columns, rows);
  const words = new Uint32Array(image.data.buffer), colours = colourOf('signed', k => diverging((k - 128) / 127));
  levels.forEach((level, i) => { words[i] = level ? colours[level] : 0x3c808080; });
  context.putImageData(image, 0, 0);
  return canvas;
}
const range = value => significant(value[4], 4) + ' … ' + significant(value[5], 4);
function describe(index) {
  const v = F.values[index];
  if (v[9]) return v[0] + ' = ' + v[9];
  return [h('b', null, v[0]), '  ' + shape(v[2]) + ' ' + v[3] + (v[1] ? ', the parameter ' + v[1] : '') +
    '\nfrom ' + (v[4] === null ? '?' : range(v)) + (v[6] ? ', what is masked left out' : '') +
    (v[7] > 1 ? '\nmade ' + v[7] + ' times by this line; this is the last' : '') +
    (v[8].length ? '\nThe picture: each of its ' + v[8][1] + ' x ' + v[8][2] +
      ' cells is the number of largest size there, orange below zero, blue above, the strongest ±' +
      significant(v[8][3] || 0, 4) + '.' : '')];
}
function value(index) {
  const v = F.values[index];
  const text = v[9] ? v[9] : shape(v[2]) + (v[4] === null ? '' : '  ' + range(v));
  return h('span', {class: 'value', tip: () => describe(index)}, h('b', null, v[0]), ' ' + text, picture(index));
}
function step(id, kind) {
  const [call, line] = stageAt(id, state.layer), outputs = made(call, line), stage = STAGES[id];
  const first = outputs.find(one => F.values[one][8].length) ?? outputs[0];
  const v = first === undefined ? null : F.values[first];
  const chosen = state.call === call && state.line === line && state.stage === id;
  const axes = v && v[2].length ? shape(v[2]) : v ? v[9].slice(0, 8) : '';
  return h('button', {class: kind + (chosen ? ' on' : ''), 'aria-pressed': String(chosen), 'data-stage': id,
    tip: () => stage.about, onclick: () => choose({stage: id, call, line})},
  h('span', null, stage.label), h('span', {class: 'mono'}, axes), first === undefined ? null : picture(first));
}
/** What the lens says after a layer at the chosen token: how far the answer has come there. */
let saying = [];
function says(place) {
  const node = h('span', {class: 'muted'});
  saying.push([place, node]);
  return node;
}
function drawSays() {
  for (const [place, node] of saying) {
    fill(node, 'lens ', word(D.lens.best[place][state.token][0]), ' ' + percent(D.lens.p[place][state.token][0]));
  }
}
function openLayer(i) {
  const branch = (ids, add, extra) => h('div', {class: 'branch'}, ids.map(id => step(id, 'step')), extra,
    step(add, 'step'), h('span', {class: 'plus', 'aria-hidden': 'true'}, '+'));
  return h('div', {class: 'layer', role: 'group', 'aria-label': 'layer ' + i},
    h('p', null, h('span', null, 'h.' + i), says(i + 1)),
    branch(ATTENTION, 'attn_add', step('present', 'step out')),
    branch(MLP, 'mlp_add', null));
}
function drawStream() {
  saying = [];
  const focused = document.activeElement && document.activeElement.dataset.stage;
  const layers = Array.from({length: L}, (_, i) => (i === state.layer ? openLayer(i)
    : h('button', {class: 'stop' + (L > 16 ? ' slim' : ''), onclick: () => choose({layer: i}),
      tip: () => 'Open layer ' + i}, 'h.' + i, says(i + 1))));
  fill($('stream'), step('embed', 'stop'), layers, step('ln_f', 'stop'), step('logits', 'stop'));
  if (focused) {
    const again = $('stream').querySelector('[data-stage="' + focused + '"]');
    if (again) again.focus({preventScroll: true});
  }
}
view('layer stage call line theme', drawStream);
view('token layer stage call line theme', drawSays);

/** A line of Python with comments and strings set apart; enough for reading. */
function code(text) {
  const found = text.match(/^(.*?)(\s*#.*)?$/), parts = found[1].split(/("[^"]*")/);
  return [parts.map((part, i) => (i % 2 ? h('b', null, part) : part)), found[2] ? h('i', null, found[2]) : null];
}
function callers(index) {
  const found = [];
  for (let i = index, depth = F.calls[index].depth; i >= 0 && depth >= 0; i--) {
    if (F.calls[i].depth === depth) { found.unshift(i); depth--; }
  }
  return found;
}
function callees(index) {
  const found = [], depth = F.calls[index].depth;
  for (let i = index + 1; i < F.calls.length && F.calls[i].depth > depth; i++) {
    if (F.calls[i].depth === depth + 1) found.push(i);
  }
  return found;
}
function link(index) {
  const call = F.calls[index], owner = call.scope.split('.').pop();
  const name = F.sources[call.source].name;
  const more = call.scope && !/^\d+$/.test(owner) && owner !== name ? ' (' + owner + ')' : '';
  return h('button', {onclick: () => choose({call: index, line: 0, stage: '', layer: call.layer ?? state.layer})},
    name + more);
}
const between = (nodes, sign) => nodes.flatMap((node, i) => (i ? [sign, node] : [node]));
function drawPanel() {
  const call = F.calls[state.call], source = F.sources[call.source], stage = STAGES[state.stage];
  const outputs = made(state.call, state.line);
  const key = stage && stage.key.replace('{}', state.layer), hook = stage && stage.hook.replace('{}', state.layer);
  const inner = callees(state.call);
  fill($('panel'),
    h('p', {class: 'crumbs'}, between(callers(state.call).map(link), ' › ')),
    h('h3', null, stage ? stage.label : source.name, h('span', {class: 'muted'}, '  ' + (call.scope || 'the whole model'))),
    h('p', null, stage ? stage.about : source.about),
    h('div', {class: 'io'}, h('span', {class: 'muted'}, 'in'), h('div', null, call.inputs.map(value)),
      h('span', {class: 'muted'}, 'out'), h('div', null, outputs.map(value))),
    h('div', {class: 'source', tabindex: 0, role: 'group', 'aria-label': 'source of ' + source.name},
      source.lines.map(([number, text]) => h('div', {class: number === state.line ? 'here' : null},
        h('span', {class: 'no'}, String(number)), h('code', null, code(text)),
        call.seen[number] && h('span', {class: 'saw'}, call.seen[number].map(value))))),
    inner.length ? h('p', {class: 'crumbs'}, 'It calls ', between(inner.map(link), ', ')) : null,
    h('p', {class: 'small muted'}, source.name + ' of gpt2lab/reference.py, as it is installed, with the values of this text. ',
      key ? ['Its result is ', h('span', {class: 'mono'}, key), ' of a trace',
        hook ? [', ', h('span', {class: 'mono'}, hook), ' in TransformerLens'] : '', '. '] : null));
}
view('call line stage theme', () => {
  drawPanel();
  const here = $('panel').querySelector('.here');
  $('panel').scrollTop = here ? Math.max(0, here.offsetTop - $('panel').clientHeight / 2) : 0;
});
/** In another layer the same step stays open: every layer makes the same calls. */
view('layer', () => {
  const call = F.calls[state.call];
  if (call.layer === null || call.layer === state.layer) return;
  const moved = state.call - F.parts[call.layer] + F.parts[state.layer];
  choose({call: moved}, true);
});

// ---- Attention.

const MANY = H > 6; // then all heads stand above the chosen one, not beside it
const SIZE = MANY ? Math.max(24, Math.min(52, Math.floor(1240 / H) - 13)) : 72;
document.querySelector('.heads').classList.toggle('many', MANY);
const KINDS = [['previous', 'kp', 'the token before'], ['duplicate', 'kd', 'the same token, earlier'],
  ['induction', 'ki', 'the token after the same one, earlier']];
function thumbnail(layer, head) {
  const size = Math.min(T, 72), scale = T / size;
  const canvas = h('canvas', {width: size, height: size, 'aria-hidden': 'true'});
  canvas.draw = () => {
    const most = new Float64Array(size * size);
    const every = Math.max(1, Math.floor(scale / 2)); // of a long text, two rows a pixel
    for (let i = every - 1; i < T; i += every) {
      const shares = row(layer, head, i), line = Math.floor(i / scale) * size;
      for (let j = 0; j <= i; j++) {
        const place = line + Math.floor(j / scale);
        if (shares[j] > most[place]) most[place] = shares[j];
      }
    }
    const context = canvas.getContext('2d'), image = context.createImageData(size, size);
    const words = new Uint32Array(image.data.buffer), colours = levels256();
    most.forEach((p, k) => {
      if (k % size <= Math.floor(k / size)) words[k] = colours[Math.round(255 * Math.sqrt(p))];
    });
    context.putImageData(image, 0, 0);
  };
  return canvas;
}
const thumbs = Array.from({length: L}, (_, i) => Array.from({length: H}, (_, j) => {
  const scores = D.heads && KINDS.map(([kind, name, about]) => [name, D.heads[kind][i][j], about]);
  const marks = scores ? scores.map(([name, score], k) => score >= 0.05 && h('s', {class: name, style: {
    height: Math.round(score * (SIZE - 2)) + 'px', right: 2 + 5 * k + 'px'}})).filter(Boolean) : [];
  return h('button', {class: 'thumb', 'aria-label': 'layer ' + i + ', head ' + j,
    onclick: () => choose({layer: i, head: j}), tip: () => ['Layer ' + i + ', head ' + j, scores &&
      '\non random tokens it looks at' + scores.map(([, score, about]) => '\n' + about + ': ' +
        percent(score)).join('')].filter(Boolean)}, thumbnail(i, j), marks);
}));
$('grid').style.setProperty('--size', SIZE + 'px');
$('grid').style.gridTemplateColumns = 'repeat(' + (H + 1) + ', auto)';
fill($('grid'), h('span'), Array.from({length: H}, (_, j) => h('span', null, String(j))),
  thumbs.map((line, i) => [h('span', null, String(i)), line]));
roving($('grid'), (i, j) => thumbs[i][j], () => [state.layer, state.head], L, H,
  (layer, head) => choose({layer, head}));
view('theme', () => thumbs.flat().forEach(node => node.firstChild.draw()));
const markHead = marker(thumbs.flat());
view('layer head', () => markHead(thumbs[state.layer][state.head]));
fill($('marks'), D.heads ? [KINDS.map(([, name, about]) => [h('span', {class: name}), about]),
  '. The small bars at the right of a picture: how much of its attention a head gives there, on ' + D.heads.length +
  ' random tokens that come twice; the model then needs ' + fixed(D.heads.losses[1], 2) + ' nats a token instead of ' +
  fixed(D.heads.losses[0], 2) + '.'] : null);

// The canvas is as large as what is seen of the box, stays where it is, and draws the part that was
// scrolled to: so the names stay beside their rows, and a long text takes no larger a picture.
const canvas = h('canvas', {tabindex: 0, role: 'img', tip: pointed,
  onclick: event => { const place = cellOf(event); if (place) choose({token: place[0]}); },
  onmouseleave: () => choose({look: null}, true)});
const field = h('div', {class: 'field'}, canvas), box = $('matrix');
fill(box, field);
const M = {};
/** How large the cells are, and how much room the names need. */
function measure() {
  const context = canvas.getContext('2d');
  context.font = FONT();
  const widest = Math.max(...D.tokens.map(id => context.measureText(plain(id)).width));
  M.label = Math.min(96, Math.ceil(widest) + 10);
  M.cell = Math.max(3, Math.min(26, Math.floor((Math.max(240, box.clientWidth) - M.label - 4) / T)));
  M.every = Math.ceil(12 / M.cell); // of so many names one is written
  M.size = M.label + M.cell * T + 3;
  field.style.width = field.style.height = M.size + 'px';
  M.width = Math.min(M.size, box.clientWidth);
  M.height = Math.min(M.size, box.clientHeight);
  canvas.style.width = M.width + 'px';
  canvas.style.height = M.height + 'px';
}
const FONT = () => '11px ' + getComputedStyle(document.documentElement).getPropertyValue('--mono');
/** The pattern of one head, a pixel a cell; kept until another head or theme is chosen. */
let pattern = {};
function patternOf(layer, head) {
  const name = [layer, head, dark.matches].join();
  if (pattern.name === name) return pattern.canvas;
  const drawn = h('canvas', {width: T, height: T}), context = drawn.getContext('2d');
  const image = context.createImageData(T, T);
  const words = new Uint32Array(image.data.buffer), colours = levels256();
  for (let i = 0; i < T; i++) {
    const shares = row(layer, head, i);
    for (let j = 0; j <= i; j++) words[i * T + j] = colours[Math.round(255 * shares[j])];
  }
  context.putImageData(image, 0, 0);
  pattern = {name, canvas: drawn};
  return drawn;
}
/** Scroll until the row of the chosen token and the source that it looks at most are seen. */
function follow() {
  const shares = row(state.layer, state.head, state.token), best = shares.indexOf(Math.max(...shares));
  for (const [side, size, cell] of [['scrollLeft', M.width, best], ['scrollTop', M.height, state.token]]) {
    const seen = (size - M.label) / M.cell, first = box[side] / M.cell;
    if (cell < first || cell >= first + seen - 1) box[side] = (cell - seen / 2) * M.cell;
  }
}
function drawMatrix() {
  const ratio = window.devicePixelRatio || 1, left = box.scrollLeft, top = box.scrollTop;
  canvas.width = Math.round(M.width * ratio);
  canvas.height = Math.round(M.height * ratio);
  const context = canvas.getContext('2d'), style = getComputedStyle(document.documentElement);
  const strong = style.getPropertyValue('--ink'), faint = style.getPropertyValue('--muted');
  const looker = state.look === null ? state.token : state.look, shares = row(state.layer, state.head, looker);
  const best = shares.indexOf(Math.max(...shares)), side = M.cell * T;
  context.scale(ratio, ratio);
  context.font = FONT();
  context.textBaseline = 'middle';
  context.save();
  context.beginPath();
  context.rect(M.label - 2, M.label - 2, M.width - M.label + 2, M.height - M.label + 2);
  context.clip(); // no cell under the names
  context.translate(M.label - left, M.label - top);
  context.imageSmoothingEnabled = false;
  context.drawImage(patternOf(state.layer, state.head), 0, 0, side, side);
  if (M.cell >= 8) { // lines between the cells
    context.fillStyle = style.getPropertyValue('--paper');
    for (let i = 1; i <= T; i++) {
      context.fillRect(0, i * M.cell - 1, side, 1);
      context.fillRect(i * M.cell - 1, 0, 1, side);
    }
  }
  context.strokeStyle = style.getPropertyValue('--ring');
  context.lineWidth = 2;
  context.strokeRect(-1, looker * M.cell - 1, (looker + 1) * M.cell + 1, M.cell + 1);
  context.restore();
  const named = (i, always) => i === always || (i % M.every === 0 && Math.abs(i - always) >= M.every);
  for (let i = 0; i < T; i++) {
    const y = M.label + (i + 0.5) * M.cell - top, x = M.label + (i + 0.5) * M.cell - left;
    if (named(i, looker) && y > M.label && y < M.height) {
      context.fillStyle = i === looker ? strong : faint;
      context.textAlign = 'right';
      context.fillText(clipped(context, plain(at(i))), M.label - 6, y);
    }
    if (named(i, best) && x > M.label && x < M.width) {
      context.save();
      context.translate(x, M.label - 6);
      context.rotate(-Math.PI / 2);
      context.textAlign = 'left';
      context.fillStyle = (shares[i] || 0) > 0.08 ? strong : faint;
      context.fillText(clipped(context, plain(at(i))), 0, 0);
      context.restore();
    }
  }
  canvas.setAttribute('aria-label', 'Layer ' + state.layer + ', head ' + state.head + ': token ' + looker + ' ' +
    plain(at(looker)) + ' looks most at token ' + best + ' ' + plain(at(best)) + ', ' + percent(shares[best]));
  fill($('headname'), 'Layer ' + state.layer + ', head ' + state.head,
    h('span', {class: 'muted'}, '  0% ', h('span', {class: 'legend', style: {display: 'inline-flex', gap: 0}},
      swatches(blue, 0)), ' 100%'));
}
function clipped(context, text) {
  let shown = text;
  while (shown.length > 1 && context.measureText(shown).width > M.label - 8) {
    shown = Array.from(shown).slice(0, -1).join('');
  }
  return shown.length < text.length ? Array.from(shown).slice(0, -1).join('') + '…' : text;
}
function cellOf(event) {
  const here = canvas.getBoundingClientRect();
  const x = event.clientX - here.left - M.label, y = event.clientY - here.top - M.label;
  const j = x < 0 ? -1 : Math.floor((x + box.scrollLeft) / M.cell), i = Math.floor((y + box.scrollTop) / M.cell);
  return y >= 0 && i < T && j < T ? [i, j] : null;
}
function pointed(event) {
  const place = cellOf(event);
  choose({look: place ? place[0] : null}, true);
  if (!place || place[1] < 0) return null;
  const [i, j] = place;
  const who = [h('b', null, word(at(i))), ' (' + i + ') ', j > i ? 'cannot see' : 'looks at', ' ', h('b', null, word(at(j))),
    ' (' + j + ')'];
  if (j > i) return [...who, ': it comes later'];
  const scaled = score(state.layer, state.head, i, j);
  return [...who, ': ' + percent(row(state.layer, state.head, i)[j]) + '\nq·k ' +
    significant(scaled / D.attention.scale[state.layer], 4) + ', scaled ' + significant(scaled, 4)];
}
canvas.addEventListener('keydown', event => {
  const by = {ArrowUp: -1, ArrowDown: 1}[event.key];
  if (!by || event.shiftKey) return;
  event.preventDefault();
  move('token', by);
});
view('size', measure);
view('token layer head size', () => afterwards.add(follow));
view('token layer head look theme size', () => afterwards.add(drawMatrix));
box.addEventListener('scroll', drawMatrix);

const SUMROWS = 60; // a table of 500 sources takes longer to lay out than a key press should
/** The arithmetic of the chosen token's look back, source by source. */
function drawSums() {
  const i = state.token, {layer, head} = state, scale = D.attention.scale[layer];
  const shares = row(layer, head, i);
  const scores = Array.from(shares, (_, j) => score(layer, head, i, j)), most = Math.max(...scores);
  const rows = scores.map((x, j) => ({j, x, p: shares[j], e: Math.exp(x - most)}));
  const total = rows.reduce((sum, one) => sum + one.e, 0);
  if (state.order === 'share') rows.sort((a, b) => b.p - a.p);
  const rest = state.order === 'share' ? rows.splice(SUMROWS) : rows.splice(0, Math.max(0, rows.length - SUMROWS));
  fill($('sumname'), 'Where ', word(at(i)), ' looks, written out');
  const head1 = ['source', 'q·k', '× scale', 'exp(x − max)', 'softmax'];
  fill(sumTable, h('thead', null, h('tr', null, head1.map((name, k) => h('th', {class: k ? 'num' : null}, name)))),
    h('tbody', null, rows.map(({j, p, x, e}) => h('tr', {class: j === i ? 'mine' : null},
      h('td', null, h('span', {class: 'muted'}, j + ' '), word(at(j))), h('td', {class: 'num'}, fixed(x / scale, 3)),
      h('td', {class: 'num'}, fixed(x, 3)), h('td', {class: 'num'}, significant(e, 4)),
      h('td', {class: 'num'}, h('span', {class: 'bar', style: {width: Math.round(40 * p) + 'px'}}),
        (100 * p).toFixed(2) + '%')))));
  const left = rest.length ? plural(rest.length, state.order === 'share' ? 'weaker source' : 'earlier source') +
    ' not listed: ' + (100 * rest.reduce((sum, one) => sum + one.p, 0)).toFixed(2) + '%. ' : '';
  fill(sumNote, left, 'Scale ' + significant(scale, 4) + ', largest ' + fixed(most, 3) + '; the ' + plural(i + 1, 'exponential') +
    ' sum' + (i ? '' : 's') + ' to ' + significant(total, 5) + '. ',
  i + 1 < T ? 'The mask gives the ' + plural(T - i - 1, 'later token') + ' a score of −1e10, whose exponential is 0.' : '');
}
const sumTable = h('table'), sumNote = h('p', {class: 'small muted'}), sumOrder = h('div', {class: 'small'});
fill($('sums'), sumOrder, h('div', {class: 'sumtable', tabindex: 0, role: 'group', 'aria-label': 'the arithmetic'}, sumTable), sumNote);
choices(sumOrder, 'order', 'order of the sources', [['place', 'in order'], ['share', 'strongest first']]);
view('token layer head order theme', drawSums);

// ---- The logit lens.

const N = D.lens.keys.length, X = D.lens;
const short = key => key.replace('resid_', '');
const LENS = {
  probability: (n, i) => blue(X.p[n][i][0]),
  entropy: (n, i) => warm(X.entropy[n][i] / Math.log(C.n_vocab)),
  rank: (n, i) => blue(1 - bucket(X.target_rank[n][i]) / 4),
  kl: (n, i) => warm(X.kl[n][i] / 10),
};
const LENSLEGENDS = {
  probability: () => ['0%', swatches(blue, 0), '100% for the likeliest token'],
  entropy: () => ['0', swatches(warm, 0), fixed(Math.log(C.n_vocab), 1) + ' nats of entropy'],
  rank: () => [RANKS.map(([, name], i) => [h('span', {style: {background: css(blue(1 - i / 4))}}), name]),
    ': rank of what follows'],
  kl: () => ['0', swatches(warm, 0), '10 nats or more from the final distribution (KL)'],
};
const cells = X.best.map((line, n) => line.map((best, i) => h('button', {class: 'cell', tip: () => lensTold(n, i),
  onclick: () => pin(n, i)}, word(best[0]))));
function pin(n, i) { choose({token: i, layer: Math.max(n - 1, 0), pinned: X.best[n][i][0]}); }
function lensTold(n, i) {
  return [X.keys[n] + ' at token ' + i + ' ', h('b', null, word(at(i))), X.best[n][i].map((id, k) =>
    ['\n' + percent(X.p[n][i][k]).padEnd(9) + ' ', word(id)]), '\n' + (i + 1 < T ? 'what follows, ' : 'the likeliest, '),
  h('b', null, word(X.targets[i])), ': ' + percent(X.target_p[n][i]) + ', rank ' + X.target_rank[n][i].toLocaleString('en') +
    '\nentropy ' + fixed(X.entropy[n][i], 3) + ', KL to the final ' + fixed(X.kl[n][i], 3) + ' nats'];
}
const lensHeads = D.tokens.map(id => h('th', {scope: 'col'}, word(id)));
const lensSides = X.keys.map((key, n) => h('th', {scope: 'row', tip: () => [n ? 'After layer ' + (n - 1) : 'Before layer 0', ': ' + key]}, short(key)));
const lensFeet = X.targets.map((id, i) => h('th', {tip: () => (i + 1 < T ? 'the token that follows' : 'the likeliest') +
  '; the lens says the final token from ' + short(X.keys[X.depths[i]]) + ' on'}, word(id)));
fill($('lenstable'), h('thead', null, h('tr', null, h('th'), lensHeads)),
  h('tbody', null, cells.map((line, n) => h('tr', null, lensSides[n], line.map(cell => h('td', null, cell))))),
  h('tfoot', null, h('tr', null, h('th', null, 'follows'), lensFeet)));
roving($('lenstable'), (n, i) => cells[n][i], () => [state.layer + 1, state.token], N, T, pin);
choices($('lensmodes'), 'lens', 'colour of the lens', [['probability', 'probability'], ['entropy', 'entropy'],
  ['rank', 'rank of what follows'], ['kl', 'distance']]);
view('lens theme', () => {
  cells.forEach((line, n) => line.forEach((cell, i) => paint(cell, LENS[state.lens](n, i))));
  fill($('lenslegend'), LENSLEGENDS[state.lens]());
});
const markCell = marker(cells.flat()), revealCell = () => reveal(cells[state.layer + 1][state.token]);
let hit = [];
view('token layer', () => {
  markCell(cells[state.layer + 1][state.token]);
  hit.forEach(node => node.classList.remove('hit'));
  hit = [lensHeads[state.token], lensFeet[state.token], lensSides[state.layer + 1]];
  hit.forEach(node => node.classList.add('hit'));
  afterwards.add(revealCell);
});
let pins = [], curveWidth = 0;
function drawCurve() {
  const {ids, p} = X.pinned[state.token];
  const wanted = ids.includes(state.pinned) ? state.pinned : X.targets[state.token];
  pins.forEach(cell => cell.classList.remove('pin'));
  pins = cells.map(line => line[state.token]).filter((_, n) => X.best[n][state.token][0] === wanted);
  pins.forEach(cell => cell.classList.add('pin'));
  const k = ids.indexOf(wanted);
  const width = Math.max(300, curveWidth), narrow = width < 560; // then the name stands above
  const height = 250, left = 54, top = 24, foot = 30;
  const right = narrow ? 14 : 90 + Math.min(24, plain(wanted).length) * 8;
  const least = 1e-8, log = state.axis === 'log';
  const x = n => left + (N > 1 ? n / (N - 1) : 0.5) * (width - left - right);
  const share = q => (log ? 1 + Math.log10(Math.max(q, least)) / 8 : q);
  const y = q => top + (1 - share(q)) * (height - top - foot);
  const path = m => p.map((line, n) => (n ? 'L' : 'M') + x(n).toFixed(1) + ' ' + y(line[m]).toFixed(1)).join('');
  const ticks = log ? [1, 1e-2, 1e-4, 1e-6, 1e-8] : [0, 0.25, 0.5, 0.75, 1];
  const every = Math.ceil(N / ((width - left - right) / 50));
  const lines = ids.map((_, m) => m).sort((a, b) => (a === k) - (b === k));
  const svg = s('svg', {viewBox: '0 0 ' + width + ' ' + height, role: 'img', 'aria-label': 'Probability of ' + plain(wanted) +
    ' after each layer: ' + p.map(line => percent(line[k])).join(', ')},
  ticks.map(q => [s('line', {class: 'axis', x1: left, x2: width - right, y1: y(q), y2: y(q)}),
    s('text', {x: left - 8, y: y(q) + 4, 'text-anchor': 'end'}, log ? (q === 1 ? '1' : '10' + raised(Math.log10(q))) : 100 * q + '%')]),
  X.keys.map((key, n) => (n % every === 0 || n === N - 1) && s('text', {x: x(n), y: height - 8, 'text-anchor': 'middle'},
    n ? 'h.' + (n - 1) : 'in')).filter(Boolean),
  lines.map(m => s('path', {class: m === k ? 'curve pinned' : 'curve', d: path(m)})),
  narrow ? [] : ends(lines.filter(m => m !== k).map(m => [y(p[N - 1][m]), plain(ids[m])]), y(p[N - 1][k]), top, height - foot)
    .map(([place, name]) => s('text', {x: x(N - 1) + 12, y: place + 4}, name)),
  p.map((line, n) => s('circle', {cx: x(n), cy: y(line[k]), r: 4, tip: () => [X.keys[n] + '\n', word(wanted), ' ' + percent(line[k])]})),
  s('text', {class: 'pinnedtext', x: x(N - 1) + (narrow ? 6 : 12), y: Math.min(y(p[N - 1][k]) + (narrow ? -9 : 4), height - foot),
    'text-anchor': narrow ? 'end' : 'start'}, plain(wanted) + ' ' + percent(p[N - 1][k])));
  fill(curveTitle, 'After token ' + state.token + ' ', word(at(state.token)), ': the probability of ', word(wanted), ' from layer to layer');
  fill(curveChips, ids.map((id, m) => [id, p[N - 1][m]]).sort((a, b) => b[1] - a[1]).map(([id]) =>
    h('button', {'aria-pressed': String(id === wanted), onclick: () => choose({pinned: id})}, word(id))));
  fill(curveBox, svg);
}
/** Where names at the ends of lines go, so that none lies on another: [place, name], as many as fit. */
function ends(wanted, taken, low, high) {
  const places = [taken], found = [];
  for (const [y, name] of wanted) {
    const free = Array.from({length: 40}, (_, k) => y + (k % 2 ? -1 : 1) * 7 * Math.ceil(k / 2))
      .find(at => at >= low && at <= high && places.every(other => Math.abs(other - at) >= 13));
    if (free !== undefined) { places.push(free); found.push([free, name]); }
  }
  return found;
}
const raised = power => String(power).replace(/[-\d]/g, c => (c === '-' ? '⁻' : '⁰¹²³⁴⁵⁶⁷⁸⁹'[c]));
const curveTitle = h('h3', {style: {margin: 0}}), curveChips = h('div', {class: 'chips'}), curveBox = h('div'), curveAxis = h('div');
fill($('curve'), h('div', {class: 'head'}, curveTitle, curveAxis), curveChips, curveBox,
  h('p', {class: 'small muted'}, 'The lines are exact. Shown: the token that follows, and each token that is first at some layer.'));
choices(curveAxis, 'axis', 'scale of the curve', [['linear', 'linear'], ['log', 'logarithmic']]);
view('size', () => { curveWidth = curveBox.clientWidth; });
view('token pinned axis theme size', drawCurve);

// ---- What adds to the logit.

const A = D.attribution, PLACES = Object.fromEntries(A.labels.map((label, i) => [label, i]));
function shares() {
  const best = A.likeliest[state.token], next = A.follows[state.token];
  if (state.target === 'likeliest' || !next) return {...best, name: [word(best.token)]};
  if (state.target === 'follows') return {...next, name: [word(next.token)]};
  return {logit: best.logit - next.logit, values: best.values.map((x, i) => x - next.values[i]),
    name: [word(best.token), ' over ', word(next.token)]};
}
function ofLayer(values, i) {
  const heads = Array.from({length: H}, (_, j) => values[PLACES['h.' + i + '.head.' + j]]);
  const bias = values[PLACES['h.' + i + '.attn.c_proj.bias']], mlp = values[PLACES['h.' + i + '.mlp_out']];
  return {heads, bias, mlp, attention: heads.reduce((a, b) => a + b, bias)};
}
function side(value, most) {
  const part = h('div', {class: 'bar' + (value < 0 ? ' minus' : ''), style: {width: 100 * Math.abs(value) / most + '%'}});
  return h('div', {class: 'sides'}, h('div', null, value < 0 ? part : ''), h('div', null, value < 0 ? '' : part));
}
function drawParts() {
  const {logit, values, name} = shares(), layers = Array.from({length: L}, (_, i) => ofLayer(values, i));
  const ends = label => [label, values[PLACES[label]], null];
  const rows = [ends('embed'), ends('pos_embed'), ...layers.flatMap((one, i) => [
    ['h.' + i + ' attention', one.attention, i], ['h.' + i + ' MLP', one.mlp, i]]), ends('ln_f.bias'),
  ...('acts' in PLACES ? [ends('acts')] : [])];
  const most = Math.max(1e-9, ...rows.map(one => Math.abs(one[1])));
  const total = values.reduce((a, b) => a + b, 0);
  const best = A.likeliest[state.token], next = A.follows[state.token];
  const note = state.target === 'likeliest' ? '' : !next ? 'The text ends here, so the likeliest token is told. '
    : next.token === best.token ? 'Here the likeliest token is the one that follows. ' : '';
  fill($('sum'), note, 'At token ' + state.token + ' ', word(at(state.token)), ', towards ', name, ': the parts sum to ' + fixed(total, 4) +
    ', the logit is ' + fixed(logit, 4) + (state.target === 'over' && next ? ' more' : '') + '. ',
  h('span', {class: 'muted'}, 'What differs in the last decimal is rounding.'));
  fill($('bylayer'), h('h3', null, 'By layer'), h('table', {class: 'diverging'}, rows.map(([label, x, layer]) =>
    h('tr', {class: layer === state.layer ? 'lit' : null}, h('td', null, label), h('td', null, side(x, most)),
      h('td', {class: 'num'}, signed(x))))));
  drawHeads(layers);
}
let parts = [];
function drawHeads(layers) {
  const table = layers.map(one => [...one.heads, one.bias, one.mlp]);
  const most = Math.max(1e-9, ...table.flat().map(Math.abs));
  const names = [...Array.from({length: H}, (_, j) => String(j)), 'bias', 'MLP'];
  parts = table.map((line, i) => line.map((x, j) => {
    const what = j < H ? 'head ' + j : names[j];
    const node = h('button', {class: 'part', 'aria-label': 'layer ' + i + ', ' + what + ': ' + signed(x), tip: () => 'Layer ' + i + ', ' + what + ': ' + signed(x),
      onclick: () => choose(j < H ? {layer: i, head: j} : {layer: i})}, fixed(x, 2));
    paint(node, diverging(x / most));
    mark(node, i === state.layer && j === state.head);
    return node;
  }));
  $('byhead').style.setProperty('--part', MANY ? '37px' : '42px');
  fill($('byhead'), h('h3', null, 'By head ', h('span', {class: 'muted'}, 'layers down, heads across')),
    h('div', {class: 'scroll'}, h('table', null, h('tr', null, h('th'), names.map(name => h('th', null, name))),
      parts.map((line, i) => h('tr', null, h('th', null, String(i)), line.map(node => h('td', null, node)))))),
    h('p', {class: 'legend', style: {marginTop: '10px'}}, fixed(-most, 2), swatches(diverging, -1), fixed(most, 2)));
}
roving($('byhead'), (i, j) => parts[i][j], () => [state.layer, state.head], L, H, (layer, head) => choose({layer, head}));
choices($('targets'), 'target', 'which logit', [['likeliest', 'the likeliest token'], ['follows', 'the token that follows'],
  ['over', 'likeliest over follows']]);
view('token target layer head theme', drawParts);

// ---- The rest of the page.

$('name').textContent = D.model.name;
if (D.model.acts.length) {
  $('acts').hidden = false;
  $('acts').textContent = 'Changed model: ' + D.model.acts.join('; ') + '. The plain model’s numbers stand beside.';
}
$('about').textContent = [plural(T, 'token'), plural(L, 'layer'), plural(H, 'head') + ' of ' + D.model.head_width, C.n_embd + ' wide',
  'vocabulary ' + C.n_vocab.toLocaleString('en'), 'window ' + C.n_ctx.toLocaleString('en'),
  plural(D.model.parameters, 'parameter'), (D.model.tied ? 'tied' : 'own') + ' head', D.model.dtype].join(' · ') +
  (D.model.text ? '' : ' · no tokenizer: ids are shown');
fill($('notes'),
  h('p', null, h('b', null, 'Keys. '), h('kbd', null, '←'), ' ', h('kbd', null, '→'), ' token, ', h('kbd', null, 'Shift'), ' with ',
    h('kbd', null, '↑'), ' ', h('kbd', null, '↓'), ' layer, with ', h('kbd', null, '←'), ' ', h('kbd', null, '→'),
    ' head; in a table all four arrows move. The address of the page remembers what is chosen.'),
  h('p', null, h('b', null, 'Numbers. '), 'All were computed from this model’s weights by gpt2lab’s reference in ' + D.model.dtype +
    ' and are in this file. Probabilities have four digits, logits four decimals, what adds to them six. ' + (EXACT ?
    'Scaled scores are here as they are, in 32 bits' : 'Queries and keys are here in 12 bits, and scores are their products, to about a thousandth') +
    '; this page makes the patterns of them. Logarithms are natural: 1 nat is 1.44 bits.'),
  h('p', null, h('b', null, 'After. '), 'Logit lens: nostalgebraist 2020. Shares of a logit: Elhage et al. 2021. Scores of heads: Olsson et al. 2022. ' +
    'Ranks as colours: GLTR, Gehrmann et al. 2019.'));

/** The head that adds most to the logit of the likeliest token after the text. */
function first() {
  const values = A.likeliest[T - 1].values, best = {value: -Infinity};
  for (let layer = 0; layer < L; layer++) {
    for (let head = 0; head < H; head++) {
      const value = values[PLACES['h.' + layer + '.head.' + head]];
      if (value > best.value) Object.assign(best, {value, layer, head});
    }
  }
  return {layer: best.layer, head: best.head};
}
Object.assign(state, first(), recall());
[state.call, state.line] = stageAt(state.stage, state.layer);
const drawn = new Set();
for (const one of views) if (!drawn.has(one.draw)) { drawn.add(one.draw); one.draw(); }
settle();
dark.addEventListener('change', () => choose({theme: dark.matches}, true));
window.addEventListener('hashchange', () => choose(recall(), true));
let waiting = 0;
window.addEventListener('resize', () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => choose({size: innerWidth + ' ' + innerHeight}, true), 120);
});
/** Links to sections end below the bar, however high it is. */
function clear() { document.documentElement.style.scrollPaddingTop = $('bar').offsetHeight + 8 + 'px'; }
view('size', clear);
clear();
const wish = new URLSearchParams(location.hash.slice(1)).get('section') || location.hash.slice(1);
if (/^(expected|flow|attention|lens|parts)$/.test(wish)) visit(wish);
})();
