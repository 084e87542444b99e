"""A scoring step on the engine's side: the positions in the order of rows, and their scores.

The kernels (`scoring`) write what they find in each block of the head; `Partials` adds it up. Sums
over blocks run in the order of the blocks, one by one and in float64, for one row as for many: a
sum of NumPy's own would choose another order for a single row.

Shapes: P positions of a part, R different rows among these, B blocks of the head, K most probable
ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2lab.engines.cpu.buffers import ROWS
from gpt2lab.engines.cpu.layout import HEAD_BLOCK, Job
from gpt2lab.engines.wanted import Scores, Wanted, joined, largest
from gpt2lab.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

TOP_BYTES = 8 << 20  # of the largest logits of all blocks; beyond it, fewer rows go together
ONE_BY_ONE = 64  # the most probable ids, up to this many, are found one after the other


class Asked:
    """All positions of a scoring step. together: how many rows go through the layers at once."""

    def __init__(self, wanted: Sequence[Wanted], lengths: Sequence[int], n_vocab: int) -> None:
        """lengths: how many new tokens each slot has."""
        self._wanted, self._n_vocab = wanted, n_vocab
        rows, targets, first = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        for w, length in zip(wanted, lengths, strict=True):
            rows.append(first + np.array(w.positions, np.int64))
            targets.append(np.array(w.targets or [0] * len(w.positions), np.int64))
            first += length
        given = np.concatenate(rows)
        self._order = np.argsort(given, kind="stable")
        self._rows, self._targets = given[self._order], np.concatenate(targets)[self._order]
        self._top = max((w.top for w in wanted), default=0)
        row_bytes = 8 * min(self._top, HEAD_BLOCK) * -(-n_vocab // HEAD_BLOCK)
        self.together = max(1, min(ROWS, TOP_BYTES // max(row_bytes, 1)))

    def part(self, start: int) -> Partials:
        """The positions whose rows go through the layers together, from row `start` on."""
        first, end = np.searchsorted(self._rows, [start, start + self.together])
        rows, targets = self._rows[first:end] - start, self._targets[first:end]
        return Partials(rows, targets, self._top, self._n_vocab)

    def scores(self, parts: Sequence[Scores]) -> list[Scores]:
        """The scores of all parts, as they were asked for."""
        if not self._wanted:
            return []
        everything, found = joined(parts), []
        place = np.argsort(self._order, kind="stable")  # of each position among the sorted ones
        for w in self._wanted:
            here, place = place[: len(w.positions)], place[len(w.positions) :]
            found.append(_chosen(everything, w, here))
        return found


def _chosen(s: Scores, w: Wanted, here: Array) -> Scores:
    """What was wanted, at some of the positions."""

    def part(values: Array | None, whether: Any) -> Array | None:
        return values[here] if values is not None and whether else None

    ids, logprobs = part(s.top_ids, w.top), part(s.top_logprobs, w.top)
    return Scores(
        part(s.logprobs, w.targets is not None),
        None if ids is None else ids[:, : w.top],
        None if logprobs is None else logprobs[:, : w.top],
        part(s.ranks, w.rank),
        part(s.entropies, w.entropy),
    )


class Partials:
    """The memory of one part of a scoring step. rows: [R] the rows that positions refer to."""

    def __init__(self, rows: Array, targets: Array, top: int, n_vocab: int) -> None:
        """rows: [P] the row of each position. targets: [P]. top: K."""
        self.rows, self._where = np.unique(rows, return_inverse=True)  # [R], [P]
        blocks, count = -(-n_vocab // HEAD_BLOCK), len(self.rows)
        self._top, self._n_vocab = top, n_vocab
        self._target = np.stack([self._where, targets], 1)  # [P, 2]
        self._logit = np.zeros(len(targets), np.float32)
        self._parts = np.zeros((blocks, count, 3), np.float32)
        self._above = np.zeros((blocks, len(targets)), np.int32)
        self._tops = np.zeros((blocks, count, min(top, HEAD_BLOCK)), np.float32)
        self._ids = np.zeros(self._tops.shape, np.int32)

    @property
    def targets(self) -> int:
        """How many targets there are."""
        return len(self._logit)

    def describe(self, job: Array) -> None:
        """Write the addresses into a job."""
        job[Job.TARGETS], job[Job.TOP] = self.targets, self._tops.shape[2]
        for word, array in (
            (Job.TARGET, self._target),
            (Job.TARGET_LOGIT, self._logit),
            (Job.PARTS, self._parts),
            (Job.ABOVE, self._above),
            (Job.TOP_LOGIT, self._tops),
            (Job.TOP_ID, self._ids),
        ):
            job[word] = array.ctypes.data

    def scores(self) -> Scores:
        """The scores at all positions, of everything; InputError for logits that are not finite."""
        tops, sums, weighted = self._parts.astype(np.float64).transpose(2, 0, 1)  # 3 x [B, R]
        self._check(sums)
        top = tops.max(0)  # [R]
        share = np.exp(tops - top)  # [B, R]
        total = np.cumsum(sums * share, 0)[-1]
        mean = np.cumsum((weighted + sums * (tops - top)) * share, 0)[-1] / total  # of logit - top
        normaliser = top + np.log(total)  # [R] the logarithm of the sum of exp(logit)
        ids, values = self._most_probable()  # [R, K] each
        at = self._where
        return Scores(
            self._logit - normaliser[at],
            ids[at],
            (values - normaliser[:, None])[at],
            1 + self._above.sum(0),
            (np.log(total) - mean)[at],
        )

    def _check(self, sums: Array) -> None:
        """A NaN or infinity among the logits makes the sum of its block NaN."""
        wrong = np.flatnonzero(np.isnan(sums).any(1))
        if len(wrong):
            first = int(wrong[0]) * HEAD_BLOCK
            last = min(first + HEAD_BLOCK, self._n_vocab) - 1
            raise InputError(
                f"the logits hold NaN or infinity at ids {first} to {last}; check the weights"
            )

    def _most_probable(self) -> tuple[Array, Array]:
        """The ids and logits of the K largest among those of all blocks: [R, K] each."""
        blocks, count, k = self._tops.shape
        values = self._tops.transpose(1, 0, 2).reshape(count, blocks * k)
        ids = self._ids.transpose(1, 0, 2).reshape(count, blocks * k)
        chosen, rows = np.zeros((count, self._top), np.intp), np.arange(count)
        if self._top > ONE_BY_ONE:
            for row, place in zip(values, chosen, strict=True):
                place[:] = largest(row, self._top)
        else:
            left = values.copy()
            for i in range(self._top):
                chosen[:, i] = left.argmax(1)  # of equal ones the first, which has the smaller id
                left[rows, chosen[:, i]] = -np.inf
        return np.take_along_axis(ids, chosen, 1), np.take_along_axis(values, chosen, 1)
