"""Files of any kind as documents: text, Markdown, CSV, JSON lines, parquet, and gzip of them.

A document is the unit that is shuffled and held out, and that an end token closes: a text file, or
each part of one between lines `<|endoftext|>`; a row of a table; a line of JSON. What a file is, is
seen in its content; its name only picks among the kinds of text. However large a file is, memory
stays the same: a long document comes in pieces. Turning them into ids is `prepare`'s.

`finding` finds the files, `decoding` and `encodings` make text of their bytes, `plain` and `tables`
cut that into documents, and `summary` says in a few lines what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gpt2lab.corpus.documents.finding import text_files
from gpt2lab.corpus.documents.plain import read_text
from gpt2lab.corpus.documents.reading import (
    READING,
    SHOWN,
    DocumentPart,
    Findings,
    OnRead,
    Reading,
    TextFile,
    ignored,
    read_by,
)
from gpt2lab.corpus.documents.summary import report
from gpt2lab.corpus.documents.tables import read_csv, read_jsonl, read_parquet

__all__ = [
    "READING", "DocumentPart", "Findings", "Reading", "TextFile", "document_parts", "read_by",
    "report", "text_files",
]  # fmt: skip

_Reader = Callable[[TextFile, Reading, OnRead, Findings], Iterator[tuple[str, bool]]]
_READERS: dict[str, _Reader] = {
    "text": read_text,
    "csv": read_csv,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
}


def document_parts(
    file: TextFile, reading: Reading, on_read: OnRead = ignored, found: Findings | None = None
) -> Iterator[DocumentPart]:
    """The documents of one file, long ones in pieces; those of white space alone are left out.

    on_read: told how many bytes of the file are read so far. found: filled with what the reading
    shows. Raises InputError, in one line that names the file and the place, for what is no text,
    another encoding, a missing column or field.
    """
    document, is_open, tail = 0, False, ""
    found = found if found is not None else Findings()
    found.kind = file.kind
    longest = max(map(len, reading.special), default=1)
    for text, last in _READERS[file.kind](file, reading, on_read, found):
        if is_open or not last or text.strip():
            found.count(reading.special, tail, text)
            if not found.first:
                found.first = text.lstrip()[:SHOWN]
            yield DocumentPart(file, document, text, last)
            document, is_open = document + last, not last
            tail = "" if last else text[-longest + 1 :]
