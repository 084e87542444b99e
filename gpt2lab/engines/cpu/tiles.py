"""Tiles: the innermost loops, written as LLVM vectors because no compiler finds them by itself.

A tile keeps rows x panels x two vectors of sums in registers while it runs along K. Every sum is
its own chain in the order of K, whatever the height or width of the tile that holds it: this is why
a row's logits are the same bits alone, in a batch, and in any chunk of a prefill.

Weights lie in panels: [panel][step][2 * lanes][numbers a step] (`layout.STEP`).
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import STEP

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, VOID = ir.FloatType(), ir.VoidType()
Value = Any

i64 = types.int64


def _const(kind: Any, value: Any) -> Value:
    return ir.Constant(kind, value)


def _all(kind: Any, count: int, value: Any) -> Value:
    return ir.Constant(ir.VectorType(kind, count), [value] * count)


def _call(b: Any, name: str, returns: Any, *values: Value) -> Value:
    """A call of an LLVM intrinsic or a C function by its name."""
    kind = ir.FunctionType(returns, [value.type for value in values])
    function = b.module.globals.get(name) or ir.Function(b.module, kind, name)
    return b.call(function, values)


def _load(b: Any, address: Value, kind: Any, align: int = 4) -> Value:
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def _store(b: Any, value: Value, address: Value, align: int = 4) -> None:
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = align


def _splat(b: Any, value: Value, count: int) -> Value:
    """One number in every lane."""
    kind = ir.VectorType(value.type, count)
    first = b.insert_element(_const(kind, ir.Undefined), value, _const(I32, 0))
    return b.shuffle_vector(first, _const(kind, ir.Undefined), _all(I32, count, 0))


def _at(b: Any, base: Value, stride: Value, index: int) -> Value:
    return b.add(base, b.mul(stride, _const(I64, index))) if index else base


def _prefetch(b: Any, address: Value) -> None:
    where = b.inttoptr(address, I8.as_pointer())
    flags = [_const(I32, flag) for flag in (0, 2, 1)]  # to read, second level, data
    _call(b, "llvm.prefetch.p0", VOID, where, *flags)


def _pick(b: Any, vector: Value, lanes: range) -> Value:
    mask = _const(ir.VectorType(I32, len(lanes)), list(lanes))
    return b.shuffle_vector(vector, _const(vector.type, ir.Undefined), mask)


# ---- Products: sums + weights * activations, one step along K.


class _Product:
    """How one step is multiplied: load the weights once, then use them for every row."""

    def __init__(self, b: Any, target: Target, name: str) -> None:
        self.b, self.name, self.lanes, self.x86 = b, name, target.lanes, target.x86
        self.floats = ir.VectorType(F32, target.lanes)
        self.ints = ir.VectorType(I32, target.lanes)
        self.exact = name in ("int16", "vnni", "dot")  # sums are int32
        self.sums = self.ints if self.exact else self.floats
        self.zero = _all(I32, target.lanes, 0) if self.exact else _all(F32, target.lanes, 0.0)

    def fma(self, x: Value, w: Value, total: Value) -> Value:
        return _call(self.b, f"llvm.fma.v{self.lanes}f32", self.floats, x, w, total)

    def weights(self, address: Value) -> Any:
        """One vector of weights, as the product wants it."""
        b, n = self.b, self.lanes
        if self.name == "float":
            return _load(b, address, self.floats)
        if self.name == "byte":
            return b.sitofp(_load(b, address, ir.VectorType(I8, n), 1), self.floats)
        if self.name == "int16":
            return b.sext(_load(b, address, ir.VectorType(I8, 2 * n), 1), ir.VectorType(I16, 2 * n))
        words = _load(b, address, self.ints)
        if self.name == "shift":  # a bfloat16 is the upper half of a float32
            low = b.shl(words, _all(I32, n, 16))
            high = b.and_(words, _all(I32, n, -65536))
            return b.bitcast(low, self.floats), b.bitcast(high, self.floats)
        return words

    def activation(self, address: Value) -> Any:
        """One word of activations in every lane."""
        b, n = self.b, self.lanes
        if self.name in ("float", "byte"):
            return _splat(b, _load(b, address, F32), n)
        if self.name == "shift":
            second = b.add(address, _const(I64, 4))
            return _splat(b, _load(b, address, F32), n), _splat(b, _load(b, second, F32), n)
        return _splat(b, _load(b, address, I32), n)

    def add(self, total: Value, w: Any, x: Any) -> Value:
        """total + w * x."""
        b, n = self.b, self.lanes
        if self.name in ("float", "byte"):
            return self.fma(x, w, total)
        if self.name == "shift":
            return self.fma(x[1], w[1], self.fma(x[0], w[0], total))
        if self.name == "pairs":
            return _call(b, "llvm.x86.avx512bf16.dpbf16ps.512", self.floats, total, w, x)
        if self.name == "vnni":
            return _call(b, f"llvm.x86.avx512.vpdpbusd.{32 * n}", self.ints, total, w, x)
        if self.name == "dot":
            return self._dot(total, w, x)
        return self._int16(total, w, b.bitcast(x, ir.VectorType(I16, 2 * n)))

    def _dot(self, total: Value, w: Value, x: Value) -> Value:
        """Arm's signed dot product works on four lanes."""
        b, parts = self.b, []
        four, bytes_ = ir.VectorType(I32, 4), ir.VectorType(I8, 16)
        for start in range(0, self.lanes, 4):
            t, wv, xv = (_pick(b, v, range(start, start + 4)) for v in (total, w, x))
            name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
            parts.append(_call(b, name, four, t, b.bitcast(wv, bytes_), b.bitcast(xv, bytes_)))
        mask = _const(ir.VectorType(I32, 8), list(range(8)))
        return b.shuffle_vector(parts[0], parts[1], mask)

    def _int16(self, total: Value, w: Value, x: Value) -> Value:
        b, n = self.b, self.lanes
        if self.x86:
            name = "llvm.x86.avx2.pmadd.wd" if n == 8 else "llvm.x86.avx512.pmaddw.d.512"
            return b.add(total, _call(b, name, self.ints, w, x))
        for first in (0, 1):
            lanes = range(first, 2 * n, 2)
            wide = (b.sext(_pick(b, v, lanes), self.ints) for v in (w, x))
            total = b.add(total, b.mul(*wide))
        return total


