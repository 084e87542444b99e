"""From the residual stream to logits: the unembedding, and the logit lens at every layer.

The stream is read as the head reads it, through ln_f and the unembedding (the head's matrix).

Shapes: B batch, T tokens, N places in the stream, K alternatives, E embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from gpt2lab.checks import one_of, whole
from gpt2lab.errors import InputError
from gpt2lab.forks import cached_property
from gpt2lab.generation.sampler import log_softmax
from gpt2lab.lens import hook_names as naming
from gpt2lab.lens.prediction import MOST
from gpt2lab.lens.prediction import top as largest
from gpt2lab.lens.traces import Array, Trace, pieces_of
from gpt2lab.pages import fragments as view
from gpt2lab.pages import text
from gpt2lab.pages.palette import shade
from gpt2lab.reference import norm

STREAM = ("resid_pre", "resid_mid", "resid_post")
ROWS = 64  # of logits at once; 13 MB for 50,257 tokens in float32


def head(trace: Trace) -> Array:
    """The unembedding [V, E]: wte, or the checkpoint's own head."""
    return trace.params.get("lm_head.weight", trace.params["wte.weight"])


def unembed(trace: Trace, h: Array) -> Array:
    """Any state of the residual stream [..., E] as the head would read it: logits [..., V]."""
    p = trace.params
    n = norm(h, p["ln_f.weight"], p["ln_f.bias"], epsilon=trace.config.layer_norm_epsilon)
    return n @ head(trace).T  # [..., V]


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


# ---- The logit lens.


@dataclass
class LogitLens:
    """The logit lens of one text: at each of N places of the stream, what the head would say.

    keys: the places, bottom up. tokens: ids [T]. targets [T]: the token that follows, for the last
    place the most probable. best, probabilities: ids and probabilities of the top K [N, T, K].
    target_probabilities, target_ranks (1 is the most probable), entropies (nats), divergences (KL
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
        """The most probable token of each place as text: [N][T]."""
        tokenizer = self.trace.tokenizer
        return [pieces_of(tokenizer, row[:, 0].tolist()) for row in self.best]

    @property
    def depths(self) -> Array:
        """The place, 0 to N - 1, from which on the most probable token is the final one: [T]."""
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
        if len(rows) > 12:
            rows[6:-6] = [f"{'...':>16}"]
        return "\n".join(
            [
                f"most probable next token after token {last}, read at each layer:",
                *rows,
                "LogitLens: .best, .probabilities [N, T, K] have every position, .to_dict() all",
            ]
        )

    def _repr_html_(self) -> str:
        """Layers down, tokens across, in each cell the most probable next token."""
        tokenizer = self.trace.tokenizer
        across = view.tokens_axis(pieces_of(tokenizer, self.tokens.tolist()))
        follows = view.tokens_axis(pieces_of(tokenizer, self.targets.tolist()))
        return view.fragment(
            "Logit lens: the most probable next token at each layer, after each token",
            view.grid(
                view.Axis("places", [escape(key) for key in self.keys], last=True),
                across,
                self._cell,
                view.Axis("follows", follows.names),
            ),
            view.legend(shade, "0%", "100% for the most probable token"),
        )

    def _cell(self, n: int, place: int) -> str:
        names = pieces_of(self.trace.tokenizer, self.best[n, place].tolist())
        values = self.probabilities[n, place].tolist()
        best = [f"{text.plain(a)}  {text.percent(b)}" for a, b in zip(names, values, strict=True)]
        target = text.percent(float(self.target_probabilities[n, place]))
        entropy, kl = self.entropies[n, place], self.divergences[n, place]
        title = [
            f"{self.keys[n]}, token {place}",
            *best[:5],
            f"what follows: {target}, rank {self.target_ranks[n, place]}",
            f"entropy {entropy:.4f}, KL {kl:.4f} nats",
        ]
        return view.cell(text.token(names[0]), shade(float(values[0])), "\n".join(title))


def stream_keys(trace: Trace, names: Iterable[str]) -> list[str]:
    """The places of the stream that are meant; resid_pre is that of layer 0 alone.

    In any other layer it is the resid_post of the layer before.
    """
    listed = [one_of("a place that the lens reads", name, STREAM) for name in naming.as_list(names)]
    if not listed:
        raise InputError(f"names is empty; the lens reads {', '.join(STREAM)}, one or more")
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
    count, keys, row = whole("top", top, 1, MOST), stream_keys(trace, names), trace.row(row)
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
