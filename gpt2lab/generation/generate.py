"""Tokens and text from requests: thin layers over a `Batch`.

`tokens` draws ids, `pieces` turns them into whole characters and ends a text at a stop string, a
sentence or a paragraph, and `collect` joins pieces into completions. All front ends use `pieces`.

A sample is a function of (weights, prompt, settings, seed, index) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt2lab.checks import whole
from gpt2lab.engines.protocol import Engine
from gpt2lab.generation.batch import Batch, Row, Token
from gpt2lab.generation.request import Request
from gpt2lab.generation.stopping import Writer
from gpt2lab.text.tokenizer import Tokenizer


def _checked(drawn: list[Token]) -> Iterator[Token]:
    """Tokens of rows that go on; raises the error of a row that has one."""
    for token in drawn:
        if token.row.error is not None:
            raise token.row.error
        if token.row.finish_reason != "cancelled":
            yield token


def tokens(batch: Batch) -> Iterator[Token]:
    """Each token of a batch as it is drawn, until no row is left; raises the error of a row.

    With beams, the tokens of a prompt come when its search is done.
    """
    while batch:
        yield from _checked(batch.step())


@dataclass(frozen=True)
class Piece:
    """What one token adds to one text.

    text: new text, whole characters, often a word, sometimes empty. token, logprob: as in `Token`.
    prompt, index: which text. prompt_tokens, new_tokens: counts so far. finish_reason: None, or on
    the last piece "stop" (an end token, a stop string, `end_on`) or "length".
    """

    text: str
    token: int
    logprob: float
    prompt: int
    index: int
    prompt_tokens: int
    new_tokens: int
    slides: int
    finish_reason: str | None


def pieces(
    engine: Engine,
    tokenizer: Tokenizer | None,
    requests: Sequence[Request],
    *,
    indices: Sequence[int] | None = None,
    batch_size: int = 16,
    batch: Batch | None = None,
) -> Iterator[Piece]:
    """The samples of every request as pieces of text. Without a tokenizer the texts stay empty.

    indices: which of the n samples, all by default. batch_size: how many rows run at once. batch:
    one of this engine without rows, whose kept rows serve this call, and those of this call the
    next one.
    """
    whole("batch_size", batch_size, 1)
    batch = Batch(engine, rows=batch_size) if batch is None else batch
    rows: dict[Row, tuple[int, Writer]] = {}
    try:
        yield from _pieces(batch, tokenizer, requests, _samples(requests, indices), rows)
    finally:
        for row in rows:  # of a call that ended early
            batch.cancel(row)


def _pieces(
    batch: Batch,
    tokenizer: Tokenizer | None,
    requests: Sequence[Request],
    waiting: Iterator[list[tuple[int, int]]],
    rows: dict[Row, tuple[int, Writer]],
) -> Iterator[Piece]:
    """`pieces` of samples that wait to be queued; rows: those that are on their way."""
    while True:
        while len(batch) <= batch.rows and (group := next(waiting, None)):
            for place, index in group:
                writer = Writer(tokenizer, requests[place].sampling)
                rows[batch.add(requests[place], index)] = (place, writer)
        if not batch:
            return
        for token in _checked(batch.step()):
            place, writer = rows[token.row]
            if token.finish_reason:
                del rows[token.row]
            if not writer.finish_reason:  # else it ended in its text, before its beam did
                text, reason = writer.push(token)
                if reason and not token.finish_reason:
                    batch.cancel(token.row)
                yield _piece(token, place, text, writer.count, reason)


def _samples(
    requests: Sequence[Request], indices: Sequence[int] | None
) -> Iterator[list[tuple[int, int]]]:
    """(request, sample) in order, one at a time; those of a beam search come together.

    They are queued only as there is room: a million samples take the memory of a few.
    """
    for place, request in enumerate(requests):
        wanted = range(request.sampling.n) if indices is None else indices
        if request.sampling.num_beams > 1:
            yield [(place, index) for index in wanted]
        else:
            yield from ([(place, index)] for index in wanted)


def _piece(token: Token, place: int, text: str, count: int, reason: str | None) -> Piece:
    row = token.row
    return Piece(
        text,
        token.id,
        token.logprob,
        place,
        row.index,
        len(row.request.prompt),
        count,
        row.slides,
        reason,
    )


@dataclass
class Completion:
    """One finished text.

    text: the new text without the prompt. tokens: the new ids, an end token included. logprobs:
    the model's own, one a token. finish_reason: "stop" or "length", or "interrupted" where the text
    was interrupted. record: everything that is
    needed to write the same text again.
    """

    text: str
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = "length"
    prompt: int = 0
    index: int = 0
    prompt_tokens: list[int] = field(default_factory=list)
    slides: int = 0
    record: dict[str, Any] = field(default_factory=dict)


def collect(parts: Iterator[Piece], requests: Sequence[Request]) -> list[Completion]:
    """Join the pieces of requests into completions, by prompt and then by index."""
    texts: dict[tuple[int, int], Completion] = {}
    for piece in parts:
        key = (piece.prompt, piece.index)
        if key not in texts:
            prompt = list(requests[piece.prompt].prompt)
            texts[key] = Completion("", prompt=key[0], index=key[1], prompt_tokens=prompt)
        done = texts[key]
        done.text += piece.text
        done.tokens.append(piece.token)
        done.logprobs.append(piece.logprob)
        done.slides = piece.slides
        done.finish_reason = piece.finish_reason or "interrupted"
    return [texts[key] for key in sorted(texts)]
