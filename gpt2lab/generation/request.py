"""From what people give to a `Request`: ids that fit the window, settings with nothing open.

Everything is checked here, once; the batch and what is below it trust a request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

from gpt2lab.checks import MOST, check_ids, one_of
from gpt2lab.config import Config
from gpt2lab.engines.cpu.draw.drawer import Plan
from gpt2lab.errors import InputError, quoted
from gpt2lab.forks import cached_property
from gpt2lab.generation import aliases, defaults
from gpt2lab.generation.plans import plan
from gpt2lab.generation.sampling import NAMES, WRITING, Sampling, check_each
from gpt2lab.text.tokenizer import Allowed, Tokenizer

log = logging.getLogger(__name__)

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

    @cached_property  # asked for at every token
    def plan(self) -> Plan | None:
        """The settings for a compiled draw."""
        return plan(self.sampling)


class Model(Protocol):
    """What is asked: a checkpoint. generation: the settings that its files recommend."""

    config: Config
    tokenizer: Tokenizer | None
    generation: dict[str, Any]


# ---- Prompts.


def as_prompts(given: Any) -> list[Prompt]:
    """One prompt or many, as a list of prompts. A flat list of ids is one prompt."""
    return one_or_many(given)[0]


def one_or_many(given: Any) -> tuple[list[Prompt], bool]:
    """`as_prompts`, and whether a list of prompts was given, if only of one."""
    if given is None or isinstance(given, str):
        return [given], False
    wrong = isinstance(given, bytes | bytearray | Mapping | set) or not isinstance(given, Iterable)
    if wrong or getattr(given, "ndim", 1) == 0:
        raise InputError(
            f"prompts are {quoted(given)}; they are texts, lists of token ids, or None"
        )
    listed = list(islice(given, MOST + 1))
    if not 0 < len(listed) <= MOST:
        raise InputError(f"there are no prompts, or more than {MOST}; give one at least")
    flat = not any(p is None or isinstance(p, str | Iterable) for p in listed)
    return ([listed], False) if flat else (listed, True)


def encode(
    prompt: Prompt,
    model: Model,
    allowed_special: Allowed = (),
    *,
    add_special_tokens: bool = True,
) -> list[int]:
    """A prompt as ids: a text, ids, or None for the beginning of a document.

    allowed_special: the special tokens that a text may spell, or "all"; the names of others are
    plain text, with a warning. add_special_tokens: with what the vocabulary puts around a text.
    """
    config, tokenizer = model.config, model.tokenizer
    if prompt is None:
        if config.begin is None:
            raise InputError("this model has no end token to begin from; give a prompt")
        return [config.begin]
    if not isinstance(prompt, str):
        return check_ids(prompt, config.n_vocab)
    if not prompt:
        raise InputError("the prompt is empty; give some text, or ask for no prompt at all")
    if tokenizer is None:
        raise InputError("this model comes without a tokenizer; give token ids instead of text")
    ids = tokenizer.encode(prompt, allowed_special, add_special_tokens=add_special_tokens)
    known = tokenizer.special_tokens if allowed_special == "all" else allowed_special
    marks = model.generation.get("stop", ())  # which this model spells as text on purpose
    for name in tokenizer.special_tokens:
        if name in prompt and name not in known and name not in marks:
            log.warning(
                f"{name!r} in the text is read as plain text; allowed_special='all' "
                "(--allow-special) reads it as the special token"
            )
    for token in ids:
        if token >= config.n_vocab:  # a vocabulary may be larger than its model
            raise InputError(
                f"the text needs the token {tokenizer.pieces([token])[0]!r}, id {token}, and this "
                f"model's ids go from 0 to {config.n_vocab - 1}; leave it out of the text"
            )
    return ids


def fit(prompt: list[int], config: Config, s: Sampling, overflow: str = "refuse") -> list[int]:
    """Cut a prompt that is longer than the window, leaving room for the answer.

    overflow: "refuse" is an error, "tail" keeps its end, "head+tail" keeps half the room at each
    end. The room is n_ctx less max_new_tokens, and at least half of n_ctx.
    """
    one_of("overflow", overflow, ("refuse", "tail", "head+tail"))
    if len(prompt) <= config.n_ctx:
        return prompt
    if overflow == "refuse":
        raise InputError(
            f"the prompt has {len(prompt)} tokens, the model sees {config.n_ctx}; shorten it, or "
            "keep its tail (overflow 'tail') or its head and tail ('head+tail')"
        )
    room = max(config.n_ctx - s.max_new_tokens, (config.n_ctx + 1) // 2)
    head = room // 2 if overflow == "head+tail" else 0
    return [*prompt[:head], *prompt[len(prompt) - room + head :]]


# ---- Settings.


def settings(given: Mapping[str, Any], model: Model, prompt_length: int = 0) -> Sampling:
    """The caller's settings, over what the model's files recommend, over `sampling.WRITING`.

    given: by our names or those of other systems, each of which is logged once. prompt_length: for
    names that count the prompt.
    """
    own = dict(given) if given.keys() <= NAMES else aliases.translate(given, prompt_length)
    check_each(own)
    sample = given.get("do_sample")
    merged = own
    if files := model.generation:
        has_text = model.tokenizer is not None
        merged = defaults.with_recommended(own, files, sample, prompt_length, has_text)
    orders = own.get("preset") is not None or own.get("processors") is not None
    values = merged if orders else {**WRITING, **merged}  # an order obeys only what it names
    if "temperature" not in merged and values.get("num_beams", 1) != 1:
        values["temperature"] = 0  # beams search unless a temperature is given
    if sample and "temperature" not in given:
        values["temperature"] = values.get("temperature") or 1.0  # a recommended 0 gives way
    return Sampling.from_dict(values)


def resolve(s: Sampling, config: Config, tokenizer: Tokenizer | None) -> Sampling:
    """The settings with nothing left open: seed, end tokens, words as ids. Records hold these."""
    stop_tokens = config.end_tokens if s.stop_tokens is None else s.stop_tokens
    seed = int.from_bytes(os.urandom(4), "little") if s.seed is None else int(s.seed)
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


# ---- Both together.


@contextmanager
def naming(prompt: str) -> Iterator[None]:
    """Begin what is wrong with one of many prompts with its name."""
    try:
        yield
    except InputError as error:
        if not prompt:
            raise
        raise InputError(f"{prompt}: {error}") from error


def requests(
    prompts: Sequence[list[int]],
    s: Sampling,
    config: Config,
    tokenizer: Tokenizer | None = None,
    *,
    overflow: str = "refuse",
    names: Sequence[str] = (),
) -> list[Request]:
    """A request for each prompt (checked ids), cut to the window, with the settings resolved."""
    s = resolve(s, config, tokenizer)
    limit = None if tokenizer is None else min(tokenizer.n_vocab, config.n_vocab)
    found = []
    for name, ids in zip(names or [""] * len(prompts), prompts, strict=True):
        with naming(name):
            found.append(Request(tuple(fit(ids, config, s, overflow)), s, limit))
    return found


def requested(
    prompts: Sequence[Prompt],
    given: Mapping[str, Any],
    model: Model,
    *,
    overflow: str = "refuse",
    allowed_special: Allowed = (),
    names: Sequence[str] = (),
) -> list[Request]:
    """A request for each prompt, from all that people give.

    given: settings by any name. names: what to call each prompt in an error; of several, its number
    where none is given.
    """
    if not names:
        names = [f"prompt {i}" for i, _ in enumerate(prompts, 1)] if len(prompts) > 1 else [""]
    encoded = []
    for name, prompt in zip(names, prompts, strict=True):
        with naming(name):
            encoded.append(encode(prompt, model, allowed_special))
    lengths = {len(ids) for ids in encoded}
    if "max_length" in given and len(lengths) > 1:
        raise InputError(
            "max_length counts the prompt, and these prompts differ in length; give "
            "max_new_tokens instead"
        )
    s = settings(given, model, max(lengths, default=0))
    return requests(encoded, s, model.config, model.tokenizer, overflow=overflow, names=names)
