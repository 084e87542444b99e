// ---- Attention.

const MANY = H > 6; // then all heads stand above the chosen one, not beside it
const SIZE = MANY ? Math.max(24, Math.min(52, Math.floor(1240 / H) - 13)) : 72;
document.querySelector('.heads').classList.toggle('many', MANY);
const KINDS = [['previous', 'kp', 'the token before'], ['duplicate', 'kd', 'the same token, earlier'],
  ['induction', 'ki', 'the token after the same one, earlier']];
function thumbnail(layer, head) {
  const size = Math.min(T, 72), scale = T / size;
  const canvas = h('canvas', {width: size, height: size, 'aria-hidden': 'true'});
  canvas.draw = () => {
    const most = new Float64Array(size * size);
    const every = Math.max(1, Math.floor(scale / 2)); // of a long text, two rows a pixel
    for (let i = every - 1; i < T; i += every) {
      const shares = row(layer, head, i), line = Math.floor(i / scale) * size;
      for (let j = 0; j <= i; j++) {
        const place = line + Math.floor(j / scale);
        if (shares[j] > most[place]) most[place] = shares[j];
      }
    }
    const context = canvas.getContext('2d'), image = context.createImageData(size, size);
    const words = new Uint32Array(image.data.buffer), colours = levels256();
    most.forEach((p, k) => {
      if (k % size <= Math.floor(k / size)) words[k] = colours[Math.round(255 * Math.sqrt(p))];
    });
    context.putImageData(image, 0, 0);
  };
  return canvas;
}
const thumbs = Array.from({length: L}, (_, i) => Array.from({length: H}, (_, j) => {
  const scores = D.heads && KINDS.map(([kind, name, about]) => [name, D.heads[kind][i][j], about]);
  const marks = scores ? scores.map(([name, score], k) => score >= 0.05 && h('s', {class: name, style: {
    height: Math.round(score * (SIZE - 2)) + 'px', right: 2 + 5 * k + 'px'}})).filter(Boolean) : [];
  return h('button', {class: 'thumb', 'aria-label': 'layer ' + i + ', head ' + j,
    onclick: () => choose({layer: i, head: j}), tip: () => ['Layer ' + i + ', head ' + j, scores &&
      '\non random tokens it looks at' + scores.map(([, score, about]) => '\n' + about + ': ' +
        percent(score)).join('')].filter(Boolean)}, thumbnail(i, j), marks);
}));
$('grid').style.setProperty('--size', SIZE + 'px');
$('grid').style.gridTemplateColumns = 'repeat(' + (H + 1) + ', auto)';
fill($('grid'), h('span'), Array.from({length: H}, (_, j) => h('span', null, String(j))),
  thumbs.map((line, i) => [h('span', null, String(i)), line]));
roving($('grid'), (i, j) => thumbs[i][j], () => [state.layer, state.head], L, H,
  (layer, head) => choose({layer, head}));
view('theme', () => thumbs.flat().forEach(node => node.firstChild.draw()));
const markHead = marker(thumbs.flat());
view('layer head', () => markHead(thumbs[state.layer][state.head]));
fill($('marks'), D.heads ? [KINDS.map(([, name, about]) => [h('span', {class: name}), about]),
  '. The small bars at the right of a picture: how much of its attention a head gives there, on ' + D.heads.length +
  ' random tokens that come twice; the model then needs ' + fixed(D.heads.losses[1], 2) + ' nats a token instead of ' +
  fixed(D.heads.losses[0], 2) + '.'] : null);

// The canvas is as large as what is seen of the box, stays where it is, and draws the part that was
// scrolled to: so the names stay beside their rows, and a long text takes no larger a picture.
const canvas = h('canvas', {tabindex: 0, role: 'img', tip: pointed,
  onclick: event => { const place = cellOf(event); if (place) choose({token: place[0]}); },
  onmouseleave: () => choose({look: null}, true)});
