// ---- The flow.

const F = D.flow, STAGES = Object.fromEntries(F.stages.map(stage => [stage.id, stage]));
const ATTENTION = ['ln_1', 'c_attn', 'split_heads', 'dots', 'scale', 'mask', 'softmax', 'mix',
  'merge_heads', 'attn_proj'];
const MLP = ['ln_2', 'c_fc', 'act', 'mlp_proj'];
const stageAt = (id, layer) => STAGES[id].at[STAGES[id].at.length === 1 ? 0 : layer];
/** The values that a stage made: those of its line, or what its call gave. */
function made(call, line) {
  const found = line ? F.calls[call].seen[line] : null;
  return found && found.length ? found : F.calls[call].outputs;
}
const PICTURES = [];
/** A small picture of a value: 128 is zero, orange below and blue above, nothing where masked. */
function picture(value) {
  const [index, rows, columns] = F.values[value][8];
  if (index === undefined) return null;
  const levels = PICTURES[index] || (PICTURES[index] = bytes(F.pictures[index]));
  const canvas = h('canvas', {class: 'pic', width: columns, height: rows, 'aria-hidden': 'true'});
  const context = canvas.getContext('2d'), image = context.createImageData(columns, rows);
  const words = new Uint32Array(image.data.buffer), colours = colourOf('signed', k => diverging((k - 128) / 127));
  levels.forEach((level, i) => { words[i] = level ? colours[level] : 0x3c808080; });
  context.putImageData(image, 0, 0);
  return canvas;
}
const range = value => significant(value[4], 4) + ' … ' + significant(value[5], 4);
function describe(index) {
  const v = F.values[index];
  if (v[9]) return v[0] + ' = ' + v[9];
  return [h('b', null, v[0]), '  ' + shape(v[2]) + ' ' + v[3] + (v[1] ? ', the parameter ' + v[1] : '') +
    '\nfrom ' + (v[4] === null ? '?' : range(v)) + (v[6] ? ', what is masked left out' : '') +
    (v[7] > 1 ? '\nmade ' + v[7] + ' times by this line; this is the last' : '') +
    (v[8].length ? '\nThe picture: each of its ' + v[8][1] + ' x ' + v[8][2] +
      ' cells is the number of largest size there, orange below zero, blue above, the strongest ±' +
      significant(v[8][3] || 0, 4) + '.' : '')];
}
function value(index) {
  const v = F.values[index];
  const text = v[9] ? v[9] : shape(v[2]) + (v[4] === null ? '' : '  ' + range(v));
  return h('span', {class: 'value', tip: () => describe(index)}, h('b', null, v[0]), ' ' + text, picture(index));
}
function step(id, kind) {
  const [call, line] = stageAt(id, state.layer), outputs = made(call, line), stage = STAGES[id];
  const first = outputs.find(one => F.values[one][8].length) ?? outputs[0];
  const v = first === undefined ? null : F.values[first];
  const chosen = state.call === call && state.line === line && state.stage === id;
  const axes = v && v[2].length ? shape(v[2]) : v ? v[9].slice(0, 8) : '';
  return h('button', {class: kind + (chosen ? ' on' : ''), 'aria-pressed': String(chosen), 'data-stage': id,
    tip: () => stage.about, onclick: () => choose({stage: id, call, line})},
  h('span', null, stage.label), h('span', {class: 'mono'}, axes), first === undefined ? null : picture(first));
}
/** What the lens says after a layer at the chosen token: how far the answer has come there. */
let saying = [];
function says(place) {
  const node = h('span', {class: 'muted'});
  saying.push([place, node]);
  return node;
}
function drawSays() {
  for (const [place, node] of saying) {
    fill(node, 'lens ', word(D.lens.best[place][state.token][0]), ' ' + percent(D.lens.p[place][state.token][0]));
  }
}
function openLayer(i) {
  const branch = (ids, add, extra) => h('div', {class: 'branch'}, ids.map(id => step(id, 'step')), extra,
    step(add, 'step'), h('span', {class: 'plus', 'aria-hidden': 'true'}, '+'));
  return h('div', {class: 'layer', role: 'group', 'aria-label': 'layer ' + i},
    h('p', null, h('span', null, 'h.' + i), says(i + 1)),
    branch(ATTENTION, 'attn_add', step('present', 'step out')),
    branch(MLP, 'mlp_add', null));
}
function drawStream() {
  saying = [];
  const focused = document.activeElement && document.activeElement.dataset.stage;
  const layers = Array.from({length: L}, (_, i) => (i === state.layer ? openLayer(i)
    : h('button', {class: 'stop' + (L > 16 ? ' slim' : ''), onclick: () => choose({layer: i}),
      tip: () => 'Open layer ' + i}, 'h.' + i, says(i + 1))));
  fill($('stream'), step('embed', 'stop'), layers, step('ln_f', 'stop'), step('logits', 'stop'));
  drawSays();
  if (focused) {
    const again = $('stream').querySelector('[data-stage="' + focused + '"]');
    if (again) again.focus({preventScroll: true});
  }
}
view('layer stage call line theme', drawStream, 'stream');
view('token', drawSays, 'stream');

