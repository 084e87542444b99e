"""One contender in a process of its own; `__main__` starts it and reads its last line, JSON.

`python -m benchmarks.inference.one prepare|check|measure NAME MODEL WORK THREADS [CASE...]`
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.inference.bandwidth import Memory
from benchmarks.inference.cases import CASES, Case
from benchmarks.inference.contenders import CONTENDERS, Contender, module
from benchmarks.inference.goals import bytes_per_token

TURNS = 9


def peak() -> float:
    """The most memory that this process has held, MB. `ru_maxrss` may be the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def speed(contender: Contender, case: Case) -> float:
    """Tokens a second of the case: its prompts' where it writes nothing, else the new ones'."""
    prompts, count = case.prompts(), 1 + case.new
    contender.start(case.rows, case.prompt + count)
    contender.write(prompts, min(count, 4))  # warm
    found = []
    for _ in range(case.repeats):
        contender.start(case.rows, case.prompt + count)
        start = time.perf_counter()
        times = contender.write(prompts, count).times
        if case.new:
            found.append(case.rows * case.new / (times[-1] - times[0]))
        else:
            found.append(case.rows * case.prompt / (times[0] - start))
    return statistics.median(found)


def share(contender: Contender, name: str, threads: int) -> dict[str, float]:
    """What part of the memory's limit a single text reaches: the median of short turns, each
    compared with the limit right before and after it, which may be another one a second later."""
    short = replace(CASES["decode32"], new=16, repeats=1)
    need = bytes_per_token(name, short.prompt + short.new / 2)
    memory = Memory(need, threads)
    limits, parts = [memory.read()], []
    for _ in range(TURNS):
        rate = speed(contender, short) * need / 1e9
        limits.append(memory.read())
        parts.append(2 * rate / sum(limits[-2:]))
    return {"share": statistics.median(parts), "GB/s": statistics.median(limits)}


def measure(contender: Contender, name: str, cases: list[str], threads: int) -> dict[str, float]:
    """First token, by the wall's clock, peak memory after a short text, and the cases."""
    case = CASES["decode32"]
    contender.start(1, case.prompt + 1)
    contender.write(case.prompts(), 1)
    found = {"first": time.time()}
    contender.start(1, case.prompt + case.new)
    contender.write(case.prompts(), case.new)
    found["peak"] = peak()
    for each in cases:
        found[each] = speed(contender, CASES[each])
    return found | (share(contender, name, threads) if "decode32" in cases else {})


def check(contender: Contender, model: Path) -> dict[str, float]:
    """How far the logits after a prompt are from the reference's, in their standard deviations."""
    import numpy as np

    from gpt2lab import reference, weights

    prompt = CASES["decode32"].prompts()[0]
    config, params, _ = weights.load(model)
    wanted = reference.model(config, params, [prompt], last=True)["logits"][0, -1]
    error = (contender.logits(prompt) - wanted) / wanted.std()
    return {"largest": float(np.abs(error).max()), "usual": float(np.sqrt((error**2).mean()))}


def main() -> None:
    verb, name, model, work, threads, *cases = sys.argv[1:]
    entry, peer = CONTENDERS[name], module(name)
    place = peer.place(Path(model), Path(work), entry.precision)
    result: dict[str, Any] = {}
    if verb == "prepare":
        peer.prepare(Path(model), place, entry.precision)
    else:
        contender = peer.load(place, entry.precision, int(threads))
        if verb == "check":
            result = check(contender, Path(model))
        else:
            result = measure(contender, name, cases, int(threads))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
