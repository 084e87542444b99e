"""A tile: some rows of activations times a panel of weights, with all sums in registers.

A tile keeps rows x panels x two vectors of sums while it runs along K. Every sum is its own chain
in the order of K, whatever the height or width of the tile that holds it: this is why a row's
logits are the same bits alone, in a batch, and in any chunk of a prefill.

Weights lie in panels: [panel][step][2 * lanes][numbers a step] (`layout.STEP`); where blocks of
weights have scales, those of a block's columns follow its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba.extending import intrinsic

from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import OFFSET, STEP, KStep
from gpt2lab.engines.cpu.llvm.builder import (
    F32,
    I32,
    I64,
    VOID,
    Value,
    const,
    i64,
    load,
    loop,
    prefetch_line,
    shared,
    splat,
    splat_const,
    store,
    strided,
)
from gpt2lab.engines.cpu.llvm.products import Product


class _Operands(NamedTuple):
    """What a tile is given, in bytes where it is a stride."""

    weights: Value  # address of the first panel
    weights_stride: Value  # to the next panel
    x: Value  # address of the first row of activations
    x_stride: Value
    sums: Value  # address of the first row of float32 sums
    sums_stride: Value
    steps: Value  # along K
    scales: Value  # of the rows' blocks: [blocks][2], float32 and int32; integer products alone
    scales_stride: Value
    ahead: Value  # address to prefetch meanwhile, by high tiles alone
    pace: Value  # by how many bytes it moves with each step


class _Shape(NamedTuple):
    """What is constant in one tile. width: columns of a panel."""

    product: Product
    step: KStep
    rows: int
    panels: int
    width: int
    prefetches: bool


def tile(target: Target, product: str, panels: int = 1) -> Callable[..., None]:
    """An intrinsic that writes the products of some rows with `panels` panels to sums, as float32.

    Its arguments: how many rows (1 to target.rows; 1 alone with several panels), then `_Operands`.
    The scales of the columns are left to the caller. All heights are one function with a switch.
    """
    name = f"gpt2lab.{product}.{target.lanes}.{panels}"
    heights = range(1, target.rows + 1) if panels == 1 else (1,)

    def make(b: Any, rows: Value, *rest: Value) -> None:
        nothing = b.append_basic_block("nothing")
        switch = b.switch(rows, nothing)
        b.position_at_end(nothing)
        b.ret_void()
        for height in heights:
            case = b.append_basic_block(f"rows{height}")
            switch.add_case(const(I64, height), case)
            b.position_at_end(case)
            # Lower tiles wait for memory anyway: prefetching cost them 2 to 10 %.
            prefetches = height >= target.rows // 2
            made = Product(b, target, product)
            shape = _Shape(made, STEP[product], height, panels, target.width, prefetches)
            _tile(b, shape, _Operands(*rest))
            b.ret_void()

    result, generate = shared(name, 12, VOID, make)

    @intrinsic
    def run(_: Any, rows: Any, w: Any, ws: Any, x: Any, xs: Any, acc: Any, stride: Any,
            steps: Any, sx: Any, sxs: Any, ahead: Any, pace: Any) -> Any:  # fmt: skip
        return result(*[i64] * 12), generate

    return run


def _tile(b: Any, t: _Shape, o: _Operands) -> None:
    """The loop over blocks of K: the sums of a block, then those added to the sums in memory."""
    zero, block = const(I64, 0), const(I64, t.step.block)
    before, blocks = b.block, b.append_basic_block("blocks")
    b.branch(blocks)

    b.position_at_end(blocks)
    done = b.phi(I64)  # steps before this block
    done.add_incoming(zero, before)
    left = b.sub(o.steps, done)
    count = b.select(b.icmp_signed("<", left, block), left, block)
    number = b.mul(b.sdiv(done, block), const(I64, 8))
    scales = [b.add(strided(b, o.scales, o.scales_stride, r), number) for r in range(t.rows)]
    weights = b.add(o.weights, b.mul(done, const(I64, t.step.weight_bytes * t.width)))
    if t.step.scale_bytes:
        before_block = b.mul(b.sdiv(done, block), const(I64, t.step.scale_bytes * t.width))
        weights = b.add(weights, before_block)
    sums = _sums(b, t, o, weights, done, count, scales)
    columns = _column_scales(b, t, weights, count)
    _add_to_memory(b, t, o, b.icmp_signed("==", done, zero), scales, columns, sums)
    after = b.add(done, count)
    done.add_incoming(after, b.block)
    end = b.append_basic_block("end")
    b.cbranch(b.icmp_signed("<", after, o.steps), blocks, end)
    b.position_at_end(end)


def _column_scales(b: Any, t: _Shape, weights: Value, count: Value) -> list[Value]:
    """The scales of a block's columns, which follow its weights; none where it has none."""
    if not t.step.scale_bytes:
        return []
    after = b.add(weights, b.mul(count, const(I64, t.step.weight_bytes * t.width)))
    bytes_ = t.step.scale_bytes * t.width // 2
    return [t.product.column_scales(b.add(after, const(I64, v * bytes_))) for v in range(2)]


