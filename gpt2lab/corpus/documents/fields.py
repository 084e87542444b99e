"""Which columns of a table, or fields of an object, are the text; lines of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from gpt2lab.corpus.documents.decoding import cleaned, lines_of, texts
from gpt2lab.corpus.documents.plain import whole
from gpt2lab.corpus.documents.reading import Findings, OnRead, Reading, TextFile
from gpt2lab.errors import InputError, few, quoted
from gpt2lab.files.visible import reason, shown

TEXT = "text"
#: Fields that make one text together, in this order.
TOGETHER = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "input", "output"),
    ("instruction", "output"),
)
_CONVERSATIONS = ("messages", "conversations", "conversation")
#: Names that pandas gives to its index, or to a column that has no name.
_UNNAMED = re.compile(r"|unnamed: \d+(_level_\d+)?(\.\d+)?|__index_level_\d+__", re.I)


def is_unnamed(name: str) -> bool:
    """Whether a column has no name of its own, as the index that pandas writes first."""
    return bool(_UNNAMED.fullmatch(name.strip()))


def usual(names: Sequence[str]) -> list[int] | None:
    """The columns that hold the text by their names: `text`, a known group, the only one."""
    if names.count(TEXT) == 1:
        return [names.index(TEXT)]
    lower = [name.strip().lower() for name in names]
    for group in ((TEXT,), *TOGETHER):
        if all(lower.count(name) == 1 for name in group):
            return [lower.index(name) for name in group]
    named = [at for at, name in enumerate(names) if not is_unnamed(name)]
    return named if len(named) == 1 else None


def listed(names: Sequence[str]) -> str:
    """Columns or fields as a message repeats them."""
    return few((f"{number} {shown(name[:40])}" for number, name in enumerate(names, 1)), 12)


def as_text(where: str, value: Any, what: str) -> str:
    """A string of a file that is a text; null counts as an empty one."""
    if value is None:
        return ""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        raise InputError(
            f"{where}: {what} holds a conversation, a list of messages; write each as one text, "
            "with the model's own tokens around its turns, and read it with --allow-special"
        )
    if not isinstance(value, str):
        raise InputError(f"{where}: {what} holds a {type(value).__name__}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: {what} holds half a surrogate pair; repair it") from None
    return value


def joined(cells: Sequence[str], reading: Reading, found: Findings) -> Iterator[tuple[str, bool]]:
    """The cells of one row that are its text, as one; empty ones leave nothing behind."""
    text = reading.separator.join(filter(None, cells))
    return whole(cleaned(text, reading, found), reading)


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: not valid JSON ({reason(error)}); expected one object a line"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: a {type(value).__name__}, expected an object with {TEXT!r}")
    return value


def _chosen(where: str, value: dict[str, Any], reading: Reading) -> list[str]:
    """The fields that hold the text, from the first object of a file."""
    if named := reading.field or reading.columns:
        return list(named)
    names = list(value)
    if (found := usual(names)) is not None:
        return [names[at] for at in found]
    for name in _CONVERSATIONS:
        as_text(where, value.get(name), f"field {name!r}")
    raise _missing(where, TEXT, names)


def _missing(where: str, name: str, names: Sequence[str]) -> InputError:
    there = few((shown(name[:40]) for name in names), 12) or "none"
    return InputError(f"{where}: no field {quoted(name)}; choose by --field among: {there}")


def read_jsonl(
    file: TextFile, reading: Reading, on_read: OnRead, found: Findings
) -> Iterator[tuple[str, bool]]:
    """The documents of a file of JSON lines."""
    chosen: list[str] = []
    for number, line in enumerate(lines_of(texts(file, reading, on_read, found)), 1):
        if not line.strip():
            continue
        where = f"{file.name}: line {number}"
        value = _object(where, line)
        if not chosen:
            chosen = _chosen(where, value, reading)
            found.columns, found.among = chosen, list(value)
        for name in chosen:
            if name not in value:
                raise _missing(where, name, list(value))
        cells = [as_text(where, value[name], f"field {quoted(name)}") for name in chosen]
        yield from joined(cells, reading, found)
