"""Files of any kind as documents: text, Markdown, CSV, JSON lines, parquet, and gzip of them.

A document is the unit that is shuffled and held out, and that an end token closes: a text file, or
each part of one between lines `<|endoftext|>`; a row of a table; a line of JSON. What a file is, is
seen in its content; its name only picks among the kinds of text. However large a file is, memory
stays the same: a long document comes in pieces, cut where white space begins after a word, so that
the tokens of the pieces are the tokens of the whole. Turning them into ids is `prepare`'s.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from gpt2lab.bpe import last_cut
from gpt2lab.errors import InputError, MissingExtraError
from gpt2lab.files import accessing, read_head, reason, shown
from gpt2lab.merges import WHITE_SPACE
from gpt2lab.vocabulary import END_OF_TEXT

BLOCK = 1 << 20  # bytes read at once
PIECE = 1 << 18  # characters of a document kept together; a shorter one is never cut
NEAR = 1 << 12  # characters in which white space is looked for, to cut there
FIELD = 1 << 30  # characters of a table's cell; csv itself stops at 131,072

#: What a name says of a text; all others are plain text.
KINDS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
#: What is taken of a folder; a file of another name has to be named.
IN_FOLDERS = (".txt", ".text", ".md", ".markdown", ".csv", ".jsonl", ".ndjson", ".parquet")
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_STRANGE = {  # first bytes -> what it is
    b"PK\x03\x04": "a zip file, as .docx, .odt and .epub are; unpack it, or save it as text",
    b"%PDF": "a PDF; save its text as .txt",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it, or compress it by gzip",
    b"BZh": "compressed by bzip2; unpack it, or compress it by gzip",
    b"\xfd7zXZ": "compressed by xz; unpack it, or compress it by gzip",
}
_MARKS = {  # byte order marks, longest first -> encoding
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

Say = Callable[[str], None]
Seen = Callable[[int], None]


def _unsaid(_: Any) -> None:
    """For whoever does not want to hear it."""


@dataclass(frozen=True)
class Reading:
    """How files are read.

    columns: of CSV and parquet, by name or by number from 1; several are joined by line ends. By
    default the only one there is. field: of JSON lines, and of parquet when no columns are named.
    encoding: of all texts; by default UTF-8.
    """

    columns: tuple[str, ...] = ()
    field: str = "text"
    encoding: str | None = None

    def __post_init__(self) -> None:
        try:
            b"?".decode(self.encoding or "utf-8")
        except UnicodeError:  # a character may need more than one byte
            pass
        except LookupError:
            raise InputError(
                f"encoding: {self.encoding!r} is unknown; known are utf-8, utf-16, cp1252, "
                "latin-1, gb18030, shift_jis and what else Python calls a text encoding"
            ) from None


class Source(NamedTuple):
    """One file; name: as it was given. kind: text, csv, jsonl or parquet. size: bytes."""

    path: Path
    name: str
    kind: str
    packed: bool
    size: int


class Piece(NamedTuple):
    """A document, or the next piece of a long one. document: its number in the source, from 0."""

    source: Source
    document: int
    text: str
    last: bool


# --- which files ----------------------------------------------------------------------------------


def _suffix(path: Path) -> str:
    """The extension, that of what is inside for name.ext.gz."""
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return inner.suffix.lower()


def _in_folder(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    """The texts in a folder and the folders in it, in the order of their names; none hidden."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (here / name).resolve() != leave_out
        )
        for name in sorted(files):
            if not name.startswith(".") and _suffix(Path(name)) in IN_FOLDERS:
                yield here / name


