// ---- The logit lens.

const N = D.lens.keys.length, X = D.lens;
const short = key => key.replace('resid_', '');
const LENS = {
  probability: (n, i) => blue(X.p[n][i][0]),
  entropy: (n, i) => warm(X.entropy[n][i] / Math.log(C.n_vocab)),
  rank: (n, i) => blue(1 - bucket(X.target_rank[n][i]) / 4),
  kl: (n, i) => warm(X.kl[n][i] / 10),
};
const LENSLEGENDS = {
  probability: () => ['0%', swatches(blue, 0), '100% for the most probable token'],
  entropy: () => ['0', swatches(warm, 0), fixed(Math.log(C.n_vocab), 1) + ' nats of entropy'],
  rank: () => [RANKS.map(([, name], i) => [h('span', {style: {background: css(blue(1 - i / 4))}}), name]),
    ': rank of what follows'],
  kl: () => ['0', swatches(warm, 0), '10 nats or more from the final distribution (KL)'],
};
const cells = X.best.map((line, n) => line.map((best, i) => h('button', {class: 'cell', tip: () => lensTold(n, i),
  onclick: () => pin(n, i)}, word(best[0]))));
function pin(n, i) { choose({token: i, layer: Math.max(n - 1, 0), pinned: X.best[n][i][0]}); }
function lensTold(n, i) {
  return [X.keys[n] + ' at token ' + i + ' ', h('b', null, word(at(i))), X.best[n][i].map((id, k) =>
    ['\n' + percent(X.p[n][i][k]).padEnd(9) + ' ', word(id)]), '\n' + (i + 1 < T ? 'what follows, ' : 'the most probable, '),
  h('b', null, word(X.targets[i])), ': ' + percent(X.target_p[n][i]) + ', rank ' + X.target_rank[n][i].toLocaleString('en') +
    '\nentropy ' + fixed(X.entropy[n][i], 3) + ', KL to the final ' + fixed(X.kl[n][i], 3) + ' nats'];
}
const lensHeads = D.tokens.map(id => h('th', {scope: 'col'}, word(id)));
const lensSides = X.keys.map((key, n) => h('th', {scope: 'row', tip: () => [n ? 'After layer ' + (n - 1) : 'Before layer 0', ': ' + key]}, short(key)));
const lensFeet = X.targets.map((id, i) => h('th', {tip: () => (i + 1 < T ? 'the token that follows' : 'the most probable') +
  '; the lens says the final token from ' + short(X.keys[X.depths[i]]) + ' on'}, word(id)));
fill($('lenstable'), h('thead', null, h('tr', null, h('th'), lensHeads)),
  h('tbody', null, cells.map((line, n) => h('tr', null, lensSides[n], line.map(cell => h('td', null, cell))))),
  h('tfoot', null, h('tr', null, h('th', null, 'follows'), lensFeet)));
roving($('lenstable'), (n, i) => cells[n][i], () => [state.layer + 1, state.token], N, T, pin);
choices($('lensmodes'), 'lens', 'colour of the lens', [['probability', 'probability'], ['entropy', 'entropy'],
  ['rank', 'rank of what follows'], ['kl', 'distance']]);
