// Random edits of documents: [how many were edits, what went wrong].
async (seed) => {
  const T = await import('./editor.tree.js');
  const random = n => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return Math.floor(seed / 2147483648 * n);
  };
  const leaves = t => Object.values(t.nodes).filter(n => !n.children.length).map(n => T.textOf(t, n.id));
  const bits = ['a', 'bc', '\u{1f600}', '\u{1f603}', ' the', '\n', '\u00e9'];
  const whole = (text, i) => (/[\uDC00-\uDFFF]/.test(text[i] || '') ? i - 1 : i);
  const wrong = [];
  let edits = 0;
  for (let run = 0; run < 400; run++) {
    let t = T.fresh('hello world');
    for (let k = 0; k < 25; k++) {
      const text = T.textOf(t), before = leaves(t), op = random(10);
      const a = whole(text, random(text.length + 1)), b = Math.max(a, whole(text, Math.min(text.length, a + random(4))));
      if (op < 6) {
        const after = text.slice(0, a) + (random(3) ? bits[random(bits.length)] : '') + text.slice(b);
        const forked = T.path(t).some(one => one.node.forked), n = T.edit(t, after);
        if (T.textOf(n) !== after) wrong.push(['edit', text, after, T.textOf(n)]);
        const kept = leaves(n);
        if (!forked) for (const leaf of before) if (leaf !== text && !kept.includes(leaf)) wrong.push(['lost', leaf]);
        t = n;
        edits++;
      } else if (op < 8) {
        const [n, ids] = T.grow(t, a, ['A', 'B'], {});
        for (const id of ids) if (T.textOf(n, id) !== text.slice(0, a) + n.nodes[id].text) wrong.push(['grow', text, a]);
        if (T.textOf(n) !== text) wrong.push(['shown', text]);
        t = random(2) ? T.select(n, ids[0]) : n;
      } else if (op === 8) {
        const ids = Object.keys(t.nodes);
        t = T.select(t, Number(ids[random(ids.length)]));
      } else {
        const id = T.neighbour(t, ['parent', 'child', 'next', 'previous'][random(4)]);
        if (id !== null) t = T.select(t, id);
      }
      T.checked(JSON.parse(JSON.stringify(t)));
    }
  }
  return [edits, wrong.slice(0, 3)];
}
