"""What a run was, to look at: curve.png, and report.html, one page that needs nothing else.

Made of the records that `journal` keeps, of any number of them. A long run is thinned out in such a
way that what stands out stays.
"""

from __future__ import annotations

import base64
import html
import json
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.errors import MissingExtraError
from gpt2lab.files.atomic import write_whole
from gpt2lab.files.visible import visible
from gpt2lab.train.log import Record, plain

Array = np.ndarray[Any, np.dtype[Any]]

POINTS = 2000  # of a curve
STRETCHES = 50  # of a curve, from each of which the lowest and the highest point are drawn too
SAMPLES = 24  # of a report, at most
LOG_SCALE = 8.0  # from this ratio of the highest loss to the lowest on


def _number(value: Any) -> float:
    """A loss as the records have it: a number, the word for one that is not finite, or nothing."""
    return math.nan if value is None else float(value)


def _column(records: list[Record], key: str) -> Array:
    return np.array([_number(record.get(key)) for record in records], np.float64)  # [N]


@dataclass
class Curves:
    """The numbers of a run: each array has an entry for each step, or each validation."""

    steps: Array
    losses: Array
    rates: Array  # learning rates
    val_steps: Array
    val_losses: Array
    skipped: Array  # the steps whose update was left out


def curves(records: Iterable[Record]) -> Curves:
    """The numbers that stand in the records, in the order of their steps."""
    ordered = sorted((r for r in records if "step" in r), key=lambda r: int(r["step"]))
    of = {kind: [r for r in ordered if r["kind"] == kind] for kind in ("step", "val", "skip")}
    step, val = of["step"], of["val"]
    return Curves(
        _column(step, "step"),
        _column(step, "loss"),
        _column(step, "lr"),
        _column(val, "step"),
        _column(val, "loss"),
        _column(of["skip"], "step"),
    )


def finite(x: Array, y: Array) -> tuple[Array, Array]:
    """The points whose y is a finite number."""
    there = np.isfinite(y)
    return x[there], y[there]


def thinned(x: Array, y: Array) -> tuple[Array, Array]:
    """About POINTS of the points, evenly, and of each of STRETCHES the lowest and the highest.

    With extremes alone the points of a noisy run would be two bands and nothing in between.
    """
    if len(x) <= POINTS:
        return x, y
    parts = list(pairwise(np.linspace(0, len(x), STRETCHES + 1).astype(int)))
    lows = [a + int(np.argmin(y[a:b])) for a, b in parts]
    highs = [a + int(np.argmax(y[a:b])) for a, b in parts]
    even = np.linspace(0, len(x) - 1, POINTS).astype(int)
    kept = np.unique(np.concatenate([even, lows, highs]))
    return x[kept], y[kept]


def smoothed(x: Array, y: Array) -> tuple[Array, Array]:
    """The median of a fiftieth of the points around each, at no more than POINTS of them.

    Medians, as the mean carries one spike along for as long as the fiftieth lasts.
    """
    half = len(y) // 100
    at = np.unique(np.linspace(0, max(len(y) - 1, 0), POINTS).round().astype(int))[: len(y)]
    return x[at], np.array([np.median(y[max(i - half, 0) : i + half + 1]) for i in at])


def _frame(losses: Array, lines: Array) -> tuple[float, float] | None:
    """The losses between which the curve is drawn: all of the lines, nearly all of the points.

    So one spike does not press the rest of the run into a flat line.
    """
    if not len(lines):
        return None
    low = float(min(losses.min(initial=math.inf), lines.min()))
    high = float(max(np.percentile(losses, 99.5) if len(losses) else low, lines.max()))
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return (low - margin if low > margin or low <= 0 else low * 0.9), high + margin


@dataclass(frozen=True)
class Colours:
    """What a curve is drawn with, on light and on dark pages."""

    page: str
    ink: str
    faint: str
    train: str
    val: str
    skipped: str


