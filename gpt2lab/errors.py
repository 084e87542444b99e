"""Exceptions for invalid input and failures; each message is one line.

Every file, command and public function that meets a wrong value raises `InputError` with one
sentence that names the value, the limit and the next step. Programs may catch it as the
`ValueError` that it is; the command line prints it and leaves with exit code 2. `quoted` and `few`
keep such a sentence short, whatever was given.
"""

from __future__ import annotations

import numbers
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import PurePath
from typing import Any

LONGEST = 80  # characters of a value that a message repeats
_FIRST = 4  # entries of a list


def _plain(value: Any) -> str | None:
    """The start of a text, a number or None as Python spells it; None for every other kind."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, str | bytes | bytearray):
        return repr(value[:LONGEST])
    if isinstance(value, PurePath):
        return repr(str(value)[:LONGEST])
    if isinstance(value, numbers.Integral):
        bits = int(value).bit_length()  # Python takes long, or refuses, to spell a huge one
        return repr(int(value)) if bits <= 256 else f"an integer of {bits} bits"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        return repr(float(value))
    return None


def _entry(value: Any) -> str:
    """An entry of a list: plain, or no more than its kind."""
    plain = _plain(value)
    return f"<{type(value).__name__}>" if plain is None else plain


def _entries(value: Any) -> str | None:
    """The first entries of a list, tuple or dict; None for every other kind."""
    kinds: dict[type, tuple[str, str]] = {list: ("[", "]"), tuple: ("(", ")"), dict: ("{", "}")}
    begin, end = kinds.get(type(value), ("", ""))
    if not begin:
        return None
    if isinstance(value, dict):
        some = [f"{_entry(k)}: {_entry(v)}" for k, v in islice(value.items(), _FIRST)]
    else:
        some = [_entry(v) for v in islice(value, _FIRST)]
    more = [f"... {len(value)} in all"] if len(value) > _FIRST else []
    return begin + ", ".join([*some, *more]) + end


def quoted(value: Any) -> str:
    """A value as a message repeats it: at most 80 characters on one line.

    It takes the same short time for any value: only the first entries of a list are looked at, one
    level deep, and no `__repr__` of the value's own is called.
    """
    text = _plain(value) or _entries(value) or f"a value of type {type(value).__name__}"
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def few(names: Iterable[str], most: int = 5) -> str:
    """Names in a row, with a count in place of those after the first few: "a, b and 7 more"."""
    listed = names if isinstance(names, Collection) else list(names)
    first, rest = list(islice(listed, most)), len(listed) - most
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")


class InputError(ValueError):
    """The caller's mistake: the message names the value, the limit and what to do next."""


class MissingExtraError(InputError):
    """The request is fine, but it needs an optional package that is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the package {package}, which is not installed; "
            f"run: pip install 'gpt2lab[{extra}]'"
        )


class Failure(Exception):
    """Not the caller's mistake: the network, the disk, a server. Exit code 1."""
