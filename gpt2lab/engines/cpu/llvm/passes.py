"""Passes over the logits of one row, in vectors: what drawing a token needs of all V of them.

A unit is `UNIT` neighbouring logits; every pass takes whole units, and callers fill up the last one
with -inf. Sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.llvm.builder import (
    F32,
    F64,
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
from gpt2lab.engines.cpu.llvm.vector_math import VectorMath, WideMath

UNIT = 64  # logits: a word of bits
INF = float("inf")


def _bits_as_floats(b: Any, bits: Value, lanes: int) -> Value:
    """The float32 with the bits of an int64's lower half, in every lane."""
    return splat(b, b.bitcast(b.trunc(bits, I32), F32), lanes)


def _vectors(b: Any, base: Value, unit: Value, lanes: int, size: int) -> list[Value]:
    """The addresses of a unit's vectors of numbers of `size` bytes."""
    start = b.add(base, b.mul(unit, const(I64, UNIT * size)))
    return [b.add(start, const(I64, at * size)) for at in range(0, UNIT, lanes)]


def _bits(b: Any, masks: list[Value], lanes: int) -> Value:
    """The lanes of a unit's masks as the bits of one word."""
    word = const(I64, 0)
    for place, mask in enumerate(masks):
        part = b.zext(b.bitcast(mask, ir.IntType(lanes)), I64)
        word = b.or_(word, b.shl(part, const(I64, place * lanes)))
    return word


def largest(target: Target) -> Callable[..., float]:
    """An intrinsic: the largest of some units, NaN where one is NaN or infinity.

    Its arguments: the address, how many units.
    """
    lanes = target.lanes

    def make(b: Any, x: Value, units: Value) -> None:
        m, count = VectorMath(b, lanes), UNIT // lanes

        def unit(i: Value, *carried: Value) -> list[Value]:
            tops, fine = list(carried[:-1]), carried[-1]
            for v, place in enumerate(_vectors(b, x, i, lanes, 4)):
                value = load(b, place, m.floats)
                fine = b.and_(fine, b.fcmp_ordered("<", value, m.all(INF)))
                tops[v] = b.select(b.fcmp_ordered(">", value, tops[v]), value, tops[v])
            return [*tops, fine]

        yes = splat_const(ir.IntType(1), lanes, 1)
        *tops, fine = loop(b, units, unit, *[m.all(-INF)] * count, yes)
        while len(tops) > 1:
            top = tops.pop()
            tops[0] = b.select(b.fcmp_ordered(">", top, tops[0]), top, tops[0])
        every = b.icmp_signed(
            "==", b.bitcast(fine, ir.IntType(lanes)), const(ir.IntType(lanes), -1)
        )
        best = fold(b, tops[0], lambda p, q: b.select(b.fcmp_ordered(">", p, q), p, q))
        b.ret(b.select(every, best, const(F32, float("nan"))))

    result, generate = shared(f"gpt2lab.largest.{lanes}", 2, F32, make)

    @intrinsic
    def run(_: Any, x: Any, units: Any) -> Any:
        return result(*[i64] * 2), generate

    return run


def read(target: Target) -> Callable[..., None]:
    """An intrinsic: y = x / divisor, and the sum of NumPy's float32 exp(x - top), added to out.

    Its arguments: x; units; y; the bits of top, divisor and 1 / divisor; out. The number after out
    becomes 1 where a quotient is NaN, which is so for -inf: those have to be divided again.
    """
    lanes = target.lanes

    def make(b: Any, x: Value, units: Value, y: Value, *rest: Value) -> None:
        m = VectorMath(b, lanes)
        *numbers, out = rest
        tops, divisor, inverse = (_bits_as_floats(b, bits, lanes) for bits in numbers)

        def unit(i: Value, total: Value, odd: Value) -> list[Value]:
            to = _vectors(b, y, i, lanes, 4)
            for place, into in zip(_vectors(b, x, i, lanes, 4), to, strict=True):
                value = load(b, place, m.floats)
                quotient = m.divide(value, divisor, inverse)
                odd = b.or_(odd, b.fcmp_unordered("uno", quotient, quotient))
                store(b, quotient, into)
                ex = m.numpy_exp(b.fsub(value, tops))
                total = b.fadd(total, b.fpext(ex, ir.VectorType(F64, lanes)))
            return [total, odd]

        no = splat_const(ir.IntType(1), lanes, 0)
        totals, odd = loop(b, units, unit, splat_const(F64, lanes, 0), no)
        store(b, b.fadd(load(b, out, F64, 8), fold(b, totals, b.fadd)), out, 8)
        after, word = b.add(out, const(I64, 8)), b.bitcast(odd, ir.IntType(lanes))
        some = b.icmp_signed("!=", word, const(ir.IntType(lanes), 0))
        store(b, b.select(some, const(F64, 1.0), load(b, after, F64, 8)), after, 8)
        b.ret_void()

    result, generate = shared(f"gpt2lab.read.{lanes}", 7, VOID, make)

    @intrinsic
    def run(_: Any, x: Any, units: Any, y: Any, top: Any, by: Any, inverse: Any, out: Any) -> Any:
        return result(*[i64] * 7), generate

    return run


