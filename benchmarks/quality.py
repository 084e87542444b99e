"""What short numbers cost: `python -m benchmarks.quality`.

The cpu engine with the weights and the cache in each dtype, against its own float32, which is first
held against the reference in float64. Every model reads the same windows: the perplexity of a
token, its relative change with two standard errors (the tokens are paired), how often the likeliest
token is the same, and the mean Kullback-Leibler divergence KL(float32 || short).

Texts are optional data in ../shared/data; what is missing is left out with a line, and the bundled
model then reads texts that it wrote itself. More tokens: --tokens 100000.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab import Sampling, reference, weights
from gpt2lab.config import Config
from gpt2lab.engines.cpu import cpu_features
from gpt2lab.engines.cpu.calibration import calibrated
from gpt2lab.engines.cpu.engine import CpuEngine
from gpt2lab.generation import generate
from gpt2lab.generation.batch import Batch
from gpt2lab.generation.request import requests
from gpt2lab.score import exponential
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.weights import find

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
STORIES, WIKITEXT = "corpus_en/tinystories/test.txt", "wikitext2/wiki.test.raw"
MGM = "model_mgm_gpt2"

#: (weights, cache), after float32 for both.
PAIRS = (
    ("bfloat16", "bfloat16"),
    ("int8", "bfloat16"),
    ("float32", "bfloat16"),
    ("float32", "int8"),
    ("int8", "int8"),
    ("int4", "bfloat16"),
)
#: Per cent of perplexity, the coarser of weights and cache counts.
GOALS = {"float32": 0.1, "bfloat16": 0.1, "int8": 0.5, "int4": 3.0}
CALIBRATION = 12_000  # tokens beyond those that are scored
OUTLIERS, GAIN = 3, 50  # how many columns of the stress models, and by what they are multiplied
ROWS = 128  # of logits that are looked at together: they stay in the processor's caches

Array = np.ndarray[Any, np.dtype[Any]]
Params = dict[str, Array]
Window = tuple[list[int], Array]  # inputs, and the targets of its last places


@dataclass
class Cost:
    """Sums over the scored tokens of one engine."""

    n: int = 0
    nll: float = 0.0
    change: float = 0.0  # nats above float32
    change_squared: float = 0.0
    agree: int = 0
    kl: float = 0.0

    def add(self, nll: Array, base: Array, agree: Array, kl: Array) -> None:
        self.n += len(nll)
        self.nll += float(nll.sum())
        self.change += float((nll - base).sum())
        self.change_squared += float(np.square(nll - base).sum())
        self.agree += int(agree.sum())
        self.kl += float(kl.sum())

    def row(self) -> dict[str, float]:
        """Perplexity, its change and two standard errors of it in per cent, agreement, KL."""
        mean = self.change / self.n
        deviation = math.sqrt(max(0.0, self.change_squared / self.n - mean * mean))
        return {
            "perplexity": exponential(self.nll / self.n),
            "change_percent": 100 * math.expm1(mean),
            "error_percent": 200 * deviation / math.sqrt(self.n),
            "top1_percent": 100 * self.agree / self.n,
            "kl": self.kl / self.n,
        }


# ---- Texts, as windows whose last places are scored.


def windows(text: list[int], n_ctx: int) -> Iterator[Window]:
    """As `gpt2lab score` cuts a text: windows of n_ctx, moved by half, each token scored once."""
    inputs, targets, done = text[:-1], np.asarray(text[1:]), 0
    while done < len(inputs):
        end = min(len(inputs), done + (n_ctx // 2 if done else n_ctx))
        yield inputs[max(0, end - n_ctx) : end], targets[done:end]
        done = end


def _start(config: Config) -> int:
    assert config.begin is not None, "quality is measured of models with an end token"
    return config.begin


def stories(config: Config, tokenizer: Tokenizer, count: int) -> list[Window]:
    """Whole held-out stories, each after the end token and with its own."""
    found: list[Window] = []
    for story in (DATA / STORIES).read_text("utf-8").split("<|endoftext|>"):
        if story.strip() and sum(len(targets) for _, targets in found) < count:
            text = [_start(config), *tokenizer.encode(story.strip()), _start(config)]
            found += windows(text, config.n_ctx)
    return found


def wikitext(config: Config, tokenizer: Tokenizer, count: int) -> list[Window]:
    """The beginning of the raw test set, as one text after the end token."""
    text = (DATA / WIKITEXT).read_text("utf-8")[: 8 * count]
    return list(windows([_start(config), *tokenizer.encode(text)[:count]], config.n_ctx))


def own_texts(config: Config, params: Params, count: int) -> list[Window]:
    """What the model itself writes in float32, unfiltered: what it expects to read."""
    engine = CpuEngine(config, params, "float32")
    found: list[Window] = []
    seed = 0
    while sum(len(targets) for _, targets in found) < count:
        s = Sampling(n=16, seed=seed, max_new_tokens=config.n_ctx)
        batch, [request] = Batch(engine), requests([[_start(config)]], s, config)
        rows = [batch.add(request, i) for i in range(s.n)]
        deque(generate.tokens(batch), maxlen=0)
        for row in rows:
            found += windows(row.tokens[: config.n_ctx + 1], config.n_ctx)
        seed += 1
    return found


# ---- Models.


def with_outliers(config: Config, params: Params) -> Params:
    """The same function, but with three columns `GAIN` times as large after ln_1 and ln_2.

    The rows of c_attn and c_fc that read them are divided by it. Such columns are what makes large
    language models hard to hold in few bits (Dettmers et al. 2022).
    """
    params = {name: value.astype(np.float32) for name, value in params.items()}
    columns = np.random.default_rng(0).choice(config.n_embd, OUTLIERS, replace=False)
    for i in range(config.n_layer):
        for norm, matrix in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            params[f"h.{i}.{norm}.weight"][columns] *= GAIN
            params[f"h.{i}.{norm}.bias"][columns] *= GAIN
            params[f"h.{i}.{matrix}.weight"][columns] /= GAIN
    return params


def with_loud_keys(config: Config, params: Params) -> Params:
    """The same function, but with one number of every key `GAIN` times as large.

    The query's is divided by it. A cache with one scale a key finds that hard, and trained models
    have such channels (KIVI, Liu et al. 2024).
    """
    params = {name: value.astype(np.float32) for name, value in params.items()}
    queries = np.arange(0, config.n_embd, config.head_width)
    for i in range(config.n_layer):
        for part in ("weight", "bias"):
            value = params[f"h.{i}.attn.c_attn.{part}"]
            value[..., queries] /= GAIN
            value[..., config.n_embd + queries] *= GAIN
    return params


# ---- Measuring.


def log_sum_exp(logits: Array) -> Array:
    """[T, V] -> [T]."""
    top = logits.max(axis=-1)
    return top + np.log(np.exp(logits - top[:, None]).sum(axis=-1), dtype=np.float64)


def difference_to_reference(config: Config, params: Params, texts: list[Window]) -> float:
    """The largest difference of any logit of cpu float32 to the reference in float64."""
    exact = {name: value.astype(np.float64) for name, value in params.items()}
    engine, worst = CpuEngine(config, params, "float32"), 0.0
    for inputs, _ in texts[:2]:
        logits = reference.model(config, exact, [inputs])["logits"]
        worst = max(worst, float(np.abs(engine.logits([inputs]) - logits).max()))
    return worst


def parted(texts: list[Window]) -> tuple[list[Window], list[list[int]]]:
    """Windows to score, and sequences of about `CALIBRATION` tokens to calibrate by."""
    texts, others = list(texts), list[list[int]]()
    while sum(map(len, others)) < CALIBRATION:
        others.append(texts.pop()[0][:256])
    return texts, others


def measure(
    config: Config, params: Params, texts: list[Window], others: list[list[int]]
) -> dict[str, dict[str, float]]:
    """A row for float32, for each of `PAIRS`, and for int4 calibrated by other texts."""
    names: list[tuple[str, str]] = [("float32", "float32"), *PAIRS]
    engines = [CpuEngine(config, params, dtype, cache_dtype=cache) for dtype, cache in names]
    engines.append(CpuEngine(config, calibrated(config, params, others), "int4"))
    names.append(("int4", "calibrated"))
    costs = [Cost() for _ in names]
    for inputs, targets in texts:
        whole = [engine.logits([inputs])[0, -len(targets) :] for engine in engines]
        for start in range(0, len(targets), ROWS):
            part = targets[start : start + ROWS]
            place = np.arange(len(part))
            exact = whole[0][start : start + ROWS]  # [t, V]
            sums, best = log_sum_exp(exact), exact.argmax(-1)
            p = np.exp(exact - sums[:, None].astype(np.float32))
            base = sums - exact[place, part]
            for cost, all_logits in zip(costs, whole, strict=True):
                logits = all_logits[start : start + ROWS]
                total = log_sum_exp(logits)
                kl = np.einsum("tv,tv->t", p, exact - logits) + total - sums
                cost.add(total - logits[place, part], base, logits.argmax(-1) == best, kl)
    return {" ".join(name): cost.row() for name, cost in zip(names, costs, strict=True)}


def left_out(what: str) -> None:
    print(f"left out, not in ../shared/data: {what}", file=sys.stderr)


def sets(count: int) -> Iterator[tuple[str, Config, Params, list[Window]]]:
    """Every (title, model, texts) that there is data for."""
    config, params, tokenizer = weights.load(find.resolve(None))
    assert tokenizer is not None
    if (DATA / STORIES).exists():
        plain = stories(config, tokenizer, count)
        yield "fable, held-out stories", config, params, plain
    else:
        left_out(f"{STORIES}; fable reads its own texts instead")
        plain = own_texts(config, params, count)
        yield "fable, its own texts", config, params, plain
    yield "fable with outliers, the same", config, with_outliers(config, params), plain
    yield "fable with loud keys, the same", config, with_loud_keys(config, params), plain
    if (DATA / WIKITEXT).exists():
        yield "fable, WikiText-2", config, params, wikitext(config, tokenizer, count)
    else:
        left_out(WIKITEXT)
    if (DATA / MGM).exists():
        config, params, _ = weights.load(DATA / MGM)
        written = own_texts(config, params, count)
        yield "MGM, its own texts", config, params, written
        yield "MGM with outliers, the same", config, with_outliers(config, params), written
    else:
        left_out(MGM)


def show(found: dict[str, Any]) -> None:
    print(f"\n{found['set']}: {found['tokens']} tokens in {found['windows']} windows", end="")
    print(f"; float32 is within {found['difference']:.1e} of the reference")
    print(f"{'weights  cache':18} {'perplexity':>10} {'change %':>16} {'top-1 %':>8} {'KL':>8}")
    for name, row in found["rows"].items():
        change = f"{row['change_percent']:+.3f} ±{row['error_percent']:.3f}"
        goal = max(GOALS.get(dtype, 0.0) for dtype in name.split())
        missed = f"  over {goal} %" if row["change_percent"] > goal else ""
        print(f"{name:18} {row['perplexity']:10.4f} {change:>16}", end="")
        print(f" {row['top1_percent']:8.2f} {row['kl']:8.1e}{missed}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tokens", type=int, default=30_000, help="at least so many of each set")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if cpu_features.why_not():
        print(f"left out: the cpu engine cannot run here, {cpu_features.why_not()}")
        return
    found = []
    for title, config, params, every in sets(options.tokens + 2 * CALIBRATION):
        texts, others = parted(every)
        found.append(
            {
                "set": title,
                "tokens": sum(len(targets) for _, targets in texts),
                "calibration": sum(map(len, others)),
                "windows": len(texts),
                "difference": difference_to_reference(config, params, texts),
                "rows": measure(config, params, texts, others),
            }
        )
        if not options.json:
            show(found[-1])
    if options.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
