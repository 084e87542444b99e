"""The phases of a scoring step behind the layers: the head by blocks, without logits [LAST, V].

TARGETS computes the logit of each target, one row by one panel. SCORES computes the logits of all
rows for a block of `HEAD_BLOCK` ids in a thread's own memory, and keeps of each row what a softmax
needs, the largest logits, and how many are larger than the target's. Blocks are the same in every
step, and `partials` adds them up in their order: so scores are the same bits for any number of
rows, portions and threads. The twin is `plain.parts`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from gpt2lab.engines.cpu import layout
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import HEAD_BLOCK, constants, f32, i64
from gpt2lab.engines.cpu.llvm.memory import floats, ints, words
from gpt2lab.engines.cpu.llvm.rows import softmax_sums
from gpt2lab.engines.cpu.matrix import LOGITS, Matrix, Out, Span, cut, product_kernel
from gpt2lab.engines.cpu.rows import FAST, Kernel, Rows, first_time, prepared, row_kernels
from gpt2lab.engines.cpu.tickets import wait

Job = constants(layout.Job)
AT_ONCE = 32  # logits whose largest decides whether any of them is looked at


@njit(**FAST)
def _largest_of(xs: Any, start: int, end: int) -> float:
    """The largest of some numbers."""
    top = xs[start]
    for i in range(start, end):
        top = max(top, xs[i])
    return top


@njit(**FAST)
def _keep_largest(row: int, n: int, first: int, k: int, logits: int, ids: int) -> None:
    """The k largest of n logits in falling order, of equal ones the smaller id; then -inf.

    first: the id of the first of them. logits, ids: where they are written.
    """
    xs, tops, names = carray(floats(row), n), carray(floats(logits), k), carray(ints(ids), k)
    held, i = i64(0), i64(0)
    while i < n:
        end = min(i + AT_ONCE, n)
        if held < k or _largest_of(xs, i, end) > tops[k - 1]:
            for j in range(i, end):
                place = held
                if held == k:
                    if not xs[j] > tops[k - 1]:
                        continue
                    place = k - 1
                else:
                    held += 1
                while place > 0 and tops[place - 1] < xs[j]:
                    tops[place], names[place] = tops[place - 1], names[place - 1]
                    place -= 1
                tops[place], names[place] = xs[j], np.int32(first + j)
        i = end
    for place in range(held, k):
        tops[place], names[place] = f32(-np.inf), np.int32(0)


@njit(**FAST)
def _larger(row: int, n: int, than: float) -> Any:
    """How many of n logits are larger than a number."""
    xs, count = carray(floats(row), n), np.int32(0)
    for i in range(n):
        count += np.int32(xs[i] > than)
    return count


@njit(nogil=True, error_model="numpy")
def _count_larger(job: Any, block: int, n: int, number: int) -> None:
    """For each target, how many of n logits of its row in a block are larger than its own."""
    count = job[Job.TARGETS]
    target = carray(words(job[Job.TARGET]), 2 * count)
    own = carray(floats(job[Job.TARGET_LOGIT]), count)
    above = carray(ints(job[Job.ABOVE] + number * count * 4), count)
    for i in range(count):
        above[i] = _larger(block + target[2 * i] * HEAD_BLOCK * 4, n, own[i])


@njit(nogil=True, error_model="numpy")
def _top(job: Any, block: int, n: int, number: int) -> None:
    """The largest logits of each row in a block."""
    k, last = job[Job.TOP], job[Job.LAST]
    for r in range(last):
        at = (number * last + r) * k * 4
        row, first = block + r * HEAD_BLOCK * 4, number * HEAD_BLOCK
        _keep_largest(row, n, first, k, job[Job.TOP_LOGIT] + at, job[Job.TOP_ID] + at)


def scoring_kernels(target: Target, weights: str) -> tuple[Kernel, Kernel]:
    """The phases TARGETS and SCORES."""
    width, panels = target.width, HEAD_BLOCK // target.width
    product, sums_of = product_kernel(target, weights), softmax_sums(target)
    normalise, _ = row_kernels(target, target.product(weights))

    @njit(nogil=True, error_model="numpy")
    def start(job: Any, control: int, t: Any) -> Any:
        """The head, after the phases before; the rows are prepared where they are few."""
        wait(control, t.start)
        if first_time(job, t):
            final = carray(words(job[Job.FINAL]), 2)
            normalise(job, final[0], final[1], i64(0), job[Job.LAST], True, t.own)
        n = job[Job.HEAD_PANELS] * width
        return Matrix(job[Job.HEAD_WEIGHT], job[Job.HEAD_SCALE], i64(0), job[Job.EMBED], n)

    @njit(nogil=True, error_model="numpy")
    def targets_phase(job: Any, control: int, t: Any) -> None:
        """Ticket t of TARGETS: the logits of some targets."""
        m, count, x = start(job, control, t), job[Job.TARGETS], prepared(job, t.own)
        target = carray(words(job[Job.TARGET]), 2 * count)
        found = carray(floats(job[Job.TARGET_LOGIT]), count)
        panel = t.own + job[Job.OWN_Q]
        logits = carray(floats(panel), width)
        for i in range(cut(count, t.parts, t.number), cut(count, t.parts, t.number + 1)):
            r, p = target[2 * i], target[2 * i + 1] // width
            row = Rows(
                x.address + r * x.stride, x.stride,
                x.scales + r * x.scales_stride, x.scales_stride,
            )  # fmt: skip
            out = Out(panel - p * width * 4, i64(0))
            product(job, i64(LOGITS), m, i64(1), row, out, Span(p, p + 1, p), t.own + 64)
            found[i] = logits[target[2 * i + 1] % width]

    @njit(nogil=True, error_model="numpy")
    def scores_phase(job: Any, control: int, t: Any) -> None:
        """Ticket t of SCORES: the block of that number."""
        m, rows, block = start(job, control, t), job[Job.LAST], t.own + job[Job.OWN_Q]
        first = t.number * panels
        after = min(t.number + job[Job.WORKERS], t.parts - 1) * panels
        span = Span(first, min(first + panels, job[Job.HEAD_PANELS]), after)
        out = Out(block - first * width * 4, i64(HEAD_BLOCK * 4))
        product(job, i64(LOGITS), m, rows, prepared(job, t.own), out, span, t.own + 64)
        n = min(i64(HEAD_BLOCK), job[Job.VOCAB] - t.number * HEAD_BLOCK)
        for r in range(rows):
            part = job[Job.PARTS] + (t.number * rows + r) * 12
            sums_of(block + r * HEAD_BLOCK * 4, n, part)
        _count_larger(job, block, n, t.number)
        if job[Job.TOP]:
            _top(job, block, n, t.number)

    return targets_phase, scores_phase
