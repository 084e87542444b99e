"""The log of a run: log.jsonl, a record a line, and event files for TensorBoard.

A record is a dict with a "kind" and mostly a "step": step, val, skip, sample, save, start, resume
and end. An interrupted run that is resumed has the lines of one that was never interrupted. Numbers
that are not finite, for which JSON has no words, are written as the strings "NaN", "Infinity" and
"-Infinity", and `read` makes numbers of them again.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt2lab.errors import Failure, InputError, MissingExtraError
from gpt2lab.files.atomic import write_whole
from gpt2lab.files.io import accessing, contents
from gpt2lab.files.json_files import parse_json

Record = dict[str, Any]

NAME = "log.jsonl"
TENSORBOARD = "tensorboard"  # the folder of the event files
EVERY = 5.0  # seconds between two flushes of the event files, each of which waits for the disk

MOST = 1 << 30  # bytes of a log
#: The keys whose value is a number or null.
NUMBERS = ("loss", "lr", "grad_norm", "seconds", "tokens_per_second", "mfu", "epoch")

#: Kind -> key -> TensorBoard's name for it.
TAGS = {
    "step": {
        "loss": "loss/train",
        "lr": "learning_rate",
        "grad_norm": "grad_norm",
        "tokens_per_second": "tokens_per_second",
        "mfu": "mfu",
    },
    "val": {"loss": "loss/val"},
}


def json_value(value: Any) -> Any:
    """The value in JSON's types: scalars of arrays become numbers, paths become strings."""
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # of NumPy or torch
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def line(record: Record) -> bytes:
    """A record as one line of the log.

    Half a surrogate pair, which a text made of bytes may hold, has no UTF-8; JSON has an escape.
    """
    text = json.dumps(json_value(record), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _parsed(raw: bytes, where: str) -> Record:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: byte {error.start} is not UTF-8; the log is damaged, remove the line"
        ) from error
    record = parse_json(text, where)
    step = record.get("step", 0)
    if not isinstance(record.get("kind"), str) or not isinstance(step, int):
        raise InputError(
            f"{where}: has no kind, or a step that is no integer; it is no line of a run's "
            "log, remove it"
        )
    for key in NUMBERS:
        if record.get(key) in ("NaN", "Infinity", "-Infinity"):
            record[key] = float(record[key])
    return record


def _lines(path: Path) -> list[tuple[bytes, Record]]:
    """Every whole line with its record; a last one that was cut off is passed over."""
    *lines, tail = contents(path, MOST).split(b"\n")
    found = [(raw, _parsed(raw, f"{path}: line {n}")) for n, raw in enumerate(lines, 1)]
    if tail:
        with suppress(InputError):
            found.append((tail, _parsed(tail, str(path))))
    return found


def read(path: Path) -> list[Record]:
    """The records of a log, oldest first; InputError with the number of a line that is not one.

    A last line that was cut off while it was written is passed over.
    """
    return [record for _, record in _lines(path)]


def _repair(path: Path, after: int | None) -> None:
    """Remove half a line at the end, and with `after` what was recorded past that step."""
    if not path.exists():
        return
    lines = _lines(path)
    kept = [raw for raw, record in lines if after is None or record.get("step", 0) <= after]
    text = b"".join(raw + b"\n" for raw in kept)
    with accessing(path):
        before = path.read_bytes()
    if text != before:
        write_whole(path, text)


def _tensorboard() -> tuple[Any, Any, Any]:
    """tensorboardX's writer, events and summaries."""
    try:
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2
    except ModuleNotFoundError:
        raise MissingExtraError("a log for TensorBoard", "tensorboardX", "train") from None
    return event_file_writer, event_pb2, summary


class _Events:
    """An event file of TensorBoard, written in step with the log.

    tensorboardX's SummaryWriter writes in a thread. When that one dies of a full disk its queue
    fills up, and the run waits for it forever. Its lower half writes at once and raises.
    """

    def __init__(self, parts: tuple[Any, Any, Any], folder: Path, after: int | None) -> None:
        writer, event, summary = parts
        self._folder, self._event, self._summary = folder, event.Event, summary.Summary
        with accessing(folder, "written"):
            folder.mkdir(parents=True, exist_ok=True)
            # names count seconds, and TensorBoard reads the files in the order of their names
            suffix = f".{len(list(folder.iterdir())):05d}"
            self._writer = writer.EventsWriter(str(folder / "events"), suffix)
        if after is not None:  # TensorBoard forgets what it has of this step and later ones
            start = event.SessionLog(status=event.SessionLog.START)
            self._add(event.Event(step=after + 1, session_log=start))
        self._flushed = -math.inf

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        with accessing(self._folder, "written"):
            self._writer.write_event(event)

    def write(self, record: Record) -> None:
        found = [
            self._summary.Value(tag=tag, simple_value=float(record[key]))
            for key, tag in TAGS.get(record["kind"], {}).items()
            if record.get(key) is not None
        ]
        if found:
            self._add(self._event(step=record["step"], summary=self._summary(value=found)))
        if time.monotonic() - self._flushed > EVERY:
            self.flush()

    def flush(self) -> None:
        with accessing(self._folder, "written"):
            self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        with accessing(self._folder, "written"):
            self._writer.close()


class Journal:
    """The log of the run in `folder`, open for writing.

    after: the step that a resumed run continues from; what was recorded past it is removed first.
    Lines without a step stay. tensorboard: write event files too, in `folder/tensorboard`;
    MissingExtraError without tensorboardX. InputError when an existing log is damaged, Failure when
    the disk is full.
    """

    def __init__(
        self, folder: Path, *, after: int | None = None, tensorboard: bool = False
    ) -> None:
        self.path = folder / NAME
        parts = _tensorboard() if tensorboard else None  # before anything is removed
        _repair(self.path, after)
        self._events = _Events(parts, folder / TENSORBOARD, after) if parts else None
        with accessing(self.path, "written"):
            self._file = self.path.open("ab", buffering=0)
            self._end = self.path.stat().st_size

    def write(self, record: Record) -> None:
        """Append one record. It is in the file when this returns; Failure when the disk is full."""
        rest = raw = line(record)
        try:
            with accessing(self.path, "written"):
                while rest:
                    rest = rest[self._file.write(rest) :]
        except BaseException:
            with accessing(self.path, "written"):
                self._file.truncate(
                    self._end
                )  # what still found room, so that the next stands alone
            raise
        self._end += len(raw)
        if self._events:
            try:
                self._events.write(record)
            except Failure:  # TensorBoard's files end here, until the log is opened again
                self._events = None

    def close(self) -> None:
        """Close the log and the event file."""
        self._file.close()
        if self._events:
            self._events.close()
            self._events = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
