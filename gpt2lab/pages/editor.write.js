// Write: the text, its colours, suggestions, generation at the cursor, branches.

import {$, h, fill, warm, css, fixed, show as tipShow} from './kit.js';
import {app, t, say, failed, word, names, after, onChange, number, share, SURPRISING, LIMITS, bits, bucket, scale, told as facts} from './editor.state.js';
import * as doc from './editor.document.js';
import * as tree from './editor.tree.js';
import {surface, pieces} from './editor.surface.js';
import {process, softmax, best} from './editor.sampling.js';

/** What is known of the shown text: {text, ids, bytes, logprobs, ranks, entropies, found}. */
export let known = {text: '', ids: [], bytes: [], logprobs: [], ranks: [], found: []};
let mode = 'surprisal', page = null, running = null;

// ---- Colours.

function colour(tokens) {
  const worst = values => Math.max(...tokens.map(i => values[i] ?? -Infinity));
  if (mode === 'none' || !known.logprobs.length) return null;
  if (mode === 'surprisal') {
    const least = Math.min(...tokens.map(i => known.logprobs[i] ?? Infinity));
    return least === Infinity ? null : warm(-least / SURPRISING);
  }
  const value = worst(mode === 'rank' ? known.ranks : known.entropies);
  if (value === -Infinity) return null;
  return mode === 'rank' ? warm(bucket(value) / 4) : warm(value / Math.log(app.model.n_vocab));
}
function drawLegend() {
  const made = {none: () => [], surprisal: () => scale(warm, 0, 0, t('bitsOrMore', fixed(bits(SURPRISING), 1))),
    rank: () => [t('rankTo'), ' ', LIMITS.map((limit, i) => [h('span', {style: {background: css(warm(i / 4))}}), limit < Infinity ? number(limit) : t('beyond')])],
    entropy: () => scale(warm, 0, 0, t('bitsEntropy', fixed(bits(Math.log(app.model.n_vocab)), 1)))};
  fill($('legend'), made[mode]());
}
function drawModes() {
  fill($('colours'), h('span', {class: 'choice', role: 'radiogroup', 'aria-label': t('colourBy')},
    ['surprisal', 'rank', 'entropy', 'none'].map(name => h('button', {role: 'radio', 'aria-checked': String(name === mode),
      onclick: () => { mode = name; drawModes(); drawLegend(); page.repaint(); }}, t('by_' + name)))));
}

// ---- The text is scored a little after each change, one request at a time.

let scoring = false, again = false, soon = 0;
function scoreSoon(delay = 120) {
  clearTimeout(soon);
  soon = setTimeout(score, delay);
}
/** The scores of a text; one token alone has none. */
async function scored(text) {
  if (text.length < 32) {
    const {ids, bytes} = await app.backend.tokenize(app.model.id, text);
    if (ids.length === 1) return {ids, bytes, logprobs: [null], ranks: [null], entropies: [null]};
  }
  return (await app.backend.score(app.model.id, [text]))[0];
}
function colourAll(text) {
  page.known(text, known.found);
  $('layer').dataset.state = 'known';
}
async function score() {
  if (scoring) { again = true; return; }
  const text = doc.text();
  if (!text) { known = {text: '', ids: [], bytes: [], logprobs: [], ranks: [], entropies: [], found: []}; $('layer').dataset.state = 'known'; hereSoon(); return; }
  if (text === known.text && known.model === app.model.id) { colourAll(text); return; }
  scoring = true;
  try {
    const found = await scored(text);
    if (doc.text() === text) {
      known = {...found, text, model: app.model.id, found: pieces(text, found.bytes.map(one => one.length))};
      found.ids.forEach((id, i) => names(id, found.bytes[i]));
      colourAll(text);
      hereSoon();
    } else { again = true; }
  } catch (error) { failed(error); }
  scoring = false;
  if (again) { again = false; scoreSoon(0); }
}

// ---- The text itself.

