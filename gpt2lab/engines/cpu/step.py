"""One step of GPT-2 as compiled code: many rows of many sequences, by all threads together.

`phases` holds the table of what is read and written, `tickets` how threads share the work. A phase
is a function here; `run` draws tickets and calls the phase of each. `plain` is the same step in
plain NumPy, and a test compares the two after every phase.

This module needs Numba and is imported to compile only; `compile_cache` keeps the object code. The
functions are made by functions of constants (the target, the dtypes) because Numba specialises on
what a closure holds: with the width of a panel as a variable, loops of known length become loops.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from numba import carray, njit, types

from gpt2lab.engines.cpu import layout, phases
from gpt2lab.engines.cpu.attention import head_kernel
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import JOB_WORDS, constants, head_dtype, i64
from gpt2lab.engines.cpu.llvm.memory import add_atomic, load_atomic, words
from gpt2lab.engines.cpu.matrix import (
    INNER,
    LOGITS,
    RESIDUAL,
    Matrix,
    Out,
    Span,
    cut,
    extent_kernel,
    fetch,
    product_kernel,
)
from gpt2lab.engines.cpu.rows import (
    Kernel,
    Rows,
    first_time,
    prepared,
    row_kernels,
    scale_rows,
)
from gpt2lab.engines.cpu.scoring import scoring_kernels
from gpt2lab.engines.cpu.tickets import DONE, JOB, next_ticket, wait

Job, Layer, Phase = constants(layout.Job), constants(layout.Layer), constants(phases.Phase)
LAYER_WORDS = len(layout.Layer)
AHEAD = 16384  # bytes of weights that a waiting thread prefetches

layer_tickets = njit(nogil=True)(phases.layer_tickets)

RUN = types.void(types.int64, types.int64, types.int64)


class Ticket(NamedTuple):
    """Chunk `number` of `parts` of a phase. start: how many tickets come before the phase.

    own: address of this thread's memory.
    """

    layer: Any
    phase: Any
    number: Any
    parts: Any
    start: Any
    own: Any


@njit(nogil=True, error_model="numpy")
def find(job: Any, ticket: int, me: int) -> Any:
    """Which chunk of which phase a ticket is."""
    each = layer_tickets(job)
    layer = min(ticket // each, job[Job.LAYERS])
    phase = i64(0) if layer < job[Job.LAYERS] else i64(Phase.NORM_F)
    start = layer * each
    while ticket - start >= job[Job.TICKETS + phase]:
        start += job[Job.TICKETS + phase]
        phase += 1
    own = job[Job.SCRATCH] + me * job[Job.SCRATCH_STRIDE]
    return Ticket(layer, phase, ticket - start, job[Job.TICKETS + phase], start, own)


@functools.cache
def matrix_kernels(target: Target, weights: str) -> tuple[Kernel, Kernel]:
    """await_matrix and matrix: a ticket of a matrix, before and after its rows are prepared."""
    width, extent = target.width, extent_kernel(target, weights)
    product = product_kernel(target, weights)

    @njit(nogil=True, error_model="numpy")
    def await_matrix(control: int, m: Any, t: Any) -> None:
        """Wait for the phases before, and prefetch the first weights meanwhile."""
        if load_atomic(control + DONE) < t.start:
            _, size = extent(m.k)
            first = cut((m.n + width - 1) // width, t.parts, t.number)
            fetch(m.weights + first * size, min(size, i64(AHEAD)))
            wait(control, t.start)

    @njit(nogil=True, error_model="numpy")
    def matrix(job: Any, kind: int, m: Any, rows: int, x: Any, out: Any, t: Any) -> None:
        """Multiply the panels of this ticket by all rows."""
        panels = (m.n + width - 1) // width
        after = cut(panels, t.parts, min(t.number + job[Job.WORKERS], t.parts - 1))
        span = Span(cut(panels, t.parts, t.number), cut(panels, t.parts, t.number + 1), after)
        product(job, kind, m, rows, x, out, span, t.own + 64)

    return await_matrix, matrix


def rows_kernel(target: Target, weights: str) -> Kernel:
    """The phases NORM_1, PACK_1, NORM_2, PACK_2 and NORM_F, where rows are not few."""
    normalise, pack_rows = row_kernels(target, target.product(weights))
    normalise_last, _ = row_kernels(target, target.product(head_dtype(weights)))

    @njit(nogil=True, error_model="numpy")
    def rows_phase(job: Any, w: Any, control: int, t: Any) -> None:
        """Prepare the rows of this ticket."""
        wait(control, t.start)
        last = t.phase == Phase.NORM_F
        rows = job[Job.LAST] if last else job[Job.ROWS]
        first, end = cut(rows, t.parts, t.number), cut(rows, t.parts, t.number + 1)
        if t.phase == Phase.NORM_1:
            normalise(job, w[Layer.LN_1_G], w[Layer.LN_1_B], first, end, False, t.own)
        elif t.phase == Phase.NORM_2:
            normalise(job, w[Layer.LN_2_G], w[Layer.LN_2_B], first, end, False, t.own)
        elif last:
            final = carray(words(job[Job.FINAL]), 2)
            normalise_last(job, final[0], final[1], first, end, True, t.own)
        else:
            n = job[Job.EMBED] if t.phase == Phase.PACK_1 else job[Job.INNER]
            pack_rows(job, n, first, end, t.own)

    return rows_phase


def read_kernels(target: Target, weights: str, cache: str) -> tuple[Kernel, Kernel]:
    """The phases HEADS and FC, which read the normalised residual stream."""
    await_matrix, matrix = matrix_kernels(target, weights)
    normalise, _ = row_kernels(target, target.product(weights))
    one_head, width = head_kernel(target, weights, cache), target.width

    @njit(nogil=True, error_model="numpy")
    def heads_phase(job: Any, w: Any, control: int, t: Any) -> None:
        """Ticket t of HEADS: the head of that number."""
        e, n = job[Job.EMBED], 3 * job[Job.SIZE] * job[Job.HEADS]
        await_matrix(control, Matrix(w[Layer.QKV], w[Layer.QKV_SCALE], w[Layer.QKV_BIAS], e, n), t)
        if first_time(job, t):
            normalise(job, w[Layer.LN_1_G], w[Layer.LN_1_B], i64(0), job[Job.ROWS], False, t.own)
        one_head(job, t.layer, w, t.number, t.own)

    @njit(nogil=True, error_model="numpy")
    def fc_phase(job: Any, w: Any, control: int, t: Any) -> None:
        """Ticket t of FC: some panels of c_fc."""
        e, f, rows = job[Job.EMBED], job[Job.INNER], job[Job.ROWS]
        m = Matrix(w[Layer.FC], w[Layer.FC_SCALE], w[Layer.FC_BIAS], e, f)
        await_matrix(control, m, t)
        if first_time(job, t):
            normalise(job, w[Layer.LN_2_G], w[Layer.LN_2_B], i64(0), rows, False, t.own)
        out = Out(job[Job.WIDE], job[Job.WIDE_STRIDE])
        matrix(job, i64(INNER), m, rows, prepared(job, t.own), out, t)
        if w[Layer.INNER_FACTORS]:
            panels, size = (f + width - 1) // width, width * 4
            first, end = cut(panels, t.parts, t.number), cut(panels, t.parts, t.number + 1)
            at, factors = out.address + first * size, w[Layer.INNER_FACTORS] + first * size
            scale_rows(at, out.stride, rows, factors, (end - first) * width)

    return heads_phase, fc_phase


def add_kernel(target: Target, weights: str) -> Kernel:
    """The phases PROJECT and OUT, which add to the residual stream."""
    await_matrix, matrix = matrix_kernels(target, weights)
    pack_rows, packs = row_kernels(target, target.product(weights))[1], target.packs(weights)

    @njit(nogil=True, error_model="numpy")
    def add_phase(job: Any, w: Any, control: int, t: Any) -> None:
        """Ticket t of PROJECT or OUT: some panels of a projection."""
        e, rows = job[Job.EMBED], job[Job.ROWS]
        if t.phase == Phase.PROJECT:
            m = Matrix(w[Layer.PROJECT], w[Layer.PROJECT_SCALE], w[Layer.PROJECT_BIAS], e, e)
        else:
            m = Matrix(w[Layer.OUT], w[Layer.OUT_SCALE], w[Layer.OUT_BIAS], job[Job.INNER], e)
        await_matrix(control, m, t)
        x = Rows(job[Job.WIDE], job[Job.WIDE_STRIDE], job[Job.SCALES], job[Job.SCALES_STRIDE])
        if packs:
            x = prepared(job, t.own)
            if first_time(job, t):
                pack_rows(job, m.k, i64(0), rows, t.own)
        matrix(job, i64(RESIDUAL), m, rows, x, Out(job[Job.X], job[Job.X_STRIDE]), t)

    return add_phase


def logits_kernel(target: Target, weights: str) -> Kernel:
    """The phase LOGITS."""
    width, (await_matrix, matrix) = target.width, matrix_kernels(target, weights)
    normalise, _ = row_kernels(target, target.product(weights))

    @njit(nogil=True, error_model="numpy")
    def logits_phase(job: Any, control: int, t: Any) -> None:
        """Ticket t of LOGITS: some panels of the head."""
        n, final = job[Job.HEAD_PANELS] * width, carray(words(job[Job.FINAL]), 2)
        m = Matrix(job[Job.HEAD_WEIGHT], job[Job.HEAD_SCALE], i64(0), job[Job.EMBED], n)
        await_matrix(control, m, t)
        if first_time(job, t):
            normalise(job, final[0], final[1], i64(0), job[Job.LAST], True, t.own)
        out = Out(job[Job.LOGITS], job[Job.LOGITS_STRIDE])
        matrix(job, i64(LOGITS), m, job[Job.LAST], prepared(job, t.own), out, t)

    return logits_phase


def step_kernel(target: Target, weights: str, cache: str) -> Kernel:
    """run(control, epoch, me): this thread's part of a step.

    weights: "float32", "bfloat16", "int8" or "int4"; cache: the first three.
    """
    rows_phase, add_phase = rows_kernel(target, weights), add_kernel(target, weights)
    heads_phase, fc_phase = read_kernels(target, weights, cache)
    logits_phase = logits_kernel(target, head_dtype(weights))
    targets_phase, scores_phase = scoring_kernels(target, head_dtype(weights))

    @njit(nogil=True, error_model="numpy")
    def run(control: int, epoch: int, me: int) -> None:
        """Draw tickets until none is left, and call the phase of each."""
        while True:
            ticket = next_ticket(control, epoch)
            if ticket < 0:
                return
            job = carray(words(load_atomic(control + JOB)), JOB_WORDS)
            t = find(job, ticket, me)
            # The phases from NORM_F on read no words of a layer: there is none behind the last.
            layer = min(t.layer, job[Job.LAYERS] - 1)
            w = carray(words(job[Job.LAYER] + layer * 8 * LAYER_WORDS), LAYER_WORDS)
            if t.phase == Phase.HEADS:
                heads_phase(job, w, control, t)
            elif t.phase == Phase.FC:
                fc_phase(job, w, control, t)
            elif t.phase == Phase.PROJECT or t.phase == Phase.OUT:
                add_phase(job, w, control, t)
            elif t.phase == Phase.LOGITS:
                logits_phase(job, control, t)
            elif t.phase == Phase.TARGETS:
                targets_phase(job, control, t)
            elif t.phase == Phase.SCORES:
                scores_phase(job, control, t)
            else:
                rows_phase(job, w, control, t)
            add_atomic(control + DONE, i64(1))

    return run
