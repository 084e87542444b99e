"""How likely a text is: log-probabilities a token, perplexity, bits a byte.

`rolling` scores tokens, `continuations` several endings of one context, `scores` whole texts; many
are read together, and each gets the numbers that it gets alone. Windows, strides and the first
token change such numbers more than models do, so all of them are part of the result. What to do
with the numbers is left to others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt2lab.checks import check_ids, whole
from gpt2lab.config import Config
from gpt2lab.engines.protocol import Engine
from gpt2lab.engines.wanted import Scores, Wanted
from gpt2lab.errors import InputError
from gpt2lab.files.json_files import finite
from gpt2lab.generation.request import naming
from gpt2lab.text.tokenizer import Tokenizer

TOGETHER = 2016  # tokens of several texts that are in the cache at once
Question = tuple[list[int], list[list[int]]]  # a context and its endings


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


# ---- Tokens to log-probabilities.


def _portions(sizes: Sequence[int]) -> Iterator[slice]:
    """Neighbours whose sizes are `TOGETHER` tokens at most, or one alone."""
    first = total = 0
    for i, size in enumerate(sizes):
        if i > first and total + size > TOGETHER:
            yield slice(first, i)
            first, total = i, 0
        total += size
    if sizes:
        yield slice(first, len(sizes))


def _windows(tokens: Sequence[int], n_ctx: int, stride: int) -> Iterator[tuple[Any, Wanted]]:
    """The windows of a text: their tokens, and the targets that each of them scores."""
    inputs, targets = tokens[:-1], tokens[1:]
    done, end = 0, min(n_ctx, len(inputs))
    while done < len(inputs):
        start = max(0, end - n_ctx)
        yield inputs[start:end], Wanted(range(done - start, end - start), targets[done:end])
        done, end = end, min(len(inputs), end + stride)


def windows_of(
    tokens: Sequence[int], n_ctx: int, stride: int | None = None
) -> list[tuple[Any, Wanted]]:
    """The windows of one text, for a caller that scores them itself; as `rolling` reads them."""
    return [*_windows(tokens, n_ctx, _stride(n_ctx, stride))]


def _stride(n_ctx: int, stride: int | None) -> int:
    """The stride, half of the window by default."""
    return max(1, n_ctx // 2) if stride is None else whole("stride", stride, 1, n_ctx)


def rolling(
    engine: Engine, texts: Sequence[Sequence[int]], stride: int | None = None
) -> list[list[float]]:
    """The log-probability of every token but the first of each text, of any length.

    Past n_ctx the window moves by `stride` tokens (default half of n_ctx), and each token is
    scored once, with at least n_ctx - stride tokens before it, except in the first window. Windows
    of all texts are read together.
    """
    n_ctx = engine.config.n_ctx
    stride = _stride(n_ctx, stride)
    windows = [(i, *w) for i, text in enumerate(texts) for w in _windows(text, n_ctx, stride)]
    found, cache = [list[float]() for _ in texts], engine.cache()
    for portion in _portions([len(inputs) for _, inputs, _ in windows]):
        part = windows[portion]
        slots = [cache.new() for _ in part]
        wanted = [w for _, _, w in part]
        scored = engine.score(cache, slots, [inputs for _, inputs, _ in part], wanted)
        for (i, _, _), slot, scores in zip(part, slots, scored, strict=True):
            assert scores.logprobs is not None
            found[i] += [float(value) for value in scores.logprobs]
            cache.free(slot)
    return found


@dataclass(frozen=True)
class Continuation:
    """The score of one ending after its context, in nats.

    logprobs: one a token. greedy: whether greedy decoding gives just these tokens.
    """

    logprobs: list[float]
    greedy: bool

    @property
    def total(self) -> float:
        """The log-probability of the ending, in nats."""
        return math.fsum(self.logprobs)


def continuations(
    engine: Engine, questions: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]
) -> list[list[Continuation]]:
    """The score of each ending of each question (context, endings), in tokens.

    A context is read once, and its endings begin from copies of it, many in one step. InputError
    for a context or an ending without tokens, and for one that both together do not fit the window.
    """
    checked = [_question(engine, i, *q) for i, q in enumerate(questions, 1)]
    found: list[list[Continuation]] = []
    for portion in _portions([len(context) for context, _ in checked]):
        found += _answers(engine, checked[portion])
    return found


def _question(
    engine: Engine, number: int, context: Sequence[int], endings: Sequence[Sequence[int]]
) -> Question:
    """A question of a list, checked."""
    n_vocab, n_ctx, lists = engine.config.n_vocab, engine.config.n_ctx, []
    with naming(f"question {number}"):
        context = check_ids(context, n_vocab, "context")
        for i, ending in enumerate(endings, 1):
            lists.append(check_ids(ending, n_vocab, f"ending {i}"))
            if (length := len(context) + len(lists[-1]) - 1) > n_ctx:
                raise InputError(
                    f"context and ending {i} take {length} positions, more than the model's "
                    f"{n_ctx}; leave out the beginning of the context"
                )
    return context, lists


def _answers(engine: Engine, questions: list[Question]) -> list[list[Continuation]]:
    """The scores of questions whose contexts are in the cache together."""
    cache, read = engine.cache(), [_Read(*question) for question in questions]
    slots = [cache.new() for _ in questions]
    first = engine.score(cache, slots, [r.context for r in read], [r.wanted() for r in read])
    for r, scores in zip(read, first, strict=True):
        for i in range(len(r.endings)):
            r.take(i, scores, slice(i, i + 1))
    rest = [
        (r, slot, i)
        for r, slot in zip(read, slots, strict=True)
        for i, ending in enumerate(r.endings)
        if len(ending) > 1
    ]
    for portion in _portions([len(r.context) + len(r.endings[i]) for r, _, i in rest]):
        part = rest[portion]
        forks = [cache.fork(slot) for _, slot, _ in part]
        endings = [r.endings[i] for r, _, i in part]
        wanted = [Wanted(range(len(e) - 1), e[1:], top=1) for e in endings]
        found = engine.score(cache, forks, [e[:-1] for e in endings], wanted)
        for (r, _, i), fork, scores in zip(part, forks, found, strict=True):
            r.take(i, scores, slice(None))
            cache.free(fork)
    for slot in slots:
        cache.free(slot)
    return [r.continuations() for r in read]


class _Read:
    """A question, and what was found of each of its endings so far: log-probabilities, best ids."""

    def __init__(self, context: list[int], endings: list[list[int]]) -> None:
        self.context, self.endings = context, endings
        self._logprobs: list[list[float]] = [[] for _ in endings]
        self._best: list[list[int]] = [[] for _ in endings]

    def wanted(self) -> Wanted:
        """The first token of each ending, at the end of the context."""
        at = [len(self.context) - 1] * len(self.endings)
        return Wanted(at, [ending[0] for ending in self.endings], top=1)

    def take(self, i: int, scores: Scores, part: slice) -> None:
        """Note the scores of the next tokens of ending i."""
        assert scores.logprobs is not None and scores.top_ids is not None
        self._logprobs[i] += [float(value) for value in scores.logprobs[part]]
        self._best[i] += [int(best) for best in scores.top_ids[part, 0]]

    def continuations(self) -> list[Continuation]:
        """What all of it comes to."""
        pairs = zip(self._logprobs, self._best, self.endings, strict=True)
        return [Continuation(logprobs, best == ending) for logprobs, best, ending in pairs]


# ---- Texts.


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


def check_text(tokens: Any, config: Config, after_end: bool | None) -> list[int]:
    """The ids of a text that can be scored; InputError for others."""
    tokens = check_ids(tokens, config.n_vocab, "text")
    if after_end and config.begin is None:
        raise InputError("this model has no end token to score the first token after")
    if len(tokens) == 1 and not _after_end(config, after_end):
        raise InputError("one token alone has nothing before it; score it after the end token")
    return tokens


def _after_end(config: Config, after_end: bool | None) -> bool:
    return config.begin is not None if after_end is None else after_end


def scores(
    engine: Engine,
    tokenizer: Tokenizer | None,
    texts: Sequence[Sequence[int]],
    *,
    after_end: bool | None = None,
    stride: int | None = None,
) -> list[Score]:
    """Score texts of one token or more.

    after_end: whether the first token is scored too, as the beginning of a document, after
    `config.begin`, GPT-2's end token; None does so when the model has one.
    """
    config = engine.config
    checked = [check_text(text, config, after_end) for text in texts]
    after_end = _after_end(config, after_end)
    start = [config.begin] if after_end and config.begin is not None else []
    found = rolling(engine, [[*start, *text] for text in checked], stride)
    return [
        _score(config, tokenizer, text, logprobs, after_end, stride)
        for text, logprobs in zip(checked, found, strict=True)
    ]


def _score(
    config: Config,
    tokenizer: Tokenizer | None,
    tokens: list[int],
    found: list[float],
    after_end: bool,
    stride: int | None,
) -> Score:
    """The score of a text from the log-probabilities that were found."""
    used = _stride(config.n_ctx, stride) if len(found) > config.n_ctx else None
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


def score(
    engine: Engine,
    tokenizer: Tokenizer | None,
    tokens: Sequence[int],
    *,
    after_end: bool | None = None,
    stride: int | None = None,
) -> Score:
    """`scores` of one text."""
    return scores(engine, tokenizer, [tokens], after_end=after_end, stride=stride)[0]
