"""What drawing tokens costs beside the engine's step: `python -m benchmarks.sampling`.

Tokens per second of `lm.complete` at the package's defaults (temperature 0.8, top-p 0.95) as a part
of what the engine's bare steps reach, for one stream and for 32 rows: GPT-2 124M's shape in int8
(random weights, in memory) and the bundled model. Both are measured in turn, and the medians
compared. A run of `complete` counts from its 8th token on, so the prompt is left out.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import numpy as np

import gpt2lab
from gpt2lab.config import SIZES
from gpt2lab.engines.cpu import compile_cache
from gpt2lab.generation.draws import RowAsked, draw_rows
from gpt2lab.init import initialise
from gpt2lab.text.tokenizer import official
from gpt2lab.weights.checkpoint import Checkpoint

PROMPT, FIRST, LAST = 32, 8, 72  # tokens
ROUNDS = 5


def bare(lm: gpt2lab.LM, rows: int) -> float:
    """Seconds of one step of `rows` sequences, nothing drawn."""
    engine, cache = lm.engine, lm.engine.cache()
    slots = [cache.new() for _ in range(rows)]
    engine.step(cache, slots, [list(range(1, PROMPT + 1))] * rows)
    for _ in range(FIRST):
        engine.step(cache, slots, [[5]] * rows)
    start = time.perf_counter()
    for _ in range(LAST - FIRST):
        engine.step(cache, slots, [[5]] * rows)
    seconds = time.perf_counter() - start
    for slot in slots:
        cache.free(slot)
    return seconds / (LAST - FIRST)


def complete(lm: gpt2lab.LM, rows: int) -> float:
    """Seconds of one step of `lm.complete` at the defaults."""
    prompt = list(range(1, PROMPT + 1))

    def seconds(length: int) -> float:
        start = time.perf_counter()
        lm.complete(
            [prompt], n=rows, batch_size=rows, max_new_tokens=length, stop_tokens=(), seed=1
        )
        return time.perf_counter() - start

    return (seconds(LAST) - seconds(FIRST)) / (LAST - FIRST)


def compared(lm: gpt2lab.LM, rows: int) -> dict[str, float]:
    """Milliseconds of a step, bare and complete, and how much of the bare rate is left."""
    times: dict[str, list[float]] = {"bare": [], "complete": []}
    for _ in range(ROUNDS):
        times["bare"].append(bare(lm, rows))
        times["complete"].append(complete(lm, rows))
    without, whole = (statistics.median(times[name]) for name in ("bare", "complete"))
    return {
        "bare step, ms": round(1e3 * without, 2),
        "step of complete, ms": round(1e3 * whole, 2),
        "part of the bare rate": round(without / whole, 2),
    }


def draws(lm: gpt2lab.LM, rows: int = 32) -> dict[str, float]:
    """Milliseconds of drawing for some rows at the defaults: compiled, and in NumPy."""
    logits = np.random.default_rng(0).normal(0, 0.55, (rows, lm.config.n_vocab)).astype(np.float32)
    [request] = lm.requests([[1]], "refuse", {"seed": 1}, ())
    asked = [RowAsked(row, request, [1], place) for place, row in enumerate(logits)]
    found: dict[str, list[float]] = {"compiled": [], "NumPy": []}
    for _ in range(ROUNDS):
        for name, engine in (("compiled", lm.engine), ("NumPy", None)):
            start = time.perf_counter()
            draw_rows(engine, asked)
            found[name].append(time.perf_counter() - start)
    return {name: round(1e3 * statistics.median(times), 2) for name, times in found.items()}


def main() -> None:
    config = SIZES["124M"]
    large = Checkpoint(config, initialise(config, 0), official(), "random")
    models = {
        "124M int8": gpt2lab.LM(large, engine="cpu", dtype="int8"),
        "fable": gpt2lab.load(None, engine="cpu", dtype="int8"),
    }
    compile_cache.library("draw", models["fable"].engine.target)  # type: ignore[attr-defined]
    found: dict[str, Any] = {"draws for 32 rows of 124M, ms": draws(models["124M int8"])}
    for name, lm in models.items():
        for rows in (1, 32):
            found[f"{name}, rows {rows}"] = compared(lm, rows)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
