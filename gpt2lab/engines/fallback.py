"""The first start on a machine: the numpy engine serves while the fast kernels are compiled.

The compilation is a process of its own. As soon as its files exist, the next cache that is
requested is the `cpu` engine's, in forked children too; a sequence that has begun stays on the
engine where it began, so no text comes from two engines.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from gpt2lab.cache import Cache
from gpt2lab.config import Config
from gpt2lab.engines.cpu import compile_cache, cpu_features
from gpt2lab.engines.cpu.acting import LinearActs
from gpt2lab.engines.cpu.engine import CpuEngine, default_dtype
from gpt2lab.engines.numpy_engine import NumpyEngine
from gpt2lab.engines.protocol import Engine
from gpt2lab.engines.wanted import Scores, Wanted
from gpt2lab.errors import Failure, InputError

Array = np.ndarray[Any, np.dtype[Any]]

log = logging.getLogger(__name__)


def needed(config: Config, dtype: str | None) -> bool:
    """Whether kernels for float32 are wanted and have to be compiled first."""
    target = cpu_features.here()
    if target is None or (dtype or default_dtype(config)) != "float32":
        return False
    return not compile_cache.ready(target, "float32", "float32")


class Fallback:
    """An engine: `numpy` at first, `cpu` as soon as its kernels are compiled.

    build: makes the cpu engine.
    """

    acts: list[str] | None = None  # in words, for a record

    def __init__(self, first: NumpyEngine, build: Callable[[], Engine]) -> None:
        self._first, self._build = first, build
        self._now: Engine = first
        self.config = first.config
        target, why = cpu_features.here(), compile_cache.why_none()
        self._target, self._process = target, None
        if why:
            log.warning(f"no fast kernels: {why}; the numpy engine generates")
            return
        if target:
            log.info(
                f"compiling the fast kernels for {target.name} in the background, once on this "
                "machine (about 15 s); the numpy engine generates until then"
            )
        self._process = compile_cache.in_background("float32", "float32")

    @property
    def name(self) -> str:
        """The name of the engine that serves the next cache."""
        return self._look().name

    @property
    def dtype(self) -> str:
        """The dtype of that engine."""
        return self._look().dtype

    @property
    def cache_dtype(self) -> str | None:
        """The cache dtype of that engine, None where it has none."""
        return getattr(self._look(), "cache_dtype", None)

    def _look(self) -> Engine:
        """The engine of the moment; files decide, since forked children see them too."""
        target, process = self._target, self._process
        if target and process and compile_cache.ready(target, "float32", "float32"):
            process.poll()  # so that the system may forget it
            self._target = None
            with suppress(Failure, InputError):  # else NumPy continues
                self._now = self._build()
        return self._now

    def acting(self, acts: LinearActs, first: NumpyEngine) -> Engine:
        """With acts: `first`, which has them, until the cpu engine is there to compute them."""
        if isinstance(now := self._look(), CpuEngine):
            return now.acting(acts)

        def build() -> Engine:
            now = self._look()
            return now.acting(acts) if isinstance(now, CpuEngine) else first

        other = copy.copy(self)
        other.acts, other._first, other._now, other._build = acts.about, first, first, build
        return other

    def cache(self, slots: int | None = None) -> Any:
        """An empty cache of the engine of the moment."""
        return self._look().cache(slots)

    def step(
        self,
        cache: Any,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[bool] | None = None,
    ) -> Array:
        """As `engines.protocol.Engine.step`, by the engine that the cache is of."""
        return self._of(cache).step(cache, slots, tokens, wanted)  # [N, V]

    def score(
        self,
        cache: Any,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[Wanted],
    ) -> list[Scores]:
        """As `engines.protocol.Engine.score`, by the engine that the cache is of."""
        return self._of(cache).score(cache, slots, tokens, wanted)

    def _of(self, cache: Any) -> Engine:
        return self._first if isinstance(cache, Cache) else self._now

    def logits(self, tokens: Any) -> Array:
        """As `engines.protocol.Engine.logits`."""
        return self._look().logits(tokens)  # [B, T, V]

    def draw(self, rows: Sequence[Any]) -> list[tuple[int, float] | None]:
        """As `engines.cpu.engine.CpuEngine.draw`, as soon as that engine is there."""
        draw = getattr(self._now, "draw", None)
        return [None] * len(rows) if draw is None else draw(rows)

    def settle(self) -> Engine:
        """The cpu engine itself, with its kernels compiled now if they are not there yet."""
        return self._look() if isinstance(self._look(), CpuEngine) else self._build()


def settled(engine: Engine) -> Engine:
    """An engine whose numbers come from one path alone: not `Fallback`, which changes over."""
    return engine.settle() if isinstance(engine, Fallback) else engine
