"""When circuits appear: the heads of a model at every checkpoint of the run that trained it.

Shapes: N checkpoints, L layers, H heads.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab import weights
from gpt2lab.checks import check_ids
from gpt2lab.config import Config
from gpt2lab.engines.numpy_engine import NumpyEngine
from gpt2lab.errors import InputError
from gpt2lab.files.io import accessing
from gpt2lab.lens.heads import KINDS, HeadScores, head_scores, repeated_tokens
from gpt2lab.lens.logits import logit_lens
from gpt2lab.lens.traces import Array, trace
from gpt2lab.text.tokenizer import Tokenizer

_FOLDER = re.compile(r"(?:step|checkpoint)-(\d+)", re.ASCII)  # ours, and transformers' Trainer's


class _Model:
    """A checkpoint as the functions of this room take a model."""

    def __init__(self, checkpoint: weights.Checkpoint) -> None:
        self.config: Config = checkpoint.config
        self.params: dict[str, Array] = checkpoint.params
        self.tokenizer: Tokenizer | None = checkpoint.tokenizer
        self.engine = NumpyEngine(self.config, self.params)
        self.acts: tuple[Any, ...] = ()

    def encode(self, prompt: Any) -> list[int]:
        if not isinstance(prompt, str):
            return check_ids(prompt, self.config.n_vocab)
        if self.tokenizer is None:
            raise InputError("the checkpoints hold no tokenizer; leave the text out")
        return self.tokenizer.encode(prompt)


@dataclass
class Stage:
    """A model at one step of its training.

    loss, val_loss: nats a token as the log has them (the median since the checkpoint before), None
    where it has none. scores: of the heads on repeated random tokens. depth: the lens depth, the
    mean share of the layers after which the likeliest next token is the final one already.
    """

    step: int
    loss: float | None
    val_loss: float | None
    scores: HeadScores
    depth: float


@dataclass
class Growth:
    """The stages of a run, oldest first. text: what the lens depth was read on, "" for the
    repeated random tokens."""

    name: str
    stages: list[Stage]
    text: str = ""

    def best(self, kind: str) -> tuple[int, int]:
        """(layer, head) of the head that scores highest in a kind at any stage."""
        heads = np.max([getattr(stage.scores, kind) for stage in self.stages], axis=0)  # [L, H]
        layer, head = np.unravel_index(int(np.argmax(heads)), heads.shape)
        return int(layer), int(head)

    def course(self, kind: str, layer: int, head: int) -> list[float]:
        """A head's score in a kind, stage by stage: [N]."""
        return [float(getattr(stage.scores, kind)[layer, head]) for stage in self.stages]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "run": self.name,
            "text": self.text or None,
            "best": {kind: list(self.best(kind)) for kind in KINDS},
            "stages": [
                {
                    "step": stage.step,
                    "loss": stage.loss,
                    "val_loss": stage.val_loss,
                    "depth": stage.depth,
                    "scores": stage.scores.to_dict(),
                }
                for stage in self.stages
            ],
        }

    def __repr__(self) -> str:
        rows = []
        for kind in ("previous", "induction"):
            layer, head = self.best(kind)
            course = self.course(kind, layer, head)
            rows.append(f"{kind:>12} {layer}.{head}: {course[0]:.3f} to {course[-1]:.3f}")
        steps = f"{len(self.stages)} checkpoints, steps {self.stages[0].step} to "
        return "\n".join(
            [
                f"{steps}{self.stages[-1].step}",
                *rows,
                "Growth: .course(kind, layer, head) has each checkpoint, .to_dict() everything",
            ]
        )

    def _repr_html_(self) -> str:
        return chart(self)


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint in a run's folder, oldest first."""
    if not run.is_dir():
        raise InputError(f"{run} is no folder; give the folder of a training run")
    with accessing(run):
        found = [(_FOLDER.fullmatch(path.name), path) for path in run.iterdir() if path.is_dir()]
    named = sorted((int(match[1]), path) for match, path in found if match)
    if not named:
        raise InputError(
            f"{run} holds no checkpoints (step-N or checkpoint-N); give the folder of a training "
            "run, and train with --save-total-limit 0 to keep them all"
        )
    return named