#: The bodies of the functions that `_shared` declares: how many arguments, what is returned, code.
BODIES: dict[str, tuple[int, Any, Callable[..., None]]] = {}


def _shared(name: str, arguments: int, returns: Any, make: Callable[..., None]) -> Any:
    """An intrinsic of int64 arguments that calls a function of its own, which `bodies` writes.

    Whoever calls it gets the same code, so the same bits; and Numba, which goes over a module many
    times, never sees it.
    """
    BODIES[name] = arguments, returns, make
    result = types.float32 if returns is F32 else types.void

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        kind = ir.FunctionType(returns, [I64] * arguments)
        function = b.module.globals.get(name) or ir.Function(b.module, kind, name)
        value = b.call(function, args)
        return value if returns is F32 else context.get_dummy_value()

    return result, generate


def bodies(names: set[str], triple: str, layout: str) -> str:
    """LLVM's text of a module that defines these functions."""
    module = ir.Module()
    module.triple, module.data_layout = triple, layout
    for name in sorted(names):
        arguments, returns, make = BODIES[name]
        function = ir.Function(module, ir.FunctionType(returns, [I64] * arguments), name)
        function.attributes.add("nounwind")
        make(ir.IRBuilder(function.append_basic_block("entry")), *function.args)
    return str(module)


