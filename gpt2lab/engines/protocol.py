"""The protocol of an inference engine.

An engine owns packed weights. `step` takes a cache with slots and new tokens for some of them, and
returns logits. `score` appends tokens in the same way, and returns log-probabilities at chosen
positions. Whatever else is in the same step, the results of a row are those that it gets alone: bit
for bit in `numpy` and `cpu`, to rounding in `torch`. In `cpu` they are also the same bits in any
portions of tokens, and for any number of threads.

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
from gpt2lab.engines.wanted import Scores, Wanted

Array = np.ndarray[Any, np.dtype[Any]]


class Engine(Protocol):
    """Tokens in, logits or scores out."""

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

    def score(
        self,
        cache: Any,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[Wanted],
    ) -> list[Scores]:
        """Append tokens[i] to slots[i]; the scores at the positions of wanted[i], for each slot.

        Log-probabilities of given targets, the most probable ids, ranks and entropies, without
        logits [T, V] in memory at any time. InputError for positions outside the slot's tokens,
        targets outside the vocabulary and logits that are not finite; a step that raises leaves
        every slot as it was.
        """

    def logits(self, tokens: Any) -> Array:
        """The logits of every position of a batch [B, T] without a past: [B, T, V]."""
