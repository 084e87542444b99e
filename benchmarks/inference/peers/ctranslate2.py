"""CTranslate2: its own loop in C++, told of each token by a callback.

It takes its prompts at once (`include_prompt_in_result=False`) and writes texts of a fixed length.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference.contenders import Array, Written, made

AVX512 = {"avx512f", "avx512cd", "avx512vl", "avx512bw", "avx512dq"}


def place(model: Path, work: Path, precision: str) -> Path:
    return work / f"ctranslate2-{precision}"


def prepare(model: Path, place: Path, precision: str) -> None:
    import ctranslate2

    if not place.exists():
        converter = ctranslate2.converters.TransformersConverter(str(model))
        part = made(place)
        converter.convert(str(part), quantization=precision, force=True)
        part.rename(place)


def load(place: Path, precision: str, threads: int) -> CTranslate2:
    cpu = Path("/proc/cpuinfo")
    if cpu.exists() and set(cpu.read_text().split()) >= AVX512:
        os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")  # up to 5 % over its choice, AVX2
    import ctranslate2

    generator = ctranslate2.Generator(
        str(place), device="cpu", compute_type=precision, inter_threads=1, intra_threads=threads
    )
    return CTranslate2(generator, json.loads((place / "vocabulary.json").read_text("utf-8")))


class CTranslate2:
    def __init__(self, generator: Any, words: list[str]) -> None:
        self.generator, self.words = generator, words

    def start(self, rows: int, length: int) -> None:
        """Each call of the generator begins anew."""

    def write(self, prompts: list[list[int]], count: int) -> Written:
        times = [0.0] * count

        def note(result: Any) -> bool:
            times[result.step] = time.perf_counter()
            return False

        results = self.generator.generate_batch(
            [[self.words[token] for token in prompt] for prompt in prompts],
            min_length=count,
            max_length=count,
            include_prompt_in_result=False,
            callback=note,
        )
        return Written([result.sequences_ids[0] for result in results], times)

    def logits(self, prompt: list[int]) -> Array:
        words = [self.words[token] for token in prompt]
        logits: Array = np.array(self.generator.forward_batch([words]))  # [1, T, V]
        return np.array(logits[0, -1])  # [V]