def tile(target: Target, product: str, panels: int = 1) -> Callable[..., None]:
    """An intrinsic that writes the products of some rows with `panels` panels to acc, as float32.

    Its arguments: how many rows (1 to target.rows; 1 alone with several panels); then addresses and
    strides in bytes: the first panel and the distance to the next, the first row of activations and
    the distance to the next, the same of acc; the steps along K; for integer products the scales
    and starts of the rows' blocks ([blocks][2], float32 and int32) with their stride; and what to
    fetch meanwhile (high tiles alone): an address, and by how many bytes it moves with each step.
    The scales of the columns are the caller's.

    All heights are one function with a switch.
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
            switch.add_case(_const(I64, height), case)
            b.position_at_end(case)
            _tile(b, target, product, height, panels, *rest)
            b.ret_void()

    result, generate = _shared(name, 12, VOID, make)

    @intrinsic
    def run(_: Any, rows: Any, w: Any, ws: Any, x: Any, xs: Any, acc: Any, stride: Any,
            steps: Any, sx: Any, sxs: Any, ahead: Any, pace: Any) -> Any:  # fmt: skip
        return result(*[i64] * 12), generate

    return run


def _tile(
    b: Any, target: Target, product: str, rows: int, panels: int,
    w: Value, ws: Value, x: Value, xs: Value, acc: Value, stride: Value, steps: Value,
    sx: Value, sxs: Value, ahead: Value, pace: Value,
) -> None:  # fmt: skip
    """The two loops of a tile: blocks of K, and the steps of a block."""
    step, p, lanes = STEP[product], _Product(b, target, product), target.lanes
    step_w, step_x = step.weight_bytes * target.width, step.activation_bytes
    vectors, zero = range(2 * panels), _const(I64, 0)
    before, outer = b.block, b.append_basic_block("blocks")
    b.branch(outer)

    b.position_at_end(outer)
    done = b.phi(I64)  # steps before this block
    done.add_incoming(zero, before)
    left = b.sub(steps, done)
    short = b.icmp_signed("<", left, _const(I64, step.block))
    count = b.select(short, left, _const(I64, step.block))
    w_block = b.add(w, b.mul(done, _const(I64, step_w)))
    x_block = b.add(x, b.mul(done, _const(I64, step_x)))
    number = b.sdiv(done, _const(I64, step.block))
    scales = [b.add(_at(b, sx, sxs, r), b.mul(number, _const(I64, 8))) for r in range(rows)]
    first = [p.zero] * rows
    if product == "vnni":  # takes back the offset of the weights
        starts = [_load(b, b.add(scale, _const(I64, 4)), I32) for scale in scales]
        first = [_splat(b, start, lanes) for start in starts]
    entry, inner = b.block, b.append_basic_block("steps")
    b.branch(inner)

    b.position_at_end(inner)
    k = b.phi(I64)
    k.add_incoming(zero, entry)
    sums = [[b.phi(p.sums) for _ in vectors] for _ in range(rows)]
    for r in range(rows):
        for v in vectors:
            sums[r][v].add_incoming(first[r], entry)
    k_x, k_w = b.mul(k, _const(I64, step_x)), b.mul(k, _const(I64, step_w))
    if rows >= target.rows // 2:  # lower tiles wait for memory anyway, and lost 2 to 10 % by it
        _prefetch(b, b.add(ahead, b.mul(b.add(done, k), pace)))
    new = [list(row) for row in sums]
    weights = []
    for panel in range(panels):
        from_w = b.add(_at(b, w_block, ws, panel), k_w)
        weights += [p.weights(from_w), p.weights(b.add(from_w, _const(I64, step_w // 2)))]
    for r in range(rows):
        xv = p.activation(b.add(_at(b, x_block, xs, r), k_x))
        for v in vectors:
            new[r][v] = p.add(sums[r][v], weights[v], xv)
    following = b.add(k, _const(I64, 1))
    k.add_incoming(following, b.block)
    for r in range(rows):
        for v in vectors:
            sums[r][v].add_incoming(new[r][v], b.block)
    fold = b.append_basic_block("fold")
    b.cbranch(b.icmp_signed("<", following, count), inner, fold)

    b.position_at_end(fold)
    fresh = b.icmp_signed("==", done, zero)
    for r in range(rows):
        scale = _splat(b, _load(b, scales[r], F32), lanes) if p.exact else None
        for v in vectors:
            address = b.add(_at(b, acc, stride, r), _const(I64, 4 * lanes * v))
            old = b.select(fresh, _all(F32, lanes, 0.0), _load(b, address, p.floats))
            if p.exact:
                total = p.fma(b.sitofp(new[r][v], p.floats), scale, old)
            else:
                total = b.fadd(old, new[r][v])
            _store(b, total, address)
    after = b.add(done, count)
    done.add_incoming(after, b.block)
    end = b.append_basic_block("end")
    b.cbranch(b.icmp_signed("<", after, steps), outer, end)
    b.position_at_end(end)


# ---- Rows: what stands around the products, in vectors too.


class _Math:
    """Functions of float32 vectors."""

    def __init__(self, b: Any, lanes: int) -> None:
        self.b, self.lanes = b, lanes
        self.floats, self.ints = ir.VectorType(F32, lanes), ir.VectorType(I32, lanes)

    def all(self, value: float) -> Value:
        return _all(F32, self.lanes, float(np.float32(value)))

    def call(self, name: str, *values: Value) -> Value:
        return _call(self.b, f"llvm.{name}.v{self.lanes}f32", self.floats, *values)

    def polynomial(self, x: Value, *factors: float) -> Value:
        """The highest power's factor first."""
        total = self.all(factors[0])
        for factor in factors[1:]:
            total = self.call("fma", total, x, self.all(factor))
        return total

    def exp(self, x: Value) -> Value:
        """e to the x, to 2e-7 of itself: 2 to a whole number times a polynomial."""
        b = self.b
        x = self.call("minnum", self.call("maxnum", x, self.all(-87)), self.all(88))
        whole = self.call("rint", b.fmul(x, self.all(1.44269504)))
        r = self.call("fma", whole, self.all(-0.693359375), x)  # ln 2 in two parts
        r = self.call("fma", whole, self.all(2.12194440e-4), r)
        p = self.polynomial(r, 1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1, 1)
        power = b.add(b.fptosi(whole, self.ints), _all(I32, self.lanes, 127))
        return b.fmul(p, b.bitcast(b.shl(power, _all(I32, self.lanes, 23)), self.floats))

    def gelu_tanh(self, x: Value) -> Value:
        """0.5 x (1 + tanh(u)) is x / (1 + exp(-2u))."""
        b = self.b
        inner = self.polynomial(b.fmul(x, x), -1.5957691216 * 0.044715, -1.5957691216)
        return b.fdiv(x, b.fadd(self.all(1), self.exp(b.fmul(x, inner))))

    def gelu_erf(self, x: Value) -> Value:
        """x times the normal distribution; erf by Abramowitz and Stegun 7.1.26 (1.5e-7)."""
        b = self.b
        z = b.fmul(self.call("fabs", x), self.all(0.70710678))
        t = b.fdiv(self.all(1), self.call("fma", z, self.all(0.3275911), self.all(1)))
        factors = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0)
        tail = b.fmul(self.polynomial(t, *factors), self.exp(b.fneg(b.fmul(z, z))))
        tail = b.fmul(tail, self.all(0.5))
        upper = b.fsub(self.all(1), tail)
        return b.fmul(x, b.select(b.fcmp_ordered(">", x, self.all(0)), upper, tail))

    def relu(self, x: Value) -> Value:
        return self.call("maxnum", x, self.all(0))


