"""Tables and JSON lines as documents, one a row or line: CSV in its many forms, parquet, JSON.

Which columns or fields are the text is chosen in one way for all of them.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

from gpt2lab.corpus.documents.decoding import cleaned, lines_of, texts
from gpt2lab.corpus.documents.plain import whole
from gpt2lab.corpus.documents.reading import Findings, OnRead, Reading, TextFile
from gpt2lab.errors import InputError, MissingExtraError, few, quoted
from gpt2lab.files.io import accessing, parsing
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
FIELD = 1 << 30  # characters of a table's cell; csv itself stops at 131,072
SAMPLE = 1 << 17  # characters that the delimiter is found in
_SEP = re.compile(r'"?sep=(.)"?\s*', re.I)  # Excel's own first line
_WORDS = 5  # of a column's name; more are a sentence
_NAME = 60  # characters of one
_SENTENCE = re.compile(r"""[.!?…。！？]["”'’»）)]*$|[，。！？；]""")

# --- which columns or fields are the text ---------------------------------------------------------


def _usual(names: Sequence[str]) -> list[int] | None:
    """The columns that hold the text by their names: `text`, a known group, the only one."""
    if names.count(TEXT) == 1:
        return [names.index(TEXT)]
    lower = [name.strip().lower() for name in names]
    for group in ((TEXT,), *TOGETHER):
        if all(lower.count(name) == 1 for name in group):
            return [lower.index(name) for name in group]
    named = [at for at, name in enumerate(lower) if not _UNNAMED.fullmatch(name)]
    return named if len(named) == 1 else None


def _columns(
    file: TextFile, names: Sequence[str], reading: Reading, first: Sequence[str] = ()
) -> list[int]:
    """Which columns of a table are the text; InputError that lists those there are.

    first: the first row of a table without a header, to list in place of names.
    """
    numbered = (f"{number} {shown(name[:40])}" for number, name in enumerate(first or names, 1))
    there = few(numbered, 12)
    if wanted := reading.columns or reading.field:
        return [_column(file, names, name, there) for name in wanted]
    found = _usual(names)
    if found is not None:
        return found
    if not first:
        raise InputError(
            f"{file.name}: which column? choose with --column; it has {there}; --no-header if "
            "these are no names"
        )
    raise InputError(
        f"{file.name}: which column? choose by number with --column; the first row has {there}, "
        "which are taken for texts, not for names (--header); where each line is one text, save it "
        "as .txt and give --lines"
    )


def _column(file: TextFile, names: Sequence[str], name: str, there: str) -> int:
    if names.count(name) == 1:
        return names.index(name)
    if name.isascii() and name.isdigit() and 0 < int(name) <= len(names):
        return int(name) - 1
    problem = "several columns" if names.count(name) else "no column"
    raise InputError(f"{file.name}: {problem} {quoted(name)}; choose among {there}, also by number")


def _as_text(where: str, value: Any, what: str) -> str:
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


def _joined(cells: Sequence[str], reading: Reading, found: Findings) -> Iterator[tuple[str, bool]]:
    """The cells of one row that are its text, as one; empty ones leave nothing behind."""
    text = reading.separator.join(filter(None, cells))
    return whole(cleaned(text, reading, found), reading)


# --- the form of a CSV ----------------------------------------------------------------------------


@dataclass
class _Form:
    """How a CSV is laid out.

    names: of the columns, or their numbers where it has no header. first: its first row then.
    width: columns up to the last with a name. declared: with those behind it, which are empty.
    """

    delimiter: str
    names: list[str]
    width: int
    declared: int
    first: tuple[str, ...] = ()


def _sampled(lines: Iterator[str]) -> list[str]:
    """The first lines, about SAMPLE characters."""
    sample, size = [], 0
    for line in lines:
        sample.append(line)
        size += len(line)
        if size >= SAMPLE:
            break
    return sample


def _rows_of(sample: list[str], sign: str) -> list[list[str]]:
    """The rows of the sample, as far as they can be read; its end may cut off the last one."""
    rows = []
    with suppress(csv.Error):
        for row in csv.reader(sample, delimiter=sign):
            if any(cell.strip() for cell in row):
                rows.append(row)
    return rows[:-1] if len(rows) > 2 else rows


def _agreeing(rows: list[list[str]]) -> float:
    """The share of rows that are as wide as the first."""
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows)


def _width(row: Sequence[str]) -> int:
    """Cells up to the last that is not empty."""
    return next((at for at in range(len(row), 0, -1) if row[at - 1].strip()), 0)


def _delimiter(sample: list[str]) -> str:
    """What parts the first row, and most of the others alike; a comma where nothing does."""
    best, found = 0.0, ","
    for sign in ("\t", ",", ";", "|"):
        rows = _rows_of(sample, sign)
        if rows and len(rows[0]) > 1 and (share := _agreeing(rows)) > best:
            best, found = share, sign
    return found


def _is_sentence(cell: str) -> bool:
    """Whether a cell reads like a text, not like the name of a column."""
    cell = cell.strip()
    return len(cell) > _NAME or len(cell.split()) > _WORDS or bool(_SENTENCE.search(cell))


def _is_header(row: Sequence[str], reading: Reading) -> bool:
    """Whether the first row names the columns, by its looks."""
    if reading.header is not None:
        return reading.header
    names = [cell.strip() for cell in row]
    asked = {name for name in (*reading.columns, *reading.field) if not name.isdigit()}
    if asked & set(names) or (len(names) > 1 and names.count(TEXT) == 1):
        return True
    numbers = sum(name.isdigit() for name in names)
    is_row = names[0].isdigit() and numbers + names.count("") < len(names)
    return not is_row and not any(map(_is_sentence, names))


