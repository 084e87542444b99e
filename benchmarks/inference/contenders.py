"""Who takes part, and what each of them has to do: a module in `peers/` and lines in `CONTENDERS`.

A module of `peers/` has three functions. `place(model, work, precision)` names the file or folder
that the contender reads: the Hugging Face folder `model`, or its own in the folder `work`.
`prepare(model, place, precision)` makes it, once; `load(place, precision, threads)` gives a
`Contender`. None imports anything heavy before it is called.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Written:
    """The tokens of each row, and when each step's were at hand (`time.perf_counter`)."""

    tokens: list[list[int]]
    times: list[float]


class Contender(Protocol):
    """A model in memory, ready to write."""

    def start(self, rows: int, length: int) -> None:
        """Forget everything and make room for `rows` texts of `length` tokens; not timed."""

    def write(self, prompts: list[list[int]], count: int) -> Written:
        """After `start`: the `count` likeliest next tokens of each prompt, one after the other."""

    def logits(self, prompt: list[int]) -> Array:
        """The logits [V] after the prompt, by way of the cache where there is one."""


class Stepper:
    """A contender that is a forward pass with a cache, and the plainest loop over it."""

    def start(self, rows: int, length: int) -> None:
        raise NotImplementedError

    def step(self, tokens: Sequence[Sequence[int]]) -> Array:
        """Append as many tokens to each row; the logits after the last of each: [N, V]."""
        raise NotImplementedError

    def write(self, prompts: list[list[int]], count: int) -> Written:
        rows: list[list[int]] = [[] for _ in prompts]
        tokens, times = prompts, []
        for _ in range(count):
            chosen = self.step(tokens).argmax(-1).tolist()  # [N]
            times.append(time.perf_counter())
            for row, token in zip(rows, chosen, strict=True):
                row.append(token)
            tokens = [[token] for token in chosen]
        return Written(rows, times)

    def logits(self, prompt: list[int]) -> Array:
        self.start(1, len(prompt))
        self.step([prompt[:-1]])
        return np.array(self.step([prompt[-1:]])[0], np.float32)


@dataclass(frozen=True)
class Entry:
    """A line of the table of contenders."""

    module: str  # in `peers`
    precision: str  # as the module calls it
    needs: tuple[str, ...]  # what has to be importable
    bits: float  # of one weight, for the share of the memory's limit
    cache: int = 2  # bytes of a number in the cache of keys and values


TORCH = ("torch", "transformers")

CONTENDERS: dict[str, Entry] = {
    "gpt2lab float32": Entry("ours", "float32", ("gpt2lab",), 32, 4),
    "gpt2lab bfloat16": Entry("ours", "bfloat16", ("gpt2lab",), 16),
    "gpt2lab int8": Entry("ours", "int8", ("gpt2lab",), 8),
    "gpt2lab numpy": Entry("ours", "numpy", ("gpt2lab",), 32, 4),
    "transformers float32": Entry("transformers", "float32", TORCH, 32, 4),
    "transformers bfloat16": Entry("transformers", "bfloat16", TORCH, 16),
    "ctranslate2 float32": Entry("ctranslate2", "float32", ("ctranslate2",), 32, 4),
    "ctranslate2 int8": Entry("ctranslate2", "int8", ("ctranslate2",), 8, 4),
    "onnxruntime float32": Entry("onnxruntime", "float32", ("onnxruntime", "onnx"), 32, 4),
    "onnxruntime int8": Entry("onnxruntime", "int8", ("onnxruntime", "onnx", "onnx_ir"), 8, 4),
    "openvino float32": Entry("openvino", "float32", ("openvino",), 32, 1),
    "openvino bfloat16": Entry("openvino", "bfloat16", ("openvino",), 16, 1),
    "openvino int8": Entry("openvino", "int8", ("openvino", "nncf"), 8, 1),
    "llama.cpp F32": Entry("llama_cpp", "F32", ("llama_cpp", "gguf"), 32),
    "llama.cpp BF16": Entry("llama_cpp", "BF16", ("llama_cpp", "gguf"), 16),
    "llama.cpp Q8_0": Entry("llama_cpp", "Q8_0", ("llama_cpp", "gguf"), 8.5),
    "llama.cpp Q4_0": Entry("llama_cpp", "Q4_0", ("llama_cpp", "gguf"), 5.2),
}


def missing(name: str) -> list[str]:
    """What this contender needs and this Python does not have."""
    return [need for need in CONTENDERS[name].needs if importlib.util.find_spec(need) is None]


def module(name: str) -> Any:
    """The contender's module in `peers`."""
    return importlib.import_module(f"benchmarks.inference.peers.{CONTENDERS[name].module}")


def made(path: Path) -> Path:
    """A place to write to beside `path`; `rename` it there when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(path.name + ".part")
