"""Lines over training steps: one description of a chart, drawn as HTML and as PNG.

The HTML is drawn once for every width and for light and dark pages: the SVG stretches to the width
of the page while its lines keep theirs, and the texts around it are HTML. It needs no style sheet,
so it also works in a notebook; on narrow pages `kit.css` moves the names of the lines below.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import Any

import numpy as np

from gpt2lab.errors import MissingExtraError
from gpt2lab.files.visible import visible
from gpt2lab.pages import palette
from gpt2lab.pages.text import escaped

Array = np.ndarray[Any, np.dtype[Any]]
Limits = tuple[float, float]

WIDTH = 1000  # of the SVG's coordinates; it stretches
LOG_SCALE = 8.0  # ratio of the limits from which an axis is logarithmic
NAME_HEIGHT = 14  # pixels between the names at the ends of lines


@dataclass(frozen=True)
class Series:
    """One line or one set of points.

    name: at the end of a line, or in the key for other kinds; "" for a line without a name.
    x, y: steps and values of the same length [N], all finite. colour: of `palette.LIGHT`.
    kind: "line"; "points"; "ring" around single points; or "top" and "bottom" for ticks at an edge,
    whose values do not matter. about: what a pointer and the PNG's key show instead of the name.
    """

    name: str
    x: Array
    y: Array
    colour: str
    kind: str = "line"
    opacity: float = 1.0
    about: str = ""


@dataclass(frozen=True)
class Panel:
    """Series under one title with one vertical axis.

    limits: of the axis, None for a panel without values. height: of the axis in pixels. log:
    whether limits that are far apart get a logarithmic axis.
    """

    title: str
    series: Sequence[Series]
    limits: Limits | None
    height: int = 140
    log: bool = False

    @property
    def logarithmic(self) -> bool:
        """Whether the axis is logarithmic."""
        low, high = self.limits or (0.0, 1.0)
        return self.log and low > 0 and high / low >= LOG_SCALE

    def ticks(self) -> list[float]:
        """Return the values that are written at the axis."""
        if self.limits is None:
            return []
        return _log_ticks(*self.limits) if self.logarithmic else _ticks(*self.limits)

    def y(self, values: Any) -> Any:
        """Return a value, or an array of them, in pixels from the top, cut at the edges."""
        low, high = limits = self.limits or (0.0, 1.0)
        values = np.clip(values, *limits)
        if self.logarithmic:
            low, high, values = np.log(low), np.log(high), np.log(values)
        return self.height * (high - values) / (high - low)


def limits_of(series: Sequence[Series]) -> Limits:
    """Return limits that hold all values of the series, with a small margin, from 0 up."""
    values = np.concatenate([one.y for one in series]) if series else np.zeros(0)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return max(0.0, low - 0.05 * (high - low)), high + 0.05 * (high - low or 1)


def _steps(panels: Sequence[Panel]) -> Limits:
    """Return the first and the last step of all panels, at least two steps apart."""
    found = [one.x for panel in panels for one in panel.series if len(one.x)]
    low, high = (min(map(np.min, found)), max(map(np.max, found))) if found else (0.0, 0.0)
    middle, half = (low + high) / 2, max(1.0, (high - low) / 2)
    return float(middle - half), float(middle + half)


def _ticks(low: float, high: float) -> list[float]:
    """Return two to seven round numbers from low to high."""
    size = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(size * k for k in (1, 2, 2.5, 5, 10) if (high - low) / (size * k) <= 6)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return up to eight numbers with one digit from low to high."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5), (1, 3), (1,)):
        found = [k * 10.0**n for n in powers for k in digits if low <= k * 10.0**n <= high]
        if len(found) <= 8:
            break
    return found[:: math.ceil(len(found) / 8)]


# ---- HTML.


def html(title: str, panels: Sequence[Panel]) -> str:
    """Return a chart as an HTML fragment without script or style sheet."""
    low, high = steps = _steps(panels)
    body = "".join(
        _panel(panel, steps, lambda x: WIDTH * (x - low) / (high - low)) for panel in panels
    )
    return (
        f'<div role="img" aria-label="{escaped(title)}" '
        f'style="font:12px/1.4 system-ui,sans-serif;max-width:860px">{body}</div>'
    )


def _panel(panel: Panel, steps: Limits, across: Callable[[Any], Any]) -> str:
    """Return one panel: its title, axes, lines, the names at their ends, and the key."""
    ticks = [(f"{tick:g}", panel.y(tick)) for tick in panel.ticks()]
    grid = "".join(f"M0 {y:.1f}h{WIDTH}" for _, y in ticks)
    marks = [_mark(text, f"right:calc(100% + 7px);top:{y - 8:.1f}px") for text, y in ticks]
    whole = [step for step in _ticks(*steps) if step == round(step)]
    for i, step in enumerate(whole):
        place = f"left:{across(step) / WIDTH:.2%};top:{panel.height + 4}px"
        marks.append(_mark(f"{step:,.0f}", f"{place};transform:translateX(-50%)", "odd" * (i % 2)))
    drawn = "".join(_drawn(one, panel, across(one.x)) for one in panel.series if len(one.x))
    return (
        f'<div style="font-weight:600;margin:14px 0 8px 56px">{escape(panel.title)}</div>'
        f'<div class="plot" style="position:relative;height:{panel.height}px;'
        f'margin:0 190px 26px 56px">'
        f'<svg viewBox="0 0 {WIDTH} {panel.height}" preserveAspectRatio="none" fill="none" '
        'style="position:absolute;width:100%;height:100%;overflow:visible">'
        f"{_path(grid, 'currentColor', 1, 0.15)}{drawn}</svg>"
        f"{''.join(marks)}{''.join(_names(panel))}</div>{_key(panel)}"
    )


def _mark(text: str, place: str, kind: str = "") -> str:
    """Return a text at a place of the plot."""
    named = f' class="{kind}"' if kind else ""
    style = f"position:absolute;white-space:nowrap;opacity:.75;{place}"
    return f'<span{named} style="{style}">{text}</span>'


def _path(line: str, colour: str, width: float, opacity: float, about: str = "") -> str:
    """Return a path whose width does not stretch; the ends are round, so `h0` is a dot."""
    title = f"<title>{escape(about)}</title>" if about else ""
    return (
        f'<path d="{line}" style="stroke:{colour}" stroke-width="{width:g}" opacity="{opacity:g}" '
        'stroke-linecap="round" stroke-linejoin="round" vector-effect="non-scaling-stroke">'
        f"{title}</path>"
    )


def _drawn(series: Series, panel: Panel, xs: Array) -> str:
    """Return a series as paths."""
    colour, about = palette.colour(series.colour), series.about or series.name
    points = [f"{x:.1f} {y:.1f}" for x, y in zip(xs, panel.y(series.y), strict=True)]
    dots = "".join(f"M{point}h0" for point in points)
    if series.kind in ("top", "bottom"):
        edge = -4 if series.kind == "top" else panel.height - 4
        return _path("".join(f"M{x:.1f} {edge}v8" for x in xs), colour, 2, 1, about)
    if series.kind == "ring":
        return _path(dots, colour, 13, 1, about) + _path(dots, palette.colour("paper"), 9, 1, about)
    if series.kind == "points":
        return _path(dots, colour, 3 if len(points) > 99 else 5, series.opacity)
    if len(points) == 1:
        return _path(dots, colour, 6, 1, about)
    return _path("M" + "L".join(points), colour, 2, series.opacity, about)


def _names(panel: Panel) -> Iterator[str]:
    """Yield the name and last value at the end of each line, moved down where another name is."""
    taken: list[float] = []
    for series in reversed(panel.series):
        if not series.name or series.kind != "line" or not len(series.y):
            continue
        top = float(panel.y(series.y[-1])) - NAME_HEIGHT / 2
        while any(abs(top - other) < NAME_HEIGHT for other in taken):
            top += 3
        taken.append(top)
        place = f"left:calc(100% + 8px);top:{top:.1f}px;line-height:{NAME_HEIGHT}px"
        style = f"position:absolute;white-space:nowrap;color:{palette.colour(series.colour)}"
        yield f'<span class="end" style="{style};{place}">{_name(series)}</span>'


def _name(series: Series) -> str:
    """Return the name of a line with its last value; of other kinds what the key shows."""
    if series.kind != "line":
        return escape(series.about or series.name)
    return f"{escape(series.name)} {float(series.y[-1]):.3g}"


def _key(panel: Panel) -> str:
    """Return the names below a panel: of the lines on narrow pages only."""
    parts = []
    for series in panel.series:
        if series.name and len(series.x):
            hidden = ' class="line" style="display:none;' if series.kind == "line" else ' style="'
            colour = palette.colour(series.colour)
            parts.append(f'<span{hidden}color:{colour}">{_name(series)}&ensp;</span>')
    return f'<div class="key" style="margin-left:56px">{"".join(parts)}</div>'


# ---- PNG.


def png(title: str, panels: Sequence[Panel]) -> bytes:
    """Return the chart as a PNG with light colours; MissingExtraError without matplotlib."""
    try:
        import matplotlib.figure
        import matplotlib.ticker
    except ModuleNotFoundError:
        raise MissingExtraError("a curve", "matplotlib", "train") from None
    heights = [panel.height for panel in panels]
    size = (9, 0.5 + sum(heights) / 64)
    figure = matplotlib.figure.Figure(
        size, dpi=160, facecolor=palette.LIGHT["card"], layout="tight"
    )
    every = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes, panel in zip(every, panels, strict=True):
        _draw(axes, panel, matplotlib.ticker)
    last = every[-1]
    last.set_xlim(*_steps(panels))
    last.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    last.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(8, integer=True))
    last.set_xlabel("step")
    every[0].set_title(visible(title), loc="left", fontsize=12, parse_math=False)
    out = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font may lack characters of the title
        figure.savefig(out, format="png")
    return out.getvalue()


def _draw(axes: Any, panel: Panel, ticker: Any) -> None:
    """Draw a panel on the axes of matplotlib."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=palette.LIGHT["line"], linewidth=0.6)
    axes.set_ylabel(panel.title, fontsize=9)
    axes.set_yscale("log" if panel.logarithmic else "linear")
    axes.set_yticks(panel.ticks())
    if panel.limits is not None:
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(*panel.limits)
    for series in panel.series:
        _draw_series(axes, series)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="upper right")


_DOTS = {"linestyle": "none", "marker": ".", "markeredgewidth": 0}
_RING = {"linestyle": "none", "marker": "o", "markerfacecolor": "none", "markersize": 11}
_EDGE = {"linestyle": "none", "marker": "|", "markersize": 9, "clip_on": False}
#: How each kind of series is drawn by matplotlib.
_MARKS: dict[str, dict[str, Any]] = {
    "line": {"linewidth": 1.8, "marker": ""},
    "points": _DOTS,
    "ring": _RING | {"clip_on": False},
    "top": _EDGE,
    "bottom": _EDGE,
}


def _draw_series(axes: Any, series: Series) -> None:
    if not len(series.x):
        return
    kind, y, more = series.kind, series.y, dict(_MARKS[series.kind])
    if kind in ("top", "bottom"):
        more["transform"] = axes.get_xaxis_transform()
        y = np.full(len(series.x), 1.0 if kind == "top" else 0.0)
    if kind == "line" and len(y) == 1:
        more["marker"] = "o"
    label = (series.about or series.name) if series.name else None
    colour = palette.LIGHT[series.colour]
    axes.plot(series.x, y, color=colour, alpha=series.opacity, label=label, **more)