def _is_prose(rows: list[list[str]]) -> bool:
    """Whether rows without a header are sentences with commas in them, not cells."""
    spaced = all(cell.startswith(" ") for row in rows for cell in row[1:])
    return spaced or _agreeing(rows) < 1


def _form(sample: list[str], sign: str | None, reading: Reading) -> _Form:
    """The form of the table that begins with these lines. sign: its delimiter, if it is known."""
    delimiter = sign or _delimiter(sample)
    rows = _rows_of(sample, delimiter) or [[""]]
    if _is_header(rows[0], reading):
        names = [cell.strip() for cell in rows[0]]
        return _Form(delimiter, names, max(1, _width(names)), len(names))
    width = 1 if sign is None and _is_prose(rows) else max(map(_width, rows))
    names = [str(number) for number in range(1, width + 1)]
    return _Form(delimiter, names, width, width, tuple(rows[0]))


# --- rows -----------------------------------------------------------------------------------------


def _rows(
    file: TextFile, lines: Iterator[str], skipped: int, sign: str
) -> Iterator[tuple[int, list[str], str]]:
    """(line, cells, the row as it stands) of a CSV; quotes may hold delimiters and line ends.

    skipped: lines of the file that were read before.
    """
    raw: list[str] = []  # lines of the row that is being read

    def recorded() -> Iterator[str]:
        for line in lines:
            raw.append(line)
            yield line

    csv.field_size_limit(max(csv.field_size_limit(), FIELD))
    rows = csv.reader(recorded(), delimiter=sign, strict=True)
    start = skipped + 1
    try:
        for row in rows:
            if any(cell.strip() for cell in row):
                yield start, row, "".join(raw).rstrip("\r\n")
            start = skipped + rows.line_num + 1
            raw.clear()
    except csv.Error as error:
        raise InputError(
            f"{file.name}: line {start}: no CSV ({reason(error)}); a quote may be missing or not "
            "doubled"
        ) from error


def _fitted(where: str, row: list[str], text: str, form: _Form, found: Findings) -> list[str]:
    """The cells of a row, as many as the table has columns.

    In a table of one column a row with delimiters is a text with commas, and taken whole. More
    cells, or fewer, would shift or cut texts, so they are refused.
    """
    if form.declared == 1 and len(row) > 1 and form.delimiter.join(row) == text:
        found.uncut += 1
        return [text]
    if _width(row) <= form.width <= len(row):
        return row[: form.width]
    what = "table" if form.first else "header"
    hint = "; a text that holds the delimiter needs quotes" if len(row) > form.width else ""
    raise InputError(
        f"{where}: {len(row)} cells, the {what} has {form.width}; mend or remove it{hint}"
    )


def read_csv(
    file: TextFile, reading: Reading, on_read: OnRead, found: Findings
) -> Iterator[tuple[str, bool]]:
    """The documents of a CSV, one a row."""
    lines = lines_of(texts(file, reading, on_read, found))
    sample, skipped, sign = _sampled(lines), 0, reading.delimiter
    if sample and (declared := _SEP.fullmatch(sample[0])):
        sample, skipped, sign = sample[1:], 1, sign or declared[1]
    form = _form(sample, sign, reading)
    wanted = _columns(file, form.names, reading, form.first)
    found.columns, found.among = [form.names[at] for at in wanted], form.names
    found.delimiter = form.delimiter if form.declared > 1 else ""
    for line, row, text in _rows(file, chain(sample, lines), skipped, form.delimiter):
        if not form.first and found.header is None:
            found.header = line
            continue
        cells = _fitted(f"{file.name}: line {line}", row, text, form, found)
        yield from _joined([cells[at] for at in wanted], reading, found)


# --- parquet --------------------------------------------------------------------------------------


def read_parquet(
    file: TextFile, reading: Reading, on_read: OnRead, found: Findings
) -> Iterator[tuple[str, bool]]:
    """The documents of a parquet file, one a row."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("reading parquet", "pyarrow", "parquet") from None
    reading_it = parsing(file.name, "a whole parquet file")
    with accessing(file.path), reading_it, parquet.ParquetFile(file.path) as table:
        names = table.schema_arrow.names
        wanted = [names[at] for at in _columns(file, names, reading)]
        found.columns, found.among = wanted, names
        for group in range(table.num_row_groups):
            for batch in table.iter_batches(1024, row_groups=[group], columns=wanted):
                for cells in _cells(file, batch, wanted):
                    yield from _joined(cells, reading, found)
            on_read(file.size * (group + 1) // table.num_row_groups)


def _cells(file: TextFile, batch: Any, wanted: Sequence[str]) -> Iterator[list[str]]:
    values = [batch.column(name).to_pylist() for name in wanted]
    for row in zip(*values, strict=True):
        yield [
            _as_text(file.name, cell, f"column {shown(name)}")
            for name, cell in zip(wanted, row, strict=True)
        ]


# --- JSON lines -----------------------------------------------------------------------------------


def _object(where: str, line: str) -> dict[str, Any]:
    with parsing(where, "valid JSON, one object a line"):
        value = json.loads(line)
    if not isinstance(value, dict):
        raise InputError(f"{where}: a {type(value).__name__}, expected an object with {TEXT!r}")
    return value


def _chosen(where: str, value: dict[str, Any], reading: Reading) -> list[str]:
    """The fields that hold the text, from the first object of a file."""
    if named := reading.field or reading.columns:
        return list(named)
    names = list(value)
    if (found := _usual(names)) is not None:
        return [names[at] for at in found]
    for name in _CONVERSATIONS:
        _as_text(where, value.get(name), f"field {name!r}")
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
        cells = [_as_text(where, value[name], f"field {quoted(name)}") for name in chosen]
        yield from _joined(cells, reading, found)
