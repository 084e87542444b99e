"""`gpt2lab train`: train a model from scratch, continue training one, or resume a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands import headings
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import dataclass_options, echo_json, given_of, printable
from gpt2lab.commands.text_options import reading_of, reading_options
from gpt2lab.commands.training import SPELLING, follow, teller
from gpt2lab.errors import Failure, InputError
from gpt2lab.files.json_files import to_json
from gpt2lab.train.config import BUDGETS, TrainConfig

if TYPE_CHECKING:
    from gpt2lab.corpus.batches import Batches
    from gpt2lab.train.folder_lock import Claim
    from gpt2lab.train.parallel.group import Group
    from gpt2lab.train.run import Run
    from gpt2lab.weights import Checkpoint

SHAPE = ("layers", "heads", "width", "context")
DEFAULT_SHAPE = {"layers": 6, "heads": 6, "width": 384, "context": 256}


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
@click.option("--allow-changes", is_flag=True, help="Let --resume change the settings.")
@click.option("--overwrite", is_flag=True, help="Replace an existing run in --out.")
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
@click.option("--val", metavar="PATH", help="Validate on these texts.  [held-out documents]")
@click.option(
    "--held-out",
    type=float,
    help="Fraction of the documents that is held out for validation.  [0.01]",
)
@reading_options
@click.option(
    "--which-data", type=int, metavar="STEP", help="Print the texts of this step of a run."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Simulate one training step and print the memory that each process needs.",
)
@click.option("--world-size", type=int, metavar="N", help="Processes that --dry-run simulates.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print each record as a line of JSON on stdout."
)
@dataclass_options(TrainConfig)
def command(data: tuple[str, ...], **flags: Any) -> None:
    """Train a GPT-2 on DATA in a new run, or resume a run."""
    if flags["dry_run"]:
        _dry_run(flags)
    elif flags["which_data"] is not None:
        _which_data(data, flags)
    else:
        _train(data, flags)


# ---- What to begin with.


def _settings(flags: dict[str, Any], old: TrainConfig | None = None) -> TrainConfig:
    """The flags that were given, over those of the run that is resumed."""
    given = given_of(TrainConfig, flags)
    if old is None:
        return TrainConfig(**given)
    if any(name in given for name in BUDGETS):
        given = {**dict.fromkeys(BUDGETS), **given}
    return replace(old, **given)


def _shape(flags: dict[str, Any], n_vocab: int, end_token: int | None) -> Any:
    """The configuration of a new model."""
    from gpt2lab.config import SIZES, Config

    given = {name: flags[name] for name in SHAPE if flags[name] is not None}
    ends = () if end_token is None else (end_token,)
    size = flags["size"]
    if size is not None:
        if size not in SIZES:
            raise InputError(f"size {size!r} is unknown; known: {', '.join(SIZES)}")
        base = SIZES[size]
        named = {"layers": "n_layer", "heads": "n_head", "width": "n_embd", "context": "n_ctx"}
        changed = {named[name]: value for name, value in given.items()}
        return replace(base, n_vocab=n_vocab, end_tokens=ends, **changed)
    shape = {**DEFAULT_SHAPE, **given}
    return Config(
        n_vocab=n_vocab, n_ctx=shape["context"], n_embd=shape["width"], n_head=shape["heads"],
        n_layer=shape["layers"], end_tokens=ends,
    )  # fmt: skip


def _model(flags: dict[str, Any]) -> Checkpoint | None:
    """The model to begin with, None for a new one."""
    from gpt2lab import weights
    from gpt2lab.lm import place

    given = [name for name in ("size", *SHAPE) if flags[name] is not None]
    if flags["model"] is None:
        return None
    if flags["init"] is not None:
        raise InputError("--init is for a new model, --model brings its own; give one of them")
    if given:
        raise InputError(f"--model has a shape of its own; leave out --{given[0]}, or --model")
    return weights.load(place(flags["model"]))


def _vocabulary(flags: dict[str, Any], model: Checkpoint | None) -> Any:
    """The vocabulary that texts are cut with: what was named, the model's, GPT-2's."""
    from gpt2lab.commands.options import vocabulary
    from gpt2lab.text import tokenizer

    if flags["vocabulary"] is not None:
        return vocabulary(flags["vocabulary"])
    if model is not None:
        return model.tokenizer
    return tokenizer.official()


def _scratch(flags: dict[str, Any], first: Any) -> Checkpoint:
    """A new model for the vocabulary of the data."""
    from gpt2lab import reference, weights

    end = first.tokenizer.end_token if first.tokenizer is not None else first.end_token
    config = _shape(flags, first.n_vocab, end)
    params = reference.initialise(config, flags["seed"] or 0, flags["init"] or "paper")
    return weights.Checkpoint(config, params, first.tokenizer, "scratch")


# ---- Training.


def _refused(group: Group, error: InputError | Failure) -> int:
    """Tell the error, once for all processes, and give its exit code."""
    said = group.refuse(error)
    if said is error:
        click.echo(f"gpt2lab: {error}", err=True)
    return 2 if isinstance(said, InputError) else 1


@contextmanager
def joined(device: str | None) -> Iterator[Group]:
    """The processes that torchrun started, or this one alone, for the time of the block.

    Of several, each leaves by `os._exit`: gloo's threads now and then abort a process that ends in
    the usual way. An error of one does not wait for the others: it becomes theirs, and one tells.
    """
    from gpt2lab.train.parallel import group as distributed

    group, code = distributed.join(device), 0
    if group is distributed.ALONE:
        yield group
        return
    try:
        try:
            yield group
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        distributed.leave(group)
    except KeyboardInterrupt:
        code = 130
    except (InputError, Failure) as error:
        code = _refused(group, error)
    except BaseException as error:
        group.refuse(Failure(f"process {group.rank} has ended ({type(error).__name__})"))
        raise
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _train(data: tuple[str, ...], flags: dict[str, Any]) -> None:
    if flags["resume"] is not None and flags["out"] is not None:
        raise InputError("--out begins a run, --resume goes on with one; give one of them")
    if flags["allow_changes"] and flags["resume"] is None:
        raise InputError("--allow-changes is for --resume; a new run has the settings it is given")
    if flags["world_size"] is not None:
        raise InputError("--world-size is for --dry-run; torchrun says how many processes train")
    if flags["resume"] is None and flags["out"] is None:
        raise InputError("give --out for a new run, or --resume to go on with one")
    with joined(flags["device"]) as group:
        run = _resumed(data, flags, group) if flags["resume"] else _started(data, flags, group)
        with run:
            follow(run, as_json=flags["as_json"])


def _started(data: tuple[str, ...], flags: dict[str, Any], group: Group) -> Run:
    from gpt2lab.train import start as opening

    settings, folder = _settings(flags), Path(flags["out"])
    group.at("reading the model")
    model = _model(flags)
    vocabulary = _vocabulary(flags, model)
    config = model.config if model else _shape(flags, vocabulary.n_vocab, None)
    opening.check_early(settings, config, group)
    claimed = opening.claim(folder, flags["overwrite"], group)
    try:
        return _new(data, flags, settings, model, vocabulary, claimed, group)
    except BaseException:
        opening.give_up(folder, claimed, group)
        raise


def _new(
    data: tuple[str, ...],
    flags: dict[str, Any],
    settings: TrainConfig,
    model: Checkpoint | None,
    vocabulary: Any,
    claimed: Claim,
    group: Group,
) -> Run:
    from gpt2lab.train import data_sources
    from gpt2lab.train import start as opening

    folder, say = Path(flags["out"]), teller(group)
    gathered = data_sources.gather(
        data, opening.data_folder(folder, group), weights=_numbers(flags["weights"]),
        val=flags["val"], tokenizer=vocabulary, named=bool(flags["vocabulary"] or model),
        held_out=flags["held_out"], say=say, group=group, **reading_of(flags),
    )  # fmt: skip
    begin = model or _scratch(flags, gathered.sets[0][0])
    if gathered.val is None:
        say("nothing is held out, so there is no validation; --val names a text for it")
    return opening.start(
        folder, begin, gathered.sets, settings, val=gathered.val, claimed=claimed, group=group,
        say=say, sources={"data": gathered.places(folder), "model": flags["model"]},
    )  # fmt: skip


#: What is about a new run, and cannot be said of one that goes on.
OF_A_START = (
    "overwrite", "model", "size", *SHAPE, "init", "vocabulary", "weights",
)  # fmt: skip


def _resumed(data: tuple[str, ...], flags: dict[str, Any], group: Group) -> Run:
    from gpt2lab.train import data_sources, same_data
    from gpt2lab.train import start as opening

    wrong = [name for name in OF_A_START if flags[name] not in (None, False)]
    if wrong:
        flag = wrong[0].replace("_", "-")
        raise InputError(f"--{flag} is for a new run; one that is resumed has it from its start")
    folder = Path(flags["resume"])
    made, old = opening.described(folder), opening.settings_of(folder)
    settings = _settings(flags, old)
    options = reading_of(flags)
    if flags["held_out"] is not None:
        options["held_out"] = flags["held_out"]
    why = same_data.different(made, folder, data, group, val=flags["val"], **options)
    same_data.refuse_other(why, "train", data, folder)
    gathered = data_sources.again(made["sources"], folder, data, flags["val"])
    return opening.resume(
        folder, gathered.sets, None if settings == old else settings, val=gathered.val,
        sources=gathered.places(folder), allow_changes=flags["allow_changes"], group=group,
        say=teller(group),
    )  # fmt: skip


def _numbers(text: str | None) -> list[float]:
    """0.65,0.35 as numbers."""
    try:
        return [float(word) for word in (text or "").split(",") if word.strip()]
    except ValueError:
        raise InputError(f"weights {text!r} are no numbers; write them as in 0.65,0.35") from None


# ---- Looking.


def _which_data(data: tuple[str, ...], flags: dict[str, Any]) -> None:
    """The texts of a step, row by row."""
    if flags["resume"] is None:
        raise InputError("--which-data asks about a run; name it by --resume")
    step, batches = flags["which_data"], _batches(data, flags)
    if step < 1:
        raise InputError(f"step {step} is no step; the first is 1")
    for place in batches.where(step - 1):
        if flags["as_json"]:
            echo_json({**place._asdict(), "step": step})
            continue
        spans = ", ".join(f"{document}:{start}-{stop}" for document, start, stop in place.spans)
        click.echo(
            f"--- row {place.row}, {place.set}, epoch {place.epoch}, document:tokens {spans}"
        )
        click.echo(printable(place.text) if place.text is not None else "(no vocabulary)")


def _batches(data: tuple[str, ...], flags: dict[str, Any]) -> Batches:
    from gpt2lab.train import data_sources
    from gpt2lab.train import start as opening

    folder = Path(flags["resume"])
    made, values = opening.described(folder), opening.state_of(folder)
    gathered = data_sources.again(made["sources"], folder, data=data)
    settings = TrainConfig.from_dict(values["settings"])
    return opening.batches_of(gathered.sets, settings, opening.parts_of(values))


def _dry_run(flags: dict[str, Any]) -> None:
    """Bytes of each process of a made-up group."""
    from gpt2lab.train.parallel import group as distributed

    model, settings = _model(flags), _settings(flags)
    config = model.config if model else _shape(flags, 50257, 50256)
    report = distributed.dry_run(config, settings, flags["world_size"] or 1)
    if flags["as_json"]:
        click.echo(to_json(report, ensure_ascii=True))
        return
    for name, value in report.items():
        shown = f"{value / 1e6:12,.1f} MB" if name.endswith("bytes") else f"{value!s:>12}"
        click.echo(f"{name.removesuffix('_bytes').replace('_', ' '):<24}{shown}")
