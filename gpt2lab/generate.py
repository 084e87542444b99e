"""Generation in three floors: tokens() draws ids, pieces() turns them into text, text() joins it.

tokens() runs many sequences side by side and yields each id as it is drawn; pieces() decodes them
into whole characters and ends a text at a stop string, a sentence or a paragraph; text() is what is
left when nobody watches. Every front end, whatever it shows, stands on one of the three.

A sample is a function of (weights, prompt, settings, seed, index) alone: its random stream is its
own (`sampling.stream`) and engines keep its row apart from all others.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from gpt2lab import beam
from gpt2lab.config import Config
from gpt2lab.engines import Engine, advance
from gpt2lab.errors import InputError
from gpt2lab.sampling import Sampling, choose, log_softmax, process
from gpt2lab.tokenizer import StreamDecoder, Tokenizer

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(eq=False)
class Row:
    """One sequence on its way. Whoever reads may end it at once by setting `finish`.

    prompt, index: which prompt it continues, and which of its n samples it is.
    tokens: prompt and new ids. slides: how often the window was full and moved on.
    """

    prompt: int
    index: int
    tokens: list[int]
    prompt_length: int
    slot: int = -1
    slides: int = 0
    finish: str | None = None

    @property
    def written(self) -> int:
        """How many new tokens there are."""
        return len(self.tokens) - self.prompt_length


class Token(NamedTuple):
    """One new token: its row, its id, and the model's own log-probability of it, before any
    setting changed it. `row.finish` tells whether it was the last: "stop" or "length"."""

    row: Row
    id: int
    logprob: float


# ---- Before the first token: what was asked for, made exact.


def resolve(s: Sampling, config: Config, tokenizer: Tokenizer | None) -> Sampling:
    """The settings with nothing left open: seed, end tokens, words as ids. Records hold these."""
    stop_tokens = config.end_tokens if s.stop_tokens is None else s.stop_tokens
    seed = secrets.randbits(32) if s.seed is None else s.seed
    words = [v for word in s.bad_words for v in _spellings(word, tokenizer)]
    bias = {_one_token(key, tokenizer): value for key, value in s.logit_bias.items()}
    for name, ids in (
        ("stop_tokens", stop_tokens),
        ("bad_words", [i for word in words for i in word]),
        ("logit_bias", bias),
    ):
        outside = [i for i in ids if not 0 <= i < config.n_vocab]
        if outside:
            raise InputError(
                f"{name} holds the id {outside[0]}; this model's ids go from 0 to "
                f"{config.n_vocab - 1}"
            )
    if tokenizer is None and (s.stop or s.end_on):
        raise InputError("stop and end_on work on text, and this model has no tokenizer")
    return replace(
        s, seed=seed, stop_tokens=tuple(stop_tokens), bad_words=tuple(words), logit_bias=bias
    )


def _spellings(word: Any, tokenizer: Tokenizer | None) -> list[tuple[int, ...]]:
    """A bad word's ids. A text counts with and without a space before it: two spellings in BPE."""
    if not isinstance(word, str):
        return [word]
    if tokenizer is None:
        raise InputError(f"bad_words: {word!r} is a text, and this model has no tokenizer")
    if word[0].isspace():
        return [tuple(tokenizer.encode(word))]
    return [tuple(tokenizer.encode(spelling)) for spelling in (word, " " + word)]


def _one_token(key: Any, tokenizer: Tokenizer | None) -> int:
    if not isinstance(key, str):
        return int(key)
    if tokenizer is None:
        raise InputError(f"logit_bias: {key!r} is a text, and this model has no tokenizer")
    ids = tokenizer.encode(key)
    if len(ids) != 1:
        raise InputError(
            f"logit_bias: {key!r} is {len(ids)} tokens, {ids}; give a bias to each id instead"
        )
    return ids[0]


