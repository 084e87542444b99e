"""The memory of a step beside weights and slots: shared buffers, and scratch for each thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import HEAD_BLOCK, Job, KStep, ceil_to
from gpt2lab.engines.cpu.phases import FEW

Array = np.ndarray[Any, np.dtype[Any]]

ROWS = 252  # how many tokens go through the layers together: whole tiles of 6 and of 12


class StepBuffers:
    """Buffers whose addresses are written into a job. They grow to at most `ROWS` rows.

    x: [rows, E padded] the residual stream. row: [rows, 2] address of the slot, position. group:
    [rows, 2] first row, how many. last: [rows] whose logits are wanted.
    """

    def __init__(self, job: Array, target: Target, step: KStep, threads: int) -> None:
        self._job, self._target, self._step, self._threads = job, target, step, threads
        self._room = 0

    def reserve(self, rows: int) -> None:
        """Make room for this many rows."""
        if rows <= self._room:
            return
        rows, self._room = min(ROWS, max(rows, 2 * self._room)), 0
        self._share(rows)
        self.row, self.group = np.zeros((rows, 2), np.int64), np.zeros((rows, 2), np.int64)
        self.last = np.zeros(rows, np.int64)
        job = self._job
        job[Job.ROW], job[Job.GROUP] = self.row.ctypes.data, self.group.ctypes.data
        job[Job.LAST_ROW] = self.last.ctypes.data
        self._scratch_of_threads(rows)
        self._room = rows  # last, so that after an interrupt above all of it is done again

    def _share(self, rows: int) -> None:
        """What all threads read and write."""
        job, step = self._job, self._step
        embed = ceil_to(int(job[Job.EMBED]), self._target.width)
        most = ceil_to(max(int(job[Job.EMBED]), int(job[Job.INNER])) + 1, 128)
        self.x = np.zeros((rows, embed), np.float32)
        self._wide = np.zeros((rows, most), np.float32)
        self._acts = np.zeros((rows, most * step.activation_bytes // step.numbers), np.uint8)
        self._scales = np.zeros((rows, most // (step.block * step.numbers) + 1, 2), np.float32)
        for word, array in (
            (Job.X, self.x),
            (Job.WIDE, self._wide),
            (Job.ACTS, self._acts),
            (Job.SCALES, self._scales),
        ):
            job[word], job[word + 1] = array.ctypes.data, array.strides[0]

    def _scratch_of_threads(self, rows: int) -> None:
        """What each thread has for itself: a tag (`step.first_time`), a tile's sums, then these."""
        job, high = self._job, self._target.rows
        size, embed = int(job[Job.SIZE]), int(job[Job.EMBED])
        end = 64 + ceil_to(high * self._target.width * 4, 64)
        for word, need in (
            (Job.OWN_ACTS, FEW * self._acts.strides[0]),
            (Job.OWN_SCALES, FEW * self._scales.strides[0]),
            (Job.OWN_Q, rows * max(3 * size, HEAD_BLOCK) * 4),  # of a head; logits of a block
            (Job.OWN_P, high * int(job[Job.POSITIONS]) * 4),
            (Job.OWN_Z, max(high * (size + 1), ceil_to(embed, 128)) * 4),
        ):
            job[word], end = end, end + ceil_to(need, 64)
        self._scratch = np.zeros((self._threads, end + 64), np.uint8)
        job[Job.SCRATCH], job[Job.SCRATCH_STRIDE] = self._scratch.ctypes.data, end + 64
