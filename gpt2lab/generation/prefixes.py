"""The longest beginning of a prompt that the KV cache holds already, so that it is not read again.

A prompt may begin from a row that runs, from another prompt that is being read, or from a row that
has ended and is kept (`Prefixes.keep`), up to a number of bytes, the oldest dropped first. Only
caches whose bits do not depend on where a portion of tokens begins (`Slots.chunked`) are searched.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gpt2lab.cache import Sequence, Slots
from gpt2lab.checks import is_number
from gpt2lab.errors import InputError, quoted

LEAST = 16  # tokens: fewer are read as fast as they are copied
PAGES = 64  # positions that a kept row counts as at least: its memory comes in whole pages


def shared(one: list[int], other: list[int]) -> int:
    """How many tokens at the beginning of two lists are the same."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # the first `low` are the same
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Prefix(NamedTuple):
    """What a prompt shares with a slot: the first `length` tokens."""

    length: int
    slot: int = -1


class Prefixes:
    """The ended rows that a batch keeps, and the search for the beginning of a prompt.

    limit: bytes that the kept rows may take; 0 turns all of it off, None is one row of full length.
    InputError for a limit that no row keeps.
    """

    def __init__(self, cache: Slots, limit: float | None) -> None:
        limit = cache.config.n_ctx * cache.position_bytes if limit is None else limit
        least = min(PAGES, cache.config.n_ctx) * cache.position_bytes
        if limit != 0 and not (is_number(limit) and limit >= least):
            raise InputError(
                f"reuse is {quoted(limit)} bytes and a row takes {least} or more; give as many, or "
                "0 to keep none"
            )
        self._cache, self._most = cache, limit // cache.position_bytes
        self._kept: dict[int, list[int]] = {}  # slot -> the tokens that it holds, oldest first
        self.on = limit > 0 and cache.chunked

    def __len__(self) -> int:
        """How many ended rows are kept."""
        return len(self._kept)

    @property
    def positions(self) -> int:
        """How many positions of the KV cache the kept rows count as."""
        return sum(max(PAGES, len(tokens)) for tokens in self._kept.values())

    # ---- Keeping.

    def keep(self, sequence: Sequence, whole: bool = True) -> None:
        """Take over the slot of a sequence that has ended, or free it.

        whole: False for one that ended in an error: its numbers may not be finite, and in a slot
        that is used again they would lie beside others.
        """
        slot, sequence.slot = sequence.slot, -1
        tokens = self._held(sequence, slot)
        if not (self.on and whole) or len(tokens) < LEAST or max(PAGES, len(tokens)) > self._most:
            self._cache.free(slot)
            return
        for other, old in [*self._kept.items()]:
            if shared(old, tokens) > len(old) - LEAST:  # it says nothing that this one does not
                self._drop(other)
        self._kept[slot] = tokens
        self.shrink(self._most)

    def shrink(self, positions: float) -> None:
        """Drop the oldest until the kept rows count as at most `positions`."""
        while self._kept and self.positions > positions:
            self._drop(next(iter(self._kept)))

    def _drop(self, slot: int) -> None:
        del self._kept[slot]
        self._cache.free(slot)

    def _held(self, sequence: Sequence, slot: int) -> list[int]:
        """The tokens whose keys and values a slot holds; after a slide they begin at its start."""
        return sequence.tokens[sequence.start : sequence.start + self._cache.length(slot)]

    @staticmethod
    def _first(sequence: Sequence) -> list[int]:
        return sequence.tokens[sequence.start : sequence.start + LEAST]

    # ---- Beginning.

    def best(self, tokens: list[int], others: Iterable[Sequence] = ()) -> Prefix:
        """What a prompt shares most with: a kept row, or one of the sequences in a slot.

        Its last token does not count: it is always read, since its logits are wanted.
        """
        if not self.on or len(tokens) <= LEAST:
            return Prefix(0)
        first, most = tokens[:LEAST], tokens[:-1]
        alike = [q for q in others if q.slot >= 0 and self._first(q) == first]
        known = [(slot, held) for slot, held in self._kept.items() if held[:LEAST] == first]
        known += [(q.slot, self._held(q, q.slot)) for q in alike]
        return max((Prefix(shared(most, held), slot) for slot, held in known), default=Prefix(0))

    def coming(self, tokens: list[int], ahead: Iterable[Sequence]) -> int:
        """How many tokens a prompt will share with those that are being read before it."""
        if not self.on:
            return 0
        first, most = tokens[:LEAST], tokens[:-1]
        alike = [q.tokens[q.start :] for q in ahead if self._first(q) == first]
        return max((shared(most, other) for other in alike), default=0)

    def touch(self, tokens: list[int]) -> None:
        """Make the kept row that a prompt may begin from the newest, so that it stays."""
        if (slot := self.best(tokens).slot) >= 0:
            self._kept[slot] = self._kept.pop(slot)

    def begin(self, prefix: Prefix) -> int:
        """A slot that holds a prefix: a copy, or the slot of a kept row that is all but used up."""
        length, slot = prefix
        if slot < 0:
            return self._cache.new()
        if slot not in self._kept:
            return self._cache.fork(slot, length)
        if length > len(self._kept[slot]) - LEAST:
            self._cache.rewind(slot, length)
            del self._kept[slot]
            return slot
        other = self._cache.fork(slot, length)
        self._kept[slot] = self._kept.pop(slot)  # now the newest
        return other
