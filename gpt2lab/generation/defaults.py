"""The settings of a generation: the caller's, over the checkpoint's, over the defaults."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gpt2lab.generation import aliases
from gpt2lab.generation.sampling import WRITING, Sampling, check_each

log = logging.getLogger(__name__)


def merged(
    given: Mapping[str, Any], files: Mapping[str, Any], prompt_length: int, *, has_text: bool
) -> Sampling:
    """The `Sampling` of the caller's keyword arguments over what the checkpoint recommends.

    given: by our names or those of other systems, each of which is logged once. files: the settings
    that the checkpoint's files recommend. prompt_length: for names that count the prompt. has_text:
    whether there is a tokenizer, so that stop strings can be found.
    """
    settings, notes = aliases.translate(given, prompt_length)
    check_each(settings)
    recommended, more = aliases.recommended(files, {**given, **settings}, prompt_length)
    ends = recommended.pop("stop", ())
    defaults = WRITING
    if settings.get("preset") is not None or settings.get("processors") is not None:
        defaults = {}  # an order of one's own obeys nothing that it does not name
        recommended, more = aliases.beside_order(recommended, settings)
    for note in (*notes, *more):
        log.warning(note)
    values = {**defaults, **recommended, **settings}
    if "temperature" not in {**recommended, **settings} and values.get("num_beams", 1) != 1:
        values["temperature"] = 0  # beams search unless a temperature is given
    if given.get("do_sample") and "temperature" not in given:
        values["temperature"] = values.get("temperature") or 1.0  # a recommended 0 gives way
    _yield_to(values, recommended, settings)
    values["stop"] = _stop(settings, ends if has_text else ())
    return Sampling.from_dict(values)


def _stop(settings: Mapping[str, Any], ends: tuple[str, ...]) -> tuple[str, ...]:
    """The stop strings: the caller's, and the text that ends the model's own documents.

    The latter counts as an end token does: no stop tokens, or an empty `stop`, drop it.
    """
    own = Sampling.from_dict({"stop": settings.get("stop")}).stop
    dropped = settings.get("stop") is not None and not own
    ends_dropped = Sampling.from_dict({"stop_tokens": settings.get("stop_tokens")})
    if dropped or ends_dropped.stop_tokens == ():
        return own
    return tuple(dict.fromkeys((*own, *ends)))


def _yield_to(
    values: dict[str, Any], recommended: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Where a number contradicts one that was only recommended, the latter gives way."""
    for key, other, pick in (("min_new_tokens", "max_new_tokens", min), ("num_beams", "n", max)):
        value = values.get(other, getattr(Sampling, other))
        if key in recommended and key not in settings and isinstance(value, int):
            values[key] = pick(recommended[key], value)
