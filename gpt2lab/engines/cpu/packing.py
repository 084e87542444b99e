"""Weights as the kernels read them: panels of neighbouring columns, in the order of K.

A matrix [K, N] of the checkpoint becomes [panels][K / numbers][width][numbers], N padded to whole
panels and K to whole steps with zeros. int8 keeps one scale a column (a row of the product).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import bfloat16, ceil_to

Array = np.ndarray[Any, np.dtype[Any]]

KINDS = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
SLICE = 16  # panels that are in memory a second time while they are packed


def shapes(n: int, k: int, target: Target, dtype: str) -> tuple[tuple[int, ...], int]:
    """The shape of a packed matrix of n columns, and how many scales it has."""
    step, width = target.step(dtype), target.width
    panels, steps = ceil_to(n, width) // width, ceil_to(k, step.numbers) // step.numbers
    return (panels, steps, width, step.numbers), panels * width if dtype == "int8" else 0


def pack(
    columns: Array,
    target: Target,
    dtype: str,
    data: Array,
    scale: Array,
    order: Array | None,
    factor: Array | None = None,
) -> None:
    """Pack a matrix into `data` and `scale`, whose sizes `shapes` tells.

    columns: [N, K], so a checkpoint's matrix transposed, or wte as the head. order: which column
    stands where, -1 for a column of zeros; None is as they are. factor: of each number of K
    (`evened`).
    """
    width, (_, steps, _, numbers) = target.width, data.shape
    if order is None:
        order = np.arange(len(columns))
    for start in range(0, len(order), SLICE * width):
        chosen = order[start : start + SLICE * width]
        part = np.asarray(columns[np.maximum(chosen, 0)], np.float32)
        part[chosen < 0] = 0
        if factor is not None:
            part = part * factor
        if dtype == "int8":
            part, scale[start : start + len(part)] = quantised(part)
        elif dtype == "bfloat16":
            part = bfloat16(part)
        panels = -(-len(part) // width)
        whole = np.zeros((panels * width, steps * numbers), part.dtype)
        whole[: len(part), : part.shape[1]] = part
        packed = whole.reshape(panels, width, steps, numbers).transpose(0, 2, 1, 3)
        if target.product(dtype) == "vnni":  # x86 multiplies unsigned by signed
            packed = (packed.view(np.uint8) + np.uint8(128)).view(np.int8)
        data[start // width : start // width + panels] = packed


def evened(gain: Array, bias: Array, columns: Array) -> Array:
    """Factors [K] for a matrix [N, K] behind a norm, whose gain and bias are divided by them.

    Nothing changes but what integers make of it: a column of activations that the norm makes large
    shares the difference with its weights, as in SmoothQuant (Xiao et al. 2023) with alpha 0.5; the
    size of an activation is taken from the norm itself, so no data are needed.
    """
    size = np.sqrt(gain.astype(np.float64) ** 2 + bias.astype(np.float64) ** 2)
    largest = np.abs(columns).max(axis=0).astype(np.float64)
    safe = (size > 0) & (largest > 0)
    return np.where(safe, np.sqrt(size / np.where(safe, largest, 1)), 1).astype(np.float32)


def quantised(columns: Array) -> tuple[Array, Array]:
    """float32 [n, K] -> int8 and the scale of each column: |column| max / 127."""
    scale = np.abs(columns).max(axis=1) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return np.rint(columns / scale[:, None]).astype(np.int8), scale


def by_head(embed: int, head: int, width: int) -> Array:
    """The order of c_attn's columns [q | k | v] as [head][q, k, v], each of whole panels."""
    size = ceil_to(head, width)
    order = np.full((embed // head, 3, size), -1)
    for which in range(3):
        order[:, which, :head] = which * embed + np.arange(embed).reshape(-1, head)
    return order.reshape(-1)
