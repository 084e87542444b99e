"""The compiled draw, called from Python: rows in, tokens and log-probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt2lab import forks
from gpt2lab.engines.cpu import compile_cache
from gpt2lab.engines.cpu.compile_cache import CompiledCode
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.draw.table import (
    BLOCK,
    HEADER,
    ROOM,
    UNIT,
    DrawCall,
    DrawRow,
    DrawStep,
    Op,
)
from gpt2lab.engines.cpu.layout import ceil_to
from gpt2lab.engines.cpu.threads import Workers

Array = np.ndarray[Any, np.dtype[Any]]


def signed(number: int) -> int:
    """The int64 with the bits of an unsigned one."""
    return number - (1 << 64) if number >= 1 << 63 else number


#: Operations that look at the ids so far.
_READERS = (
    *(Op.REPETITION_PENALTY, Op.PRESENCE_PENALTY, Op.FREQUENCY_PENALTY, Op.NO_REPEAT_NGRAM),
    Op.BAD_WORDS,
)
Operation = tuple[Op, float, Sequence[int], Sequence[float]]  # op, number, ids, values


class Plan:
    """The settings of a row as operations, in their order.

    seed: of the random stream. most: the highest id that the operations list.
    """

    def __init__(self, operations: Sequence[Operation], seed: int = 0, most: int = -1) -> None:
        self._given, self.most = (operations, seed, most), most
        words = np.zeros((len(operations) + 1, len(DrawStep)), np.int64)  # the last is END
        self._arrays: list[Array] = [words]
        for row, (op, number, ids, values) in zip(words, operations, strict=False):
            row[DrawStep.OP], row[DrawStep.COUNT] = op, len(ids)
            row[DrawStep.NUMBER] = np.float64(number).view(np.int64)
            listed, more = np.array(ids, np.int64), np.array(values, np.float32)
            row[DrawStep.LIST], row[DrawStep.VALUES] = listed.ctypes.data, more.ctypes.data
            self._arrays += [listed, more]
        self.address, self.seed = words.ctypes.data, signed(seed)
        self.reads_tokens = any(op in _READERS for op, *_ in operations)

    def __reduce__(self) -> Any:  # a copy has addresses of its own
        return type(self), self._given


class RowToDraw(NamedTuple):
    """A row to be drawn: float32 logits [V], its settings, and where its sample stands.

    limit: no token from this id on. tokens: all ids so far, the prompt's first.
    """

    logits: Array
    plan: Plan
    limit: int
    tokens: Sequence[int]
    prompt_length: int
    sample: int  # its index


class Drawer:
    """Draws for a vocabulary of n_vocab, with all threads of a crew.

    It belongs to one call at a time, which the crew's lock sees to.
    """

    def __init__(self, kernel: CompiledCode, n_vocab: int) -> None:
        self._kernel, self._vocab = kernel, n_vocab
        self._padded = max(ceil_to(n_vocab, BLOCK), 8 * BLOCK)
        self._call = np.zeros(len(DrawCall), np.int64)
        self._room = np.zeros((0, 0), np.uint8)

    def draw(self, workers: Workers, rows: Sequence[RowToDraw]) -> list[tuple[int, float] | None]:
        """The next token of each row and its log-probability, None where NumPy shall draw it."""
        given = [np.array(row.tokens, np.int64) if row.plan.reads_tokens else None for row in rows]
        table = np.array(
            [
                (
                    row.logits.__array_interface__["data"][0],
                    row.limit,
                    row.plan.address,
                    row.plan.seed,
                    signed(row.sample),
                    0 if tokens is None else tokens.ctypes.data,
                    len(row.tokens),
                    row.prompt_length,
                    -1,
                    0,
                )
                for row, tokens in zip(rows, given, strict=True)
            ],
            np.int64,
        )
        self._run(workers, table)
        logprobs = table[:, DrawRow.LOGPROB].copy().view(np.float64).tolist()
        found = zip(table[:, DrawRow.TOKEN].tolist(), logprobs, strict=True)
        return [None if token < 0 else (token, logprob) for token, logprob in found]

    def _run(self, workers: Workers, table: Array) -> None:
        with forks.whole(), workers.lock:
            if len(self._room) < workers.count:
                size = ceil_to(HEADER + ROOM * self._padded, 64)
                self._room = np.zeros((workers.count, size), np.uint8)
            self._call[:] = (
                table.ctypes.data, self._vocab, self._padded, self._room.ctypes.data,
                self._room.strides[0],
            )  # fmt: skip
            workers.run(self._kernel.address, self._call.ctypes.data, len(table))

    def has_numpys_exp(self, workers: Workers) -> bool:
        """Whether the kernel's float32 exp has the bits of the installed NumPy's."""
        x = -np.geomspace(1e-9, 86, 63 * UNIT, dtype=np.float32)
        x = np.concatenate([x, np.zeros(UNIT, np.float32)])
        found, plan = np.empty_like(x), Plan([(Op.PROBE, 0, (), ())])
        row = np.array(
            [x.ctypes.data, 0, plan.address, 0, 0, found.ctypes.data, len(x) // UNIT, 0, 0, 0]
        )
        self._run(workers, row[None])
        return bool(np.array_equal(found, np.exp(x)))


class Drawing:
    """The drawer of an engine, as soon as its kernel is compiled: in the background, once."""

    def __init__(self, target: Target, n_vocab: int) -> None:
        self._target, self._vocab = target, n_vocab
        self._drawer: Drawer | None = None
        self._waits = True

    def draw(self, workers: Workers, rows: Sequence[RowToDraw]) -> list[tuple[int, float] | None]:
        """As `Drawer.draw`; None for all rows where there is no drawer, or none yet."""
        if self._waits and (kernel := compile_cache.kept_soon("draw", self._target)):
            drawer = Drawer(kernel, self._vocab)
            self._drawer = drawer if drawer.has_numpys_exp(workers) else None
            self._waits = False
        if self._drawer is None:
            return [None] * len(rows)
        return self._drawer.draw(workers, rows)
