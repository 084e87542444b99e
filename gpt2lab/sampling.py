"""Logits to the next token: the processors in their order, the random stream, the draw.

`process` shows what the settings leave of some logits. The settings are `settings`' work, what each
does is `processors`', and whole texts are `generate`'s.

Shapes: V vocabulary, B batch. Logits are float32; what is removed is -inf.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2lab.errors import InputError
from gpt2lab.processors import PROCESSORS, Seen
from gpt2lab.settings import Sampling, order

__all__ = ["Sampling", "choose", "draw", "log_softmax", "order", "process", "stream"]

Array = np.ndarray[Any, np.dtype[Any]]


def log_softmax(logits: Array) -> Array:
    """Normalised log-probabilities along the last axis, in the dtype of the logits."""
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    total = np.sum(np.exp(shifted), axis=-1, keepdims=True, dtype=np.float64)
    return shifted - np.log(total).astype(logits.dtype)


def process(
    logits: Any, sampling: Sampling, tokens: Any, *, prompt_length: int = 0, keep: int = 1
) -> Array:
    """What the processors leave of the logits: float32, with -inf where a token is removed.

    logits [V] with tokens [T], the ids so far, or [B, V] with B lists of ids. The penalties for
    written tokens and `min_new_tokens` count from `prompt_length` on. `keep` is the least number of
    tokens that a truncation leaves (beam sampling needs more than one).
    """
    logits = np.asarray(logits, dtype=np.float32)
    if not (logits < np.inf).all():
        wrong = int(np.argmin((logits < np.inf).reshape(-1))) % logits.shape[-1]
        raise InputError(f"the logits hold NaN or infinity at id {wrong}; check the weights")
    if logits.ndim == 2:
        rows = [
            process(row, sampling, seen, prompt_length=prompt_length, keep=keep)
            for row, seen in zip(logits, tokens, strict=True)
        ]
        return np.stack(rows)  # [B, V]
    if not isinstance(tokens, list):
        tokens = np.asarray(tokens, dtype=np.intp).tolist()
    if tokens and not 0 <= min(tokens) <= max(tokens) < len(logits):
        raise InputError(f"tokens hold an id outside the vocabulary; ids end at {len(logits) - 1}")
    seen = Seen(tokens, prompt_length, keep)
    for name in order(sampling):
        if not logits.max() > -np.inf:
            break  # all is ruled out; `choose` says so
        logits = PROCESSORS[name](logits, sampling, seen)
    return logits  # [V]


def stream(seed: int, index: int, step: int) -> np.random.Generator:
    """The random numbers of one step of one sample: a function of the three numbers alone.

    Philox is counter-based (Salmon et al. 2011): the key is (seed, index), the counter the step. So
    neither the batch, nor the order, nor other samples, nor earlier draws can change them.
    """
    key = np.array([seed, index], np.uint64)  # a plain list would pass through float64
    return np.random.Generator(np.random.Philox(key=key, counter=[0, step, 0, 0]))


def draw(logits: Array, random: np.random.Generator) -> int:
    """One token by the probabilities of processed logits [V]: the inverse of their running sum."""
    ids = np.flatnonzero(logits > -np.inf)
    heights = np.cumsum(np.exp((logits[ids] - np.max(logits[ids])).astype(np.float64)))
    place = np.searchsorted(heights, random.random() * heights[-1], side="right")
    return int(ids[min(place, len(ids) - 1)])


def choose(logits: Array, sampling: Sampling, index: int, step: int) -> int:
    """The next token from processed logits [V]: the likeliest when greedy, otherwise a draw."""
    best = int(np.argmax(logits))
    if not logits[best] > -np.inf:
        raise InputError(
            "every token is ruled out; loosen bad_words, logit_bias or no_repeat_ngram_size"
        )
    if sampling.greedy:
        return best
    assert sampling.seed is not None
    return draw(logits, stream(sampling.seed, index, step))
