"""Numbers that the compiled draw needs one at a time: the random stream, the logarithm."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from gpt2lab.engines.cpu.layout import i64
from gpt2lab.engines.cpu.llvm.memory import double_of

u64: Any = np.uint64
PLAIN = {"nogil": True, "error_model": "numpy"}

_HALF, _LOW = u64(32), u64(0xFFFFFFFF)
_MULTIPLY = u64(0xD2E7470EE14C6C93), u64(0xCA5A826395121157)
_WEYL = u64(0x9E3779B97F4A7C15), u64(0xBB67AE8584CAA73B)
_LN_2 = float(np.log(2.0))


@njit(**PLAIN)
def _upper(a: int, b: int) -> int:
    """The upper 64 bits of the product of two 64-bit numbers."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a_high * b_low + (a_low * b_low >> _HALF)
    other = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _HALF) + (other >> _HALF)


@njit(**PLAIN)
def uniform(seed: int, index: int, step: int) -> float:
    """`sampler.stream(seed, index, step).random()`: Philox 4 x 64 with ten rounds."""
    k0, k1 = u64(seed), u64(index)
    c0, c1, c2, c3 = u64(1), u64(step), u64(0), u64(0)
    for _ in range(10):
        h0, l0 = _upper(_MULTIPLY[0], c0), _MULTIPLY[0] * c0
        h1, l1 = _upper(_MULTIPLY[1], c2), _MULTIPLY[1] * c2
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return float(c0 >> u64(11)) * 2.0**-53


@njit(**PLAIN)
def log(x: float, bits: int) -> float:
    """The natural logarithm of a positive normal number, to 1e-15 of max(1, itself).

    bits: those of x. Twice the series of artanh((m - 1) / (m + 1)), with m from 0.7 to 1.4.
    """
    power = (bits >> 52) - 1023
    m = double_of(bits & i64(0xFFFFFFFFFFFFF) | i64(1023) << 52)
    if m > 1.4142135623730951:
        m, power = m / 2, power + 1
    s = (m - 1) / (m + 1)
    square, total = s * s, 0.0
    for n in range(12, -1, -1):
        total = total * square + 1.0 / (2 * n + 1)
    return power * _LN_2 + 2 * s * total
