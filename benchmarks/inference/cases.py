"""What is measured: how many texts, how long their prompts are, how many tokens each is given."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """`rows` texts go on from prompts of `prompt` tokens by 1 + `new` tokens each.

    The first token of each is the prefill's. With `new` 0 the prefill is what is measured.
    """

    rows: int
    prompt: int
    new: int
    repeats: int  # in one process; their median counts
    title: str

    def prompts(self) -> list[list[int]]:
        """The same random tokens for everybody, other ones in each row."""
        draw = random.Random(self.rows)
        return [[draw.randrange(50257) for _ in range(self.prompt)] for _ in range(self.rows)]


CASES: dict[str, Case] = {
    "decode32": Case(1, 32, 96, 3, "decode from 32"),
    "decode512": Case(1, 512, 64, 3, "decode from 512"),
    "prefill512": Case(1, 512, 0, 3, "prefill of 512"),
    "batch8": Case(8, 32, 32, 2, "batch of 8"),
    "batch32": Case(32, 32, 32, 2, "batch of 32"),
}
