"""From what people give to a `Request`: ids that fit the window, settings with nothing open."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from gpt2lab.checks import MOST, check_ids, one_of
from gpt2lab.config import Config
from gpt2lab.errors import InputError, quoted
from gpt2lab.generation.sampling import Sampling
from gpt2lab.text.tokenizer import Allowed, Tokenizer

Prompt = str | Sequence[int] | None


@dataclass(frozen=True)
class Request:
    """A prompt and how to continue it, with nothing left to check: what `Batch.add` takes.

    prompt: ids that fit the context window. sampling: `resolve`d settings. limit: no id from this
    one on is generated (a vocabulary smaller than the model's matrix).
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    limit: int | None = None


@contextmanager
def naming(prompt: str) -> Iterator[None]:
    """Begin what is wrong with one of many prompts with its name."""
    try:
        yield
    except InputError as error:
        if not prompt:
            raise
        raise InputError(f"{prompt}: {error}") from error


def as_prompts(given: Any) -> list[Prompt]:
    """One prompt or many, as a list of prompts. A flat list of ids is one prompt."""
    if given is None or isinstance(given, str):
        return [given]
    wrong = isinstance(given, bytes | bytearray | Mapping | set) or not isinstance(given, Iterable)
    if wrong or getattr(given, "ndim", 1) == 0:
        raise InputError(
            f"prompts are {quoted(given)}; they are texts, lists of token ids, or None"
        )
    listed = list(islice(given, MOST + 1))
    if not 0 < len(listed) <= MOST:
        raise InputError(f"there are no prompts, or more than {MOST}; give one at least")
    flat = not any(p is None or isinstance(p, str | Iterable) for p in listed)
    return [listed] if flat else listed


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
    ids = check_ids(prompt, config.n_vocab)
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
    one_of("overflow", overflow, ("refuse", "tail", "head+tail"))
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


def requests(
    prompts: Iterable[Any], s: Sampling, config: Config, tokenizer: Tokenizer | None = None
) -> list[Request]:
    """A request for each prompt (ids), checked, with the settings resolved."""
    s = resolve(s, config, tokenizer)
    limit = None if tokenizer is None else min(tokenizer.n_vocab, config.n_vocab)
    return [Request(tuple(check_prompt(ids, config)), s, limit) for ids in prompts]