def stages(
    run: Path,
    records: Iterable[Mapping[str, Any]] = (),
    text: str | Sequence[int] | None = None,
    *,
    batch: int = 4,
    seed: int = 0,
) -> Iterator[Stage]:
    """Look into each checkpoint of a run in turn.

    records: the run's log, for the losses. text: what the lens depth is read on, the repeated
    random tokens by default. batch, seed: as `head_scores` takes them.
    """
    kept, before = list(records), -1
    for step, folder in checkpoints(run):
        model = _Model(weights.load(folder))
        scores = head_scores(model, batch=batch, seed=seed)
        given = text
        if given is None:
            given = repeated_tokens(model, scores.length, 1, seed)[0].tolist()
        read = logit_lens(trace(model, given, ["resid_pre", "resid_post"]), top=1)
        depth = float(read.depths.mean()) / model.config.n_layer
        loss, val = (_losses(kept, kind, before, step) for kind in ("step", "val"))
        yield Stage(
            step, float(np.median(loss)) if loss else None, val[-1] if val else None, scores, depth
        )
        before = step


def _losses(records: Iterable[Mapping[str, Any]], kind: str, after: int, until: int) -> list[float]:
    """The finite losses of one kind of record, later than one step and up to another."""
    chosen = (r for r in records if r.get("kind") == kind and after < r.get("step", -1) <= until)
    found = [r.get("loss") for r in chosen]
    return [float(x) for x in found if isinstance(x, int | float) and math.isfinite(x)]


# ---- The picture.

HEIGHT, LEFT, NAMED = 190, 56, 0.3  # pixels; the score from which on a head has a name
WIDE, NARROW = (860, 190), (380, 12)  # width of a picture, and of that the room for names
#: Of the light page; a page may set others for the dark.
COLOURS = tuple(
    f"var(--line-{i}, {colour})"
    for i, colour in enumerate(("#0a66b7", "#c2410c", "#15803d", "#7c3aed"))
)
Series = tuple[str, Sequence[float | None], str, float]  # label, values, colour, opacity
Panel = tuple[str, list[Series], bool]  # title, lines, whether the axis is 0 to 1


def chart(growth: Growth) -> str:
    """The growth as one SVG: losses, scores of the heads, lens depth, over the steps."""
    panels, steps = _panels(growth), [stage.step for stage in growth.stages]
    body = [_panel(steps, one, i * HEIGHT, *WIDE) for i, one in enumerate(panels)]
    return _svg(
        "".join(body), f"{growth.name}: when circuits appear", WIDE[0], len(panels) * HEIGHT
    )


def _svg(body: str, title: str, width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 30}" role="img" '
        'style="max-width:100%;font:12px system-ui,sans-serif" fill="currentColor">'
        f"<title>{html.escape(title)}</title>{body}"
        f'<text x="{LEFT}" y="{height + 24}">step</text></svg>'
    )


def _panels(growth: Growth) -> list[Panel]:
    stages = growth.stages
    losses: list[Series] = [
        ("training", [stage.loss for stage in stages], COLOURS[0], 1.0),
        ("validation", [stage.val_loss for stage in stages], COLOURS[1], 1.0),
        ("r r, second r", [stage.scores.losses[1] for stage in stages], COLOURS[2], 1.0),
    ]
    depth: Series = ("mean of tokens", [stage.depth for stage in stages], COLOURS[3], 1.0)
    return [
        ("loss, nats a token", losses, False),
        ("induction score", _courses(growth, "induction", COLOURS[1]), True),
        ("previous-token score", _courses(growth, "previous", COLOURS[0]), True),
        ("lens depth, share of layers", [depth], True),
    ]


