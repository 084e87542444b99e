// What the settings do to logits, with the reason why a token is out: the processors of
// gpt2lab/generation/processors.py that the page has sliders for, in float32. A test compares both.

const f32 = Math.fround;

/** The neutral settings: each of them changes nothing. */
export const NEUTRAL = {temperature: 1, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1,
  presence_penalty: 0, frequency_penalty: 0, logit_bias: {}, bad_words: []};

/** The largest of many numbers; `Math.max` takes only so many. */
function greatest(values) {
  let most = -Infinity;
  for (const x of values) if (x > most) most = x;
  return most;
}
/** The probabilities of logits in float64. */
export function softmax(logits) {
  const most = greatest(logits);
  let total = 0;
  const p = new Float64Array(logits.length);
  for (let i = 0; i < p.length; i++) total += p[i] = Math.exp(f32(logits[i] - most));
  for (let i = 0; i < p.length; i++) p[i] /= total;
  return p;
}

const only = (logits, kept) => logits.map((x, i) => (kept(i) ? x : -Infinity));

/** The count-th largest of some numbers. */
export function largest(values, count) {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.max(0, sorted.length - count)];
}

const PROCESSORS = {
  logit_bias(logits, s) {
    for (const [id, bias] of Object.entries(s.logit_bias)) logits[id] = f32(logits[id] + f32(bias));
    return logits;
  },
  repetition_penalty(logits, s, seen) {
    const penalty = f32(s.repetition_penalty);
    for (const id of new Set(seen.tokens)) {
      logits[id] = logits[id] < 0 ? f32(logits[id] * penalty) : f32(logits[id] / penalty);
    }
    return logits;
  },
  presence_penalty(logits, s, seen) {
    for (const id of new Set(written(seen))) logits[id] = f32(logits[id] - f32(s.presence_penalty));
    return logits;
  },
  frequency_penalty(logits, s, seen) {
    const counts = new Map();
    for (const id of written(seen)) counts.set(id, (counts.get(id) || 0) + 1);
    for (const [id, n] of counts) logits[id] = f32(logits[id] - f32(f32(s.frequency_penalty) * n));
    return logits;
  },
  bad_words(logits, s, {tokens}) {
    for (const word of s.bad_words) {
      const start = word.slice(0, -1), from = tokens.length - start.length;
      if (from >= 0 && start.every((id, i) => tokens[from + i] === id)) logits[word.at(-1)] = -Infinity;
    }
    return logits;
  },
  temperature: (logits, s) => logits.map(x => x / f32(s.temperature)),
  top_k(logits, s) {
    const border = largest(logits, s.top_k);
    return only(logits, i => logits[i] >= border);
  },
  top_p(logits, s) {
    const p = softmax(logits), low = Math.min((1 - s.top_p) / p.length, greatest(p));
    const rising = p.filter(x => x >= low).sort();
    let sum = 0;
    for (const x of rising) sum += x;
    let gone = 0, running = 0;
    for (const x of rising) {
      running += x;
      if (1 - sum + running > 1 - s.top_p) break;
      gone++;
    }
    const count = Math.max(rising.length - gone, 1), border = rising[rising.length - count];
    let above = 0, equal = 0;
    for (const x of p) { if (x > border) above++; else if (x === border) equal++; }
    let extra = above + equal - count; // of equal ones at the border, those of highest id stay
    return only(logits, i => p[i] > border || (p[i] === border && extra-- <= 0));
  },
  min_p(logits, s) {
    const p = softmax(logits), border = s.min_p * greatest(p);
    return only(logits, i => !(p[i] < border));
  },
};
const SHAPE = ['temperature', 'top_k', 'top_p', 'min_p'];

const written = seen => seen.tokens.slice(seen.promptLength);

function isSet(s, name) {
  const value = s[name], neutral = NEUTRAL[name];
  return typeof neutral === 'object' ? Object.keys(value || {}).length > 0 : value !== undefined && value !== neutral;
}

/**
 * What the settings leave of logits [V].
 *
 * seen: {tokens, promptLength}: all ids so far, and how many of them are the prompt.
 * Returns {left, reasons}: logits with -Infinity where a token is removed, and for each removed id
 * the name of the processor that removed it. Temperature 0 is greedy: all but the best are out.
 */
export function process(logits, settings, seen = {tokens: [], promptLength: 0}) {
  const s = {...NEUTRAL, ...settings}, reasons = new Map();
  let left = Float32Array.from(logits);
  for (const name of Object.keys(PROCESSORS)) {
    if (!isSet(s, name) || (s.temperature === 0 && SHAPE.includes(name))) continue;
    const before = left;
    left = PROCESSORS[name](Float32Array.from(left), s, seen);
    for (let i = 0; i < left.length; i++) {
      if (left[i] === -Infinity && before[i] > -Infinity) reasons.set(i, name);
    }
  }
  return s.temperature === 0 ? greedy(left, reasons) : {left, reasons};
}

function greedy(left, reasons) {
  let best = 0;
  for (let i = 1; i < left.length; i++) if (left[i] > left[best]) best = i;
  for (let i = 0; i < left.length; i++) {
    if (i !== best && left[i] > -Infinity) reasons.set(i, 'temperature');
  }
  return {left: only(left, i => i === best), reasons};
}

/** The ids of the `count` most probable, of equal ones the smaller id first. */
export function best(values, count) {
  const border = largest(values, Math.min(count, values.length)), found = [];
  for (let i = 0; i < values.length; i++) if (values[i] >= border) found.push(i);
  return found.sort((a, b) => values[b] - values[a] || a - b).slice(0, count);
}
