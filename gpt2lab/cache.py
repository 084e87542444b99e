"""The KV cache: many sequences side by side, each in a slot with its own length.

`Slots` keeps the lengths, for the caches of all engines; `Cache` is the plain one, of NumPy arrays;
a `Sequence` is tokens and the slot that holds them as far as they have been read.
`new` takes a slot, `rewind` truncates it, `fork` copies it, `free` gives it back. What is written
into the slots is the engines' work.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2lab.checks import check_ids, whole
from gpt2lab.config import Config
from gpt2lab.errors import InputError, quoted

Array = np.ndarray[Any, np.dtype[Any]]


class Slots(ABC):
    """Which slots are taken, and how many tokens each of them holds; a subclass has the memory.

    limit: how many sequences there may be at once. chunked: whether tokens may be appended in any
    portions, beside any others, with the same bits.
    """

    chunked = False

    def __init__(self, config: Config, limit: int | None = None) -> None:
        if limit is not None:
            whole("slots", limit, 1)
        self.config, self._limit = config, limit
        self._lengths: dict[int, int] = {}
        self._next = 0

    @property
    @abstractmethod
    def position_bytes(self) -> int:
        """The memory of one position of one slot."""

    @abstractmethod
    def _take(self, slot: int) -> None:
        """Find memory for a new slot."""

    @abstractmethod
    def _copy(self, slot: int, other: int, length: int) -> None:
        """Copy the first `length` positions of a slot into another."""

    @abstractmethod
    def _give_back(self, slot: int) -> None:
        """Release the memory of a slot."""

    def new(self) -> int:
        """A fresh slot of length 0; InputError when all that are allowed are taken."""
        if self._limit is not None and len(self) >= self._limit:
            raise InputError(
                f"all {self._limit} slots of the cache hold a sequence; free one, or ask for more"
            )
        slot = self._next
        self._take(slot)
        self._next, self._lengths[slot] = slot + 1, 0
        return slot

    def length(self, slot: int) -> int:
        """How many tokens the slot holds."""
        if slot not in self._lengths:
            raise InputError(
                f"slot {quoted(slot)} holds no sequence of this cache; new() gives one"
            )
        return self._lengths[slot]

    def extend(self, slot: int, count: int) -> None:
        """Note that `count` tokens were written at the end of the slot."""
        self._lengths[slot] += count

    def rewind(self, slot: int, length: int) -> None:
        """Drop everything past the first `length` tokens."""
        assert 0 <= length <= self._lengths[slot]
        self._lengths[slot] = length

    def fork(self, slot: int, length: int | None = None) -> int:
        """A new slot with a copy of the first `length` tokens of this one, all by default."""
        held = self.length(slot)
        length = held if length is None else length
        assert 0 <= length <= held
        other = self.new()
        try:
            self._copy(slot, other, length)
        except BaseException:
            self.free(other)
            raise
        self._lengths[other] = length
        return other

    def free(self, slot: int) -> None:
        """Give the slot back."""
        self._give_back(slot)
        del self._lengths[slot]

    def __len__(self) -> int:
        return len(self._lengths)

    def check_step(self, slots: Collection[int], tokens: Collection[Any]) -> list[list[int]]:
        """The new tokens of an engine's step, one list for each slot.

        Raises InputError, before anything is changed, for what cannot be appended.
        """
        if len(slots) != len(tokens):
            raise InputError(f"{len(slots)} slots and {len(tokens)} lists of tokens; give as many")
        if len(set(slots)) != len(slots):
            raise InputError(f"a slot is named twice in one step: {list(slots)}")
        c, checked = self.config, []
        for slot, new in zip(slots, tokens, strict=True):
            length = self.length(slot)
            ids = check_ids(new, c.n_vocab, f"step of slot {slot}")
            if length + len(ids) > c.n_ctx:
                raise InputError(
                    f"slot {slot} would hold {length + len(ids)} tokens, more than the model's "
                    f"{c.n_ctx} positions; rewind it, or give fewer"
                )
            checked.append(ids)
        return checked


class Cache(Slots):
    """Keys and values as arrays [1, L, 2, H, length, D], in buffers that double as they grow.

    Shapes: L layers, H heads, P past tokens, D head width. `chunked` is False: BLAS sums in another
    order for another number of rows.
    """

    def __init__(self, config: Config, dtype: Any = np.float32, slots: int | None = None) -> None:
        super().__init__(config, slots)
        self.dtype = dtype
        self._buffers: dict[int, Array] = {}

    @property
    def position_bytes(self) -> int:
        """The memory of one position of one slot."""
        return self._buffer(1).nbytes

    def past(self, slot: int) -> Array | None:
        """What `reference.model` takes as past: a view [1, L, 2, H, P, D], or None when empty."""
        length = self.length(slot)
        return self._buffers[slot][..., :length, :] if length else None

    def append(self, slot: int, present: Array) -> None:
        """Add the new keys and values [1, L, 2, H, T, D] at the end of the slot."""
        start, count = self.length(slot), present.shape[-2]
        end, buffer = start + count, self._buffers[slot]
        if end > buffer.shape[-2]:
            buffer = self._buffer(min(self.config.n_ctx, max(end, 2 * start)))
            buffer[..., :start, :] = self._buffers[slot][..., :start, :]
            self._buffers[slot] = buffer
        buffer[..., start:end, :] = present
        self.extend(slot, count)

    def _take(self, slot: int) -> None:
        self._buffers[slot] = self._buffer(0)

    def _copy(self, slot: int, other: int, length: int) -> None:
        self._buffers[other] = self._buffers[slot][..., :length, :].copy()

    def _give_back(self, slot: int) -> None:
        del self._buffers[slot]

    def _buffer(self, size: int) -> Array:
        c = self.config
        return np.empty((1, c.n_layer, 2, c.n_head, size, c.head_width), self.dtype)


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
