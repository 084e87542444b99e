// A document as a tree of texts. A tree is never changed: every edit returns a new one, so that undo
// is a list of trees. The text that is shown is that of the path from the root to the current node.
//
// A node: {id, parent, text, children, by, made, cut}. by: 'person' or 'model'. made: what the model
// was asked, for generation again. cut: whether it is the second half of a node that was split.

export function fresh(text = '') {
  const root = {id: 0, parent: null, text, children: [], by: 'person', made: null, cut: false};
  return {nodes: {0: root}, current: 0, next: 1};
}

/** The nodes from the root to a node, each with the offset at which its text begins. */
export function path(tree, id = tree.current) {
  const found = [];
  for (let node = tree.nodes[id]; node; node = tree.nodes[node.parent]) found.unshift(node);
  let start = 0;
  return found.map(node => {
    const one = {node, start, end: start + node.text.length};
    start = one.end;
    return one;
  });
}

export const textOf = (tree, id = tree.current) => path(tree, id).map(one => one.node.text).join('');

function put(tree, ...changed) {
  const nodes = {...tree.nodes};
  for (const node of changed) nodes[node.id] = node;
  return {...tree, nodes};
}

function without(tree, ids) {
  const nodes = {...tree.nodes};
  for (const id of ids) delete nodes[id];
  return {...tree, nodes};
}

/** Add a child to a node; the current node stays. Returns [tree, id]. */
export function add(tree, parent, text, by, made = null, cut = false) {
  const id = tree.next, node = {id, parent, text, children: [], by, made, cut};
  const over = tree.nodes[parent];
  return [{...put(tree, node, {...over, children: [...over.children, id]}), next: id + 1}, id];
}

/** Split a node: the first half keeps the id, the second is its only child and takes the rest. */
export function split(tree, id, offset) {
  const node = tree.nodes[id], rest = tree.next;
  if (offset >= node.text.length) return tree;
  const second = {...node, id: rest, parent: id, text: node.text.slice(offset), cut: true};
  const first = {...node, text: node.text.slice(0, offset), children: [rest]};
  const children = node.children.map(child => ({...tree.nodes[child], parent: rest}));
  const current = tree.current === id ? rest : tree.current;
  return {...put(tree, first, second, ...children), current, next: rest + 1};
}

/** The inverse of `split`, where a node's only child is its second half. */
export function join(tree, id) {
  const node = tree.nodes[id], rest = tree.nodes[node.children[0]];
  if (node.children.length !== 1 || !rest.cut) return tree;
  const whole = {...node, text: node.text + rest.text, children: rest.children};
  const children = rest.children.map(child => ({...tree.nodes[child], parent: id}));
  const current = tree.current === rest.id ? id : tree.current;
  return {...without(put(tree, whole, ...children), [rest.id]), current};
}

/** Every node below a node, and the node itself. */
export function below(tree, id) {
  const found = [id];
  for (let i = 0; i < found.length; i++) found.push(...tree.nodes[found[i]].children);
  return found;
}

/** Delete a node and all below it; the root is emptied instead. */
export function prune(tree, id) {
  const node = tree.nodes[id];
  if (node.parent === null) return fresh();
  const gone = below(tree, id), over = tree.nodes[node.parent];
  const kept = put(tree, {...over, children: over.children.filter(child => child !== id)});
  const current = gone.includes(tree.current) ? node.parent : tree.current;
  return {...without(kept, gone), current};
}

/** Where the part of the path begins that no other branch shares. */
function privatePart(tree, steps) {
  let first = steps.length;
  while (first > 0) {
    const {node} = steps[first - 1];
    if (node.children.length > (first === steps.length ? 0 : 1)) break;
    first--;
  }
  return first;
}

/** Whether a place is inside a character of two code units. */
const halved = (text, place) => /[\uD800-\uDBFF]/.test(text[place - 1] || '') && /[\uDC00-\uDFFF]/.test(text[place] || '');

/** How the shown text changed: [length of the same beginning, and of the same ending]. */
export function difference(before, after) {
  const most = Math.min(before.length, after.length);
  let start = 0, end = 0;
  while (start < most && before[start] === after[start]) start++;
  if (halved(before, start) || halved(after, start)) start--;
  while (end < most - start && before.at(-1 - end) === after.at(-1 - end)) end++;
  if (halved(before, before.length - end) || halved(after, after.length - end)) end--;
  return [start, end];
}

/**
 * The tree after the shown text was edited. What no other branch shares is changed where it stands;
 * an edit of what branches share begins a branch of its own, so that the others keep their text.
 */
