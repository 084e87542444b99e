"""The processors that leave few tokens: where each of them cuts. As in `generation.processors`.

Each function takes a `Space` and its number, and leaves y or the weights cut. False means that
rounding could change the result, so NumPy shall decide.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.draw.numbers import PLAIN, log
from gpt2lab.engines.cpu.draw.search import Bracket, crossing, highest_below, mass_over, range_of
from gpt2lab.engines.cpu.draw.space import (
    FLOAT_SUMS,
    LOWEST,
    Kernel,
    S,
    cut_below,
    passes,
    spare,
    tiny,
    tolerance,
)
from gpt2lab.engines.cpu.draw.table import BLOCK
from gpt2lab.engines.cpu.layout import f32, i64
from gpt2lab.engines.cpu.llvm.memory import double_bits

SPARSE = 16  # a first guess reads every 16th run of 16 numbers
NEAR_TOP = 2e-5  # weights above 1 less this may be equal in NumPy's rounding


@njit(**PLAIN)
def logarithm(x: float) -> float:
    """log of a positive normal number."""
    return log(x, double_bits(x))


@njit(**FLOAT_SUMS)
def _cut_distant(m: Any, low: float, slack: float) -> int:
    """Remove y with y - top below a number, the top never; how many are too near to it to tell."""
    top, unsure = f32(m.f[S.TOP]), i64(0)
    for i in range(m.s[S.N]):
        d = float(f32(m.y[i] - top))
        unsure += i64(1) if abs(d - low) <= slack and d != 0.0 else i64(0)
        m.y[i] = m.y[i] if d >= low or d == 0.0 else f32(-np.inf)
    return unsure


# ---- First guesses, from a part of the numbers.


@njit(**PLAIN)
def _sample_y(m: Any) -> int:
    """Runs of 16 of y as keys, with a mass of 1 each; how many."""
    n = i64(0)
    for run in range(0, m.s[S.N] // 16, SPARSE):
        for j in range(16):
            m.keys[n + j] = m.y[run * 16 + j]
        n += 16
    return n


@njit(**FLOAT_SUMS)
def _count_from(keys: Any, n: int, low: float) -> int:
    """How many keys are `low` or more."""
    total = i64(0)
    for i in range(n):
        total += i64(1) if keys[i] >= low else i64(0)
    return total


@njit(**PLAIN)
def _low_for(m: Any, k: int) -> float:
    """A number that about k of y, or a few more, are likely not to be below."""
    n, wanted = _sample_y(m), k / SPARSE
    wanted += 3 * np.sqrt(wanted) + 3
    if n < wanted:
        return LOWEST
    reach = 0.0625
    while _count_from(m.keys, n, m.f[S.TOP] - reach) < wanted:
        reach *= 2
        if reach > 1e6:
            return LOWEST
    low, high = m.f[S.TOP] - reach, m.f[S.TOP] - reach / 2
    for _ in range(5):
        middle = (low + high) / 2
        if _count_from(m.keys, n, middle) < wanted:
            high = middle
        else:
            low = middle
    return low


@njit(**FLOAT_SUMS)
def _tail(keys: Any, n: int, limit: float) -> tuple[float, float]:
    """The sums of keys below a limit, and of their squares."""
    total, squares = 0.0, 0.0
    for i in range(n):
        key = keys[i] if keys[i] < limit else 0.0
        total += key
        squares += key * key
    return total, squares


@njit(**PLAIN)
def _guess_window(m: Any, goal: float, low: float) -> tuple[float, float]:
    """Weights below which the others add up to about `goal`: from and to; all from `low` if unsure.

    Tokens of the tail weigh little, so a sixteenth of them tells what all of them weigh.
    """
    n = i64(0)
    for run in range(0, m.s[S.N] // 16, SPARSE):
        for j in range(16):
            m.keys[n + j] = m.w[run * 16 + j]
        n += 16
    least, most = low, 1.0
    while least < 0.9 * most:
        middle = np.sqrt(least * most)
        if _tail(m.keys, n, middle)[0] * SPARSE < goal:
            least = middle
        else:
            most = middle
    total, squares = _tail(m.keys, n, most)
    before, error = _tail(m.keys, n, 0.9 * most)[0], 4 * SPARSE * np.sqrt(squares)
    slope = (total - before) * SPARSE / (0.1 * most)  # mass for each unit of weight
    if error > goal / 2 or slope <= 0:
        return low, np.inf
    middle, width = most - (total * SPARSE - goal) / slope, error / slope + 0.01 * most
    return (max(low, middle - width), middle + width) if width < 0.5 * most else (low, np.inf)


# ---- Top-k.


@njit(**PLAIN)
def _finite_keys(m: Any, count: int) -> None:
    for j in range(count):
        m.keys[j], m.masses[j] = m.y[m.chosen[j]], 1.0


@cache
def top_k_kernel(target: Target) -> Kernel:
    """top_k(space, k)."""
    p = passes(target)
    gather, settle = p.gather, p.settle

    @njit(**PLAIN)
    def top_k(m: Any, k: int) -> bool:
        """`top_k`: ties with the k-th stay."""
        low = _low_for(m, k) if k < m.s[S.N] else LOWEST
        count = gather(m, low)
        if count < k and low > LOWEST:
            count = gather(m, LOWEST)
        if count >= k:
            _finite_keys(m, count)
            low = crossing(
                m.keys, m.masses, count, 0.0, float(k), range_of(m.keys, count, spare(m))
            )
            if tiny(low):
                return False
            cut_below(m, f32(low))
        settle(m)
        return True

    return top_k


# ---- Top-p.


class _Border(NamedTuple):
    """A weight at which top-p cuts: what is above, how many are equal, how many of these stay."""

    weight: Any
    above: Any
    equal: Any
    stay: Any


@njit(**PLAIN)
def _weighed_border(m: Any, count: int, goal: float, low: float, high: float) -> Any:
    """The border among the weights listed, which what is above them (TOTAL) leads to."""
    for j in range(count):
        m.keys[j] = m.w[m.chosen[j]]
    base = m.f[S.TOTAL]
    all_in = Bracket(low * (1 - 1e-9), min(high, 1 + 1e-9), spare(m))
    border = crossing(m.keys, m.keys, count, base, goal, all_in)
    if border == -np.inf:
        return _Border(border, base, i64(0), i64(0))
    over = base + mass_over(m.keys, m.keys, count, border)
    equal = i64(0)
    for j in range(count):
        equal += m.keys[j] == border
    stay = min(max(i64(np.ceil((goal - over) / border)), i64(1)), equal)
    return _Border(border, over, equal, stay)


@njit(**PLAIN)
def _one_logit(m: Any, count: int, border: float) -> bool:
    """Whether equal weights at the border are of equal logits, and no rounding makes more equal."""
    top, d, first = f32(m.f[S.TOP]), f32(0), True
    for j in range(count):
        own = f32(m.y[m.chosen[j]] - top)
        if border > 1 - NEAR_TOP and m.keys[j] > 1 - NEAR_TOP and own != 0:
            return False
        if m.keys[j] == border:
            if not first and own != d:
                return False
            d, first = own, False
    return True


@njit(**PLAIN)
def _keep_from(m: Any, count: int, b: Any) -> None:
    """Cut at a border: of equal weights those of highest id stay. Complete TOTAL and sums."""
    border, passed, first = b.weight, b.equal - b.stay, i64(-1)
    for j in range(count):
        if m.keys[j] == border:
            first = m.chosen[j] if passed == 0 else first
            passed -= 1
    m.f[S.CUT], m.s[S.CUT_ID] = border, first
    j = i64(0)
    while j < count:  # a block at a time; no branch depends on a weight
        block, mass = m.chosen[j] // BLOCK, 0.0
        while j < count and m.chosen[j] < (block + 1) * BLOCK:
            own = m.keys[j]
            mass += own if (own > border) | ((own == border) & (m.chosen[j] >= first)) else 0.0
            j += 1
        m.sums[block] += mass
        m.f[S.TOTAL] += mass


@cache
def top_p_kernel(target: Target) -> Kernel:
    """top_p(space, p)."""
    fns = passes(target)
    weigh_all, gather_window = fns.weigh_all, fns.gather_window

    @njit(**PLAIN)
    def top_p(m: Any, p: float) -> bool:
        """`top_p`: leaves its cut in the weights; `cut_weights` takes it over to y."""
        weigh_all(m)
        total = m.f[S.TOTAL]
        slack, goal = tolerance(m) * total, p * total
        lowest = (1 - p) / m.s[S.N] * total * (1 - 1e-9)
        low, high = _guess_window(m, total - goal, lowest)
        count = gather_window(m, low, high)
        b = _weighed_border(m, count, goal, low, high)
        if high < np.inf and (b.weight == -np.inf or m.f[S.TOTAL] >= goal):
            count = gather_window(m, lowest, np.inf)
            b = _weighed_border(m, count, goal, lowest, np.inf)
        before = b.above + (b.stay - 1) * b.weight
        if b.weight == -np.inf or not before < goal - slack or not before + b.weight > goal + slack:
            return False
        if not _one_logit(m, count, b.weight):
            return False
        _keep_from(m, count, b)
        return True

    return top_p


@njit(**PLAIN)
def kept(m: Any, i: int) -> bool:
    """Whether the cut in the weights leaves the number at a place."""
    w, cut = m.w[i], m.f[S.CUT]
    return w > cut or (w == cut and i >= m.s[S.CUT_ID])


@njit(**PLAIN)
def cut_weights(m: Any) -> None:
    """Remove from y what the cut in the weights removes."""
    for i in range(m.s[S.N]):
        if not kept(m, i):
            m.y[i] = f32(-np.inf)


# ---- By probability.


@cache
def probability_kernels(target: Target) -> tuple[Kernel, Kernel]:
    """relative and absolute: min-p; epsilon and eta."""
    p = passes(target)
    weigh_all, settle = p.weigh_all, p.settle

    @njit(**PLAIN)
    def relative(m: Any, number: float) -> bool:
        """`min_p`: no sum is needed, as the most probable has a weight of 1."""
        unsure = _cut_distant(m, logarithm(number), 1e-11)
        settle(m)
        return unsure == 0

    @njit(**PLAIN)
    def absolute(m: Any, number: float, eta: bool) -> bool:
        """`epsilon_cutoff`, or `eta_cutoff`."""
        weigh_all(m)
        low, total = logarithm(number), logarithm(m.f[S.TOTAL])
        if eta:
            entropy = total - m.f[S.FIRST] / m.f[S.TOTAL]
            low = min(low, low / 2 - entropy)
        unsure = _cut_distant(m, low + total, 1e-9)
        settle(m)
        return unsure == 0

    return relative, absolute


@cache
def typical_kernel(target: Target) -> Kernel:
    """typical_p(space, p)."""
    p = passes(target)
    weigh_all, gather, find_top, settle = p.weigh_all, p.gather, p.find_top, p.settle

    @njit(**PLAIN)
    def typical_p(m: Any, number: float) -> bool:
        """`typical_p`: the keys are distances from the entropy, the nearest one the largest."""
        weigh_all(m)
        total, centre, top = m.f[S.TOTAL], m.f[S.FIRST] / m.f[S.TOTAL], f32(m.f[S.TOP])
        count, goal, slack = gather(m, LOWEST), number * total, tolerance(m) * total
        for j in range(count):
            place = m.chosen[j]
            m.keys[j], m.masses[j] = -abs(float(f32(m.y[place] - top)) - centre), m.w[place]
        border = crossing(m.keys, m.masses, count, 0.0, goal, range_of(m.keys, count, spare(m)))
        if border == -np.inf or not _typical_sure(m, count, border, centre, goal, slack):
            return False
        for j in range(count):
            if m.keys[j] < border:
                m.y[m.chosen[j]] = f32(-np.inf)
        find_top(m)
        settle(m)
        return True

    return typical_p


@njit(**PLAIN)
def _typical_sure(
    m: Any, count: int, border: float, centre: float, goal: float, slack: float
) -> bool:
    """Whether no rounding moves the border: neither in the sums nor in the distances."""
    d, first, top = f32(0), True, f32(m.f[S.TOP])
    for j in range(count):
        if abs(m.keys[j] - border) <= 1e-9:
            own = f32(m.y[m.chosen[j]] - top)
            if not first and own != d:
                return False
            d, first = own, False
    over = mass_over(m.keys, m.masses, count, border)
    upto = mass_over(m.keys, m.masses, count, highest_below(m.keys, count, border))
    return over < goal - slack and upto > goal + slack
