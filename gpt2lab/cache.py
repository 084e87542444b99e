"""Keys and values of the past: many sequences side by side, each with its own length.

A sequence lives in a slot. It grows by `append`, forgets its end by `rewind`, shares its beginning
by `fork`, and goes by `free`. What is computed into it is the engines' work.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2lab.config import Config
from gpt2lab.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


class Cache:
    """Slots of keys and values, [1, L, 2, H, length, D] each, in buffers that double as they grow.

    Shapes: L layers, H heads, P past tokens, D head width.
    """

    chunked = False  # BLAS sums in another order for another number of rows

    def __init__(self, config: Config, dtype: Any = np.float32, slots: int | None = None) -> None:
        self.config, self.dtype, self._limit = config, dtype, slots
        self._buffers: dict[int, Array] = {}
        self._lengths: dict[int, int] = {}
        self._next = 0

    def new(self) -> int:
        """A fresh slot of length 0; InputError when `slots` of them are taken."""
        if self._limit is not None and len(self._buffers) >= self._limit:
            raise InputError(
                f"all {self._limit} slots of the cache hold a sequence; free one, or ask for more"
            )
        slot, self._next = self._next, self._next + 1
        self._buffers[slot] = self._buffer(0)
        self._lengths[slot] = 0
        return slot

    def length(self, slot: int) -> int:
        """How many tokens the slot holds."""
        return self._lengths[slot]

    def past(self, slot: int) -> Array | None:
        """What `reference.model` takes as past: a view [1, L, 2, H, P, D], or None when empty."""
        length = self._lengths[slot]
        return self._buffers[slot][..., :length, :] if length else None

    def append(self, slot: int, present: Array) -> None:
        """Add the new keys and values [1, L, 2, H, T, D] at the end of the slot."""
        start = self._lengths[slot]
        end = start + present.shape[-2]
        buffer = self._buffers[slot]
        if end > buffer.shape[-2]:
            buffer = self._buffer(min(self.config.n_ctx, max(end, 2 * start)))
            buffer[..., :start, :] = self._buffers[slot][..., :start, :]
            self._buffers[slot] = buffer
        buffer[..., start:end, :] = present
        self._lengths[slot] = end

    def rewind(self, slot: int, length: int) -> None:
        """Forget everything past the first `length` tokens."""
        assert 0 <= length <= self._lengths[slot]
        self._lengths[slot] = length

    def fork(self, slot: int) -> int:
        """A new slot that begins with all that this one holds; both go on independently."""
        other, length = self.new(), self._lengths[slot]
        self._buffers[other] = self._buffers[slot][..., :length, :].copy()
        self._lengths[other] = length
        return other

    def free(self, slot: int) -> None:
        """Give the slot's memory back."""
        del self._buffers[slot], self._lengths[slot]

    def __len__(self) -> int:
        return len(self._buffers)

    @property
    def position_bytes(self) -> int:
        """The memory of one position of one slot."""
        return self._buffer(1).nbytes

    def _buffer(self, size: int) -> Array:
        c = self.config
        return np.empty((1, c.n_layer, 2, c.n_head, size, c.head_width), self.dtype)
