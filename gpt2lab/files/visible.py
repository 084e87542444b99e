"""One way to show characters that cannot be seen, or that act on a terminal or a page."""

from __future__ import annotations

import unicodedata

_LONGEST = 300  # characters of a name or reason in a message
_SIGNS = {"\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡", "\xa0": "⍽"}
_TURNS = "\u202d\u202e"  # these two show what follows the wrong way round


def sign(char: str) -> str:
    """Return a character as it may be shown anywhere: a sign where it cannot be seen."""
    if char.isprintable():  # the space too
        return char
    code = ord(char)
    return _SIGNS.get(char) or (chr(0x2400 + code) if code < 32 else f"\\u{{{code:x}}}")


def _acts(char: str) -> bool:
    """Whether a character moves a cursor, turns the text around, or is no character at all."""
    if char in "\n\t" or char.isprintable():
        return False
    is_none = ord(char) & 0xFFFE == 0xFFFE
    return is_none or char in _TURNS or unicodedata.category(char) in ("Cc", "Cs")


def visible(text: str) -> str:
    """Return a text as it may be shown at a terminal or in a page, its lines and joiners kept."""
    return "".join(sign(char) if _acts(char) else char for char in text)


def shown(text: str) -> str:
    """Return a text from a file as it may be part of a message: on one line, not too long."""
    said = "".join(map(sign, text[: _LONGEST + 1]))
    return said if len(said) <= _LONGEST else said[: _LONGEST - 3] + "..."


def reason(error: BaseException) -> str:
    """Return one line of what an exception said, for use inside another sentence."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(" ".join(text.split()) or type(error).__name__)
