// ---- The bar: the text and what is chosen.

const SURPRISING = 8; // nats; see show.py
const RANKS = [[1, '1'], [10, 'to 10'], [100, 'to 100'], [1000, 'to 1,000'], [Infinity, 'beyond']];
const bucket = rank => RANKS.findIndex(([limit]) => rank <= limit);
const MODES = {
  surprisal: e => warm(e.surprisal / SURPRISING),
  rank: e => warm(bucket(e.rank) / 4),
  entropy: e => warm(e.entropy / Math.log(C.n_vocab)),
};
const LEGENDS = {
  surprisal: () => ['0', swatches(warm, 0), SURPRISING + ' nats of surprise or more'],
  rank: () => RANKS.map(([, name], i) =>
    [h('span', {style: {background: css(warm(i / 4))}}), name]),
  entropy: () => ['0', swatches(warm, 0), fixed(Math.log(C.n_vocab), 1) +
    ' nats of uncertainty before the token'],
};
const tokens = D.tokens.map((id, i) => {
  const node = h('button', {class: 'tok', role: 'option', tip: () => told(i),
    onclick: () => choose({token: i})}, word(id), h('u'));
  return node;
});
function told(i) {
  const e = D.expected[i], title = [h('b', null, word(at(i))), '  token ' + i + ', id ' + at(i)];
  if (!e) return [...title, '\nThe first token: nothing expected it.'];
  return [...title, '\nprobability ' + percent(e.p) + ', rank ' + e.rank.toLocaleString('en') +
    '\nsurprisal ' + fixed(e.surprisal, 4) + ' nats, entropy ' + fixed(e.entropy, 4)];
}
choices($('modes'), 'mode', 'colour of the text', [['surprisal', 'surprise'], ['rank', 'rank'], ['entropy', 'uncertainty']]);
fill($('text'), D.tokens.map((id, i) =>
  [tokens[i], plain(id).includes('↵') ? h('br') : null]));
roving($('text'), (_, i) => tokens[i], () => [0, state.token], 1, T, (_, i) => choose({token: i}));
function drawText() {
  D.expected.forEach((e, i) => {
    if (e) paint(tokens[i], MODES[state.mode](e));
    else Object.assign(tokens[i].style, {background: '', color: ''});
  });
  fill($('legend'), LEGENDS[state.mode](), h('u'), 'where the chosen head looks');
}
const looked = new Float64Array(T);
function drawLooks() {
  const from = state.look === null ? state.token : state.look;
  const shares = row(state.layer, state.head, from);
  tokens.forEach((node, i) => {
    const width = Math.round(1000 * (shares[i] || 0)) / 10;
    if (width !== looked[i]) node.lastChild.style.width = (looked[i] = width) + '%';
  });
}
view('mode theme', drawText);
view('token layer head look', drawLooks);
const markToken = marker(tokens), revealToken = () => reveal(tokens[state.token]);
view('token size', () => {
  markToken(tokens[state.token]);
  afterwards.add(revealToken);
});
const steppers = Object.keys(LIMITS).map(name => {
  const value = h('b');
  view(name, () => { value.textContent = state[name]; });
  const step = (by, sign, word) =>
    h('button', {'aria-label': word + ' ' + name, onclick: () => move(name, by)}, sign);
  return h('span', null, name + ' ', step(-1, '‹', 'previous'), value, step(1, '›', 'next'));
});
fill($('steppers'), steppers);
document.addEventListener('keydown', event => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.target.closest('input, #panel')) return;
  const moves = event.shiftKey
    ? {ArrowLeft: ['head', -1], ArrowRight: ['head', 1],
      ArrowUp: ['layer', -1], ArrowDown: ['layer', 1]}
    : {ArrowLeft: ['token', -1], ArrowRight: ['token', 1]};
  if (!moves[event.key]) return;
  event.preventDefault();
  move(...moves[event.key]);
});

// ---- What was expected, and what comes next.

const TEMPERATURES = Array.from({length: 20}, (_, i) => (i + 1) / 10);
/** The probabilities after token i of the most probable ids, and of all others together. */
function spread(i, temperature) {
  const {logits, rest} = D.next[i];
  if (temperature === 0) return {p: logits.map((_, k) => Number(k === 0)), others: 0};
  const scaled = logits.map(x => x / TEMPERATURES[temperature - 1]);
  const other = rest[temperature - 1];
  const most = Math.max(scaled[0], other === null ? -Infinity : other);
  const p = scaled.map(x => Math.exp(x - most));
  const others = other === null ? 0 : Math.exp(other - most);
  const total = p.reduce((a, b) => a + b, others);
  return {p: p.map(x => x / total), others: others / total};
}
const bar = (share, extra) =>
  h('div', {class: 'bar ' + (extra || ''), style: {width: 100 * share + '%'}});

