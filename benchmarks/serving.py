"""What a batch costs that rows join and leave: `python -m benchmarks.serving`.

GPT-2 124M's shape in int8 (random weights, in memory). First what prefix reuse saves: the first
token of the second turn of a talk, and 8 rows whose prompts share 500 tokens; then what the search
costs where prompts share nothing. Last a prompt of 900 tokens that joins 8 rows which decode: how
long its first token takes, and how long the others wait for a token meanwhile, by the number of
tokens that go through the engine in one step. Alternated, medians.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from gpt2lab.config import SIZES
from gpt2lab.engines.benchmark import random_params
from gpt2lab.engines.cpu.engine import CpuEngine
from gpt2lab.engines.protocol import Engine
from gpt2lab.generation.batch import CHUNK, Batch
from gpt2lab.generation.request import Request
from gpt2lab.generation.sampling import Sampling

ROUNDS = 5
PORTIONS = (32, 64, 128, CHUNK)
DICE = random.Random(0)


def text(length: int) -> tuple[int, ...]:
    """Random tokens."""
    return tuple(DICE.randrange(50_000) for _ in range(length))


def asked(prompt: Sequence[int], new: int = 1) -> Request:
    """A request for so many tokens at the defaults."""
    s = Sampling(max_new_tokens=new, temperature=0.8, top_p=0.95, seed=1, stop_tokens=())
    return Request(tuple(prompt), s)


def finished(batch: Batch, requests: Sequence[Request]) -> float:
    """The seconds until all rows of some requests are done."""
    start = time.perf_counter()
    for request in requests:
        batch.add(request)
    while batch:
        batch.step()
    return time.perf_counter() - start


def second_turn(engine: Engine, reuse: float | None) -> float:
    """The first token of a turn of 30 tokens after 400 of prompt and answer."""
    batch = Batch(engine, reuse=reuse)
    row = batch.add(asked(text(370), 30))
    while batch:
        batch.step()
    return finished(batch, [asked((*row.tokens, *text(30)))])


def shared_prompt(engine: Engine, reuse: float | None) -> float:
    """One token each of 8 rows: a prompt of 500 tokens that they share, then 20 of their own."""
    stem = text(500)
    return finished(Batch(engine, reuse=reuse), [asked((*stem, *text(20))) for _ in range(8)])


def nothing_shared(engine: Engine, reuse: float | None) -> float:
    """One token each of 8 rows whose prompts of 30 tokens share nothing, after 30 such rows."""
    batch = Batch(engine, reuse=reuse)
    for _ in range(30):
        finished(batch, [asked(text(30))])
    return finished(batch, [asked(text(30)) for _ in range(8)])


def milliseconds(measure: Callable[[Engine, float | None], float], engine: Engine) -> Any:
    """With reuse and without it, in turn."""
    found: dict[str, list[float]] = {"with reuse, ms": [], "without, ms": []}
    for _ in range(ROUNDS):
        for name, reuse in (("with reuse, ms", None), ("without, ms", 0)):
            found[name].append(measure(engine, reuse))
    return {name: round(1e3 * statistics.median(times), 1) for name, times in found.items()}


def search(engine: Engine) -> float:
    """Microseconds of the search for the beginning of a prompt among 64 kept rows and 16 others."""
    batch = Batch(engine, rows=16, reuse=1 << 33)
    finished(batch, [asked(text(30)) for _ in range(64)])
    for _ in range(16):
        batch.add(asked(text(30), 50))
    batch.step()
    running, prompt = [q for m in batch._running for q in m.sequences], list(text(900))
    start = time.perf_counter()
    for _ in range(100):
        batch._prefixes.best(prompt, running)
    return round(1e4 * (time.perf_counter() - start), 1)


def joining(engine: Engine, portion: int) -> dict[str, float]:
    """A prompt of 900 tokens that joins 8 rows which decode, in portions; milliseconds."""
    batch = Batch(engine, chunk=portion)
    for _ in range(8):
        batch.add(asked(text(30), 200))
    alone, beside = list[float](), list[float]()
    for step in range(24):
        start = time.perf_counter()
        batch.step()
        if step > 7:
            alone.append(time.perf_counter() - start)
    row = batch.add(asked(text(900), 2))
    begin = time.perf_counter()
    while not row.new_tokens:
        start = time.perf_counter()
        batch.step()
        beside.append(time.perf_counter() - start)
    found = {
        "first token": time.perf_counter() - begin,
        "others' step before": statistics.median(alone),
        "others' step meanwhile": statistics.median(beside),
    }
    return {name: round(1e3 * seconds, 1) for name, seconds in found.items()}


def main() -> None:
    config = SIZES["124M"]
    engine = CpuEngine(config, random_params(config), "int8")
    found: dict[str, Any] = {
        "second turn, 400 tokens and 30 new ones": milliseconds(second_turn, engine),
        "8 rows that share 500 tokens": milliseconds(shared_prompt, engine),
        "8 rows that share nothing": milliseconds(nothing_shared, engine),
        "search, microseconds a prompt": search(engine),
    }
    for portion in PORTIONS:
        found[f"a prompt joins, {portion} tokens a step, ms"] = joining(engine, portion)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
