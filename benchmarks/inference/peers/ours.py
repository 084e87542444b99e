"""gpt2lab's own engines, through the protocol that every engine keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.inference.contenders import Array, Stepper


def place(model: Path, work: Path, precision: str) -> Path:
    return model


def prepare(model: Path, place: Path, precision: str) -> None:
    """Nothing of its own but kernels and packed weights, which the first load keeps on disk."""
    load(place, precision, 2)


def load(place: Path, precision: str, threads: int) -> Stepper:
    import gpt2lab

    if precision == "numpy":
        return Ours(gpt2lab.load(place, engine="numpy").engine)
    return Ours(gpt2lab.load(place, engine="cpu", dtype=precision, threads=threads).engine)


class Ours(Stepper):
    def __init__(self, engine: Any) -> None:
        self.engine, self.cache = engine, engine.cache()
        self.slots: list[int] = []

    def start(self, rows: int, length: int) -> None:
        for slot in self.slots:
            self.cache.free(slot)
        self.slots = [self.cache.new() for _ in range(rows)]

    def step(self, tokens: Sequence[Sequence[int]]) -> Array:
        logits: Array = self.engine.step(self.cache, self.slots, tokens)  # [N, V]
        return logits
