"""Writing speed against transformers: `python -m benchmarks.generation`.

GPT-2 124M's shape with random weights (the speed does not know the difference), greedy, two
threads, a fresh process for each run, the engines in turn, medians. transformers is left out where
it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEW = 48

Stream = Callable[[list[int]], Iterator[int]]


def ours() -> Stream:
    from gpt2lab import SIZES, Sampling, engines, generate, reference

    config = SIZES["124M"]
    engine = engines.choose(config, reference.initialise(config, 0), "numpy")
    s = Sampling(temperature=0, max_new_tokens=NEW, stop_tokens=())
    return lambda prompt: (token.id for token in generate.tokens(engine, [prompt], s))


def transformers() -> Stream:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(2)
    model = GPT2LMHeadModel(GPT2Config()).eval()

    def stream(prompt: list[int]) -> Iterator[int]:
        """Its forward pass in the plainest loop: `generate()` itself is slower."""
        tokens, past = torch.tensor([prompt]), None
        with torch.inference_mode():
            for _ in range(NEW):
                out = model(tokens, past_key_values=past, use_cache=True, logits_to_keep=1)
                past, tokens = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
                yield int(tokens)

    return stream


ENGINES: dict[str, Callable[[], Stream]] = {"gpt2lab numpy": ours, "transformers": transformers}


def measure(name: str, length: int) -> dict[str, float]:
    """Tokens a second of the prompt (its time to the first token) and of the rest."""
    stream, prompt = ENGINES[name](), list(range(100, 100 + length))
    next(stream(prompt[:8]))
    start = time.perf_counter()
    times = [time.perf_counter() - start for _ in stream(prompt)]
    return {"prefill": length / times[0], "decode": (NEW - 1) / (times[-1] - times[0])}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=ENGINES)
    parser.add_argument("--length", type=int, default=0)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.length)))
        return
    names = [name for name in ENGINES if importlib.util.find_spec(name.split()[0])]
    print(f"{'engine':16} {'from':>5} {'prefill/s':>10} {'decode/s':>9}")
    for length in (32, 512):
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(options.runs):
            for name in names:
                command = [sys.executable, "-m", "benchmarks.generation", "--only", name]
                run = subprocess.run(
                    [*command, "--length", str(length)],
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                found[name].append(json.loads(run.stdout.splitlines()[-1]))
        for name in names:
            prefill = statistics.median(row["prefill"] for row in found[name])
            decode = statistics.median(row["decode"] for row in found[name])
            print(f"{name:16} {length:5} {prefill:10.0f} {decode:9.1f}")


if __name__ == "__main__":
    main()
