"""Run benchmarks: one file of results a task, kept as soon as it is finished.

A result is kept under the model, the engine, the task and its data, so the same call again computes
only what is missing. What cannot run is a cell too, with the reason in place of the number.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpt2lab import __version__, engines
from gpt2lab.checks import whole
from gpt2lab.config import SIZES, Config
from gpt2lab.errors import InputError, few
from gpt2lab.evals import SUITES, TASKS
from gpt2lab.evals.data import DataFile, counted, find
from gpt2lab.evals.measures import Measure, PublishedNumber
from gpt2lab.evals.task import Task, drawn
from gpt2lab.files.atomic import write_whole
from gpt2lab.files.io import accessing
from gpt2lab.files.json_files import to_json
from gpt2lab.lm import LM

log = logging.getLogger(__name__)

Watch = Callable[[str, int, int], None]  # gets the task, the items that are done, and of all


@dataclass
class Cell:
    """One number with everything that it depends on.

    value, error: the number and its standard error. n: items. control: the same with the inputs
    swapped against other items'. target: a published number for the size in target_size, never
    ours. note: in which way this is not the protocol. status: "done", or why there is no number.
    values, weights: of the items, for comparisons.
    """

    task: str
    title: str
    protocol: str
    metric: str
    value: float | None = None
    error: float | None = None
    n: int = 0
    control: float | None = None
    target: float | None = None
    target_size: str = ""
    target_source: str = ""
    note: str = ""
    status: str = "done"
    values: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


def chosen(suite: str = "all", names: Sequence[str] = ()) -> list[Task]:
    """The tasks of a suite, or those that are named; InputError with the closest names."""
    import difflib

    if suite not in SUITES:
        raise InputError(f"no suite {suite!r}; it must be one of {', '.join(SUITES)}")
    for name in names:
        if name not in TASKS:
            near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(TASKS)}"
            raise InputError(f"no task {name!r}; {hint}")
    if names:
        return [TASKS[name] for name in dict.fromkeys(names)]
    return [task for task in TASKS.values() if suite in ("all", task.suite)]


def _size_of(config: Config) -> str:
    """The official size with this shape, "" for none."""
    shape = (config.n_layer, config.n_embd)
    return next((n for n, c in SIZES.items() if (c.n_layer, c.n_embd) == shape), "")


def _targeted(cell: Cell, target: PublishedNumber | None, size: str) -> Cell:
    """A cell with the published number of the model's size, or of the smallest that has one."""
    if target is not None:
        name = size if size in target.value else next(iter(target.value))
        cell.target, cell.target_size = target.value[name], name
        cell.target_source = target.source
    return cell


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def evaluate_task(
    lm: LM, task: Task, path: DataFile, limit: int | None, controls: bool, watch: Watch
) -> list[Cell]:
    """The cells of a task. path: its file."""
    items = task.load(path.path)
    differs = counted(path, task.files, len(items))
    some = drawn(items, limit)
    note = ". ".join(
        filter(None, (differs, f"{len(some)} of {len(items)} items drawn" if limit else ""))
    )
    total = len(some) * (1 + controls)
    found = task.score(lm, some, lambda done: watch(task.name, done, total))
    control = dict[tuple[str, str], Measure]()
    if controls and len(some) > 1:
        try:
            swapped = task.score(
                lm, task.swap(some), lambda done: watch(task.name, len(some) + done, total)
            )
            control = {(m.protocol, m.metric): m for m in swapped}
        except InputError as error:
            log.info(f"{task.name}: no control, as {error}")
    cells = []
    for m in found:
        other = control.get((m.protocol, m.metric))
        cell = Cell(
            task.name, task.title, m.protocol, m.metric, _number(m.value), _number(m.error),
            len(m.values), _number(other.value) if other else None, note=note,
            values=m.values, weights=m.weights,
        )  # fmt: skip
        cells.append(_targeted(cell, task.targets.get(m.protocol), _size_of(lm.config)))
    return cells


def _absent(task: Task, why: str) -> list[Cell]:
    names = list(task.targets) or [""]
    return [Cell(task.name, task.title, name, "", status=f"not run: {why}") for name in names]


# ---- What is kept.


def _key(lm: LM, task: Task, found: DataFile, limit: int | None, controls: bool) -> str:
    """What the cells of a task are a function of."""
    engine = engines.described(lm.engine)
    described = [__version__, lm.hash, engine, task.name, found.sha256, limit, controls]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _kept(file: Path) -> list[Cell] | None:
    """The cells of a file; None where it is missing or damaged."""
    try:
        return [Cell(**cell) for cell in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def run(
    lm: LM,
    tasks: Sequence[Task],
    data: Path | None,
    *,
    limit: int | None = None,
    controls: bool = True,
    out: Path | None = None,
    watch: Watch = lambda task, done, total: None,
) -> Iterator[list[Cell]]:
    """The cells of one task after the other; each is written to `out` when it is finished.

    A file that is damaged, or a model that cannot be scored, gives a cell that says so, and the
    next task follows. A full disk ends the run: what is finished is there.
    """
    if limit is not None:
        whole("limit", limit, 2)
    if out is not None:
        with accessing(out, "made"):
            out.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        found = find(data, task.files)
        if not found:
            names = few([name for kind in task.files for name in kind.names], 2)
            yield _absent(task, f"data absent ({names})")
            continue
        file = out and out / f"{task.name}-{_key(lm, task, found[0], limit, controls)}.json"
        if file and (kept := _kept(file)) is not None:
            yield kept
            continue
        started = time.monotonic()
        try:
            cells = evaluate_task(lm, task, found[0], limit, controls, watch)
        except InputError as error:
            yield _absent(task, str(error))
            continue
        log.debug(f"{task.name}: {time.monotonic() - started:.1f} s")
        if file:
            write_whole(file, to_json([asdict(cell) for cell in cells]))
        yield cells


def as_dict(cell: Cell, values: bool = False) -> dict[str, Any]:
    """A cell as plain values; its items only where they are wanted."""
    found = asdict(cell)
    return found if values else {k: v for k, v in found.items() if k not in ("values", "weights")}
