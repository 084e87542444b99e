"""Logits to integer frequencies, by the same arithmetic on every machine.

An arithmetic coder needs the same integers when it decodes as when it encoded. `exp` of NumPy and
of C libraries differs between processors in the last bit, so it is not called: the distance of a
logit from the largest, in steps of 1/256 nat, is looked up in a table of integers that were made
with integers. What remains are a subtraction, a multiplication by a power of two and a truncation,
which IEEE 754 defines to the bit.

The rounding to a step costs about 1e-6 bits a token, the smallest frequency of 1 about 3e-4.

Shapes: B streams, V vocabulary.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from gpt2lab.engines.wanted import check_logits

Array = np.ndarray[Any, np.dtype[Any]]

STEPS = 256  # of the table in one nat
LARGEST_BITS = 28  # the most probable token has the frequency 2^28
_FIXED = 128  # bits after the point while the table is made


def _inverse_step() -> int:
    """exp(-1 / STEPS) as an integer with `_FIXED` bits after the point, by its series."""
    term = total = 1 << _FIXED
    for k in range(1, 40):
        term = -term // (STEPS * k)
        total += term
    return total


@cache
def table() -> Array:
    """The frequency at each distance from the largest logit, in steps; 1 at the end of it."""
    step, value, found = _inverse_step(), 1 << _FIXED, list[int]()
    while (frequency := value >> (_FIXED - LARGEST_BITS)) > 1:
        found.append(frequency)
        value = value * step >> _FIXED
    return np.array([*found, 1], np.int64)


def frequencies(logits: Array) -> Array:
    """The frequency of each token, 1 to 2^28: logits [B, V] -> int64 [B, V].

    InputError for logits that are not finite.
    """
    check_logits(logits)
    counts = table()
    distance = logits.max(-1, keepdims=True) - logits  # [B, V]
    distance *= STEPS
    np.minimum(distance, len(counts) - 1, out=distance)
    return counts.take(distance.astype(np.int32))  # [B, V]
