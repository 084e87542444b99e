"""gpt2lab through its own loop, set up as its commands do it; or without one of its ways.

What one of them gains is measured by taking it away: `WITHOUT` puts the plain way in its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.training.cases import Case
from benchmarks.training.contenders import Trained


def _unkept() -> None:
    from gpt2lab.train import machine

    machine.keep_memory = lambda: False


def _foreach() -> None:
    """torch's default AdamW, and a pass of its own for clipping."""
    import torch

    class Foreach(torch.optim.AdamW):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **{**settings, "fused": False, "foreach": True})

    vars(torch.optim)["AdamW"] = Foreach


WITHOUT: dict[str, Callable[[], None]] = {
    "kept memory": _unkept,
    "fused AdamW": _foreach,
}


def train(
    case: Case, steps: int, threads: int, dtype: str, without: str | None = None, **more: Any
) -> Trained:
    """more: further settings."""
    if without is not None:
        WITHOUT[without]()
    from gpt2lab.config import Config
    from gpt2lab.corpus.batches import Batches
    from gpt2lab.corpus.token_set import TokenSet
    from gpt2lab.engines.torch.model import compile_blocks
    from gpt2lab.init import initialise
    from gpt2lab.train import start as opening
    from gpt2lab.train import step as loop
    from gpt2lab.train.config import TrainConfig
    from gpt2lab.train.optimizer_state import new_state
    from gpt2lab.train.parallel.group import ALONE
    from gpt2lab.weights import Checkpoint

    config = Config(case.n_vocab, case.block, case.n_embd, case.n_head, case.n_layer)
    settings, device, _ = opening.ready(
        TrainConfig(
            steps=steps,
            batch_size=case.batch,
            block_size=case.block,
            order="windows",
            learning_rate=1e-3,
            dtype=dtype,
            device="cpu",
            threads=threads,
            **more,
        ),
        config,
    )
    start = Checkpoint(config, initialise(config, 0), None, "new")
    state = new_state(start, settings, device, ALONE)
    if settings.compile and (why := compile_blocks(state.model, case.batch, case.block)):
        raise RuntimeError(why)
    tokens = TokenSet.of("tokens", case.tokens(), n_vocab=case.n_vocab)
    batches = Batches([(tokens, 1.0)], block=case.block, batch=case.batch, order=settings.order)
    trained = Trained()
    for step in loop.train(state, batches, settings):
        trained.times.append(time.perf_counter())
        trained.losses.append(step.loss)
    return trained
