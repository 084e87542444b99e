// ---- The state, and the views that follow it.

const state = {
  token: T - 1, layer: L - 1, head: 0, mode: 'surprisal', lens: 'probability', axis: 'linear',
  temperature: 10, pinned: null, target: 'predicted', order: 'share', call: 0, line: 0,
  stage: 'softmax', look: null,
};
const LIMITS = {token: T, layer: L, head: H};
const views = [];
/** A view is drawn again when one of what it depends on changes; with a box, one frame later. */
const view = (names, draw, box) => views.push({names: names.split(' '), draw, box});
const deferred = new Set();
/** Draw one deferred view a frame, so that no key press waits for all of them. */
function drawDeferred() {
  const [one] = deferred;
  deferred.delete(one);
  one.draw();
  settle();
  if (deferred.size) requestAnimationFrame(drawDeferred);
}
/** A view whose box has the focus is drawn at once: its nodes are replaced, and the focus moves on. */
function redraw(one) {
  if (!one.box || $(one.box).contains(document.activeElement)) { deferred.delete(one); one.draw(); return; }
  if (!deferred.size) requestAnimationFrame(drawDeferred);
  deferred.add(one);
}
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
  for (const one of views) if (one.names.some(name => changed.includes(name))) redraw(one);
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
