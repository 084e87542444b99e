"""The inference engines, and the choice between them; `protocol` says what an engine is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2lab.checks import one_of
from gpt2lab.config import Config
from gpt2lab.engines.protocol import Engine
from gpt2lab.errors import InputError, quoted

if TYPE_CHECKING:
    from gpt2lab.engines.cpu.acting import LinearActs
    from gpt2lab.engines.numpy_engine import NumpyEngine

Array = np.ndarray[Any, np.dtype[Any]]


ENGINES = ("cpu", "numpy", "torch")
DTYPES = ("float32", "bfloat16", "int8", "int4", "float16", "float64")  # of any engine


def choose(
    config: Config,
    params: dict[str, Array],
    engine: str | None = None,
    dtype: str | None = None,
    *,
    cache_dtype: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    key: Callable[[], str] | None = None,
) -> Engine:
    """Build the named engine over the parameters; None is the best that is there.

    That is `cpu` where this machine has a path for it. Until its kernels are compiled, once on a
    machine and in the background, `numpy` serves (`fallback`); for a dtype that only `cpu` has
    they are compiled at once. Without a dtype `cpu` takes float32, or the largest that fits in the
    free memory. cache_dtype, threads: of `cpu`. device: of `torch`. key: names config and params
    exactly, so that packed weights can be kept for the next start.
    """
    if engine is not None:
        one_of("engine", engine, ENGINES)
    if dtype is not None:
        one_of("dtype", dtype, DTYPES)
    asked, engine = engine, engine or _best(params, dtype, (cache_dtype, threads), device)
    _check_owners(engine, cache_dtype, threads, device)
    if engine == "torch":
        from gpt2lab.engines.torch.engine import TorchEngine

        return TorchEngine(config, params, dtype, device=device)
    from gpt2lab.engines.numpy_engine import NumpyEngine

    if engine == "numpy":
        return NumpyEngine(config, params, dtype)
    from gpt2lab.engines.cpu.engine import CpuEngine

    def build(dtype: str | None = dtype) -> Engine:
        return CpuEngine(config, params, dtype, cache_dtype=cache_dtype, threads=threads, key=key)

    if asked is None and dtype in (None, "float32") and cache_dtype is None:
        from gpt2lab.engines import fallback

        if fallback.needed(config, dtype):
            return fallback.Fallback(NumpyEngine(config, params, "float32"), build)
    return build()


def acting(engine: Engine, acts: LinearActs | None, reference: Callable[[], NumpyEngine]) -> Engine:
    """An engine with acts: `cpu` where it can compute them in its step, otherwise the reference.

    acts: None where it cannot. reference: makes the reference with these acts.
    """
    if acts is None:
        return reference()
    from gpt2lab.engines.cpu.engine import CpuEngine
    from gpt2lab.engines.fallback import Fallback

    if isinstance(engine, Fallback):
        return engine.acting(acts, reference())
    return engine.acting(acts) if isinstance(engine, CpuEngine) else reference()


def described(engine: Engine) -> dict[str, Any]:
    """What a text depends on beside weights and settings, as plain values for a record."""
    found = {"name": engine.name, "dtype": engine.dtype}
    for more in ("cache_dtype", "product", "device", "acts"):
        if getattr(engine, more, None) is not None:
            found[more] = getattr(engine, more)
    return found


def _best(
    params: dict[str, Array], dtype: str | None, cpu_alone: tuple[Any, ...], device: str | None
) -> str:
    """The engine for what was asked, where none was named."""
    if device is not None or dtype == "float16":
        return "torch"
    found = dtype or params["wte.weight"].dtype.name
    own = any(value is not None for value in cpu_alone)
    if found == "float64" and not own:
        return "numpy"
    from gpt2lab.engines.cpu import cpu_features

    exact = dtype in (None, "float32") and not own
    return "numpy" if exact and cpu_features.why_not() else "cpu"


def _check_owners(
    engine: str, cache_dtype: str | None, threads: int | None, device: str | None
) -> None:
    """InputError for a setting of another engine."""
    for value, what, owner in (
        (cache_dtype, "cache dtype", "cpu"),
        (threads, "number of threads", "cpu"),
        (device, "device", "torch"),
    ):
        if value is not None and engine != owner:
            raise InputError(
                f"the {engine} engine takes no {what}, {quoted(value)} was given; "
                f"choose engine {owner}"
            )
