"""Logits to the next token: the processors in their order, the random stream, the draw.

`process` shows what the settings leave of some logits. `sampling` holds the settings, `processors`
what each does, and `generate` makes whole texts.

Shapes: V vocabulary, B batch. Logits are float32; what is removed is -inf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2lab.engines.wanted import check_logits, largest
from gpt2lab.errors import InputError
from gpt2lab.generation.processors import PROCESSORS, History
from gpt2lab.generation.sampling import Sampling

__all__ = [
    "check_logits",
    "choose",
    "draw",
    "explained",
    "log_probability",
    "log_softmax",
    "most_probable",
    "next_token",
    "process",
    "stream",
]

Array = np.ndarray[Any, np.dtype[Any]]

MANY = 4000  # from this many weights on, blocks are worth their trouble


def log_softmax(logits: Array) -> Array:
    """Normalised log-probabilities along the last axis, in the dtype of the logits."""
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    total = np.sum(np.exp(shifted), axis=-1, keepdims=True, dtype=np.float64)
    return shifted - np.log(total).astype(logits.dtype)


def log_probability(logits: Array, token: int) -> float:
    """`log_softmax(logits)[token]` of logits [V], bit for bit, without the other V - 1 numbers."""
    shifted = logits - np.max(logits)
    own = shifted[token]
    total = np.sum(np.exp(shifted, out=shifted), dtype=np.float64)
    return float(own - np.log(total).astype(logits.dtype))


def most_probable(
    logits: Array, count: int, limit: int | None = None
) -> tuple[tuple[int, float], ...]:
    """The `count` most probable ids after logits [V] with their `log_probability`, best first.

    limit: no id from this one on. Of equal ones the smaller id comes first.
    """
    shifted = np.asarray(logits, np.float32)
    ids = largest(shifted[:limit], count)
    shifted = shifted - np.max(shifted)
    own = shifted[ids]
    total = np.sum(np.exp(shifted, out=shifted), dtype=np.float64)
    return tuple(zip(ids.tolist(), (own - np.log(total).astype(own.dtype)).tolist(), strict=True))


def _apply(name: str, logits: Array, sampling: Sampling, seen: History) -> Array:
    """One processor over logits [V]; InputError where it makes one that float32 does not hold."""
    logits = PROCESSORS[name](logits, sampling, seen)
    if not logits.max() < np.inf:
        raise InputError(
            f"the settings make a logit larger than float32 holds ({name}); bring "
            "logit_bias, penalties and temperature nearer to their usual values"
        )
    return logits  # [V]


def _run(logits: Array, sampling: Sampling, seen: History) -> Array:
    """The processors of the settings, in their order, over checked logits [V]."""
    with np.errstate(over="ignore", invalid="ignore"):
        for name in sampling.order:
            if logits.max() == -np.inf:
                break  # all is ruled out; `choose` says so
            logits = _apply(name, logits, sampling, seen)
    return logits  # [V]


def explained(
    logits: Array, sampling: Sampling, seen: History, limit: int | None = None
) -> tuple[Array, dict[str, Array]]:
    """What the settings leave of logits [V], and the ids that each processor removed.

    The processors run one after the other, as in `next_token`. "vocabulary" removed the ids from
    `limit` on, and "greedy" all but the most probable where nothing is drawn at random.
    """
    check_logits(logits)
    before, removed = np.array(logits, dtype=np.float32), dict[str, Array]()

    def note(name: str, after: Array) -> Array:
        removed[name] = np.flatnonzero((before > -np.inf) & (after == -np.inf))
        return after

    if limit is not None and limit < len(before):
        before = note(
            "vocabulary", np.concatenate([before[:limit], np.full_like(before[limit:], -np.inf)])
        )
    with np.errstate(over="ignore", invalid="ignore"):
        for name in sampling.order:
            if before.max() > -np.inf:
                before = note(name, _apply(name, before, sampling, seen))
    if sampling.greedy and before.max() > -np.inf:
        only = np.full_like(before, -np.inf)
        only[np.argmax(before)] = before.max()
        before = note("greedy", only)
    return before, removed


def process(
    logits: Any, sampling: Sampling, tokens: Any, *, prompt_length: int = 0, keep: int = 1
) -> Array:
    """What the processors leave of the logits: float32, with -inf where a token is removed.

    logits [V] with tokens [T], the ids so far, or [B, V] with B lists of ids. The penalties for
    written tokens and `min_new_tokens` count from `prompt_length` on. `keep` is the least number of
    tokens that a truncation leaves (beam sampling needs more than one).
    """
    logits = np.asarray(logits, dtype=np.float32)
    if logits.ndim == 2:
        rows = [
            process(row, sampling, seen, prompt_length=prompt_length, keep=keep)
            for row, seen in zip(logits, tokens, strict=True)
        ]
        return np.stack(rows)  # [B, V]
    check_logits(logits)
    if not isinstance(tokens, list):
        tokens = np.asarray(tokens, dtype=np.intp).tolist()
    if tokens and not 0 <= min(tokens) <= max(tokens) < len(logits):
        raise InputError(f"tokens hold an id outside the vocabulary; ids end at {len(logits) - 1}")
    return _run(logits, sampling, History(tokens, prompt_length, keep))


def stream(seed: int, index: int, step: int) -> np.random.Generator:
    """The random numbers of one step of one sample: a function of the three numbers alone.

    Philox is counter-based (Salmon et al. 2011): the key is (seed, index), the counter the step. So
    neither the batch, nor the order, nor other samples, nor earlier draws can change them.
    """
    key = np.array([seed, index], np.uint64)  # a plain list would pass through float64
    return np.random.Generator(np.random.Philox(key=key, counter=[0, step, 0, 0]))


def _place(weights: Array, share: float) -> int:
    """The first place at which the running sum of weights is more than `share` of the whole."""
    heights = np.cumsum(weights)
    place = np.searchsorted(heights, share * heights[-1], side="right")
    return min(int(place), len(weights) - 1)


def _place_by_blocks(weights: Array, share: float, size: int = 256) -> int:
    """`_place` of many weights: sums of blocks lead to the block, its own running sum to the place.

    Blocks add up in another order, and NumPy is ten times as fast at it. Rounding moves a sum of n
    positive numbers by less than n * 2**-52 of it; where `share` comes nearer than that, twice
    over, to a border between two places, the plain running sum decides.
    """
    ends = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), size)))
    goal = share * ends[-1]
    block = min(int(np.searchsorted(ends, goal, side="right")), len(ends) - 1)
    before = ends[block - 1] if block else 0.0
    inside = weights[block * size : (block + 1) * size]
    heights = np.cumsum(np.concatenate(([before], inside)))  # from the block's start to its end
    if np.abs(heights - goal).min() <= len(weights) * 2.0**-51 * ends[-1]:
        return _place(weights, share)
    return block * size + int(np.searchsorted(heights, goal, side="right")) - 1


def _place_among(logits: Array, share: float) -> int:
    weights = (logits - np.max(logits)).astype(np.float64)
    np.exp(weights, out=weights)
    place = _place if len(weights) < MANY else _place_by_blocks
    return place(weights, share)


def draw(logits: Array, random: np.random.Generator) -> int:
    """One token by the probabilities of processed logits [V]: the inverse of their running sum."""
    kept = logits > -np.inf
    if np.count_nonzero(kept) == len(kept):
        return _place_among(logits, random.random())
    ids = np.flatnonzero(kept)
    return int(ids[_place_among(logits[ids], random.random())])


def choose(logits: Array, sampling: Sampling, index: int, step: int) -> int:
    """The next token from processed logits [V]: the most probable when greedy, otherwise a draw."""
    best = int(np.argmax(logits))
    if not logits[best] > -np.inf:
        raise InputError(
            "every token is ruled out; loosen bad_words, logit_bias or no_repeat_ngram_size"
        )
    if sampling.greedy:
        return best
    assert sampling.seed is not None
    return draw(logits, stream(sampling.seed, index, step))


def next_token(
    logits: Array,
    sampling: Sampling,
    tokens: Sequence[int],
    prompt_length: int,
    index: int,
    limit: int | None = None,
) -> tuple[int, float]:
    """The next token after logits [V], and the model's own log-probability of it.

    tokens: the ids so far, all known to be in the vocabulary. index: which sample. limit: no token
    from this id on. The logits are left as they are: other samples may begin from them too.
    """
    logits = allowed = np.asarray(logits, dtype=np.float32)
    if limit is not None and limit < len(logits):
        allowed = logits.copy()
        allowed[limit:] = -np.inf
    if not allowed.max() < np.inf:  # asked at each token, so that most tokens need no call
        check_logits(allowed)
    left = _run(allowed, sampling, History(tokens, prompt_length))
    token = choose(left, sampling, index, len(tokens) - prompt_length)
    return token, log_probability(logits, token)