let shown = '';
function draw(text) {
  page.show(text);
  shown = text;
  $('layer').dataset.state = 'new';
}
/** Draw the document after a change that was not typed. */
function refresh() {
  const text = doc.text(), area = $('area');
  if (area.value !== text) {
    const [same, end] = tree.difference(area.value, text), grown = text.length - area.value.length;
    const moved = place => (place <= same && !(place === same && end === 0 && running) ? place
      : Math.max(same, place + grown));
    const [from, to] = [moved(area.selectionStart), moved(area.selectionEnd)], focused = document.activeElement === area;
    area.value = text;
    if (focused || running) area.setSelectionRange(Math.min(from, text.length), Math.min(to, text.length));
  }
  if (shown !== text) draw(text);
  scoreSoon(running ? 250 : 120);
}
function typed() {
  const text = $('area').value;
  draw(text);
  dropSuggestions();
  doc.change(tree.edit(doc.open.tree, text), 'typing');
  hereSoon();
}

// ---- Generation.

/** The settings as they are asked for, those that change nothing left out. */
export function asked(more = {}) {
  const neutral = {temperature: 1, top_p: 1, top_k: 0, min_p: 0, repetition_penalty: 1, presence_penalty: 0, frequency_penalty: 0};
  const s = {...doc.open.settings, ...more}, found = {temperature: s.temperature, top_p: s.top_p};
  for (const [name, value] of Object.entries(neutral)) if (s[name] !== value) found[name] = s[name];
  if (Object.keys(s.logit_bias).length) found.logit_bias = s.logit_bias;
  if (s.bad_words.length) found.bad_words = s.bad_words;
  if (known.ids.length + s.max_new_tokens > app.model.n_ctx) found.overflow = 'tail'; // the window moves on
  return {...found, max_new_tokens: s.max_new_tokens, n: s.n, seed: s.seed};
}
/** Undo and redo end a generation first, whose nodes they may take away. */
const undo = () => { stop(); doc.undo(); };
const redo = () => { stop(); doc.redo(); };
export const cursor = () => $('area').selectionStart;

/** Continue the text at the cursor n times; one continuation goes into the text, several are cards. */
export async function generate(n, at = cursor()) {
  stop();
  dropSuggestions();
  const text = doc.text(), prompt = text.slice(0, at), rest = text.slice(at);
  const settings = asked({n}), control = new AbortController();
  const made = Array.from({length: n}, (_, index) => ({model: app.model.id, settings, index, prompt: prompt.length}));
  let [grown, ids] = tree.grow(doc.open.tree, at, Array(n).fill(''), made);
  const ends = [];
  if (rest) for (const id of ids) { const [more, end] = tree.add(grown, id, rest, 'person'); grown = more; ends.push(end); }
  const over = grown.nodes[ids[0]].parent;
  running = control;
  doc.change(tree.select(grown, n === 1 ? (ends[0] ?? ids[0]) : rest ? grown.current : over));
  $('stop').disabled = false;
  const begun = performance.now();
  let count = 0;
  say(t('generating'));
  try {
    await app.backend.stream(app.model.id, prompt, settings, ({index, text: more}) => {
      count++;
      if (more) doc.append(ids[index], more);
    }, control.signal);
    say(t('generated', number(count), fixed((performance.now() - begun) / 1000, 1)));
  } catch (error) {
    if (control.signal.aborted) say(t('stopped')); else failed(error);
  }
  if (running === control) { running = null; $('stop').disabled = true; }
  doc.settings({seed: (doc.open.settings.seed + 1) % 2 ** 32});
  refresh();
}
export function stop() {
  if (running) running.abort();
  running = null;
  $('stop').disabled = true;
}

// ---- Suggestions at the cursor.

