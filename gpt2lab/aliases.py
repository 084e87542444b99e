"""Other programs' names for our settings: a dialect is a table of `Alias`, read by `translate`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gpt2lab.errors import InputError

log = logging.getLogger(__name__)

Settings = dict[str, Any]

explained: set[str] = set()  # the names that were explained in this process


class Alias(NamedTuple):
    """What a foreign name means here.

    own: our name, where the value means the same. note: why it is left out, where we have none.
    convert: makes our settings of (the value, our settings so far), where the values differ too.
    """

    own: str = ""
    note: str = ""
    convert: Callable[[Any, Settings], Settings] | None = None


def translate(given: Mapping[str, Any], table: Mapping[str, Alias]) -> Settings:
    """Settings under our names, in the order of the table; other names stay as they are.

    Each foreign name is explained by a warning, once in a process. Two names for one setting with
    different values are an error.
    """
    ours = {name: value for name, value in given.items() if name not in table}
    for name in (name for name in table if name in given):
        alias, value = table[name], given[name]
        if alias.own:
            if not _same(ours.setdefault(alias.own, value), value):
                raise InputError(f"{alias.own} is given twice, once as {name}; give one of them")
            note(name, f"{name} is taken as {alias.own}")
        elif alias.convert:
            made = alias.convert(value, ours)
            ours |= made
            said = " and ".join(f"{key} {made[key]}".strip() for key in made if key[0] != "_")
            if said:
                note(name, f"{name} {value} is taken as {said}")
        else:
            note(name, f"{name} is left out: {alias.note}")
    return ours


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal, where they are plain; of an array it is not asked."""
    plain = isinstance(one, int | float | str) and type(one) is type(other)
    return one is other or (plain and one == other)


def note(name: str, text: str) -> None:
    """Log what became of a name, once in a process."""
    if name not in explained:
        explained.add(name)
        log.warning(text)
