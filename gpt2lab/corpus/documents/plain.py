"""Text files as documents: parted by marker lines, by every end token's name, or line by line.

A long document comes in pieces, cut where white space begins after a word, so that the tokens of
the pieces are the tokens of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpt2lab.corpus.documents.decoding import clean_texts, lines_of
from gpt2lab.corpus.documents.reading import Findings, OnRead, Reading, TextFile
from gpt2lab.text.bpe import WHITE_SPACE
from gpt2lab.text.learn import last_cut
from gpt2lab.text.tokenizer_config import END_OF_TEXT

PIECE = 1 << 18  # characters of a document kept together; a shorter one is never cut
NEAR = 1 << 12  # characters in which white space is looked for, to cut there

_MARK = re.escape(END_OF_TEXT)
_FIRST = re.compile(rf"{_MARK}[ \t\r]*(?:\n|\Z)")  # where a line begins
_NEXT = re.compile(rf"\n{_MARK}[ \t\r]*(?:\n|\Z)")  # begins with a text that is found fast
_NEXT_OF_ALL = re.compile(rf"[\r\n]{_MARK}[ \t]*(?:\r\n?|\n|\Z)")  # where line ends are kept
_NEVER = re.compile(r"(?!)")


def _cut(text: str, most: int) -> int:
    """Where to cut a long text, at most at `most`: where white space follows a word.

    Where there is none near, as in Chinese, between two classes of characters: see `bpe`.
    """
    for at in range(most, max(most - NEAR, 0), -1):
        if text[at] in WHITE_SPACE and text[at - 1] not in WHITE_SPACE:
            return at
    return last_cut(text[:most])


def _before(names: tuple[str, ...], text: str, at: int) -> int:
    """A cut at `at`, or before the name of a special token that it would divide or follow.

    The white space before the name goes with it, as some tokens swallow what is beside them.
    """
    for name in names:
        start = text.find(name, max(0, at - len(name)), at + len(name) - 1)
        if 0 <= start < at and (word := text[:start].rstrip()):
            return _before(names, text, len(word))
    return at


class Cutter:
    """Cuts a text that arrives in blocks at its end marks, and long documents into pieces.

    An end mark is a line `<|endoftext|>`; with reading.split_at_end_token, any of reading.ends.
    """

    def __init__(self, reading: Reading) -> None:
        self._text = ""
        self._is_open = False  # pieces of the document were given already
        self._starts_line = True  # the text begins where a line does
        self._after_mark = False
        self._first = _FIRST
        self._next = _NEXT_OF_ALL if reading.keep_line_ends else _NEXT
        if reading.split_at_end_token:
            longest_first = sorted(reading.ends, key=len, reverse=True)
            self._first = _NEVER
            self._next = re.compile("|".join(map(re.escape, longest_first)))
        self._uncut = reading.special if reading.allow_special else ()

    def _ended(self, text: str) -> Iterator[tuple[str, bool]]:
        if self._is_open or text.strip():
            yield text, True
        self._is_open = False

    def _marked(self, final: bool) -> Iterator[tuple[str, bool]]:
        """The documents that a mark ends."""
        text, at = self._text, 0
        while True:
            if self._after_mark and not self._is_open:
                while at < len(text) and text[at] in "\r\n":
                    at += 1
            mark = (self._starts_line and self._first.match(text, at)) or self._next.search(
                text, at
            )
            if not mark or (mark.end() == len(text) and not final and mark[0][-1] != "\n"):
                break
            yield from self._ended(text[at : mark.start()].rstrip("\r\n"))
            self._starts_line = self._after_mark = True
            at = mark.end()
        self._text = text[at:]

    def _long(self) -> Iterator[tuple[str, bool]]:
        """Pieces of a document that is longer than two.

        A piece's length stays behind, so no mark, and no line end before one, is cut.
        """
        start = 0
        while len(self._text) - start > 2 * PIECE:
            near = self._text[start : start + PIECE + max(map(len, self._uncut), default=1)]
            end = start + _before(self._uncut, near, _cut(near[: PIECE + 1], PIECE))
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


def whole(text: str, reading: Reading) -> Iterator[tuple[str, bool]]:
    """A text that is one document, or several where end tokens part it: a cell, a line."""
    if not (reading.split_at_end_token and any(name in text for name in reading.ends)):
        yield text, True
        return
    cutter = Cutter(reading)
    yield from cutter.push(text)
    yield from cutter.flush()


def read_text(
    file: TextFile, reading: Reading, on_read: OnRead, found: Findings
) -> Iterator[tuple[str, bool]]:
    """The documents of a text file."""
    blocks = clean_texts(file, reading, on_read, found)
    if reading.lines:
        for line in lines_of(blocks):
            yield from whole(line.rstrip("\r\n"), reading)
        return
    cutter = Cutter(reading)
    for text in blocks:
        yield from cutter.push(text)
    yield from cutter.flush()
