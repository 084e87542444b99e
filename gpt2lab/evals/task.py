"""What a benchmark is: files, a loader of items, and a function that scores them.

A task gets the items in a list and returns a `Measure` for each protocol; how its inputs are
swapped against another item's is its own function, and the control is the same scoring of these.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2lab.evals.data import Published
from gpt2lab.evals.measures import Measure, PublishedNumber
from gpt2lab.lm import LM

Watch = Callable[[int], None]  # gets the number of items that are done
SEED = 20190214  # of the draw of --limit


@dataclass(frozen=True)
class Task:
    """A benchmark.

    name: on the command line. title: in the table. suite: "paper" or "today". files: any of them
    will do. load: a path -> items. score: (model, items, watch) -> measures. swap: items -> items
    whose inputs are another item's, for the control. targets: protocol -> published numbers.
    """

    name: str
    title: str
    suite: str
    files: tuple[Published, ...]
    load: Callable[[Path], list[Any]]
    score: Callable[[LM, list[Any], Watch], list[Measure]]
    swap: Callable[[list[Any]], list[Any]]
    targets: dict[str, PublishedNumber] = field(default_factory=dict)


def drawn(items: Sequence[Any], limit: int | None) -> list[Any]:
    """`limit` of the items, drawn with a fixed seed, in their order; all of them for None."""
    if limit is None or limit >= len(items):
        return list(items)
    places = random.Random(SEED).sample(range(len(items)), limit)
    return [items[place] for place in sorted(places)]


def rotated(values: Sequence[Any]) -> list[Any]:
    """Each item's input replaced by that of the item after the next half: far, never its own."""
    shift = max(1, len(values) // 2)
    return [values[(i + shift) % len(values)] for i in range(len(values))]