def check_prompt(prompt: Sequence[int], config: Config) -> list[int]:
    """The prompt's ids, or an error: empty, an id out of range, longer than the window."""
    prompt = [int(token) for token in prompt]
    if not prompt:
        raise InputError(
            "the prompt is empty; give at least one token, or ask for no prompt at all"
        )
    for token in prompt:
        if not 0 <= token < config.n_vocab:
            raise InputError(
                f"the prompt holds the id {token}; this model's ids go from 0 to "
                f"{config.n_vocab - 1}"
            )
    if len(prompt) > config.n_ctx:
        raise InputError(
            f"the prompt has {len(prompt)} tokens, the model sees {config.n_ctx}; shorten it, or "
            "keep its tail (overflow 'tail') or its head and tail ('head+tail')"
        )
    return prompt


def fit(prompt: Sequence[int], config: Config, s: Sampling, overflow: str = "refuse") -> list[int]:
    """Cut a prompt that is longer than the window, leaving room for the answer.

    overflow: "refuse" leaves it as it is (and `check_prompt` refuses it), "tail" keeps its end,
    "head+tail" keeps half the room at each end. The room is n_ctx less max_new_tokens, and at
    least half of n_ctx.
    """
    if overflow not in ("refuse", "tail", "head+tail"):
        raise InputError(f"overflow {overflow!r} is unknown; known: 'refuse', 'tail', 'head+tail'")
    if len(prompt) <= config.n_ctx or overflow == "refuse":
        return list(prompt)
    room = max(config.n_ctx - s.max_new_tokens, (config.n_ctx + 1) // 2)
    head = room // 2 if overflow == "head+tail" else 0
    return [*prompt[:head], *prompt[len(prompt) - room + head :]]


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
    if s.stop_tokens is None or (s.seed is None and not s.greedy):
        s = resolve(s, engine.config, None)
    checked = [check_prompt(prompt, engine.config) for prompt in prompts]
    wanted = range(s.n) if indices is None else indices
    if s.num_beams > 1:
        yield from _beams(engine, checked, s, wanted, limit)
        return

    cache = engine.cache()
    waiting = [(p, i) for p in range(len(checked)) for i in wanted][::-1]
    starts: dict[int, _Start] = {}
    rows: list[Row] = []
    logits: list[Array] = []
    while rows or waiting:
        while waiting and len(rows) < batch_size:
            p, i = waiting.pop()
            row = Row(p, i, list(checked[p]), len(checked[p]))
            if p not in starts:
                slot = cache.new()
                starts[p] = _Start(slot, engine.step(cache, [slot], [checked[p]])[0], len(wanted))
            row.slot, row_logits = _begin(cache, starts, p)
            logits.append(row_logits)
            rows.append(row)
        for row, row_logits in zip(rows, logits, strict=True):
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
    logits = logits.astype(np.float32)  # a copy: the row may share its prompt's logits with others
    raw = log_softmax(logits)
    if limit is not None:
        logits[limit:] = -np.inf
    logits = process(logits, s, row.tokens, prompt_length=row.prompt_length)
    token = choose(logits, s, row.index, row.written)
    row.tokens.append(token)
    if s.stop_tokens and token in s.stop_tokens:
        row.finish = "stop"
    elif row.written >= s.max_new_tokens:
        row.finish = "length"
    return Token(row, token, float(raw[token]))


def _beams(
    engine: Engine, prompts: list[list[int]], s: Sampling, wanted: Sequence[int], limit: int | None
) -> Iterator[Token]:
    """The tokens of the best hypotheses of each prompt, told as if they had been drawn in turn."""
    for p, prompt in enumerate(prompts):
        found = beam.search(engine, prompt, s, limit=limit)
        if len(found) < s.n:
            raise InputError(
                f"beam search found {len(found)} of {s.n} texts; the settings rule out the rest"
            )
        for i in wanted:
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

_CLOSING = "\"'\u201d\u2019)\\]»"
_SENTENCE = re.compile(rf"[.!?\u2026]+[{_CLOSING}]*(?=\s)|[。！？]+[」』”’）]*")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|[A-Z])\.$")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
_BLANK_LINE_MAYBE = re.compile(r"\n[^\S\n]*$")


