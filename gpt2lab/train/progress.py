"""A run told in lines, and as log records for programs in Python: loggers below `gpt2lab`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from gpt2lab.files.visible import shown

LOGGER = logging.getLogger("gpt2lab.train")
EVERY = 10.0  # seconds between lines of loss

Record = dict[str, Any]


def step_line(record: Record) -> str:
    """The loss and the speed of a step."""
    return f"loss {record['loss']:.4f}, {record['tokens_per_second']:,.0f} tokens/s"


def line(record: Record, text: Callable[[str], str] = shown) -> str | None:
    """A record other than a step, for people; None for what is not told. text: of a sample."""
    step, kind = record.get("step"), record["kind"]
    if kind == "val":
        return f"step {step}: validation loss {record['loss']:.4f}{' (best)' * record['best']}"
    if kind == "sample":
        return f"step {step}: {text(record['prompt'] + record['text'])}\n"
    if kind == "skip":
        return f"step {step} skipped: {record['why']}"
    if kind == "back":
        return f"step {step}: back to the weights of step {record['to']}"
    if kind == "not_saved":
        return f"step {step} could not be saved, the run goes on: {record['why']}"
    if kind == "note":
        return f"note: {record['text']}"
    if kind == "resume":
        return f"resuming after step {step}"
    return None


def end_line(folder: object, record: Record) -> str:
    """What a run that has ended comes to."""
    best = record["best"]
    held = f", best validation loss {best['loss']:.4f} at step {best['step']}" if best else ""
    return f"{folder}: {record['step']} steps, {record['why']}{held}"


def log(folder: object, records: Iterable[Record], every: float = EVERY) -> Iterator[Record]:
    """Pass records on, and log them: the first step, then one in each `every` seconds."""
    last = -every
    for record in records:
        if record["kind"] == "end":
            LOGGER.info(end_line(folder, record))
        elif record["kind"] != "step":
            if (told := line(record)) is not None:
                LOGGER.info(told.rstrip())
        elif time.monotonic() - last >= every:
            last = time.monotonic()
            LOGGER.info(f"step {record['step']}: {step_line(record)}")
        yield record


def _listens(logger: logging.Logger | None) -> bool:
    """Whether a handler of a logger, or of one above it, shows INFO records."""
    while logger is not None:
        own = (one for one in logger.handlers if not isinstance(one, logging.NullHandler))
        if any(handler.level <= logging.INFO for handler in own):
            return True
        logger = logger.parent if logger.propagate else None
    return False


@contextmanager
def heard(verbose: bool) -> Iterator[None]:
    """Let INFO records of `gpt2lab` be seen inside the block, on stderr where nobody listens.

    Where the program has handlers for them, on the root or on `gpt2lab`, those get the records and
    nothing is added; levels and handlers are afterwards as they were.
    """
    logger = logging.getLogger("gpt2lab")
    if not verbose:
        yield
        return
    level, handler = logger.level, logging.StreamHandler()
    has_own = _listens(logger)
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if not has_own:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
