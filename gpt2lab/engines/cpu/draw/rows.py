"""Drawing the token of one row: read its logits, apply its settings, draw; and the rows of a call.

Needs Numba, as `step` does; `compile_cache` keeps the object code.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, njit

from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.draw import edits, table
from gpt2lab.engines.cpu.draw.numbers import PLAIN, uniform
from gpt2lab.engines.cpu.draw.rounded import rounded_kernel
from gpt2lab.engines.cpu.draw.space import (
    Kernel,
    S,
    Y,
    part,
    passes,
    space_at,
    start,
    tiny,
    tolerance,
)
from gpt2lab.engines.cpu.draw.table import BLOCK, UNIT
from gpt2lab.engines.cpu.draw.truncation import (
    cut_weights,
    kept,
    logarithm,
    probability_kernels,
    top_k_kernel,
    top_p_kernel,
    typical_kernel,
)
from gpt2lab.engines.cpu.layout import constants, f32, i64
from gpt2lab.engines.cpu.llvm.memory import (
    add_atomic,
    bits,
    double_bits,
    doubles,
    floats,
    load_atomic,
    words,
)
from gpt2lab.engines.cpu.llvm.passes import exp_rounded, largest, read
from gpt2lab.engines.cpu.tickets import DONE, JOB, next_ticket

DrawCall, DrawRow, Op, DrawStep = (
    constants(part) for part in (table.DrawCall, table.DrawRow, table.Op, table.DrawStep)
)
CALL_WORDS, ROW_WORDS, STEP_WORDS = len(table.DrawCall), len(table.DrawRow), len(table.DrawStep)
TAIL = 128  # bytes from a thread's memory to room for one unit
CHUNK = 32  # units whose exp are added up together, so that no sum gets long
ROUNDING = 4e-14  # how far rounding moves their total here and in NumPy, as a part of it
ASK = i64(-1)  # the answer where NumPy shall draw


@njit(**PLAIN)
def _fill_tail(x: int, n: int, own: int) -> int:
    """Copy the last n numbers of a row, fewer than a unit, and fill up the unit; its address."""
    tail, source = carray(floats(own + TAIL), UNIT), carray(floats(x), UNIT)
    for j in range(UNIT):
        tail[j] = source[j] if j < n else f32(-np.inf)
    return own + TAIL


@cache
def read_kernel(target: Target) -> Kernel:
    """read_row(call, row, space, own, divisor): logits to y; the largest, and the sum of exp."""
    top_of, read_units = largest(target), read(target)

    @njit(**PLAIN)
    def read_row(call: Any, row: Any, m: Any, own: int, divisor: float) -> tuple[float, float]:
        """y = logits / divisor up to the limit; the largest logit (NaN where one is no number)."""
        n, x, y = call[DrawCall.VOCAB], row[DrawRow.LOGITS], part(m, Y)
        units, rest = n // UNIT, n % UNIT
        tail = _fill_tail(x + 4 * UNIT * units, rest, own)
        top = top_of(tail, i64(1))
        if units:
            main = top_of(x, units)
            top = f32(np.nan) if np.isnan(main) or np.isnan(top) else max(main, top)
        if not -np.inf < top < np.inf:
            return top, 0.0
        m.f[14], m.f[15] = 0.0, 0.0
        tops, by, inverse = (i64(bits(top)), i64(bits(divisor)), i64(bits(f32(1) / divisor)))
        out = m.at + 8 * 14
        for first in range(0, units, CHUNK):
            at, few = 4 * UNIT * first, min(i64(CHUNK), units - first)
            read_units(x + at, few, y + at, tops, by, inverse, out)
        odd, source = m.f[15] > 0, floats(x)
        read_units(tail, i64(1), y + 4 * UNIT * units, tops, by, inverse, out)
        for i in range(0 if odd else units * UNIT, n):
            m.y[i] = source[i] / divisor
        for i in range(min(n, row[DrawRow.LIMIT]), m.padded):
            m.y[i] = f32(-np.inf)
        return top, m.f[14]

    return read_row


@njit(**PLAIN)
def log_probability(x: int, token: int, top: float, total: float) -> float:
    """`sampler.log_probability`; NaN where the last bit is not sure."""
    own = carray(floats(x), token + 1)[token] - top
    near = own - f32(logarithm(total * (1 - ROUNDING)))
    far = own - f32(logarithm(total * (1 + ROUNDING)))
    return float(near) if near == far else np.nan


@njit(**PLAIN)
def _place(m: Any, share: float) -> int:
    """Where the running sum of the weights that are left passes a share of them; -1 if not sure."""
    goal, slack = share * m.f[S.TOTAL], tolerance(m) * m.f[S.TOTAL]
    before, block = 0.0, i64(0)
    while block < m.s[S.BLOCKS] and before + m.sums[block] <= goal:
        before += m.sums[block]
        block += 1
    for i in range(block * BLOCK, min((block + 1) * BLOCK, m.s[S.N])):
        if kept(m, i):
            upto = before + m.w[i]
            if upto > goal:
                sure = upto - goal > slack and (before == 0 or goal - before > slack)
                return i if sure else ASK
            before = upto
    return ASK


@njit(**PLAIN)
def _first_of(m: Any, value: float) -> int:
    """The first place of a value."""
    for i in range(m.s[S.N]):
        if m.y[i] == value:
            return i
    return ASK


@njit(**PLAIN)
def edit(m: Any, row: Any, step: Any, number: float) -> bool:
    """An operation of `edits`; False where a logit leaves float32."""
    op = step[DrawStep.OP]
    if op == Op.LOGIT_BIAS:
        return edits.add_biases(m, step)
    if op == Op.REPETITION_PENALTY:
        return edits.penalise_seen(m, row, f32(number))
    if op == Op.PRESENCE_PENALTY or op == Op.FREQUENCY_PENALTY:
        return edits.penalise_written(m, row, f32(number), op == Op.FREQUENCY_PENALTY)
    if op == Op.NO_REPEAT_NGRAM:
        edits.ban_repeats(m, row, i64(number))
    elif op == Op.BAD_WORDS:
        edits.ban_words(m, row, step)
    else:
        edits.ban_ends(m, row, step, i64(number))
    return True


@njit(**PLAIN)
def divide(m: Any, by: float) -> bool:
    """`temperature`."""
    for i in range(m.s[S.N]):
        m.y[i] /= by
    m.f[S.TOP] = f32(m.f[S.TOP]) / by
    return m.f[S.TOP] < np.inf


@cache
def truncate_kernel(target: Target) -> Kernel:
    """truncate(space, op, number): an operation of `truncation`."""
    top_k, top_p = top_k_kernel(target), top_p_kernel(target)
    rounded, typical_p = rounded_kernel(target), typical_kernel(target)
    relative, absolute = probability_kernels(target)

    @njit(**PLAIN)
    def truncate(m: Any, op: int, number: float) -> bool:
        """Cut; False where NumPy shall decide."""
        if op == Op.TOP_K:
            return top_k(m, i64(number))
        if op == Op.TOP_P:
            return top_p(m, number)
        if op == Op.TOP_P_NARROW or op == Op.TOP_P_OR_K:
            return rounded(m, number, op == Op.TOP_P_OR_K)
        if op == Op.MIN_P:
            return relative(m, number)
        if op == Op.TYPICAL_P:
            return typical_p(m, number)
        return absolute(m, number, op == Op.ETA_CUTOFF)

    return truncate


@cache
def settings_kernel(target: Target) -> Kernel:
    """apply(space, row, plan): all operations of a row."""
    fns, truncate = passes(target), truncate_kernel(target)
    find_top, settle = fns.find_top, fns.settle

    @njit(**PLAIN)
    def apply(m: Any, row: Any, at: int) -> bool:
        """False where NumPy shall draw. The last cut of top-p stays in the weights."""
        while True:
            step = carray(words(at), STEP_WORDS)
            op, number = step[DrawStep.OP], carray(doubles(at), STEP_WORDS)[DrawStep.NUMBER]
            if op == Op.END or op == Op.GREEDY:
                return True
            if m.s[S.WEIGHED]:
                cut_weights(m)
                settle(m)
            if op < Op.TEMPERATURE:
                if not edit(m, row, step, number):
                    return False
                find_top(m)
                if not m.f[S.TOP] > -np.inf:
                    return False
            elif op == Op.TEMPERATURE:
                if not divide(m, f32(number)):
                    return False
            elif not truncate(m, op, number):
                return False
            at += 8 * STEP_WORDS

    return apply


@cache
def row_kernel(target: Target) -> Kernel:
    """draw_row(call, row, own)."""
    read_row, apply, fns = read_kernel(target), settings_kernel(target), passes(target)
    weigh_all, find_top, exp = fns.weigh_all, fns.find_top, exp_rounded(target)

    @njit(**PLAIN)
    def draw_row(call: Any, row: Any, own: int) -> None:
        """Write the token of a row and its log-probability, or -1."""
        m, at = space_at(own, call[DrawCall.PADDED]), row[DrawRow.PLAN]
        row[DrawRow.TOKEN], divisor = ASK, f32(1)
        if carray(words(at), 1)[0] == Op.PROBE:
            exp(row[DrawRow.LOGITS], row[DrawRow.COUNT], i64(0), row[DrawRow.TOKENS])
            return
        greedy = carray(words(at), 1)[0] == Op.GREEDY
        at += 8 * STEP_WORDS if greedy else 0
        if carray(words(at), 1)[0] == Op.TEMPERATURE:
            divisor = f32(carray(doubles(at), STEP_WORDS)[DrawStep.NUMBER])
            at += 8 * STEP_WORDS
        top, total = read_row(call, row, m, own, divisor)
        if not -np.inf < top < np.inf:
            return
        start(m, min(call[DrawCall.VOCAB], row[DrawRow.LIMIT]), top / divisor)
        if row[DrawRow.LIMIT] < call[DrawCall.VOCAB]:
            find_top(m)
        if not -np.inf < m.f[S.TOP] < np.inf or (divisor != 1 and tiny(m.f[S.TOP])):
            return
        if not apply(m, row, at):
            return
        if greedy:
            place = _first_of(m, m.f[S.TOP])
        else:
            if not m.s[S.WEIGHED]:
                weigh_all(m)
            place = _place(
                m,
                uniform(
                    row[DrawRow.SEED], row[DrawRow.INDEX], row[DrawRow.COUNT] - row[DrawRow.PROMPT]
                ),
            )
        if place < 0:
            return
        token = m.ids[place] if m.s[S.LISTED] else place
        logprob = log_probability(row[DrawRow.LOGITS], token, top, total)
        if not np.isnan(logprob):
            row[DrawRow.LOGPROB], row[DrawRow.TOKEN] = double_bits(logprob), token

    return draw_row


@cache
def draw_kernel(target: Target) -> Kernel:
    """run(control, epoch, me): this thread's part of a call; a ticket is a row."""
    draw_row = row_kernel(target)

    @njit(**PLAIN)
    def run(control: int, epoch: int, me: int) -> None:
        """Draw tickets until none is left."""
        while True:
            ticket = next_ticket(control, epoch)
            if ticket < 0:
                return
            call = carray(words(load_atomic(control + JOB)), CALL_WORDS)
            row = carray(words(call[DrawCall.ROWS] + 8 * ROW_WORDS * ticket), ROW_WORDS)
            draw_row(call, row, call[DrawCall.ROOM] + me * call[DrawCall.ROOM_BYTES])
            add_atomic(control + DONE, i64(1))

    return run
