"""Other systems' names for our settings, translated, with one note for each.

Natively there is one name for a thing. People and scripts come with Hugging Face's, OpenAI's and
gpt-2-simple's names, so these are taken and told; a name that means nothing here is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from gpt2lab.checks import whole
from gpt2lab.errors import InputError, few, quoted
from gpt2lab.generation.sampling import Sampling, listed

#: Names that differ and values that do not.
SAME = {
    "length": "max_new_tokens",  # openai/gpt-2, gpt-2-simple
    "max_tokens": "max_new_tokens",  # OpenAI's API
    "min_tokens": "min_new_tokens",
    "nsamples": "n",
    "num_return_sequences": "n",
    "stop_strings": "stop",
    "stop_sequence": "stop",
    "stop_token_ids": "stop_tokens",
    "eos_token_id": "stop_tokens",
    "bad_words_ids": "bad_words",
    "typical": "typical_p",
}
#: Names of other systems that need nothing here, and why.
NEEDLESS = {
    "pad_token_id": "padding is a length here, not a token",
    "use_cache": "keys and values are always kept",
}

Settings = dict[str, Any]


def _max_length(settings: Settings, value: Any, prompt_length: int) -> str:
    """Hugging Face's max_length counts the prompt too."""
    if value is None:
        return ""
    whole("max_length", value)
    if value <= prompt_length:
        raise InputError(
            f"max_length {value} counts the prompt of {prompt_length} tokens and leaves nothing to "
            "write; give max_new_tokens instead"
        )
    settings["max_new_tokens"] = value - prompt_length
    return f"max_length {value} is taken as max_new_tokens {value - prompt_length}"


def _min_length(settings: Settings, value: Any, prompt_length: int) -> str:
    if value is None:
        return ""
    whole("min_length", value)
    settings["min_new_tokens"] = max(0, value - prompt_length)
    return f"min_length {value} is taken as min_new_tokens {settings['min_new_tokens']}"


def _do_sample(settings: Settings, value: Any, prompt_length: int) -> str:
    if value is not None and not isinstance(value, int | np.bool_):
        raise InputError(f"do_sample is {quoted(value)}; it must be True or False")
    if not value:
        settings["temperature"] = 0
        return "do_sample false is taken as temperature 0"
    beams = settings.get("num_beams", 1)
    if (isinstance(beams, int) and beams == 1) or "temperature" in settings:
        return ""  # sampling is what is done anyway
    settings["temperature"] = 1.0
    return "do_sample true with beams is taken as temperature 1"


OTHERWISE: dict[str, Callable[[Settings, Any, int], str]] = {
    "max_length": _max_length,
    "min_length": _min_length,
    "do_sample": _do_sample,
}

_OFF = {  # what "off" is elsewhere -> here
    "top_k": (None, 0),
    "top_p": (None, 1.0),
    "min_p": (None, 0.0),
    "typical_p": (None, 1.0),
}
_TUPLES = ("stop", "stop_tokens")


def translate(given: Mapping[str, Any], prompt_length: int = 0) -> tuple[Settings, list[str]]:
    """Settings under any known name -> (settings under ours, notes to show, one a translation).

    Two names for one setting, and unknown names, are errors.
    """
    own = {field.name for field in fields(Sampling)}
    settings: Settings = {}
    notes: list[str] = []
    for name, value in sorted(given.items(), key=lambda item: item[0] == "do_sample"):
        before = dict(settings)  # do_sample comes last: false wins over a temperature
        if name in own:
            settings[name] = value
        elif name in SAME:
            settings[SAME[name]] = value
            notes.append(f"{name} is taken as {SAME[name]}")
        elif name == "num_beam_groups" and (value is None or value is True or quoted(value) == "1"):
            continue
        elif name in OTHERWISE:
            notes.append(OTHERWISE[name](settings, value, prompt_length))
        elif name in NEEDLESS:
            notes.append(f"{name} is not needed: {NEEDLESS[name]}")
        else:
            raise InputError(_unknown(name, own))
        # Identity first: NaN differs from itself.
        clash = [k for k, v in before.items() if v is not settings[k] and not _same(v, settings[k])]
        if clash and name != "do_sample":
            raise InputError(f"{clash[0]} is given twice, once as {name}; give one of them")
    for name in _TUPLES:
        if isinstance(settings.get(name), str | int | np.integer):
            settings[name] = (settings[name],)
    for name, (elsewhere, here) in _OFF.items():
        if name in settings and settings[name] is elsewhere:
            settings[name] = here
    return settings, [note for note in notes if note]


def recommended(
    values: Mapping[str, Any], given: Mapping[str, Any], prompt_length: int
) -> tuple[Settings, list[str]]:
    """What a model's files recommend (`weights.recommended`) under our names, and notes.

    given: what the caller says, which wins: do_sample true over a recommended false, a number of
    new tokens over a recommended length.
    """
    own, notes = dict(values), []
    sample = own.pop("do_sample", None)
    if sample is False and not given.get("do_sample"):
        own["temperature"] = 0
    if sample and {**own, **given}.get("num_beams", 1) != 1:
        own.setdefault("temperature", 1.0)
    longest, shortest = own.pop("max_length", None), own.pop("min_length", 0)
    if longest is not None and "max_new_tokens" not in {**own, **given}:
        if longest > prompt_length:
            own["max_new_tokens"] = longest - prompt_length
        else:
            notes.append(
                f"the model's files recommend max_length {longest}, which this prompt of "
                f"{prompt_length} tokens exceeds; it is passed over, give max_new_tokens"
            )
    if shortest > prompt_length:
        own.setdefault("min_new_tokens", shortest - prompt_length)
    return own, notes


def beside_order(own: Settings, given: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """What is left of recommendations where the caller names a preset or processors, and a note.

    Such an order asks for that sampler and no other. Only words that are never to be generated stay
    forbidden, where it can do that.
    """
    orders = {key: given[key] for key in ("preset", "processors") if given.get(key) is not None}
    known = listed(Sampling.from_dict(orders))
    kept = {key: value for key, value in own.items() if key == "bad_words" and key in known}
    dropped = [key for key in own if key not in kept and given.get(key) is None]
    if not dropped:
        return kept, []
    return kept, [
        f"the model's files recommend {few(dropped)}, which counts for nothing beside "
        f"{' and '.join(orders)}; give what you want of it"
    ]


def _same(one: Any, other: Any) -> bool:
    return bool(np.all(one == other))


def _unknown(name: str, own: set[str]) -> str:
    near = difflib.get_close_matches(name, [*own, *SAME, *OTHERWISE], n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(own))}"
    return f"setting {quoted(name)} is unknown{hint}"
