"""Where a running sum reaches a goal, without sorting."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from gpt2lab.engines.cpu.draw.numbers import PLAIN
from gpt2lab.engines.cpu.draw.space import FLOAT_SUMS
from gpt2lab.engines.cpu.layout import i64

TURNS = 80
MARGIN = 0.05
FEW_KEYS = 16


@njit(**FLOAT_SUMS)
def mass_over(keys: Any, masses: Any, n: int, key: float) -> float:
    """The masses of keys above one."""
    total = 0.0
    for i in range(n):
        own = masses[i]
        total += own if keys[i] > key else 0.0
    return total


@njit(**FLOAT_SUMS)
def _mass_and_count(
    keys: Any, masses: Any, n: int, key: float, low: float, high: float
) -> tuple[float, tuple[int, int]]:
    """The masses of keys above one; how many are above low up to it, and above it up to high."""
    total, lower, upper = 0.0, i64(0), i64(0)
    for i in range(n):
        own, mass = keys[i], masses[i]
        total += mass if own > key else 0.0
        lower += i64(1) if low < own and own <= key else i64(0)
        upper += i64(1) if key < own and own <= high else i64(0)
    return total, (lower, upper)


@njit(**PLAIN)
def _highest(keys: Any, n: int, limit: float, inclusive: bool) -> float:
    """The largest key below a limit, or up to it; -inf without one."""
    best = -np.inf
    for i in range(n):
        own = keys[i]
        if best < own and (own < limit or (inclusive and own == limit)):
            best = own
    return best


@njit(**PLAIN)
def highest_below(keys: Any, n: int, limit: float) -> float:
    """The largest key below a limit, -inf without one."""
    return _highest(keys, n, limit, False)


class Bracket(NamedTuple):
    """A range that holds all keys: above low, at most high. spare: memory for 64 float64."""

    low: Any
    high: Any
    spare: Any


@njit(**PLAIN)
def range_of(keys: Any, n: int, spare: Any) -> Any:
    """The bracket of some keys."""
    low, high = np.inf, -np.inf
    for i in range(n):
        low, high = min(low, keys[i]), max(high, keys[i])
    return Bracket(low - 1e-6 * (1 + abs(low)), high, spare)


@njit(**PLAIN)
def _last(keys: Any, masses: Any, n: int, above: float, goal: float, high: float) -> float:
    """`crossing` by walking down from `high`; above: the masses of what is above it."""
    key = _highest(keys, n, high, True)
    while True:
        for i in range(n):
            above += masses[i] if keys[i] == key else 0.0
        after = highest_below(keys, n, key)
        if above >= goal or after == -np.inf:
            return key
        key = after


@njit(**PLAIN)
def _last_of(spare: Any, count: int, above: float, goal: float) -> float:
    """`_last` of few keys; their masses lie behind them."""
    key = -np.inf
    for _ in range(count):
        best = i64(0)
        for i in range(1, count):
            best = i if spare[i] > spare[best] else best
        key, above = spare[best], above + spare[FEW_KEYS + best]
        if above >= goal:
            return key
        spare[best] = -np.inf
    return key


@njit(**PLAIN)
def crossing(keys: Any, masses: Any, n: int, base: float, goal: float, all_in: Any) -> float:
    """The key at which the masses, added up from the largest key down, reach the goal.

    base: what is above all of them. -inf where they never reach it.
    """
    low, high, spare = all_in.low, all_in.high, all_in.spare
    at_low, at_high = base + mass_over(keys, masses, n, low), base
    if not at_low >= goal or n == 0:
        return -np.inf
    inside = i64(n)
    for turn in range(TURNS):
        if inside <= FEW_KEYS:
            break
        part = (at_low - goal) / (at_low - at_high)  # where a straight line would reach the goal
        part += MARGIN if turn % 2 else -MARGIN  # to come near to it from both sides
        part = 0.5 if turn % 5 == 4 else min(max(part, 0.04), 0.96)
        middle = low + (high - low) * part
        if not low < middle < high:
            break
        mass, between = _mass_and_count(keys, masses, n, middle, low, high)
        if base + mass < goal:
            high, at_high, inside = middle, base + mass, between[0]
        else:
            low, at_low, inside = middle, base + mass, between[1]
    if inside > FEW_KEYS:  # equal ones
        return _last(keys, masses, n, at_high, goal, high)
    count = i64(0)
    for i in range(n):
        if low < keys[i] and keys[i] <= high:
            spare[count], spare[FEW_KEYS + count] = keys[i], masses[i]
            count += 1
    return _last_of(spare, count, at_high, goal)
