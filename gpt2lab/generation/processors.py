"""What each setting does to logits: one small function a processor.

A new one is a function of the signature `Processor`, a line in `PROCESSORS` and its place in an
order of `sampling`, which says which of them run. `sampler` runs them and draws the token.

Shapes: V vocabulary. Logits are float32; what is removed is -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt2lab.errors import InputError, quoted
from gpt2lab.generation.sampling import Sampling

Array = np.ndarray[Any, np.dtype[Any]]


class History(NamedTuple):
    """What a processor may know beside the settings.

    tokens: all ids so far, the prompt first. prompt_length: how many of them are the prompt.
    keep: how many tokens a truncation must leave; beams need more than one.
    """

    tokens: Sequence[int]
    prompt_length: int = 0
    keep: int = 1


Processor = Callable[[Array, Sampling, History], Array]


def _probabilities(logits: Array) -> Array:
    """softmax in float64: sums of 50,257 float32 numbers would move the borders."""
    ex = (logits - np.max(logits)).astype(np.float64)
    np.exp(ex, out=ex)
    ex /= ex.sum()
    return ex  # [V]


def _without(logits: Array, removed: Array) -> Array:
    return np.where(removed, np.float32(-np.inf), logits)  # [V]


def _only(logits: Array, kept: Array) -> Array:
    """The logits of a mask of few tokens; by their ids, `np.where` would walk over all of them."""
    left, ids = np.full_like(logits, -np.inf), np.flatnonzero(kept)
    left[ids] = logits[ids]
    return left  # [V]


def _largest(values: Array, count: int) -> Array:
    """A mask of the `count` largest values; equal ones at the border are all in."""
    return values >= _nth_largest(values, count)  # [V]


def _nth_largest(values: Array, count: int) -> Any:
    count = min(count, len(values))
    return values.max() if count == 1 else np.partition(values, -count)[-count]


# The processors. Those that change what is likely come first, then those that shape a draw.


def logit_bias(logits: Array, s: Sampling, seen: History) -> Array:
    """Adds the given number to the logit of each given token."""
    logits = logits.copy()
    for token, bias in s.logit_bias.items():
        logits[_token(token, "logit_bias", len(logits))] += bias
    return logits


def _token(token: Any, where: str, n_vocab: int) -> int:
    if isinstance(token, str):
        raise InputError(f"{where}: the text {quoted(token)} must be turned into a token id first")
    if not 0 <= token < n_vocab:
        raise InputError(f"{where}: id {token} is outside the vocabulary; ids end at {n_vocab - 1}")
    return int(token)


def repetition_penalty(logits: Array, s: Sampling, seen: History) -> Array:
    """Divides positive and multiplies negative logits of all tokens seen (Keskar et al. 2019)."""
    logits = logits.copy()
    tokens = np.asarray(seen.tokens, dtype=np.intp)  # one that comes twice gets the same twice
    old, penalty = logits[tokens], np.float32(s.repetition_penalty)
    logits[tokens] = np.where(old < 0, old * penalty, old / penalty)
    return logits


def presence_penalty(logits: Array, s: Sampling, seen: History) -> Array:
    """Takes a number off the logit of each token written so far; the prompt does not count."""
    logits = logits.copy()
    logits[_written(seen)[0]] -= np.float32(s.presence_penalty)
    return logits


def _written(seen: History) -> tuple[Array, Array]:
    """The tokens written so far, each once, and how often; the prompt does not count."""
    written = np.asarray(seen.tokens[seen.prompt_length :], dtype=np.intp)
    tokens, counts = np.unique(written, return_counts=True)
    return tokens, counts


def frequency_penalty(logits: Array, s: Sampling, seen: History) -> Array:
    """Takes a number off for each time a token was written; the prompt does not count."""
    logits = logits.copy()
    tokens, counts = _written(seen)
    logits[tokens] -= np.float32(s.frequency_penalty) * counts.astype(np.float32)
    return logits


def no_repeat_ngram(logits: Array, s: Sampling, seen: History) -> Array:
    """Removes every token that would complete an n-gram which is there already."""
    tokens, size = np.asarray(seen.tokens, dtype=np.intp), s.no_repeat_ngram_size
    count = len(tokens) - size + 1  # n-grams so far
    if count <= 0:
        return logits
    logits, again = logits.copy(), np.ones(count, bool)
    for i in range(size - 1):
        again &= tokens[i : i + count] == tokens[count + i]  # begins as the text now ends
    logits[tokens[size - 1 :][again]] = -np.inf
    return logits


def bad_words(logits: Array, s: Sampling, seen: History) -> Array:
    """Removes the last token of each bad word whose beginning has just been written.

    An end token alone is never a bad word, as in Hugging Face.
    """
    logits, tokens = logits.copy(), tuple(seen.tokens)
    for word in s.bad_words:
        if len(word) == 1 and word[0] in (s.stop_tokens or ()):
            continue
        *start, last = (_token(t, "bad_words", len(logits)) for t in word)
        if not start or tokens[-len(start) :] == tuple(start):
            logits[last] = -np.inf
    return logits


def min_new_tokens(logits: Array, s: Sampling, seen: History) -> Array:
    """Removes the end tokens while fewer than `min_new_tokens` are written."""
    if len(seen.tokens) - seen.prompt_length >= s.min_new_tokens or not s.stop_tokens:
        return logits
    logits = logits.copy()
    logits[[_token(t, "stop_tokens", len(logits)) for t in s.stop_tokens]] = -np.inf
    return logits


def temperature(logits: Array, s: Sampling, seen: History) -> Array:
    """Divides by the temperature."""
    return logits / np.float32(s.temperature)


def top_k(logits: Array, s: Sampling, seen: History) -> Array:
    """Keeps the k largest (Fan et al. 2018); ties with the k-th stay."""
    return _only(logits, _largest(logits, max(s.top_k, seen.keep)))


def top_p(logits: Array, s: Sampling, seen: History) -> Array:
    """Keeps the smallest set of most probable tokens whose mass reaches p (Holtzman et al. 2019).

    The token that crosses p stays, as in Hugging Face and gpt-2-simple.
    """
    probs = _probabilities(logits)
    # Tokens below (1 - p) / V weigh less than 1 - p together, so they go without being sorted.
    low = min((1 - s.top_p) / len(probs), _nth_largest(probs, seen.keep))
    rising = np.sort(probs[np.flatnonzero(probs >= low)])
    below = 1 - float(rising.sum()) + np.cumsum(rising)  # the mass up to and with each of them
    removed = int(np.searchsorted(below, 1 - s.top_p, side="right"))
    return _only(logits, _last_largest(probs, max(len(rising) - removed, seen.keep), rising))


def _last_largest(values: Array, count: int, rising: Array) -> Array:
    """A mask of the `count` largest values; of equal ones at the border, those of highest id.

    rising: the largest values, sorted.
    """
    border = rising[max(len(rising) - count, 0)]
    kept = values >= border  # [V]
    too_many = len(rising) - int(np.searchsorted(rising, border)) - count
    if too_many > 0:
        kept[np.flatnonzero(values == border)[:too_many]] = False
    return kept


def _falling(logits: Array) -> tuple[Array, Array]:
    """Logits from the largest down, and their probabilities, in TensorFlow's float32.

    The official samplers add up in float32, and that decides which token crosses p.
    """
    falling = np.sort(logits)[::-1]  # [V]
    ex = np.exp(falling - falling[0])
    return falling, ex / ex.sum(dtype=np.float64).astype(np.float32)


def top_p_narrow(logits: Array, s: Sampling, seen: History) -> Array:
    """openai/gpt-2's top-p: the token that crosses p is dropped; at least one stays, and ties.

    1 is off here; there it still runs, and drops what float32 rounds beyond a mass of 1.
    """
    falling, probs = _falling(logits)
    count = int(np.sum(np.cumsum(probs, dtype=np.float32) <= np.float32(s.top_p)))
    return _without(logits, logits < falling[max(count - 1, 0)])


def top_p_or_k(logits: Array, s: Sampling, seen: History) -> Array:
    """gpt-2-simple's rule: top-p, when it is set, takes the place of top-k; ties stay.

    Its border is never above 1000, the number that it writes over what is left out.
    """
    if s.top_p == 1:
        return top_k(logits, s, seen)
    falling, probs = _falling(logits)
    above = np.concatenate([[np.float32(0)], np.cumsum(probs, dtype=np.float32)[:-1]])  # mass
    border = falling[above < np.float32(s.top_p)][-1]
    return _without(logits, logits < min(border, np.float32(1000)))


def min_p(logits: Array, s: Sampling, seen: History) -> Array:
    """Keeps tokens with at least `min_p` times the top probability (Nguyen et al. 2024)."""
    probs = _probabilities(logits)
    low = probs < s.min_p * probs.max()
    if seen.keep > 1:  # one is above the limit in any case: the most probable
        low[np.argpartition(probs, -min(seen.keep, len(probs)))[-seen.keep :]] = False
    return _without(logits, low)


def typical_p(logits: Array, s: Sampling, seen: History) -> Array:
    """Keeps tokens whose surprise is nearest to the entropy (Meister et al. 2022)."""
    probs = _probabilities(logits)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(probs)
        entropy = np.nansum(probs * surprise)
    distance = np.abs(surprise - entropy)
    order = np.argsort(distance, kind="stable")
    last = min(int(np.sum(np.cumsum(probs[order]) < s.typical_p)), len(order) - 1)
    removed = distance > distance[order[last]]
    removed[order[: seen.keep]] = False
    return _without(logits, removed)


def epsilon_cutoff(logits: Array, s: Sampling, seen: History) -> Array:
    """Removes tokens less probable than epsilon (Hewitt et al. 2022)."""
    low = _probabilities(logits) < s.epsilon_cutoff
    return _without(logits, low & ~_largest(logits, seen.keep))


def eta_cutoff(logits: Array, s: Sampling, seen: History) -> Array:
    """Removes tokens below min(eta, sqrt(eta) * exp(-entropy)) (Hewitt et al. 2022)."""
    probs = _probabilities(logits)
    entropy = -np.sum(probs * np.log(np.where(probs > 0, probs, 1)))
    low = probs < min(s.eta_cutoff, math.sqrt(s.eta_cutoff) * math.exp(-entropy))
    return _without(logits, low & ~_largest(logits, seen.keep))


PROCESSORS: dict[str, Processor] = {
    "logit_bias": logit_bias,
    "repetition_penalty": repetition_penalty,
    "presence_penalty": presence_penalty,
    "frequency_penalty": frequency_penalty,
    "no_repeat_ngram": no_repeat_ngram,
    "bad_words": bad_words,
    "min_new_tokens": min_new_tokens,
    "temperature": temperature,
    "top_k": top_k,
    "top_p": top_p,
    "top_p_narrow": top_p_narrow,
    "top_p_or_k": top_p_or_k,
    "min_p": min_p,
    "typical_p": typical_p,
    "epsilon_cutoff": epsilon_cutoff,
    "eta_cutoff": eta_cutoff,
}
