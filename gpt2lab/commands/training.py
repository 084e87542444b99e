"""What `train` and `finetune` share: flags, processes, progress and stop signals of a run."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands.options import dataclass_options, echo_json, field_kinds, printable
from gpt2lab.commands.text_options import reading_of, reading_options
from gpt2lab.errors import Failure, InputError
from gpt2lab.train import aliases, progress
from gpt2lab.train.config import TrainConfig

if TYPE_CHECKING:
    from gpt2lab.train.parallel.group import Group
    from gpt2lab.train.run import Run

#: Exit codes of a run that was stopped and saved: 128 and the signal, as a shell has it.
STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}

#: Flags may be spelt with _ for -, as in other trainers.
SPELLING = {"token_normalize_func": lambda word: word.replace("_", "-")}


#: The kinds of other trainers' words that are none of our fields; the rest are texts.
KINDS: dict[str, Any] = {
    **dict.fromkeys(
        ("per_device_train_batch_size", "gradient_accumulation_steps", "accumulate_gradients"), int
    ),
    **dict.fromkeys(
        ("overwrite_output_dir", "only_train_transformer_layers", "do_train", "do_eval", "bf16",
         "load_best_model_at_end", "logging_first_step", "disable_tqdm", "fp16", "use_cpu",
         "multi_gpu", "prediction_loss_only"), bool
    ),
}  # fmt: skip


def _trainer_options(function: Any) -> Any:
    """Add other trainers' flags, hidden in --help; `train.aliases` lists what they mean."""
    kinds = field_kinds(TrainConfig)
    for word, alias in aliases.TABLE.items():
        kind = KINDS.get(word) or kinds.get(alias.own, str)
        flag = {"is_flag": True, "default": None} if kind is bool else {"type": kind}
        spelt = f"--{word.replace('_', '-')}"
        function = click.option(spelt, word, hidden=True, **flag)(function)
    return function


_SHARED = (
    click.option("--val", metavar="PATH", help="Validate on these texts.  [held-out documents]"),
    click.option(
        "--held-out",
        type=float,
        help="Fraction of the documents that is held out for validation.  [0.01]",
    ),
    click.option(
        "--allow-changes", is_flag=True, default=None, help="Let --resume change the settings."
    ),
    click.option(
        "--overwrite", is_flag=True, default=None, help="Replace an existing run in --out."
    ),
    click.option(
        "--json", "as_json", is_flag=True, help="Print each record as a line of JSON on stdout."
    ),
)


def run_options(defaults: Mapping[str, Any] | None = None) -> Callable[[Any], Any]:
    """Flags of `train` and `finetune`. defaults: of settings that have others here."""

    def decorate(function: Any) -> Any:
        function = dataclass_options(TrainConfig, defaults=defaults)(_trainer_options(function))
        for option in _SHARED:
            function = option(function)
        return reading_options(function)

    return decorate


def given_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that were given, as settings."""
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    return {**given, **reading_of(flags)}


def train(texts: Sequence[str], given: Mapping[str, Any], *, tunes: bool, as_json: bool) -> None:
    """Do the run that the flags ask for, on all processes, and show it."""
    from gpt2lab.train.launch import prepare_run

    with joined(given.get("device")) as group:
        ours = aliases.translate(given, group.world)
        named = ours.pop("text", None)
        if texts and named:
            raise InputError("the text is given twice, as an argument and by --dataset; give one")
        data = texts or ([named] if named else [])
        with prepare_run(data, ours, tunes=tunes, group=group) as run:
            follow(run, as_json=as_json)


# ---- Several processes.


def _refused(group: Group, error: InputError | Failure) -> int:
    """Print the error, once for all processes, and return its exit code."""
    said = group.refuse(error)
    if said is error:
        click.echo(f"gpt2lab: {error}", err=True)
    return 2 if isinstance(said, InputError) else 1


@contextmanager
def joined(device: str | None) -> Iterator[Group]:
    """The processes that torchrun started, or this one alone, for the time of the block.

    Of several, each leaves by `os._exit`: gloo's threads sometimes abort a process that ends in the
    usual way. An error of one process ends the others too, and only one prints it.
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


# ---- Stopping.


class Stop:
    """Whether the user or the system has asked the run to stop: call it to find out.

    The first Ctrl-C or SIGTERM lets the run save first; a second Ctrl-C ends it at once.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __call__(self) -> bool:
        return bool(self.signal)

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            # not through Python's streams, which a handler may find in the middle of a write
            os.write(2, b"\nstopping after a save; Ctrl-C again leaves at once\n")


@contextmanager
def stopping() -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a `Stop` inside the block."""
    stop, before = Stop(), {}
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError):  # not in the main thread
            before[number] = signal.signal(number, stop.ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Bar:
    """Progress at a terminal, with the time left; lines now and then elsewhere."""

    def __init__(self, run: Run) -> None:
        from tqdm import tqdm

        self.minutes, self._shown = run.settings.minutes, 0.0
        self.total = total = 60 * self.minutes if self.minutes else run.total
        at = run.state.seconds if self.minutes else run.state.step
        self._bar = tqdm(
            total=total, initial=min(at, total or at), unit="s" if self.minutes else "step",
            disable=not sys.stderr.isatty(), dynamic_ncols=True, smoothing=0.1,
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]",
        )  # fmt: skip

    def step(self, record: dict[str, Any]) -> None:
        """One step was done."""
        at = record["seconds"] if self.minutes else record["step"]
        shown = progress.step_line(record)
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(max(0, min(at, self.total or at) - self._bar.n))
        if self._bar.disable and time.monotonic() - self._shown > progress.EVERY:
            self._shown = time.monotonic()
            click.echo(f"step {record['step']}: {shown}", err=True)

    def line(self, text: str) -> None:
        """A line above the bar."""
        self._bar.clear()
        click.echo(text, err=True)
        self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def follow(run: Run, *, as_json: bool) -> None:
    """Run to the end or to a stop and show it; exit with 130 after Ctrl-C."""
    with stopping() as stop:
        bar = None if as_json or not run.group.first else Bar(run)
        last: dict[str, Any] = {}
        try:
            for record in run.go(stop):
                last = record if record["kind"] != "note" else last
                if as_json and run.group.first:
                    echo_json(record)
                elif bar is not None:
                    _show(bar, record)
        finally:
            if bar is not None:
                bar.close()
    if run.group.first and not as_json:
        _close(run, last)
    if last.get("kind") == "stopped":
        sys.exit(STOPPED[stop.signal] if stop.signal else 0)


def _show(bar: Bar, record: dict[str, Any]) -> None:
    if record["kind"] == "step":
        bar.step(record)
    elif text := progress.line(record, lambda text: printable(text, sys.stderr)):
        bar.line(text)


def _close(run: Run, last: dict[str, Any]) -> None:
    """Print the last lines: the result, and what to do with it."""
    if last.get("kind") == "stopped":
        click.echo(f"stopped and saved after step {last['step']}; to go on:", err=True)
        click.echo(f"  gpt2lab train --resume {run.folder}", err=True)
        return
    if last.get("kind") != "end":  # it was over before
        return
    click.echo(progress.end_line(run.folder, last))
    click.echo(f'  gpt2lab generate --model {run.folder} "..."', err=True)
