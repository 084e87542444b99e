"""`gpt2lab compare`: two models on the same items, and where they differ."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import echo_json, load_model, printable, read_text
from gpt2lab.errors import InputError

if TYPE_CHECKING:
    from gpt2lab.evals.suite import Cell
    from gpt2lab.lm import LM


@click.command(
    cls=Headed,
    headings={
        "Models": ("dtype", "engine", "runs"),
        "Tasks": ("suite", "tasks", "data", "limit"),
        "Text and samples": ("file", "prompt", "seed", "count"),
        "Output": ("out", "as_json"),
    },
    epilog="""\b
Examples:
  gpt2lab compare 124M my-run --data benchmarks --tasks lambada,wikitext2 --limit 500
  gpt2lab compare runs/a runs/b --file held-out.txt
  gpt2lab compare runs/seed1 runs/new --run runs/seed2 --run runs/seed3 --data benchmarks

The interval of 95 % is that of the difference, over the same items for both models (a paired
bootstrap); p is McNemar's exact test.""",
)
@click.argument("first")
@click.argument("second")
@click.option("--engine", metavar="NAME", help="Inference engine: cpu, numpy or torch.")
@click.option("--dtype", metavar="DTYPE", help="Precision of the weights of both.")
@click.option(
    "--run", "runs", multiple=True, metavar="MODEL",
    help="Another run of FIRST's recipe, for the noise of seeds. Can be repeated.",
)  # fmt: skip
@click.option("--suite", default="all", metavar="NAME", help="Tasks: paper, today or all.  [all]")
@click.option("--tasks", metavar="NAME,NAME", help="These tasks alone.")
@click.option("--data", metavar="PATH", help="Folder with the files of the benchmarks.")
@click.option("--limit", type=int, metavar="N", help="Items of each task, drawn with a fixed seed.")
@click.option("--file", metavar="PATH", help="Text whose tokens are compared one by one.")
@click.option("--prompt", metavar="TEXT", help="Prompt of the samples.  [none]")
@click.option("--seed", type=int, default=0, help="Seed of the samples.  [0]")
@click.option("--samples", "count", type=int, default=2, help="Number of samples.  [2]")
@click.option("--out", metavar="DIR", help="Keep finished tasks there; the same call resumes.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(first: str, second: str, as_json: bool, **flags: Any) -> None:
    """Compare the models FIRST and SECOND."""
    from gpt2lab.evals import comparison

    if flags["count"] < 0:
        raise InputError(f"samples is {flags['count']}; it must be an integer >= 0")
    text = read_text(flags["file"]) if flags["file"] else None
    engine = {name: flags[name] for name in ("engine", "dtype") if flags[name]}
    one, other = load_model(first, **engine), load_model(second, **engine)
    found: dict[str, Any] = {"first": one.name, "second": other.name, "differences": []}
    if flags["data"]:
        runs = [_cells(load_model(run, **engine), flags) for run in flags["runs"]]
        found["differences"] = [
            {**asdict(d), "verdict": d.verdict}
            for d in comparison.differences(_cells(one, flags), _cells(other, flags), runs)
        ]
    found["drift"] = comparison.drift(one, other)
    found["tokens"] = comparison.moved_tokens(one, other, text) if text else []
    found["samples"] = comparison.samples(
        one, other, flags["prompt"], flags["seed"], flags["count"]
    )
    echo_json(found) if as_json else _show(found)


def _cells(lm: LM, flags: dict[str, Any]) -> list[Cell]:
    """The cells of a model."""
    from gpt2lab.engines.fallback import settled
    from gpt2lab.evals import suite as running

    lm.engine = settled(lm.engine)
    names = [name.strip() for name in (flags["tasks"] or "").split(",") if name.strip()]
    out = Path(flags["out"]) if flags["out"] else None
    results = running.run(
        lm, running.chosen(flags["suite"], names), Path(flags["data"]),
        limit=flags["limit"], controls=False, out=out,
    )  # fmt: skip
    return [cell for cells in results for cell in cells]


def _show(found: dict[str, Any]) -> None:
    """Everything for people."""
    for d in found["differences"]:
        p = "" if d["p"] is None else f"  p={d['p']:.3g}"
        click.echo(
            f"{d['task']:16} {d['protocol']:42} {d['first']:10.4f} {d['second']:10.4f}  "
            f"[{d['low']:+.4f}, {d['high']:+.4f}]{p}  n={d['n']}  {d['verdict']}"
        )
    for part, moved in found["drift"].items():
        click.echo(f"weights of {part:12} moved by {moved:.2%}")
    for token in found["tokens"]:
        click.echo(
            f"{token['first']:9.3f} to {token['second']:9.3f}  "
            f"{printable(token['before'])!r} + {printable(token['token'])!r}"
        )
    for i, pair in enumerate(found["samples"]):
        for name, text in zip((found["first"], found["second"]), pair, strict=True):
            click.echo(f"--- sample {i}, {name}\n{printable(text)}")