LIGHT = Colours("#ffffff", "#24292f", "#d8dee4", "#0a66b7", "#c2410c", "#b3123f")
DARK = Colours("#16181d", "#d7dce2", "#363c45", "#6cb2ff", "#ff9d5c", "#ff6b8b")


def _matplotlib() -> Any:
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure
        import matplotlib.ticker
    except ModuleNotFoundError:
        raise MissingExtraError("a curve", "matplotlib", "train") from None
    return matplotlib


def _draw_training(axes: Any, run: Curves, colours: Colours) -> Array:
    """Points and smoothed line of the training loss; the line's losses come back."""
    x, y = finite(run.steps, run.losses)
    if not len(y):
        return y
    size, alpha = (14, 0.8) if len(y) < 100 else (4, 0.35)
    axes.scatter(*thinned(x, y), s=size, alpha=alpha, color=colours.train, linewidths=0)
    at, line = smoothed(x, y)
    axes.plot(at, line, color=colours.train, linewidth=1.8, label=f"training, last {line[-1]:.3f}")
    return line


def _draw_validation(axes: Any, run: Curves, colours: Colours) -> Array:
    """The line of the validation loss with its best step ringed; its finite losses come back."""
    x, y = finite(run.val_steps, run.val_losses)
    if not len(y):
        return y
    best = int(np.argmin(y))
    marker = "o" if len(y) <= 60 else None
    label = f"validation, best {y[best]:.3f} at step {int(x[best]):,}"
    axes.plot(*thinned(x, y), color=colours.val, linewidth=1.8, marker=marker, ms=3.5, label=label)
    ring = {"mfc": "none", "mec": colours.val, "mew": 1.8, "ms": 11}
    axes.plot([x[best]], [y[best]], marker="o", linestyle="none", zorder=5, **ring)
    return y


def _mark(axes: Any, x: Array, name: str, shape: str, height: float, colour: str) -> None:
    """A mark on an edge of the frame, at `height` of it, for each of the steps x."""
    if not len(x):
        return
    label = f"{name}: {len(x):,} {'step' if len(x) == 1 else 'steps'}"
    y, place = np.full(len(x), height), axes.get_xaxis_transform()
    axes.plot(x, y, shape, transform=place, color=colour, ms=6, clip_on=False, label=label)


def _style(axes: Any, colours: Colours) -> None:
    axes.set_facecolor(colours.page)
    axes.tick_params(colors=colours.ink, labelsize=9, length=3, which="both")
    axes.grid(color=colours.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colours.faint)


def _scale(axes: Any, frame: tuple[float, float] | None, ticker: Any) -> None:
    """Limits, and a logarithmic scale for a run that came down far."""
    if frame is None:
        axes.set_yticks([])
        return
    low, high = frame
    if low > 0 and high / low >= LOG_SCALE:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 4, 6)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylim(low, high)


def _draw_losses(axes: Any, run: Curves, colours: Colours, ticker: Any) -> None:
    line, val = _draw_training(axes, run, colours), _draw_validation(axes, run, colours)
    steps, losses = finite(run.steps, run.losses)
    frame = _frame(losses, np.concatenate([line, val]))
    _scale(axes, frame, ticker)
    above = steps[losses > (frame[1] if frame else math.inf)]
    _mark(axes, above, "above the frame", "^", 0.98, colours.train)
    _mark(axes, run.skipped, "skipped", "D", 0.02, colours.skipped)
    _mark(axes, run.steps[~np.isfinite(run.losses)], "loss not finite", "x", 0.02, colours.skipped)
    axes.set_ylabel("loss, nats a token", color=colours.ink)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=colours.ink, fontsize=9, loc="upper right")
    else:
        middle = {"transform": axes.transAxes, "ha": "center", "va": "center"}
        axes.text(0.5, 0.5, "no step was recorded", color=colours.ink, **middle)


