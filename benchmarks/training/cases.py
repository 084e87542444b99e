"""What is trained: the shape of a model and of a batch, and tokens to train on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

TOKENS = 1_000_000


@dataclass(frozen=True)
class Case:
    """A model, `batch` texts of `block` tokens a step, and how many steps are timed."""

    n_layer: int
    n_head: int
    n_embd: int
    block: int
    batch: int
    n_vocab: int
    steps: int
    title: str

    @property
    def tokens_a_step(self) -> int:
        return self.batch * self.block

    def tokens(self) -> np.ndarray[Any, np.dtype[np.uint16]]:
        """The same ids for everybody, some of them far more frequent than others, as in texts."""
        draw = np.random.default_rng(self.n_vocab)
        return (self.n_vocab * draw.random(TOKENS) ** 3).astype(np.uint16)


CASES: dict[str, Case] = {
    "a": Case(6, 6, 384, 256, 16, 50257, 8, "6 layers, 384 wide, 16 x 256 tokens"),
    "b": Case(12, 12, 768, 128, 4, 50257, 8, "124M, 4 x 128 tokens"),
    "c": Case(12, 12, 768, 1024, 1, 50257, 6, "124M, 1 x 1024 tokens"),
    "d": Case(6, 6, 384, 256, 16, 65, 12, "6 layers, 384 wide, vocabulary of 65"),
    "e": Case(4, 4, 128, 64, 12, 65, 100, "4 layers, 128 wide, 12 x 64, vocabulary of 65"),
}
