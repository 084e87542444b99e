"""`gpt2lab evaluate`: benchmarks, with the protocol in every cell."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands import headings
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import echo_json, engine_options, load_model, model_options
from gpt2lab.errors import InputError

if TYPE_CHECKING:
    from gpt2lab.evals.suite import Cell, Watch


@click.command(
    cls=Headed,
    headings={
        **headings.MODEL,
        "Tasks": ("suite", "tasks", "data", "limit", "controls", "list_tasks", "harness"),
        "Output": ("out", "as_json"),
    },
    epilog="""\b
Examples:
  gpt2lab evaluate --data benchmarks --suite paper
  gpt2lab evaluate --data benchmarks --tasks lambada,hellaswag --limit 200 --out results
  gpt2lab evaluate --list
  gpt2lab evaluate --harness -- --tasks arc_easy --model_args pretrained=124M,dtype=int8

Each line has the number, its standard error, the number of items, the control, and a published
number with its source. The control is the same score with the input of another item: a score that
stays the same does not come from the input.""",
)
@model_options
@click.option("--suite", default="all", metavar="NAME", help="Tasks: paper, today or all.  [all]")
@click.option("--tasks", metavar="NAME,NAME", help="These tasks alone; --list prints their names.")
@click.option(
    "--data",
    metavar="PATH",
    help="Folder with the files of the benchmarks as published, or a file.",
)
@click.option(
    "--limit", type=int, metavar="N", help="Items of each task, drawn with a fixed seed.  [all]"
)
@click.option(
    "--controls/--no-controls", default=True, help="Also score with swapped inputs.  [--controls]"
)
@click.option("--list", "list_tasks", is_flag=True, help="Print the tasks and their files.")
@click.option(
    "--harness",
    is_flag=True,
    help="Call lm-evaluation-harness with the arguments after --, and gpt2lab as its model.",
)
@click.argument("arguments", nargs=-1, metavar="[-- ARGS]")
@click.option(
    "--out", metavar="DIR", help="Keep each finished task there; the same call again resumes."
)
@click.option("--json", "as_json", is_flag=True, help="Print the cells as JSON.")
def command(
    suite: str,
    tasks: str | None,
    data: str | None,
    limit: int | None,
    controls: bool,
    list_tasks: bool,
    harness: bool,
    arguments: tuple[str, ...],
    out: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Run benchmarks on a model."""
    if harness:
        from gpt2lab.evals.harness import main

        main(arguments)
        return
    if arguments:
        raise InputError(f"{arguments[0]!r} is no option; arguments are for --harness alone")
    from gpt2lab.engines.fallback import settled
    from gpt2lab.evals import suite as running

    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    asked = running.chosen(suite, names)
    if list_tasks:
        for task in asked:
            files = ", ".join(name for kind in task.files for name in kind.names)
            click.echo(f"{task.name:18} {task.title:38} {files}")
        return
    if data is None:
        raise InputError("no data; give the folder with the files of the benchmarks by --data")
    lm = load_model(flags["model"], **engine_options(flags))
    if lm.tokenizer is None:
        raise InputError(f"{lm.name} comes without a tokenizer; evaluate a model that has one")
    lm.engine = settled(lm.engine)
    cells = list[Any]()
    with _bar() as watch:
        results = running.run(
            lm, asked, Path(data), limit=limit, controls=controls, out=Path(out) if out else None,
            watch=watch,
        )  # fmt: skip
        for found in results:
            cells += found
            if not as_json:
                for cell in found:
                    click.echo(_line(cell))
    if as_json:
        echo_json(
            {"model": lm.name, "sha256": lm.hash, "cells": [running.as_dict(c) for c in cells]}
        )


def _line(cell: Cell) -> str:
    """A cell as a line."""
    name = f"{cell.task:16} {cell.protocol:42}"
    if cell.value is None:
        return f"{name} {cell.status}"
    value = f"{cell.value:10.4f} ± {cell.error or 0:<8.4f} {cell.metric:13} n={cell.n:<6d}"
    control = "control -" if cell.control is None else f"control {cell.control:.4f}"
    target = ""
    if cell.target is not None:
        target = f"  (published for {cell.target_size}: {cell.target:g}, {cell.target_source})"
    return f"{name} {value} {control}{target}{'  note: ' + cell.note if cell.note else ''}"


@contextmanager
def _bar() -> Iterator[Watch]:
    """A bar on stderr at a terminal, with the time left of a task."""
    if not sys.stderr.isatty():
        yield lambda task, done, total: None
        return
    from tqdm import tqdm

    with tqdm(unit=" items", leave=False) as bar:

        def watch(task: str, done: int, total: int) -> None:
            if bar.desc != f"{task}: ":
                bar.reset(total)
                bar.set_description(task)
            bar.update(done - bar.n)

        yield watch