def _matching(pattern: str) -> list[Path]:
    return [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207


def _files(given: str, leave_out: Path | None) -> Iterator[Path]:
    """The files that one word of the command line names."""
    path = Path(given)
    if path.is_dir():
        found = list(_in_folder(path, leave_out))
        if not found:
            raise InputError(
                f"{given}: no texts in this folder; looked for {', '.join(IN_FOLDERS)}, also .gz"
            )
        yield from found
    elif not os.path.lexists(path) and glob.has_magic(given):
        found = _matching(given)
        if not found:
            raise InputError(f"{given}: no file matches this pattern; check it and its folder")
        for each in found:
            yield from _in_folder(each, leave_out) if each.is_dir() else [each]
    else:
        yield path


def _source(path: Path) -> Source:
    """What a file is; InputError for one that holds no text."""
    if not path.is_file():
        what = "is no ordinary file" if os.path.lexists(path) else "there is no such file"
        raise InputError(f"{path}: {what}; give text files, folders or patterns")
    with accessing(path), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
    head, suffix = read_head(path, 8), _suffix(path)
    if head.startswith(_PARQUET):
        return Source(path, str(path), "parquet", False, size)
    for mark, what in _STRANGE.items():
        if head.startswith(mark):
            raise InputError(f"{path}: no text but {what}")
    if suffix in (".json", ".parquet") and size:
        wanted = "JSON lines (.jsonl), one object a line" if suffix == ".json" else "a parquet file"
        raise InputError(f"{path}: its name says {suffix}; expected {wanted}")
    return Source(path, str(path), KINDS.get(suffix, "text"), head.startswith(_GZIP), size)


def sources(
    paths: Iterable[Path | str], *, leave_out: Path | None = None, say: Say = _unsaid
) -> list[Source]:
    """The files behind paths, folders and patterns, each once, in the order given.

    leave_out: a folder that is not looked into. Files without a byte are left out too, and said.
    Raises InputError when nothing is left, for what is missing, and for files that are no text.
    """
    found: dict[Path, Source] = {}
    empty: list[str] = []
    leave_out = leave_out.resolve() if leave_out else None
    for given in paths:
        for path in _files(str(given), leave_out):
            source = _source(path)
            if not source.size:
                empty.append(source.name)
            elif path.resolve() in found:
                say(f"{path} is named twice; it is read once")
            else:
                found[path.resolve()] = source
    if not found:
        named = ", ".join(empty) or "no files"
        raise InputError(f"{named}: empty; give at least one file with text in it")
    for name in empty:
        say(f"{name} is empty; it is left out")
    return list(found.values())


# --- bytes to text --------------------------------------------------------------------------------


def _opened(source: Source, file: BinaryIO) -> Any:
    return gzip.GzipFile(fileobj=file) if source.packed else file


def _blocks(source: Source, seen: Seen) -> Iterator[bytes]:
    """The bytes of a file, unpacked; seen: told how far in the file that is."""
    with accessing(source.path), source.path.open("rb") as file:
        stream = _opened(source, file)
        while True:
            try:
                block = stream.read(BLOCK)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise InputError(
                    f"{source.name}: a damaged gzip ({reason(error)}); copy it again"
                ) from error
            if not block:
                return
            seen(file.tell())
            yield block


def _guess(head: bytes, block: bytes) -> str:
    """The encoding that a text may have which is not UTF-8."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    try:
        block.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def _wrong_encoding(source: Source, wanted: str, at: int, byte: int, guess: str) -> InputError:
    inside = " of what is packed in it" if source.packed else ""
    return InputError(
        f"{source.name}: not {wanted}: byte {byte:#04x} at offset {at}{inside}; it may be {guess}: "
        f"try --encoding {guess}, or convert it to UTF-8"
    )


def _check_binary(source: Source, text: str, block: bytes, offset: int) -> None:
    if "\0" in text:
        at = offset + max(block.find(b"\0"), 0)
        raise InputError(
            f"{source.name}: no text: a zero byte at offset {at}; give text files, or the "
            "encoding with --encoding (utf-16 has zero bytes)"
        )


def _texts(source: Source, encoding: str | None, seen: Seen) -> Iterator[str]:
    """The text of a file, block by block, whole characters only."""
    decoder = codecs.getincrementaldecoder(encoding or "utf-8")()
    offset, head = 0, b""
    for block in _blocks(source, seen):
        head = head or block[:4]
        text = _decoded(source, decoder, encoding, block, offset, head)
        _check_binary(source, text, block, offset)
        yield text.removeprefix("\ufeff") if not offset else text
        offset += len(block)
    _decoded(source, decoder, encoding, b"", offset, head, final=True)


def _decoded(
    source: Source,
    decoder: codecs.IncrementalDecoder,
    encoding: str | None,
    block: bytes,
    offset: int,
    head: bytes,
    final: bool = False,
) -> str:
    pending = len(decoder.getstate()[0])
    try:
        return decoder.decode(block, final)
    except UnicodeDecodeError as error:
        at, byte = offset - pending + error.start, error.object[error.start]
        guess = _guess(head, error.object)
        if encoding is not None:
            guess = "utf-8" if encoding != "utf-8" else guess
        raise _wrong_encoding(source, encoding or "UTF-8", at, byte, guess) from None


def _lines(texts: Iterator[str]) -> Iterator[str]:
    """Lines with their ends; only a line feed ends one."""
    rest: list[str] = []  # of a line that is not over
    for text in texts:
        *whole, last = text.split("\n")
        for line in whole:
            yield "".join([*rest, line, "\n"])
            rest = []
        rest.append(last)
    if last := "".join(rest):
        yield last


# --- text files -----------------------------------------------------------------------------------

_MARK = re.escape(END_OF_TEXT)
_FIRST = re.compile(rf"{_MARK}[ \t\r]*(?:\n|\Z)")  # where a line begins
_NEXT = re.compile(rf"\n{_MARK}[ \t\r]*(?:\n|\Z)")


def _cut(text: str, most: int) -> int:
    """Where to cut a long text, at most at `most`: where white space follows a word.

    Where there is none near, as in Chinese, between two classes of characters: see `bpe`.
    """
    for at in range(most, max(most - NEAR, 0), -1):
        if text[at] in WHITE_SPACE and text[at - 1] not in WHITE_SPACE:
            return at
    return last_cut(text[:most])


class _Parts:
    """Cuts a text that arrives in blocks at its marker lines, and long documents into pieces."""

    def __init__(self) -> None:
        self._text = ""
        self._is_open = False  # pieces of the document were given already
        self._starts_line = True  # the text begins where a line does
        self._after_mark = False

    def _ended(self, text: str) -> Iterator[tuple[str, bool]]:
        if self._is_open or text.strip():
            yield text, True
        self._is_open = False

    def _marked(self, final: bool) -> Iterator[tuple[str, bool]]:
        """The documents that a marker line ends."""
        text, at = self._text, 0
        while True:
            if self._after_mark and not self._is_open:
                while at < len(text) and text[at] in "\r\n":
                    at += 1
            mark = (self._starts_line and _FIRST.match(text, at)) or _NEXT.search(text, at)
            if not mark or (mark.end() == len(text) and not final and mark[0][-1] != "\n"):
                break
            yield from self._ended(text[at : mark.start()].rstrip("\r\n"))
            self._starts_line = self._after_mark = True
            at = mark.end()
        self._text = text[at:]

    def _long(self) -> Iterator[tuple[str, bool]]:
        """Pieces of a document that is longer than two.

        A piece's length stays behind, so no marker, and no line end before one, is cut.
        """
        start = 0
        while len(self._text) - start > 2 * PIECE:
            end = start + _cut(self._text[start : start + PIECE + 1], PIECE)
            yield self._text[start:end], False
            self._is_open, self._starts_line, start = True, False, end
        self._text = self._text[start:]

    def push(self, text: str) -> Iterator[tuple[str, bool]]:
        """(piece, is it the last of its document) that the next block of text completes."""
        self._text += text
        yield from self._marked(final=False)
        yield from self._long()

    def flush(self) -> Iterator[tuple[str, bool]]:
        """What is left at the end of the file."""
        yield from self._marked(final=True)
        yield from self._ended(self._text.rstrip("\r\n") if self._after_mark else self._text)


def _text(source: Source, reading: Reading, seen: Seen) -> Iterator[tuple[str, bool]]:
    parts = _Parts()
    for text in _texts(source, reading.encoding, seen):
        yield from parts.push(text)
    yield from parts.flush()


# --- tables and JSON lines ------------------------------------------------------------------------


def _columns(source: Source, header: Sequence[str], reading: Reading, default: str) -> list[int]:
    """Which columns of a table are wanted; InputError that lists those there are."""
    there = ", ".join(f"{number} {shown(name)}" for number, name in enumerate(header, 1))
    wanted = reading.columns
    if not wanted and default in header:
        wanted = (default,)
    if not wanted and len(header) == 1:
        return [0]
    if not wanted:
        raise InputError(f"{source.name}: which column? choose with --column; it has {there}")
    return [_column(source, header, name, there) for name in wanted]


def _column(source: Source, header: Sequence[str], name: str, there: str) -> int:
    if header.count(name) == 1:
        return header.index(name)
    if name.isascii() and name.isdigit() and 0 < int(name) <= len(header):
        return int(name) - 1
    problem = "several columns" if header.count(name) else "no column"
    raise InputError(f"{source.name}: {problem} {name!r}; choose among {there}, also by number")


def _delimiter(line: str) -> str:
    """What parts the columns: a tab where the header has one, else a comma, else a semicolon."""
    return next((sign for sign in ("\t", ",", ";") if sign in line), ",")


def _rows(source: Source, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a CSV; quotes may hold delimiters and line ends."""
    first = next(lines, "")
    csv.field_size_limit(max(csv.field_size_limit(), FIELD))
    rows = csv.reader(_chained(first, lines), delimiter=_delimiter(first), strict=True)
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise InputError(
                f"{source.name}: line {rows.line_num}: no CSV ({reason(error)}); a quote may be "
                "missing or not doubled"
            ) from error
        if row is None:
            return
        if row:
            yield rows.line_num, row


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _csv(source: Source, reading: Reading, seen: Seen) -> Iterator[tuple[str, bool]]:
    rows = _rows(source, _lines(_texts(source, reading.encoding, seen)))
    _, header = next(rows, (0, [""]))
    wanted = _columns(source, [name.strip() for name in header], reading, "")
    for line, row in rows:
        if max(wanted) >= len(row):
            raise InputError(
                f"{source.name}: line {line}: {len(row)} cells, the header has {len(header)}; "
                "mend or remove it"
            )
        yield "\n".join(row[at] for at in wanted if row[at]), True


def _json_value(source: Source, number: int, line: str, field: str) -> str:
    where = f"{source.name}: line {number}"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: not valid JSON ({reason(error)}); expected one object a line"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: a {type(value).__name__}, expected an object with {field!r}")
    if field not in value:
        there = ", ".join(shown(name) for name in value) or "none"
        raise InputError(f"{where}: no field {field!r}; choose by --field among: {there}")
    return _as_text(where, value[field], f"field {field!r}")


