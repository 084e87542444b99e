"""A sequence of tokens and the cache slot that holds it, as far as it has been read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2lab.cache import Slots

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(eq=False)
class Sequence:
    """Tokens, and where the engine stands with them.

    tokens: all ids so far. slot: of the KV cache, -1 for none yet; it holds tokens[start:] or the
    beginning of them. slides: how often the context window was full and moved on. logits: [V],
    those after the last token; None while the slot lacks tokens.
    """

    tokens: list[int]
    slot: int = -1
    start: int = 0
    slides: int = 0
    logits: Array | None = None

    def lacking(self, cache: Slots, n_ctx: int, window_keep: float) -> list[int]:
        """The tokens that the slot does not hold yet.

        A full window of n_ctx positions slides: its last `window_keep` is read again from position
        0, which learned positions require. Calling this again changes nothing more.
        """
        if len(self.tokens) - self.start > n_ctx:
            cache.rewind(self.slot, 0)
            self.start = len(self.tokens) - max(1, int(n_ctx * window_keep))
            self.slides += 1
        return self.tokens[self.start + cache.length(self.slot) :]
