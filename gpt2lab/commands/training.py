"""What `train` and `finetune` share: showing a run, stopping it in good order, going on."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands.options import echo_json, printable
from gpt2lab.train import progress

if TYPE_CHECKING:
    from gpt2lab.train.parallel.group import Group
    from gpt2lab.train.run import Run

#: Exit codes of a run that was stopped and saved: 128 and the signal, as a shell has it.
STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}

#: Flags may be spelt with _ for -, as in other trainers.
SPELLING = {"token_normalize_func": lambda word: word.replace("_", "-")}


def _unheard(line: str) -> None:
    """Of many processes one tells."""


def _say(line: str) -> None:
    click.echo(f"note: {line}", err=True)


def teller(group: Group) -> Callable[[str], None]:
    """What tells a note on stderr, once for all processes; the others log nothing."""
    if not group.first:
        logging.getLogger("gpt2lab").setLevel(logging.CRITICAL)
    return _say if group.first else _unheard


class Stop:
    """Whether the user, or the system, has asked the run to stop: call it to know.

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
        total = 60 * self.minutes if self.minutes else run.total
        self.total = total
        at = run.state.seconds if self.minutes else run.state.step
        self._bar = tqdm(
            total=total, initial=min(at, total or at), unit="s" if self.minutes else "step",
            disable=not sys.stderr.isatty(), dynamic_ncols=True, smoothing=0.1,
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]",
        )  # fmt: skip

    def step(self, record: dict[str, Any]) -> None:
        """One step was done."""
        at = record["seconds"] if self.minutes else record["step"]
        told = progress.step_line(record)
        self._bar.set_postfix_str(told, refresh=False)
        self._bar.update(max(0, min(at, self.total or at) - self._bar.n))
        if self._bar.disable and time.monotonic() - self._shown > progress.EVERY:
            self._shown = time.monotonic()
            click.echo(f"step {record['step']}: {told}", err=True)

    def line(self, text: str) -> None:
        """A line above the bar."""
        self._bar.clear()
        click.echo(text, err=True)
        self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


def _told(record: dict[str, Any]) -> str | None:
    return progress.line(record, lambda text: printable(text, sys.stderr))


def follow(run: Run, *, as_json: bool) -> None:
    """Run to the end or to a stop; tell of it; leave with 130 after Ctrl-C."""
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
    elif (told := _told(record)) is not None:
        bar.line(told)


def _close(run: Run, last: dict[str, Any]) -> None:
    """The last lines: what there is now, and what to do with it."""
    if last.get("kind") == "stopped":
        click.echo(f"stopped and saved after step {last['step']}; to go on:", err=True)
        click.echo(f"  gpt2lab train --resume {run.folder}", err=True)
        return
    if last.get("kind") != "end":  # it was over before
        return
    click.echo(progress.end_line(run.folder, last))
    click.echo(f'  gpt2lab generate --model {run.folder} "..."', err=True)
