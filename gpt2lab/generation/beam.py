"""Beam search and beam sampling, for one prompt: the same ids as Hugging Face's `generate()`.

The rules are those of transformers 5, `GenerationMixin._beam_search`, told over plain lists:
candidates that end count only among the best `num_beams`, scores are float32 sums of
log-probabilities over length ** length_penalty, and `early_stopping` decides when to give up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpt2lab.cache import Sequence, Slots
from gpt2lab.errors import InputError
from gpt2lab.generation.request import Request
from gpt2lab.generation.sampler import log_softmax, process, stream
from gpt2lab.generation.sampling import Sampling

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(eq=False, kw_only=True)
class Beam(Sequence):
    """One hypothesis: the log-probabilities of its new tokens, and its score."""

    logprobs: list[float]
    score: np.float32


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


def _extend(beams: list[Beam], logprobs: Array, scores: Array, places: Iterable[int]) -> list[Beam]:
    """The candidates as hypotheses; their slot is still that of the beam they come from."""
    extended = []
    for place in places:
        parent, token = divmod(place, scores.shape[-1])
        old = beams[parent]
        new = [*old.logprobs, float(logprobs[parent, token])]
        extended.append(
            replace(
                old,
                tokens=[*old.tokens, token],
                logprobs=new,
                score=scores[parent, token],
                logits=None,
            )
        )
    return extended


def _move(cache: Slots, old: list[Beam], new: list[Beam]) -> None:
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


class Search:
    """The search for one request.

    running: the hypotheses that go on; `advance` needs the logits of all. finished: the ended ones,
    best first.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.running = [Beam(list(request.prompt), logprobs=[], score=np.float32(0))]
        self.finished: list[Beam] = []
        self._improving = True

    def advance(self, cache: Slots) -> bool:
        """Take the logits of all running hypotheses one token further; whether the search is over.

        Then `finished` holds the best `n`, or fewer where fewer can be found; InputError if none.
        """
        s, prompt = self.request.sampling, len(self.request.prompt)
        going = self._extend(len(self.running[0].tokens) + 1 - prompt)
        if going:
            _move(cache, self.running, going)
            self.running = going
            return False
        self.finished = self.finished[: s.n]
        if not self.finished:
            raise InputError(
                "beam search found no text: the settings rule out every token; loosen bad_words, "
                "logit_bias or no_repeat_ngram_size"
            )
        return True

    def _extend(self, length: int) -> list[Beam]:
        """The hypotheses of `length` new tokens to go on with; none when the search is over."""
        s, ends = self.request.sampling, set(self.request.sampling.stop_tokens or ())
        logits = np.stack([np.asarray(beam.logits, np.float32) for beam in self.running])
        raw = log_softmax(logits)
        if self.request.limit is not None:
            logits[:, self.request.limit :] = -np.inf
        scores = _candidates(self.running, logits, s, len(self.request.prompt))
        width = max(2, 1 + len(ends)) * s.num_beams
        found = _extend(self.running, raw, scores, _pick(scores, width, s, length))
        last = length == s.max_new_tokens
        ended = [beam for beam in found[: s.num_beams] if last or beam.tokens[-1] in ends]
        if self._improving and not self._full(s):
            self.finished = _finish(self.finished, ended, s, length)

        going = [beam for beam in found if not (last or beam.tokens[-1] in ends)]
        going = sorted(going, key=lambda beam: -beam.score)[: s.num_beams]
        if not going and len(self.finished) < s.n and length > 1 and not last:
            # A dead end: take what there is.
            self.finished = _finish(self.finished, self.running, s, length - 1)
        if not going:
            return []
        self._improving = _may_improve(going, self.finished, s, length, self._improving)
        return going if self._improving and not self._full(s) else []

    def _full(self, s: Sampling) -> bool:
        """Whether as many have finished as are wanted, and that is enough."""
        return len(self.finished) == s.num_beams and s.early_stopping is True
