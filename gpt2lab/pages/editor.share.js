// Ways out of the page: copy as a command, Python or curl; a link; files in and out; the documents.

import {$, h, fill} from './kit.js';
import {app, t, say, chooseModel} from './editor.state.js';
import * as doc from './editor.document.js';
import * as store from './editor.store.js';
import {asked, cursor} from './editor.write.js';

// ---- The same letters elsewhere.

/** A text as one word of a POSIX shell. */
export const shell = text => "'" + text.replace(/'/g, "'\\''") + "'";
/** A value as a literal of Python: JSON is one, but for its three names and escapes of half characters. */
function python(value) {
  if (typeof value === 'string') return JSON.stringify(value).replace(/\u007f/g, '\\x7f');
  if (Array.isArray(value)) return '[' + value.map(python).join(', ') + ']';
  if (value && typeof value === 'object') return '{' + Object.entries(value).map(([id, x]) => Number(id) + ': ' + python(x)).join(', ') + '}';
  return String(value);
}
/** The text up to the cursor and the settings as a command, a program and a request. */
export function copies(prompt, settings, model) {
  const {logit_bias: bias = {}, bad_words: words = [], n, ...plain} = settings;
  const source = model.id === 'fable' ? '' : model.id; // the bundled model needs no name
  const load = source && python(source);
  const banned = words.map(one => [one[0], '-inf']); // the command takes ids there, and bad words as text
  const flags = [...Object.entries(plain).map(([name, value]) => '--' + name.replaceAll('_', '-') + ' ' + value), '-n ' + n,
    ...[...Object.entries(bias), ...banned].map(([id, value]) => '--logit-bias ' + id + '=' + value)];
  const named = Object.entries(settings).map(([name, value]) => name + '=' + python(value));
  const {max_new_tokens: most, ...rest} = settings, base = new URL('.', app.backend.address.href).href;
  return {
    shell: ['gpt2lab generate', source && '-m ' + shell(source), ...flags, prompt ? '-- ' + shell(prompt) : '--unconditional'].filter(Boolean).join(' '),
    python: 'import gpt2lab\n\nlm = gpt2lab.load(' + load + ')\nprint(lm.generate(' + python(prompt) + ', ' + named.join(', ') + '))\n',
    curl: 'curl -s ' + base + "v1/completions -H 'Content-Type: application/json' -d " +
      shell(JSON.stringify({model: model.id, prompt, max_tokens: most, ...rest})),
  };
}
function drawCopies() {
  const ways = copies(doc.text().slice(0, cursor()), asked(), app.model);
  fill($('copymenu'), Object.entries(ways).map(([name, text]) => h('button', {class: 'plain',
    onclick: () => copy(text)}, t('copy_' + name))), h('button', {class: 'plain', onclick: link}, t('copyLink')));
}
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say(t('copied'));
  } catch { fill($('copymenu'), h('textarea', {class: 'fallback', readonly: true, rows: 6, 'aria-label': t('copyAs')}, text)); return; }
  $('copies').open = false;
}

// ---- A link: what is needed for the same page elsewhere, packed into the fragment.

async function through(data, stream) {
  return new Uint8Array(await new Response(new Blob([data]).stream().pipeThrough(stream)).arrayBuffer());
}
const letters = raw => btoa(Array.from(raw, one => String.fromCharCode(one)).join('')).replace(/\+/g, '-').replace(/\//g, '_').replace(/=/g, '');
export async function packed() {
  const what = {text: doc.text(), cursor: cursor(), settings: asked(), model: app.model.id};
  return letters(await through(new TextEncoder().encode(JSON.stringify(what)), new CompressionStream('deflate-raw')));
}
async function link() {
  const target = new URL(location.href);
  target.hash = 'share=' + await packed();
  copy(target.href);
}
/** The document that the address carries; null for none. */
export async function shared() {
  const text = new URLSearchParams(location.hash.slice(1)).get('share');
  if (!text) return null;
  history.replaceState(null, '', location.pathname + location.search);
  try {
    const raw = Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), one => one.charCodeAt(0));
    const found = JSON.parse(new TextDecoder().decode(await through(raw, new DecompressionStream('deflate-raw'))));
    const made = {...doc.blank(String(found.text)), model: String(found.model)};
    made.settings = {...made.settings, ...store.fromJson(JSON.stringify({format: 'gpt2lab-editor', version: 1, tree: made.tree, settings: found.settings})).settings};
    return made;
  } catch { say(t('badLink'), true); return null; }
}

