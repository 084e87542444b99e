"""The protocol of an inference engine.

An engine owns packed weights. `step` takes a cache with slots and new tokens for some of them, and
returns logits. Whatever else is in the same step, the logits of a row are those that it gets alone:
bit for bit in `numpy` and `cpu`, to rounding in `torch`.

Threads: calls from several threads take turns inside an engine. A cache, and the `Batch` over it,
belongs to one thread at a time, which `Batch` checks.

Shapes: N slots of a step, B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gpt2lab.cache import Slots
from gpt2lab.config import Config

Array = np.ndarray[Any, np.dtype[Any]]


class Engine(Protocol):
    """Tokens in, logits out."""

    config: Config

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...

    def cache(self, slots: int | None = None) -> Slots:
        """An empty cache of this engine's kind; `slots` limits how many sequences it holds."""

    def step(
        self,
        cache: Any,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[bool] | None = None,
    ) -> Array:
        """Append tokens[i] (one or more) to slots[i]; the logits after each one's last: [N, V].

        wanted: for which slots there shall be logits, all by default; N counts these. A step that
        raises leaves every slot as it was.
        """

    def logits(self, tokens: Any) -> Array:
        """The logits of every position of a batch [B, T] without a past: [B, T, V]."""
