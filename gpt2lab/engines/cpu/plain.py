"""The step in plain NumPy: what each phase of `phases` writes, in a few lines.

These are the twins of the compiled kernels, with the same rounding of weights, activations, keys
and values; only the order of sums is free. `tests/test_cpu_phases.py` compares the two after every
phase. Read this file first, then the kernels.

Shapes: R rows of a step, E embedding, H heads, D width of a head, P positions, K and N of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2lab import reference
from gpt2lab.config import Config
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import (
    HEAD_BLOCK,
    OF_INT8,
    OF_INT16,
    STEP,
    bfloat16,
    head_dtype,
    widened,
)
from gpt2lab.engines.cpu.packing import GROUP, INTEGERS, evened, quantised, quantised_in_groups
from gpt2lab.engines.cpu.phases import Phase

Array = np.ndarray[Any, np.dtype[Any]]


def norm(x: Array, gain: Array, bias: Array, epsilon: float) -> Array:
    """Twin of `rows.norm`."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * gain + bias


def packed(x: Array, product: str) -> Array:
    """The numbers that a product reads of rows [R, K]. Twin of `rows.pack_*` and `pack_int8`."""
    if product == "pairs":
        return widened(bfloat16(x))
    if product not in (*OF_INT8, *OF_INT16):
        return x
    out, size = np.empty_like(x), STEP[product].block * STEP[product].numbers
    for start in range(0, x.shape[1], size):
        block = x[:, start : start + size]
        scale = np.abs(block).max(-1, keepdims=True) / (32767 if product in OF_INT16 else 127)
        scale = np.where(scale > 0, scale, 1)
        out[:, start : start + size] = np.rint(block / scale) * scale
    return out


def unpacked(raw: Array, scales: Array, product: str, n: int) -> Array:
    """The n numbers of each packed row, as the kernels have written them. raw: [R, bytes]."""
    if product not in (*OF_INT8, *OF_INT16):
        return widened(raw.view(np.uint16)) if product == "pairs" else raw.view(np.float32)[:, :n]
    size = STEP[product].block * STEP[product].numbers
    numbers = raw.view(np.int16 if product in OF_INT16 else np.int8)[:, :n]
    return numbers * scales[:, np.arange(n) // size, 0]


def stored(x: Array, dtype: str, heads: int) -> Array:
    """Keys or values [R, E] as a slot holds them. Twin of `kv.STORES`."""
    if dtype == "bfloat16":
        return widened(bfloat16(x))
    if dtype == "int8":
        numbers, scale = quantised(x.reshape(len(x) * heads, -1))  # [R * H, D]
        return (numbers * scale[:, None]).reshape(x.shape)
    return x


def weights(columns: Array, dtype: str) -> Array:
    """A matrix [K, N] from its columns [N, K], as packed weights hold it."""
    if dtype == "int8":
        numbers, scale = quantised(np.asarray(columns, np.float32))
        columns = numbers * scale[:, None]
    if dtype == "int4":
        whole = np.pad(columns, ((0, 0), (0, -columns.shape[1] % GROUP)))
        numbers, scales = quantised_in_groups(np.asarray(whole, np.float32))
        columns = (numbers * np.repeat(scales, GROUP, 1))[:, : columns.shape[1]]
    return (widened(bfloat16(columns)) if dtype == "bfloat16" else columns).T


def attend(q: Array, k: Array, v: Array, scale: float) -> Array:
    """One row's attention [H, D] over [P, H, D] keys and values. Twin of `attention.attend`."""
    scores = np.einsum("hd,phd->hp", q, k) * scale
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hp,phd->hd", e, v) / e.sum(-1, keepdims=True)


def parts(logits: Array) -> Array:
    """What a scoring step keeps of each block of the head: [blocks, R, 3]. Twin of `scoring`."""
    found = []
    for start in range(0, logits.shape[1], HEAD_BLOCK):
        block = logits[:, start : start + HEAD_BLOCK]
        top = block.max(-1, keepdims=True)
        e = np.exp(block - top)
        found.append(np.stack([top[:, 0], e.sum(-1), (e * (block - top)).sum(-1)], -1))  # [R, 3]
    return np.stack(found)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_new": reference.gelu,
    "relu": lambda x: np.maximum(x, 0),
}


