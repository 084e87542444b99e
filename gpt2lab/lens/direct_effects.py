"""Direct logit attribution: what each part of the model adds to one logit.

Shapes: T tokens, E embedding, F width of the MLP, H heads, D head width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from gpt2lab.checks import one_of
from gpt2lab.lens.traces import Array, Trace, pieces_of
from gpt2lab.lens.unembedding import head, place_of, token_of
from gpt2lab.pages import fragments as view
from gpt2lab.pages.text import plain


@dataclass
class Attribution:
    """What each part of the model adds to one logit, or to the difference of two.

    labels, values: the parts in the order of the forward pass; they sum to `logit`. by: "layer",
    "head" or "neuron". position: of the token that is read. token, against: ids. error: the sum of
    the parts less the traced logit, which is rounding.
    """

    labels: list[str]
    values: Array
    logit: float
    by: str
    position: int
    token: int
    against: int | None
    trace: Trace

    @property
    def error(self) -> float:
        """Sum of the parts less the logit."""
        return float(self.values.sum() - self.logit)

    def top(self, count: int = 10) -> list[tuple[str, float]]:
        """The parts of the largest effect, up or down."""
        order = np.argsort(-np.abs(self.values), kind="stable")[:count]
        return [(self.labels[i], float(self.values[i])) for i in order]

    @property
    def target(self) -> str:
        """The token, or token - other, as text."""
        ids = [self.token] if self.against is None else [self.token, self.against]
        return " - ".join(map(repr, pieces_of(self.trace.tokenizer, ids)))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "by": self.by,
            "position": self.position,
            "token": self.token,
            "against": self.against,
            "target": self.target,
            "logit": self.logit,
            "parts": dict(zip(self.labels, self.values.tolist(), strict=True)),
        }

    def __repr__(self) -> str:
        rows = [f"{label:>24} {value:+9.3f}" for label, value in self.top(8)]
        return "\n".join(
            [
                f"direct effect on the logit of {self.target} at position {self.position} "
                f"({self.logit:.3f} in all, {len(self.labels)} parts):",
                *rows,
                "Attribution: .top(n) has more, .to_dict() everything",
            ]
        )

    def _repr_html_(self) -> str:
        """What each part adds to the logit, as bars to either side of zero."""
        chosen, rest = np.arange(len(self.values)), ""
        if len(chosen) > view.ROWS:
            chosen = np.argsort(-np.abs(self.values), kind="stable")[: view.ROWS]
            left = float(self.values.sum() - self.values[chosen].sum())
            rest = f"Shown are the {view.ROWS} largest of {len(self.values)} parts; "
            rest += f"the others sum to {left:.4f}."
        most = float(np.abs(self.values).max()) or 1.0
        rows = [
            view.label(escape(label))
            + view.signed_bar(value, most, f"{label} {value!r}")
            + view.words(f"{value:+.4f}", "right")
            for label, value in ((self.labels[i], float(self.values[i])) for i in chosen)
        ]
        about = f"the logit of {plain(self.target)}, {self.logit:.4f}, at token {self.position}"
        return view.fragment(
            f"Direct effects on {about}",
            view.table(rows),
            view.notes(rest, f"The parts sum to the logit up to rounding ({self.error:.1e})."),
        )


def attribution(
    trace: Trace,
    token: int | str | None = None,
    *,
    against: int | str | None = None,
    position: int = -1,
    by: str = "layer",
    row: int = 0,
) -> Attribution:
    """Direct logit attribution: what embeddings, layers, heads or neurons write towards a token.

    The last layer norm divides by the spread of the whole stream; with that spread held fixed it is
    linear, so the parts sum to the logit. It is the direct effect alone: what a part does by
    way of later layers counts as theirs. token: whose logit, the most probable by default. against:
    a token whose logit is taken off. by: "layer" (attention and MLP of each), "head" (heads and
    MLPs) or "neuron" (neurons and attentions).
    Elhage et al. 2021, "A mathematical framework for transformer circuits".
    """
    one_of("by", by, ("layer", "head", "neuron"))
    row, at = trace.row(row), place_of(trace, position)
    logits = trace["logits"][row, -1 if trace["logits"].shape[1] == 1 else at]
    chosen = int(np.argmax(logits)) if token is None else token_of(trace, token)
    other = None if against is None else token_of(trace, against, "other token")
    logit = float(logits[chosen]) - (0.0 if other is None else float(logits[other]))
    w = head(trace)[chosen].astype(np.float64) - (0.0 if other is None else head(trace)[other])
    direction, constant = _direction(trace, w, row, at)
    shares = {name: trace[name][row, at] @ direction for name in ("embed", "pos_embed")}
    for layer in range(trace.config.n_layer):
        shares |= _parts(trace, layer, by, direction, row, at)
    shares["ln_f.bias"] = constant
    labels, whole = list(shares), np.array(list(shares.values()), np.float64)
    if trace.acts:
        last = trace["resid_post", trace.config.n_layer - 1][row, at]
        labels.append("acts")
        whole = np.append(whole, last @ direction + constant - whole.sum())
    return Attribution(labels, whole, logit, by, at + trace.start, chosen, other, trace)


def _direction(trace: Trace, w: Array, row: int, at: int) -> tuple[Array, float]:
    """The direction [E] whose product with a part of the stream is that part's share of the logit.

    ln_f takes the mean off, divides by the spread of the whole stream and multiplies by its gain;
    all of that is moved to the side of the head's row w [E]. Also the share of ln_f's bias.
    """
    gain = trace.params["ln_f.weight"].astype(np.float64)
    h = trace["resid_post", trace.config.n_layer - 1][row, at].astype(np.float64)
    spread = np.sqrt(h.var() + trace.config.layer_norm_epsilon)
    d = gain * w / spread
    return d - d.mean(), float(trace.params["ln_f.bias"] @ w)


def _parts(
    trace: Trace, layer: int, by: str, direction: Array, row: int, at: int
) -> dict[str, Any]:
    """The shares of what one layer writes at one place, by label."""
    p, scope, c = trace.params, f"h.{layer}", trace.config

    def split(part: str, unit: str, values: Array) -> dict[str, Any]:
        """The shares of the units of attention or MLP, whose `values` [n, ...] c_proj reads."""
        out = p[f"{scope}.{part}.c_proj.weight"].reshape(*values.shape, c.n_embd) @ direction
        shares = values * out  # [n, ...]
        shares = shares if shares.ndim == 1 else np.sum(shares, axis=1)  # [n]
        bias = p[f"{scope}.{part}.c_proj.bias"] @ direction
        named = {f"{scope}.{unit}.{i}": share for i, share in enumerate(shares)}
        return {**named, f"{scope}.{part}.c_proj.bias": bias}

    if by == "head":
        attn = split("attn", "head", trace["z", layer][row, :, at])  # [H, D]
    else:
        attn = {f"{scope}.attn_out": trace["attn_out", layer][row, at] @ direction}
    if by == "neuron":
        return attn | split("mlp", "neuron", trace["mlp_post", layer][row, at])  # [F]
    return attn | {f"{scope}.mlp_out": trace["mlp_out", layer][row, at] @ direction}