function drawToken() {
  const i = state.token, e = D.expected[i];
  const title = h('h3', null, 'Token ' + i + ': ', word(at(i)),
    h('span', {class: 'muted'}, '  id ' + at(i)));
  if (!e) {
    fill($('token'), title, h('p', {class: 'muted'}, 'The first token: nothing stands before it, ' +
      'so nothing expected it.'));
    return;
  }
  const facts = [
    ['probability', percent(e.p)],
    ...(D.plain ? [['without the act', percent(D.plain.expected[i])]] : []),
    ['rank', e.rank.toLocaleString('en') + ' of ' + C.n_vocab.toLocaleString('en')],
    ['surprisal', fixed(e.surprisal, 4) + ' nats, ' + fixed(e.surprisal / Math.LN2, 4) + ' bits'],
    ['entropy', fixed(e.entropy, 4) + ' nats: as unsure as among ' +
      significant(Math.exp(e.entropy), 3) + ' equally likely'],
  ];
  const {p} = spread(i - 1, 10), before = D.next[i - 1].ids;
  const likelier = before.slice(0, Math.min(e.rank - 1, 8));
  fill($('token'), title,
    h('dl', {class: 'facts'}, facts.map(([name, value]) => [h('dt', null, name), h('dd', null, value)])),
    likelier.length
      ? [h('h3', null, 'Likelier were'), h('table', {class: 'bars'}, likelier.map((id, k) =>
        h('tr', null, h('td', {class: 'num muted'}, String(k + 1)), h('td', null, word(id)),
          h('td', null, bar(p[k])), h('td', {class: 'num'}, percent(p[k])))))]
      : h('p', {class: 'muted'}, 'No token was likelier: greedy writing would have written it.'));
}
view('token theme', drawToken);

/** The whole text in one card: how likely it is, and at which ranks its tokens stood. */
function drawWhole() {
  const known = D.expected.filter(Boolean), total = D.total;
  if (!known.length) { fill($('whole'), h('p', {class: 'muted'}, 'A text of one token has nothing that was expected.')); return; }
  const mean = total / known.length, counts = RANKS.map((_, k) => known.filter(e => bucket(e.rank) === k).length);
  fill($('whole'), h('h3', null, 'The whole text'),
    h('p', {class: 'small'}, fixed(total, 4) + ' nats over the ' + plural(known.length, 'token') + ' after the first: ' +
      fixed(mean, 4) + ' a token, perplexity ' + significant(Math.exp(mean), 4) + '. Ranks of the tokens:'),
    h('table', {class: 'bars'}, counts.map((count, k) => h('tr', null, h('td', {class: 'muted'}, RANKS[k][1]), h('td', {class: 'num'}, String(count)),
      h('td', null, h('div', {class: 'bar', style: {width: 100 * count / known.length + '%', background: css(warm(k / 4)),
        boxShadow: 'inset 0 0 0 1px var(--line)'}})), h('td', {class: 'num'}, Math.round(100 * count / known.length) + '%')))));
}
view('theme', drawWhole);

const heat = h('output', {class: 'num'});
const slider = h('input', {type: 'range', min: 0, max: 20, step: 1, value: 10, id: 'heat',
  'aria-label': 'temperature', oninput: () => choose({temperature: Number(slider.value)})});
const nextTitle = h('h3'), nextTable = h('table', {class: 'bars'}), nextNote = h('p', {class: 'small muted'});
fill($('next'), nextTitle, h('label', {class: 'slider'}, 'temperature ', slider, heat), nextTable, nextNote);
function drawNext() {
  const i = state.token, {ids, entropy} = D.next[i], {p, others} = spread(i, state.temperature);
  const written = i + 1 < T ? at(i + 1) : null;
  const shown = Math.min(20, ids.length);
  const left = others + p.slice(shown).reduce((a, b) => a + b, 0);
  heat.textContent = state.temperature ? TEMPERATURES[state.temperature - 1].toFixed(1) : '0: greedy';
  fill(nextTitle, 'After token ' + i + ' ', word(at(i)), h('span', {class: 'muted'},
    '  entropy ' + fixed(entropy, 4) + ' nats'));
  fill(nextTable,
    D.plain && h('tr', null, ['', '', '', 'acted', 'plain'].map(name => h('th', {class: 'num', tip: name === 'plain' ?
      () => 'the model without the act, at temperature 1' : null}, name))),
    ids.slice(0, shown).map((id, k) => h('tr', {class: id === written ? 'mine' : null,
      tip: () => [h('b', null, word(id)), '  id ' + id + '\nlogit ' + fixed(D.next[i].logits[k], 4) +
        '\nprobability ' + percent(p[k])]},
    h('td', {class: 'num muted'}, String(k + 1)), h('td', null, word(id)),
    h('td', null, bar(p[k])), h('td', {class: 'num'}, percent(p[k])),
    D.plain && h('td', {class: 'num muted'}, percent(D.plain.next[i][k])))),
    C.n_vocab > shown && h('tr', {class: 'rest'}, h('td'), h('td', {class: 'muted'},
      'all ' + (C.n_vocab - shown).toLocaleString('en') + ' others'),
    h('td', null, bar(left)), h('td', {class: 'num'}, percent(left))));
  nextNote.textContent = (written === null ? 'The text ends here. '
    : ids.slice(0, shown).includes(written) ? 'The marked one is what follows in the text. ' : '') +
    'Exact at every temperature on the slider: what the other tokens have together was computed for each.';
}
view('token temperature theme', drawNext);
