"""Scores of texts as a job of the scheduler: a few tokens at a time, between the batch's steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpt2lab.engines.protocol import Engine
from gpt2lab.engines.wanted import Scores, Wanted, joined
from gpt2lab.generation.batch import CHUNK


@dataclass(eq=False)
class ToScore:
    """Tokens to read, and what is wanted of them. scores: what was found, when it is done."""

    tokens: Sequence[int]
    wanted: Wanted
    scores: Scores | None = None


def _parts(one: ToScore, size: int) -> Iterator[tuple[Sequence[int], Wanted]]:
    """The tokens of a text in portions, and what is wanted of each."""
    positions = list(one.wanted.positions)
    for start in range(0, len(one.tokens), size):
        end = start + size
        inside = [k for k, position in enumerate(positions) if start <= position < end]
        first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
        part = one.wanted.of(slice(first, last))
        moved = [position - start for position in part.positions]
        yield one.tokens[start:end], replace(part, positions=moved)


def _portions(asked: Sequence[ToScore], size: int) -> Iterator[list[ToScore]]:
    """Neighbours of `size` tokens at most together, or one alone."""
    part: list[ToScore] = []
    for one in asked:
        if part and sum(len(q.tokens) for q in part) + len(one.tokens) > size:
            yield part
            part = []
        part.append(one)
    if part:
        yield part


def scoring(engine: Engine, asked: Sequence[ToScore], size: int = CHUNK) -> Iterator[None]:
    """Score texts, short ones together, long ones in portions; positions in rising order."""
    cache: Any = engine.cache()
    for part in _portions(asked, size):
        slots = [cache.new() for _ in part]
        if len(part) > 1 or len(part[0].tokens) <= size or not cache.chunked:
            texts = [one.tokens for one in part]
            found = engine.score(cache, slots, texts, [one.wanted for one in part])
            for one, scores in zip(part, found, strict=True):
                one.scores = scores
            yield
        else:
            several = []
            for tokens, wanted in _parts(part[0], size):
                several += engine.score(cache, slots, [tokens], [wanted])
                yield
            part[0].scores = joined(several)
        for slot in slots:
            cache.free(slot)
