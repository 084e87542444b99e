"""Two models on the same items: is a difference real, and where are they different?

A perplexity or an accuracy of both comes with an interval of the difference, by resampling the
items, the same ones for both (a paired bootstrap); accuracies also with McNemar's exact test, which
looks at the items that only one of them gets right. Beside numbers: the tokens of a text whose
probability moved most, the drift of weights by layer, and samples of the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2lab.errors import InputError
from gpt2lab.evals.measures import number_of
from gpt2lab.evals.suite import Cell
from gpt2lab.lm import LM

Array = np.ndarray[Any, np.dtype[Any]]

DRAWS, SEED = 2000, 0


@dataclass(frozen=True)
class Difference:
    """One number of two models.

    low, high: the 95 % interval of second - first. p: McNemar's, for accuracies. noise: the largest
    distance between two runs of one recipe, where several were given.
    """

    task: str
    protocol: str
    metric: str
    first: float
    second: float
    low: float
    high: float
    n: int
    p: float | None = None
    noise: float | None = None

    @property
    def verdict(self) -> str:
        """In words: a difference, none that shows, or one that seeds make too."""
        if self.low <= 0 <= self.high:
            return "no difference that shows"
        if self.noise is not None and abs(self.second - self.first) <= self.noise:
            return "within the noise of seeds"
        return "different"


def bootstrap(
    metric: str, one: Array, other: Array, weights: tuple[Array, Array]
) -> tuple[float, float]:
    """The 95 % interval of the difference of a number, over items drawn with replacement.

    one, other: the values of the same items [N]. weights: what each sum is divided by.
    """
    random, found = np.random.default_rng(SEED), np.empty(DRAWS)
    for draw in range(DRAWS):
        i = random.integers(0, len(one), len(one))
        second = number_of(metric, other[i], weights[1][i])
        found[draw] = second - number_of(metric, one[i], weights[0][i])
    low, high = np.quantile(found[np.isfinite(found)], (0.025, 0.975))
    return float(low), float(high)


def mcnemar(one: Sequence[float], other: Sequence[float]) -> float:
    """The exact two-sided p of as many items, or more, that only one of two models gets right."""
    first = sum(a > b for a, b in zip(one, other, strict=True))
    second = sum(b > a for a, b in zip(one, other, strict=True))
    n, k = first + second, min(first, second)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, float(2 * tail / 2**n))


def _by_name(cells: Sequence[Cell]) -> dict[tuple[str, str], Cell]:
    return {(c.task, c.protocol): c for c in cells if c.value is not None}


def _noise(runs: Sequence[Mapping[tuple[str, str], Cell]], name: tuple[str, str]) -> float | None:
    """The largest distance of a number between runs of one recipe."""
    values = [run[name].value for run in runs if name in run]
    known = [value for value in values if value is not None]
    return max(known) - min(known) if len(known) > 1 else None


def differences(
    one: Sequence[Cell], other: Sequence[Cell], runs: Sequence[Sequence[Cell]] = ()
) -> list[Difference]:
    """Each number that both have. runs: cells of several runs of the first one's recipe.

    InputError where the items are not the same ones.
    """
    first, second = _by_name(one), _by_name(other)
    seeds, found = [first, *map(_by_name, runs)], []
    for name, a in first.items():
        b = second.get(name)
        if b is None:
            continue
        if len(a.values) != len(b.values):
            raise InputError(f"{name[0]}: {a.n} items of one model and {b.n} of the other")
        assert a.value is not None and b.value is not None
        arrays = [np.array(v) for v in (a.values, b.values, a.weights, b.weights)]
        low, high = bootstrap(a.metric, arrays[0], arrays[1], (arrays[2], arrays[3]))
        p = mcnemar(a.values, b.values) if a.metric == "accuracy" else None
        noise = _noise(seeds, name) if runs else None
        found.append(
            Difference(*name, a.metric, a.value, b.value, low, high, len(a.values), p, noise)
        )
    return found


def drift(one: LM, other: LM) -> dict[str, float]:
    """How far the weights of each part moved: |B - A| / |A|, by layer; parts of equal shape."""
    if one.config.to_dict() != other.config.to_dict():
        return {}
    sums: dict[str, list[float]] = {}
    for name, value in one.params.items():
        part = ".".join(name.split(".")[:2]) if name.startswith("h.") else name.split(".")[0]
        total = sums.setdefault(part, [0.0, 0.0])
        total[0] += float(((other.params[name] - value).astype(np.float64) ** 2).sum())
        total[1] += float((value.astype(np.float64) ** 2).sum())
    return {part: math.sqrt(moved / (size or 1)) for part, (moved, size) in sums.items()}


def moved_tokens(one: LM, other: LM, text: str, count: int = 10) -> list[dict[str, Any]]:
    """The tokens of a text whose log-probability moved most. [] for other vocabularies."""
    a, b = one.score(text), other.score(text)
    if a.tokens != b.tokens or one.tokenizer is None:
        return []
    pairs = zip(a.logprobs, b.logprobs, strict=True)
    moved = [(i, y - x) for i, (x, y) in enumerate(pairs) if x is not None and y is not None]
    moved.sort(key=lambda pair: -abs(pair[1]))
    pieces = one.tokenizer.pieces(a.tokens)
    return [
        {
            "before": "".join(pieces[max(0, i - 8) : i]),
            "token": pieces[i],
            "first": a.logprobs[i],
            "second": b.logprobs[i],
            "change": change,
        }
        for i, change in moved[:count]
    ]


def samples(one: LM, other: LM, prompt: str | None, seed: int, count: int) -> list[list[str]]:
    """Texts of both models with the same seeds: one pair a sample."""
    given: dict[str, Any] = {"max_new_tokens": 60, "seed": seed, "n": max(2, count)}
    texts = [lm.generate(prompt, **given) for lm in (one, other)]
    return [list(pair) for pair in zip(*texts, strict=True)][:count]
