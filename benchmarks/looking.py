"""What looking inside costs: `python -m benchmarks.looking`.

GPT-2 124M's shape with random weights, 100 tokens, the `numpy` engine. Plain reading, a trace of
all names, one of chosen names (the patterns, the stream after each layer, the logits) and an act in
every layer take turns in a random order, so that a slow minute of the machine is everybody's, and
what the work before left in memory too; medians are compared. Then the views, and the page of a
40-token prompt on the bundled model.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import gpt2lab
from gpt2lab import lens
from gpt2lab.config import SIZES
from gpt2lab.init import initialise
from gpt2lab.lens import page, walkthrough
from gpt2lab.lm import LM
from gpt2lab.weights import Checkpoint

TURNS = 25
PROMPT = (
    "Once upon a time, there was a little girl named Lily. She had a big red ball and a small dog. "
    "One day, the ball rolled into the dark forest, and Lily and her dog went after it."
)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def costs(model: LM, tokens: list[int]) -> None:
    """A trace, and acts, beside the plain reading."""
    chosen = ["pattern", "resid_post", "logits"]
    silenced = [lens.silence_heads(layer, 0) for layer in range(model.config.n_layer)]
    works: dict[str, Callable[[], Any]] = {
        "plain": lambda: model.logits([tokens]),
        "all names": lambda: model.trace(tokens),
        "chosen names": lambda: model.trace(tokens, chosen),
        "a head silenced in each layer": lambda: model.trace(tokens, "logits", acts=silenced),
    }
    for work in works.values():
        work()
    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(TURNS):
        for name in order.sample(list(works), len(works)):
            times[name].append(seconds(works[name]))
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, median in medians.items():
        ratio = median / medians["plain"]
        print(f"{name:32} {median:8.3f} s {ratio:6.2f} times plain", flush=True)


def views(model: LM, tokens: list[int]) -> None:
    """Each view of one text, once warmed up."""
    trace = model.trace(tokens)
    shorter = tokens[:40]
    works: dict[str, Callable[[], Any]] = {
        "next tokens": lambda: lens.next_tokens(trace),
        "logit lens": lambda: lens.logit_lens(trace),
        "attribution by neuron": lambda: lens.attribution(trace, by="neuron"),
        "head scores, one text of 101": lambda: lens.head_scores(model, batch=1),
        "source walk, 40 tokens": lambda: walkthrough.walk(model, shorter),
        "sweep of resid_pre, 20 tokens": lambda: lens.sweep(model, tokens[:20], tokens[20:40], 7),
        "page, 40 tokens": lambda: page.render(model, shorter),
    }
    for name, work in works.items():
        work()
        print(f"{name:32} {statistics.median(seconds(work) for _ in range(3)):8.3f} s", flush=True)


def main() -> None:
    config = SIZES["124M"]
    checkpoint = Checkpoint(config, initialise(config, 0), None, "none")
    model = LM(checkpoint, engine="numpy")
    tokens = np.random.default_rng(0).integers(0, config.n_vocab, 100).tolist()
    costs(model, tokens)
    views(model, tokens)
    fable = gpt2lab.load(engine="numpy")
    prompt = fable.encode(PROMPT)[:40]
    whole = page.render(fable, prompt)
    print(f"page of {len(prompt)} tokens, bundled model: {len(whole.encode()) / 2**20:.2f} MB")


if __name__ == "__main__":
    main()
