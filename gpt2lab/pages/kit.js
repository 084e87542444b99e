// What every page draws with: elements, numbers, colours and the box beside the pointer.
// Text from the model is only ever set as text, never read as HTML. SCALES comes from palette.py.

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

// ---- Numbers.

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
