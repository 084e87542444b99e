"""Numbers with what they mean: values of items, and the cell of the table that they come to.

A `Measure` keeps a value and a weight for each item, so that a standard error, a paired comparison
and a resampling need nothing else. Logarithms are natural.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2lab.score import exponential

Array = np.ndarray[Any, np.dtype[Any]]

#: Metric -> whether less is better.
METRICS = {"accuracy": False, "perplexity": True, "bits_per_byte": True, "rate": True}


@dataclass(frozen=True)
class PublishedNumber:
    """A published number. value: by the name of the official size. source: where it is from."""

    value: dict[str, float]
    source: str


@dataclass
class Measure:
    """What one protocol gives for one task.

    protocol: the id that tells it from all others. metric: one of `METRICS`. values: of each item,
    0 or 1 for an accuracy, nats otherwise. weights: what the sum is divided by, a number an item:
    1, or its tokens, words or bytes. note: what differs from the protocol here.
    """

    protocol: str
    metric: str
    values: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    note: str = ""

    def add(self, value: float, weight: float = 1.0) -> None:
        """Append an item."""
        self.values.append(float(value))
        self.weights.append(float(weight))

    @property
    def value(self) -> float:
        """The number; NaN without items."""
        return number_of(self.metric, np.array(self.values), np.array(self.weights))

    @property
    def error(self) -> float:
        """The standard error of the number, that of a ratio of sums; NaN below two items."""
        v, w = np.array(self.values), np.array(self.weights)
        if len(v) < 2 or not w.sum():
            return math.nan
        ratio = v.sum() / w.sum()
        spread = math.sqrt(float(((v - ratio * w) ** 2).sum()) * len(v) / (len(v) - 1)) / w.sum()
        scale = {"perplexity": self.value, "bits_per_byte": 1 / math.log(2)}
        return float(spread) * scale.get(self.metric, 1.0)


def number_of(metric: str, values: Array, weights: Array) -> float:
    """The number of a metric over items."""
    if not weights.sum():
        return math.nan
    ratio = math.fsum(values) / math.fsum(weights)
    if metric == "perplexity":
        return exponential(ratio)
    return ratio / math.log(2) if metric == "bits_per_byte" else ratio
