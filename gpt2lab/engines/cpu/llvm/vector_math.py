"""Functions of float32 vectors: exp, and the activations of the MLP.

LLVM has no vector `exp`; polynomials of fused multiply-adds give the same bits on every machine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir

from gpt2lab.engines.cpu.llvm.builder import F32, F64, I32, I64, Value, call, splat_const

LOG2_E = 1.4426950408889634
#: Of NumPy's float32 exp (numpy/_core/src/umath/loops_exponent_log.dispatch.c.src).
_MAGIC, _LN_2 = 1.5 * 2.0**23, (-6.93145752e-1, -1.42860677e-6)
_P = (
    5.082762527590693718096e-04, 6.757896990527504603057e-03, 5.114512081637298353406e-02,
    2.473615434895520810817e-01, 7.257664613233124478488e-01, 9.999999999980870924916e-01,
)  # fmt: skip
_Q = (2.159509375685829852307e-02, -2.742335390411667452936e-01, 1.0)


class VectorMath:
    """Functions of float32 vectors."""

    def __init__(self, b: Any, lanes: int) -> None:
        self.b, self.lanes = b, lanes
        self.floats, self.ints = ir.VectorType(F32, lanes), ir.VectorType(I32, lanes)

    def all(self, value: float) -> Value:
        """A number in every lane."""
        return splat_const(F32, self.lanes, float(np.float32(value)))

    def call(self, name: str, *values: Value) -> Value:
        """An LLVM intrinsic of vectors."""
        return call(self.b, f"llvm.{name}.v{self.lanes}f32", self.floats, *values)

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
        power = b.add(b.fptosi(whole, self.ints), splat_const(I32, self.lanes, 127))
        return b.fmul(p, b.bitcast(b.shl(power, splat_const(I32, self.lanes, 23)), self.floats))

    def divide(self, x: Value, divisor: Value, inverse: Value) -> Value:
        """x / divisor, rounded to the nearest, from the nearest float32 of 1 / divisor.

        A quotient within one unit of its last bit, corrected by its exact remainder, is the nearest
        (Markstein 1990); the first correction brings it that near. It takes half of the time of a
        division. Right for |x| from 2**-80 to 2**80 and 0; NaN for infinity.
        """
        quotient = self.b.fmul(x, inverse)
        for _ in range(2):
            rest = self.call("fma", self.b.fneg(quotient), divisor, x)
            quotient = self.call("fma", rest, inverse, quotient)
        return quotient

    def numpy_exp(self, x: Value) -> Value:
        """e to the x of -87 <= x <= 0 with the bits of NumPy's vectors; of less, e to the -87.

        NumPy has them for AVX2 and AVX-512; `drawer` compares them with the one that is installed.
        """
        b, low = self.b, self.all(-87)
        x = b.select(b.fcmp_ordered(">", x, low), x, low)
        shifted = b.fadd(b.fmul(x, self.all(LOG2_E)), self.all(_MAGIC))
        whole = b.fsub(shifted, self.all(_MAGIC))
        for part in _LN_2:
            x = self.call("fma", whole, self.all(part), x)
        p = b.fdiv(self.polynomial(x, *_P), self.polynomial(x, *_Q))
        power = b.shl(b.bitcast(shifted, self.ints), splat_const(I32, self.lanes, 23))
        return b.bitcast(b.add(b.bitcast(p, self.ints), power), self.floats)

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
        """max(x, 0)."""
        return self.call("maxnum", x, self.all(0))


class WideMath:
    """Functions of float64 vectors."""

    def __init__(self, b: Any, lanes: int) -> None:
        self.b, self.lanes, self.floats = b, lanes, ir.VectorType(F64, lanes)

    def all(self, value: float) -> Value:
        """A number in every lane."""
        return splat_const(F64, self.lanes, value)

    def call(self, name: str, *values: Value) -> Value:
        """An LLVM intrinsic of vectors."""
        return call(self.b, f"llvm.{name}.v{self.lanes}f64", self.floats, *values)

    def exp(self, x: Value) -> Value:
        """e to the x from -700 to 0, to 2e-13 of itself, and 1 at 0.

        1 + r (1 + r q) with |r| <= ln 2 / 2, and 2 to a whole number as bits of the exponent.
        """
        b, magic = self.b, self.all(1.5 * 2.0**52)
        shifted = self.call("fma", x, self.all(LOG2_E), magic)
        r = self.call("fma", b.fsub(shifted, magic), self.all(-math.log(2)), x)
        p = self.all(1 / math.factorial(10))
        for n in range(9, -1, -1):
            p = self.call("fma", p, r, self.all(1 / math.factorial(n)))
        ints = ir.VectorType(I64, self.lanes)
        power = b.shl(b.bitcast(shifted, ints), splat_const(I64, self.lanes, 52))
        return b.bitcast(b.add(b.bitcast(p, ints), power), self.floats)
