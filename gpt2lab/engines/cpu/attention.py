"""One head: its queries, keys and values for all rows, then attention of each sequence.

Neighbouring rows of one sequence (a group) attend together: q times keys, softmax, times values,
each over the panels of the slot. The twin is `plain.heads`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import carray, njit

from gpt2lab.engines.cpu import layout
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.kv import cache_kernels, find_head
from gpt2lab.engines.cpu.layout import CACHE_PRODUCT, STEP, constants, f32, i64
from gpt2lab.engines.cpu.llvm.memory import floats, words
from gpt2lab.engines.cpu.llvm.rows import softmax
from gpt2lab.engines.cpu.llvm.tile import tile
from gpt2lab.engines.cpu.matrix import PLAIN, Matrix, Out, Span, product_kernel
from gpt2lab.engines.cpu.rows import FAST, Kernel, multiply, prepared, scale_rows

Job, Layer = constants(layout.Job), constants(layout.Layer)


class RowGroup(NamedTuple):
    """Neighbouring rows of one sequence. seen: how many keys the first of them sees."""

    slot: Any
    first: Any
    rows: Any
    seen: Any


class Panels(NamedTuple):
    """Panels of keys, or of values, and the steps along each."""

    address: Any
    stride: Any
    count: Any
    steps: Any


def over_cache_kernel(target: Target, dtype: str) -> Kernel:
    """over_cache(rows, panels, x, out): x times some panels of keys, or of values."""
    width, keys = target.width, CACHE_PRODUCT[dtype]
    against, against_two = tile(target, keys), tile(target, keys, 2)

    @njit(nogil=True, error_model="numpy")
    def over_cache(rows: int, p: Any, x: Any, out: Any) -> None:
        """Multiply x by the panels one or two at a time."""
        i, none = i64(0), i64(0)
        at, to = x.address, out.address
        while rows == 1 and i + 2 <= p.count:  # two panels keep more sums in flight
            against_two(
                rows, p.address + i * p.stride, p.stride, at, x.stride, to + i * width * 4,
                out.stride, p.steps, at, none, at, none,
            )  # fmt: skip
            i += 2
        while i < p.count:
            against(
                rows, p.address + i * p.stride, p.stride, at, x.stride, to + i * width * 4,
                out.stride, p.steps, at, none, at, none,
            )  # fmt: skip
            i += 1

    return over_cache


def weigh_kernel(target: Target, dtype: str) -> Kernel:
    """weigh(group, head, p, end, scale, totals): scores to weights, 1 / sum of each to totals."""
    soften, scaled = softmax(target), dtype == "int8"

    @njit(**FAST)
    def weigh(g: Any, head: Any, p: Any, end: int, scale: int, totals: int) -> None:
        """Scale, softmax, scale: int8 keys and values have a scale a position."""
        for r in range(g.rows):
            at, n = p.address + r * p.stride, g.seen + r
            if scaled:
                multiply(at, head.key_scales, n)
            total = soften(at, n, end, scale)
            carray(floats(totals + r * 4), 1)[0] = f32(1) / total
            if scaled:
                multiply(at, head.value_scales, n)

    return weigh


@njit(**FAST)
def write_out(d: int, rows: int, z: Any, totals: int, out: Any) -> None:
    """The sums of weighted values, divided by the sums of the weights."""
    for r in range(rows):
        inverse = carray(floats(totals + r * 4), 1)[0]
        zs = carray(floats(z.address + r * z.stride), d)
        os = carray(floats(out.address + r * out.stride), d)
        for i in range(d):
            os[i] = zs[i] * inverse


def attend_kernel(target: Target, dtype: str) -> Kernel:
    """attend(job, layer, h, group, scale, q, own): attention of one head for one group."""
    width, high, step = target.width, target.rows, STEP[CACHE_PRODUCT[dtype]]
    step_bytes, numbers = step.weight_bytes * width, step.numbers
    over_cache, weigh = over_cache_kernel(target, dtype), weigh_kernel(target, dtype)

    @njit(nogil=True, error_model="numpy")
    def attend(job: Any, layer: int, h: int, g: Any, scale: int, q: Any, own: int) -> None:
        """Scores, weights, weighted values; into the columns of the head in wide."""
        d, size, head = job[Job.HEAD], job[Job.SIZE], find_head(job, g.slot, layer, h)
        seen = g.seen + g.rows - 1  # by the last of the rows
        panels, d_steps = (seen + width - 1) // width, size // numbers
        p = Out(own + job[Job.OWN_P], job[Job.POSITIONS] * 4)  # scores, then weights
        z = Out(own + job[Job.OWN_Z], size * 4)
        totals = z.address + high * size * 4
        over_cache(g.rows, Panels(head.keys, d_steps * step_bytes, panels, d_steps), q, p)
        weigh(g, head, p, panels * width, scale, totals)
        steps = (seen + numbers - 1) // numbers
        over_cache(g.rows, Panels(head.values, job[Job.V_PANEL], size // width, steps), p, z)
        to = job[Job.WIDE] + g.first * job[Job.WIDE_STRIDE] + h * d * 4
        write_out(d, g.rows, z, totals, Out(to, job[Job.WIDE_STRIDE]))

    return attend


def head_kernel(target: Target, weights: str, cache: str) -> Kernel:
    """one_head(job, layer, w, h, own): the ticket of the phase HEADS. w: the layer's words."""
    width = target.width
    product, attend = product_kernel(target, weights), attend_kernel(target, cache)
    keep, await_group, await_values = cache_kernels(target, cache)

    @njit(nogil=True, error_model="numpy")
    def one_head(job: Any, layer: int, w: Any, h: int, own: int) -> None:
        """Compute and store q, k and v of head h, then attend group by group."""
        panels = 3 * job[Job.SIZE] // width
        following = min(h + job[Job.WORKERS], job[Job.HEADS] - 1)
        if job[Job.GROUPS] > 1:
            await_values(job, layer, h)
        stride = 3 * job[Job.SIZE] * 4
        qkv = Out(own + job[Job.OWN_Q], stride)
        n = 3 * job[Job.SIZE] * job[Job.HEADS]
        m = Matrix(w[Layer.QKV], w[Layer.QKV_SCALE], w[Layer.QKV_BIAS], job[Job.EMBED], n)
        out = Out(qkv.address - h * stride, stride)  # the panels of head h begin at h * stride
        span = Span(h * panels, (h + 1) * panels, following * panels)
        product(job, i64(PLAIN), m, job[Job.ROWS], prepared(job, own), out, span, own + 64)
        keep(job, layer, h, qkv.address, stride)
        groups = carray(words(job[Job.GROUP]), 2 * job[Job.GROUPS])
        for i in range(job[Job.GROUPS]):
            if i + 1 < job[Job.GROUPS]:
                await_group(job, layer, h, groups[2 * i + 2])
            first = groups[2 * i]
            row = carray(words(job[Job.ROW] + first * 16), 2)
            group = RowGroup(row[0], first, groups[2 * i + 1], row[1] + 1)
            q = Out(qkv.address + first * stride, stride)
            attend(job, layer, h, group, w[Layer.ATTENTION], q, own)
        if w[Layer.HEADS_FACTORS]:
            d, at = job[Job.HEAD], h * job[Job.HEAD] * 4
            z, factors = job[Job.WIDE] + at, w[Layer.HEADS_FACTORS] + at
            scale_rows(z, job[Job.WIDE_STRIDE], job[Job.ROWS], factors, d)

    return one_head
