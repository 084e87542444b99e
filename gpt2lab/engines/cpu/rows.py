"""Rows of activations: layer norm, and the forms in which products take them.

Each function has a twin of a few lines in `plain`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import carray, njit

from gpt2lab.engines.cpu import layout
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import OF_INT8, OF_INT16, STEP, constants, f32, i32, i64
from gpt2lab.engines.cpu.llvm.memory import bits, floats, from_bits, halves, shorts, words
from gpt2lab.engines.cpu.llvm.rows import pack_int8

Kernel = Callable[..., Any]

FAST = {"nogil": True, "fastmath": True, "error_model": "numpy"}
Job = constants(layout.Job)


@njit(inline="always", **FAST)
def to_bf16(x: float) -> int:
    """The 16 bits of the nearest bfloat16."""
    raw = bits(x)
    return (raw + i32(0x7FFF) + ((raw >> i32(16)) & i32(1))) >> i32(16)


@njit(**FAST)
def norm(x: int, g: int, b: int, out: int, n: int, epsilon: float) -> None:
    """ln of one row; addresses of float32."""
    xs, gs, bs, os = (
        carray(floats(x), n),
        carray(floats(g), n),
        carray(floats(b), n),
        carray(floats(out), n),
    )
    mean = f32(0)
    for i in range(n):
        mean += xs[i]
    mean /= f32(n)
    variance = f32(0)
    for i in range(n):
        variance += (xs[i] - mean) * (xs[i] - mean)
    r = f32(1) / np.sqrt(variance / f32(n) + epsilon)
    for i in range(n):
        os[i] = (xs[i] - mean) * r * gs[i] + bs[i]


@njit(**FAST)
def multiply(out: int, by: int, n: int) -> None:
    """float32 at one address times those at another, in place."""
    os, bs = carray(floats(out), n), carray(floats(by), n)
    for i in range(n):
        os[i] *= bs[i]


@njit(nogil=True, error_model="numpy")  # fast mathematics may take 0 * x for the zero below
def scale_rows(at: int, stride: int, rows: int, factors: int, n: int) -> None:
    """The first n of each row times factors, in place; what has factor 0 is 0, finite or not."""
    fs = carray(floats(factors), n)
    for r in range(rows):
        xs = carray(floats(at + r * stride), n)
        for i in range(n):
            xs[i] = f32(0) if fs[i] == f32(0) else xs[i] * fs[i]


@njit(**FAST)
def copy(source: int, out: int, n: int) -> None:
    """float32 from one address to another."""
    xs, os = carray(floats(source), n), carray(floats(out), n)
    for i in range(n):
        os[i] = xs[i]


# ---- Activations in the form that a product takes: (row, how many, out, scales).


@njit(**FAST)
def _largest(x: int, n: int) -> float:
    """The largest size of n float32."""
    xs = carray(floats(x), n)
    top = f32(0)
    for i in range(n):
        top = max(top, abs(xs[i]))
    return top


@njit(**FAST)
def start_block(x: int, m: int, limit: float, scales: int) -> float:
    """Store the scale of a block; return the factor that makes integers of its numbers."""
    top = _largest(x, m)
    carray(floats(scales), 1)[0] = top / limit
    return limit / top if top > f32(1e-30) else f32(0)


def pack_int16(product: str) -> Kernel:
    """The kernel that packs a row in blocks of int16 with a scale each."""
    size = STEP[product].block * STEP[product].numbers

    @njit(**FAST)
    def pack(x: int, n: int, out: int, scales: int) -> None:
        """Weights are zero where a last step reads past the end of the row."""
        for start in range(0, n, size):
            m = min(i64(size), n - start)
            inverse = start_block(x + 4 * start, m, f32(32767), scales + start // size * 8)
            xs, os = carray(floats(x + 4 * start), m), carray(shorts(out + 2 * start), m)
            for i in range(m):
                os[i] = np.int16(np.rint(xs[i] * inverse))

    return pack


@njit(**FAST)
def pack_bf16(x: int, n: int, out: int, scales: int) -> None:
    """A row as bfloat16."""
    xs, os = carray(floats(x), n), carray(halves(out), n)
    for i in range(n):
        os[i] = np.uint16(to_bf16(xs[i]) & i32(0xFFFF))
    if n % 2:
        carray(halves(out + 2 * n), 1)[0] = np.uint16(0)


@njit(**FAST)
def pack_float(x: int, n: int, out: int, scales: int) -> None:
    """A row as it is."""
    copy(x, out, n)
    carray(floats(out + 4 * n), 1)[0] = f32(0)  # where a product takes two at a time


def pack_kernel(target: Target, product: str) -> Kernel:
    """Which of them serves a product."""
    if product in OF_INT8:
        return pack_int8(target, product)
    if product in OF_INT16:
        return pack_int16(product)
    return pack_bf16 if product == "pairs" else pack_float


class Rows(NamedTuple):
    """Rows that a product reads. scales: of integers ([blocks][2] a row)."""

    address: Any
    stride: Any
    scales: Any
    scales_stride: Any


@njit(nogil=True, error_model="numpy")
def prepared(job: Any, own: int) -> Any:
    """Where rows in the form of a product are: in this thread's memory when they are few."""
    if job[Job.FEW]:
        at, scales = own + job[Job.OWN_ACTS], own + job[Job.OWN_SCALES]
        return Rows(at, job[Job.ACTS_STRIDE], scales, job[Job.SCALES_STRIDE])
    return Rows(job[Job.ACTS], job[Job.ACTS_STRIDE], job[Job.SCALES], job[Job.SCALES_STRIDE])


@njit(nogil=True, error_model="numpy")
def first_time(job: Any, t: Any) -> bool:
    """Whether few rows are to be prepared: this thread has no ticket of this phase yet."""
    tag = carray(words(t.own), 1)
    name = job[Job.SERIAL] << 32 | t.layer * 16 + t.phase
    if not job[Job.FEW] or tag[0] == name:
        return False
    tag[0] = name
    return True


@cache
def row_kernels(target: Target, product: str) -> tuple[Kernel, Kernel]:
    """normalise and pack_rows: the rows from `first` to `end`, in the form that a product takes."""
    pack = pack_kernel(target, product)

    @njit(nogil=True, error_model="numpy")
    def normalise(job: Any, g: int, b: int, first: int, end: int, last: bool, own: int) -> None:
        """Layer norm of the residual stream; with `last`, of the rows whose logits are wanted."""
        e, epsilon, out = job[Job.EMBED], from_bits(i32(job[Job.EPSILON])), prepared(job, own)
        chosen = carray(words(job[Job.LAST_ROW]), max(job[Job.LAST], i64(1)))
        temp = own + job[Job.OWN_Z]
        for r in range(first, end):
            source = chosen[r] if last else r
            norm(job[Job.X] + source * job[Job.X_STRIDE], g, b, temp, e, epsilon)
            pack(temp, e, out.address + r * out.stride, out.scales + r * out.scales_stride)

    @njit(nogil=True, error_model="numpy")
    def pack_rows(job: Any, n: int, first: int, end: int, own: int) -> None:
        """The output of attention, or of the inside of the MLP."""
        out = prepared(job, own)
        for r in range(first, end):
            source = job[Job.WIDE] + r * job[Job.WIDE_STRIDE]
            pack(source, n, out.address + r * out.stride, out.scales + r * out.scales_stride)

    return normalise, pack_rows
