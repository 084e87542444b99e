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
from gpt2lab.sampling import Sampling, log_softmax, process, stream

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Beam:
    """One hypothesis: all its tokens, the log-probabilities of the new ones, and its score."""

    tokens: list[int]
    logprobs: list[float]
    score: np.float32
    slot: int = -1
    slides: int = 0


def _candidates(beams: list[Beam], logits: Array, s: Sampling, prompt: int, step: int) -> Array:
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


def _pick(scores: Array, count: int, s: Sampling, index: int, step: int) -> list[int]:
    """Places of the next candidates: the best, or drawn without replacement by their weight.

    The largest sums of score and Gumbel noise are such a draw (Vieira 2014), in the order drawn.
    """
    flat = scores.reshape(-1)  # [beams * V]
    if s.greedy:
        return _top(flat, count)
    assert s.seed is not None
    noise = -np.log(-np.log1p(-stream(s.seed, index, step).random(flat.size)))
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


def _may_improve(
    running: list[Beam], finished: list[Beam], s: Sampling, length: int, was: bool
) -> bool:
    """Whether the best running beam could still beat the worst of a full set of finished ones."""
    if len(finished) < s.num_beams:
        return was
    if s.early_stopping == "never" and s.length_penalty > 0:
        length = s.max_new_tokens
    best = running[0].score / np.float32(length**s.length_penalty)
    return was and bool(best > finished[-1].score)


def search(
    engine: Engine, prompt: list[int], s: Sampling, *, index: int = 0, limit: int | None = None
) -> list[Beam]:
    """The `s.n` best hypotheses for a prompt, best first; each holds prompt and new tokens.

    s: with `stop_tokens` and, unless greedy, `seed` given. limit: no token from this id on.
    A full window slides as everywhere (`engines.advance`).
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
        if limit is not None:
            logits[:, limit:] = -np.inf
        scores = _candidates(running, logits, s, len(prompt), length)
        places = _pick(scores, width, s, index, length)
        found = _extend(running, log_softmax(logits), scores, places)
        ended = [b.tokens[-1] in ends or length == s.max_new_tokens for b in found]

        full = len(finished) == s.num_beams and s.early_stopping is True
        for beam, end in list(zip(found, ended, strict=True))[: s.num_beams]:
            if end and improving and not full:
                score = beam.score / np.float32(length**s.length_penalty)
                finished.append(replace(beam, score=score))
        finished = sorted(finished, key=lambda b: -b.score)[: s.num_beams]

        going = [beam for beam, end in zip(found, ended, strict=True) if not end]
        going = sorted(going, key=lambda b: -b.score)[: s.num_beams]
        if not going:
            break
        improving = _may_improve(going, finished, s, length, improving)
        done = len(finished) == s.num_beams and s.early_stopping is True
        if done or not improving:
            break
        _move(cache, running, going)
        running = going
        logits = advance(engine, cache, running, s.window_keep)
    return finished[: s.n]
