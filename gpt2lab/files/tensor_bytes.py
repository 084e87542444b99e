"""The bytes of a tensor as numbers, and stand-ins for tensors of which only the shape is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpt2lab.files.io import let_go

WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}  # bytes of one number


def floats(raw: np.ndarray, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Little-endian bytes as numbers of `shape`: float32 (float64 stays), exactly as stored.

    float32 and float64 are views of the bytes wherever the address is aligned; the 16-bit types
    are widened, which loses nothing. Those arrays are read-only too, so that what is known of the
    file is true of them, and the file's own pages are released.
    """
    if dtype in ("bfloat16", "float16"):
        return _widened(raw, dtype).reshape(shape)
    numbers = raw.view({"float64": "<f8", "float32": "<f4"}[dtype])
    return np.require(numbers, requirements="A").reshape(shape)


def _widened(raw: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":  # the upper half of a float32
        halves = raw.view("<u2").astype(np.uint32)
        halves <<= 16
        numbers = halves.view(np.float32)
    else:
        numbers = raw.view("<f2").astype(np.float32)
    let_go(raw)
    numbers.flags.writeable = False
    return numbers


def hollow(shape: Sequence[int]) -> np.ndarray:
    """An array of a shape with no numbers behind it, for checks by a file's header alone."""
    return np.broadcast_to(np.float32(0), tuple(shape))


def is_hollow(array: np.ndarray) -> bool:
    """Whether an array was made by `hollow`."""
    return array.size > 1 and not any(array.strides)