export function edit(tree, after) {
  const steps = path(tree), before = steps.map(one => one.node.text).join('');
  if (before === after) return tree;
  const [start, end] = difference(before, after), first = privatePart(tree, steps);
  if (first < steps.length && start >= steps[first].start) {
    return inPlace(tree, steps.slice(first), after, start, before.length - end);
  }
  return branchOff(tree, steps, after, start);
}

function inPlace(tree, steps, after, start, stop) {
  const grown = after.length - steps.at(-1).end, last = steps.at(-1);
  if (start === last.end && last.node.by === 'model') { // one's own words stay apart from the model's
    const [added, id] = add(tree, last.node.id, after.slice(start), 'person');
    return {...added, current: id};
  }
  let a = steps.findIndex(one => start < one.end || one === last);
  const insertion = stop === start, own = steps[a].node.by === 'model';
  if (insertion && a > 0 && start === steps[a].start && own) a--; // beside the model's words, not into them
  let b = a;
  while (stop > steps[b].end) b++;
  const from = steps[a], to = steps[b];
  const joined = {...from.node, text: after.slice(from.start, to.end + grown),
    children: to.node.children, by: 'person', made: null};
  const children = to.node.children.map(child => ({...tree.nodes[child], parent: joined.id}));
  const gone = steps.slice(a + 1, b + 1).map(one => one.node.id);
  const current = gone.includes(tree.current) ? joined.id : tree.current;
  return {...without(put(tree, joined, ...children), gone), current};
}

function branchOff(tree, steps, after, start) {
  const leaf = steps.at(-1).node;
  if (leaf.forked && !leaf.children.length) { // the branch of the keystroke before: take it back
    tree = join(prune(tree, leaf.id), leaf.parent);
    steps = path(tree, steps.map(one => one.node.id).findLast(id => tree.nodes[id]));
  }
  let at = steps.findLast(one => start >= one.start && start <= one.end) || steps.at(-1);
  if (start === at.start && at.node.parent !== null) at = steps[steps.indexOf(at) - 1];
  const cut = split(tree, at.node.id, start - at.start);
  const [added, id] = add(cut, at.node.id, after.slice(start), 'person');
  return {...put(added, {...added.nodes[id], forked: true}), current: id};
}

/** Add continuations at an offset of the shown text. Returns [tree, ids of the new nodes]. */
export function grow(tree, offset, texts, made) {
  const steps = path(tree);
  let at = steps.findLast(one => offset > one.start) || steps[0];
  if (offset < at.end) tree = split(tree, at.node.id, offset - at.start);
  const ids = [];
  texts.forEach((text, i) => {
    const [added, id] = add(tree, at.node.id, text, 'model', Array.isArray(made) ? made[i] : made);
    tree = added;
    ids.push(id);
  });
  return [tree, ids];
}

export const select = (tree, id) => ({...tree, current: id});

/** The node to which a key leads: parent, child, next or previous sibling; null for none. */
export function neighbour(tree, where, last = {}) {
  const node = tree.nodes[tree.current];
  if (where === 'parent') return node.parent;
  if (where === 'child') {
    return node.children.includes(last[node.id]) ? last[node.id] : node.children[0] ?? null;
  }
  const over = tree.nodes[node.parent];
  if (!over) return null;
  const place = over.children.indexOf(node.id) + (where === 'next' ? 1 : -1);
  return over.children[place] ?? null;
}

/** A tree read from JSON, checked; an Error that says what is wrong. */
export function checked(value) {
  const nodes = value && value.nodes;
  if (!nodes || typeof nodes !== 'object' || !nodes[0] || nodes[0].parent !== null) {
    throw new Error('the file holds no tree with a root, node 0');
  }
  const found = {}, seen = new Set([0]);
  for (const id of seen) {
    const node = nodes[id];
    if (!node || typeof node.text !== 'string' || !Array.isArray(node.children)) {
      throw new Error('node ' + id + ' has no text or no list of children');
    }
    for (const child of node.children) {
      if (!Number.isInteger(child) || seen.has(child) || !nodes[child]) {
        throw new Error('node ' + id + ' has a child that is not its own: ' + String(child).slice(0, 20));
      }
      seen.add(child);
    }
    found[id] = {id, parent: id === 0 ? null : Number(nodes[id].parent), text: node.text,
      children: [...node.children], by: node.by === 'model' ? 'model' : 'person',
      made: node.made && typeof node.made === 'object' ? node.made : null, cut: node.cut === true};
  }
  for (const node of Object.values(found)) for (const id of node.children) found[id].parent = node.id;
  const current = seen.has(value.current) ? value.current : 0;
  return {nodes: found, current, next: Math.max(...seen) + 1};
}
