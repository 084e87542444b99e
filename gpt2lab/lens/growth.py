"""When circuits appear: the heads of a model at every checkpoint of the run that trained it.

Shapes: N checkpoints, L layers, H heads.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab import weights
from gpt2lab.config import Config
from gpt2lab.engines.numpy_engine import NumpyEngine
from gpt2lab.errors import InputError
from gpt2lab.files import accessing
from gpt2lab.lens.heads import KINDS, HeadScores, head_scores, repeated_tokens
from gpt2lab.lens.logits import logit_lens
from gpt2lab.lens.traces import Array, trace
from gpt2lab.prompts import check_ids
from gpt2lab.tokenizer import Tokenizer

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
            return check_ids(prompt, self.config)
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

WIDTH, HEIGHT, LEFT, RIGHT = 860, 190, 56, 190
COLOURS = ("#0a66b7", "#c2410c", "#15803d", "#7c3aed")
Series = tuple[str, Sequence[float | None], str, float]  # label, values, colour, opacity


def chart(growth: Growth) -> str:
    """The growth as one SVG: losses, scores of the heads, lens depth, over the steps."""
    steps = [stage.step for stage in growth.stages]
    losses: list[Series] = [
        ("training", [stage.loss for stage in growth.stages], COLOURS[0], 1.0),
        ("validation", [stage.val_loss for stage in growth.stages], COLOURS[1], 1.0),
        ("r r, second r", [s.scores.losses[1] for s in growth.stages], COLOURS[2], 1.0),
    ]
    panels = [("loss, nats a token", losses, False)]
    for kind, colour in (("induction", COLOURS[1]), ("previous", COLOURS[0])):
        panels.append((f"{kind}-token score" if kind == "previous" else "induction score",
                       _courses(growth, kind, colour), True))  # fmt: skip
    depth: Series = ("mean of tokens", [stage.depth for stage in growth.stages], COLOURS[3], 1.0)
    panels.append(("lens depth, share of layers", [depth], True))
    height = len(panels) * HEIGHT + 30
    body = [
        _panel(steps, title, series, unit, i * HEIGHT)
        for i, (title, series, unit) in enumerate(panels)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'style="max-width:100%;font:12px system-ui,sans-serif" fill="currentColor">'
        f"<title>{html.escape(growth.name)}: when circuits appear</title>{''.join(body)}"
        f'<text x="{LEFT}" y="{height - 6}">step</text></svg>'
    )


def _courses(growth: Growth, kind: str, colour: str) -> list[Series]:
    """Each head's course in a kind; the highest one is drawn in full and named."""
    best = growth.best(kind)
    shape = growth.stages[0].scores.previous.shape
    heads = [(i, j) for i, j in np.ndindex(shape) if (i, j) != best]
    rest: list[Series] = [("", growth.course(kind, i, j), colour, 0.25) for i, j in heads]
    name = f"layer {best[0]}, head {best[1]}"
    return [*rest, (name, growth.course(kind, *best), colour, 1.0)]


def _panel(steps: list[int], title: str, series: list[Series], unit: bool, top: int) -> str:
    """One panel: axes, grid, lines with their last values. unit: the axis is 0 to 1."""
    numbers = [v for _, values, _, _ in series for v in values if v is not None]
    low, high = (0.0, 1.0) if unit else (min(numbers, default=0.0), max(numbers, default=1.0))
    if not unit:
        low, high = max(0.0, low - 0.05 * (high - low)), high + 0.05 * (high - low or 1)
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - 50
    first, span = steps[0], max(steps[-1] - steps[0], 1)

    def x(step: float) -> float:
        return LEFT + wide * (step - first) / span

    def y(value: float) -> float:
        return top + 30 + tall * (high - value) / (high - low)

    out = [f'<text x="{LEFT}" y="{top + 18}" font-weight="600">{title}</text>']
    for tick in np.linspace(low, high, 5):
        out.append(
            f'<path d="M{LEFT} {y(tick):.1f}h{wide}" stroke="currentColor" opacity=".15"/>'
            f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end" opacity=".75">'
            f"{tick:.2f}</text>"
        )
    for step in np.unique(np.linspace(first, steps[-1], 6).round().astype(int)):
        out.append(
            f'<text x="{x(step):.1f}" y="{top + HEIGHT - 6}" text-anchor="middle" opacity=".75">'
            f"{step:,}</text>"
        )
    taken: list[float] = []
    for label, values, colour, opacity in series:
        points = [(x(s), y(v), v) for s, v in zip(steps, values, strict=True) if v is not None]
        if not points:
            continue
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in points)
        out.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" '
            f'opacity="{opacity}"/>'
        )
        if len(points) == 1 and label:
            out.append(
                f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3" fill="{colour}"/>'
            )
        if label:
            at = points[-1][1] + 4
            while any(abs(at - other) < 14 for other in taken):
                at += 3
            taken.append(at)
            out.append(
                f'<text x="{LEFT + wide + 8}" y="{at:.1f}" fill="{colour}">{label} '
                f"{points[-1][2]:.2f}</text>"
            )
    return "".join(out)


PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem;
  font: 16px/1.5 system-ui, sans-serif }}
</style>
<h1>{title}</h1>
<p>{about}</p>
{chart}
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
        chart=chart(growth),
    )