def _steps(axes: Any, colours: Colours, ticker: Any) -> None:
    """The axis of the steps, which are whole numbers: at least two of them wide."""
    low, high = axes.get_xlim()
    if high - low < 2:
        axes.set_xlim((low + high) / 2 - 1, (low + high) / 2 + 1)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.set_xlabel("step", color=colours.ink)


def _draw_rates(axes: Any, run: Curves, colours: Colours) -> None:
    x, y = finite(run.steps, run.rates)
    marker = "o" if len(x) == 1 else None
    axes.plot(*thinned(x, y), color=colours.ink, linewidth=1.2, marker=marker, ms=3)
    top = float(y.max(initial=0.0)) or 1.0
    axes.set_ylim(0, 1.15 * top)
    axes.set_yticks([0, top] if len(y) else [], ["0", f"{top:.3g}"] if len(y) else [])
    axes.set_ylabel("learning rate", color=colours.ink, fontsize=9)


def curve(run: Curves, title: str, colours: Colours = LIGHT) -> bytes:
    """The losses over the steps, and the learning rate under them, as a PNG.

    Points are the steps' losses, the line their medians over a fiftieth of the run. A ring marks
    the best validation loss, diamonds the steps that were skipped. MissingExtraError without
    matplotlib.
    """
    matplotlib = _matplotlib()
    figure = matplotlib.figure.Figure((9, 5.2), dpi=160, facecolor=colours.page, layout="tight")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    for axes in (upper, lower):
        _style(axes, colours)
    _draw_losses(upper, run, colours, matplotlib.ticker)
    _draw_rates(lower, run, colours)
    _steps(lower, colours, matplotlib.ticker)
    upper.set_title(visible(title), color=colours.ink, loc="left", fontsize=12, parse_math=False)
    out = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the title may need letters that the font lacks
        matplotlib.backends.backend_agg.FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def _escaped(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)
    return html.escape(visible(text))


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"<tr><th>{_escaped(name)}<td>{_escaped(value)}" for name, value in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _loss(value: float) -> str:
    """A loss with the perplexity that it means."""
    perplexity = math.exp(value) if value < 50 else math.inf
    return f"{value:.4f} (perplexity {perplexity:,.2f})"


