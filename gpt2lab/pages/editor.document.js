// The open document: its tree, its settings, several steps of undo, and saving by itself.

import * as tree from './editor.tree.js';
import * as store from './editor.store.js';

export const SETTINGS = {temperature: 0.7, top_k: 0, top_p: 0.95, min_p: 0, repetition_penalty: 1,
  presence_penalty: 0, frequency_penalty: 0, max_new_tokens: 40, n: 3, seed: 1, logit_bias: {}, bad_words: []};
export const TALK = {you: 'You', them: 'Friend', opening: '', turns: []};
const STEPS = 500, PAUSE = 900; // steps that can be undone; milliseconds that part two of typing

const watching = [];
/** Call a function after each change, with what changed: 'text', 'tree', 'settings', 'talk', 'all'. */
export const watch = act => watching.push(act);
function told(what) {
  for (const act of watching) act(what);
  saveSoon();
}

export let open = blank();
let undone = [], past = [], last = {kind: '', time: 0}, waiting = 0;

export function blank(text = '') {
  return {id: store.identity(), name: '', tree: tree.fresh(text), settings: {...SETTINGS}, talk: {...TALK},
    model: '', last: {}};
}
export const text = () => tree.textOf(open.tree);

/** Show another document. */
export function show(document) {
  open = {...blank(), ...document, settings: {...SETTINGS, ...document.settings}, talk: {...TALK, ...document.talk}};
  [past, undone, last] = [[], [], {kind: '', time: 0}];
  told('all');
}

/** Take a new tree. kind: changes of one kind in a row are one step of undo; '' is always its own. */
export function change(next, kind = '') {
  if (next === open.tree) return;
  const now = Date.now();
  if (!kind || kind !== last.kind || now - last.time > PAUSE) past.push(open.tree);
  if (past.length > STEPS) past.shift();
  [undone, last] = [[], {kind, time: now}];
  set(next);
}
function set(next) {
  open.tree = next;
  for (const {node} of tree.path(next)) if (node.parent !== null) open.last[node.parent] = node.id;
  told('text');
}
/** Add text to a node that is being generated: no step of its own. */
export function append(id, more) {
  const node = open.tree.nodes[id];
  if (!node) return; // it was deleted meanwhile
  open.tree = {...open.tree, nodes: {...open.tree.nodes, [id]: {...node, text: node.text + more}}};
  told('text');
}
export function undo() { step(past, undone); }
export function redo() { step(undone, past); }
function step(from, to) {
  if (!from.length) return;
  to.push(open.tree);
  last = {kind: '', time: 0};
  set(from.pop());
}
export const can = () => ({undo: past.length > 0, redo: undone.length > 0});

export function settings(changes) {
  Object.assign(open.settings, changes);
  told('settings');
}
export function talk(changes) {
  Object.assign(open.talk, changes);
  told('talk');
}

let failed = () => {};
/** What is told when the browser keeps no more. */
export const onFailure = act => { failed = act; };
function saveSoon() {
  clearTimeout(waiting);
  waiting = setTimeout(save, 300);
}
export function save() {
  clearTimeout(waiting);
  if (!store.isNew(open)) store.save(open, failed);
}
window.addEventListener('pagehide', save);
