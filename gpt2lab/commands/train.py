"""`gpt2lab train`: train a model from scratch, continue training one, or resume a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands import headings
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import echo_json, given_of, printable
from gpt2lab.commands.training import SPELLING, given_flags, run_options, train
from gpt2lab.errors import InputError
from gpt2lab.files.json_files import to_json
from gpt2lab.train.config import TrainConfig

if TYPE_CHECKING:
    from gpt2lab.corpus.batches import Batches

#: Flags of a model that is trained from scratch, and of its data: not for a run that is resumed.
SCRATCH = ("size", "layers", "heads", "width", "context", "init", "vocabulary", "weights")


@click.command(
    cls=Headed,
    headings={
        "Run": ("out", "resume", "allow_changes", "overwrite", "as_json"),
        "Model": ("model", "size", "layers", "heads", "width", "context", "init"),
        "Data": ("vocabulary", "weights", "val", "held_out"),
        **headings.TRAINING,
        **headings.READING,
        "Inspection, without training": ("which_data", "dry_run", "world_size"),
    },
    context_settings=SPELLING,
    epilog="""\b
Examples:
  gpt2lab train book.txt --out runs/book --minutes 10
  gpt2lab train tokens/ --out runs/small --size 124M --steps 10000 --batch-size 32
  gpt2lab train --resume runs/book
  gpt2lab train --resume runs/book --which-data 120
  torchrun --nproc-per-node 2 -m gpt2lab train tokens/ --out runs/two --epochs 1

DATA is texts (files, folders, globs), a folder made by gpt2lab prepare, nanoGPT's .bin files or
gpt-2-simple's .npz. Ctrl-C and SIGTERM save a checkpoint before the run stops; after any other end,
--resume continues from the last checkpoint. The final weights are the same.""",
)
@click.argument("data", nargs=-1)
@click.option("--out", metavar="RUN", help="Folder of the new run.")
@click.option("--resume", metavar="RUN", help="Resume the run in this folder.")
@click.option("-m", "--model", metavar="MODEL", help="Continue training this model.")
@click.option("--size", metavar="SIZE", help="Train a new model of an official size, as 124M.")
@click.option("--layers", type=int, help="Layers of a new model.  [6]")
@click.option("--heads", type=int, help="Attention heads per layer of a new model.  [6]")
@click.option("--width", type=int, help="Embedding size of a new model.  [384]")
@click.option("--context", type=int, help="Context length of a new model.  [256]")
@click.option(
    "--init", metavar="KIND", help="Initialization of a new model: paper, openai or hf.  [paper]"
)
@click.option(
    "--vocabulary",
    metavar="MODEL",
    help="Encode texts with this vocabulary, or with that of this model.  [the model's, else "
    "GPT-2's]",
)
@click.option("--weights", metavar="W,W", help="Mix the DATA in these proportions, as 0.65,0.35.")
@click.option(
    "--which-data", type=int, metavar="STEP", help="Print the texts of this step of a run."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Simulate one training step and print the memory that each process needs.",
)
@click.option("--world-size", type=int, metavar="N", help="Processes that --dry-run simulates.")
@run_options()
def command(data: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Train a GPT-2 on DATA in a new run, or resume a run."""
    if flags.pop("dry_run"):
        _dry_run(flags, as_json)
    elif flags["which_data"] is not None:
        _which_data(data, flags, as_json)
    else:
        given = _checked(flags)
        if not {"out", "output_dir", "run_name", "checkpoint_dir"} & set(given):
            raise InputError("give --out for a new run, or --resume to go on with one")
        train(data, given, tunes=False, as_json=as_json)


# ---- Training.


def _checked(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the given flags as settings; InputError for those that exclude each other."""
    given = given_flags(flags)
    run = given.pop("resume", None)
    if run is not None and "out" in given:
        raise InputError("--out starts a run, --resume resumes one; give one of them")
    if "world_size" in given:
        raise InputError("--world-size is for --dry-run; torchrun says how many processes train")
    if "weights" in given:
        given["weights"] = _numbers(given["weights"])
    if run is None:
        return given
    wrong = next((name for name in (*SCRATCH, "model", "overwrite") if name in given), None)
    if wrong is not None:
        raise InputError(f"--{wrong} is for a new run; one that is resumed has it from its start")
    return {**given, "out": run, "resume": True}


def _numbers(text: str) -> list[float]:
    """0.65,0.35 as numbers."""
    try:
        return [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise InputError(f"weights {text!r} are no numbers; write them as in 0.65,0.35") from None


# ---- Looking.


def _which_data(data: tuple[str, ...], flags: dict[str, Any], as_json: bool) -> None:
    """Print the texts of a step, row by row."""
    if flags["resume"] is None:
        raise InputError("--which-data asks about a run; name it by --resume")
    step, batches = flags["which_data"], _batches(data, Path(flags["resume"]))
    if step < 1:
        raise InputError(f"step {step} is no step; the first is 1")
    for place in batches.where(step - 1):
        if as_json:
            echo_json({**place._asdict(), "step": step})
            continue
        spans = ", ".join(f"{document}:{start}-{stop}" for document, start, stop in place.spans)
        click.echo(
            f"--- row {place.row}, {place.set}, epoch {place.epoch}, document:tokens {spans}"
        )
        click.echo(printable(place.text) if place.text is not None else "(no vocabulary)")


def _batches(data: tuple[str, ...], folder: Path) -> Batches:
    from gpt2lab.train import data_sources, run_folder, start

    values = run_folder.state_of(folder)
    gathered = data_sources.again(run_folder.described(folder)["sources"], folder, data=data)
    settings = TrainConfig.from_dict(values["settings"])
    return start.batches_of(gathered.sets, settings, run_folder.sizes_of(values))


def _dry_run(flags: dict[str, Any], as_json: bool) -> None:
    """Print the bytes that each process of a simulated group would hold."""
    from gpt2lab.train.dry_run import dry_run
    from gpt2lab.train.launch import shape_of

    settings = TrainConfig(**given_of(TrainConfig, flags))
    report = dry_run(shape_of(flags), settings, flags["world_size"] or 1)
    if as_json:
        click.echo(to_json(report, ensure_ascii=True))
        return
    for name, value in report.items():
        shown = f"{value / 1e6:12,.1f} MB" if name.endswith("bytes") else f"{value!s:>12}"
        click.echo(f"{name.removesuffix('_bytes').replace('_', ' '):<24}{shown}")
