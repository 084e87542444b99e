"""The report of a training run: curve.png, and report.html, one page that needs nothing else.

Both are made from the records of `log`, however many there are. A long run is thinned out so that
what stands out stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.files.atomic import write_whole
from gpt2lab.pages import chart
from gpt2lab.pages.chart import Panel, Series
from gpt2lab.pages.document import article, section
from gpt2lab.pages.text import escaped
from gpt2lab.train.log import Record, json_value

Array = np.ndarray[Any, np.dtype[Any]]

POINTS = 2000  # of a curve
STRETCHES = 50  # of a curve, from each of which the lowest and the highest point are drawn too
SAMPLES = 24  # of a report, at most


def _number(value: Any) -> float:
    """A loss as the records have it: a number, the word for one that is not finite, or nothing."""
    return math.nan if value is None else float(value)


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
    """The numbers in the records, in the order of their steps."""
    ordered = sorted((r for r in records if "step" in r), key=lambda r: int(r["step"]))

    def column(kind: str, key: str) -> Array:
        found = [_number(record.get(key)) for record in ordered if record["kind"] == kind]
        return np.array(found, np.float64)  # [N]

    return Curves(
        column("step", "step"),
        column("step", "loss"),
        column("step", "lr"),
        column("val", "step"),
        column("val", "loss"),
        column("skip", "step"),
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


def _training(run: Curves) -> list[Series]:
    """The points of the training loss and their smoothed line."""
    x, y = finite(run.steps, run.losses)
    if not len(y):
        return []
    at, line = smoothed(x, y)
    opacity = 0.8 if len(y) < 100 else 0.35
    return [
        Series("", *thinned(x, y), "blue", "points", opacity),
        Series("training", at, line, "blue", about=f"training, last {line[-1]:.3f}"),
    ]


def _validation(run: Curves) -> list[Series]:
    """The line of the validation loss, and a ring around the best."""
    x, y = finite(run.val_steps, run.val_losses)
    if not len(y):
        return []
    best = int(np.argmin(y))
    about = f"validation, best {y[best]:.3f} at step {int(x[best]):,}"
    return [
        Series("validation", *thinned(x, y), "orange", about=about),
        Series("", x[[best]], y[[best]], "orange", "ring", about=about),
    ]


def _ticks(name: str, x: Array, colour: str, edge: str) -> list[Series]:
    """Ticks at an edge of the panel for the steps x."""
    about = f"{name}: {len(x):,} {'step' if len(x) == 1 else 'steps'}"
    return [Series(name, x, np.zeros(len(x)), colour, edge, about=about)] if len(x) else []


def panels(run: Curves) -> list[Panel]:
    """The losses over the steps, and the learning rate below them.

    Points are the losses of steps, the line their medians over a fiftieth of the run; a ring marks
    the best validation loss, ticks the steps that were skipped or lie outside of the panel.
    """
    training, validation = _training(run), _validation(run)
    steps, losses = finite(run.steps, run.losses)
    lines = [one.y for one in (*training[1:], *validation[:1])]
    limits = _frame(losses, np.concatenate(lines) if lines else np.zeros(0))
    above = steps[losses > (limits[1] if limits else math.inf)]
    marks = [
        *_ticks("above the frame", above, "blue", "top"),
        *_ticks("skipped", run.skipped, "red", "bottom"),
        *_ticks("loss not finite", run.steps[~np.isfinite(run.losses)], "violet", "bottom"),
    ]
    title = "loss, nats per token" if limits else "no loss was recorded"
    x, rates = finite(run.steps, run.rates)
    rate = [Series("", *thinned(x, rates), "muted", about="learning rate")] if len(x) else []
    top = 1.15 * float(rates.max(initial=0.0)) or 1.0
    return [
        Panel(title, [*training, *validation, *marks], limits, 320, log=True),
        Panel("learning rate", rate, (0.0, top) if rate else None, 80),
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(json_value(value), ensure_ascii=False)


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"<tr><th>{escaped(name)}<td>{escaped(_text(value))}" for name, value in rows]
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
    epochs, tokens, seconds = (_number(last.get(key)) for key in ("epoch", "tokens", "seconds"))
    rows = [("steps", f"{int(last['step']):,}")]
    if math.isfinite(epochs):
        rows.append(("epochs", f"{epochs:.2f}"))
    if math.isfinite(tokens):
        rows.append(("tokens", f"{tokens:,.0f}"))
    if math.isfinite(seconds):
        rows.append(("training time", _time(seconds)))
    if seconds and math.isfinite(tokens / seconds):
        rows.append(("tokens a second", f"{tokens / seconds:,.0f}"))
    return rows


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
    """The settings that the run was started with, and what was changed when it was resumed."""
    now: dict[str, Any] = {}
    for record in records:
        if record["kind"] in ("start", "resume"):
            now |= {k: v for k, v in record.items() if k not in ("kind", "step")}
    rows = [
        (f"{key}.{inner}" if inner else key, value)
        for key, whole in now.items()
        for inner, value in (whole.items() if isinstance(whole, dict) else [("", whole)])
    ]
    return section("Settings", _table(rows)) if rows else ""


def _some(records: list[Record], kind: str) -> tuple[list[Record], str]:
    """Up to SAMPLES records of a kind, evenly chosen, and a note where some are left out."""
    every = [record for record in records if record["kind"] == kind]
    if len(every) <= SAMPLES:
        return every, ""
    kept = [every[i] for i in np.linspace(0, len(every) - 1, SAMPLES).round().astype(int)]
    return kept, f"<p>{SAMPLES} of {len(every):,}; the log has the others.</p>\n"


def _samples(records: list[Record]) -> str:
    kept, note = _some(records, "sample")
    blocks = [
        f"<h3>step {int(r['step']):,}</h3>\n"
        f'<pre dir="auto"><b>{escaped(_text(r["prompt"]))}</b>{escaped(_text(r["text"]))}</pre>'
        for r in kept
    ]
    return section("Samples", note + "\n".join(blocks)) if kept else ""


def _skips(records: list[Record]) -> str:
    kept, note = _some(records, "skip")
    table = _table((f"step {int(r['step']):,}", r.get("why", "")) for r in kept)
    return section("Skipped steps", note + table) if kept else ""


def page(records: list[Record], title: str) -> str:
    """The report as one HTML page with the curve in it."""
    run = curves(records)
    return article(
        "training report",
        title,
        chart.html("training and validation loss over the steps", panels(run)),
        section("Figures", _table(figures(records, run))),
        _skips(records),
        _samples(records),
        _settings(records),
    )


def write(folder: Path, records: Iterable[Record], title: str) -> None:
    """Write `curve.png` and `report.html` into the folder, each completely or not at all.

    The page shows both prompt and text of a sample, so a text is what came after its prompt.
    MissingExtraError without matplotlib, InputError or Failure when the files cannot be written.
    """
    every = list(records)
    image, whole = chart.png(title, panels(curves(every))), page(every, title)
    write_whole(folder / "curve.png", image)
    write_whole(folder / "report.html", whole)
