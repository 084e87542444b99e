"""Weights as the kernels read them: panels of neighbouring columns, in the order of K.

A matrix [K, N] of the checkpoint becomes [panels][K / numbers][width][numbers], N padded to whole
panels and K to whole steps with zeros. int8 keeps one scale for each column (a row of the product),
int4 one for each `GROUP` numbers of a column.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import STEP, bfloat16, ceil_to, widened

Array = np.ndarray[Any, np.dtype[Any]]

KINDS = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8, "int4": np.uint8}
INTEGERS = ("int8", "int4")
GROUP = STEP["nibbles"].numbers * STEP["nibbles"].block
SLICE = 16  # panels that are in memory a second time while they are packed


def shapes(n: int, k: int, target: Target, dtype: str) -> tuple[tuple[int, ...], int]:
    """The shape of a packed matrix of n columns, and how many scales come behind it."""
    step, width = target.step(dtype), target.width
    panels, steps = ceil_to(n, width) // width, step.weight_steps(k)
    if dtype == "int4":
        return (panels, step.panel_bytes(k, width)), 0
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
    width = target.width
    if order is None:
        order = np.arange(len(columns))
    for start in range(0, len(order), SLICE * width):
        chosen = order[start : start + SLICE * width]
        part = np.asarray(columns[np.maximum(chosen, 0)], np.float32)
        part[chosen < 0] = 0
        if factor is not None:
            part = part * factor
        if dtype == "int4":
            packed = panels_of_int4(part, width, target.product(dtype))
            data[start // width : start // width + len(packed)] = packed
            continue
        if dtype == "int8":
            part, scale[start : start + len(part)] = quantised(part)
        elif dtype == "bfloat16":
            part = bfloat16(part)
        panels, (_, steps, _, numbers) = -(-len(part) // width), data.shape
        whole = np.zeros((panels * width, steps * numbers), part.dtype)
        whole[: len(part), : part.shape[1]] = part
        packed = whole.reshape(panels, width, steps, numbers).transpose(0, 2, 1, 3)
        if target.product(dtype) == "vnni":  # x86 multiplies unsigned by signed
            packed = (packed.view(np.uint8) + np.uint8(128)).view(np.int8)
        data[start // width : start // width + panels] = packed


def evened(gain: Array, bias: Array, columns: Array, dtype: str) -> Array:
    """Factors [K] for a matrix [N, K] behind a norm, whose gain and bias are divided by them.

    Nothing changes but what integers make of it: a column of activations that the norm makes large
    shares the difference with its weights, as in SmoothQuant (Xiao et al. 2023) with alpha 0.5; the
    size of an activation is taken from the norm itself, so no data are needed. Weights that int4
    holds already, as calibration leaves them, stay as they are.
    """
    if dtype == "int4" and holds_int4(columns):
        return np.ones(len(gain), np.float32)
    size = np.sqrt(gain.astype(np.float64) ** 2 + bias.astype(np.float64) ** 2)
    largest = np.abs(columns).max(axis=0).astype(np.float64)
    safe = (size > 0) & (largest > 0)
    return np.where(safe, np.sqrt(size / np.where(safe, largest, 1)), 1).astype(np.float32)


def quantised(columns: Array) -> tuple[Array, Array]:
    """float32 [n, K] -> int8 and the scale of each column: |column| max / 127."""
    scale = np.abs(columns).max(axis=1) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return np.rint(columns / scale[:, None]).astype(np.int8), scale


#: The nibble of a 32-bit word that each of 8 neighbouring numbers of a column goes to.
NIBBLES = {"nibbles": (0, 2, 4, 6, 1, 3, 5, 7), "nibbles16": (0, 4, 1, 5, 2, 6, 3, 7)}


def panels_of_int4(columns: Array, width: int, product: str) -> Array:
    """float32 [n, K] -> bytes [panels, bytes]: in each block the words of its steps, its scales."""
    step, panels = STEP[product], -(-len(columns) // width)
    whole = np.zeros((panels * width, ceil_to(columns.shape[1], GROUP)), np.float32)
    whole[: len(columns), : columns.shape[1]] = columns
    numbers, scales = quantised_in_groups(whole)
    blocks = scales.shape[1]
    stored = (numbers + 8).astype(np.uint32).reshape(panels, width, blocks, step.block, -1)
    words = np.zeros((panels, width, blocks, step.block), np.uint32)
    for i, nibble in enumerate(NIBBLES[product]):
        words |= stored[..., i] << np.uint32(4 * nibble)
    halves = bfloat16(scales).reshape(panels, width, blocks)
    parts = [words.transpose(0, 2, 3, 1), halves.transpose(0, 2, 1)]
    bytes_ = [
        np.ascontiguousarray(part).view(np.uint8).reshape(panels, blocks, -1) for part in parts
    ]
    return np.concatenate(bytes_, 2).reshape(panels, -1)


def quantised_in_groups(columns: Array) -> tuple[Array, Array]:
    """float32 [n, K] -> integers from -8 to 7 [n, K], and the scale of each group [n, K / GROUP].

    The scales are numbers of bfloat16, chosen among `FACTORS` for the smallest squared error. Those
    include the integers, so weights that are such numbers times a scale already stay what they are.
    """
    groups = columns.reshape(len(columns), -1, GROUP)
    at = np.abs(groups).argmax(-1, keepdims=True)
    largest = np.take_along_axis(groups, at, -1)
    best, least = np.ones_like(largest), np.full(largest.shape, np.inf, np.float32)
    for factor in FACTORS:
        scale = widened(bfloat16(largest / np.float32(factor)))
        scale[scale == 0] = 1
        error = np.square(groups - nearest(groups, scale) * scale).sum(-1, keepdims=True)
        better = error < least
        best[better], least[better] = scale[better], error[better]
    return nearest(groups, best).reshape(columns.shape), best[..., 0]


def holds_int4(columns: Array) -> bool:
    """Whether int4 can hold these weights [N, K] as they are, by a look at some columns."""
    some = np.asarray(columns[:: max(1, len(columns) // 16)], np.float32)
    whole = np.pad(some, ((0, 0), (0, -some.shape[1] % GROUP)))
    numbers, scales = quantised_in_groups(whole)
    return bool(np.array_equal(numbers * np.repeat(scales, GROUP, 1), whole))


FACTORS = [sign * size for size in (8, 7, 7.5, 6.5, 6, 5, 4, 3, 2, 1) for sign in (-1, 1)]


def nearest(numbers: Array, scale: Array) -> Array:
    """The integers from -8 to 7 that are nearest to numbers / scale, as float32."""
    return np.clip(np.rint(numbers / scale), -8, 7)


def by_head(embed: int, head: int, width: int) -> Array:
    """The order of c_attn's columns [q | k | v] as [head][q, k, v], each of whole panels."""
    size = ceil_to(head, width)
    order = np.full((embed // head, 3, size), -1)
    for which in range(3):
        order[:, which, :head] = which * embed + np.arange(embed).reshape(-1, head)
    return order.reshape(-1)
