"""What a model's files recommend for generation, below what the caller asks for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gpt2lab.aliases import Settings
from gpt2lab.errors import few
from gpt2lab.generation.sampling import Sampling, listed, several

log = logging.getLogger(__name__)


def with_recommended(
    own: Settings, files: Mapping[str, Any], sample: Any, prompt_length: int, has_text: bool
) -> Settings:
    """The caller's settings over those of the files; sample: the caller's do_sample."""
    found = dict(files)
    ends = found.pop("stop", ())
    found = _own_names(found, own, sample, prompt_length)
    if own.get("preset") is not None or own.get("processors") is not None:
        found = _beside_order(found, own)
    values = {**found, **own}
    # A number that was only recommended gives way to one that contradicts it.
    for key, other, pick in (("min_new_tokens", "max_new_tokens", min), ("num_beams", "n", max)):
        if key in found and key not in own:
            values[key] = pick(found[key], values.get(other, getattr(Sampling, other)))
    return {**values, "stop": _stop(own, ends if has_text else ())}


def _own_names(found: Settings, own: Settings, sample: Any, prompt_length: int) -> Settings:
    """Recommendations under our names: do_sample, and lengths that count the prompt."""
    drawn = found.pop("do_sample", None)
    if drawn is False and not sample:
        found["temperature"] = 0
    if drawn and {**found, **own}.get("num_beams", 1) != 1:
        found.setdefault("temperature", 1.0)
    longest, shortest = found.pop("max_length", None), found.pop("min_length", 0)
    if longest is not None and "max_new_tokens" not in {**found, **own}:
        if longest > prompt_length:
            found["max_new_tokens"] = longest - prompt_length
        else:
            log.warning(
                f"the model's files recommend max_length {longest}, which this prompt of "
                f"{prompt_length} tokens exceeds; it is passed over, give max_new_tokens"
            )
    if shortest > prompt_length:
        found.setdefault("min_new_tokens", shortest - prompt_length)
    return found


def _beside_order(found: Settings, own: Settings) -> Settings:
    """What is left of recommendations where the caller names a preset or processors.

    Such an order asks for that sampler and no other. Only words that are never to be generated stay
    forbidden, where it can do that.
    """
    orders = {key: own[key] for key in ("preset", "processors") if own.get(key) is not None}
    known = listed(Sampling.from_dict(orders))
    kept = {key: value for key, value in found.items() if key == "bad_words" and key in known}
    dropped = [key for key in found if key not in kept and own.get(key) is None]
    if dropped:
        log.warning(
            f"the model's files recommend {few(dropped)}, which counts for nothing beside "
            f"{' and '.join(orders)}; give what you want of it"
        )
    return kept


def _stop(own: Settings, ends: tuple[str, ...]) -> tuple[str, ...]:
    """The stop strings: the caller's, and the text that ends the model's own documents.

    The latter counts as an end token does: no stop tokens, or an empty `stop`, drop it.
    """
    stop = several("stop", own.get("stop"))
    if stop == () or several("stop_tokens", own.get("stop_tokens")) == ():
        return stop or ()
    return tuple(dict.fromkeys((*(stop or ()), *ends)))
