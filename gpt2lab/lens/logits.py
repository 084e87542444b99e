"""From the residual stream to logits: the logit lens, and what each part adds to one logit.

Both read the stream as the head does, through ln_f and the unembedding (the head's matrix).

Shapes: B batch, T tokens, N places in the stream, K alternatives, E embedding, F width of the MLP,
H heads, D head width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gpt2lab.errors import InputError
from gpt2lab.generation.sampler import log_softmax
from gpt2lab.lens import hook_names as naming
from gpt2lab.lens.prediction import check_count
from gpt2lab.lens.prediction import top as largest
from gpt2lab.lens.traces import Array, Trace, pieces_of
from gpt2lab.reference import norm

ROWS = 64  # of logits at once; 13 MB for 50,257 tokens in float32


def head(trace: Trace) -> Array:
    """The unembedding [V, E]: wte, or the checkpoint's own head."""
    return trace.params.get("lm_head.weight", trace.params["wte.weight"])


def unembed(trace: Trace, h: Array) -> Array:
    """Any state of the residual stream [..., E] as the head would read it: logits [..., V]."""
    p = trace.params
    n = norm(h, p["ln_f.weight"], p["ln_f.bias"], epsilon=trace.config.layer_norm_epsilon)
    return n @ head(trace).T  # [..., V]


# ---- The logit lens.


