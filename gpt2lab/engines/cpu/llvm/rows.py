"""Whole rows in vectors: what follows a product, the softmax, and int8 blocks of activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import OFFSET, STEP
from gpt2lab.engines.cpu.llvm.builder import (
    F32,
    I8,
    I32,
    I64,
    VOID,
    Value,
    call,
    const,
    fold,
    i64,
    load,
    loop,
    shared,
    splat,
    splat_const,
    store,
)
from gpt2lab.engines.cpu.llvm.vector_math import VectorMath

FINISH = ("residual", "inner", "logits", "plain")


def finish(target: Target, kind: str, scaled: bool) -> Callable[..., None]:
    """An intrinsic that turns the sums of a tile into what a matrix gives, row by row.

    Its arguments: rows; sums with their stride; scales and biases of the panel's columns; out and
    its stride; the activation function (`Job.ACTIVATION`). With y = sum * scale (if scaled) + bias:
    "plain" writes y, "inner" the activation function of y, "residual" adds y to what out holds,
    "logits" writes sum * scale.
    """

    def make(b: Any, *args: Value) -> None:
        *rest, which = args
        if kind != "inner":
            _finish_rows(b, target.lanes, kind, scaled, "", *rest)
            return
        functions = ("gelu_tanh", "gelu_erf", "relu")
        cases = [b.append_basic_block(name) for name in functions]
        switch = b.switch(which, cases[0])
        for number, (name, case) in enumerate(zip(functions, cases, strict=True)):
            switch.add_case(const(I64, number), case)
            b.position_at_end(case)
            _finish_rows(b, target.lanes, kind, scaled, name, *rest)

    result, generate = shared(f"gpt2lab.finish.{kind}.{target.lanes}.{scaled}", 8, VOID, make)

    @intrinsic
    def run(_: Any, rows: Any, acc: Any, stride: Any, scale: Any, bias: Any, out: Any,
            out_stride: Any, act: Any) -> Any:  # fmt: skip
        return result(*[i64] * 8), generate

    return run


def _finish_rows(
    b: Any, lanes: int, kind: str, scaled: bool, function: str,
    rows: Value, acc: Value, stride: Value, scale: Value, bias: Value, out: Value,
    out_stride: Value,
) -> None:  # fmt: skip
    m = VectorMath(b, lanes)

    def row(r: Value) -> list[Value]:
        for v in (0, 1):
            offset = const(I64, 4 * lanes * v)
            y = load(b, b.add(b.add(acc, b.mul(r, stride)), offset), m.floats)
            start = m.all(0) if kind == "logits" else load(b, b.add(bias, offset), m.floats)
            if scaled:
                y = m.call("fma", y, load(b, b.add(scale, offset), m.floats), start)
            elif kind != "logits":
                y = b.fadd(y, start)
            place = b.add(b.add(out, b.mul(r, out_stride)), offset)
            if kind == "residual":
                y = b.fadd(y, load(b, place, m.floats))
            if function:
                y = getattr(m, function)(y)
            store(b, y, place)
        return []

    loop(b, rows, row)
    b.ret_void()


def _reader(b: Any, m: VectorMath, row: Value, n: Value) -> Callable[..., tuple[Value, ...]]:
    """A function of i: where vector i of a row is, its numbers, which of them are the first n."""
    numbers = const(ir.VectorType(I32, m.lanes), list(range(m.lanes)))
    limit = splat(b, b.trunc(n, I32), m.lanes)

    def read(i: Value) -> tuple[Value, ...]:
        at = b.mul(i, const(I64, m.lanes))
        ids = b.add(splat(b, b.trunc(at, I32), m.lanes), numbers)
        place = b.add(row, b.mul(at, const(I64, 4)))
        return place, load(b, place, m.floats), b.icmp_signed("<", ids, limit)

    return read


def _largest(b: Any, m: VectorMath, count: Value, read: Callable[..., tuple[Value, ...]]) -> Value:
    """The largest number that `read` gives of `count` vectors, in every lane."""

    def larger(i: Value, top: Value) -> list[Value]:
        _, value, inside = read(i)
        return [m.call("maxnum", top, b.select(inside, value, m.all(-3e38)))]

    [tops] = loop(b, count, larger, m.all(-3e38))
    return splat(b, fold(b, tops, lambda x, y: call(b, "llvm.maxnum.f32", F32, x, y)), m.lanes)


def softmax(target: Target) -> Callable[..., float]:
    """An intrinsic: exp(scale * p - largest) over the first n of a row p, zeros up to `end`.

    Its arguments: p; n; end, a multiple of the lanes; the bits of the scale. Returns the sum.
    """
    lanes = target.lanes

    def make(b: Any, p: Value, n: Value, end: Value, scale: Value) -> None:
        m, vectors = VectorMath(b, lanes), b.sdiv(end, const(I64, lanes))
        factor = splat(b, b.bitcast(b.trunc(scale, I32), F32), lanes)
        read = _reader(b, m, p, n)

        def scaled(i: Value) -> tuple[Value, ...]:
            place, value, inside = read(i)
            return place, b.fmul(value, factor), inside

        top = _largest(b, m, vectors, scaled)

        def weights(i: Value, total: Value) -> list[Value]:
            place, value, inside = scaled(i)
            e = b.select(inside, m.exp(b.fsub(value, top)), m.all(0))
            store(b, e, place)
            return [b.fadd(total, e)]

        [totals] = loop(b, vectors, weights, m.all(0))
        b.ret(fold(b, totals, b.fadd))

    result, generate = shared(f"gpt2lab.softmax.{lanes}", 4, F32, make)

    @intrinsic
    def run(_: Any, p: Any, n: Any, end: Any, scale: Any) -> Any:
        return result(*[i64] * 4), generate

    return run


def softmax_sums(target: Target) -> Callable[..., None]:
    """An intrinsic that writes what a softmax over the first n of a row needs, as three float32.

    Its arguments: the row, of whole vectors; n; out. With e = exp(x - largest): the largest x, the
    sum of e, the sum of e * (x - largest). The sums are NaN where a number is.
    """
    lanes = target.lanes

    def make(b: Any, row: Value, n: Value, out: Value) -> None:
        m = VectorMath(b, lanes)
        read = _reader(b, m, row, n)
        vectors = b.sdiv(b.add(n, const(I64, lanes - 1)), const(I64, lanes))
        top = _largest(b, m, vectors, read)

        def add(i: Value, total: Value, weighted: Value) -> list[Value]:
            _, value, inside = read(i)
            below = b.select(inside, b.fsub(value, top), m.all(0))
            e = b.select(inside, m.exp(below), m.all(0))
            e = b.select(b.fcmp_unordered("uno", below, below), below, e)  # exp hides a NaN
            return [b.fadd(total, e), m.call("fma", e, below, weighted)]

        totals = loop(b, vectors, add, m.all(0), m.all(0))
        store(b, b.extract_element(top, const(I32, 0)), out)
        for i, total in enumerate(totals, 1):
            store(b, fold(b, total, b.fadd), b.add(out, const(I64, 4 * i)))
        b.ret_void()

    result, generate = shared(f"gpt2lab.softmax_sums.{lanes}", 3, VOID, make)

    @intrinsic
    def run(_: Any, row: Any, n: Any, out: Any) -> Any:
        return result(*[i64] * 3), generate

    return run


def pack_int8(target: Target, product: str) -> Callable[..., None]:
    """An intrinsic that writes a row as int8 in blocks of a product, with a scale and a start each.

    Its arguments: the row; how many numbers; where the integers go, where scales and starts
    ([blocks][2], float32 and int32: what takes back the offset of the weights). It reads and writes
    whole blocks; what lies past the end counts as zero.
    """
    lanes, size = target.lanes, STEP[product].block * STEP[product].numbers
    offset = OFFSET.get(product, 0)

    def make(b: Any, x: Value, n: Value, out: Value, scales: Value) -> None:
        m = VectorMath(b, lanes)
        blocks = b.sdiv(b.add(n, const(I64, size - 1)), const(I64, size))

        def block(i: Value) -> list[Value]:
            at, scale = b.mul(i, const(I64, size)), b.add(scales, b.mul(i, const(I64, 8)))
            values, top = _read_block(b, m, x, n, at, size)
            some = b.fcmp_ordered(">", top, const(F32, 1e-30))
            inverse = b.select(some, b.fdiv(const(F32, 127.0), top), const(F32, 0.0))
            factor, total = splat(b, inverse, lanes), splat_const(I32, lanes, 0)
            for v, value in enumerate(values):
                q = b.fptosi(m.call("rint", b.fmul(value, factor)), m.ints)
                total = b.add(total, q)
                place = b.add(b.add(out, at), const(I64, v * lanes))
                store(b, b.trunc(q, ir.VectorType(I8, lanes)), place, 1)
            store(b, b.fdiv(top, const(F32, 127.0)), scale)
            sum_ = call(b, f"llvm.vector.reduce.add.v{lanes}i32", I32, total)
            store(b, b.mul(sum_, const(I32, -offset)), b.add(scale, const(I64, 4)))
            return []

        loop(b, blocks, block)
        b.ret_void()

    result, generate = shared(f"gpt2lab.pack.{product}.{lanes}", 4, VOID, make)

    @intrinsic
    def run(_: Any, x: Any, n: Any, out: Any, scales: Any) -> Any:
        return result(*[i64] * 4), generate

    return run


def _read_block(
    b: Any, m: VectorMath, x: Value, n: Value, at: Value, size: int
) -> tuple[list[Value], Value]:
    """`size` numbers of a row from `at` on, as vectors with zeros past its end, and the largest."""
    lanes = m.lanes
    numbers = const(ir.VectorType(I32, lanes), list(range(lanes)))
    limit = splat(b, b.trunc(n, I32), lanes)
    values, tops = [], splat_const(I32, lanes, 0)
    for v in range(size // lanes):
        begin = b.add(at, const(I64, v * lanes))
        ids = b.add(splat(b, b.trunc(begin, I32), lanes), numbers)
        value = load(b, b.add(x, b.mul(begin, const(I64, 4))), m.floats)
        value = b.select(b.icmp_signed("<", ids, limit), value, m.all(0))
        values.append(value)
        size_bits = b.and_(b.bitcast(value, m.ints), splat_const(I32, lanes, 0x7FFFFFFF))
        larger = b.icmp_signed(">", size_bits, tops)  # floats without sign sort as integers
        tops = b.select(larger, size_bits, tops)
    top = call(b, f"llvm.vector.reduce.smax.v{lanes}i32", I32, tops)
    return values, b.bitcast(top, F32)
