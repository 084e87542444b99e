"""What `look` draws in a terminal: coloured text, tables, the source with its numbers."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.errors import InputError
from gpt2lab.files.visible import sign

if TYPE_CHECKING:
    from gpt2lab.lens.direct_effects import Attribution
    from gpt2lab.lens.heads import HeadScores
    from gpt2lab.lens.over_training import Growth, Stage
    from gpt2lab.lens.prediction import Expected, NextTokens
    from gpt2lab.lens.unembedding import LogitLens
    from gpt2lab.lens.walkthrough import Call, Seen

BARS = " ▁▂▃▄▅▆▇█"
#: From likely to unlikely: dark blue to yellow to red of the 256 colours, ink for each.
LADDER = ((18, 255), (24, 255), (30, 255), (65, 255), (143, 16), (178, 16), (208, 16), (196, 255))
STEP = 1.25  # nats of surprisal a colour
LONG = 40  # rows of a table of tokens
CELL = 10  # columns of a cell of the lens


class Canvas:
    """Lines of a terminal: its width, and whether colours are shown."""

    def __init__(self, colour: str) -> None:
        if colour not in ("auto", "always", "never"):
            raise InputError(f"color is {colour!r}; choose auto, always or never")
        wanted = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.colour = wanted if colour == "auto" else colour == "always"
        self.width = min(max(40, shutil.get_terminal_size((100, 24)).columns), 1000)

    def line(self, text: str = "") -> None:
        click.echo(text.rstrip(" "), color=True if self.colour else None)

    def title(self, text: str) -> None:
        self.line()
        self.line(self.paint(text, bold=True))

    def paint(self, text: str, **style: object) -> str:
        return click.style(text, **style) if self.colour else text  # type: ignore[arg-type]

    def shade(self, text: str, level: float) -> str:
        """Text on a colour of the ladder; level 0 is the likely end, 1 the unlikely one."""
        back, ink = LADDER[min(len(LADDER) - 1, max(0, int(level * len(LADDER))))]
        return self.paint(text, bg=back, fg=ink)


def clean(text: str) -> str:
    """Return a token's text as it may be part of a line."""
    return "".join(map(sign, text))