view('lens theme', () => {
  cells.forEach((line, n) => line.forEach((cell, i) => paint(cell, LENS[state.lens](n, i))));
  fill($('lenslegend'), LENSLEGENDS[state.lens]());
});
const markCell = marker(cells.flat()), revealCell = () => reveal(cells[state.layer + 1][state.token]);
let hit = [];
view('token layer', () => {
  markCell(cells[state.layer + 1][state.token]);
  hit.forEach(node => node.classList.remove('hit'));
  hit = [lensHeads[state.token], lensFeet[state.token], lensSides[state.layer + 1]];
  hit.forEach(node => node.classList.add('hit'));
  afterwards.add(revealCell);
});
let pins = [], curveWidth = 0;
function drawCurve() {
  const {ids, p} = X.pinned[state.token];
  const wanted = ids.includes(state.pinned) ? state.pinned : X.targets[state.token];
  pins.forEach(cell => cell.classList.remove('pin'));
  pins = cells.map(line => line[state.token]).filter((_, n) => X.best[n][state.token][0] === wanted);
  pins.forEach(cell => cell.classList.add('pin'));
  const k = ids.indexOf(wanted);
  const width = Math.max(300, curveWidth), narrow = width < 560; // then the name stands above
  const height = 250, left = 54, top = 24, foot = 30;
  const right = narrow ? 14 : 90 + Math.min(24, plain(wanted).length) * 8;
  const least = 1e-8, log = state.axis === 'log';
  const x = n => left + (N > 1 ? n / (N - 1) : 0.5) * (width - left - right);
  const share = q => (log ? 1 + Math.log10(Math.max(q, least)) / 8 : q);
  const y = q => top + (1 - share(q)) * (height - top - foot);
  const path = m => p.map((line, n) => (n ? 'L' : 'M') + x(n).toFixed(1) + ' ' + y(line[m]).toFixed(1)).join('');
  const ticks = log ? [1, 1e-2, 1e-4, 1e-6, 1e-8] : [0, 0.25, 0.5, 0.75, 1];
  const every = Math.ceil(N / ((width - left - right) / 50));
  const lines = ids.map((_, m) => m).sort((a, b) => (a === k) - (b === k));
  const svg = s('svg', {viewBox: '0 0 ' + width + ' ' + height, role: 'img', 'aria-label': 'Probability of ' + plain(wanted) +
    ' after each layer: ' + p.map(line => percent(line[k])).join(', ')},
  ticks.map(q => [s('line', {class: 'axis', x1: left, x2: width - right, y1: y(q), y2: y(q)}),
    s('text', {x: left - 8, y: y(q) + 4, 'text-anchor': 'end'}, log ? (q === 1 ? '1' : '10' + raised(Math.log10(q))) : 100 * q + '%')]),
  X.keys.map((key, n) => (n % every === 0 || n === N - 1) && s('text', {x: x(n), y: height - 8, 'text-anchor': 'middle'},
    n ? 'h.' + (n - 1) : 'in')).filter(Boolean),
  lines.map(m => s('path', {class: m === k ? 'curve pinned' : 'curve', d: path(m)})),
  narrow ? [] : ends(lines.filter(m => m !== k).map(m => [y(p[N - 1][m]), plain(ids[m])]), y(p[N - 1][k]), top, height - foot)
    .map(([place, name]) => s('text', {x: x(N - 1) + 12, y: place + 4}, name)),
  p.map((line, n) => s('circle', {cx: x(n), cy: y(line[k]), r: 4, tip: () => [X.keys[n] + '\n', word(wanted), ' ' + percent(line[k])]})),
  s('text', {class: 'pinnedtext', x: x(N - 1) + (narrow ? 6 : 12), y: Math.min(y(p[N - 1][k]) + (narrow ? -9 : 4), height - foot),
    'text-anchor': narrow ? 'end' : 'start'}, plain(wanted) + ' ' + percent(p[N - 1][k])));
  fill(curveTitle, 'After token ' + state.token + ' ', word(at(state.token)), ': the probability of ', word(wanted), ' from layer to layer');
  fill(curveChips, ids.map((id, m) => [id, p[N - 1][m]]).sort((a, b) => b[1] - a[1]).map(([id]) =>
    h('button', {'aria-pressed': String(id === wanted), onclick: () => choose({pinned: id})}, word(id))));
  fill(curveBox, svg);
}
/** Where names at the ends of lines go, so that none lies on another: [place, name], as many as fit. */
function ends(wanted, taken, low, high) {
  const places = [taken], found = [];
  for (const [y, name] of wanted) {
    const free = Array.from({length: 40}, (_, k) => y + (k % 2 ? -1 : 1) * 7 * Math.ceil(k / 2))
      .find(at => at >= low && at <= high && places.every(other => Math.abs(other - at) >= 13));
    if (free !== undefined) { places.push(free); found.push([free, name]); }
  }
  return found;
}
const raised = power => String(power).replace(/[-\d]/g, c => (c === '-' ? '⁻' : '⁰¹²³⁴⁵⁶⁷⁸⁹'[c]));
const curveTitle = h('h3', {style: {margin: 0}}), curveChips = h('div', {class: 'chips'}), curveBox = h('div'), curveAxis = h('div');
fill($('curve'), h('div', {class: 'head'}, curveTitle, curveAxis), curveChips, curveBox,
  h('p', {class: 'small muted'}, 'The lines are exact. Shown: the token that follows, and each token that is first at some layer.'));
choices(curveAxis, 'axis', 'scale of the curve', [['linear', 'linear'], ['log', 'logarithmic']]);
view('size', () => { curveWidth = curveBox.clientWidth; });
view('token pinned axis theme size', drawCurve, 'curve');
