"""Before the first token: prompts as ids that fit the window, settings with nothing left open.

Also who is being written (`Row`, `Token`): the small things that the floors of `generate` share.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from gpt2lab.config import Config
from gpt2lab.errors import InputError, quoted
from gpt2lab.generation.sampling import Sampling
from gpt2lab.tokenizer import Allowed, Tokenizer

MOST = 4_000_000  # ids of one text


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


def check_ids(ids: Any, config: Config, what: str = "prompt") -> list[int]:
    """Token ids as a list of int, or an error that names what is wrong with them."""
    wrong = isinstance(ids, str | bytes | bytearray | Mapping | set)
    if wrong or not isinstance(ids, Iterable) or getattr(ids, "ndim", 1) == 0:
        raise InputError(f"the {what} is {quoted(ids)}; it takes a text or a list of token ids")
    checked = []
    for token in islice(ids, MOST + 1):  # one by one: a range may be longer than any memory
        if not isinstance(token, int | np.integer) or isinstance(token, bool):
            raise InputError(f"the {what} holds {quoted(token)}; token ids are whole numbers")
        if not 0 <= token < config.n_vocab:
            raise InputError(
                f"the {what} holds the id {quoted(token)}; this model's ids go from 0 to "
                f"{config.n_vocab - 1}"
            )
        checked.append(int(token))
    if not checked:
        raise InputError(f"the {what} is empty; give at least one token")
    if len(checked) > MOST:
        raise InputError(f"the {what} has more than {MOST} tokens; give it in parts")
    return checked


def check_batch(tokens: Any, config: Config) -> list[list[int]]:
    """A batch of ids [B, T] as lists, or an error that names what is wrong with it."""
    tokens = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    if isinstance(tokens, str | bytes | bytearray | Mapping | set) or not _is_listed(tokens):
        raise InputError(f"tokens: got {quoted(tokens)}; a batch [B, T] of ids is needed")
    rows = []
    for row in islice(tokens, MOST + 1):
        if not _is_listed(row):
            raise InputError(f"tokens: got a row {quoted(row)}; a batch [B, T] of ids is needed")
        rows.append(check_ids(row, config, "batch"))
        if len(rows[-1]) != len(rows[0]):
            raise InputError("tokens: the rows differ in length; a batch [B, T] is needed")
        if len(rows[-1]) > config.n_ctx:
            raise InputError(
                f"tokens: {len(rows[-1])} are more than the model's {config.n_ctx} positions; "
                "give fewer"
            )
    if not rows or len(rows) > MOST:
        raise InputError(f"tokens: a batch holds 1 to {MOST} rows; it has none, or more")
    return rows


def _is_listed(given: Any) -> bool:
    return isinstance(given, Iterable) and getattr(given, "ndim", 1) > 0


def check_reach(ids: list[int], config: Config, tokenizer: Tokenizer) -> list[int]:
    """The ids of a text, if the model has them all: a vocabulary may be larger than its model."""
    for token in ids:
        if token >= config.n_vocab:
            raise InputError(
                f"the text needs the token {tokenizer.pieces([token])[0]!r}, id {token}, and this "
                f"model's ids go from 0 to {config.n_vocab - 1}; leave it out of the text"
            )
    return ids


def plain_names(text: str, tokenizer: Tokenizer, allowed: Allowed) -> list[str]:
    """The names of special tokens that a text holds and that are not allowed: plain text."""
    found = [name for name in tokenizer.special_tokens if name in text]
    return [name for name in found if allowed != "all" and name not in allowed]


def check_prompt(prompt: Any, config: Config) -> list[int]:
    """A prompt's ids, or an error: empty, an id out of range, longer than the window."""
    ids = check_ids(prompt, config)
    if len(ids) > config.n_ctx:
        raise InputError(
            f"the prompt has {len(ids)} tokens, the model sees {config.n_ctx}; shorten it, or "
            "keep its tail (overflow 'tail') or its head and tail ('head+tail')"
        )
    return ids


def fit(prompt: list[int], config: Config, s: Sampling, overflow: str = "refuse") -> list[int]:
    """Cut a prompt that is longer than the window, leaving room for the answer.

    overflow: "refuse" leaves it as it is (and `check_prompt` refuses it), "tail" keeps its end,
    "head+tail" keeps half the room at each end. The room is n_ctx less max_new_tokens, and at
    least half of n_ctx.
    """
    if not isinstance(overflow, str) or overflow not in ("refuse", "tail", "head+tail"):
        raise InputError(
            f"overflow {quoted(overflow)} is unknown; known: 'refuse', 'tail', 'head+tail'"
        )
    if len(prompt) <= config.n_ctx or overflow == "refuse":
        return prompt
    room = max(config.n_ctx - s.max_new_tokens, (config.n_ctx + 1) // 2)
    head = room // 2 if overflow == "head+tail" else 0
    return [*prompt[:head], *prompt[len(prompt) - room + head :]]


def resolve(s: Sampling, config: Config, tokenizer: Tokenizer | None) -> Sampling:
    """The settings with nothing left open: seed, end tokens, words as ids. Records hold these."""
    stop_tokens = config.end_tokens if s.stop_tokens is None else s.stop_tokens
    seed = secrets.randbits(32) if s.seed is None else int(s.seed)
    words = [v for word in s.bad_words for v in _spellings(word, tokenizer)]
    bias = {_one_token(key, tokenizer): value for key, value in s.logit_bias.items()}
    for name, ids in (
        ("stop_tokens", stop_tokens),
        ("bad_words", [i for word in words for i in word]),
        ("logit_bias", bias),
    ):
        outside = [i for i in ids if not 0 <= i < config.n_vocab][:1]
        if outside:
            raise InputError(
                f"{name} holds the id {quoted(outside[0])}; this model's ids go from 0 to "
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
        raise InputError(f"bad_words: {quoted(word)} is a text, and this model has no tokenizer")
    spellings = (word,) if word[0].isspace() else (word, " " + word)
    return [tuple(tokenizer.encode_array(spelling).tolist()) for spelling in spellings]


def _one_token(key: Any, tokenizer: Tokenizer | None) -> int:
    if not isinstance(key, str):
        return int(key)
    if tokenizer is None:
        raise InputError(f"logit_bias: {quoted(key)} is a text, and this model has no tokenizer")
    ids: list[int] = tokenizer.encode_array(key).tolist()
    if len(ids) != 1:
        raise InputError(
            f"logit_bias: {quoted(key)} is {len(ids)} tokens, {quoted(ids)}; give a "
            "bias to each id instead"
        )
    return ids[0]