let ghost = null; // {at, texts, chosen, control}
async function suggest() {
  dropSuggestions();
  const at = cursor(), control = new AbortController(), n = doc.open.settings.temperature === 0 ? 1 : 3;
  const own = ghost = {at, texts: Array(n).fill(''), chosen: 0, control, settings: asked({n, max_new_tokens: 10})};
  drawSuggestions();
  try {
    await app.backend.stream(app.model.id, doc.text().slice(0, at), own.settings, ({index, text}) => {
      own.texts[index] += text;
      if (ghost === own) drawSuggestions();
    }, control.signal);
    doc.settings({seed: (doc.open.settings.seed + 1) % 2 ** 32});
  } catch (error) { if (!control.signal.aborted) { failed(error); dropSuggestions(); } }
}
function dropSuggestions() {
  if (!ghost) return false;
  ghost.control.abort();
  ghost = null;
  $('ghost').hidden = true;
  $('area').removeAttribute('aria-activedescendant');
  return true;
}
function drawSuggestions() {
  const place = page.place(ghost.at), box = $('paper').getBoundingClientRect();
  fill($('ghost'), ghost.texts.map((text, i) => h('div', {role: 'option', id: 'ghost-' + i, 'aria-selected': String(i === ghost.chosen),
    onpointerdown: event => { event.preventDefault(); ghost.chosen = i; accept(); }}, text ? word(text) : '…')));
  $('ghost').hidden = false;
  const width = $('ghost').offsetWidth;
  $('ghost').style.left = Math.max(0, Math.min(place.left - box.left, box.width - width - 4)) + 'px';
  $('ghost').style.top = place.bottom - box.top + 4 + 'px';
  $('area').setAttribute('aria-activedescendant', 'ghost-' + ghost.chosen);
}
function accept() {
  const {at, texts, chosen, settings} = ghost, text = texts[chosen];
  dropSuggestions();
  if (text) insert(at, text, {model: app.model.id, settings, index: chosen, prompt: at});
}
/** Put text of the model into the text at an offset, as a branch of its own. */
export function insert(at, text, made, keep = true) {
  const rest = keep ? doc.text().slice(at) : '';
  let [grown, [id]] = tree.grow(doc.open.tree, at, [text], made);
  if (rest) [grown, id] = tree.add(grown, id, rest, 'person');
  doc.change(tree.select(grown, id));
  refresh();
  $('area').focus();
  $('area').setSelectionRange(at + text.length, at + text.length);
  hereSoon();
}

// ---- Keys.

export function go(where) {
  const id = tree.neighbour(doc.open.tree, where, doc.open.last);
  if (id === null) { say(t('none_' + where)); return; }
  doc.change(tree.select(doc.open.tree, id), 'moving');
  const end = doc.text().length;
  $('area').setSelectionRange(end, end);
}
let leave = false; // Esc lets the next Tab go on to the next element
function key(event) {
  const ctrl = event.ctrlKey || event.metaKey;
  const act = ghost && ghostKey(event) || ctrl && !event.altKey && ctrlKey(event) || event.altKey && !ctrl && altKey(event) ||
    event.key === 'Tab' && !event.shiftKey && !ctrl && !leave && suggest || event.key === 'Escape' && escape;
  leave = event.key === 'Escape' && !ghost && !running;
  if (!act) return;
  event.preventDefault();
  act();
}
const escape = () => { if (!dropSuggestions()) stop(); };
function ghostKey({key: name, shiftKey}) {
  const move = by => () => { ghost.chosen = (ghost.chosen + by + ghost.texts.length) % ghost.texts.length; drawSuggestions(); };
  if (shiftKey) return null;
  return {ArrowDown: move(1), ArrowUp: move(-1), Enter: accept, Tab: accept, ArrowRight: accept}[name];
}
const ctrlKey = ({key: name, shiftKey}) => ({Enter: () => generate(shiftKey ? doc.open.settings.n : 1),
  z: shiftKey ? redo : undo, Z: redo, y: redo}[name]);