def exp_rounded(target: Target) -> Callable[..., None]:
    """An intrinsic: out = NumPy's float32 exp(x - top). Arguments: x; units; bits of top; out."""
    lanes = target.lanes

    def make(b: Any, x: Value, units: Value, top: Value, out: Value) -> None:
        m = VectorMath(b, lanes)
        tops = _bits_as_floats(b, top, lanes)

        def unit(i: Value) -> list[Value]:
            to = _vectors(b, out, i, lanes, 4)
            for place, into in zip(_vectors(b, x, i, lanes, 4), to, strict=True):
                store(b, m.numpy_exp(b.fsub(load(b, place, m.floats), tops)), into)
            return []

        loop(b, units, unit)
        b.ret_void()

    result, generate = shared(f"gpt2lab.exp_rounded.{lanes}", 4, VOID, make)

    @intrinsic
    def run(_: Any, x: Any, units: Any, top: Any, out: Any) -> Any:
        return result(*[i64] * 4), generate

    return run


def weigh(target: Target) -> Callable[..., None]:
    """An intrinsic: w = exp(y - top) in float64, and the sums of w and of w times (y - top).

    Its arguments: y; units; the bits of top; w; where the two sums go.
    """
    lanes = target.lanes

    def make(b: Any, y: Value, units: Value, top: Value, w: Value, out: Value) -> None:
        m, wide = VectorMath(b, lanes), WideMath(b, lanes)
        tops = _bits_as_floats(b, top, lanes)

        def unit(i: Value, total: Value, first: Value) -> list[Value]:
            to = _vectors(b, w, i, lanes, 8)
            for place, into in zip(_vectors(b, y, i, lanes, 4), to, strict=True):
                d = b.fsub(load(b, place, m.floats), tops)
                d = b.fpext(
                    b.select(b.fcmp_ordered(">", d, m.all(-700)), d, m.all(-700)), wide.floats
                )
                ex = wide.exp(d)
                store(b, ex, into, 8)
                total, first = b.fadd(total, ex), wide.call("fma", ex, d, first)
            return [total, first]

        zero = splat_const(F64, lanes, 0)
        sums = loop(b, units, unit, zero, zero)
        for place, values in enumerate(sums):
            store(b, fold(b, values, b.fadd), b.add(out, const(I64, 8 * place)), 8)
        b.ret_void()

    result, generate = shared(f"gpt2lab.weigh.{lanes}", 5, VOID, make)

    @intrinsic
    def run(_: Any, y: Any, units: Any, top: Any, w: Any, out: Any) -> Any:
        return result(*[i64] * 5), generate

    return run


def above(target: Target) -> Callable[..., None]:
    """An intrinsic: the sum of what is above `high`, and bits for what is from `low` to `high`.

    Its arguments: float64 numbers; units; low and high (as bits); a word a unit; where the sum
    goes.
    """
    lanes = target.lanes

    def make(
        b: Any, w: Value, units: Value, low: Value, high: Value, words: Value, out: Value
    ) -> None:
        kind = ir.VectorType(F64, lanes)
        lows, highs = (splat(b, b.bitcast(bits, F64), lanes) for bits in (low, high))
        zero = splat_const(F64, lanes, 0)

        def unit(i: Value, total: Value) -> list[Value]:
            masks = []
            for place in _vectors(b, w, i, lanes, 8):
                value = load(b, place, kind, 8)
                over = b.fcmp_ordered(">", value, highs)
                total = b.fadd(total, b.select(over, value, zero))
                masks.append(b.and_(b.fcmp_ordered(">=", value, lows), b.not_(over)))
            store(b, _bits(b, masks, lanes), b.add(words, b.mul(i, const(I64, 8))), 8)
            return [total]

        [totals] = loop(b, units, unit, zero)
        store(b, fold(b, totals, b.fadd), out, 8)
        b.ret_void()

    result, generate = shared(f"gpt2lab.above.{lanes}", 6, VOID, make)

    @intrinsic
    def run(_: Any, w: Any, units: Any, low: Any, high: Any, words: Any, out: Any) -> Any:
        return result(*[i64] * 6), generate

    return run


def at_least(target: Target) -> Callable[..., None]:
    """An intrinsic: bits for what is `low` or more. Arguments: y; units; bits of low; words."""
    lanes = target.lanes

    def make(b: Any, y: Value, units: Value, low: Value, words: Value) -> None:
        m = VectorMath(b, lanes)
        lows = _bits_as_floats(b, low, lanes)

        def unit(i: Value) -> list[Value]:
            masks = [
                b.fcmp_ordered(">=", load(b, place, m.floats), lows)
                for place in _vectors(b, y, i, lanes, 4)
            ]
            store(b, _bits(b, masks, lanes), b.add(words, b.mul(i, const(I64, 8))), 8)
            return []

        loop(b, units, unit)
        b.ret_void()

    result, generate = shared(f"gpt2lab.at_least.{lanes}", 4, VOID, make)

    @intrinsic
    def run(_: Any, y: Any, units: Any, low: Any, words: Any) -> Any:
        return result(*[i64] * 4), generate

    return run


@intrinsic
def lowest_bit(_: Any, word: Any) -> Any:
    """The place of the lowest bit that is set."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        return call(b, "llvm.cttz.i64", I64, args[0], const(ir.IntType(1), 1))

    return i64(i64), generate
