// The look inside, drawn: one state (a token, a layer, a head, ...), and views that follow it.
// Text from the model is only ever set as text, never read as HTML.

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

const SCALES = D.palette;
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
