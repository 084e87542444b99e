"""What computes: the protocol that every engine keeps, and the choice between them.

An engine owns packed weights. It is given a cache with slots and new tokens for some of them, and
gives logits. Whatever it is given at once, a row's numbers are those that it would get alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gpt2lab.config import Config
from gpt2lab.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


class Slots(Protocol):
    """The cache as generation sees it (`gpt2lab.cache.Cache` is the plain one)."""

    def new(self) -> int: ...
    def length(self, slot: int) -> int: ...
    def rewind(self, slot: int, length: int) -> None: ...
    def fork(self, slot: int) -> int: ...
    def free(self, slot: int) -> None: ...


class Engine(Protocol):
    """Tokens in, logits out."""

    config: Config
    name: str
    dtype: str

    def cache(self) -> Slots:
        """An empty cache of this engine's kind."""

    def step(self, cache: Any, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> Array:
        """Append tokens[i] (one or more) to slots[i]; the logits after each one's last: [N, V]."""

    def logits(self, tokens: Any) -> Array:
        """The logits of every position of a batch [B, T] without a past: [B, T, V]."""


class Row(Protocol):
    """What `advance` needs of a sequence: its tokens, its slot, and a count of window slides."""

    tokens: list[int]
    slot: int
    slides: int


def advance(engine: Engine, cache: Any, rows: Sequence[Row], window_keep: float = 0.5) -> Array:
    """Feed each row's newest token: the logits after it, [N, V].

    A row whose window of n_ctx positions is full slides: the last `window_keep` of the window is
    encoded again from position 0, which is the only way on for learned positions.
    """
    n_ctx = engine.config.n_ctx
    new = []
    for row in rows:
        if cache.length(row.slot) < n_ctx:
            new.append(row.tokens[-1:])
            continue
        cache.rewind(row.slot, 0)
        row.slides += 1
        new.append(row.tokens[-max(1, int(n_ctx * window_keep)) :])
    return engine.step(cache, [row.slot for row in rows], new)  # [N, V]


ENGINES = ("numpy",)


def choose(
    config: Config, params: dict[str, Array], engine: str | None = None, dtype: str | None = None
) -> Engine:
    """Build the named engine over the parameters; None is the best that is there."""
    if engine is not None and engine not in ENGINES:
        raise InputError(f"engine {engine!r} is unknown; known: {', '.join(ENGINES)}")
    from gpt2lab.engines.numpy_engine import NumpyEngine

    return NumpyEngine(config, params, dtype)
