"""What the model expects next: probability, rank, entropy and alternatives, place by place.

Shapes: T tokens, V vocabulary, K alternatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2lab.checks import whole
from gpt2lab.errors import InputError
from gpt2lab.generation.sampler import log_softmax
from gpt2lab.lens.traces import Array, Trace, pieces_of
from gpt2lab.pages import fragments as view
from gpt2lab.pages.palette import heat
from gpt2lab.pages.text import percent, plain, token
from gpt2lab.text.tokenizer import Tokenizer

MOST = 1_000_000  # alternatives
SURPRISING = 8.0  # nats; more surprising tokens (under 1 in 3,000) get the same colour


@dataclass
class Expected:
    """The distribution of one token, given those before it; logarithms are natural.

    token: the one that is there, None where the text is over. probability, rank (1 is the most
    probable), surprisal (-log probability, nats): of that token. entropy: of the distribution, in
    nats. alternatives: (id, probability) of the most probable.
    """

    token: int | None
    probability: float | None
    rank: int | None
    surprisal: float | None
    entropy: float
    alternatives: list[tuple[int, float]]


@dataclass
class NextTokens:
    """What was expected at each place of one text; the first token was expected by nothing.

    expected[i] is the distribution of token i; the last one, beyond the text, is what comes next.
    """

    tokens: list[int]
    pieces: list[str]
    expected: list[Expected | None]
    tokenizer: Tokenizer | None

    @property
    def next(self) -> Expected:
        """What is expected after the whole text."""
        last = self.expected[-1]
        assert last is not None
        return last

    @property
    def surprisals(self) -> list[float | None]:
        """-log probability of each token, in nats; None for the first."""
        return [None if row is None else row.surprisal for row in self.expected[:-1]]

    @property
    def total(self) -> float:
        """The surprisal of the whole text, without its first token."""
        return math.fsum(value for value in self.surprisals if value is not None)

    def names(self, row: Expected) -> list[tuple[str, float]]:
        """The alternatives as text."""
        texts = pieces_of(self.tokenizer, [token for token, _ in row.alternatives])
        return [(text, value) for text, (_, value) in zip(texts, row.alternatives, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        first, *others = (self._told(row) for row in self.expected)
        pairs = zip(self.tokens, self.pieces, [first, *others], strict=False)
        rows = [{"token": token, "text": piece, **told} for token, piece, told in pairs]
        after = {k: v for k, v in others[-1].items() if v is not None}
        return {"tokens": rows, "next": after, "surprisal": self.total}

    def _told(self, row: Expected | None) -> dict[str, Any]:
        if row is None:
            return {}
        found = {k: v for k, v in vars(row).items() if k != "token"}
        named = zip(row.alternatives, self.names(row), strict=True)
        found["alternatives"] = [
            {"token": token, "text": text, "probability": value}
            for (token, value), (text, _) in named
        ]
        return found

    def __repr__(self) -> str:
        best = ", ".join(f"{text!r} {p:.1%}" for text, p in self.names(self.next)[:5])
        total = f"{self.total:.3f} nats of surprisal over {len(self.tokens)} tokens"
        return (
            f"next: {best} (entropy {self.next.entropy:.3f} nats)\n{total}\n"
            "NextTokens: .expected has each position, .next what follows, .to_dict() everything"
        )

    def _repr_html_(self) -> str:
        """The text coloured by surprisal, and a table of what comes next."""
        axis, count = view.tokens_axis(self.pieces), len(self.tokens) - 1
        mean = f", {self.total / count:.3f} per token" if count else ""
        following = [
            view.words(str(rank))
            + view.label(token(piece), repr(piece), "left")
            + view.share_cell(p)
            for rank, (piece, p) in enumerate(self.names(self.next)[: view.ROWS], 1)
        ]
        text = "".join(self._marked(place) for place in axis.shown(view.COLUMNS))
        return view.fragment(
            f"Surprisal: {self.total:.4f} nats over {count} tokens{mean}",
            f'<div style="line-height:2">{text}</div>',
            view.legend(heat, "0", f"{SURPRISING:g} nats of surprisal or more"),
            view.notes(axis.cut(view.COLUMNS)),
            view.heading(f"Next token, with an entropy of {self.next.entropy:.4f} nats"),
            view.table(following),
        )

    def _marked(self, place: int) -> str:
        """One token of the text as HTML, coloured by its surprisal."""
        row, shown = self.expected[place], token(self.pieces[place])
        if row is None or row.surprisal is None or row.probability is None:
            return view.marked(shown, None, "the first token has no probability")
        title = [
            f"token {place}, id {row.token}",
            f"probability {percent(row.probability)}, rank {row.rank}",
            f"surprisal {row.surprisal:.4f} nats, entropy {row.entropy:.4f} nats",
            "most probable:",
            *(f"{plain(text)}  {percent(value)}" for text, value in self.names(row)[:5]),
        ]
        return view.marked(shown, heat(row.surprisal / SURPRISING), "\n".join(title))


def top(probabilities: Array, count: int) -> Array:
    """The ids of the `count` largest of a row [V], the largest first; ties by the smaller id."""
    if np.isnan(probabilities).any():
        raise InputError("a row of probabilities holds NaN; check the weights, and what acts add")
    count = min(count, len(probabilities))
    if count < len(probabilities):
        floor = np.partition(probabilities, -count)[-count]
        chosen = np.flatnonzero(probabilities >= floor)
    else:
        chosen = np.arange(count)
    order = np.argsort(-probabilities[chosen], kind="stable")
    return chosen[order][:count]


def expect(logits: Array, token: int | None, count: int) -> Expected:
    """The distribution that a row of logits [V] is, and the rank of a token in it."""
    logprobs = log_softmax(logits)
    p = np.exp(logprobs)
    entropy = -float(np.sum(p * np.where(p > 0, logprobs, 0)))
    best = [(int(i), float(p[i])) for i in top(p, count)]
    if token is None:
        return Expected(None, None, None, None, entropy, best)
    rank = int(np.sum(logprobs > logprobs[token])) + 1
    return Expected(token, float(p[token]), rank, -float(logprobs[token]), entropy, best)


def next_tokens(trace: Trace, top: int = 10, *, row: int = 0) -> NextTokens:
    """What the model expected at each place of a traced text, and what it expects after it.

    top: how many alternatives. row: which text of the trace.
    """
    count, row, logits = whole("top", top, 1, MOST), trace.row(row), trace["logits"]
    if logits.shape[1] != trace.tokens.shape[1]:
        raise InputError("this trace is of a step of writing and has the last logits alone")
    ids = trace.tokens[row].tolist()
    after: list[int | None] = [*ids[1:], None]
    expected = [expect(logits[row, i], token, count) for i, token in enumerate(after)]
    return NextTokens(ids, pieces_of(trace.tokenizer, ids), [None, *expected], trace.tokenizer)
