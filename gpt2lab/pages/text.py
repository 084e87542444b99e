"""Text as a page may show it: escaped, and invisible characters made visible."""

from __future__ import annotations

import unicodedata
from html import escape

from gpt2lab.files.visible import sign, visible


def _sign(char: str) -> str:
    """Return the sign of an invisible character, "" for a visible one."""
    shown = "·" if char == " " else sign(char)
    return "" if shown == char else shown


def signs(piece: str) -> list[tuple[str, bool]]:
    """Split a token's text into runs: (text, whether it consists of signs for invisible text)."""
    if not piece:
        return [("∅", True)]
    runs: list[tuple[str, bool]] = []
    if unicodedata.category(piece[0])[0] == "M":  # a mark would combine with the text before it
        runs.append(("◌", True))
    for char in piece:
        shown = _sign(char)
        if runs and runs[-1][1] == bool(shown):
            runs[-1] = (runs[-1][0] + (shown or char), bool(shown))
        else:
            runs.append((shown or char, bool(shown)))
    return runs


def plain(piece: str) -> str:
    """Return a token's text with its signs, for a title."""
    return "".join(run for run, _ in signs(piece))


def token(piece: str) -> str:
    """Return a token's text as HTML: faint signs, isolated from the direction of its neighbours."""
    runs = [
        f'<span style="opacity:.5">{escape(run)}</span>' if is_sign else escape(run)
        for run, is_sign in signs(piece)
    ]
    return f"<bdi>{''.join(runs)}</bdi>"


def escaped(text: str) -> str:
    """Return running text as HTML."""
    return escape(visible(text))


def percent(value: float) -> str:
    """Return a probability with three significant digits: 28.3%, 0.000412%."""
    return f"{100 * value:.3g}%"