@dataclass
class PlainStep:
    """Steps of a model over sequences. past: keys and values of (sequence, layer), [P, E] each.

    factors: of acts, what the output of HEADS [E] or FC [F] of a layer is multiplied by.
    """

    config: Config
    params: dict[str, Array]
    target: Target
    dtype: str
    cache_dtype: str
    past: dict[tuple[int, int], tuple[Array, Array]] = field(default_factory=dict)
    factors: dict[tuple[int, Phase], Array] = field(default_factory=dict)

    def phases(
        self, rows: Sequence[tuple[int, int, int]], last: Sequence[int]
    ) -> Iterator[tuple[int, Phase, str, Array]]:
        """(layer, phase, what is written, its value) of a step over (sequence, position, token)."""
        _, positions, tokens = (list(part) for part in zip(*rows, strict=True))
        x = self.params["wte.weight"][tokens] + self.params["wpe.weight"][positions]  # [R, E]
        for i in range(self.config.n_layer):
            h = f"h.{i}."
            for norm_, matrix, half in (
                (f"{h}ln_1", f"{h}attn.c_attn", (Phase.NORM_1, Phase.HEADS)),
                (f"{h}ln_2", f"{h}mlp.c_fc", (Phase.NORM_2, Phase.FC)),
            ):
                columns = self.params[f"{matrix}.weight"].T
                acts, w = self._norm(x, norm_, columns, self.dtype)
                yield i, half[0], "acts", acts
                wide = acts @ w + self.params[f"{matrix}.bias"]  # [R, 3 E] or [R, F]
                wide = self._heads(i, rows, wide) if half[1] == Phase.HEADS else self._act(wide)
                wide = wide * self.factors.get((i, half[1]), np.float32(1))
                yield i, half[1], "wide", wide
                acts, name = packed(wide, self.target.product(self.dtype)), f"{h}mlp.c_proj"
                name = f"{h}attn.c_proj" if half[1] == Phase.HEADS else name
                yield i, Phase(half[1] + 1), "acts", acts
                columns = self.params[f"{name}.weight"].T
                x = x + acts @ weights(columns, self.dtype) + self.params[f"{name}.bias"]  # [R, E]
                yield i, Phase(half[1] + 2), "x", x
        head = self.params.get("lm_head.weight", self.params["wte.weight"])
        acts, w = self._norm(x[list(last)], "ln_f", head, head_dtype(self.dtype))
        yield self.config.n_layer, Phase.NORM_F, "acts", acts
        yield self.config.n_layer, Phase.LOGITS, "logits", acts @ w  # [last, V]

    def _norm(self, x: Array, name: str, columns: Array, dtype: str) -> tuple[Array, Array]:
        """Normalised rows in the form of the product, and the matrix behind (`packing.evened`)."""
        gain, bias = self.params[f"{name}.weight"], self.params[f"{name}.bias"]
        if dtype in INTEGERS:
            factor = evened(gain, bias, columns, dtype)
            gain, bias, columns = gain / factor, bias / factor, columns * factor
        acts = norm(x, gain, bias, self.config.layer_norm_epsilon)
        return packed(acts, self.target.product(dtype)), weights(columns, dtype)

    def _heads(self, layer: int, rows: Sequence[tuple[int, int, int]], qkv: Array) -> Array:
        """Attention of every row [R, E] from [R, 3 E]. Twin of `attention.one_head`."""
        c, out = self.config, np.empty((len(rows), self.config.n_embd), np.float32)
        queries, keys, values = np.split(qkv, 3, axis=1)  # [R, E] each
        keys, values = (stored(part, self.cache_dtype, c.n_head) for part in (keys, values))
        scale = c.head_width**-0.5
        for r, (sequence, position, _) in enumerate(rows):
            past = self.past.get((sequence, layer), (keys[:0], values[:0]))
            k, v = (
                np.vstack([old[:position], new[r : r + 1]])
                for old, new in zip(past, (keys, values), strict=True)
            )
            self.past[sequence, layer] = k, v
            q, k, v = (part.reshape(-1, c.n_head, c.head_width) for part in (queries[r], k, v))
            out[r] = attend(q[0], k, v, scale).reshape(-1)  # of [P, H, D]
        return out

    def _act(self, x: Array) -> Array:
        return ACTIVATIONS[self.config.activation_function](x)
