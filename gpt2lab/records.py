"""Records of generations: everything that a text is a function of, so that it can be replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from itertools import islice
from typing import Any, NamedTuple

from gpt2lab import __version__
from gpt2lab.checks import whole
from gpt2lab.errors import InputError, quoted
from gpt2lab.generation.generate import Completion
from gpt2lab.generation.sampling import Sampling


class Origin(NamedTuple):
    """What a text comes from besides its settings.

    model: name, format and sha256. engine: as `engines.described` gives it.
    """

    model: dict[str, Any]
    engine: dict[str, Any]


def record(
    done: Completion, s: Sampling, prompt: Any, origin: Origin, n_ctx: int
) -> dict[str, Any]:
    """The record of a completion: plain values, ready for JSON. prompt: as it was given."""
    return {
        "gpt2lab": __version__,
        "model": origin.model,
        "engine": origin.engine,
        "settings": s.to_dict(),
        "seed": s.seed,
        "index": done.index,
        "prompt": prompt if isinstance(prompt, str) else None,
        "prompt_tokens": done.prompt_tokens,
        "text": done.text,
        "tokens": done.tokens,
        "logprobs": done.logprobs,
        "finish_reason": done.finish_reason,
        "window": {
            "n_ctx": n_ctx,
            "keep": max(1, int(n_ctx * s.window_keep)),
            "slides": done.slides,
        },
    }


def checked_record(record: Any) -> tuple[Sampling, int]:
    """The settings and the index of a record; an error names what is missing or damaged in it."""
    if not isinstance(record, Mapping):
        raise InputError(f"no record of a generation: it is {type(record).__name__}")
    kinds = {"model": Mapping, "engine": Mapping, "settings": Mapping, "prompt_tokens": list}
    for key, kind in kinds.items():
        if not isinstance(record.get(key), kind):
            raise InputError(f"no record of a generation: its {key!r} is missing or damaged")
    missing = [f.name for f in fields(Sampling) if f.name not in record["settings"]]
    if missing:
        raise InputError(f"the record's settings lack {', '.join(missing)}; take the whole record")
    index = whole("the record's index", record.get("index"), 0, 2**64 - 1)
    return Sampling.from_dict(record["settings"]), index


def check_origin(record: Mapping[str, Any], here: Origin) -> None:
    """InputError for a record that another model or another engine has made."""
    model, engine = record["model"], record["engine"]
    theirs = model.get("sha256")  # of any kind: an array would compare as an array
    if not isinstance(theirs, str) or theirs != here.model["sha256"]:
        raise InputError(
            f"the record was made with the model {quoted(model.get('name'))}, sha256 "
            f"{quoted(theirs)[:13]}, and {here.model['name']!r} is {here.model['sha256'][:12]}; "
            "load that model"
        )
    if not _same(engine, here.engine):
        raise InputError(
            f"the record was made with {_spelled(engine)}, this is {_spelled(here.engine)}; "
            "load the model with that"
        )


def _spelled(engine: Mapping[str, Any]) -> str:
    """An engine of a record for people."""
    words = {"name": "engine", "cache_dtype": "cache dtype"}
    told = (
        f"{words.get(key, str(key)[:40])} {value if isinstance(value, str) else quoted(value):.80}"
        for key, value in islice(engine.items(), 6)
    )
    return ", ".join(told)


def _same(one: Any, other: Mapping[str, Any]) -> bool:
    """Whether a record's engine is this one; a record may hold anything, also arrays.

    An earlier version's records name no product.
    """
    here = {k: quoted(v) for k, v in other.items() if k != "product" or k in one}
    return {str(k): quoted(v) for k, v in islice(one.items(), 9)} == here
