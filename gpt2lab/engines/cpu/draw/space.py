"""A thread's memory while it draws for one row, and the passes over it.

y: [P] the logits as far as the settings have changed them, -inf where removed and past the end.
w: [P] exp(y - top) in float64, and sums: [P / BLOCK] of its blocks, once `weigh_all` has run.
ids: [P] which tokens y is of, once few are left (`settle`). chosen, keys, masses: [P] some of them,
for a search. marks: [P] zeros between calls. bits: [P / UNIT]. f, s: the state, by `DrawState`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from gpt2lab.engines.cpu import layout
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.draw.numbers import PLAIN
from gpt2lab.engines.cpu.draw.table import BLOCK, HEADER, UNIT
from gpt2lab.engines.cpu.layout import constants, f32, i64
from gpt2lab.engines.cpu.llvm.memory import bits as bits_of
from gpt2lab.engines.cpu.llvm.memory import double_bits, doubles, floats, words
from gpt2lab.engines.cpu.llvm.passes import above, at_least, largest, lowest_bit, weigh

FLOAT_SUMS = {**PLAIN, "fastmath": {"reassoc", "nsz"}}
Y, W, CHOSEN, KEYS, MASSES, BITS = 0, 4, 12, 20, 28, 52  # bytes before a part for each of P
FEW = 4096  # tokens that are worth a list of their own
LOWEST = float(np.finfo(np.float32).min)


class DrawState(layout._Words):
    """The words of a row's state; the first ones hold float64."""

    TOP = 0  # the largest of y
    TOTAL = 1  # the sum of the weights that are left
    FIRST = 2  # the sum of w (y - top)
    CUT = 3  # weights below it are out, and of equal ones those of ids below CUT_ID
    N = 5  # how many numbers y has, to its end
    BLOCKS = 6
    LISTED = 7  # whether ids says which tokens
    WEIGHED = 8  # whether w and sums are those of y
    CUT_ID = 9


S = constants(DrawState)
Kernel = Callable[..., Any]


class Space(NamedTuple):
    """Pointers to the parts of the memory (see the module), and where it begins."""

    y: Any
    w: Any
    chosen: Any
    keys: Any
    masses: Any
    ids: Any
    marks: Any
    bits: Any
    sums: Any
    f: Any
    s: Any
    at: Any
    padded: Any