// ---- Files and documents.

const FILES = {
  json: ['.json', 'application/json', () => store.toJson(doc.open)],
  openloom: ['.openloom.json', 'application/json', () => store.toOpenLoom(doc.open)],
  txt: ['.txt', 'text/plain', () => doc.text()],
  md: ['.md', 'text/markdown', () => store.toMarkdown(doc.open)],
};
function drawFiles() {
  const name = (store.titleOf(doc.open).replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-|-$/g, '') || 'text').slice(0, 40);
  const input = h('input', {type: 'file', accept: '.json,.txt,.md', id: 'import', class: 'hide', onchange: () => read(input.files[0])});
  fill($('filemenu'), h('button', {class: 'plain', onclick: fresh}, t('newDocument')),
    h('label', {for: 'import', class: 'plain file'}, t('openFile')), input,
    Object.entries(FILES).map(([kind, [end, type, make]]) => h('button', {class: 'plain', onclick: () => store.download(name + end, make(), type + ';charset=utf-8')}, t('save_' + kind))),
    h('button', {class: 'plain', onclick: remove}, t('deleteDocument')));
}
async function read(file) {
  try {
    const text = await file.text();
    const made = /\.json$/i.test(file.name) ? {...store.fromJson(text), id: store.identity()} : doc.blank(text);
    doc.save();
    await store.claim(made.id);
    doc.show(made);
    chooseModel(made.model);
    doc.save();
    say(t('opened', file.name));
  } catch (error) { say(t('cannotOpen', file.name, error.message), true); }
  $('files').open = false;
}
function fresh() {
  doc.save();
  const made = doc.blank();
  store.claim(made.id);
  doc.show(made);
  $('files').open = false;
  $('area').focus();
}
let removed = null;
function remove() {
  removed = doc.open;
  store.remove(removed.id);
  fresh();
  store.remove(removed.id);
  say(t('deleted'));
  drawDocuments();
  $('status').append(' ', h('button', {class: 'plain', onclick: () => { doc.show(removed); doc.save(); say(''); }}, t('undo')));
}
function drawDocuments() {
  const all = store.list().filter(one => one.id !== doc.open.id);
  fill($('documents'), [{id: doc.open.id, title: store.titleOf(doc.open)}, ...all].map(one =>
    h('option', {value: one.id}, one.title)));
}
async function switchTo(id) {
  const found = store.load(id);
  if (!found || id === doc.open.id) return;
  if (!await store.claim(id)) { say(t('openElsewhere'), true); drawDocuments(); return; }
  doc.save();
  doc.show(found);
  chooseModel(found.model);
}

export function start() {
  $('copies').addEventListener('toggle', () => { if ($('copies').open) drawCopies(); });
  $('files').addEventListener('toggle', () => { if ($('files').open) drawFiles(); });
  $('documents').addEventListener('focus', drawDocuments);
  $('documents').addEventListener('change', () => switchTo($('documents').value));
  document.addEventListener('pointerdown', event => {
    for (const one of document.querySelectorAll('details.menu[open]')) if (!one.contains(event.target)) one.open = false;
  });
  document.addEventListener('keydown', event => {
    if (event.key === 'Escape') for (const one of document.querySelectorAll('details.menu[open]')) one.open = false;
  });
  doc.watch(what => {
    if (what === 'all') drawDocuments();
    else if (what === 'text' && $('documents').options[0]) $('documents').options[0].text = store.titleOf(doc.open);
  });
  drawDocuments();
}
