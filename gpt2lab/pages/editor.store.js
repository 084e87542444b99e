// Documents in the browser's own storage, and as files: JSON, text, Markdown.

import * as tree from './editor.tree.js';

const KEY = 'gpt2lab.editor.', VERSION = 1;

export const identity = () => Array.from(crypto.getRandomValues(new Uint8Array(8)),
  one => one.toString(16).padStart(2, '0')).join('');

/** A document that nobody has touched is not worth keeping. */
export const isNew = document => Object.keys(document.tree.nodes).length === 1 &&
  !document.tree.nodes[0].text && !document.talk.turns.length;

export const titleOf = document => document.name ||
  tree.textOf(document.tree).trim().split('\n')[0].slice(0, 40) || document.talk.turns[0]?.text.slice(0, 40) || '…';

export function save(document, failed) {
  try {
    localStorage.setItem(KEY + document.id, JSON.stringify(plain(document)));
    sessionStorage.setItem(KEY + 'open', document.id);
  } catch (error) { failed(error); }
}
export function remove(id) { localStorage.removeItem(KEY + id); }

/** All that is kept: [{id, title, saved}], the newest first. */
export function list() {
  const found = [];
  for (const key of Object.keys(localStorage)) {
    if (!key.startsWith(KEY)) continue;
    try {
      const document = JSON.parse(localStorage[key]);
      found.push({id: document.id, title: titleOf(document), saved: document.saved});
    } catch { /* not a document */ }
  }
  return found.sort((a, b) => b.saved - a.saved);
}
export function load(id) {
  try { return fromJson(localStorage.getItem(KEY + id)); } catch { return null; }
}

/**
 * The document that this tab shows: the one it had before a reload, else the newest; null where
 * another tab has that open, so that no two tabs write over each other.
 */
export async function mine() {
  const before = sessionStorage.getItem(KEY + 'open'), id = before || list()[0]?.id;
  const document = id && load(id);
  if (!document) return null;
  if (await claim(id)) return document;
  if (!before) return null;
  await new Promise(done => setTimeout(done, 200)); // a page that reloads gives its lock back a little later
  return await claim(id) ? document : null;
}
/** Whether this tab now holds a document alone. Without locks (an address that is not secure), yes. */
export function claim(id) {
  if (!navigator.locks) return Promise.resolve(true);
  return new Promise(done => navigator.locks.request(KEY + id, {ifAvailable: true}, lock => {
    done(lock !== null);
    return lock && new Promise(() => {}); // until the tab closes
  }));
}

// ---- Files.

const plain = document => ({format: 'gpt2lab-editor', version: VERSION, saved: Date.now(), id: document.id,
  name: document.name, model: document.model, settings: document.settings, talk: document.talk, last: document.last,
  tree: document.tree});

export const toJson = document => JSON.stringify(plain(document), null, 1) + '\n';

/** The tree as OpenLoom 1.0, the shared format of loom programs: our nodes under its names. */
export function toOpenLoom(document) {
  const when = new Date().toISOString(), {nodes, current} = document.tree;
  const found = Object.values(nodes).map(node => [node.id, {id: String(node.id), text: node.text,
    author: node.by === 'model' ? 'assistant' : 'user', modelId: node.made?.model || '', createdTime: when,
    parentId: node.parent === null ? null : String(node.parent), childrenIds: node.children.map(String),
    rememberedChildId: node.children.includes(document.last[node.id]) ? String(document.last[node.id]) : null}]);
  return JSON.stringify({id: document.id, title: titleOf(document), description: null, lastModified: when,
    systemMessage: '', rootNodeId: '0', currentNodeId: String(current), nodes: Object.fromEntries(found), bookmarkedNodes: {}}, null, 1) + '\n';
}
function fromOpenLoom(value) {
  const ids = [value.rootNodeId], nodes = {}, seen = new Set(ids);
  for (let i = 0; i < ids.length; i++) {
    const node = value.nodes[ids[i]], children = node?.childrenIds;
    if (!Array.isArray(children)) throw new Error('node ' + String(ids[i]).slice(0, 40) + ' is missing, or has no childrenIds');
    for (const child of children) if (!seen.has(child)) { seen.add(child); ids.push(child); }
    nodes[i] = {id: i, parent: i ? 0 : null, text: node.text, children: children.map(child => ids.indexOf(child)),
      by: node.author === 'assistant' ? 'model' : 'person', made: node.modelId ? {model: node.modelId} : null};
  }
  return {name: String(value.title || ''), tree: {nodes, current: Math.max(0, ids.indexOf(value.currentNodeId))}};
}

/** A document from JSON, ours or OpenLoom's; an Error that says what is wrong. */
export function fromJson(text) {
  let value = JSON.parse(text);
  if (value?.rootNodeId !== undefined && value.nodes) value = {format: 'gpt2lab-editor', version: VERSION, ...fromOpenLoom(value)};
  if (!value || value.format !== 'gpt2lab-editor') throw new Error('the file is not a document of this editor');
  if (value.version > VERSION) throw new Error('the file has version ' + value.version + ', this editor reads up to ' + VERSION);
  const words = value.talk && Array.isArray(value.talk.turns) ? value.talk.turns.filter(one =>
    one && typeof one.who === 'string' && typeof one.text === 'string') : [];
  return {id: String(value.id || identity()), name: String(value.name || ''), model: String(value.model || ''),
    settings: numbers(value.settings), last: {}, talk: {...strings(value.talk), turns: words}, tree: tree.checked(value.tree)};
}
const numbers = settings => Object.fromEntries(Object.entries(settings || {}).filter(([name, value]) =>
  typeof value === 'number' || (name === 'logit_bias' && value && typeof value === 'object') ||
  (name === 'bad_words' && Array.isArray(value))));
const strings = talk => Object.fromEntries(['you', 'them', 'opening'].filter(name =>
  typeof talk?.[name] === 'string').map(name => [name, talk[name]]));

/** Every text of the tree that ends at a leaf, as Markdown; what branches share is marked once. */
export function toMarkdown(document) {
  const lines = ['# ' + titleOf(document).replace(/\n/g, ' '), ''];
  const leaves = Object.values(document.tree.nodes).filter(node => !node.children.length);
  leaves.forEach((leaf, i) => lines.push('## ' + (i + 1) + (leaf.id === document.tree.current ? ' *' : ''), '',
    ...tree.textOf(document.tree, leaf.id).split('\n').map(line => line.replace(/^([#>*+-]|\d+\.)/, '\\$1') + '  '), ''));
  return lines.join('\n');
}

/** Hand a file to the browser's downloads. */
export function download(name, text, kind) {
  const link = Object.assign(document.createElement('a'), {download: name,
    href: URL.createObjectURL(new Blob([text], {type: kind}))});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
