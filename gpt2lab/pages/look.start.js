// ---- The rest of the page.

$('name').textContent = D.model.name;
if (D.model.acts.length) {
  $('acts').hidden = false;
  $('acts').textContent = 'Changed model: ' + D.model.acts.join('; ') + '. The plain model’s numbers stand beside.';
}
$('about').textContent = [plural(T, 'token'), plural(L, 'layer'), plural(H, 'head') + ' of ' + D.model.head_width, C.n_embd + ' wide',
  'vocabulary ' + C.n_vocab.toLocaleString('en'), 'window ' + C.n_ctx.toLocaleString('en'),
  plural(D.model.parameters, 'parameter'), (D.model.tied ? 'tied' : 'own') + ' head', D.model.dtype].join(' · ') +
  (D.model.text ? '' : ' · no tokenizer: ids are shown');
fill($('notes'),
  h('p', null, h('b', null, 'Keys. '), h('kbd', null, '←'), ' ', h('kbd', null, '→'), ' token, ', h('kbd', null, 'Shift'), ' with ',
    h('kbd', null, '↑'), ' ', h('kbd', null, '↓'), ' layer, with ', h('kbd', null, '←'), ' ', h('kbd', null, '→'),
    ' head; in a table all four arrows move. The address of the page remembers what is chosen.'),
  h('p', null, h('b', null, 'Numbers. '), 'All were computed from this model’s weights by gpt2lab’s reference in ' + D.model.dtype +
    ' and are in this file. Probabilities have four digits, logits four decimals, what adds to them six. ' + (EXACT ?
    'Scaled scores are here as they are, in 32 bits' : 'Queries and keys are here in 12 bits, and scores are their products, to about a thousandth') +
    '; this page makes the patterns of them. Logarithms are natural: 1 nat is 1.44 bits.'),
  h('p', null, h('b', null, 'After. '), 'Logit lens: nostalgebraist 2020. Shares of a logit: Elhage et al. 2021. Scores of heads: Olsson et al. 2022. ' +
    'Ranks as colours: GLTR, Gehrmann et al. 2019.'));

/** The head that adds most to the logit of the most probable token after the text. */
function first() {
  const values = A.predicted[T - 1].values, best = {value: -Infinity};
  for (let layer = 0; layer < L; layer++) {
    for (let head = 0; head < H; head++) {
      const value = values[PLACES['h.' + layer + '.head.' + head]];
      if (value > best.value) Object.assign(best, {value, layer, head});
    }
  }
  return {layer: best.layer, head: best.head};
}
Object.assign(state, first(), recall());
[state.call, state.line] = stageAt(state.stage, state.layer);
const drawn = new Set();
for (const one of views) if (!drawn.has(one.draw)) { drawn.add(one.draw); one.draw(); }
settle();
dark.addEventListener('change', () => choose({theme: dark.matches}, true));
window.addEventListener('hashchange', () => choose(recall(), true));
let waiting = 0;
window.addEventListener('resize', () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => choose({size: innerWidth + ' ' + innerHeight}, true), 120);
});
/** Links to sections end below the bar, however high it is. */
function clear() { document.documentElement.style.scrollPaddingTop = $('bar').offsetHeight + 8 + 'px'; }
view('size', clear);
clear();
const wish = new URLSearchParams(location.hash.slice(1)).get('section') || location.hash.slice(1);
if (/^(expected|flow|attention|lens|parts)$/.test(wish)) visit(wish);
