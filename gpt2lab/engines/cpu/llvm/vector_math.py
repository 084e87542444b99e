"""Functions of float32 vectors: exp, and the activations of the MLP.

LLVM has no vector `exp`; polynomials of fused multiply-adds give the same bits on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from gpt2lab.engines.cpu.llvm.builder import F32, I32, Value, call, splat_const


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