function altKey({key: name}) {
  if (/^[1-9]$/.test(name)) return () => pick(Number(name) - 1);
  const where = {ArrowLeft: 'parent', ArrowRight: 'child', ArrowUp: 'previous', ArrowDown: 'next'}[name];
  return where && (() => go(where));
}
function pick(place) {
  const card = $('cards').querySelectorAll('.branchcard')[place];
  if (card) card.click();
}

// ---- The token under the pointer.

let pointed = '', pointing = 0;
function hover(event) {
  const found = page.under(event);
  if (!found || !found.tokens) { pointed = ''; $('tip').hidden = true; return; }
  const name = found.tokens.join();
  const x = event.clientX, y = event.clientY;
  if (pointed !== name) {
    pointed = name;
    clearTimeout(pointing);
    tipShow(told(found.tokens, null), x, y);
    pointing = setTimeout(() => more(found.tokens, name, x, y), 120);
  }
}
async function more(tokens, name, x, y) {
  const i = tokens[0];
  if (i === 0 || pointed !== name) return;
  try {
    const {logits} = await after(known.ids.slice(0, i));
    if (pointed === name) tipShow(told(tokens, view(logits, i)), x, y);
  } catch (error) { failed(error); }
}
/** Ten alternatives in place of token i, before and after the settings. */
export function view(logits, i, count = 10) {
  const seen = {tokens: known.ids.slice(0, i), promptLength: writtenFrom(i)};
  const {left, reasons} = process(logits, doc.open.settings, seen), before = softmax(logits), now = softmax(left);
  const ids = [...new Set([...best(logits, count), ...best(left, 4).filter(id => left[id] > -Infinity)])];
  return {ids, before, after: now, reasons, rows: ids.map(id => ({id, before: before[id], after: now[id], reason: reasons.get(id)}))};
}
/** Where the model's own words around token i begin: penalties for written tokens count from there. */
function writtenFrom(i) {
  const start = known.found.find(one => one.tokens.includes(i))?.start ?? known.text.length;
  const step = tree.path(doc.open.tree).find(one => one.start <= start && start < one.end);
  if (!step || step.node.by !== 'model') return i;
  const first = known.found.find(one => one.start >= step.start);
  return first && first.tokens.length ? Math.min(i, first.tokens[0]) : i;
}
function told(tokens, rows) {
  return [facts(known, tokens), rows && h('table', {class: 'alternatives'}, h('tr', null, h('th'), h('th', {class: 'num'}, t('before')), h('th', {class: 'num'}, t('after'))),
    rows.rows.map(row => h('tr', {class: row.reason ? 'out' : null}, h('td', null, word(names(row.id))),
      h('td', {class: 'num'}, share(row.before)), h('td', {class: 'num'}, row.reason ? t('why_' + row.reason) : share(row.after)))))];
}

// ---- The cards of the branches.

