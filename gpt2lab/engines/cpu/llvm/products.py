"""Products: total + weights * activations for one step along K, the one place per instruction set.

A product's name is a key of `layout.STEP`; `cpu_features.Target` says which one serves a dtype.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import OF_INT8, OF_INT16, STEP
from gpt2lab.engines.cpu.llvm.builder import (
    F32,
    I8,
    I16,
    I32,
    I64,
    Value,
    call,
    const,
    load,
    pick,
    splat,
    splat_const,
)


class Product:
    """How one step is multiplied: load the weights once, then use them for every row."""

    def __init__(self, b: Any, target: Target, name: str) -> None:
        self.b, self.name, self.lanes, self.x86 = b, name, target.lanes, target.x86
        self.floats = ir.VectorType(F32, target.lanes)
        self.ints = ir.VectorType(I32, target.lanes)
        self.exact = name in (*OF_INT8, *OF_INT16)  # sums are int32
        self.sums = self.ints if self.exact else self.floats
        self.zero = (
            splat_const(I32, target.lanes, 0) if self.exact else splat_const(F32, target.lanes, 0.0)
        )

    def fma(self, x: Value, w: Value, total: Value) -> Value:
        """total + x * w, rounded once."""
        return call(self.b, f"llvm.fma.v{self.lanes}f32", self.floats, x, w, total)

    def weights(self, address: Value) -> Any:
        """One vector of weights, as the product wants it."""
        b, n = self.b, self.lanes
        if self.name == "float":
            return load(b, address, self.floats)
        if self.name == "byte":
            return b.sitofp(load(b, address, ir.VectorType(I8, n), 1), self.floats)
        if self.name == "int16":
            return b.sext(load(b, address, ir.VectorType(I8, 2 * n), 1), ir.VectorType(I16, 2 * n))
        words = load(b, address, self.ints)
        if self.name == "shift":  # a bfloat16 is the upper half of a float32
            low = b.shl(words, splat_const(I32, n, 16))
            high = b.and_(words, splat_const(I32, n, -65536))
            return b.bitcast(low, self.floats), b.bitcast(high, self.floats)
        if self.name == "nibbles":
            return self._nibbles(words, 2, 0x0F0F0F0F)
        if self.name == "nibbles16":
            shorts, eight = ir.VectorType(I16, 2 * n), splat_const(I16, 2 * n, 8)
            parts = self._nibbles(words, 4, 0x000F000F)
            return [b.sub(b.bitcast(part, shorts), eight) for part in parts]
        return words

    def _nibbles(self, words: Value, count: int, mask: int) -> list[Value]:
        """What each of the lowest `count` nibbles and those a multiple of `count` above it hold."""
        b, n, parts = self.b, self.lanes, []
        for i in range(count):
            shifted = b.lshr(words, splat_const(I32, n, 4 * i)) if i else words
            parts.append(b.and_(shifted, splat_const(I32, n, mask)))
        return parts

    def column_scales(self, address: Value) -> Value:
        """The scales of a block's columns, bfloat16, as float32."""
        b, n = self.b, self.lanes
        raw = b.zext(load(b, address, ir.VectorType(I16, n), 2), self.ints)
        return b.bitcast(b.shl(raw, splat_const(I32, n, 16)), self.floats)

    def activation(self, address: Value) -> Any:
        """One word of activations in every lane."""
        b, n = self.b, self.lanes
        if self.name in ("float", "byte"):
            return splat(b, load(b, address, F32), n)
        if self.name == "shift":
            second = b.add(address, const(I64, 4))
            return splat(b, load(b, address, F32), n), splat(b, load(b, second, F32), n)
        words = STEP[self.name].activation_bytes // 4
        parts = [splat(b, load(b, b.add(address, const(I64, 4 * i)), I32), n) for i in range(words)]
        return parts if words > 1 else parts[0]

    def add(self, total: Value, w: Any, x: Any) -> Value:
        """total + w * x."""
        b, n = self.b, self.lanes
        if self.name in ("float", "byte"):
            return self.fma(x, w, total)
        if self.name == "shift":
            return self.fma(x[1], w[1], self.fma(x[0], w[0], total))
        if self.name == "pairs":
            return call(b, "llvm.x86.avx512bf16.dpbf16ps.512", self.floats, total, w, x)
        if self.name == "vnni":
            return self._vpdpbusd(total, w, x)
        if self.name == "nibbles":
            for part, activations in zip(w, x, strict=True):
                total = self._vpdpbusd(total, part, activations)
            return total
        if self.name == "nibbles16":
            for part, activations in zip(w, x, strict=True):
                total = self._int16(total, part, b.bitcast(activations, part.type))
            return total
        if self.name == "dot":
            return self._dot(total, w, x)
        return self._int16(total, w, b.bitcast(x, ir.VectorType(I16, 2 * n)))

    def _vpdpbusd(self, total: Value, w: Value, x: Value) -> Value:
        """total + w * x, four bytes a lane: w without sign, x with one."""
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        return call(self.b, name, self.ints, total, w, x)

    def _dot(self, total: Value, w: Value, x: Value) -> Value:
        """Arm's signed dot product works on four lanes."""
        b, parts = self.b, []
        four, bytes_ = ir.VectorType(I32, 4), ir.VectorType(I8, 16)
        for start in range(0, self.lanes, 4):
            t, wv, xv = (pick(b, v, range(start, start + 4)) for v in (total, w, x))
            name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
            parts.append(call(b, name, four, t, b.bitcast(wv, bytes_), b.bitcast(xv, bytes_)))
        mask = const(ir.VectorType(I32, 8), list(range(8)))
        return b.shuffle_vector(parts[0], parts[1], mask)

    def _int16(self, total: Value, w: Value, x: Value) -> Value:
        b, n = self.b, self.lanes
        if self.x86:
            name = "llvm.x86.avx2.pmadd.wd" if n == 8 else "llvm.x86.avx512.pmaddw.d.512"
            return b.add(total, call(b, name, self.ints, w, x))
        for first in (0, 1):
            lanes = range(first, 2 * n, 2)
            wide = (b.sext(pick(b, v, lanes), self.ints) for v in (w, x))
            total = b.add(total, b.mul(*wide))
        return total
