"""Beam search and beam sampling, for one prompt: the same ids as Hugging Face's `generate()`.

The rules are those of transformers 5, `GenerationMixin._beam_search`, told over plain lists:
candidates that end count only among the best `num_beams`, scores are float32 sums of
log-probabilities over length ** length_penalty, and `early_stopping` decides when to give up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpt2lab.engines import Engine, advance
from gpt2lab.generation.sampler import Sampling, log_softmax, process, stream

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Beam:
    """One hypothesis: all its tokens, the log-probabilities of the new ones, and its score."""

    tokens: list[int]
    logprobs: list[float]
    score: np.float32
    slot: int = -1
    slides: int = 0


def _candidates(beams: list[Beam], logits: Array, s: Sampling, prompt: int) -> Array:
    """Scores of every continuation of every beam: [beams, V], -inf where ruled out."""
    keep = max(2, 1 + len(s.stop_tokens or ()))
    rows = [
        process(row, s, beam.tokens, prompt_length=prompt, keep=keep) + beam.score
        for row, beam in zip(log_softmax(logits), beams, strict=True)
    ]
    return np.stack(rows)  # [beams, V]


def _top(scores: Array, count: int) -> list[int]:
    """Places of the `count` largest numbers of a flat array, the largest first."""
    count = min(count, int(np.sum(scores > -np.inf)))
    places = np.argpartition(-scores, count - 1)[:count] if count else np.zeros(0, np.intp)
    return [int(p) for p in places[np.argsort(-scores[places], kind="stable")]]


def _pick(scores: Array, count: int, s: Sampling, step: int) -> list[int]:
    """Places of the next candidates: the best, or drawn without replacement by their weight.

    The largest sums of score and Gumbel noise are such a draw (Vieira 2014), in the order drawn.
    """
    flat = scores.reshape(-1)  # [beams * V]
    if s.greedy:
        return _top(flat, count)
    assert s.seed is not None
    noise = -np.log(-np.log1p(-stream(s.seed, 0, step).random(flat.size)))
    return _top(np.where(flat > -np.inf, flat + noise, -np.inf), count)


def _extend(beams: list[Beam], logprobs: Array, scores: Array, places: Sequence[int]) -> list[Beam]:
    """The candidates as hypotheses; their slot is still that of the beam they come from."""
    extended = []
    for place in places:
        parent, token = divmod(place, scores.shape[-1])
        old = beams[parent]
        new = [*old.logprobs, float(logprobs[parent, token])]
        extended.append(
            replace(old, tokens=[*old.tokens, token], logprobs=new, score=scores[parent, token])
        )
    return extended


def _move(cache: Any, old: list[Beam], new: list[Beam]) -> None:
    """Give every new beam a slot of its own: the last child keeps its parent's, others fork it."""
    last = {beam.slot: i for i, beam in enumerate(new)}
    for i, beam in enumerate(new):
        if last[beam.slot] != i:
            beam.slot = cache.fork(beam.slot)
    for slot in {beam.slot for beam in old} - {beam.slot for beam in new}:
        cache.free(slot)


def _scale(length: int, s: Sampling) -> np.float32:
    """What a sum of log-probabilities is divided by; from 0 and up to infinity it stays a float."""
    try:
        power = float(length) ** s.length_penalty
    except OverflowError:
        power = np.inf
    return np.float32(min(max(power, 1e-37), 3e38))


def _may_improve(
    running: list[Beam], finished: list[Beam], s: Sampling, length: int, was: bool
) -> bool:
    """Whether the best running beam could still beat the worst of a full set of finished ones."""
    if len(finished) < s.num_beams:
        return was
    if s.early_stopping == "never" and s.length_penalty > 0:
        length = s.max_new_tokens
    best = running[0].score / _scale(length, s)
    return was and bool(best > finished[-1].score)


def _finish(finished: list[Beam], ended: list[Beam], s: Sampling, length: int) -> list[Beam]:
    """The finished hypotheses with those that have just ended, the best `num_beams` of them."""
    scale = _scale(length, s)
    new = [replace(beam, score=beam.score / scale) for beam in ended]
    return sorted([*finished, *new], key=lambda beam: -beam.score)[: s.num_beams]


def search(
    engine: Engine, prompt: list[int], s: Sampling, *, limit: int | None = None
) -> list[Beam]:
    """The `s.n` best hypotheses for a prompt, best first; each holds prompt and new tokens.

    Fewer where fewer can be found. s: with `stop_tokens` and, unless greedy, `seed` given. limit:
    no token from this id on. A full window slides as everywhere (`engines.advance`).
    """
    cache = engine.cache()
    ends = set(s.stop_tokens or ())
    width = max(2, 1 + len(ends)) * s.num_beams
    running = [Beam(list(prompt), [], np.float32(0), cache.new())]
    logits = engine.step(cache, [running[0].slot], [prompt])  # [1, V]
    finished: list[Beam] = []
    improving = True

    for length in range(1, s.max_new_tokens + 1):
        logits = logits.astype(np.float32)
        raw = log_softmax(logits)
        if limit is not None:
            logits[:, limit:] = -np.inf
        scores = _candidates(running, logits, s, len(prompt))
        found = _extend(running, raw, scores, _pick(scores, width, s, length))
        last = length == s.max_new_tokens
        ended = [beam for beam in found[: s.num_beams] if last or beam.tokens[-1] in ends]
        full = len(finished) == s.num_beams and s.early_stopping is True
        if improving and not full:
            finished = _finish(finished, ended, s, length)

        going = [beam for beam in found if not (last or beam.tokens[-1] in ends)]
        going = sorted(going, key=lambda beam: -beam.score)[: s.num_beams]
        if not going and len(finished) < s.n and length > 1 and not last:
            finished = _finish(finished, running, s, length - 1)  # a dead end: take what there is
        if not going:
            break
        improving = _may_improve(going, finished, s, length, improving)
        if not improving or (len(finished) == s.num_beams and s.early_stopping is True):
            break
        _move(cache, running, going)
        running = going
        logits = advance(engine, cache, running, s.window_keep)
    return finished[: s.n]
