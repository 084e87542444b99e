"""Bits per byte of enwik8, bits per character of text8, and bits per byte of any text.

By custom the last 5 million bytes of enwik8 are its test set. text8 is made from Wikipedia's XML by
Matt Mahoney's filter: mark-up removed, digits spelled, 26 letters and single spaces. Here it is
made from the same piece of enwik8, so one file gives both columns.
"""

from __future__ import annotations

import re
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

from gpt2lab.errors import InputError
from gpt2lab.evals.data import Published, text_of
from gpt2lab.evals.perplexity import TextBlock, Variant, paper, pieces, scorer, swap
from gpt2lab.evals.task import Task

TEST = 5_000_000  # bytes at the end of a whole enwik8
WHOLE = 100_000_000
_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = dict(zip("0123456789", _NAMES, strict=True))
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)

#: The substitutions of the filter, in its order. Source: wikifil.pl, mattmahoney.net/dc/textdata
_SUBSTITUTIONS = [
    (re.compile(pattern, re.ASCII | (re.IGNORECASE if fold else 0)), new)
    for pattern, new, fold in (
        (r"<.*>", "", False),
        (r"&amp;", "&", False),
        (r"&lt;", "<", False),
        (r"&gt;", ">", False),
        (r"<ref[^<]*</ref>", "", False),
        (r"<[^>]*>", "", False),
        (r"\[http:[^] ]*", "[", False),
        (r"\|thumb", "", True),
        (r"\|left", "", True),
        (r"\|right", "", True),
        (r"\|\d+px", "", True),
        (r"\[\[image:[^\[\]]*\|", "", True),
        (r"\[\[category:([^|\]]*)[^]]*\]\]", r"[[\1]]", True),
        (r"\[\[[a-z\-]*:[^\]]*\]\]", "", False),
        (r"\[\[[^\|\]]*\|", "[[", False),
        (r"\{\{[^}]*\}\}", "", False),
        (r"\{[^}]*\}", "", False),
        (r"\[", "", False),
        (r"\]", "", False),
        (r"&[^;]*;", " ", False),
    )
]


def text8_of(xml: str) -> str:
    """Wikipedia's XML through the filter that made text8: lower-case letters and spaces."""
    kept, inside = [], False
    for line in xml.splitlines(keepends=True):
        inside = inside or "<text " in line
        if re.search("#redirect", line, re.IGNORECASE):
            inside = False
        if inside:
            ends = "</text>" in line
            kept.append(_filtered(line))
            inside = not ends
    return re.sub(" +", " ", "".join(kept))


def _filtered(line: str) -> str:
    """A line of an article."""
    [(tags, none), *rest] = _SUBSTITUTIONS
    line = tags.sub(none, line)
    for pattern, new in rest:
        line = pattern.sub(new, line)
    line = f" {line} ".translate(_LOWER)
    for digit, name in DIGITS.items():
        line = line.replace(digit, f" {name} ")
    return re.sub("[^a-z]+", " ", line)


def _test_part(path: Path) -> str:
    """The last 5 million bytes of a whole enwik8, all of a shorter piece."""
    text = text_of(path)
    data = text.encode()
    return data[-TEST:].decode("utf-8", "ignore") if len(data) == WHOLE else text


def _cut(text: str, path: Path) -> list[TextBlock]:
    """A text in pieces of 500 characters, which are the items."""
    found = [TextBlock(text[start : start + 500]) for start in range(0, len(text), 500)]
    if not found:
        raise InputError(f"{path}: has no article in Wikipedia's XML; give enwik8 or a piece of it")
    return found


_FILES = (
    Published(("enwik8",)),
    Published(("enwik5", "enwiki_piece.xml"), "none"),
)
enwik8 = Task(
    "enwik8",
    "enwik8",
    "paper",
    _FILES,
    lambda path: _cut(_test_part(path), path),
    scorer((Variant("as-is", "half", ("byte",)),)),
    swap,
    {"as-is/stride-half/per-byte": paper(1.16, 1.01, 0.97, 0.93)},
)
text8 = Task(
    "text8",
    "text8, made from enwik8",
    "paper",
    _FILES,
    lambda path: _cut(text8_of(_test_part(path)), path),
    scorer((Variant("as-is", "half", ("character",)),)),
    swap,
    {"as-is/stride-half/per-character": paper(1.17, 1.06, 1.02, 0.98)},
)
text = Task(
    "text",
    "any text (text.txt)",
    "today",
    (Published(("text.txt",)),),
    pieces,
    scorer((Variant("as-is", "half", ("token", "word", "byte")),)),
    swap,
)
