"""A model's weights as the kernels read them: one block of memory, and where its parts are.

Matrices are packed (`packing`), vectors stay float32. Each layer has a row of addresses (`Layer`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from gpt2lab.config import Config
from gpt2lab.engines.cpu import packed_cache
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import Layer, ceil_to, head_dtype
from gpt2lab.engines.cpu.packed_cache import PackPlan
from gpt2lab.engines.cpu.packing import INTEGERS, KINDS, by_head, evened, pack, shapes
from gpt2lab.files.io import let_go

Array = np.ndarray[Any, np.dtype[Any]]
Factor = Callable[[], Array]  # of each number of K, computed when an array is filled


class PackedWeights:
    """The packed weights of a model. `build` allocates and fills the block.

    size: bytes. Afterwards layers [L, len(Layer)], final [2] (ln_f) and head (weights, scales) hold
    addresses; before, places in the block.
    """

    def __init__(
        self, config: Config, params: dict[str, Array], target: Target, dtype: str
    ) -> None:
        self._params, self._target, self._dtype = params, target, dtype
        self._plan = PackPlan()
        self.layers = np.zeros((config.n_layer, len(Layer)), np.int64)
        order = by_head(config.n_embd, config.head_width, target.width)
        for i, row in enumerate(self.layers):
            self._plan_layer(row, f"h.{i}.", order)
        columns = params.get("lm_head.weight", params["wte.weight"])
        gain, bias, factor = self._norm("ln_f", columns, head_dtype(dtype))
        self.final = np.array([gain, bias], np.int64)
        self.head = np.array(self._matrix(columns, None, factor, head_dtype(dtype)), np.int64)
        self.size = self._plan.size

    def build(self, config: Config, key: Callable[[], str] | None, threads: int) -> None:
        """Fill the block, or read it from disk; key names config and parameters exactly."""
        layout = packed_cache.layout_key(self._target, self._dtype)
        kept = key if self._dtype != "float32" else None  # float32 is copied as fast as it is read
        self._block = self._plan.build(kept and (lambda: f"{kept()} {layout}"), threads)
        base = int(self._block.ctypes.data)
        for places in (self.layers, self.final, self.head):
            places += base
        for i, row in enumerate(self.layers):
            row[Layer.ATTENTION] = np.float32(config.attention_scale(i)).view(np.int32)
            row[[Layer.HEADS_FACTORS, Layer.INNER_FACTORS]] = 0

    def _plan_layer(self, row: Array, h: str, order: Array) -> None:
        factors: dict[str, Factor | None] = {}
        for first, name, behind in (
            (Layer.LN_1_G, "ln_1", "attn.c_attn"),
            (Layer.LN_2_G, "ln_2", "mlp.c_fc"),
        ):
            columns = self._params[f"{h}{behind}.weight"].T
            row[first], row[first + 1], factors[behind] = self._norm(h + name, columns, self._dtype)
        for first, name, by in (
            (Layer.QKV, "attn.c_attn", order),
            (Layer.PROJECT, "attn.c_proj", None),
            (Layer.FC, "mlp.c_fc", None),
            (Layer.OUT, "mlp.c_proj", None),
        ):
            columns = self._params[f"{h}{name}.weight"].T
            row[first], row[first + 1] = self._matrix(columns, by, factors.get(name), self._dtype)
            row[first + 2] = self._vector(f"{h}{name}.bias", by)

    def _vector(self, name: str, order: Array | None = None, factor: Factor | None = None) -> int:
        """Plan a vector, up to whole panels; divided by the factor. Returns its place."""
        vector = self._params[name]
        chosen = np.arange(len(vector)) if order is None else order

        def fill(out: Array) -> None:
            out[: len(chosen)] = np.where(chosen < 0, 0, vector[np.maximum(chosen, 0)])
            out[len(chosen) :] = 0
            if factor is not None:
                out[: len(chosen)] /= factor()

        return self._plan.add((ceil_to(len(chosen), self._target.width),), np.float32, fill)

    def _norm(self, name: str, columns: Array, dtype: str) -> tuple[int, int, Factor | None]:
        """Plan gain and bias; for integers, also the factors that the matrix behind takes over."""
        gain, bias, factor = f"{name}.weight", f"{name}.bias", None
        if dtype in INTEGERS:
            norm = self._params[gain], self._params[bias]
            factor = cache(lambda: evened(*norm, columns, dtype))
        return self._vector(gain, factor=factor), self._vector(bias, factor=factor), factor

    def _matrix(
        self, columns: Array, order: Array | None, factor: Factor | None, dtype: str
    ) -> tuple[int, int]:
        """Plan a matrix given as columns [N, K]. Returns the places of its panels and scales."""
        target, kind = self._target, np.dtype(KINDS[dtype])
        n = len(columns) if order is None else len(order)
        shape, scales = shapes(n, columns.shape[1], target, dtype)
        size = int(np.prod(shape)) * kind.itemsize

        def fill(out: Array) -> None:
            data, scale = out[:size].view(kind).reshape(shape), out[size:].view(np.float32)
            pack(columns, target, dtype, data, scale, order, factor and factor())
            let_go(columns)

        place = self._plan.add((size + 4 * scales,), np.uint8, fill)
        return place, place + size