function drawCards() {
  const all = doc.open.tree, node = all.nodes[all.current];
  const owner = node.children.length ? node : node.parent !== null ? all.nodes[node.parent] : null;
  const steps = tree.path(all), fork = owner && owner.children.length > 1 ? owner
    : steps.findLast(one => one.node.children.length > 1)?.node;
  if (!fork || !fork.children.length || (fork.children.length === 1 && !node.children.length)) { fill($('cards')); return; }
  const on = new Set(steps.map(one => one.node.id));
  fill($('cards'), h('h2', {class: 'small muted'}, t('branchesHere')), fork.children.map((id, i) => {
    const child = all.nodes[id];
    return h('div', {class: 'card branchbox' + (on.has(id) ? ' on' : '')},
      h('button', {class: 'branchcard', 'aria-pressed': String(on.has(id)), onclick: () => choose(id)},
        h('span', {class: 'muted small'}, (i < 9 ? i + 1 + '  ' : '') + t('by_' + child.by)), h('span', {class: 'prose'}, child.text || '…')),
      h('button', {class: 'plain small', 'aria-label': t('deleteBranch', i + 1), onclick: () => doc.change(tree.prune(all, id))}, '✕'));
  }));
}
/** Go into a branch, and down to where one was in it before. */
function choose(id) {
  let all = tree.select(doc.open.tree, id);
  for (let next = all.nodes[id]; next.children.length === 1; all = tree.select(all, next.id)) next = all.nodes[next.children[0]];
  doc.change(all, 'moving');
  $('area').focus();
  const end = doc.text().length;
  $('area').setSelectionRange(end, end);
}
function drawTree() {
  const all = doc.open.tree, on = new Set(tree.path(all).map(one => one.node.id));
  const item = id => {
    const node = all.nodes[id], text = node.text.trim(), chain = node.children;
    return h('li', null, h('button', {class: 'leaf ' + node.by + (on.has(id) ? ' on' : ''),
      'aria-current': id === all.current ? 'true' : null,
      onclick: () => doc.change(tree.select(doc.open.tree, id), 'moving')}, text ? text.slice(0, 60) + (text.length > 60 ? '…' : '') : '∅'),
    chain.length ? h('ul', {class: chain.length > 1 ? null : 'chain'}, chain.map(item)) : null);
  };
  fill($('tree'), h('ul', {class: 'chain', 'aria-label': t('tree')}, item(0)));
}

let here = () => {}, hereTimer = 0;
/** What is drawn when cursor, text or settings change: what could come next. */
export const onHere = act => { here = act; };
export function hereSoon(delay = 60) {
  clearTimeout(hereTimer);
  hereTimer = setTimeout(() => here(), delay);
}
/** The token boundary at or before the cursor: [index of the token that begins there, its offset]. */
export function boundary() {
  const at = cursor();
  if (known.text !== doc.text()) return null;
  const inside = known.found.find(one => one.start <= at && at < one.end && one.tokens.length);
  return inside ? [inside.tokens[0], inside.start] : [known.ids.length, known.text.length];
}

let drawing = 0;
function drawSoon() {
  cancelAnimationFrame(drawing);
  drawing = requestAnimationFrame(() => {
    drawCards();
    if ($('treebox').open) drawTree();
    $('undo').disabled = !doc.can().undo;
    $('redo').disabled = !doc.can().redo;
  });
}

export function start() {
  page = surface($('area'), $('layer'), colour);
  const area = $('area');
  area.addEventListener('input', typed);
  area.addEventListener('keydown', key);
  area.addEventListener('beforeinput', event => {
    const step = {historyUndo: undo, historyRedo: redo}[event.inputType];
    if (step) { event.preventDefault(); step(); }
  });
  area.addEventListener('mousemove', hover);
  area.addEventListener('mouseleave', () => { pointed = ''; $('tip').hidden = true; });
  for (const name of ['keyup', 'click']) area.addEventListener(name, () => hereSoon());
  area.addEventListener('blur', () => setTimeout(dropSuggestions, 100));
  document.addEventListener('selectionchange', () => { if (document.activeElement === area) hereSoon(); });
  $('generate').addEventListener('click', () => generate(1));
  $('branches').addEventListener('click', () => generate(doc.open.settings.n));
  $('stop').addEventListener('click', stop);
  $('undo').addEventListener('click', undo);
  $('redo').addEventListener('click', redo);
  $('treebox').addEventListener('toggle', drawSoon);
  doc.watch(what => {
    if (what === 'all') { stop(); known = {...known, text: '', model: ''}; }
    if (what === 'text' || what === 'all') { refresh(); drawSoon(); }
    if (what === 'settings' || what === 'all') hereSoon(0);
  });
  onChange(what => {
    if (what === 'model') { scoreSoon(0); drawLegend(); }
    if (what === 'theme') { page.repaint(); drawLegend(); drawSoon(); }
    if (what === 'language') { drawModes(); drawLegend(); drawSoon(); hereSoon(); }
  });
  drawModes();
  drawLegend();
  refresh();
  drawSoon();
}
