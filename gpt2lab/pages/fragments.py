"""The parts of notebook views: HTML without a script or a style sheet.

Notebooks and code hosts strip both, so every colour stands where it is used; a coloured cell brings
a readable ink, everything else takes the ink of the page, light or dark. Exact values are in the
titles, which a pointer shows. Arguments named `html` are HTML, all others are text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from gpt2lab.pages import palette
from gpt2lab.pages.palette import Colour
from gpt2lab.pages.text import percent, token

COLUMNS, ROWS = 60, 40  # of a table; more are left out, and a note says so

_FONT = "font:13px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif"
_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"


def fragment(title: str, *parts: str) -> str:
    """Return a view: a title and its parts, which scroll sideways where the page is narrow."""
    body = "".join(part for part in parts if part)
    return f'<div style="{_FONT};max-width:100%;overflow-x:auto">{heading(title)}{body}</div>'


def heading(text: str) -> str:
    """Return a line in bold."""
    return f'<div style="font-weight:600;margin:4px 0">{escape(text)}</div>'


def notes(*texts: str) -> str:
    """Return a line of small print; nothing for empty texts."""
    text = " ".join(text for text in texts if text)
    return f'<div style="opacity:.7;margin-top:4px">{escape(text)}</div>' if text else ""


def table(rows: Iterable[str]) -> str:
    """Return a table of rows, each the HTML of its cells."""
    body = "".join(f'<tr style="background:none">{row}</tr>' for row in rows)
    style = f"border-collapse:separate;border-spacing:1px;margin:0;{_FONT}"
    return f'<table style="{style}">{body}</table>'


def label(html: str, title: str = "", align: str = "right") -> str:
    """Return a header cell."""
    style = f"text-align:{align};padding:1px 6px;white-space:nowrap;{_MONO};font-size:12px"
    hover = f' title="{escape(title)}"' if title else ""
    return f'<th style="{style};font-weight:400"{hover}>{html}</th>'


def words(text: str, align: str = "left") -> str:
    """Return a cell of plain text."""
    return f'<td style="text-align:{align};padding:1px 8px;white-space:nowrap">{escape(text)}</td>'


def cell(html: str, colour: Colour, title: str) -> str:
    """Return a coloured cell."""
    style = f"{_paint(colour)};text-align:center;padding:1px 5px;min-width:14px"
    hover = f'title="{escape(title)}"'
    return f'<td style="{style};white-space:nowrap;font-size:12px" {hover}>{html}</td>'


def marked(html: str, colour: Colour | None, title: str) -> str:
    """Return a piece of text on a colour."""
    style = "padding:2px 1px" + (f";{_paint(colour)};border-radius:2px" if colour else "")
    return f'<span style="{style}" title="{escape(title)}">{html}</span> '


def _paint(colour: Colour) -> str:
    return f"background:{palette.css(colour)};color:{palette.ink(colour)}"


def bar(share: float, colour: Colour, width: int = 160) -> str:
    """Return a bar that takes `share` of the width in pixels."""
    style = "display:inline-block;height:10px;border-radius:2px"
    long = max(1, round(share * width))
    return f'<span style="{style};background:{palette.css(colour)};width:{long}px"></span>'


def share_cell(value: float) -> str:
    """Return a probability as a cell with a bar."""
    written = f"{bar(value, (90, 150, 195))} {percent(value)}"
    title = f"probability {value!r}"
    return f'<td style="padding:1px 8px;white-space:nowrap" title="{title}">{written}</td>'


def signed_bar(value: float, most: float, title: str) -> str:
    """Return a cell with a bar to the left or right of zero; `most` fills one side."""
    colour = palette.diverging(0.55 if value > 0 else -0.55)
    left, right = ("", bar(abs(value) / most, colour, 120))[:: 1 if value >= 0 else -1]
    half = "display:inline-block;width:120px;vertical-align:middle"
    halves = (
        f'<span style="{half};text-align:right">{left}</span>'
        f'<span style="{half};border-left:1px solid rgba(128,128,128,.6)">{right}</span>'
    )
    return f'<td style="padding:0;white-space:nowrap" title="{escape(title)}">{halves}</td>'


@dataclass(frozen=True)
class Axis:
    """One side of a grid: the names of its rows or columns as HTML.

    what: what they are, in the plural. last: whether the last ones are shown of too many.
    """

    what: str
    names: Sequence[str]
    last: bool = False

    def shown(self, most: int) -> range:
        """The indices that are shown."""
        every = range(len(self.names))
        return every[-most:] if self.last else every[:most]

    def cut(self, most: int, lead: str = "Shown are") -> str:
        """Return the note for what is left out, "" where nothing is."""
        which, count = "last" if self.last else "first", len(self.names)
        return f"{lead} the {which} {most} of {count} {self.what}." if count > most else ""

    def label(self, i: int, align: str = "right") -> str:
        """Return the header cell of one row or column; its number is in the title."""
        return label(self.names[i], f"{self.what.removesuffix('s')} {i}", align)


def tokens_axis(pieces: Sequence[str]) -> Axis:
    """Return an axis of tokens, the last of them where there are too many."""
    return Axis("tokens", [token(piece) for piece in pieces], last=True)


def numbers_axis(what: str, count: int) -> Axis:
    """Return an axis of layers or heads, which have numbers."""
    return Axis(what, [str(i) for i in range(count)])


def grid(
    down: Axis, across: Axis, cell: Callable[[int, int], str], foot: Axis | None = None
) -> str:
    """Return a table with a cell for each row and column, and notes where some are left out.

    cell: from the indices of row and column to a whole cell. foot: names below the columns.
    """
    columns = across.shown(COLUMNS)
    rows = [label("") + "".join(across.label(j, "center") for j in columns)]
    for i in down.shown(ROWS):
        rows.append(down.label(i) + "".join(cell(i, j) for j in columns))
    if foot is not None:
        rows.append(label(foot.what) + "".join(label(foot.names[j], "", "center") for j in columns))
    return table(rows) + notes(across.cut(COLUMNS, "Columns are"), down.cut(ROWS, "Rows are"))


def legend(scale: Callable[[float], Colour], low: str, high: str) -> str:
    """Return a strip of the scale between the values at its ends."""
    start = -1.0 if scale is palette.diverging else 0.0
    style = "display:inline-block;width:14px;height:10px;background"
    strip = "".join(
        f'<span style="{style}:{palette.css(scale(start + (1 - start) * i / 8))}"></span>'
        for i in range(9)
    )
    return f'<div style="opacity:.9;margin:4px 0">{escape(low)} {strip} {escape(high)}</div>'