const field = h('div', {class: 'field'}, canvas), box = $('matrix');
fill(box, field);
const M = {};
/** How large the cells are, and how much room the names need. */
function measure() {
  const context = canvas.getContext('2d');
  context.font = FONT();
  const widest = Math.max(...D.tokens.map(id => context.measureText(plain(id)).width));
  M.label = Math.min(96, Math.ceil(widest) + 10);
  M.cell = Math.max(3, Math.min(26, Math.floor((Math.max(240, box.clientWidth) - M.label - 4) / T)));
  M.every = Math.ceil(12 / M.cell); // of so many names one is written
  M.size = M.label + M.cell * T + 3;
  field.style.width = field.style.height = M.size + 'px';
  M.width = Math.min(M.size, box.clientWidth);
  M.height = Math.min(M.size, box.clientHeight);
  canvas.style.width = M.width + 'px';
  canvas.style.height = M.height + 'px';
}
const FONT = () => '11px ' + getComputedStyle(document.documentElement).getPropertyValue('--mono');
/** The pattern of one head, a pixel a cell; kept until another head or theme is chosen. */
let pattern = {};
function patternOf(layer, head) {
  const name = [layer, head, dark.matches].join();
  if (pattern.name === name) return pattern.canvas;
  const drawn = h('canvas', {width: T, height: T}), context = drawn.getContext('2d');
  const image = context.createImageData(T, T);
  const words = new Uint32Array(image.data.buffer), colours = levels256();
  for (let i = 0; i < T; i++) {
    const shares = row(layer, head, i);
    for (let j = 0; j <= i; j++) words[i * T + j] = colours[Math.round(255 * shares[j])];
  }
  context.putImageData(image, 0, 0);
  pattern = {name, canvas: drawn};
  return drawn;
}
/** Scroll until the row of the chosen token and the source that it looks at most are seen. */
function follow() {
  const shares = row(state.layer, state.head, state.token), best = shares.indexOf(Math.max(...shares));
  for (const [side, size, cell] of [['scrollLeft', M.width, best], ['scrollTop', M.height, state.token]]) {
    const seen = (size - M.label) / M.cell, first = box[side] / M.cell;
    if (cell < first || cell >= first + seen - 1) box[side] = (cell - seen / 2) * M.cell;
  }
}
function drawMatrix() {
  const ratio = window.devicePixelRatio || 1, left = box.scrollLeft, top = box.scrollTop;
  canvas.width = Math.round(M.width * ratio);
  canvas.height = Math.round(M.height * ratio);
  const context = canvas.getContext('2d'), style = getComputedStyle(document.documentElement);
  const strong = style.getPropertyValue('--ink'), faint = style.getPropertyValue('--muted');
  const looker = state.look === null ? state.token : state.look, shares = row(state.layer, state.head, looker);
  const best = shares.indexOf(Math.max(...shares)), side = M.cell * T;
  context.scale(ratio, ratio);
  context.font = FONT();
  context.textBaseline = 'middle';
  context.save();
  context.beginPath();
  context.rect(M.label - 2, M.label - 2, M.width - M.label + 2, M.height - M.label + 2);
  context.clip(); // no cell under the names
  context.translate(M.label - left, M.label - top);
  context.imageSmoothingEnabled = false;
  context.drawImage(patternOf(state.layer, state.head), 0, 0, side, side);
  if (M.cell >= 8) { // lines between the cells
    context.fillStyle = style.getPropertyValue('--paper');
    for (let i = 1; i <= T; i++) {
      context.fillRect(0, i * M.cell - 1, side, 1);
      context.fillRect(i * M.cell - 1, 0, 1, side);
    }
  }
  context.strokeStyle = style.getPropertyValue('--ring');
  context.lineWidth = 2;
  context.strokeRect(-1, looker * M.cell - 1, (looker + 1) * M.cell + 1, M.cell + 1);
  context.restore();
  const named = (i, always) => i === always || (i % M.every === 0 && Math.abs(i - always) >= M.every);
  for (let i = 0; i < T; i++) {
    const y = M.label + (i + 0.5) * M.cell - top, x = M.label + (i + 0.5) * M.cell - left;
    if (named(i, looker) && y > M.label && y < M.height) {
      context.fillStyle = i === looker ? strong : faint;
      context.textAlign = 'right';
      context.fillText(clipped(context, plain(at(i))), M.label - 6, y);
    }
    if (named(i, best) && x > M.label && x < M.width) {
      context.save();
      context.translate(x, M.label - 6);
      context.rotate(-Math.PI / 2);
      context.textAlign = 'left';
      context.fillStyle = (shares[i] || 0) > 0.08 ? strong : faint;
      context.fillText(clipped(context, plain(at(i))), 0, 0);
      context.restore();
    }
  }
  canvas.setAttribute('aria-label', 'Layer ' + state.layer + ', head ' + state.head + ': token ' + looker + ' ' +
    plain(at(looker)) + ' looks most at token ' + best + ' ' + plain(at(best)) + ', ' + percent(shares[best]));
  fill($('headname'), 'Layer ' + state.layer + ', head ' + state.head,
    h('span', {class: 'muted'}, '  0% ', h('span', {class: 'legend', style: {display: 'inline-flex', gap: 0}},
      swatches(blue, 0)), ' 100%'));
}
function clipped(context, text) {
  let shown = text;
  while (shown.length > 1 && context.measureText(shown).width > M.label - 8) {
    shown = Array.from(shown).slice(0, -1).join('');
  }
  return shown.length < text.length ? Array.from(shown).slice(0, -1).join('') + '…' : text;
}
function cellOf(event) {
  const here = canvas.getBoundingClientRect();
  const x = event.clientX - here.left - M.label, y = event.clientY - here.top - M.label;
  const j = x < 0 ? -1 : Math.floor((x + box.scrollLeft) / M.cell), i = Math.floor((y + box.scrollTop) / M.cell);
  return y >= 0 && i < T && j < T ? [i, j] : null;
}
function pointed(event) {
  const place = cellOf(event);
  choose({look: place ? place[0] : null}, true);
  if (!place || place[1] < 0) return null;
  const [i, j] = place;
  const who = [h('b', null, word(at(i))), ' (' + i + ') ', j > i ? 'cannot see' : 'looks at', ' ', h('b', null, word(at(j))),
    ' (' + j + ')'];
  if (j > i) return [...who, ': it comes later'];
  const scaled = score(state.layer, state.head, i, j);
  return [...who, ': ' + percent(row(state.layer, state.head, i)[j]) + '\nq·k ' +
    significant(scaled / D.attention.scale[state.layer], 4) + ', scaled ' + significant(scaled, 4)];
}
canvas.addEventListener('keydown', event => {
  const by = {ArrowUp: -1, ArrowDown: 1}[event.key];
  if (!by || event.shiftKey) return;
  event.preventDefault();
  move('token', by);
});
view('size', measure);
view('token layer head size', () => afterwards.add(follow));
view('token layer head look theme size', () => afterwards.add(drawMatrix));
box.addEventListener('scroll', drawMatrix);

