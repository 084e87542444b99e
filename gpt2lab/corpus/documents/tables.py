"""Tables as documents, one a row: CSV in its many forms, and parquet."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

from gpt2lab.corpus.documents.decoding import lines_of, texts
from gpt2lab.corpus.documents.fields import TEXT, as_text, joined, listed, usual
from gpt2lab.corpus.documents.reading import Findings, OnRead, Reading, TextFile
from gpt2lab.errors import InputError, MissingExtraError, quoted
from gpt2lab.files.io import accessing
from gpt2lab.files.visible import reason, shown

FIELD = 1 << 30  # characters of a table's cell; csv itself stops at 131,072
SAMPLE = 1 << 17  # characters that the delimiter is found in
SIGNS = ("\t", ",", ";", "|")  # delimiters that are looked for
_SEP = re.compile(r'"?sep=(.)"?\s*', re.I)  # Excel's own first line
_WORDS = 5  # of a column's name; more are a sentence
_NAME = 60  # characters of one
_SENTENCE = re.compile(r"""[.!?…。！？]["'”’»）)]*$|[，。！？；]""")


def columns(
    file: TextFile, names: Sequence[str], reading: Reading, first: Sequence[str] = ()
) -> list[int]:
    """Which columns of a table are the text; InputError that lists those there are.

    first: the first row of a table without a header, to list in place of names.
    """
    there = listed(first or names)
    if wanted := reading.columns or reading.field:
        return [_column(file, names, name, there) for name in wanted]
    found = usual(names)
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
    for sign in SIGNS:
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


class _Lines:
    """Lines for csv, which remembers those of the row under way. number: of the last line."""

    def __init__(self, lines: Iterator[str], number: int) -> None:
        self._lines, self.number = lines, number
        self._row: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self._row.append(line)
            self.number += 1
            yield line

    @property
    def start(self) -> int:
        """The number of the row's first line."""
        return self.number - max(len(self._row), 1) + 1

    def row(self) -> str:
        """The row that has just been read, as it stands; the next one begins after it."""
        text, self._row = "".join(self._row), []
        return text.rstrip("\r\n")


def _rows(file: TextFile, lines: _Lines, sign: str) -> Iterator[tuple[int, list[str], str]]:
    """(line, cells, the row as it stands) of a CSV; quotes may hold delimiters and line ends."""
    csv.field_size_limit(max(csv.field_size_limit(), FIELD))
    rows = csv.reader(iter(lines), delimiter=sign, strict=True)
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise InputError(
                f"{file.name}: line {lines.start}: no CSV ({reason(error)}); a quote may be "
                "missing or not doubled"
            ) from error
        if row is None:
            return
        start, text = lines.start, lines.row()
        if any(cell.strip() for cell in row):
            yield start, row, text


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
    wanted = columns(file, form.names, reading, form.first)
    found.columns, found.among = [form.names[at] for at in wanted], form.names
    found.delimiter = form.delimiter if form.declared > 1 else ""
    recorded = _Lines(chain(sample, lines), skipped)
    for line, row, text in _rows(file, recorded, form.delimiter):
        if not form.first and found.header is None:
            found.header = line
            continue
        cells = _fitted(f"{file.name}: line {line}", row, text, form, found)
        yield from joined([cells[at] for at in wanted], reading, found)


# --- parquet --------------------------------------------------------------------------------------


def read_parquet(
    file: TextFile, reading: Reading, on_read: OnRead, found: Findings
) -> Iterator[tuple[str, bool]]:
    """The documents of a parquet file, one a row."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingExtraError("reading parquet", "pyarrow", "parquet") from None
    try:
        with accessing(file.path), parquet.ParquetFile(file.path) as table:
            names = table.schema_arrow.names
            wanted = [names[at] for at in columns(file, names, reading)]
            found.columns, found.among = wanted, names
            for group in range(table.num_row_groups):
                for batch in table.iter_batches(1024, row_groups=[group], columns=wanted):
                    for cells in _cells(file, batch, wanted):
                        yield from joined(cells, reading, found)
                on_read(file.size * (group + 1) // table.num_row_groups)
    except ArrowException as error:
        raise InputError(
            f"{file.name}: not a whole parquet file ({reason(error)}); copy it again"
        ) from error


def _cells(file: TextFile, batch: Any, wanted: Sequence[str]) -> Iterator[list[str]]:
    values = [batch.column(name).to_pylist() for name in wanted]
    for row in zip(*values, strict=True):
        yield [
            as_text(file.name, cell, f"column {shown(name)}")
            for name, cell in zip(wanted, row, strict=True)
        ]
