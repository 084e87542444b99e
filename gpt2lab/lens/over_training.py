"""When circuits appear: the heads of a model at every checkpoint of the run that trained it.

Shapes: N checkpoints, L layers, H heads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from gpt2lab.lens.interventions import Act
from gpt2lab.lens.traces import Array, plain_fields, trace
from gpt2lab.lens.unembedding import logit_lens
from gpt2lab.pages import chart
from gpt2lab.pages.chart import Panel, Series, limits_of
from gpt2lab.pages.document import article
from gpt2lab.pages.text import escaped
from gpt2lab.text.tokenizer import Tokenizer

_FOLDER = re.compile(r"(?:step|checkpoint)-(\d+)", re.ASCII)  # ours, and transformers' Trainer's


@dataclass
class _Model:
    """A checkpoint as the functions of this room take a model."""

    config: Config
    params: dict[str, Array]
    tokenizer: Tokenizer | None
    engine: NumpyEngine
    acts: tuple[Act, ...] = ()

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
    mean share of the layers after which the most probable next token is the final one.
    """

    step: int
    loss: float | None
    val_loss: float | None
    depth: float
    scores: HeadScores


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
                plain_fields(stage) | {"scores": stage.scores.to_dict()} for stage in self.stages
            ],
        }

    def __repr__(self) -> str:
        first, last = self.stages[0].step, self.stages[-1].step
        rows = [f"{len(self.stages)} checkpoints, steps {first} to {last}"]
        for kind in ("previous", "induction"):
            layer, head = self.best(kind)
            course = self.course(kind, layer, head)
            rows.append(f"{kind:>12} {layer}.{head}: {course[0]:.3f} to {course[-1]:.3f}")
        rows.append("Growth: .course(kind, layer, head) has each checkpoint, .to_dict() everything")
        return "\n".join(rows)

    def _repr_html_(self) -> str:
        return chart.html(title(self), panels(self))


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
        c = weights.load(folder)
        model = _Model(c.config, c.params, c.tokenizer, NumpyEngine(c.config, c.params))
        scores = head_scores(model, batch=batch, seed=seed)
        random = repeated_tokens(model, scores.length, 1, seed)[0].tolist()
        names = ["resid_pre", "resid_post"]
        read = logit_lens(trace(model, random if text is None else text, names), top=1)
        depth = float(read.depths.mean()) / model.config.n_layer
        losses, vals = (_losses(kept, kind, before, step) for kind in ("step", "val"))
        loss, val = float(np.median(losses)) if losses else None, vals[-1] if vals else None
        yield Stage(step, loss, val, depth, scores)
        before = step


def _losses(records: Iterable[Mapping[str, Any]], kind: str, after: int, until: int) -> list[float]:
    """The finite losses of one kind of record, later than one step and up to another."""
    chosen = (r for r in records if r.get("kind") == kind and after < r.get("step", -1) <= until)
    found = [r.get("loss") for r in chosen]
    return [float(x) for x in found if isinstance(x, int | float) and math.isfinite(x)]


# ---- The chart.

NAMED = 0.3  # the score from which on a head's line has a name


def panels(growth: Growth) -> list[Panel]:
    """Losses, scores of the heads and lens depth over the steps."""
    stages = growth.stages
    second = [stage.scores.losses[1] for stage in stages]
    losses = [
        _series(growth, "training", [stage.loss for stage in stages], "blue"),
        _series(growth, "validation", [stage.val_loss for stage in stages], "orange"),
        _series(growth, "r r, second r", second, "green"),
    ]
    depth = _series(growth, "mean of tokens", [stage.depth for stage in stages], "violet")
    unit = (0.0, 1.0)
    return [
        Panel("loss, nats per token", losses, limits_of(losses)),
        Panel("induction score", _heads(growth, "induction", "orange"), unit),
        Panel("previous-token score", _heads(growth, "previous", "blue"), unit),
        Panel("lens depth, share of layers", [depth], unit),
    ]


def _series(
    growth: Growth, name: str, values: Sequence[float | None], colour: str, opacity: float = 1.0
) -> Series:
    """A line over the checkpoints that have a value, with its first, highest and last value."""
    known = [(s.step, v) for s, v in zip(growth.stages, values, strict=True) if v is not None]
    x, y = np.array(known, np.float64).reshape(-1, 2).T
    if not known:
        return Series(name, x, y, colour)
    about = f"{name or 'another head'}: {y[0]:.3f}, at most {y.max():.3f}, {y[-1]:.3f}"
    about += f" at step {growth.stages[-1].step:,}"
    return Series(name, x, y, colour, opacity=opacity, about=about)


def _heads(growth: Growth, kind: str, colour: str) -> list[Series]:
    """The score of each head; the highest line is opaque, and high ones have a name."""
    best, found = growth.best(kind), list[Series]()
    for i, j in np.ndindex(growth.stages[0].scores.previous.shape):
        course = growth.course(kind, i, j)
        if (i, j) != best:
            name = f"head {i}.{j}" if course[-1] >= NAMED else ""
            found.append(_series(growth, name, course, colour, 0.35))
    name = f"head {best[0]}.{best[1]}"
    return [*found, _series(growth, name, growth.course(kind, *best), colour)]


def title(growth: Growth) -> str:
    """The title of the chart and of the page."""
    return f"{growth.name}: when circuits appear"


def page(growth: Growth) -> str:
    """Return the growth as one HTML page that needs nothing else."""
    on = "the repeated random tokens" if not growth.text else f"“{growth.text}”"
    length = growth.stages[0].scores.length
    about = (
        f"{len(growth.stages)} checkpoints. Scores are measured on {length} random tokens that "
        "come twice (r r): how much of its attention a head gives to the token before (previous), "
        "and in the second r to the token that followed the same one in the first (induction). "
        "Lens depth: the share of the layers after which the most probable next token is the final "
        f"one, on {on}."
    )
    drawn = chart.html(title(growth), panels(growth))
    return article("look inside", title(growth), f"<p>{escaped(about)}</p>", drawn)