def _sentence_end(text: str, start: int) -> int | None:
    """Where the first sentence that ends at or after `start` ends, or None.

    A mark counts when white space follows it, so 3.14 and an ellipsis in the making do not; some
    abbreviations and initials are left out.
    """
    for match in _SENTENCE.finditer(text, max(0, start - 8)):
        if match.end() >= max(start, 1) and not _ABBREVIATION.search(text, 0, match.start() + 1):
            return match.end()
    return None


def _paragraph_end(text: str, start: int) -> int | None:
    """Where the first paragraph, a run of text before a blank line, ends; or None."""
    begun = re.search(r"\S", text)
    if begun is None:
        return None
    match = _PARAGRAPH.search(text, max(begun.start(), start))
    return match.start() if match else None


class Writer:
    """One row's text as it grows: whole characters only, and nothing past its end.

    Text that might be the beginning of a stop string is held back until it is known.
    """

    def __init__(self, tokenizer: Tokenizer | None, s: Sampling) -> None:
        self.text = ""
        self._decoder = StreamDecoder(tokenizer) if tokenizer is not None else None
        self._settings = s
        self._shown = 0
        self._floor = 0  # no end counts before it: the text of the first min_new_tokens

    def push(self, token: Token) -> str:
        """Take a token, give the text that is now certain; set `row.finish` where it ends."""
        row = token.row
        ends = row.finish == "stop"
        if self._decoder is not None and not ends:
            self.text += self._decoder.push(token.id)
        if row.finish and self._decoder is not None:
            self.text += self._decoder.flush()
        if row.written < self._settings.min_new_tokens:
            self._floor = len(self.text)
        cut = self._end()
        if cut is not None:
            row.finish = "stop"
            self.text = self.text[:cut]
        return self._show(len(self.text) if row.finish else len(self.text) - self._held())

    def _show(self, until: int) -> str:
        new = self.text[self._shown : until]
        self._shown += len(new)
        return new

    def _end(self) -> int | None:
        """Where the text ends by a stop string, a sentence or a paragraph."""
        s, start = self._settings, max(self._shown, self._floor)
        ends = [self.text.find(stop, start) for stop in s.stop]
        if s.end_on == "sentence":
            ends.append(_sentence_end(self.text, start) or -1)
        if s.end_on == "paragraph":
            ends.append(_paragraph_end(self.text, start) or -1)
        found = [end for end in ends if end >= 0]
        return min(found) if found else None

    def _held(self) -> int:
        """How many characters at the end may turn out to begin a stop string or a blank line."""
        held = 0
        if self._settings.end_on == "paragraph":
            line = _BLANK_LINE_MAYBE.search(self.text, self._shown)
            held = len(self.text) - line.start() if line else 0
        most = max((len(stop) - 1 for stop in self._settings.stop), default=0)
        for size in range(min(most, len(self.text) - self._shown), held, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self._settings.stop):
                return size
        return held


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
        writer = writers.setdefault(row, Writer(tokenizer, s))
        new = writer.push(token)
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
    """One finished text. Unpacks nowhere; read it by name.

    text: the new text without the prompt. tokens: the new ids, an end token included. logprobs:
    the model's own, one a token. finish_reason: "stop" or "length". record: everything that is
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
        done.finish_reason = piece.finish_reason or done.finish_reason
    return [texts[key] for key in sorted(texts)]


# ---- The third floor: one prompt, one text.


def text(engine: Engine, tokenizer: Tokenizer, prompt: Sequence[int], s: Sampling) -> str:
    """The continuation of one prompt (the first, when there are n)."""
    parts = pieces(engine, tokenizer, [prompt], s, indices=[0])
    return "".join(piece.text for piece in parts)
