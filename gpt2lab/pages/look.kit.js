// The look inside, drawn: one state (a token, a layer, a head, ...), and views that follow it.
// Text from the model is only ever set as text, never read as HTML.

/** The page's data: JSON, compressed where the text is long; in a frame, a message of its page. */
async function data() {
  const node = document.getElementById('data');
  if (!node) return new Promise(done => window.addEventListener('message', event => {
    if (event.source === window.parent && event.origin === location.origin) done(event.data);
  }));
  if (node.type === 'application/json') return JSON.parse(node.textContent);
  const packed = Uint8Array.from(atob(node.textContent), one => one.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  return JSON.parse(await new Response(stream).text());
}
const D = await data();
const C = D.model.config, T = D.tokens.length, L = C.n_layer, H = C.n_head;
const SCALES = D.palette;

// ---- Words.

const runs = id => D.words[id] || ['[' + id + ']'];
const plain = id => runs(id).join('');
/** A token as an element: what cannot be seen stands as a faint sign. */
const word = id =>
  h('bdi', {class: 't'}, runs(id).map((run, i) => (i % 2 ? h('i', null, run) : run)));
const at = i => D.tokens[i];

// ---- Packed numbers.

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
