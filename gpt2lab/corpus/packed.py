"""The packed order: the documents of an epoch end to end, shuffled and cut into blocks.

Its random numbers, and those of `batches`, are the raw output of Philox, keyed by their purpose:
they are the same for every version of NumPy.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gpt2lab.corpus.token_set import TokenSet

DOCUMENTS, BLOCKS, WINDOWS, SETS = range(4)  # purposes of random numbers


def random_bits(n: int, seed: int, purpose: int, which: int, number: int) -> np.ndarray:
    """n random uint64 that depend on the arguments alone."""
    word = (purpose << 60) | (which << 48) | number
    return np.random.Philox(key=np.array([seed, word], np.uint64)).random_raw(n)


def permutation(n: int, seed: int, purpose: int, which: int, number: int) -> np.ndarray:
    """A random order of range(n), int64 [n].

    Random keys are sorted with the index as their lower bits: that is as fast as NumPy sorts, and
    no two keys are equal, so every machine sorts them alike.
    """
    keys, bits = random_bits(n, seed, purpose, which, number), np.uint64(n.bit_length())
    keys >>= bits
    keys <<= bits
    keys |= np.arange(n, dtype=np.uint64)
    keys.sort()
    keys &= np.uint64((1 << int(bits)) - 1)
    return keys.view(np.int64)


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """range(start, start + count) of each pair, one after the other."""
    before = np.cumsum(counts) - counts
    places: np.ndarray = np.arange(counts.sum()) + np.repeat(starts - before, counts)
    return places


class EpochLayout(NamedTuple):
    """The documents of a set laid end to end in the order of one epoch.

    begins [documents + 1]: where the document at each place begins in that stream, and its end.
    shifts [documents]: what takes a token of the stream to its place in the set.
    """

    begins: np.ndarray
    shifts: np.ndarray
    blocks: np.ndarray

    def segments(self, starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, ...]:
        """The documents that spans of the stream cut: (row, start in the set, length) of each."""
        first = np.searchsorted(self.begins, starts, "right") - 1  # [B]
        counts = np.searchsorted(self.begins, stops, "left") - first
        at = _ranges(first, counts)  # [segments], places in the order of the epoch
        row = np.repeat(np.arange(len(starts)), counts)
        begin = np.maximum(self.begins[at], starts[row])
        end = np.minimum(self.begins[at + 1], stops[row])
        return row, begin + self.shifts[at], end - begin


class PackedSet:
    """One set in the packed order.

    Where the vocabulary has an end token, the stream of an epoch begins with one: so every document
    of it follows an end token, and the first token of the first one is predicted too.
    """

    def __init__(self, data: TokenSet, block: int, seed: int, which: int) -> None:
        self._data, self._block, self._seed, self._which = data, block, seed, which
        self.lead = int(data.end_token is not None)
        self.n_stream = data.n_tokens + self.lead
        self.blocks = math.ceil((self.n_stream - 1) / block)
        self._epoch = lru_cache(maxsize=2)(self._laid_out)  # a step may belong to two epochs

    def _laid_out(self, epoch: int) -> EpochLayout:
        ends = self._data.ends
        order = permutation(len(ends), self._seed, DOCUMENTS, self._which, epoch)
        starts = np.concatenate([[0], ends[:-1]])
        begins = np.empty(len(ends) + 1, np.int64)
        begins[0] = self.lead
        np.cumsum((ends - starts)[order], out=begins[1:])
        begins[1:] += self.lead
        blocks = permutation(self.blocks, self._seed, BLOCKS, self._which, epoch)
        return EpochLayout(begins, starts[order] - begins[:-1], blocks)

    def _spans(self, samples: np.ndarray) -> tuple[EpochLayout, np.ndarray, np.ndarray]:
        """Of samples of one epoch: its layout, and where their blocks begin and stop in it."""
        epoch = self._epoch(int(samples[0]) // self.blocks)
        starts = epoch.blocks[samples % self.blocks] * self._block  # [B]
        return epoch, starts, np.minimum(starts + self._block + 1, self.n_stream)

    def _rows_of_one_epoch(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epoch, starts, stops = self._spans(samples)
        texts = np.maximum(starts, self.lead)
        _, places, lengths = epoch.segments(texts, stops)
        ids = self._data.tokens.take(_ranges(places, lengths))  # all rows' ids, end to end
        rows = np.zeros((len(samples), self._block + 1), np.int64)
        if self._data.end_token is not None:
            rows[starts == 0, 0] = self._data.end_token
        columns = _ranges(np.arange(len(samples)) * rows.shape[1] + texts - starts, stops - texts)
        rows.reshape(-1)[columns] = ids
        return rows, stops - starts - 1

    def rows(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows [B, T + 1] of samples with rising numbers, and their lengths."""
        cut = int(np.searchsorted(samples, (samples[0] // self.blocks + 1) * self.blocks))
        rows, lengths = self._rows_of_one_epoch(samples[:cut])
        if cut == len(samples):
            return rows, lengths
        more, longer = self.rows(samples[cut:])
        return np.concatenate([rows, more]), np.concatenate([lengths, longer])

    def spans(self, sample: int) -> list[tuple[int, int]]:
        """Return the spans of the set that one sample is made of."""
        epoch, starts, stops = self._spans(np.array([sample]))
        _, places, lengths = epoch.segments(np.maximum(starts, self.lead), stops)
        pairs = zip(places.tolist(), lengths.tolist(), strict=True)
        return [(start, start + n) for start, n in pairs if n]
