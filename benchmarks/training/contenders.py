"""Who takes part: a module in `peers/` and lines in `CONTENDERS`.

A module of `peers/` has one function: `train(case, steps, threads, **options)` does so many steps
and gives a `Trained`. None imports anything heavy before it is called.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Trained:
    """When each step was over (`time.perf_counter`), and its loss before the update."""

    times: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """A line of the table of contenders.

    kept: let the C library keep freed memory, as gpt2lab does for itself: what peers would gain.
    """

    module: str  # in `peers`
    options: dict[str, Any]
    needs: tuple[str, ...]  # what has to be importable
    kept: bool = False


_HF = ("torch", "transformers", "accelerate")

_PEERS: dict[str, Entry] = {
    "nanogpt": Entry("nanogpt", {"compiled": False}, ("torch",)),
    "nanogpt-best": Entry("nanogpt", {"compiled": True}, ("torch",)),
    "hf-trainer": Entry("hf_trainer", {"compiled": False}, _HF),
    "hf-trainer-compile": Entry("hf_trainer", {"compiled": True}, _HF),
}

#: What each of our ways gains, by taking it away; and what compiling would add.
_WITHOUT: dict[str, Entry] = {
    "gpt2lab-unkept": Entry("ours", {"dtype": "auto", "without": "kept memory"}, ("torch",)),
    "gpt2lab-plain": Entry(
        "ours",
        {"dtype": "float32", "attention": "products", "matmul": "onednn", "loss": "pieces"},
        ("torch",),
    ),
    "gpt2lab-sdpa": Entry("ours", {"dtype": "auto", "attention": "fused"}, ("torch",)),
    "gpt2lab-whole": Entry("ours", {"dtype": "auto", "loss": "whole"}, ("torch",)),
    "gpt2lab-foreach": Entry("ours", {"dtype": "auto", "without": "fused AdamW"}, ("torch",)),
    "gpt2lab-mkl": Entry("ours", {"dtype": "float32", "matmul": "blas"}, ("torch",)),
    "gpt2lab-compiled": Entry("ours", {"dtype": "auto", "compile": True}, ("torch",)),
}

CONTENDERS: dict[str, Entry] = {
    "gpt2lab": Entry("ours", {"dtype": "auto"}, ("torch",)),
    "gpt2lab-float32": Entry("ours", {"dtype": "float32"}, ("torch",)),
    **_PEERS,
    **{
        f"{name}+kept": Entry(entry.module, entry.options, entry.needs, kept=True)
        for name, entry in _PEERS.items()
    },
    **_WITHOUT,
}
#: Who takes part when nobody is named.
USUAL = [name for name in CONTENDERS if name not in _WITHOUT]


def missing(name: str) -> list[str]:
    """What this contender needs and this Python does not have."""
    return [need for need in CONTENDERS[name].needs if importlib.util.find_spec(need) is None]


def module(name: str) -> Any:
    """The contender's module in `peers`."""
    return importlib.import_module(f"benchmarks.training.peers.{CONTENDERS[name].module}")
