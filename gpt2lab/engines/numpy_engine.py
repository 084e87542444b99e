"""The reference as an engine: `reference.model` over a cache, one sequence at a time.

Sequences are never stacked into one matrix product: BLAS picks other kernels for other row counts,
and a row's bits, so a sample, would depend on its neighbours. That costs speed in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt2lab import forks, reference
from gpt2lab.cache import Cache
from gpt2lab.checks import check_batch, one_of
from gpt2lab.config import Config

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES = {"float32": np.float32, "float64": np.float64}


class NumpyEngine:
    """Keeps the protocol of `engines.protocol.Engine`. dtype: "float32" (default) or "float64".

    tap: given how many tokens come before, the `at` of a call of the reference, which sees its
    inner values and may change them. acts: what it changes, as plain values for a record.
    """

    name = "numpy"

    def __init__(
        self,
        config: Config,
        params: dict[str, Array],
        dtype: str | None = None,
        *,
        tap: Callable[[int], reference.Tap] = lambda before: reference.untouched,
        acts: Sequence[Any] | None = None,
    ) -> None:
        found = params["wte.weight"].dtype.name
        dtype = dtype or found
        one_of("dtype of the numpy engine", dtype, tuple(DTYPES))
        self.config, self.dtype, self.tap = config, dtype, tap
        self.acts = list(acts) if acts else None
        kind = DTYPES[dtype]
        self.params = {name: value.astype(kind, copy=False) for name, value in params.items()}

    def cache(self, slots: int | None = None) -> Cache:
        """An empty cache; `slots` limits how many sequences it holds."""
        return Cache(self.config, DTYPES[self.dtype], slots)

    def step(
        self,
        cache: Cache,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[bool] | None = None,
    ) -> Array:
        """Append tokens[i] to slots[i]; the logits after the last token of each: [N, V].

        wanted: for which slots there shall be logits, all by default; N counts these.
        """
        checked = cache.check_step(slots, tokens)
        before = [cache.length(slot) for slot in slots]
        rows = []
        try:
            for slot, new in zip(slots, checked, strict=True):
                with forks.whole(), np.errstate(divide="ignore", over="ignore", invalid="ignore"):
                    # Some BLAS kernels on Arm raise these over finite numbers (numpy#28687).
                    result = reference.model(
                        self.config,
                        self.params,
                        np.array([new]),
                        past=cache.past(slot),
                        last=True,
                        at=self.tap(cache.length(slot)),
                    )
                cache.append(slot, result["present"])
                rows.append(result["logits"][0, 0])
        except BaseException:  # a step that fails leaves every slot as it was
            for slot, length in zip(slots, before, strict=True):
                cache.rewind(slot, length)
            raise
        return np.stack(rows)[slice(None) if wanted is None else list(wanted)]  # [N, V]

    def logits(self, tokens: Any) -> Array:
        """The logits of every position of a batch [B, T] without a past: [B, T, V]."""
        rows = check_batch(tokens, self.config.n_vocab, self.config.n_ctx)
        with forks.whole():
            return reference.model(self.config, self.params, rows, at=self.tap(0))["logits"]
