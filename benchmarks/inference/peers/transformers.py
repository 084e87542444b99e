"""transformers on torch. Its `generate()` is slower than the plain loop over its forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference.contenders import Array, Stepper


def place(model: Path, work: Path, precision: str) -> Path:
    """It reads the model's folder as it is."""
    return model


def prepare(model: Path, place: Path, precision: str) -> None:
    pass


def load(place: Path, precision: str, threads: int) -> Stepper:
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(threads)
    loaded: Any = GPT2LMHeadModel.from_pretrained(place, dtype=getattr(torch, precision))
    return Transformers(loaded.eval())


class Transformers(Stepper):
    def __init__(self, model: Any) -> None:
        self.model, self.past = model, None

    def start(self, rows: int, length: int) -> None:
        self.past = None

    def step(self, tokens: Sequence[Sequence[int]]) -> Array:
        import torch

        with torch.inference_mode():
            out = self.model(
                torch.tensor(tokens), past_key_values=self.past, use_cache=True, logits_to_keep=1
            )
            self.past = out.past_key_values
            return np.asarray(out.logits[:, -1].float())  # [N, V]
