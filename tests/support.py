"""Small models and shared data for the tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab import engines
from gpt2lab.config import Config
from gpt2lab.generation import generate
from gpt2lab.generation.batch import Batch, Token
from gpt2lab.generation.request import requests
from gpt2lab.init import initialise

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "data"  # checkpoints with other implementations' results
DATA = ROOT.parent / "shared" / "data"  # larger data that may lie beside the repository
FABLE = ROOT / "gpt2lab" / "assets" / "fable"

TINY = Config(n_vocab=97, n_ctx=64, n_embd=32, n_head=4, n_layer=2)


def tiny_params(config: Config = TINY, seed: int = 0, scale: float = 10.0) -> dict[str, Any]:
    """Random parameters with opinions: the usual 0.02 would make every logit nearly equal."""
    params = initialise(config, seed)
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


def batch_of(
    engine: Any, prompts: Any, s: Any, *, indices: Any = None, batch_size: int = 16, **options: Any
) -> tuple[Batch, dict[Any, tuple[int, int]]]:
    """A batch of all samples of the prompts (ids), and each row's (prompt, index)."""
    batch = Batch(engine, rows=batch_size, **options)
    places = {
        batch.add(request, index): (place, index)
        for place, request in enumerate(requests(prompts, s, engine.config))
        for index in (range(s.n) if indices is None else indices)
    }
    return batch, places


def drawn(engine: Any, prompts: Any, s: Any, **options: Any) -> Iterator[Token]:
    """Every token of all samples of the prompts (ids), as it is drawn."""
    batch, _ = batch_of(engine, prompts, s, **options)
    yield from generate.tokens(batch)


def new_ids(engine: Any, prompts: Any, s: Any, **options: Any) -> dict[tuple[int, int], list[int]]:
    """The new ids of every sample, by (prompt, index)."""
    batch, places = batch_of(engine, prompts, s, **options)
    found: dict[tuple[int, int], list[int]] = {}
    for token in generate.tokens(batch):
        found.setdefault(places[token.row], []).append(token.id)
    return dict(sorted(found.items()))


@contextmanager
def logged(name: str = "gpt2lab") -> Iterator[list[str]]:
    """The messages that a logger, and those below it, get inside the block."""
    said: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
