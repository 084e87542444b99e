"""Top-p whose sums are float32, as in TensorFlow: they are added up in the order of NumPy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.draw.numbers import PLAIN
from gpt2lab.engines.cpu.draw.space import (
    KEYS,
    LOWEST,
    MASSES,
    Kernel,
    W,
    cut_below,
    part,
    passes,
    tiny,
)
from gpt2lab.engines.cpu.draw.table import UNIT
from gpt2lab.engines.cpu.layout import f32, i32, i64
from gpt2lab.engines.cpu.llvm.memory import bits, floats, from_bits, naturals
from gpt2lab.engines.cpu.llvm.passes import exp_rounded

SIGN, LOW_HALF = i64(0x80000000), i64(0xFFFFFFFF)
DIGITS = 11  # bits that one pass of the sort reads


@njit(**PLAIN)
def _sort_falling(source: Any, other: Any, counts: Any, n: int) -> None:
    """Sort n keys from the largest down; they end in `other`, after three passes."""
    size = i64(1) << DIGITS
    for shift in range(0, 33, DIGITS):
        for digit in range(size):
            counts[digit] = 0
        for i in range(n):
            counts[size - 1 - ((i64(source[i]) >> shift) & (size - 1))] += 1
        total = i64(0)
        for digit in range(size):
            own = i64(counts[digit])
            counts[digit] = total
            total += own
        for i in range(n):
            digit = size - 1 - ((i64(source[i]) >> shift) & (size - 1))
            other[i64(counts[digit])] = source[i]
            counts[digit] += 1
        source, other = other, source


@njit(**PLAIN)
def _fall(m: Any, count: int) -> Any:
    """The logits listed, from the largest down, at the beginning of w; filled up to a unit."""
    n = m.padded
    source = naturals(part(m, KEYS))
    other = naturals(part(m, MASSES))
    for j in range(count):
        own = i64(bits(m.y[m.chosen[j]]))
        source[j] = np.uint32((~own & LOW_HALF) if own < 0 else own + SIGN)
    _sort_falling(source, other, naturals(part(m, MASSES) + 4 * n), count)
    falling = floats(part(m, W))
    for j in range(count):
        key = i64(other[j])
        falling[j] = from_bits(i32(key - SIGN if key >= SIGN else ~key))
    for j in range(count, -(-count // UNIT) * UNIT):
        falling[j] = f32(-np.inf)
    return falling


@cache
def rounded_kernel(target: Target) -> Kernel:
    """top_p_rounded(space, p, or_k): `top_p_narrow`, or `top_p_or_k` where p is on."""
    fns, exp = passes(target), exp_rounded(target)
    gather, settle = fns.gather, fns.settle

    @njit(**PLAIN)
    def top_p_rounded(m: Any, number: float, or_k: bool) -> bool:
        """Add up float32 probabilities in float32, from the largest down."""
        count, n, p = gather(m, LOWEST), m.padded, f32(number)
        falling = _fall(m, count)
        units, top = -(-count // UNIT), i64(bits(falling[0]))
        exp(part(m, W), units, top, part(m, W) + 4 * n)
        total = 0.0
        for j in range(count):
            total += falling[n + j]
        whole = f32(total)
        if f32(total * (1 - 1e-12)) != whole or f32(total * (1 + 1e-12)) != whole:
            return False
        mass, last = f32(0), i64(0)
        for j in range(count):
            if or_k and not mass < p:
                break
            mass += falling[n + j] / whole
            if not or_k and not mass <= p:
                break
            last = j
        if tiny(falling[last]):
            return False
        cut_below(m, min(falling[last], f32(1000)) if or_k else falling[last])
        settle(m)
        return True

    return top_p_rounded
