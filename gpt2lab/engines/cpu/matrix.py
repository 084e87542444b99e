"""A matrix of weights times some rows, panel by panel.

While many rows go through a panel, the next one is prefetched: a tile is limited by the memory
otherwise. The twin is `plain.product`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from numba import njit

from gpt2lab.engines.cpu import layout
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import STEP, constants, i64
from gpt2lab.engines.cpu.llvm.memory import prefetch
from gpt2lab.engines.cpu.llvm.rows import FINISH, finish
from gpt2lab.engines.cpu.llvm.tile import tile
from gpt2lab.engines.cpu.rows import Kernel

Job = constants(layout.Job)
RESIDUAL, INNER, LOGITS, PLAIN = range(len(FINISH))  # what becomes of a product


class Matrix(NamedTuple):
    """Packed weights: addresses of panels, of the columns' scales and biases; [k, n]."""

    weights: Any
    scale: Any
    bias: Any
    k: Any
    n: Any


class Out(NamedTuple):
    """Where a product's rows are written."""

    address: Any
    stride: Any


class Span(NamedTuple):
    """The panels from first to end; `after` is the one that this thread will probably take next."""

    first: Any
    end: Any
    after: Any


@njit(nogil=True)
def cut(count: int, parts: int, i: int) -> int:
    """Where part i of `count` things in `parts` parts begins."""
    return count * i // parts


@njit(nogil=True)
def fetch(address: int, size: int) -> None:
    """Prefetch this many bytes."""
    for i in range(0, size, 64):
        prefetch(address + i)


@cache
def extent_kernel(target: Target, dtype: str) -> Kernel:
    """extent(k): the steps of a matrix of k rows, and the bytes of one of its panels.

    The compiled `KStep.weight_steps` and `KStep.panel_bytes`.
    """
    step, width = STEP[target.product(dtype)], target.width
    unit = step.numbers * (step.block if step.scale_bytes else 1)
    steps_in_unit, block = unit // step.numbers, step.block
    weight_bytes, scale_bytes = step.weight_bytes * width, step.scale_bytes * width

    @njit(nogil=True, error_model="numpy")
    def extent(k: int) -> Any:
        steps = (k + unit - 1) // unit * steps_in_unit
        return steps, steps * weight_bytes + steps // block * scale_bytes

    return extent


@cache
def product_kernel(target: Target, dtype: str) -> Kernel:
    """product(job, kind, matrix, rows, x, out, span, sums): x times some panels of a matrix.

    sums: memory of this thread for the sums of a tile.
    """
    step, width, high = STEP[target.product(dtype)], target.width, target.rows
    panel_step, extent = step.weight_bytes * width, extent_kernel(target, dtype)
    narrow, finish_sums = tile(target, target.product(dtype)), finish_kernel(target, dtype)

    @njit(nogil=True, error_model="numpy")
    def product(
        job: Any, kind: int, m: Any, rows: int, x: Any, out: Any, span: Any, sums: int
    ) -> None:
        """All rows go through a panel before the next one, so weights are read once."""
        (steps, size), tiles = extent(m.k), (rows + high - 1) // high
        pace = panel_step // tiles if tiles > 1 else i64(0)
        for p in range(span.first, span.end):
            at, r, columns = m.weights + p * size, i64(0), p * width * 4
            following = p + 1 if p + 1 < span.end else span.after
            for i in range(tiles):  # equal heights, at most `high`
                n = (rows - r + tiles - i - 1) // (tiles - i)
                narrow(
                    n, at, i64(0), x.address + r * x.stride, x.stride, sums, i64(width * 4), steps,
                    x.scales + r * x.scales_stride, x.scales_stride,
                    m.weights + following * size + i * steps * pace, pace,
                )  # fmt: skip
                to = out.address + r * out.stride + columns
                finish_sums(job, kind, n, sums, m.scale + columns, m.bias + columns, to, out.stride)
                r += n

    return product


@cache
def finish_kernel(target: Target, dtype: str) -> Kernel:
    """What becomes of the sums of a tile, by the kind of the product."""
    residual, inner, logits, plain = (finish(target, kind, dtype == "int8") for kind in FINISH)
    stride = 4 * target.width

    @njit(nogil=True, error_model="numpy")
    def finish_sums(
        job: Any, kind: int, n: int, sums: int, scale: int, bias: int, to: int, out_stride: int
    ) -> None:
        """Finish n rows: every kind is a function of its own, without branches inside."""
        function = job[Job.ACTIVATION]
        if kind == RESIDUAL:
            residual(n, sums, i64(stride), scale, bias, to, out_stride, function)
        elif kind == INNER:
            inner(n, sums, i64(stride), scale, bias, to, out_stride, function)
        elif kind == LOGITS:
            logits(n, sums, i64(stride), scale, bias, to, out_stride, function)
        else:
            plain(n, sums, i64(stride), scale, bias, to, out_stride, function)

    return finish_sums
