"""Whether two checkpoints behave alike beyond their logits: encoded texts, configuration, settings.

A conversion that keeps every number can still lose a pre-tokenizer, an added word, an end token or
the recommendation to decode greedily. `differences` names what is lost.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gpt2lab.config import Config
from gpt2lab.errors import InputError, few, quoted
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.text.tokenizer_config import NAMED
from gpt2lab.weights import tokenizer_files
from gpt2lab.weights.checkpoint import Checkpoint

PIECES = 2000  # entries of the vocabulary that are compared, evenly spaced
LAST = 64  # ids at the end of it, each in texts of its own
TRICKY = (
    "Hello world",
    " two  spaces   and three ",
    "\n\n\tlines\r\n \n",
    "123 4567 3.14 2,000,000",
    "don't we'LL it's I'M",
    "na\u00efve caf\u00e9 \ufb01ne e\u0301 \u212b",
    "\u4f60\u597d \u043c\u0438\u0440 \u0645\u0631\u062d\u0628\u0627",
    "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467",
    "a\u00a0b\u2003c\u200bd",
    "UPPER lower CamelCase snake_case",
    "def f(x):\n    return x[0] != 1  # why?",
    "aaaaaaaaaaaaaaaa ........ ----",
    "<|endoftext|> and <|endoftext|>",
)


def texts(tokenizer: Tokenizer) -> list[str]:
    """The texts that are compared: some tricky ones, and some made of the vocabulary.

    Words that were added to a vocabulary have its highest ids.
    """
    step, last = max(1, tokenizer.n_vocab // PIECES), max(0, tokenizer.n_vocab - LAST)
    pieces = [tokenizer.decode([token]) for token in range(0, tokenizer.n_vocab, step)]
    ends = [tokenizer.decode([token]) for token in range(last, tokenizer.n_vocab)]
    joined = [" ".join(pieces[i : i + 8]) for i in range(0, len(pieces), 8)]
    return [
        *TRICKY,
        *joined,
        *(form.replace("{}", name) for name in ends for form in ("{}", "a{}b {} c")),
    ]


def _encoded(tokenizer: Tokenizer, text: str) -> list[list[int]] | None:
    """The ids of a text as plain text and with special tokens; None where it is refused."""
    try:
        return [tokenizer.encode(text), tokenizer.encode(text, allowed_special="all")]
    except InputError:
        return None


def _vocabulary(one: Tokenizer | None, other: Tokenizer | None) -> list[str]:
    if one is None or other is None:
        if one is other:
            return []
        return ["the vocabulary (one of the two has none that can be read)"]
    if one.special_tokens != other.special_tokens:
        lost = sorted(dict(one.special_tokens.items() - other.special_tokens.items()))
        return [f"the vocabulary's special tokens {quoted(lost)}"]
    lost = [
        key
        for key, value in one.settings.items()
        if value
        and other.settings.get(key) != value
        and (key not in NAMED or one.named(key) is not None)
    ]
    if lost:
        return [f"the vocabulary's {few(lost)}"]
    for text in texts(one):
        if _encoded(one, text) != _encoded(other, text):
            return [f"the vocabulary ({quoted(text)} would have other tokens)"]
    return []


def _configuration(one: Config, other: Config) -> list[str]:
    """The fields that differ; the two forms of GELU are `convert`'s to tell of."""
    known = [f.name for f in fields(Config) if f.name not in ("activation_function", "n_inner")]
    known = [name for name in known if name != "start_token"] + ["mlp_width", "begin"]
    return [
        f"{name} {quoted(getattr(one, name))}"
        for name in known
        if getattr(one, name) != getattr(other, name)
    ]


def settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The recommended settings in one spelling: there are two for greedy and two for sampling."""
    found = dict(checkpoint.generation)
    if found.get("temperature") == 0:
        del found["temperature"]
        found["do_sample"] = False
    if found.get("do_sample") and found.keys() & {"temperature", "top_k", "top_p", "min_p"}:
        del found["do_sample"]
    return found


def _recommended(one: Checkpoint, other: Checkpoint) -> list[str]:
    a, b = settings(one), settings(other)
    return [
        f"the recommended {key} {quoted(a.get(key))}"
        for key in dict.fromkeys([*a, *b])
        if a.get(key) != b.get(key)
    ]


def differences(one: Checkpoint, other: Checkpoint) -> list[str]:
    """What `other` does not do as `one` does, each as a few words.

    The vocabulary's end token ends a text whatever the configuration says, so it is no difference.
    """
    a, b = (tokenizer_files.marked(c.config, c.tokenizer)[0] for c in (one, other))
    return [
        *_vocabulary(one.tokenizer, other.tokenizer),
        *_configuration(a, b),
        *_recommended(one, other),
    ]