def columns(text: str) -> int:
    """How many columns a text takes."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def fit(text: str, width: int) -> str:
    """A text cut or filled to a width; nothing fits into none."""
    if columns(text) > width:
        while text and columns(text) > width - 1:
            text = text[:-1]
        text += "…" if width > 0 else ""
    return text + " " * (width - columns(text))


def bar(share: float, width: int) -> str:
    """A bar of eighths, for a share of 1."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    partial = "▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else ""
    return "█" * (eighths // 8) + partial


def spark(values: Iterable[float], low: float, high: float) -> str:
    """Numbers as a row of small bars; what is not a number is blank."""
    span = high - low or 1.0
    return "".join(
        " " if v != v else BARS[1 + min(7, max(0, int((v - low) / span * 7.999)))] for v in values
    )


# ---- The text.


def plain_dict(view: NextTokens, plain: Any) -> dict[str, Any]:
    """The plain model's probabilities [T, V] of what an acted model's view tells, for JSON."""
    before = zip(plain, view.tokens[1:], strict=False)
    after = [one for one, _ in view.next.alternatives]
    return {
        "tokens": [None, *(float(row[one]) for row, one in before)],
        "next": [{"token": one, "probability": float(plain[-1][one])} for one in after],
    }


def text_view(canvas: Canvas, view: NextTokens, plain: Any = None) -> None:
    """The text coloured by surprisal where there are colours, and a row for each token.

    plain: where the model acts, the plain model's probabilities [T, V] after each token.
    """
    if canvas.colour:
        for piece, value in zip(view.pieces, view.surprisals, strict=True):
            shown = clean(piece)
            level = 0.0 if value is None else value / (STEP * len(LADDER))
            click.echo(shown if value is None else canvas.shade(shown, level), nl=False, color=True)
            if "\n" in piece:
                click.echo()
        click.echo()
        steps = [
            canvas.shade(f" {i * STEP:g} ", (i + 0.5) / len(LADDER)) for i in range(len(LADDER))
        ]
        canvas.line("surprisal in nats, from" + "".join(steps))
    canvas.title("Token by token")
    canvas.line(
        f"{'at':>4}  {'token':<14} {'surprisal':>9} {'probability':>11} {'rank':>6} {'entropy':>8}"
        + ("" if plain is None else f" {'plain':>8}")
        + "  likelier"
    )
    hidden = max(0, len(view.tokens) - LONG)
    if hidden:
        canvas.line(f"      ({hidden} earlier tokens are left out; --json has them)")
    for i in range(hidden, len(view.tokens)):
        _token_row(canvas, view, i, None if plain is None or not i else plain[i - 1])


def _token_row(canvas: Canvas, view: NextTokens, i: int, plain: Any) -> None:
    name, row = fit(clean(view.pieces[i]), 14), view.expected[i]
    if row is None or row.surprisal is None or row.probability is None:
        canvas.line(f"{i:>4}  {name}         -           -      -        -")
        return
    better = [text for text, p in view.names(row) if p > row.probability][:4]
    shown = canvas.shade(name, row.surprisal / (STEP * len(LADDER)))
    numbers = f"{row.surprisal:>9.3f} {row.probability:>11.2%} {row.rank:>6} {row.entropy:>8.3f}"
    numbers += "" if plain is None else f" {plain[view.tokens[i]]:>8.2%}"
    room = canvas.width - (60 if plain is None else 69)
    rest = fit(" ".join(repr(clean(text)) for text in better), max(0, room))
    canvas.line(f"{i:>4}  {shown} {numbers}  {rest}")


def next_view(canvas: Canvas, view: NextTokens, row: Expected, plain: Any = None) -> None:
    """What comes next: names, probabilities, bars; plain [V] as in `text_view`."""
    canvas.title(f"What comes next (entropy {row.entropy:.3f} nats)")
    for (text, p), (one, _) in zip(view.names(row), row.alternatives, strict=True):
        before = "" if plain is None else f"  plain {plain[one]:>7.2%}"
        drawn = bar(p, min(40, canvas.width - 45))
        canvas.line(f"{fit(clean(text), 18)} {p:>8.2%}{before}  {drawn}")


# ---- The lens.


def lens_view(canvas: Canvas, lens: LogitLens, pieces: Sequence[str]) -> None:
    """The lens as a table: layers down, positions across, the newest positions that fit."""
    places = max(1, (canvas.width - 8) // (CELL + 1))
    first = max(0, len(pieces) - places)
    canvas.title("Logit lens: the most probable next token at every layer")
    if first:
        canvas.line(f"(positions {first} to {len(pieces) - 1}; --json and --html have them all)")
    canvas.line(f"{'':8}" + " ".join(fit(clean(p), CELL) for p in pieces[first:]))
    for n, key in enumerate(lens.keys):
        name = "embed" if key == "h.0.resid_pre" else key.split(".")[1]
        if key.endswith("resid_mid"):
            name += " mid"
        cells = []
        for t in range(first, len(pieces)):
            p = float(lens.probabilities[n, t, 0])
            cell = fit(clean(lens.pieces[n][t]), CELL)
            cells.append(canvas.shade(cell, 1 - p) if canvas.colour else cell)
        canvas.line(f"{name:>7} " + " ".join(cells))
    # The first row from which on the final token is the most probable.
    depths = ("embed" if depth == 0 else f"layer {depth - 1}" for depth in lens.depths[first:])
    canvas.line(f"{'from':>7} " + " ".join(fit(depth, CELL) for depth in depths))


# ---- Heads.


def heads_view(canvas: Canvas, parts: Attribution, scores: HeadScores | None, count: int) -> None:
    """The parts that write most towards the token, and the heads that are of a known kind."""
    canvas.title(
        f"Direct effect on the logit of {parts.target} at position {parts.position} "
        f"({parts.logit:.3f} in all)"
    )
    largest = max(abs(value) for _, value in parts.top(1)) or 1.0
    for label, value in parts.top(count):
        colour = "blue" if value > 0 else "red"
        drawn = canvas.paint(bar(abs(value) / largest, 30), fg=colour)
        canvas.line(f"{label:>24} {value:>+9.3f}  {drawn}")
    if scores is None:
        return
    canvas.title(f"Heads by what they look for, on {scores.length} random tokens that come twice")
    for kind in ("previous", "duplicate", "induction"):
        rows = scores.strongest(kind, 3)
        told = "   ".join(f"h.{i}.head.{j} {value:.3f}" for i, j, value in rows)
        canvas.line(f"{kind:>12}  {told}")
    first, second = scores.losses
    canvas.line(f"{'loss':>12}  {first:.3f} nats a token the first time, {second:.3f} the second")


# ---- Growth.


def growth_row(canvas: Canvas, stage: Stage, names: bool) -> None:
    """One checkpoint: losses, the best heads, the lens depth; before it the names of columns."""
    if names:
        columns = f"{'val loss':>8} {'2nd r':>8} {'previous':>19} {'induction':>19}"
        canvas.line(f"{'step':>9} {'loss':>8} {columns} {'depth':>6}")
    cells = [f"{stage.step:>9}"]
    for loss in (stage.loss, stage.val_loss, stage.scores.losses[1]):
        cells.append(f"{'-' if loss is None else f'{loss:.3f}':>8}")
    for kind in ("previous", "induction"):
        [(layer, head, score)] = stage.scores.strongest(kind, 1)
        cells.append(f"{f'{layer}.{head}':>5} {score:.3f} {fit(bar(score, 7), 7)}")
    canvas.line(" ".join([*cells, f"{stage.depth:>6.2f}"]))


def growth_view(canvas: Canvas, growth: Growth) -> None:
    """The courses of the best heads and of the losses as small bars."""
    canvas.title("Over the steps")
    for kind in ("previous", "induction"):
        layer, head = growth.best(kind)
        course = growth.course(kind, layer, head)
        canvas.line(
            f"{kind:>12} {layer}.{head}  {spark(course, 0, 1)}  {course[0]:.3f} to {course[-1]:.3f}"
        )
    second = [stage.scores.losses[1] for stage in growth.stages]
    canvas.line(
        f"{'loss, 2nd r':>16}  {spark(second, min(second), max(second))}  {second[0]:.3f} to "
        f"{second[-1]:.3f}"
    )


# ---- The source.


def source_view(canvas: Canvas, calls: list[Call], layer: int) -> None:
    """The walk: each function in full where it is first met, in one layer; numbers everywhere."""
    shown: set[str] = set()
    for call in calls:
        own = call.layer in (None, layer)
        if own or call.name == "block":
            _call(canvas, call, whole=own and call.name not in shown)
        if own:
            shown.add(call.name)


def _call(canvas: Canvas, call: Call, whole: bool) -> None:
    margin = "  " * call.depth
    canvas.line()
    scope = f"  {call.scope}" if call.scope else ""
    canvas.line(f"{margin}{canvas.paint(call.name, bold=True, fg='cyan')}{scope}")
    if whole and call.about:
        canvas.line(f"{margin}{call.about}")
    for one in call.inputs:
        canvas.line(f"{margin}  in  {canvas.paint(described(one), fg='green')}")
    for line in call.lines if whole else ():
        number, text = (
            canvas.paint(f"{line.number:>5}", dim=True),
            canvas.paint(line.text, fg="yellow"),
        )
        canvas.line(f"{margin}{number}  {text}")
        for one in line.seen:
            canvas.line(f"{margin}         {canvas.paint('→ ' + described(one), fg='green')}")
    for one in call.outputs:
        canvas.line(f"{margin}  out {canvas.paint(described(one), fg='green')}")
        for row in one.picture if whole else ():
            canvas.line(f"{margin}         {spark(row, one.low, one.high)}")


def described(one: Seen) -> str:
    """A value in a line: name, shape, range."""
    if one.text:
        return f"{one.name} = {one.text}"
    name = one.name if not one.parameter else f"{one.name} = {one.parameter}"
    masked = ", and masked" if one.masked else ""
    times = f", the last of {one.times}" if one.times > 1 else ""
    shape = list(one.shape)
    kind = ".4g" if one.dtype.startswith("float") else ".0f"
    return f"{name} {shape} {one.low:{kind}} to {one.high:{kind}}{masked}{times}"
