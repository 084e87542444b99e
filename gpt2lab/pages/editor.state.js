// What all views share: the server, the chosen model, the language, the line of status.

import {$, h, fill, percent, fixed, swatches} from './kit.js';
import {WORDS} from './editor.words.js';
import * as doc from './editor.document.js';

export const app = {backend: null, models: [], model: null, language: 'en', view: 'write'};

/** A sentence of the page in the chosen language; {0}, {1}, ... stand for what is given. */
export function t(key, ...given) {
  const [english, chinese] = WORDS[key] || [key, key];
  return (app.language === 'zh' ? chinese : english).replace(/\{(\d)\}/g, (_, i) => given[i]);
}
export const number = n => n.toLocaleString(app.language === 'zh' ? 'zh-CN' : 'en');

export function translate(root = document) {
  document.documentElement.lang = app.language === 'zh' ? 'zh-Hans' : 'en';
  root.querySelectorAll('[data-t]').forEach(node => { node.textContent = t(node.dataset.t); });
  root.querySelectorAll('[data-label]').forEach(node => node.setAttribute('aria-label', t(node.dataset.label)));
}

/** Tell the reader in the line of status; an error stays until the next thing is told. */
export function say(text, isError = false) {
  fill($('status'), text);
  $('status').classList.toggle('error', isError);
}
export function failed(error) {
  if (error.name === 'AbortError') return;
  say(error instanceof TypeError ? t('noServer') : error.message, true);
}

// ---- Tokens as text.

const utf8 = new TextDecoder('utf-8', {fatal: true});
/** The text of a token's bytes; bytes that are no whole character stand as \x... */
export function textOfBytes(raw) {
  try { return utf8.decode(Uint8Array.from(raw)); } catch {
    return raw.map(one => (one < 128 ? String.fromCharCode(one) : '\\x' + one.toString(16))).join('');
  }
}
const SIGNS = {' ': '·', '\n': '↵', '\t': '⇥', '\r': '␍', '\u00a0': '⍽', '\u007f': '␡'};
function sign(char) {
  if (SIGNS[char]) return SIGNS[char];
  const code = char.codePointAt(0);
  return code < 32 ? String.fromCodePoint(0x2400 + code) : '\\u{' + code.toString(16) + '}';
}
/** A token as an element: what cannot be seen stands as a faint sign, and nothing is read as HTML. */
export function word(text) {
  if (!text) return h('bdi', {class: 't'}, h('i', null, '∅'));
  const parts = text.split(/([\p{C}\p{Z}]+)/u).map((run, i) =>
    (i % 2 ? h('i', null, Array.from(run, sign).join('')) : run));
  return h('bdi', {class: 't'}, /^\p{M}/u.test(text) ? h('i', null, '◌') : null, parts);
}
export const plainWord = text => text.replace(/[\p{C}\p{Z}]/gu, sign);

/** A probability in a narrow column. */
export const share = p => (p > 0 && p < 1e-4 ? '<0.01%' : percent(p));

// ---- Scores of tokens.

export const SURPRISING = 8; // nats, the end of the scale, as on the page of `look`
export const LIMITS = [1, 10, 100, 1000, Infinity]; // of the ranks that share a colour
export const bucket = rank => LIMITS.findIndex(limit => rank <= limit);
export const bits = nats => nats / Math.LN2;
/** A line for each token of scores: the token, its probability, rank and surprisal. */
export const told = (scores, tokens) => tokens.map(i => h('div', null, h('b', null, word(textOfBytes(scores.bytes[i]))), '  ',
  scores.logprobs[i] === null ? t('firstToken') : t('tokenFacts', percent(Math.exp(scores.logprobs[i])), number(scores.ranks[i]), fixed(bits(-scores.logprobs[i]), 2))));
export const scale = (colour, from, low, high) => [low + ' ', swatches(colour, from), ' ' + high];

// ---- What is asked of the model, once.

const kept = new Map(), MOST = 48;
/** The logits after some ids, with names for the most probable; asked once and then remembered. */
export function after(ids, signal) {
  const key = app.model.id + ':' + ids.join();
  if (!kept.has(key)) {
    const asked = app.backend.next(app.model.id, [ids], {top: 60, logits: true}, signal).then(([one]) => {
      for (const {id, bytes} of one.top) names(id, bytes);
      return one;
    });
    asked.catch(() => kept.delete(key));
    kept.set(key, asked);
    if (kept.size > MOST) kept.delete(kept.keys().next().value);
  }
  return kept.get(key);
}
const named = new Map();
/** The text of an id of the chosen model, where it is known; with bytes, from now on it is. */
export function names(id, bytes) {
  const key = app.model.id + ':' + id;
  if (bytes) named.set(key, textOfBytes(bytes));
  return named.get(key) ?? '[' + id + ']';
}

/** Watch changes of model and language; the document has its own watchers. */
const watching = [];
export const onChange = act => watching.push(act);
export function changed(what) {
  for (const act of watching) act(what);
}
export function chooseModel(id) {
  app.model = app.models.find(one => one.id === id) || app.models[0];
  doc.open.model = app.model.id;
  changed('model');
}
