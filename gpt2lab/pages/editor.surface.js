// The text surface: a textarea whose letters are drawn by a layer of coloured tokens beneath it, so
// that caret, selection, composition and screen readers are the browser's own.

import {h, paint} from './kit.js';
import {difference} from './editor.tree.js';

/**
 * The pieces of a text that tokens cover: a character that is spread over several tokens is one
 * piece of them all. sizes: the bytes of each token. Returns [{start, end, text, tokens}].
 */
export function pieces(text, sizes) {
  const found = [];
  let byte = 0, place = 0, goal = 0, first = 0, start = 0;
  sizes.forEach((size, i) => {
    goal += size;
    while (byte < goal && place < text.length) {
      const code = text.codePointAt(place);
      byte += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
      place += code > 0xffff ? 2 : 1;
    }
    if (byte > goal) return; // the token ends inside a character
    found.push({start, end: place, text: text.slice(start, place),
      tokens: Array.from({length: i + 1 - first}, (_, k) => first + k)});
    [first, start] = [i + 1, place];
  });
  if (start < text.length) found.push({start, end: text.length, text: text.slice(start), tokens: []});
  return found;
}

/**
 * area, layer: the textarea and the element beneath it. colour: (tokens of a piece) -> an RGB colour
 * or null.
 */
export function surface(area, layer, colour) {
  let spans = []; // {node, text, tokens, shade}, in the order of the text
  const tail = document.createTextNode('\u200b\n'); // so that a last empty line has its height
  layer.replaceChildren(tail);

  function made(text, tokens) {
    const node = h('span', {class: tokens ? 'tok' : 'tok new'}, text), span = {node, text, tokens, shade: ''};
    shadeOf(span);
    return span;
  }
  function shadeOf(span) {
    const found = span.tokens && span.tokens.length ? colour(span.tokens) : null, name = String(found);
    if (span.shade === name) return;
    span.shade = name;
    if (found) paint(span.node, found);
    else Object.assign(span.node.style, {background: '', color: ''});
  }
  function replace(from, to, fresh) {
    const before = to < spans.length ? spans[to].node : tail;
    for (let i = from; i < to; i++) spans[i].node.remove();
    const part = document.createDocumentFragment();
    for (const span of fresh) part.append(span.node);
    layer.insertBefore(part, before);
    spans.splice(from, to - from, ...fresh);
  }

  /** Show an edited text at once: tokens that the edit touched lose their colour until they are known. */
  function show(text) {
    const [same, end] = difference(shownText(), text);
    if (same === text.length && spans.reduce((sum, one) => sum + one.text.length, 0) === same) return;
    let first = 0, start = 0, last = spans.length, stop = 0;
    while (first < spans.length && start + spans[first].text.length <= same) start += spans[first++].text.length;
    while (last > first && stop + spans[last - 1].text.length <= end) stop += spans[--last].text.length;
    const middle = text.slice(start, text.length - stop);
    replace(first, last, middle ? [made(middle, null)] : []);
  }
  const shownText = () => spans.map(one => one.text).join('');

  /** Show a text whose tokens are known: pieces as above. */
  function known(text, found) {
    let first = 0, last = 0;
    const same = (a, b) => a && b && a.tokens && a.text === b.text;
    while (first < found.length && same(spans[first], found[first])) first++;
    while (last < found.length - first && last < spans.length - first &&
      same(spans.at(-1 - last), found.at(-1 - last))) last++;
    replace(first, spans.length - last, found.slice(first, found.length - last).map(one => made(one.text, one.tokens)));
    spans.forEach((span, i) => {
      span.tokens = found[i].tokens;
      shadeOf(span);
    });
  }
  function repaint() {
    for (const span of spans) { span.shade = ''; shadeOf(span); }
  }
  /** The tokens under the pointer: the layer lies below the textarea, which takes the events. */
  function under(event) {
    const node = document.elementsFromPoint(event.clientX, event.clientY).find(one => one.parentNode === layer);
    const span = node && spans.find(one => one.node === node);
    return span ? {node, tokens: span.tokens} : null;
  }
  /** Where an offset of the text is on the screen, as a rectangle without width. */
  function place(offset) {
    const range = document.createRange();
    let start = 0;
    for (const span of spans) {
      if (offset <= start + span.text.length) {
        range.setStart(span.node.firstChild, offset - start);
        break;
      }
      start += span.text.length;
    }
    if (!spans.length) range.setStart(tail, 0);
    const boxes = range.getClientRects();
    return boxes[boxes.length - 1] || layer.getBoundingClientRect();
  }
  return {show, known, repaint, under, place, text: shownText, area, layer};
}
