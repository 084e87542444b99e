"""The next tokens of many rows: by the engine's compiled draw where it has one, else in NumPy.

Both give the same tokens and log-probabilities; `sampler` is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt2lab.engines.cpu.draw.drawer import RowToDraw
from gpt2lab.errors import InputError
from gpt2lab.generation.request import Request
from gpt2lab.generation.sampler import next_token

Array = np.ndarray[Any, np.dtype[Any]]


class RowAsked(NamedTuple):
    """A row whose next token is asked for: logits [V], and where its sample stands.

    tokens: all ids so far, the prompt's first. sample: its index.
    """

    logits: Array
    request: Request
    tokens: list[int]
    sample: int


def draw_rows(engine: Any, rows: Sequence[RowAsked]) -> list[tuple[int, float] | InputError]:
    """`sampler.next_token` of each row, by the engine's own compiled draw where it has one."""
    drawn: list[tuple[int, float] | None] = [None] * len(rows)
    if draw := getattr(engine, "draw", None):
        wanted = {place: w for place, row in enumerate(rows) if (w := _wanted(row))}
        for place, found in zip(wanted, draw([*wanted.values()]) if wanted else (), strict=True):
            drawn[place] = found
    return [found or _by_numpy(row) for row, found in zip(rows, drawn, strict=True)]


def _wanted(row: RowAsked) -> RowToDraw | None:
    """A row for the compiled draw, None where only NumPy can draw it."""
    request, logits = row.request, row.logits
    own, n_vocab = request.plan, len(logits)
    if own is None or own.most >= n_vocab or logits.dtype != np.float32 or logits.strides != (4,):
        return None
    limit = n_vocab if request.limit is None else request.limit
    return RowToDraw(logits, own, limit, row.tokens, len(request.prompt), row.sample)


def _by_numpy(row: RowAsked) -> tuple[int, float] | InputError:
    request = row.request
    try:
        return next_token(
            row.logits, request.sampling, row.tokens, len(request.prompt), row.sample, request.limit
        )
    except InputError as error:
        return error
