"""How likely a text is: log-probabilities a token, perplexity, bits a byte.

Windows, strides and the first token change such numbers more than models do, so all of them are
part of the result. What to do with the numbers is left to others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2lab.checks import check_ids, whole
from gpt2lab.engines.protocol import Engine
from gpt2lab.errors import InputError
from gpt2lab.files.json_files import finite
from gpt2lab.generation.sampler import check_logits, log_softmax
from gpt2lab.text.tokenizer import Tokenizer


def exponential(nats: float) -> float:
    """e to the power of some nats; infinite where no float holds it."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


@dataclass
class Score:
    """The score of one text, in nats (natural logarithms).

    tokens: its ids. logprobs: one a token; None for a first token without a context.
    after_end: whether the first token was scored, as the first of a document, after the token that
    documents begin after (GPT-2's end token). stride: by how many tokens
    the window moved, None when the text fits in one. n_bytes, n_words: of the scored part; 0 when
    there is no tokenizer. words: each word with its log-probability.
    """

    tokens: list[int]
    logprobs: list[float | None]
    after_end: bool
    stride: int | None
    n_bytes: int = 0
    n_words: int = 0
    words: list[tuple[str, float]] = field(default_factory=list)

    @property
    def n_scored(self) -> int:
        """How many tokens have a score."""
        return sum(value is not None for value in self.logprobs)

    @property
    def total(self) -> float:
        """The log-probability of the whole text, in nats."""
        return math.fsum(value for value in self.logprobs if value is not None)

    @property
    def perplexity(self) -> float:
        """exp(-total / scored tokens); infinite where no float holds it."""
        return exponential(-self.total / self.n_scored) if self.n_scored else math.nan

    @property
    def word_perplexity(self) -> float:
        """exp(-total / words): comparable between vocabularies."""
        return exponential(-self.total / self.n_words) if self.n_words else math.nan

    @property
    def bits_per_byte(self) -> float:
        """-total in bits over the bytes of the text: comparable between vocabularies."""
        return -self.total / math.log(2) / self.n_bytes if self.n_bytes else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON. A missing number is None."""
        derived = ("total", "perplexity", "word_perplexity", "bits_per_byte")
        numbers = {name: getattr(self, name) for name in derived}
        found: dict[str, Any] = finite(
            {
                **numbers,
                "n_tokens": len(self.tokens),
                "n_scored": self.n_scored,
                "n_words": self.n_words,
                "n_bytes": self.n_bytes,
                "after_end": self.after_end,
                "stride": self.stride,
                "tokens": self.tokens,
                "logprobs": self.logprobs,
                "words": self.words,
            }
        )
        return found


def token_logprobs(
    engine: Engine, tokens: Sequence[int], stride: int | None = None
) -> tuple[list[float], int | None]:
    """The log-probability of every token but the first: ([len(tokens) - 1], stride used or None).

    Past n_ctx the window moves by `stride` tokens (default half of n_ctx), and each token is
    scored once, with at least n_ctx - stride tokens before it, except in the first window.
    """
    n_ctx = engine.config.n_ctx
    if stride is not None:
        whole("stride", stride, 1, n_ctx)
    inputs, targets = list(tokens[:-1]), np.asarray(tokens[1:])
    if len(inputs) <= n_ctx:
        return (_window(engine, inputs, targets) if inputs else []), None
    stride = max(1, n_ctx // 2) if stride is None else stride
    result = _window(engine, inputs[:n_ctx], targets[:n_ctx])
    while len(result) < len(inputs):
        end = min(len(inputs), len(result) + stride)
        new = end - len(result)
        result += _window(engine, inputs[end - n_ctx : end], targets[end - new : end])
    return result, stride


def _window(engine: Engine, inputs: list[int], targets: Any) -> list[float]:
    """Log-probabilities of the targets at the last len(targets) places of one window."""
    logits = engine.logits([inputs])[0, -len(targets) :]  # [targets, V]
    check_logits(logits)
    rows = log_softmax(logits)
    return [float(x) for x in rows[np.arange(len(targets)), targets]]


def _words(pieces: list[bytes], logprobs: list[float]) -> list[tuple[str, float]]:
    """Words are divided by white space; a token's score goes to its word."""
    words: list[tuple[bytes, float]] = []
    for piece, logprob in zip(pieces, logprobs, strict=True):
        begins = not words or piece[:1].isspace() or words[-1][0][-1:].isspace()
        # White space alone belongs to the word before it, unless there is none.
        if begins and (piece.strip() or not words):
            words.append((piece, logprob))
        else:
            words[-1] = (words[-1][0] + piece, words[-1][1] + logprob)
    return [(w.decode("utf-8", "replace").strip(), value) for w, value in words if w.strip()]


def score(
    engine: Engine,
    tokenizer: Tokenizer | None,
    tokens: Sequence[int],
    *,
    after_end: bool | None = None,
    stride: int | None = None,
) -> Score:
    """Score a text of one token or more.

    after_end: whether the first token is scored too, as the beginning of a document, after
    `config.begin`, GPT-2's end token; None does so when the model has one.
    """
    tokens, begin = check_ids(tokens, engine.config.n_vocab, "text"), engine.config.begin
    if after_end is None:
        after_end = begin is not None
    if after_end and begin is None:
        raise InputError("this model has no end token to score the first token after")
    if len(tokens) == 1 and not after_end:
        raise InputError("one token alone has nothing before it; score it after the end token")
    start = [begin] if after_end and begin is not None else []
    found, used = token_logprobs(engine, [*start, *tokens], stride)
    logprobs: list[float | None] = [*([] if after_end else [None]), *found]
    result = Score(tokens, logprobs, after_end, used)
    if tokenizer is not None:
        known = tokenizer.n_vocab  # ids from there on are the model's padding and have no text
        pieces = [tokenizer.token_bytes(token) if token < known else b"" for token in tokens]
        scored = pieces if after_end else pieces[1:]
        result.n_bytes = sum(map(len, scored))
        result.words = _words(scored, found)
        result.n_words = len(result.words)
    return result