def _time(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if whole < 60:
        return f"{seconds:.1f} s"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s"


def _losses(name: str, x: Array, y: Array) -> list[tuple[str, str]]:
    """First, last and best of the finite losses y at the steps x."""
    if not len(y):
        return []
    best = int(np.argmin(y))
    return [
        (f"{name}, first", _loss(y[0])),
        (f"{name}, last", _loss(y[-1])),
        (f"{name}, best", f"{_loss(y[best])} at step {int(x[best]):,}"),
    ]


def _work(last: Record) -> list[tuple[str, str]]:
    """How much was done, as the last step has it."""
    rows = [("steps", f"{int(last['step']):,}")]
    tokens, seconds = _number(last.get("tokens")), _number(last.get("seconds"))
    says: list[tuple[str, float, Callable[[float], str]]] = [
        ("epochs", _number(last.get("epoch")), lambda value: f"{value:.2f}"),
        ("tokens", tokens, lambda value: f"{value:,.0f}"),
        ("training time", seconds, _time),
        ("tokens a second", tokens / seconds if seconds else math.nan, lambda v: f"{v:,.0f}"),
    ]
    return rows + [(name, say(value)) for name, value, say in says if math.isfinite(value)]


def figures(records: list[Record], run: Curves) -> list[tuple[str, str]]:
    """The key figures of a run, name and value."""
    steps = [record for record in records if record["kind"] == "step"]
    rows = _work(max(steps, key=lambda r: int(r["step"]))) if steps else []
    rows += _losses("validation loss", *finite(run.val_steps, run.val_losses))
    rows += _losses("training loss, smoothed", *smoothed(*finite(run.steps, run.losses)))
    rows.append(("skipped steps", f"{len(run.skipped):,}"))
    if lost := int(np.sum(~np.isfinite(run.losses))):
        rows.append(("steps whose loss is not finite", f"{lost:,}"))
    return rows


def _settings(records: list[Record]) -> str:
    """The settings that the run was started with, and what was changed when it went on."""
    now: dict[str, Any] = {}
    for record in records:
        if record["kind"] in ("start", "resume"):
            now |= {k: v for k, v in record.items() if k not in ("kind", "step")}
    rows = [
        (f"{key}.{inner}" if inner else key, value)
        for key, whole in now.items()
        for inner, value in (whole.items() if isinstance(whole, dict) else [("", whole)])
    ]
    return _section("Settings", _table(rows)) if rows else ""


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>"


def _spread(items: list[Record], count: int) -> list[Record]:
    """So many of them, evenly, the first and the last included."""
    if len(items) <= count:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _samples(records: list[Record]) -> str:
    every = [record for record in records if record["kind"] == "sample"]
    if not every:
        return ""
    kept = _spread(every, SAMPLES)
    note = f"<p>{len(kept)} of {len(every):,}; the others stand in the log.</p>\n"
    blocks = [
        f"<h3>step {int(r['step']):,}</h3>\n"
        f'<pre dir="auto"><b>{_escaped(r["prompt"])}</b>{_escaped(r["text"])}</pre>'
        for r in kept
    ]
    return _section("Samples", (note if len(kept) < len(every) else "") + "\n".join(blocks))


def _skips(records: list[Record]) -> str:
    every = [record for record in records if record["kind"] == "skip"]
    if not every:
        return ""
    kept = _spread(every, SAMPLES)
    note = f"<p>{len(kept)} of {len(every):,}; the others stand in the log.</p>\n"
    table = _table((f"step {int(r['step']):,}", r.get("why", "")) for r in kept)
    return _section("Skipped steps", (note if len(kept) < len(every) else "") + table)


CSS = """\
:root { color-scheme: light dark; --ink: #24292f; --page: #fff; --line: #d8dee4; --soft: #f5f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #d7dce2; --page: #16181d; --line: #363c45; --soft: #1f2329 }
}
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin-top: 2.2rem }
h3 { font-size: .85rem; margin: 1.2rem 0 .3rem; opacity: .75; font-weight: 600 }
img { width: 100%; height: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere }
th { font-weight: 400; opacity: .75; width: 16rem } td { font-variant-numeric: tabular-nums }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); margin: 0;
  padding: .7rem .9rem; border-radius: 6px; font: 14px/1.5 ui-monospace, monospace }
@media (max-width: 40rem) { th { width: 9rem } }"""

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{css}
</style>
<h1>{title}</h1>
<picture>
<source media="(prefers-color-scheme: dark)" srcset="{dark}">
<img alt="training and validation loss over the steps" src="{light}">
</picture>
{sections}
</html>
"""


def _embedded(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def page(records: list[Record], title: str, light: bytes, dark: bytes) -> str:
    """The report as one HTML page with the curve in it, drawn for light and for dark pages."""
    sections = [
        _section("Figures", _table(figures(records, curves(records)))),
        _skips(records),
        _samples(records),
        _settings(records),
    ]
    return PAGE.format(
        title=_escaped(title),
        css=CSS,
        light=_embedded(light),
        dark=_embedded(dark),
        sections="\n".join(section for section in sections if section),
    )


def write(folder: Path, records: Iterable[Record], title: str) -> None:
    """Make `curve.png` and `report.html` in the folder, each whole or not at all.

    The page shows both prompt and text of a sample, so a text is what came after its prompt.
    MissingExtraError without matplotlib, InputError or Failure when the files cannot be written.
    """
    every = list(records)
    run = curves(every)
    image = curve(run, title)
    whole = page(every, title, curve(run, ""), curve(run, "", DARK))
    write_whole(folder / "curve.png", image)
    write_whole(folder / "report.html", whole)