def _middle_out(rows: list[str], most: int = 12) -> list[str]:
    """Rows without those in the middle, where there are many."""
    return rows if len(rows) <= most else [*rows[: most // 2], f"{'...':>16}", *rows[-most // 2 :]]


@dataclass
class LogitLens:
    """The logit lens of one text: at each of N places of the stream, what the head would say.

    keys: the places, bottom up. tokens: ids [T]. targets [T]: the token that follows, for the last
    place the likeliest one. best, probabilities: ids and probabilities of the likeliest [N, T, K].
    target_probabilities, target_ranks (1 is the likeliest), entropies (nats), divergences (KL
    divergence from the final distribution to this one, nats): [N, T].
    """

    trace: Trace
    keys: list[str]
    tokens: Array
    targets: Array
    best: Array
    probabilities: Array
    target_probabilities: Array
    target_ranks: Array
    entropies: Array
    divergences: Array

    @cached_property
    def pieces(self) -> list[list[str]]:
        """The likeliest token of each place as text: [N][T]."""
        tokenizer = self.trace.tokenizer
        return [pieces_of(tokenizer, row[:, 0].tolist()) for row in self.best]

    @property
    def depths(self) -> Array:
        """The place, 0 to N - 1, from which on the likeliest token is the final one: [T]."""
        same = self.best[..., 0] == self.best[-1, :, 0]  # [N, T]
        return len(same) - np.cumprod(same[::-1], axis=0).sum(axis=0)  # [T]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        tokenizer = self.trace.tokenizer
        return {
            "places": self.keys,
            "tokens": self.tokens.tolist(),
            "targets": self.targets.tolist(),
            "target_texts": pieces_of(tokenizer, self.targets.tolist()),
            "best": self.best.tolist(),
            "texts": [[pieces_of(tokenizer, place) for place in row] for row in self.best.tolist()],
            "probabilities": self.probabilities.tolist(),
            "target_probabilities": self.target_probabilities.tolist(),
            "target_ranks": self.target_ranks.tolist(),
            "entropies": self.entropies.tolist(),
            "divergences": self.divergences.tolist(),
            "depths": self.depths.tolist(),
        }

    def __repr__(self) -> str:
        last = len(self.tokens) - 1
        rows = [
            f"{key:>16}  {self.pieces[n][last]!r} {float(self.probabilities[n, last, 0]):.1%}"
            for n, key in enumerate(self.keys)
        ]
        return "\n".join(
            [
                f"most probable next token after token {last}, read at each layer:",
                *_middle_out(rows),
                "LogitLens: .best, .probabilities [N, T, K] have every position, .to_dict() all",
            ]
        )

    def _repr_html_(self) -> str:
        from gpt2lab.lens import notebook

        return notebook.logit_lens(self)


def stream_keys(trace: Trace, names: Iterable[str]) -> list[str]:
    """The places of the stream that are meant; resid_pre is that of layer 0 alone.

    In any other layer it is the resid_post of the layer before.
    """
    listed = naming.listed("names", names)
    allowed = ("resid_pre", "resid_mid", "resid_post")
    wrong = [name for name in listed if not isinstance(name, str) or name not in allowed]
    if wrong or not listed:
        raise InputError(f"the lens reads {', '.join(allowed)}, one or more; not {listed!r:.80}")
    chosen = naming.select(trace.config, listed)
    return [k for k in chosen if naming.parse(k)[0] != "resid_pre" or naming.parse(k)[1] == 0]


def logit_lens(
    trace: Trace,
    *,
    names: Iterable[str] = ("resid_pre", "resid_post"),
    top: int = 5,
    row: int = 0,
) -> LogitLens:
    """ln_f and unembedding at every layer and token (nostalgebraist 2020, "the logit lens").

    names: where the stream is read; resid_mid adds the places between attention and MLP. top: how
    many alternatives. row: which text of the trace.
    """
    count, keys, row = check_count("top", top), stream_keys(trace, names), trace.row(row)
    stream = [trace[key][row] for key in keys]  # N x [T, E]
    last = trace["resid_post", trace.config.n_layer - 1][row]  # [T, E]
    tokens = trace.tokens[row]
    targets = np.array([*tokens[1:], int(np.argmax(unembed(trace, last[-1])))])
    looks = []
    for start in range(0, len(tokens), ROWS):
        part = slice(start, start + ROWS)
        final = log_softmax(unembed(trace, last[part]))  # [rows, V]
        for h in stream:
            looks.append(_read(log_softmax(unembed(trace, h[part])), final, targets[part], count))
    # looks [rows x N] -> for each kind of number [N, T, ...]
    columns = [
        np.stack([np.concatenate(column[n :: len(keys)]) for n in range(len(keys))])
        for column in zip(*looks, strict=True)
    ]
    return LogitLens(trace, keys, tokens, targets, *columns)


def _read(logprobs: Array, final: Array, targets: Array, count: int) -> tuple[Array, ...]:
    """What is kept of some rows of log-probabilities [rows, V]: the arrays of a `LogitLens`."""
    rows, p = np.arange(len(logprobs)), np.exp(logprobs)
    best = np.array([largest(row, count) for row in p])  # [rows, K]
    own = logprobs[rows, targets]
    q = np.exp(final)
    return (
        best,
        np.take_along_axis(p, best, 1),
        np.exp(own),
        np.sum(logprobs > own[:, None], axis=1) + 1,
        -np.sum(p * logprobs, axis=1, where=p > 0),
        np.sum(q * (final - logprobs), axis=1, where=q > 0),
    )


# ---- Direct logit attribution.


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
        from gpt2lab.lens import notebook

        return notebook.attribution(self)


def token_of(trace: Trace, token: Any, what: str = "token") -> int:
    """A token given as id or as text that is one token."""
    if isinstance(token, str):
        if trace.tokenizer is None:
            raise InputError(f"the model has no tokenizer; give the {what} as an id")
        ids = trace.tokenizer.encode(token, "all", add_special_tokens=False)
        if len(ids) != 1:
            pieces = ", ".join(map(repr, trace.tokenizer.pieces(ids)))
            raise InputError(f"the {what} {token!r} is {len(ids)} tokens ({pieces}); give one")
        return ids[0]
    return naming.check_unit(trace.config, "V", token)


def place_of(trace: Trace, position: Any) -> int:
    """A position of the trace, from its first token; negative ones from the end."""
    return naming.in_range("position", position, trace.tokens.shape[1])


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
    way of later layers counts as theirs. token: whose logit, the likeliest by default. against:
    a token whose logit is taken off. by: "layer" (attention and MLP of each), "head" (heads and
    MLPs) or "neuron" (neurons and attentions).
    Elhage et al. 2021, "A mathematical framework for transformer circuits".
    """
    if not isinstance(by, str) or by not in ("layer", "head", "neuron"):
        raise InputError(f"by is {by!r:.60}; choose layer, head or neuron")
    row, at = trace.row(row), place_of(trace, position)
    logits = trace["logits"][row, -1 if trace["logits"].shape[1] == 1 else at]
    chosen = int(np.argmax(logits)) if token is None else token_of(trace, token)
    other = None if against is None else token_of(trace, against, "other token")
    logit = float(logits[chosen]) - (0.0 if other is None else float(logits[other]))
    w = head(trace)[chosen].astype(np.float64)
    if other is not None:
        w = w - head(trace)[other]
    direction, constant = _direction(trace, w, row, at)
    labels = ["embed", "pos_embed"]
    values: list[Sequence[float] | Array] = [[trace[n][row, at] @ direction for n in labels]]
    for layer in range(trace.config.n_layer):
        for more, found in _parts(trace, layer, by, direction, row, at):
            labels += more
            values.append(found)
    labels.append("ln_f.bias")
    values.append([constant])
    whole = np.concatenate([np.asarray(part, np.float64) for part in values])
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
) -> Iterable[tuple[list[str], Sequence[float] | Array]]:
    """Labels and shares of what one layer writes at one place."""
    p, scope, c = trace.params, f"h.{layer}", trace.config
    if by == "head":
        out = p[f"{scope}.attn.c_proj.weight"].reshape(c.n_head, c.head_width, -1)  # [H, D, E]
        z = trace["z", layer][row, :, at]  # [H, D]
        yield (
            [*(f"{scope}.head.{i}" for i in range(c.n_head)), f"{scope}.attn.c_proj.bias"],
            np.append(
                np.sum(z * (out @ direction), axis=1), p[f"{scope}.attn.c_proj.bias"] @ direction
            ),
        )
    else:
        yield [f"{scope}.attn_out"], [trace["attn_out", layer][row, at] @ direction]
    if by == "neuron":
        out = p[f"{scope}.mlp.c_proj.weight"]  # [F, E]
        post = trace["mlp_post", layer][row, at]  # [F]
        yield (
            [*(f"{scope}.neuron.{i}" for i in range(c.mlp_width)), f"{scope}.mlp.c_proj.bias"],
            np.append(post * (out @ direction), p[f"{scope}.mlp.c_proj.bias"] @ direction),
        )
    else:
        yield [f"{scope}.mlp_out"], [trace["mlp_out", layer][row, at] @ direction]
