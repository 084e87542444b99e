"""Files of any kind as documents: text, Markdown, CSV, JSON lines, parquet, and gzip of them.

A document is the unit that is shuffled and held out, and that an end token closes: a text file, or
each part of one between lines `<|endoftext|>`; a row of a table; a line of JSON. What a file is, is
seen in its content; its name only picks among the kinds of text. However large a file is, memory
stays the same: a long document comes in pieces. Turning them into ids is `prepare`'s.

`files` finds the files, `decoding` and `encodings` make text of their bytes, `plain`, `fields` and
`tables` cut that into documents, and `report` says in a few lines what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gpt2lab.corpus.documents.fields import read_jsonl
from gpt2lab.corpus.documents.finding import sources
from gpt2lab.corpus.documents.plain import read_text
from gpt2lab.corpus.documents.reading import (
    READING,
    SHOWN,
    Found,
    Piece,
    Reading,
    Say,
    Seen,
    Source,
    ignored,
    read_by,
)
from gpt2lab.corpus.documents.summary import report
from gpt2lab.corpus.documents.tables import read_csv, read_parquet

__all__ = [
    "READING", "Found", "Piece", "Reading", "Say", "Source", "documents", "pieces", "read_by",
    "report", "sources",
]  # fmt: skip

_Reader = Callable[[Source, Reading, Seen, Found], Iterator[tuple[str, bool]]]
_READERS: dict[str, _Reader] = {
    "text": read_text,
    "csv": read_csv,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
}


def pieces(
    source: Source, reading: Reading, seen: Seen = ignored, found: Found | None = None
) -> Iterator[Piece]:
    """The documents of one file, long ones in pieces; those of white space alone are left out.

    seen: told how many bytes of the file are read so far. found: filled with what the reading
    shows. Raises InputError, in one line that names the file and the place, for what is no text,
    another encoding, a missing column or field.
    """
    document, is_open, tail = 0, False, ""
    found = found if found is not None else Found()
    found.kind = source.kind
    longest = max(map(len, reading.special), default=1)
    for text, last in _READERS[source.kind](source, reading, seen, found):
        if is_open or not last or text.strip():
            found.count(reading.special, tail, text)
            if not found.first:
                found.first = text.lstrip()[:SHOWN]
            yield Piece(source, document, text, last)
            document, is_open = document + last, not last
            tail = "" if last else text[-longest + 1 :]


def documents(
    paths: Iterable[Path | str], reading: Reading | None = None, *, say: Say = ignored
) -> Iterator[Piece]:
    """All documents of files, folders and patterns, in their order; see `sources`, `pieces`."""
    for source in sources(paths, say=say):
        yield from pieces(source, reading or Reading())
