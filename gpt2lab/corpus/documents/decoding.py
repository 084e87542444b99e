"""Bytes to text: unpacking, decoding, line ends. What is not UTF-8 is asked of `encodings`."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from gpt2lab.corpus.documents import encodings
from gpt2lab.corpus.documents.reading import Findings, OnRead, Reading, TextFile, ignored
from gpt2lab.errors import InputError
from gpt2lab.files.io import accessing
from gpt2lab.files.visible import reason

BLOCK = 1 << 20  # bytes read at once

_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)")


def _blocks(file: TextFile, on_read: OnRead) -> Iterator[bytes]:
    """The bytes of a file, unpacked; on_read: told how far in the file that is."""
    with accessing(file.path), file.path.open("rb") as raw:
        stream: Any = gzip.GzipFile(fileobj=raw) if file.packed else raw
        while True:
            try:
                block = stream.read(BLOCK)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise InputError(
                    f"{file.name}: a damaged gzip ({reason(error)}); copy it again"
                ) from error
            if not block:
                return
            on_read(raw.tell())
            yield block


def _not_decoded(
    file: TextFile, reading: Reading, name: str, error: UnicodeDecodeError, start: int, lines: int,
    final: bool,
) -> InputError:  # fmt: skip
    """What to do with a file that cannot be decoded.

    start, lines: bytes and lines before what could not. final: it is at the end of the file.
    """
    data, at = error.object, error.start
    line = lines + data[:at].count(b"\n") + 1
    inside = " of what is packed in it" if file.packed else ""
    where = f"byte {data[at]:#04x} in line {line}, at offset {start + at}{inside}"
    nearby = data[data.rfind(b"\n", 0, at) + 1 :]
    if reading.encoding is not None:
        return encodings.wrong(file.name, name, where, nearby)
    return encodings.not_utf8(file.name, where, nearby, _blocks(file, ignored), final)


def texts(file: TextFile, reading: Reading, on_read: OnRead, found: Findings) -> Iterator[str]:
    """The text of a file, block by block, whole characters only, line ends as they are."""
    blocks = _blocks(file, on_read)
    first = next(blocks, b"")
    name, repair = reading.codec
    if reading.encoding is None:
        name = encodings.marked(first) or name
    found.encoding = name
    decoder = codecs.getincrementaldecoder(name)(repair)
    offset = lines = 0
    for block in chain([first], blocks, [b""]):  # the empty one ends the file
        start = offset - len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _not_decoded(file, reading, name, error, start, lines, not block) from None
        if "\0" in text:
            raise encodings.zeros(file.name, offset + max(block.find(b"\0"), 0), block)
        found.repaired += text.count("\ufffd") if repair == "replace" else 0
        yield text if offset else text.removeprefix("\ufeff")
        offset, lines = offset + len(block), lines + text.count("\n")


def _held(blocks: Iterable[str]) -> Iterator[str]:
    r"""The same text in blocks of which none ends between \r and \n."""
    pending = ""
    for block in blocks:
        text = pending + block
        pending = "\r" if text.endswith("\r") else ""
        yield text.removesuffix("\r")
    yield pending


def cleaned(text: str, reading: Reading, found: Findings) -> str:
    r"""A text with \n for every line end, unless they are to be kept; the others are counted."""
    if "\r" not in text:
        return text
    windows = text.count("\r\n")
    found.windows, found.mac = found.windows + windows, found.mac + text.count("\r") - windows
    return text if reading.keep_line_ends else text.replace("\r\n", "\n").replace("\r", "\n")


def clean_texts(
    file: TextFile, reading: Reading, on_read: OnRead, found: Findings
) -> Iterator[str]:
    """`texts`, each `cleaned`."""
    for text in _held(texts(file, reading, on_read, found)):
        yield cleaned(text, reading, found)


def lines_of(blocks: Iterable[str]) -> Iterator[str]:
    r"""Lines with their ends, which are \n, \r\n or \r."""
    rest: list[str] = []  # of a line that is not over
    for text in _held(blocks):
        at = 0
        for match in _LINE.finditer(text):
            yield "".join([*rest, match[0]])
            rest, at = [], match.end()
        rest.append(text[at:])
    if last := "".join(rest):
        yield last
