"""Tokens to coded bytes and back, several streams side by side.

A file is cut into streams of neighbouring tokens, which are coded together: each step of the engine
has one token of every stream. Encoder and decoder make the same calls of the engine with the same
tokens, so they see the same logits, whatever the engine promises of its batches.

A stream begins without context, after the token that documents begin after; a model that has none
finds all tokens equally probable there. When the context window is full, it begins again with the
last half of its tokens, so a token is predicted from n_ctx / 2 to n_ctx tokens.

Shapes: B streams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt2lab.cache import Slots
from gpt2lab.compression.frequencies import frequencies
from gpt2lab.compression.range_coder import RangeDecoder, RangeEncoder
from gpt2lab.engines.protocol import Engine
from gpt2lab.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
Watch = Callable[[int, int], None]  # gets the number of tokens that are done, and of all


def silent(done: int, total: int) -> None:
    """Tell no one."""


def lengths_of(n_tokens: int, streams: int) -> list[int]:
    """How many tokens each stream has: as equal as can be, the longer ones first."""
    return [n_tokens // streams + (i < n_tokens % streams) for i in range(streams)]


class _Contexts:
    """The context windows of streams, in a cache of the engine."""

    def __init__(self, engine: Engine, streams: int) -> None:
        self._engine, self._config = engine, engine.config
        self._cache: Slots = engine.cache()
        self._slots = [self._cache.new() for _ in range(streams)]
        begin = engine.config.begin
        self._tokens = [[] if begin is None else [begin] for _ in range(streams)]

    def next(self, active: int) -> Array:
        """The frequencies of the next token of the first `active` streams: [B, V]."""
        if not self._tokens[0]:
            return np.ones((active, self._config.n_vocab), np.int64)
        new = [self._lacking(i) for i in range(active)]
        logits = self._engine.step(self._cache, self._slots[:active], new)  # [B, V]
        return frequencies(logits)

    def _lacking(self, i: int) -> list[int]:
        """The tokens of a stream that its slot does not hold yet; a full window begins again."""
        tokens, slot = self._tokens[i], self._slots[i]
        if len(tokens) > self._config.n_ctx:
            del tokens[: len(tokens) - max(1, self._config.n_ctx // 2)]
            self._cache.rewind(slot, 0)
        return tokens[self._cache.length(slot) :]

    def append(self, i: int, token: int) -> None:
        """Note the next token of a stream."""
        self._tokens[i].append(token)


def encode(
    engine: Engine, tokens: Sequence[int], streams: int, watch: Watch = silent
) -> list[bytes]:
    """The coded bytes of each stream of the tokens."""
    lengths, done = lengths_of(len(tokens), streams), 0
    starts = np.cumsum([0, *lengths[:-1]])
    coders, contexts = [RangeEncoder() for _ in lengths], _Contexts(engine, streams)
    for t in range(lengths[0]):
        active = sum(length > t for length in lengths)
        counts = contexts.next(active)  # [B, V]
        totals = counts.sum(-1).tolist()
        for i in range(active):
            token = tokens[starts[i] + t]
            start = int(counts[i, :token].sum())
            coders[i].encode(start, int(counts[i, token]), totals[i])
            contexts.append(i, token)
        watch(done := done + active, sum(lengths))
    return [coder.finish() for coder in coders]


def decode(
    engine: Engine, parts: Sequence[bytes], n_tokens: int, watch: Watch = silent
) -> list[int]:
    """The tokens of coded streams. InputError for bytes that no encoder has made."""
    lengths, done = lengths_of(n_tokens, len(parts)), 0
    coders, contexts = [RangeDecoder(part) for part in parts], _Contexts(engine, len(parts))
    found = [list[int]() for _ in parts]
    for t in range(lengths[0]):
        active = sum(length > t for length in lengths)
        ends = contexts.next(active).cumsum(-1)  # [B, V]
        for i in range(active):
            row = ends[i]
            token = int(row.searchsorted(coders[i].target(int(row[-1])), "right"))
            start = int(row[token - 1]) if token else 0
            coders[i].take(start, int(row[token]) - start)
            if coders[i].overrun > 8:
                raise InputError("the coded data end before the tokens that the header counts")
            found[i].append(token)
            contexts.append(i, token)
        watch(done := done + active, sum(lengths))
    return [token for stream in found for token in stream]
