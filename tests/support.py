"""Small models and shared data for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab import engines, reference
from gpt2lab.config import Config

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "data"  # checkpoints with other implementations' results
DATA = ROOT.parent / "shared" / "data"  # larger data that may lie beside the repository
FABLE = ROOT / "gpt2lab" / "data" / "fable"

TINY = Config(n_vocab=97, n_ctx=64, n_embd=32, n_head=4, n_layer=2)


def tiny_params(config: Config = TINY, seed: int = 0, scale: float = 10.0) -> dict[str, Any]:
    """Random parameters with opinions: the usual 0.02 would make every logit nearly equal."""
    params = reference.initialise(config, seed)
    noise = np.random.default_rng(seed)
    for name, value in params.items():
        if value.ndim == 2:
            params[name] = value * np.float32(scale)
        else:
            params[name] = value + noise.normal(0, 0.1, value.shape).astype(np.float32)
    return params


def tiny_engine(config: Config = TINY, seed: int = 0, dtype: str | None = None) -> Any:
    """The numpy engine over `tiny_params`."""
    return engines.choose(config, tiny_params(config, seed), "numpy", dtype)