@njit(**PLAIN)
def space_at(own: int, padded: int) -> Any:
    """The memory of a thread."""
    at = own + HEADER
    return Space(
        floats(at),
        doubles(at + W * padded),
        words(at + CHOSEN * padded),
        doubles(at + KEYS * padded),
        doubles(at + MASSES * padded),
        words(at + 36 * padded),
        words(at + 44 * padded),
        words(at + BITS * padded),
        doubles(at + BITS * padded + padded // 8),
        doubles(own),
        words(own),
        own,
        padded,
    )


@njit(**PLAIN)
def part(m: Any, offset: int) -> int:
    """The address of a part, by the bytes for each padded logit before it."""
    return m.at + HEADER + offset * m.padded


@njit(**PLAIN)
def spare(m: Any) -> Any:
    """Memory for 64 float64, where `bits` is."""
    return doubles(part(m, BITS))


@njit(**PLAIN)
def start(m: Any, n: int, top: float) -> None:
    """Begin with n numbers, which are in y."""
    m.s[S.N], m.s[S.BLOCKS] = n, (n + BLOCK - 1) // BLOCK
    m.s[S.LISTED] = m.s[S.WEIGHED] = 0
    m.f[S.TOP] = top


@njit(**PLAIN)
def tolerance(m: Any) -> float:
    """How far rounding may move a sum of weights, here or in NumPy, as a part of all of them."""
    return 1e-12 + m.s[S.N] * 2.0**-51


@njit(**PLAIN)
def tiny(y: float) -> bool:
    """Whether a quotient is so small that it may differ from NumPy's (`VectorMath.divide`)."""
    return 0 < abs(y) < 1e-12


@njit(**FLOAT_SUMS)
def cut_below(m: Any, low: float) -> None:
    """Remove what is below a number."""
    for i in range(m.s[S.N]):
        m.y[i] = m.y[i] if m.y[i] >= low else f32(-np.inf)


class Passes(NamedTuple):
    """The passes of one target as functions of a `Space`."""

    find_top: Kernel
    weigh_all: Kernel
    gather: Kernel
    gather_window: Kernel
    settle: Kernel


@njit(**PLAIN)
def list_bits(m: Any) -> int:
    """Write the places of the bits that are set, in order; how many."""
    n = i64(0)
    for unit in range(m.s[S.BLOCKS] * (BLOCK // UNIT)):
        word = m.bits[unit]
        while word != 0:
            m.chosen[n] = unit * UNIT + lowest_bit(word)
            word &= word - 1
            n += 1
    return n


@njit(**PLAIN)
def count_bits(m: Any) -> int:
    """How many bits are set."""
    n = i64(0)
    for unit in range(m.s[S.BLOCKS] * (BLOCK // UNIT)):
        word = m.bits[unit]
        while word != 0:
            word &= word - 1
            n += 1
            if n > FEW:
                return n
    return n


@cache
def _passes_over_weights(target: Target) -> tuple[Kernel, Kernel, Kernel]:
    largest_of, weights, over = largest(target), weigh(target), above(target)
    units = BLOCK // UNIT

    @njit(**PLAIN)
    def find_top(m: Any) -> None:
        """Find TOP; NaN where a number is NaN or infinity."""
        m.f[S.TOP] = largest_of(part(m, Y), m.s[S.BLOCKS] * units)

    @njit(**PLAIN)
    def weigh_all(m: Any) -> None:
        """Compute the weights, and their sums; nothing is cut."""
        top, out = i64(bits_of(f32(m.f[S.TOP]))), m.at + 8 * 14
        m.f[S.TOTAL] = m.f[S.FIRST] = 0.0
        for b in range(m.s[S.BLOCKS]):
            y, w = part(m, Y) + 4 * BLOCK * b, part(m, W) + 8 * BLOCK * b
            weights(y, i64(units), top, w, out)
            m.sums[b] = m.f[14]
            m.f[S.TOTAL] += m.f[14]
            m.f[S.FIRST] += m.f[15]
        m.f[S.CUT], m.s[S.CUT_ID], m.s[S.WEIGHED] = -1.0, 0, 1

    @njit(**PLAIN)
    def gather_window(m: Any, low: float, high: float) -> int:
        """List the weights from low to high; TOTAL and sums become those of what is above."""
        out = m.at + 8 * 14
        m.f[S.TOTAL] = 0.0
        for b in range(m.s[S.BLOCKS]):
            over(
                part(m, W) + 8 * BLOCK * b, i64(units), double_bits(low), double_bits(high),
                part(m, BITS) + BLOCK // UNIT * 8 * b, out,
            )  # fmt: skip
            m.sums[b] = m.f[14]
            m.f[S.TOTAL] += m.f[14]
        return list_bits(m)

    return find_top, weigh_all, gather_window


@cache
def _passes_over_bits(target: Target) -> tuple[Kernel, Kernel]:
    from_, units = at_least(target), BLOCK // UNIT

    @njit(**PLAIN)
    def gather(m: Any, low: float) -> int:
        """List the places of all y of `low` or more in `chosen`; how many."""
        bits = i64(bits_of(f32(low)))
        from_(part(m, Y), m.s[S.BLOCKS] * units, bits, part(m, BITS))
        return list_bits(m)

    @njit(**PLAIN)
    def settle(m: Any) -> None:
        """After y was cut: list what is left, if that is little."""
        m.s[S.WEIGHED] = 0
        from_(part(m, Y), m.s[S.BLOCKS] * units, i64(bits_of(f32(LOWEST))), part(m, BITS))
        if count_bits(m) > FEW:
            return
        n = list_bits(m)
        for j in range(n):
            place = m.chosen[j]
            m.y[j] = m.y[place]
            m.ids[j] = m.ids[place] if m.s[S.LISTED] else place
        m.s[S.N], m.s[S.BLOCKS], m.s[S.LISTED] = n, (n + BLOCK - 1) // BLOCK, 1
        for j in range(n, m.s[S.BLOCKS] * BLOCK):
            m.y[j] = f32(-np.inf)

    return gather, settle


def passes(target: Target) -> Passes:
    """The functions of `Passes`."""
    find_top, weigh_all, gather_window = _passes_over_weights(target)
    gather, settle = _passes_over_bits(target)
    return Passes(find_top, weigh_all, gather, gather_window, settle)
