"""The names that Hugging Face, OpenAI and gpt-2-simple have for the settings of a generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np

from gpt2lab import aliases
from gpt2lab.aliases import Alias, Settings
from gpt2lab.checks import whole
from gpt2lab.errors import InputError, quoted
from gpt2lab.generation.sampling import Sampling


def _max_length(prompt_length: int, value: Any, settings: Settings) -> Settings:
    """Hugging Face's max_length counts the prompt too."""
    if value is None:
        return {}
    if whole("max_length", value) <= prompt_length:
        raise InputError(
            f"max_length {value} counts the prompt of {prompt_length} tokens and leaves nothing to "
            "write; give max_new_tokens instead"
        )
    if "max_new_tokens" in settings:
        raise InputError("max_new_tokens is given twice, once as max_length; give one of them")
    return {"max_new_tokens": value - prompt_length}


def _min_length(prompt_length: int, value: Any, settings: Settings) -> Settings:
    if value is None:
        return {}
    if "min_new_tokens" in settings:
        raise InputError("min_new_tokens is given twice, once as min_length; give one of them")
    return {"min_new_tokens": max(0, whole("min_length", value) - prompt_length)}


def _num_beam_groups(value: Any, settings: Settings) -> Settings:
    if value is not None and value is not True and quoted(value) != "1":
        raise InputError(f"num_beam_groups is {quoted(value)}; groups of beams are not supported")
    return {}


def _do_sample(value: Any, settings: Settings) -> Settings:
    """False wins over a temperature; true says what is done anyway, but for beams."""
    if value is not None and not isinstance(value, int | np.bool_):
        raise InputError(f"do_sample is {quoted(value)}; it must be True or False")
    if not value:
        return {"temperature": 0}
    beams = settings.get("num_beams", 1)
    if (isinstance(beams, int) and beams == 1) or "temperature" in settings:
        return {}
    return {"temperature": 1.0}


TABLE: dict[str, Alias] = {
    "length": Alias("max_new_tokens"),  # openai/gpt-2, gpt-2-simple
    "max_tokens": Alias("max_new_tokens"),  # OpenAI's API
    "min_tokens": Alias("min_new_tokens"),
    "nsamples": Alias("n"),
    "num_return_sequences": Alias("n"),
    "stop_strings": Alias("stop"),
    "stop_sequence": Alias("stop"),
    "stop_token_ids": Alias("stop_tokens"),
    "eos_token_id": Alias("stop_tokens"),
    "bad_words_ids": Alias("bad_words"),
    "typical": Alias("typical_p"),
    "pad_token_id": Alias(note="padding is a length here, not a token"),
    "use_cache": Alias(note="keys and values are always kept"),
    "max_length": Alias(),  # these two need the length of the prompt
    "min_length": Alias(),
    "num_beam_groups": Alias(convert=_num_beam_groups),
    "do_sample": Alias(convert=_do_sample),  # last: it looks at the temperature
}


def translate(given: Mapping[str, Any], prompt_length: int = 0) -> Settings:
    """Settings under any known name, under ours; an unknown name is an error."""
    own = {field.name for field in fields(Sampling)}
    for name in given.keys() - own - TABLE.keys():
        import difflib

        near = difflib.get_close_matches(name, [*own, *TABLE], n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(own))}"
        raise InputError(f"setting {quoted(name)} is unknown; {hint}")
    lengths = {
        "max_length": Alias(convert=partial(_max_length, prompt_length)),
        "min_length": Alias(convert=partial(_min_length, prompt_length)),
    }
    return aliases.translate(given, TABLE | lengths)