const SUMROWS = 60; // a table of 500 sources takes longer to lay out than a key press should
/** The arithmetic of the chosen token's look back, source by source. */
function drawSums() {
  const i = state.token, {layer, head} = state, scale = D.attention.scale[layer];
  const shares = row(layer, head, i);
  const scores = Array.from(shares, (_, j) => score(layer, head, i, j)), most = Math.max(...scores);
  const rows = scores.map((x, j) => ({j, x, p: shares[j], e: Math.exp(x - most)}));
  const total = rows.reduce((sum, one) => sum + one.e, 0);
  if (state.order === 'share') rows.sort((a, b) => b.p - a.p);
  const rest = state.order === 'share' ? rows.splice(SUMROWS) : rows.splice(0, Math.max(0, rows.length - SUMROWS));
  fill($('sumname'), 'Where ', word(at(i)), ' looks, written out');
  const head1 = ['source', 'q·k', '× scale', 'exp(x − max)', 'softmax'];
  fill(sumTable, h('thead', null, h('tr', null, head1.map((name, k) => h('th', {class: k ? 'num' : null}, name)))),
    h('tbody', null, rows.map(({j, p, x, e}) => h('tr', {class: j === i ? 'mine' : null},
      h('td', null, h('span', {class: 'muted'}, j + ' '), word(at(j))), h('td', {class: 'num'}, fixed(x / scale, 3)),
      h('td', {class: 'num'}, fixed(x, 3)), h('td', {class: 'num'}, significant(e, 4)),
      h('td', {class: 'num'}, h('span', {class: 'bar', style: {width: Math.round(40 * p) + 'px'}}),
        (100 * p).toFixed(2) + '%')))));
  const left = rest.length ? plural(rest.length, state.order === 'share' ? 'weaker source' : 'earlier source') +
    ' not listed: ' + (100 * rest.reduce((sum, one) => sum + one.p, 0)).toFixed(2) + '%. ' : '';
  fill(sumNote, left, 'Scale ' + significant(scale, 4) + ', largest ' + fixed(most, 3) + '; the ' + plural(i + 1, 'exponential') +
    ' sum' + (i ? '' : 's') + ' to ' + significant(total, 5) + '. ',
  i + 1 < T ? 'The mask gives the ' + plural(T - i - 1, 'later token') + ' a score of −1e10, whose exponential is 0.' : '');
}
const sumTable = h('table'), sumNote = h('p', {class: 'small muted'}), sumOrder = h('div', {class: 'small'});
fill($('sums'), sumOrder, h('div', {class: 'sumtable', tabindex: 0, role: 'group', 'aria-label': 'the arithmetic'}, sumTable), sumNote);
choices(sumOrder, 'order', 'order of the sources', [['place', 'in order'], ['share', 'strongest first']]);
view('token layer head order theme', drawSums, 'sums');
