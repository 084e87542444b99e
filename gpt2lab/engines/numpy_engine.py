"""The reference as an engine: `reference.model` over a cache, one sequence at a time.

Sequences are never stacked into one matrix product: BLAS picks other kernels for other row counts,
and a row's bits, so a sample, would depend on its neighbours. That costs speed in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from gpt2lab import forks, reference
from gpt2lab.cache import Cache
from gpt2lab.checks import check_batch, one_of
from gpt2lab.config import Config
from gpt2lab.engines.wanted import Scores, Wanted, check_wanted, joined, measure, nothing

Array = np.ndarray[Any, np.dtype[Any]]
Found = TypeVar("Found")

SCORED = 16  # rows of logits in one product, always as many: BLAS sums by their number
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
        rows = self._append(cache, slots, checked, lambda i, h, logits: logits)
        return np.stack(rows)[slice(None) if wanted is None else list(wanted)]  # [N, V]

    def score(
        self,
        cache: Cache,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[Wanted],
    ) -> list[Scores]:
        """Append tokens[i] to slots[i]; the scores at the positions of wanted[i], for each slot."""
        checked = cache.check_step(slots, tokens)
        asked = check_wanted(wanted, checked, self.config.n_vocab)
        before = [cache.length(slot) for slot in slots]
        return self._append(
            cache, slots, checked, lambda i, h, logits: self._scores(h, before[i], asked[i])
        )

    def logits(self, tokens: Any) -> Array:
        """The logits of every position of a batch [B, T] without a past: [B, T, V]."""
        rows = check_batch(tokens, self.config.n_vocab, self.config.n_ctx)
        with forks.whole():
            return reference.model(self.config, self.params, rows, at=self.tap(0))["logits"]

    def _append(
        self,
        cache: Cache,
        slots: Sequence[int],
        tokens: list[list[int]],
        use: Callable[[int, Array, Array], Found],
    ) -> list[Found]:
        """Append tokens, slot by slot; use(i, h, logits) of each.

        h: the rows before the head [T, E]. logits: after the last token [V]. An error, also one of
        `use`, leaves every slot as it was.
        """
        before, found, kept = [cache.length(slot) for slot in slots], [], list[Array]()
        try:
            for i, (slot, new) in enumerate(zip(slots, tokens, strict=True)):
                tap = self.tap(cache.length(slot))

                def at(name: str, value: Array, tap: reference.Tap = tap) -> Array:
                    value = tap(name, value)
                    if name == "ln_f":
                        kept[:] = [value[0]]
                    return value

                with forks.whole(), np.errstate(divide="ignore", over="ignore", invalid="ignore"):
                    # Some BLAS kernels on Arm raise these over finite numbers (numpy#28687).
                    past, ids = cache.past(slot), np.array([new])
                    result = reference.model(
                        self.config, self.params, ids, past=past, last=True, at=at
                    )
                    cache.append(slot, result["present"])
                    found.append(use(i, kept[0], result["logits"][0, 0]))
        except BaseException:
            for slot, length in zip(slots, before, strict=True):
                cache.rewind(slot, length)
            raise
        return found

    def _scores(self, h: Array, before: int, wanted: Wanted) -> Scores:
        """The scores at positions of rows h [T, E] that `before` tokens come before."""
        head, parts = (
            self.params.get("lm_head.weight", self.params["wte.weight"]),
            [nothing(wanted)],
        )
        for start in range(0, len(wanted.positions), SCORED):
            part = wanted.of(slice(start, start + SCORED))
            rows = np.zeros((SCORED, self.config.n_embd), h.dtype)
            rows[: len(part.positions)] = h[part.positions]
            logits = (rows @ head.T)[: len(part.positions)]  # [P, V]
            acted = [
                self.tap(before + position)("logits", row[None, None])[0, 0]
                for position, row in zip(part.positions, logits, strict=True)
            ]
            parts.append(measure(np.stack(acted), part))
        return joined(parts)
