"""Where a running sum reaches a goal, without sorting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from gpt2lab.engines.cpu.draw.numbers import PLAIN
from gpt2lab.engines.cpu.draw.space import FLOAT_SUMS
from gpt2lab.engines.cpu.layout import i64

HALVINGS = 80
MARGIN = 0.05
EXTREMES = {**PLAIN, "fastmath": {"nnan", "nsz"}}  # keys are numbers


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


@njit(**EXTREMES)
def _highest_upto(keys: Any, n: int, limit: float) -> float:
    """The largest key up to a limit, -inf without one."""
    best = -np.inf
    for i in range(n):
        own = keys[i] if keys[i] <= limit else -np.inf
        best = own if own > best else best
    return best


@njit(**EXTREMES)
def highest_below(keys: Any, n: int, limit: float) -> float:
    """The largest key below a limit, -inf without one."""
    best = -np.inf
    for i in range(n):
        own = keys[i] if keys[i] < limit else -np.inf
        best = own if own > best else best
    return best


@njit(**EXTREMES)
def _lowest(keys: Any, n: int) -> float:
    """The smallest key."""
    best = keys[0]
    for i in range(n):
        best = keys[i] if keys[i] < best else best
    return best


@njit(**PLAIN)
def crossing(keys: Any, masses: Any, n: int, base: float, goal: float) -> float:
    """The key at which the masses, added up from the largest key down, reach the goal.

    base: what is above all of them. -inf where they never reach it.
    """
    if base + mass_over(keys, masses, n, -np.inf) < goal:
        return -np.inf
    high, low = _highest_upto(keys, n, np.inf), _lowest(keys, n)
    at_low, at_high = base + mass_over(keys, masses, n, low), base
    if at_low < goal:
        return low
    for turn in range(HALVINGS):
        part = (at_low - goal) / (at_low - at_high)  # where a straight line would reach the goal
        part += MARGIN if turn % 2 else -MARGIN  # to come near to it from both sides
        part = 0.5 if turn % 5 == 4 else min(max(part, 0.04), 0.96)
        middle = low + (high - low) * part
        if not low < middle < high:
            break
        mass, between = _mass_and_count(keys, masses, n, middle, low, high)
        if base + mass < goal:
            high, at_high = middle, base + mass
            few = between[0] <= 4
        else:
            low, at_low = middle, base + mass
            few = between[1] <= 4
        if few:
            break
    key = _highest_upto(keys, n, high)
    while True:
        after = highest_below(keys, n, key)
        if base + mass_over(keys, masses, n, after) >= goal or after == -np.inf:
            return key
        key = after