/** A line of Python with comments and strings set apart; enough for reading. */
function code(text) {
  const found = text.match(/^(.*?)(\s*#.*)?$/), parts = found[1].split(/("[^"]*")/);
  return [parts.map((part, i) => (i % 2 ? h('b', null, part) : part)), found[2] ? h('i', null, found[2]) : null];
}
function callers(index) {
  const found = [];
  for (let i = index, depth = F.calls[index].depth; i >= 0 && depth >= 0; i--) {
    if (F.calls[i].depth === depth) { found.unshift(i); depth--; }
  }
  return found;
}
function callees(index) {
  const found = [], depth = F.calls[index].depth;
  for (let i = index + 1; i < F.calls.length && F.calls[i].depth > depth; i++) {
    if (F.calls[i].depth === depth + 1) found.push(i);
  }
  return found;
}
function link(index) {
  const call = F.calls[index], owner = call.scope.split('.').pop();
  const name = F.sources[call.source].name;
  const more = call.scope && !/^\d+$/.test(owner) && owner !== name ? ' (' + owner + ')' : '';
  return h('button', {onclick: () => choose({call: index, line: 0, stage: '', layer: call.layer ?? state.layer})},
    name + more);
}
const between = (nodes, sign) => nodes.flatMap((node, i) => (i ? [sign, node] : [node]));
function drawPanel() {
  const call = F.calls[state.call], source = F.sources[call.source], stage = STAGES[state.stage];
  const outputs = made(state.call, state.line);
  const key = stage && stage.key.replace('{}', state.layer), hook = stage && stage.hook.replace('{}', state.layer);
  const inner = callees(state.call);
  fill($('panel'),
    h('p', {class: 'crumbs'}, between(callers(state.call).map(link), ' › ')),
    h('h3', null, stage ? stage.label : source.name, h('span', {class: 'muted'}, '  ' + (call.scope || 'the whole model'))),
    h('p', null, stage ? stage.about : source.about),
    h('div', {class: 'io'}, h('span', {class: 'muted'}, 'in'), h('div', null, call.inputs.map(value)),
      h('span', {class: 'muted'}, 'out'), h('div', null, outputs.map(value))),
    h('div', {class: 'source', tabindex: 0, role: 'group', 'aria-label': 'source of ' + source.name},
      source.lines.map(([number, text]) => h('div', {class: number === state.line ? 'here' : null},
        h('span', {class: 'no'}, String(number)), h('code', null, code(text)),
        call.seen[number] && h('span', {class: 'saw'}, call.seen[number].map(value))))),
    inner.length ? h('p', {class: 'crumbs'}, 'It calls ', between(inner.map(link), ', ')) : null,
    h('p', {class: 'small muted'}, source.name + ' of gpt2lab/reference.py, as it is installed, with the values of this text. ',
      key ? ['Its result is ', h('span', {class: 'mono'}, key), ' of a trace',
        hook ? [', ', h('span', {class: 'mono'}, hook), ' in TransformerLens'] : '', '. '] : null));
}
view('call line stage theme', () => {
  drawPanel();
  const here = $('panel').querySelector('.here');
  $('panel').scrollTop = here ? Math.max(0, here.offsetTop - $('panel').clientHeight / 2) : 0;
}, 'panel');
/** In another layer the same step stays open: every layer makes the same calls. */
view('layer', () => {
  const call = F.calls[state.call];
  if (call.layer === null || call.layer === state.layer) return;
  const moved = state.call - F.parts[call.layer] + F.parts[state.layer];
  choose({call: moved}, true);
});
