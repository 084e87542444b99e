"""Activation functions of other people's checkpoints, in NumPy; GPT-2's own is `reference.gelu`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_ERF_STEP, _ERF_END = 64, 6  # a grid of 1/64 up to 6, where erf is 1 - 2e-17
_ERF_GRID = np.arange(_ERF_STEP * _ERF_END + 1) / _ERF_STEP
_ERF_VALUES = np.array([math.erf(x) for x in _ERF_GRID])


def erf(x: Array) -> Array:
    """The error function to 2e-16: NumPy has none, and math.erf takes one number at a time.

    A Taylor step of at most 1/128 from the nearest grid point, where math.erf gave the value. The
    derivatives of erf are Hermite polynomials times its first, (2/sqrt(pi)) exp(-x^2).
    """
    size = np.minimum(np.abs(x).astype(np.float64), _ERF_END)
    nearest = np.rint(size * _ERF_STEP).astype(np.intp)
    a = _ERF_GRID[nearest]
    d = size - a
    previous, hermite, power, series = np.zeros_like(a), np.ones_like(a), d, d
    for n in range(1, 7):
        previous, hermite = hermite, 2 * a * hermite - 2 * (n - 1) * previous
        power = power * -d / (n + 1)
        series = series + hermite * power
    value = _ERF_VALUES[nearest] + 2 / math.sqrt(math.pi) * np.exp(-a * a) * series
    return np.copysign(value, x).astype(x.dtype)


def gelu_exact(x: Array) -> Array:
    """x times the normal distribution function: the GELU of nanoGPT, "gelu" in Hugging Face."""
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0)
