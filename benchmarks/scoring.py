"""What scores cost: `python -m benchmarks.scoring`.

GPT-2 124M's shape with random weights, the cpu engine in each dtype. A prefill of 1,024 tokens, a
score at all of their positions (also with the five most probable ids, ranks and entropies) and one
at five positions take turns; so do four endings of one context of 100 tokens, in one call and as
four separate texts. Medians are compared, as ratios to the prefill or to the separate texts. The
memory is the peak of a fresh process that scores over that of one that reads the same tokens.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference.one import peak
from gpt2lab.config import SIZES
from gpt2lab.engines.cpu.engine import CpuEngine
from gpt2lab.engines.wanted import Wanted
from gpt2lab.init import initialise
from gpt2lab.score import continuations, rolling

DTYPES = ("float32", "bfloat16", "int8", "int4")
TOKENS, CONTEXT, ENDING = 1024, 100, 20
FIVE = [1, 100, 500, 800, 1023]
GOALS = {"all positions": 1.6, "five positions": 1.05, "four endings": 0.4, "memory, MB": 30.0}


def model(dtype: str, threads: int) -> CpuEngine:
    """The engine that is measured."""
    config = SIZES["124M"]
    return CpuEngine(config, initialise(config, 0), dtype, threads=threads)


def ids(count: int, seed: int = 0) -> list[int]:
    """Random tokens."""
    return np.random.default_rng(seed).integers(0, SIZES["124M"].n_vocab, count).tolist()


def read(engine: CpuEngine) -> None:
    """A prefill."""
    cache = engine.cache()
    slot = cache.new()
    engine.step(cache, [slot], [ids(TOKENS)])
    cache.free(slot)


def score(engine: CpuEngine, wanted: Wanted) -> None:
    """The same tokens, with scores."""
    cache = engine.cache()
    slot = cache.new()
    engine.score(cache, [slot], [ids(TOKENS)], [wanted])
    cache.free(slot)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def medians(works: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """The median seconds of each, which take turns; the first turn is not counted."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            found = seconds(work)
            times[name] += [found] * (turn > 0)
    return {name: statistics.median(found) for name, found in times.items()}


def speeds(engine: CpuEngine, turns: int) -> dict[str, float]:
    """The ratios of the times."""
    targets, context = ids(TOKENS, 1), ids(CONTEXT, 2)
    endings = [ids(ENDING, 3 + i) for i in range(4)]
    texts = [[*context, *ending] for ending in endings]
    everything = Wanted(range(TOKENS), targets, 5, rank=True, entropy=True)
    long = medians(
        {
            "prefill": lambda: read(engine),
            "all positions": lambda: score(engine, Wanted(range(TOKENS), targets)),
            "all of everything": lambda: score(engine, everything),
            "five positions": lambda: score(engine, Wanted(FIVE, targets[:5])),
        },
        turns,
    )
    short = medians(
        {
            "four endings": lambda: continuations(engine, [(context, endings)]),
            "separate texts": lambda: [rolling(engine, [text]) for text in texts],
            "a list of texts": lambda: rolling(engine, texts),
        },
        turns,
    )
    before, apart = long.pop("prefill"), short.pop("separate texts")
    print(f"prefill of {TOKENS} tokens: {before:.3f} s; four separate texts: {apart:.3f} s")
    found = {name: value / before for name, value in long.items()}
    return found | {name: value / apart for name, value in short.items()}


def memory(dtype: str, threads: int) -> float:
    """MB that a score at all positions takes beyond a prefill, each in a fresh process."""
    peaks = []
    for what in ("read", "score"):
        command = [sys.executable, "-m", "benchmarks.scoring", "--peak", what]
        command += ["--dtypes", dtype, "--threads", str(threads)]
        run = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
        )
        peaks.append(float(run.stdout.split()[-1]))
    return peaks[1] - peaks[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scoring",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5, help="of each piece of work; 5")
    parser.add_argument("--peak", choices=("read", "score"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        engine = model(options.dtypes[0], options.threads)
        read(engine)
        if options.peak == "score":
            score(engine, Wanted(range(TOKENS), ids(TOKENS, 1)))
        print(peak())
        return
    for dtype in options.dtypes:
        print(f"\n{dtype}", flush=True)
        found = speeds(model(dtype, options.threads), options.turns)
        found["memory, MB"] = memory(dtype, options.threads)
        for name, value in found.items():
            goal = f"goal {GOALS[name]:g}" if name in GOALS else ""
            print(f"  {name:20} {value:8.2f}  {goal}", flush=True)


if __name__ == "__main__":
    main()