def _sums(
    b: Any, t: _Shape, o: _Operands, weights_here: Value, done: Value, count: Value,
    scales: list[Value],
) -> list[list[Value]]:  # fmt: skip
    """The innermost loop, over the steps of a block: [rows][vectors] of sums in registers."""
    p, vectors = t.product, range(2 * t.panels)
    step_w, step_x = const(I64, t.step.weight_bytes * t.width), const(I64, t.step.activation_bytes)
    half = const(I64, t.step.weight_bytes * t.width // 2)
    x_here = b.add(o.x, b.mul(done, step_x))

    def one_step(k: Value, *flat: Value) -> list[Value]:
        k_x, k_w = b.mul(k, step_x), b.mul(k, step_w)
        if t.prefetches:
            prefetch_line(b, b.add(o.ahead, b.mul(b.add(done, k), o.pace)))
        weights = []
        for panel in range(t.panels):
            at = b.add(strided(b, weights_here, o.weights_stride, panel), k_w)
            weights += [p.weights(at), p.weights(b.add(at, half))]
        new = []
        for r in range(t.rows):
            x = p.activation(b.add(strided(b, x_here, o.x_stride, r), k_x))
            new += [p.add(flat[r * len(vectors) + v], weights[v], x) for v in vectors]
        return new

    first = [zero for zero in _first_sums(b, t, scales) for _ in vectors]
    flat = loop(b, count, one_step, *first)
    return [flat[r * len(vectors) : (r + 1) * len(vectors)] for r in range(t.rows)]


def _first_sums(b: Any, t: _Shape, scales: list[Value]) -> list[Value]:
    """What the sums of each row start from: zero, or what takes back the offset of the weights."""
    if t.product.name not in OFFSET:
        return [t.product.zero] * t.rows
    starts = [load(b, b.add(scale, const(I64, 4)), I32) for scale in scales]
    return [splat(b, start, t.product.lanes) for start in starts]


def _add_to_memory(
    b: Any, t: _Shape, o: _Operands, fresh: Value, scales: list[Value], columns: list[Value],
    sums: list[list[Value]],
) -> None:  # fmt: skip
    """Add a block's sums, for integers times the scales of row and column, to those in memory."""
    p = t.product
    for r, row in enumerate(sums):
        scale = splat(b, load(b, scales[r], F32), p.lanes) if p.exact else None
        for v, new in enumerate(row):
            address = b.add(strided(b, o.sums, o.sums_stride, r), const(I64, 4 * p.lanes * v))
            old = b.select(fresh, splat_const(F32, p.lanes, 0.0), load(b, address, p.floats))
            by = b.fmul(scale, columns[v]) if columns else scale
            total = p.fma(b.sitofp(new, p.floats), by, old) if p.exact else b.fadd(old, new)
            store(b, total, address)
