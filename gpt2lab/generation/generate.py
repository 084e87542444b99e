"""Generation in three floors: tokens() draws ids, pieces() turns them into text, text() joins it.

tokens() runs many sequences side by side and yields each id as it is drawn; pieces() decodes them
into whole characters and ends a text at a stop string, a sentence or a paragraph; text() is what is
left when nobody watches. Every front end, whatever it shows, stands on one of the three.

A sample is a function of (weights, prompt, settings, seed, index) alone: its random stream is its
own (`sampling.stream`) and engines keep its row apart from all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from gpt2lab.engines import Engine, advance
from gpt2lab.errors import InputError, quoted
from gpt2lab.generation import beam
from gpt2lab.generation.request import Row, Token, check_prompt, fit, resolve
from gpt2lab.generation.sampler import next_token
from gpt2lab.generation.sampling import MOST, Sampling
from gpt2lab.generation.stopping import Writer
from gpt2lab.tokenizer import Tokenizer

__all__ = [
    "Completion",
    "Piece",
    "Row",
    "Token",
    "Writer",
    "check_prompt",
    "collect",
    "fit",
    "pieces",
    "resolve",
    "text",
    "tokens",
]

Array = np.ndarray[Any, np.dtype[Any]]


# ---- The first floor: ids.


@dataclass
class _Start:
    """A prompt that has been read: its samples begin from here."""

    slot: int
    logits: Array
    left: int


def tokens(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    s: Sampling,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int = 16,
    limit: int | None = None,
) -> Iterator[Token]:
    """Continue every prompt `s.n` times and yield each token as it is drawn.

    prompts: lists of ids. s: `resolve`d settings. indices: which of the n samples to write, all by
    default. batch_size: how many rows are on their way at once; as one ends, the next begins.
    limit: no token from this id on (a vocabulary that is padded to a round number).
    With beams, the tokens of a prompt come when its search is done.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(f"batch_size is {quoted(batch_size)}; it must be a whole number from 1 up")
    if s.stop_tokens is None or (s.seed is None and not s.greedy):
        s = resolve(s, engine.config, None)
    checked = [check_prompt(prompt, engine.config) for prompt in prompts]
    wanted = range(s.n) if indices is None else indices
    if s.num_beams > 1:
        yield from _beams(engine, checked, s, wanted, limit)
        return

    cache = engine.cache()
    waiting = ((p, i) for p in range(len(checked)) for i in wanted)
    starts: dict[int, _Start] = {}
    rows: list[Row] = []
    logits: list[Array] = []
    while True:
        for p, i in islice(waiting, min(batch_size, MOST) - len(rows)):
            row = Row(p, i, list(checked[p]), len(checked[p]))
            if p not in starts:
                slot = cache.new()
                starts[p] = _Start(slot, engine.step(cache, [slot], [checked[p]])[0], len(wanted))
            row.slot, row_logits = _begin(cache, starts, p)
            logits.append(row_logits)
            rows.append(row)
        if not rows:
            return
        for row, row_logits in zip(rows, logits, strict=True):
            if not row.finish:  # ended by the reader while it was another row's turn
                yield _next(row, row_logits, s, limit)
        for row in rows:
            if row.finish:
                cache.free(row.slot)
        rows = [row for row in rows if not row.finish]
        logits = list(advance(engine, cache, rows, s.window_keep)) if rows else []


def _begin(cache: Any, starts: dict[int, _Start], prompt: int) -> tuple[int, Array]:
    """A slot that holds the prompt, and the logits after it. The last sample takes its own slot."""
    start = starts[prompt]
    start.left -= 1
    if start.left:
        return cache.fork(start.slot), start.logits
    del starts[prompt]
    return start.slot, start.logits


def _next(row: Row, logits: Array, s: Sampling, limit: int | None) -> Token:
    """Draw the row's next token and note whether the row ends with it."""
    token, logprob = next_token(logits, s, row.tokens, row.prompt_length, row.index, limit)
    row.tokens.append(token)
    if s.stop_tokens and token in s.stop_tokens:
        row.finish = "stop"
    elif row.written >= s.max_new_tokens:
        row.finish = "length"
    return Token(row, token, logprob)


def _beams(
    engine: Engine, prompts: list[list[int]], s: Sampling, wanted: Sequence[int], limit: int | None
) -> Iterator[Token]:
    """The tokens of the best hypotheses of each prompt, told as if they had been drawn in turn."""
    for p, prompt in enumerate(prompts):
        found = beam.search(engine, prompt, s, limit=limit)
        if not found:
            raise InputError(
                f"beam search found no text for prompt {p}: the settings rule out every token; "
                "loosen bad_words, logit_bias or no_repeat_ngram_size"
            )
        for i in wanted:
            if i >= len(found):  # fewer texts exist than were asked for
                break
            row = Row(p, i, list(prompt), len(prompt), slides=found[i].slides)
            new = found[i].tokens[len(prompt) :]
            for token, logprob in zip(new, found[i].logprobs, strict=True):
                row.tokens.append(token)
                if row.written == len(new):
                    row.finish = "stop" if token in (s.stop_tokens or ()) else "length"
                yield Token(row, token, logprob)
                if row.finish:
                    break


# ---- The second floor: text.


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
    prompts: Sequence[Sequence[int]],
    s: Sampling,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int = 16,
) -> Iterator[Piece]:
    """The tokens of every text as pieces of text. Without a tokenizer the texts stay empty."""
    s = resolve(s, engine.config, tokenizer)
    limit = None if tokenizer is None else min(tokenizer.n_vocab, engine.config.n_vocab)
    writers: dict[Row, Writer] = {}
    for token in tokens(engine, prompts, s, indices=indices, batch_size=batch_size, limit=limit):
        row = token.row
        if row not in writers:
            writers[row] = Writer(tokenizer, s)
        new = writers[row].push(token)
        yield Piece(
            new,
            token.id,
            token.logprob,
            row.prompt,
            row.index,
            row.prompt_length,
            row.written,
            row.slides,
            row.finish,
        )
        if row.finish:
            del writers[row]


@dataclass
class Completion:
    """One finished text.

    text: the new text without the prompt. tokens: the new ids, an end token included. logprobs:
    the model's own, one a token. finish_reason: "stop" or "length", or "interrupted" where the text
    was broken off. record: everything that is
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


def collect(parts: Iterator[Piece], prompts: Sequence[Sequence[int]]) -> list[Completion]:
    """Join pieces into completions, by prompt and then by index."""
    texts: dict[tuple[int, int], Completion] = {}
    for piece in parts:
        key = (piece.prompt, piece.index)
        if key not in texts:
            prompt = list(prompts[piece.prompt])
            texts[key] = Completion("", prompt=key[0], index=key[1], prompt_tokens=prompt)
        done = texts[key]
        done.text += piece.text
        done.tokens.append(piece.token)
        done.logprobs.append(piece.logprob)
        done.slides = piece.slides
        done.finish_reason = piece.finish_reason or "interrupted"
    return [texts[key] for key in sorted(texts)]


# ---- The third floor: one prompt, one text.


def text(engine: Engine, tokenizer: Tokenizer, prompt: str | Sequence[int], s: Sampling) -> str:
    """The continuation of one prompt, a text or ids (the first, when there are n)."""
    if isinstance(prompt, str):
        prompt = tokenizer.encode(prompt)
    parts = pieces(engine, tokenizer, [prompt], s, indices=[0])
    return "".join(piece.text for piece in parts)