def _as_text(where: str, value: Any, what: str) -> str:
    """A string of a file that is a text; null counts as an empty one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where}: {what} holds a {type(value).__name__}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: {what} holds half a surrogate pair; repair it") from None
    return value


def _jsonl(source: Source, reading: Reading, seen: Seen) -> Iterator[tuple[str, bool]]:
    lines = _lines(_texts(source, reading.encoding, seen))
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _json_value(source, number, line, reading.field), True


def _parquet(source: Source, reading: Reading, seen: Seen) -> Iterator[tuple[str, bool]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingExtraError("reading parquet", "pyarrow", "parquet") from None
    try:
        with accessing(source.path), parquet.ParquetFile(source.path) as file:
            names = file.schema_arrow.names
            chosen = _columns(source, names, reading, reading.field)
            wanted = [names[at] for at in chosen]
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(1024, row_groups=[group], columns=wanted):
                    yield from _cells(source, batch, wanted)
                seen(source.size * (group + 1) // file.num_row_groups)
    except ArrowException as error:
        raise InputError(
            f"{source.name}: not a whole parquet file ({reason(error)}); copy it again"
        ) from error


def _cells(source: Source, batch: Any, wanted: Sequence[str]) -> Iterator[tuple[str, bool]]:
    columns = [batch.column(name).to_pylist() for name in wanted]
    for row in zip(*columns, strict=True):
        cells = [
            _as_text(source.name, cell, f"column {shown(name)}")
            for name, cell in zip(wanted, row, strict=True)
        ]
        yield "\n".join(filter(None, cells)), True


# --- documents ------------------------------------------------------------------------------------

_READERS: dict[str, Callable[[Source, Reading, Seen], Iterator[tuple[str, bool]]]] = {
    "text": _text,
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}


def pieces(source: Source, reading: Reading, seen: Seen = _unsaid) -> Iterator[Piece]:
    """The documents of one file, long ones in pieces; those of white space alone are left out.

    seen: told how many bytes of the file are read so far. Raises InputError, in one line that names
    the file and the place, for what is no text, another encoding, a missing column or field.
    """
    document, is_open = 0, False
    for text, last in _READERS[source.kind](source, reading, seen):
        if is_open or not last or text.strip():
            yield Piece(source, document, text, last)
            document, is_open = document + last, not last


def documents(
    paths: Iterable[Path | str], reading: Reading | None = None, *, say: Say = _unsaid
) -> Iterator[Piece]:
    """All documents of files, folders and patterns, in their order; see `sources`, `pieces`."""
    for source in sources(paths, say=say):
        yield from pieces(source, reading or Reading())