def _loop(b: Any, count: Value, body: Callable[..., list[Value]], *first: Value) -> list[Value]:
    """body(i, *carried) -> what is carried on, for i from 0 below count (at least once)."""
    before, block, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
    b.branch(block)
    b.position_at_end(block)
    i, carried = b.phi(I64), [b.phi(value.type) for value in first]
    results = body(i, *carried)
    following = b.add(i, _const(I64, 1))
    for phi, start, end in zip(
        [i, *carried], [_const(I64, 0), *first], [following, *results], strict=True
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(end, b.block)
    b.cbranch(b.icmp_signed("<", following, count), block, after)
    b.position_at_end(after)
    return results


FINISH = ("residual", "inner", "logits", "plain")


def finish(target: Target, kind: str, scaled: bool) -> Callable[..., None]:
    """An intrinsic that turns the sums of a tile into what a matrix gives, row by row.

    Its arguments: rows; acc with its stride; scales and biases of the panel's columns; out and its
    stride; the activation function (`Job.ACTIVATION`). With y = acc * scale (if scaled) + bias:
    "plain" writes y, "inner" the activation function of y, "residual" adds y to what stands there,
    "logits" writes acc * scale.
    """
    lanes = target.lanes

    def write(b: Any, act: str, rows: Value, acc: Value, stride: Value, scale: Value, bias: Value,
              out: Value, out_stride: Value) -> None:  # fmt: skip
        m = _Math(b, lanes)

        def row(r: Value) -> list[Value]:
            for v in (0, 1):
                offset = _const(I64, 4 * lanes * v)
                y = _load(b, b.add(b.add(acc, b.mul(r, stride)), offset), m.floats)
                start = m.all(0) if kind == "logits" else _load(b, b.add(bias, offset), m.floats)
                if scaled:
                    y = m.call("fma", y, _load(b, b.add(scale, offset), m.floats), start)
                elif kind != "logits":
                    y = b.fadd(y, start)
                place = b.add(b.add(out, b.mul(r, out_stride)), offset)
                if kind == "residual":
                    y = b.fadd(y, _load(b, place, m.floats))
                if act:
                    y = getattr(m, act)(y)
                _store(b, y, place)
            return []

        _loop(b, rows, row)
        b.ret_void()

    def make(b: Any, *args: Value) -> None:
        *rest, which = args
        if kind != "inner":
            write(b, "", *rest)
            return
        acts = ("gelu_tanh", "gelu_erf", "relu")
        cases = [b.append_basic_block(act) for act in acts]
        switch = b.switch(which, cases[0])
        for number, (act, case) in enumerate(zip(acts, cases, strict=True)):
            switch.add_case(_const(I64, number), case)
            b.position_at_end(case)
            write(b, act, *rest)

    name = f"gpt2lab.finish.{kind}.{lanes}.{scaled}"
    result, generate = _shared(name, 8, VOID, make)

    @intrinsic
    def run(_: Any, rows: Any, acc: Any, stride: Any, scale: Any, bias: Any, out: Any,
            out_stride: Any, act: Any) -> Any:  # fmt: skip
        return result(*[i64] * 8), generate

    return run


def softmax(target: Target) -> Callable[..., float]:
    """An intrinsic: exp(scale * p - largest) over the first n of a row p, zeros up to `end`.

    Its arguments: p; n; end, a multiple of the lanes; the bits of the scale. Returns the sum.
    """
    lanes = target.lanes

    def make(b: Any, p: Value, n: Value, end: Value, scale: Value) -> None:
        m = _Math(b, lanes)
        factor = _splat(b, b.bitcast(b.trunc(scale, I32), F32), lanes)
        numbers = _const(ir.VectorType(I32, lanes), list(range(lanes)))
        limit = _splat(b, b.trunc(n, I32), lanes)
        vectors = b.sdiv(end, _const(I64, lanes))

        def scaled(i: Value) -> tuple[Value, Value, Value]:
            at = b.mul(i, _const(I64, lanes))
            ids = b.add(_splat(b, b.trunc(at, I32), lanes), numbers)
            place = b.add(p, b.mul(at, _const(I64, 4)))
            value = b.fmul(_load(b, place, m.floats), factor)
            return place, value, b.icmp_signed("<", ids, limit)

        def largest(i: Value, top: Value) -> list[Value]:
            _, value, inside = scaled(i)
            return [m.call("maxnum", top, b.select(inside, value, m.all(-3e38)))]

        [tops] = _loop(b, vectors, largest, m.all(-3e38))
        top = _splat(b, _fold(b, tops, lambda x, y: _call(b, "llvm.maxnum.f32", F32, x, y)), lanes)

        def weights(i: Value, total: Value) -> list[Value]:
            place, value, inside = scaled(i)
            e = b.select(inside, m.exp(b.fsub(value, top)), m.all(0))
            _store(b, e, place)
            return [b.fadd(total, e)]

        [totals] = _loop(b, vectors, weights, m.all(0))
        b.ret(_fold(b, totals, b.fadd))

    result, generate = _shared(f"gpt2lab.softmax.{lanes}", 4, F32, make)

    @intrinsic
    def run(_: Any, p: Any, n: Any, end: Any, scale: Any) -> Any:
        return result(*[i64] * 4), generate

    return run


def _fold(b: Any, vector: Value, pair: Callable[..., Value]) -> Value:
    """All lanes as one number, in halves."""
    lanes = [b.extract_element(vector, _const(I32, i)) for i in range(vector.type.count)]
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [pair(x, y) for x, y in zip(lanes[:half], lanes[half:], strict=True)]
    return lanes[0]


def pack_int8(target: Target) -> Callable[..., None]:
    """An intrinsic that writes a row as int8 in blocks, with a scale and a start each.

    Its arguments: the row; how many numbers; where the integers go, where scales and starts
    ([blocks][2], float32 and int32: what takes back the offset of the weights). It reads and writes
    whole blocks; what lies past the end counts as zero.
    """
    lanes, size = target.lanes, STEP["vnni"].block * STEP["vnni"].numbers

    def make(b: Any, x: Value, n: Value, out: Value, scales: Value) -> None:
        m = _Math(b, lanes)
        bytes_ = ir.VectorType(I8, lanes)
        numbers = _const(ir.VectorType(I32, lanes), list(range(lanes)))
        limit = _splat(b, b.trunc(n, I32), lanes)
        blocks = b.sdiv(b.add(n, _const(I64, size - 1)), _const(I64, size))

        def block(i: Value) -> list[Value]:
            at = b.mul(i, _const(I64, size))
            values, tops = [], _all(I32, lanes, 0)
            for v in range(size // lanes):
                begin = b.add(at, _const(I64, v * lanes))
                ids = b.add(_splat(b, b.trunc(begin, I32), lanes), numbers)
                value = _load(b, b.add(x, b.mul(begin, _const(I64, 4))), m.floats)
                value = b.select(b.icmp_signed("<", ids, limit), value, m.all(0))
                values.append(value)
                size_bits = b.and_(b.bitcast(value, m.ints), _all(I32, lanes, 0x7FFFFFFF))
                larger = b.icmp_signed(">", size_bits, tops)  # floats without sign sort as integers
                tops = b.select(larger, size_bits, tops)
            top = b.bitcast(_call(b, f"llvm.vector.reduce.smax.v{lanes}i32", I32, tops), F32)
            some = b.fcmp_ordered(">", top, _const(F32, 1e-30))
            inverse = b.select(some, b.fdiv(_const(F32, 127.0), top), _const(F32, 0.0))
            factor, total = _splat(b, inverse, lanes), _all(I32, lanes, 0)
            for v, value in enumerate(values):
                q = b.fptosi(m.call("rint", b.fmul(value, factor)), m.ints)
                total = b.add(total, q)
                place = b.add(b.add(out, at), _const(I64, v * lanes))
                _store(b, b.trunc(q, bytes_), place, 1)
            scale = b.add(scales, b.mul(i, _const(I64, 8)))
            _store(b, b.fdiv(top, _const(F32, 127.0)), scale)
            sum_ = _call(b, f"llvm.vector.reduce.add.v{lanes}i32", I32, total)
            start = b.mul(sum_, _const(I32, -128))
            _store(b, start, b.add(scale, _const(I64, 4)))
            return []

        _loop(b, blocks, block)
        b.ret_void()

    result, generate = _shared(f"gpt2lab.pack.{lanes}", 4, VOID, make)

    @intrinsic
    def run(_: Any, x: Any, n: Any, out: Any, scales: Any) -> Any:
        return result(*[i64] * 4), generate

    return run


# ---- Threads and memory.


@intrinsic
def prefetch(_: Any, address: Any) -> Any:
    """Ask for the cache line at an address."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        _prefetch(b, args[0])
        return context.get_dummy_value()

    return types.void(i64), generate


def _pointer(kind: Any) -> Callable[..., Any]:
    @intrinsic
    def pointer(_: Any, address: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
            return b.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(i64), generate

    return pointer


floats, ints, words = _pointer(types.float32), _pointer(types.int32), _pointer(types.int64)
halves, shorts, chars = _pointer(types.uint16), _pointer(types.int16), _pointer(types.int8)


@intrinsic
def bits(_: Any, x: Any) -> Any:
    """The 32 bits of a float32 as an int32."""
    return types.int32(types.float32), lambda c, b, s, a: b.bitcast(a[0], I32)


@intrinsic
def from_bits(_: Any, x: Any) -> Any:
    """The float32 of 32 bits."""
    return types.float32(types.int32), lambda c, b, s, a: b.bitcast(a[0], F32)


@intrinsic
def load_atomic(_: Any, address: Any) -> Any:
    """What stands there now."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        return b.load_atomic(b.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)

    return i64(i64), generate


@intrinsic
def store_atomic(_: Any, address: Any, value: Any) -> Any:
    """Write, after all that was written before."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        b.store_atomic(args[1], b.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(i64, i64), generate


@intrinsic
def add_atomic(_: Any, address: Any, value: Any) -> Any:
    """Add and return what stood there before."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        return b.atomic_rmw("add", b.inttoptr(args[0], I64.as_pointer()), args[1], "seq_cst")

    return i64(i64, i64), generate


@intrinsic
def swap_atomic(_: Any, address: Any, old: Any, new: Any) -> Any:
    """Write `new` where `old` stands; whether it stood there."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        place = b.inttoptr(args[0], I64.as_pointer())
        return b.extract_value(b.cmpxchg(place, args[1], args[2], "seq_cst"), 1)

    return types.boolean(i64, i64, i64), generate


@intrinsic
def relax(_: Any) -> Any:
    """Tell the core that this is a spin."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        machine = platform.machine().lower()
        if machine in ("x86_64", "amd64"):
            _call(b, "llvm.x86.sse2.pause", VOID)
        elif machine in ("aarch64", "arm64"):
            _call(b, "llvm.aarch64.hint", VOID, _const(I32, 1))
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def give_way(_: Any) -> Any:
    """Let another thread have the core."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        _call(b, "gpt2lab_yield", I32)  # the system's own, see `compiled`
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def call_at(_: Any, function: Any, control: Any, epoch: Any, me: Any) -> Any:
    """Call the function at an address: (control, epoch, me) -> nothing."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        kind = ir.FunctionType(VOID, [I64, I64, I64])
        b.call(b.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(i64, i64, i64, i64), generate
