// The model behind the page: {tokenize, next, stream, score, look} over this package's server. Views
// call these five alone, so that another implementation can stand in for the server.

import {bytes} from './kit.js';

/** An error that the server answered with: its sentence, which names value, limit and next step. */
export class Refused extends Error {
  constructor(said, status) {
    super(said);
    this.status = status;
  }
}

const KEY = 'gpt2lab.key'; // of a server that asks for one: kept in this tab alone
export const useKey = key => sessionStorage.setItem(KEY, key);
async function ask(path, options) {
  const key = sessionStorage.getItem(KEY), headers = {'Content-Type': 'application/json', ...(key ? {Authorization: 'Bearer ' + key} : {})};
  const response = await fetch(path, {...options, headers});
  if (response.ok) return response;
  let said = '';
  try { said = (await response.json()).error.message; } catch { /* not an answer of ours */ }
  throw new Refused(said || response.status + ' ' + response.statusText, response.status);
}
const post = (path, body, signal) => ask(path, {method: 'POST', signal, body: JSON.stringify(body)});

/** The data lines of a stream of server-sent events, as they come. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const lines = (waiting + value).split('\n');
    waiting = lines.pop();
    for (const line of lines) if (line.startsWith('data: ')) yield line.slice(6).trim();
  }
}

function floats(text) {
  const raw = bytes(text), view = new DataView(raw.buffer);
  return Float32Array.from({length: raw.length / 4}, (_, i) => view.getFloat32(4 * i, true));
}

/** The settings as the server takes them: those that change nothing are left out. */
function body(model, prompt, {max_new_tokens: most, ...settings}) {
  return {model, prompt, max_tokens: most, ...settings};
}

/** The models of the server: [{id, n_ctx, n_vocab, n_layer, n_head}]. */
export async function connect() {
  const response = await ask('v1/models');
  return {models: (await response.json()).data, tokenize, next, stream, score, look, address: location};
}

/** The ids of a text, and the bytes of each. */
async function tokenize(model, text, signal) {
  const found = await (await post('tokenize', {model, prompt: text}, signal)).json();
  return {ids: found.tokens, bytes: found.bytes};
}

/**
 * What comes after each of some lists of ids: [{top: [{id, bytes, logprob}], logits}].
 * logits: whether all of them are wanted, as a Float32Array [V].
 */
async function next(model, prompts, {top = 50, logits = false} = {}, signal) {
  const found = await (await post('next', {model, prompts, top, logits}, signal)).json();
  return found.data.map(one => ({...one, logits: one.logits ? floats(one.logits) : null}));
}

/** Continue a prompt; `on` gets {index, text, finish} as they come. Aborting frees the server's row. */
async function stream(model, prompt, settings, on, signal) {
  const response = await post('v1/completions', {...body(model, prompt, settings), stream: true}, signal);
  for await (const line of events(response)) {
    if (line === '[DONE]') return;
    const chunk = JSON.parse(line);
    if (chunk.error) throw new Refused(chunk.error.message);
    for (const one of chunk.choices) on({index: one.index, text: one.text, finish: one.finish_reason});
  }
}

/**
 * The log-probability (nats), rank and entropy of each token of some texts:
 * [{ids, bytes, logprobs, ranks, entropies}]; null for a first token that nothing stands before.
 * start: whether the text is read as the beginning of a document, after the end token.
 */
async function score(model, texts, {start = false} = {}, signal) {
  const found = await (await post('score', {model, texts, after_end: start}, signal)).json();
  return found.data.map(({tokens: ids, ...more}) => ({ids, ...more}));
}

/** The data of the page of `look` of a text. scale: [layer, head, factor] of heads that are changed. */
async function look(model, text, {scale = []} = {}, signal) {
  return (await post('look', {model, prompt: text, scale}, signal)).json();
}
