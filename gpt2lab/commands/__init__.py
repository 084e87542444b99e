"""The command line: one verb a file, imported when it is called.

Results go to stdout; notes, progress and errors to stderr. Exit code 0 is success, 1 a failure,
2 the user's mistake, 130 Ctrl-C. Whatever goes wrong is one line: no traceback reaches a user.
"""

from __future__ import annotations

import difflib
import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any, NoReturn

import click

from gpt2lab import __version__
from gpt2lab.errors import Failure, InputError

#: Verb -> what it does. The verb `name` is the click command `command` of the module `name`.
VERBS = {
    "generate": "Generate text from a prompt, a file, standard input or nothing.",
    "chat": "Talk with a model in the terminal.",
    "tokenize": "Turn text into tokens and back; show the merges; learn a vocabulary.",
    "score": "Compute the log-probability and perplexity of a text.",
    "serve": "Serve models over HTTP: OpenAI's API and an editor page.",
    "look": "Look inside a model: surprisal, logit lens, attention heads.",
    "evaluate": "Run benchmarks, with the protocol beside each number.",
    "compare": "Compare two models: benchmarks, tokens, samples, weights.",
    "compress": "Compress a file with a model.",
    "decompress": "Restore a compressed file to the bit.",
    "prepare": "Tokenize texts into shards for training.",
    "train": "Train a model from scratch or continue training one.",
    "finetune": "Fine-tune a model on your own texts.",
    "convert": "Convert a checkpoint to another format and verify it.",
    "models": "List the models on this machine.",
    "download": "Download a model from the Hugging Face hub.",
    "bench": "Measure the throughput of this machine.",
}

PIPE_CLOSED = 141  # what a shell reports of a program that SIGPIPE ended
LONGEST = 1000  # characters of a wrong usage that are repeated


class _ClosedPipe(Exception):
    """The reader has closed the pipe. click would make exit code 1 of the original error."""


@contextmanager
def _minding_the_pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _ClosedPipe from error


class Verbs(click.Group):
    """The group of all verbs; it knows their names without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"gpt2lab.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            near = difflib.get_close_matches(name, VERBS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(VERBS)}"
            raise InputError(f"no command {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **named: Any) -> click.Context:
        with _minding_the_pipe():
            return super().make_context(*args, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with _minding_the_pipe():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


def _told(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _leave(code: int) -> NoReturn:
    """Exit; what cannot be written any more must not become a second error on the way out."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _stop(code: int, message: str = "") -> NoReturn:
    try:
        if message:
            click.echo(f"gpt2lab: {' '.join(message.split())}", err=True)
    finally:
        _leave(code)


class _Notes(logging.Handler):
    """Prints the library's log records as notes on stderr, above progress bars.

    The same warning is printed once.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        text = record.getMessage()
        if text in self._warned:
            return
        if record.levelno >= logging.WARNING:
            self._warned.add(text)
        bars = sys.modules["tqdm"].tqdm if "tqdm" in sys.modules else None
        with bars.external_write_mode(sys.stderr) if bars else nullcontext():
            click.echo(f"note: {text}", err=True)


@contextmanager
def _notes() -> Iterator[None]:
    """Show the log of the library inside the block; warnings of other libraries are hidden."""
    logger, handler = logging.getLogger("gpt2lab"), _Notes()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@click.command(
    cls=Verbs,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='Example: gpt2lab generate "Once upon a time"',
)
@click.version_option(__version__, prog_name="gpt2lab")
def group() -> None:
    """Run, train, convert and inspect GPT-2 models."""


class _Nowhere(io.RawIOBase):
    """Takes everything and keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def _open_streams() -> None:
    """Standard streams that are there and never fail on a character.

    A stream that was closed before the start is None; what would go there goes nowhere.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(_Nowhere(), encoding="utf-8"))
        elif hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that is not UTF-8 gets a sign


def main(args: Sequence[str] | None = None) -> None:
    """The program `gpt2lab`: run a verb; whatever goes wrong is one line and an exit code."""
    _open_streams()
    try:
        with _notes():
            group.main(args=args, prog_name="gpt2lab", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _stop(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        _stop(2)
    except click.ClickException as error:
        if len(error.message) > LONGEST:  # click repeats an argument as it is
            vars(error)["message"] = f"{error.message[:LONGEST]}..."
        error.show()
        _stop(error.exit_code)
    except InputError as error:
        _stop(2, str(error))
    except Failure as error:
        _stop(1, str(error))
    except (_ClosedPipe, BrokenPipeError):
        _leave(PIPE_CLOSED)
    except MemoryError:
        _stop(1, "not enough memory; try a smaller model, batch or text")
    except OSError as error:
        _stop(1 if error.errno == errno.ENOSPC else 2, _told(error))
    except UnicodeError as error:
        _stop(2, f"a text here is not UTF-8: {error}")
