"""The records of a run as lines for people, and as records of `logging` for programs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from gpt2lab.files.visible import shown as visible

log = logging.getLogger("gpt2lab.train")
EVERY = 10.0  # seconds between lines of loss

#: Kind of a record -> its line.
LINES = {
    "skip": "step {step} skipped: {why}",
    "back": "step {step}: back to the weights of step {to}",
    "not_saved": "step {step} could not be saved, the run continues: {why}",
    "note": "note: {text}",
    "resume": "resuming after step {step}",
}

Record = dict[str, Any]


def step_line(record: Record) -> str:
    """Return the loss and the throughput of a step."""
    return f"loss {record['loss']:.4f}, {record['tokens_per_second']:,.0f} tokens/s"


def line(record: Record, text: Callable[[str], str] = visible) -> str | None:
    """Return a line for a record other than a step, None if there is none. text: shows a sample."""
    step, kind = record.get("step"), record["kind"]
    if kind == "sample":
        return f"step {step}: {text(record['prompt'] + record['text'])}\n"
    if kind == "val":
        return f"step {step}: validation loss {record['loss']:.4f}{' (best)' * record['best']}"
    pattern = LINES.get(kind)
    return pattern.format(**record) if pattern else None


def end_line(folder: object, record: Record) -> str:
    """Return the summary of a run that has ended."""
    best = record["best"]
    held = f", best validation loss {best['loss']:.4f} at step {best['step']}" if best else ""
    return f"{folder}: {record['step']} steps, {record['why']}{held}"


def logged(folder: object, records: Iterable[Record], every: float = EVERY) -> Iterator[Record]:
    """Yield records and log them: the first step, then one every `every` seconds."""
    last = -every
    for record in records:
        if record["kind"] == "end":
            log.info(end_line(folder, record))
        elif record["kind"] != "step":
            if (told := line(record)) is not None:
                log.info(told.rstrip())
        elif time.monotonic() - last >= every:
            last = time.monotonic()
            log.info(f"step {record['step']}: {step_line(record)}")
        yield record


def _listens(logger: logging.Logger | None) -> bool:
    """Return whether a handler of a logger, or of a parent, shows INFO records."""
    while logger is not None:
        own = (one for one in logger.handlers if not isinstance(one, logging.NullHandler))
        if any(handler.level <= logging.INFO for handler in own):
            return True
        logger = logger.parent if logger.propagate else None
    return False


@contextmanager
def shown(verbose: bool) -> Iterator[None]:
    """Show INFO records of `gpt2lab` inside the block, on stderr if there is no handler.

    If the program has handlers for them, on the root or on `gpt2lab`, those get the records and
    nothing is added. Levels and handlers are restored afterwards.
    """
    logger, handler = logging.getLogger("gpt2lab"), logging.StreamHandler()
    level, listens = logger.level, _listens(logger)
    if verbose and level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if verbose and not listens:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
