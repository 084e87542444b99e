"""What the readers share: how files are to be read, one file, one piece of text, what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from gpt2lab.errors import InputError, few, quoted
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.text.tokenizer_config import END_OF_TEXT

OnRead = Callable[[int], None]

SHOWN = 60  # characters of the first document that a report repeats
#: Delimiters that a shell makes hard to type.
SIGNS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


def ignored(_: Any) -> None:
    """For callers that do not want to hear it."""


def _listed(value: Any) -> tuple[str, ...]:
    """One name, or several."""
    return (str(value),) if isinstance(value, str | int) else tuple(map(str, value))


def _delimiter(value: str) -> str:
    sign = SIGNS.get(value.lower(), value.replace("\\t", "\t"))
    if len(sign) != 1 or sign in '"\r\n':
        names = ", ".join(SIGNS)
        raise InputError(f"delimiter: {quoted(value)} is not one character; give one, or {names}")
    return sign


@dataclass(frozen=True)
class Reading:
    r"""How files are read. Every field but the last two is an argument of `prepare`.

    columns: of CSV and parquet, by name or by number from 1. field: of JSON lines, by name. Each
    serves the other kinds too where theirs is not given. By default `text`, else prompt and
    completion (or instruction, input, output), else the only one there is. Several are joined by
    `separator`. encoding: of all texts, by default UTF-8; a name, or name:replace, which puts
    U+FFFD for bytes that cannot be read, or name:ignore. delimiter: of CSV, by default found.
    header: whether the first row of a CSV names its columns, by default by its looks. lines: each
    line of a text file is a document. keep_line_ends: leave \r\n and \r as they are; by default
    both become \n. split_at_end_token: a document ends wherever the end token's name stands.
    allow_special: the names of special tokens in a text are these tokens, not letters.

    special: the vocabulary's special tokens, which are counted. ends: the names that end documents.
    """

    columns: tuple[str, ...] = ()
    field: tuple[str, ...] = ()
    separator: str = "\n"
    encoding: str | None = None
    delimiter: str | None = None
    header: bool | None = None
    lines: bool = False
    keep_line_ends: bool = False
    split_at_end_token: bool = False
    allow_special: bool = False
    special: tuple[str, ...] = (END_OF_TEXT,)
    ends: tuple[str, ...] = (END_OF_TEXT,)

    def __post_init__(self) -> None:
        for name in ("columns", "field"):
            object.__setattr__(self, name, _listed(getattr(self, name)))
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", _delimiter(self.delimiter))
        _check_codec(*self.codec)

    @property
    def codec(self) -> tuple[str, str]:
        """The encoding's name, and what is done with bytes that it cannot read."""
        name, _, repair = (self.encoding or "utf-8").partition(":")
        return name, repair or "strict"

    def settings(self) -> dict[str, Any]:
        """What makes other documents of the same files, as JSON has it."""
        values = {name: getattr(self, name) for name in READING}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


#: What a person chooses; the rest is the vocabulary's.
READING = tuple(f.name for f in fields(Reading) if f.name not in ("special", "ends"))


def read_by(tokenizer: Tokenizer | None, characters: bool, given: Mapping[str, Any]) -> Reading:
    """How files are read for a vocabulary, whose special tokens are looked for.

    given: fields of `Reading`. No tokenizer: one of `characters`, or one that is yet to be learned.
    """
    if unknown := sorted(set(given) - set(READING)):
        raise InputError(f"unknown setting {few(unknown)}; known: {', '.join(READING)}")
    reading = Reading(**given)
    if reading.allow_special and (characters or (tokenizer and not tokenizer.special_tokens)):
        raise InputError("allow_special: this vocabulary has no special tokens; leave it out")
    if tokenizer is None:
        return reading
    names = tokenizer.special_tokens
    ends = [name for name, token in names.items() if token == tokenizer.end_token]
    special = tuple(dict.fromkeys([*names, END_OF_TEXT]))
    return replace(reading, special=special, ends=tuple(dict.fromkeys([*ends, END_OF_TEXT])))


def _check_codec(name: str, repair: str) -> None:
    if repair not in ("strict", "replace", "ignore"):
        raise InputError(
            f"encoding: {quoted(repair)} after the colon is unknown; known are replace and ignore, "
            "as in utf-8:replace"
        )
    try:
        "".encode(name)
    except (LookupError, ValueError):
        raise InputError(
            f"encoding: {quoted(name)} is unknown; known are utf-8, utf-16, cp1252, "
            "latin-1, gb18030, shift_jis and what else Python calls a text encoding"
        ) from None


class TextFile(NamedTuple):
    """One file; name: as it was given. kind: text, csv, jsonl or parquet. size: bytes."""

    path: Path
    name: str
    kind: str
    packed: bool
    size: int


class DocumentPart(NamedTuple):
    """A document, or the next piece of a long one. document: its number in the file, from 0."""

    file: TextFile
    document: int
    text: str
    last: bool


@dataclass
class Findings:
    r"""What reading one file has shown so far, in plain values: they are kept in the manifest.

    windows, mac: line ends \r\n and \r. names: how often the name of a special token occurs in a
    text. repaired: characters in place of bytes that could not be read. columns: what was taken, of
    `among`. header: the line of it, None where there is none. uncut: rows of one column that
    were taken whole, with their delimiters. first: how the first document begins.
    """

    kind: str = "text"
    encoding: str = "utf-8"
    repaired: int = 0
    windows: int = 0
    mac: int = 0
    names: dict[str, int] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    among: list[str] = field(default_factory=list)
    header: int | None = None
    delimiter: str = ""
    uncut: int = 0
    first: str = ""

    def count(self, names: Sequence[str], before: str, text: str) -> None:
        """Count the names in a text, and those that begin in what came before it."""
        for name in names:
            number = text.count(name)
            if before:
                number += (before[-len(name) + 1 :] + text[: len(name) - 1]).count(name)
            if number:
                self.names[name] = self.names.get(name, 0) + number

    def as_dict(self) -> dict[str, Any]:
        """The values that say something."""
        return {name: value for name, value in asdict(self).items() if value}
