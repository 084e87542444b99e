"""A BPE's vocabulary as a few flat arrays, which a start reads in a millisecond: names and merges.

A dict of 50,257 names and a list of as many merges take 0.05 s and 15 MB to make, and a short
prompt asks for a few dozen of them. Here a name is found by bisection of the sorted names. A merge
is found by what it makes: the token, and how many characters of its name come from the left.

What this cannot hold exactly and in its order is not packed: ids with holes, and tokens that two
merges make.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

NONE = 0xFFFFFFFF  # the rank of a token that no merge makes
_INTEGERS: Final = "I"  # four bytes, as everywhere that Python runs


class Names(Mapping[str, int]):
    """name -> id: the dict of a vocabulary whose ids are 0, 1, 2 ... in its order.

    text: the names one after another, in UTF-8. ends: [V] where each ends. order: [V] the ids,
    sorted by the bytes of their names.
    """

    def __init__(self, text: bytes, ends: Sequence[int], order: Sequence[int]) -> None:
        self._text, self._ends, self._order = text, ends, order

    def _bytes(self, token: int) -> bytes:
        return self._text[self._ends[token - 1] if token else 0 : self._ends[token]]

    def name(self, token: int) -> str:
        """The name of an id, "" for one that is not there."""
        return self._bytes(token).decode() if token < len(self) else ""

    def __getitem__(self, name: str) -> int:
        wanted = name.encode("utf-8", "surrogatepass")
        at = bisect_left(self._order, wanted, key=self._bytes)
        if at == len(self) or self._bytes(self._order[at]) != wanted:
            raise KeyError(name)
        return self._order[at]

    def __iter__(self) -> Iterator[str]:
        return map(self.name, range(len(self)))

    def __len__(self) -> int:
        return len(self._ends)


class Ranks(Mapping[tuple[str, str], int]):
    """(left, right) -> rank of the merge of two pieces.

    lengths: [V] characters of a token's name that come from the left piece. ranks: [V] of the merge
    that makes it, NONE where none does.
    """

    def __init__(self, names: Names, lengths: Sequence[int], ranks: Sequence[int]) -> None:
        self._names, self._lengths, self._ranks = names, lengths, ranks

    def __getitem__(self, pair: tuple[str, str]) -> int:
        token = self._names["".join(pair)]
        if self._ranks[token] == NONE or self._lengths[token] != len(pair[0]):
            raise KeyError(pair)
        return self._ranks[token]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        made = [token for token, rank in enumerate(self._ranks) if rank != NONE]
        for token in sorted(made, key=self._ranks.__getitem__):
            name, length = self._names.name(token), self._lengths[token]
            yield name[:length], name[length:]

    def __len__(self) -> int:
        return sum(rank != NONE for rank in self._ranks)


def packed(vocab: Mapping[str, int], merges: Sequence[Sequence[str]]) -> bytes | None:
    """The arrays of a vocabulary and its merges, for `unpacked`; None where they cannot hold it."""
    size = len(vocab)
    if list(vocab.values()) != list(range(size)):
        return None
    names = [name.encode() for name in vocab]
    lengths, ranks = [0] * size, [NONE] * size
    for rank, (left, right) in enumerate(merges):
        token = vocab[left + right]
        if ranks[token] != NONE or not left or not right:
            return None
        lengths[token], ranks[token] = len(left), rank
    order = sorted(range(size), key=names.__getitem__)
    numbers = [size, *accumulate(map(len, names)), *order, *lengths, *ranks]
    return array(_INTEGERS, numbers).tobytes() + b"".join(names)


def unpacked(data: bytes) -> tuple[Names, Ranks]:
    """The vocabulary and the ranks of its merges in what `packed` has given."""
    size = memoryview(data)[:4].cast(_INTEGERS)[0]
    end = 4 * (1 + 4 * size)
    numbers = memoryview(data)[4:end].cast(_INTEGERS)
    ends, order, lengths, ranks = (numbers[i * size : (i + 1) * size] for i in range(4))
    names = Names(data[end:], ends, order)
    return names, Ranks(names, lengths, ranks)
