"""The flow of the page: the steps of the model, and where the reference takes each of them.

The source and its values come from `walkthrough.walk`; here they are listed once each, and every
step of the diagram is found in them by what its line begins with, so that a step that is no longer
there is an error and never a wrong line.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from gpt2lab import reference
from gpt2lab.lens import hook_names as naming
from gpt2lab.lens.traces import Array, TracedModel
from gpt2lab.lens.walkthrough import Call, Seen, walk


class FlowStep(NamedTuple):
    """A step of the flow: in which call of the reference it is seen, and what it is for.

    function, owner: of the call, owner being the end of the scope whose parameters it takes. line:
    what the line of this step begins with, "" where the whole function is meant. gives: the name
    of the inner value that it makes (`lens.hook_names`), if any. label: where it is not the id.
    """

    id: str
    function: str
    about: str
    label: str = ""
    owner: str = ""
    line: str = ""
    gives: str = ""


IN_LAYER = (
    FlowStep(
        "ln_1",
        "norm",
        "Brings each token's row of the stream to mean 0 and spread 1, then to a gain and "
        "an offset of its own, so that attention reads values of one size.",
        owner="ln_1",
        gives="ln_1",
    ),
    FlowStep(
        "c_attn",
        "conv1d",
        "One matrix makes three rows of each token: query, key and value.",
        owner="attn.c_attn",
    ),
    FlowStep(
        "split_heads",
        "split_heads",
        "Cuts each row into the slices of the heads, which work apart from here on.",
        gives="q",
    ),
    FlowStep(
        "dots",
        "multihead_attn",
        "Each query meets each key: a large product means that this token looks for what "
        "that one offers.",
        label="q kᵀ",
        line="w = q @",
    ),
    FlowStep(
        "scale",
        "multihead_attn",
        "The products are scaled, so that their size does not grow with the width of a head.",
        line='w = at(f"{scope}.scores"',
    ),
    FlowStep(
        "mask",
        "mask_attn_weights",
        "Later tokens get -1e10: a token sees itself and what comes before it.",
        gives="scores",
    ),
    FlowStep(
        "softmax",
        "softmax",
        "Makes shares of the scores: each row of the pattern sums to 1.",
        gives="pattern",
    ),
    FlowStep(
        "mix",
        "multihead_attn",
        "Each token takes the values of the tokens that it looks at, by their shares.",
        label="· v",
        line='return at(f"{scope}.z"',
        gives="z",
    ),
    FlowStep("merge_heads", "merge_heads", "Lays the heads' results side by side again."),
    FlowStep(
        "attn_proj",
        "conv1d",
        "Mixes what the heads brought into one row, which is to be added to the stream.",
        label="c_proj",
        owner="attn.c_proj",
        gives="attn_out",
    ),
    FlowStep(
        "attn_add",
        "block",
        "Attention adds to the stream; nothing that stood there is lost.",
        label="+ residual",
        line='x = at(f"{scope}.resid_mid"',
        gives="resid_mid",
    ),
    FlowStep("ln_2", "norm", "Normalises again, for the MLP to read.", owner="ln_2", gives="ln_2"),
    FlowStep(
        "c_fc",
        "conv1d",
        "Each neuron asks one question of the token's row; tokens do not meet here.",
        owner="mlp.c_fc",
        gives="mlp_pre",
    ),
    FlowStep(
        "act",
        "",
        "Lets through what is above zero and little of what is below: this is where the "
        "model is not linear.",
        label="gelu",
        gives="mlp_post",
    ),
    FlowStep(
        "mlp_proj",
        "conv1d",
        "Every neuron that is active writes its row, and these are summed.",
        label="c_proj",
        owner="mlp.c_proj",
        gives="mlp_out",
    ),
    FlowStep(
        "mlp_add",
        "block",
        "The MLP adds to the stream, which continues to the next layer.",
        label="+ residual",
        line='return at(f"{scope}.resid_post"',
        gives="resid_post",
    ),
    FlowStep(
        "present",
        "attn",
        "Keys and values are kept: the next token needs them, and no token computes them twice.",
        line="present = ",
    ),
)
ENDS = (
    FlowStep(
        "embed",
        "model",
        "Each token's row of wte (what it is) plus its place's row of wpe (where it is): "
        "the beginning of the stream.",
        label="wte + wpe",
        line='h = at("embed"',
    ),
    FlowStep("ln_f", "norm", "Normalises the stream a last time.", owner="ln_f", gives="ln_f"),
    FlowStep(
        "logits",
        "model",
        "The product with each token's row of the head, wte again in a tied model: one "
        "score for every token that could come next.",
        line='logits = at("logits"',
        gives="logits",
    ),
)


def packed(values: Array, kind: str) -> str:
    """An array as base64 of little-endian numbers."""
    return base64.b64encode(np.ascontiguousarray(values, np.dtype(kind)).tobytes()).decode()


def digits(values: Any) -> Any:
    """A number, or every number of nested lists, to four digits; None for what is not finite."""
    if isinstance(values, list):
        return [digits(value) for value in values]
    return float(f"{values:.4g}") if math.isfinite(values) else None


def flow(model: TracedModel, tokens: list[int]) -> dict[str, Any]:
    """Calls, sources and values of one run of the reference, each listed once."""
    calls = walk(model, [tokens])
    pool = _Pool()
    act = reference.ACTIVATIONS[model.config.activation_function].__name__
    steps: list[tuple[FlowStep, Iterable[int | None]]] = [(step, [None]) for step in ENDS]
    for step in IN_LAYER:
        named = step._replace(function=act, label=act) if step.id == "act" else step
        steps.append((named, range(model.config.n_layer)))
    return {
        "calls": [pool.call(call) for call in calls],
        "sources": list(pool.sources.values()),
        "values": [json.loads(value) for value in pool.values],
        "pictures": list(pool.pictures),
        "stages": [
            _told(step) | {"at": [_find(calls, step, layer) for layer in layers]}
            for step, layers in steps
        ],
        "parts": [i for i, call in enumerate(calls) if call.name == "block"],  # one a layer
    }


def _told(step: FlowStep) -> dict[str, Any]:
    """A step as plain values, with the key and the hook of what it makes ({} is the layer)."""
    name = naming.NAMES[step.gives] if step.gives else None
    return {
        "id": step.id,
        "label": step.label or step.id,
        "about": step.about,
        "key": name.key if name else "",
        "hook": name.hook if name else "",
    }


def _find(calls: list[Call], step: FlowStep, layer: int | None) -> list[int]:
    """Where a step is seen: [index of the call, number of the line or 0]."""
    for index, call in enumerate(calls):
        own = call.layer == layer and call.name == step.function
        if own and call.scope.endswith(step.owner):
            if not step.line:
                return [index, 0]
            for line in call.lines:
                if line.text.strip().startswith(step.line):
                    return [index, line.number]
    raise AssertionError(f"the reference has no {step.id}: {step.function} {step.line}")


class _Pool:
    """Sources, values and pictures that are listed once and then referred to by their index."""

    def __init__(self) -> None:
        self.sources: dict[int, dict[str, Any]] = {}  # by the number of the first line
        self.values: dict[str, int] = {}
        self.pictures: dict[str, int] = {}

    def call(self, call: Call) -> dict[str, Any]:
        first, lines = call.lines[0].number, [[one.number, one.text] for one in call.lines]
        self.sources.setdefault(first, {"name": call.name, "about": call.about, "lines": lines})
        return {
            "source": list(self.sources).index(first),
            "scope": call.scope,
            "layer": call.layer,
            "depth": call.depth,
            "inputs": [self.value(one) for one in call.inputs],
            "outputs": [self.value(one) for one in call.outputs],
            "seen": {
                str(x.number): [self.value(one) for one in x.seen] for x in call.lines if x.seen
            },
        }

    def value(self, one: Seen) -> int:
        """The index of a value: what it is as JSON, so that equal ones are the same."""
        low, high, picture = digits(one.low), digits(one.high), self.picture(one)
        kind = [one.name, one.parameter, list(one.shape), one.dtype]
        told = [*kind, low, high, int(one.masked), one.times, picture, one.text[:200]]
        return self.values.setdefault(json.dumps(told), len(self.values))

    def picture(self, one: Seen) -> list[Any]:
        """[index, rows, columns, largest size]; the bytes are 128 + 127 x / largest, 0 for none."""
        if not one.picture:
            return []
        values = np.array(one.picture, np.float64)
        real = np.isfinite(values)
        most = float(np.abs(values[real]).max(initial=0.0))
        scaled = np.where(real, values, 0) / (most or 1.0)
        levels = np.where(real, np.rint(128 + 127 * scaled), 0)
        index = self.pictures.setdefault(packed(levels, "u1"), len(self.pictures))
        return [index, *values.shape, digits(most)]