def _courses(growth: Growth, kind: str, colour: str) -> list[Series]:
    """Each head's course in a kind; the highest one is drawn in full, high ones have a name."""
    best, found = growth.best(kind), list[Series]()
    for i, j in np.ndindex(growth.stages[0].scores.previous.shape):
        course = growth.course(kind, i, j)
        if (i, j) != best:
            found.append((f"head {i}.{j}" if course[-1] >= NAMED else "", course, colour, 0.35))
    return [*found, (f"head {best[0]}.{best[1]}", growth.course(kind, *best), colour, 1.0)]


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from low to high."""
    size = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = next(size * k for k in (1, 2, 2.5, 5, 10) if (high - low) / (size * k) <= 5)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _panel(steps: list[int], panel: Panel, top: int, width: int, room: int) -> str:
    """One panel: axes, grid, lines; where there is room, names and last values at their ends."""
    title, series, unit = panel
    numbers = [v for _, values, _, _ in series for v in values if v is not None]
    low, high = (0.0, 1.0) if unit else (min(numbers, default=0.0), max(numbers, default=1.0))
    if not unit:
        low, high = max(0.0, low - 0.05 * (high - low)), high + 0.05 * (high - low or 1)
    wide, tall = width - LEFT - room, HEIGHT - 50
    first, span = steps[0], max(steps[-1] - steps[0], 1)

    def x(step: float) -> float:
        return LEFT + wide * (step - first) / span

    def y(value: float) -> float:
        return top + 30 + tall * (high - value) / (high - low)

    out = [f'<text x="{LEFT}" y="{top + 18}" font-weight="600">{title}</text>']
    for tick in _ticks(low, high):
        out.append(
            f'<path d="M{LEFT} {y(tick):.1f}h{wide}" stroke="currentColor" opacity=".15"/>'
            f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end" opacity=".75">'
            f"{tick:g}</text>"
        )
    marks = np.linspace(first, steps[-1], 6 if width > 500 else 3).round().astype(int)
    for step in np.unique(marks):
        out.append(
            f'<text x="{x(step):.1f}" y="{top + HEIGHT - 6}" text-anchor="middle" opacity=".75">'
            f"{step:,}</text>"
        )
    taken: list[float] = []
    for label, values, colour, opacity in reversed(series):
        points = [(x(s), y(v), v) for s, v in zip(steps, values, strict=True) if v is not None]
        if points:
            out += _line(points, steps, label, colour, opacity)
        if points and label and room > 100:
            out.append(_name(points[-1], label, colour, LEFT + wide + 8, taken))
    return "".join(out)


def _line(
    points: list[tuple[float, float, float]],
    steps: list[int],
    label: str,
    colour: str,
    opacity: float,
) -> list[str]:
    """A line, with its first, highest and last value where the pointer is; a dot for one value."""
    values = [value for _, _, value in points]
    told = (
        f"{label or 'another head'}: {values[0]:.3f}, at most {max(values):.3f}, {values[-1]:.3f}"
    )
    told += f" at step {steps[-1]:,}"
    if len(points) == 1:
        a, b, _ = points[0]
        style = f'style="fill:{colour}"'
        return [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" {style}><title>{told}</title></circle>']
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in points)
    return [
        f'<polyline points="{line}" fill="none" style="stroke:{colour}" stroke-width="2" '
        f'opacity="{opacity}"><title>{told}</title></polyline>'
    ]


def _name(
    end: tuple[float, float, float], label: str, colour: str, x: float, taken: list[float]
) -> str:
    """A name beside the end of its line, below the names that are there already."""
    at = end[1] + 4
    while any(abs(at - other) < 14 for other in taken):
        at += 3
    taken.append(at)
    return f'<text x="{x}" y="{at:.1f}" style="fill:{colour}">{label} {end[2]:.2f}</text>'


def _phone(growth: Growth) -> str:
    """The panels for a narrow screen: the names stand below each, as text of the page."""
    steps, out = [stage.step for stage in growth.stages], []
    for panel in _panels(growth):
        drawn = _svg(_panel(steps, panel, 0, *NARROW), panel[0], NARROW[0], HEIGHT)
        ends = [(label, [v for v in values if v is not None], colour)
                for label, values, colour, _ in panel[1] if label]  # fmt: skip
        names = " ".join(
            f'<span style="color:{colour}">{label} {found[-1]:.2f}</span>'
            for label, found, colour in ends
            if found
        )
        out.append(f'{drawn}<p class="small">{names}</p>')
    return "".join(out)


PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
:root {{ --line-0: #0a66b7; --line-1: #c2410c; --line-2: #15803d; --line-3: #7c3aed }}
@media (prefers-color-scheme: dark) {{
  :root {{ --line-0: #62a6d4; --line-1: #e39a57; --line-2: #7bc48a; --line-3: #ab90e0 }}
}}
main {{ max-width: 60rem; margin: 0 auto; padding: 0 12px 4rem }}
.phone {{ display: none }}
.phone span {{ margin-right: 10px }}
@media (max-width: 620px) {{ .phone {{ display: block }} .desk {{ display: none }} }}
</style>
<main>
<p class="mark">gpt2lab · look inside</p>
<h1>{title}</h1>
<p>{about}</p>
<div class="desk">{chart}</div>
<div class="phone">{phone}</div>
</main>
</html>
"""


def page(growth: Growth) -> str:
    """The growth as one HTML page that needs nothing else."""
    on = "the repeated random tokens" if not growth.text else f"“{growth.text}”"
    length = growth.stages[0].scores.length
    about = (
        f"{len(growth.stages)} checkpoints. Scores are measured on {length} random tokens that "
        "come twice (r r): how much of its attention a head gives to the token before (previous), "
        "and in the second r to the token that followed the same one in the first (induction). "
        "Lens depth: after which share of the layers the likeliest next token is the final one, "
        f"on {on}."
    )
    return PAGE.format(
        title=html.escape(f"{growth.name}: when circuits appear"),
        about=html.escape(about),
        style=(resources.files("gpt2lab.lens") / "page.css").read_text(encoding="utf-8"),
        chart=chart(growth),
        phone=_phone(growth),
    )
