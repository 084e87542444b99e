// ---- What adds to the logit.

const A = D.attribution, PLACES = Object.fromEntries(A.labels.map((label, i) => [label, i]));
function shares() {
  const best = A.predicted[state.token], next = A.follows[state.token];
  if (state.target === 'predicted' || !next) return {...best, name: [word(best.token)]};
  if (state.target === 'follows') return {...next, name: [word(next.token)]};
  return {logit: best.logit - next.logit, values: best.values.map((x, i) => x - next.values[i]),
    name: [word(best.token), ' over ', word(next.token)]};
}
function ofLayer(values, i) {
  const heads = Array.from({length: H}, (_, j) => values[PLACES['h.' + i + '.head.' + j]]);
  const bias = values[PLACES['h.' + i + '.attn.c_proj.bias']], mlp = values[PLACES['h.' + i + '.mlp_out']];
  return {heads, bias, mlp, attention: heads.reduce((a, b) => a + b, bias)};
}
function side(value, most) {
  const part = h('div', {class: 'bar' + (value < 0 ? ' minus' : ''), style: {width: 100 * Math.abs(value) / most + '%'}});
  return h('div', {class: 'sides'}, h('div', null, value < 0 ? part : ''), h('div', null, value < 0 ? '' : part));
}
function drawParts() {
  const {logit, values, name} = shares(), layers = Array.from({length: L}, (_, i) => ofLayer(values, i));
  const ends = label => [label, values[PLACES[label]], null];
  const rows = [ends('embed'), ends('pos_embed'), ...layers.flatMap((one, i) => [
    ['h.' + i + ' attention', one.attention, i], ['h.' + i + ' MLP', one.mlp, i]]), ends('ln_f.bias'),
  ...('acts' in PLACES ? [ends('acts')] : [])];
  const most = Math.max(1e-9, ...rows.map(one => Math.abs(one[1])));
  const total = values.reduce((a, b) => a + b, 0);
  const best = A.predicted[state.token], next = A.follows[state.token];
  const note = state.target === 'predicted' ? '' : !next ? 'The text ends here, so the most probable token is shown. '
    : next.token === best.token ? 'Here the most probable token is the one that follows. ' : '';
  fill($('sum'), note, 'At token ' + state.token + ' ', word(at(state.token)), ', towards ', name, ': the parts sum to ' + fixed(total, 4) +
    ', the logit is ' + fixed(logit, 4) + (state.target === 'over' && next ? ' more' : '') + '. ',
  h('span', {class: 'muted'}, 'What differs in the last decimal is rounding.'));
  fill($('bylayer'), h('h3', null, 'By layer'), h('table', {class: 'diverging'}, rows.map(([label, x, layer]) =>
    h('tr', {class: layer === state.layer ? 'lit' : null}, h('td', null, label), h('td', null, side(x, most)),
      h('td', {class: 'num'}, signed(x))))));
  drawHeads(layers);
}
let parts = [];
function drawHeads(layers) {
  const table = layers.map(one => [...one.heads, one.bias, one.mlp]);
  const most = Math.max(1e-9, ...table.flat().map(Math.abs));
  const names = [...Array.from({length: H}, (_, j) => String(j)), 'bias', 'MLP'];
  parts = table.map((line, i) => line.map((x, j) => {
    const what = j < H ? 'head ' + j : names[j];
    const node = h('button', {class: 'part', 'aria-label': 'layer ' + i + ', ' + what + ': ' + signed(x), tip: () => 'Layer ' + i + ', ' + what + ': ' + signed(x),
      onclick: () => choose(j < H ? {layer: i, head: j} : {layer: i})}, fixed(x, 2));
    paint(node, diverging(x / most));
    mark(node, i === state.layer && j === state.head);
    return node;
  }));
  $('byhead').style.setProperty('--part', MANY ? '37px' : '42px');
  fill($('byhead'), h('h3', null, 'By head ', h('span', {class: 'muted'}, 'layers down, heads across')),
    h('div', {class: 'scroll'}, h('table', null, h('tr', null, h('th'), names.map(name => h('th', null, name))),
      parts.map((line, i) => h('tr', null, h('th', null, String(i)), line.map(node => h('td', null, node)))))),
    h('p', {class: 'legend', style: {marginTop: '10px'}}, fixed(-most, 2), swatches(diverging, -1), fixed(most, 2)));
}
roving($('byhead'), (i, j) => parts[i][j], () => [state.layer, state.head], L, H, (layer, head) => choose({layer, head}));
choices($('targets'), 'target', 'which logit', [['predicted', 'the most probable token'], ['follows', 'the token that follows'],
  ['over', 'most probable over follows']]);
view('token target layer head theme', drawParts, 'byhead');
