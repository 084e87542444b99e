"""JSON objects: parsed with one line on what is wrong, and written as every reader takes them."""

from __future__ import annotations

import gc
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt2lab.errors import quoted
from gpt2lab.files.io import damaged, parsing, read_text
from gpt2lab.files.visible import shown

CONTAINERS = 1 << 20  # lists and objects in one JSON file; each takes 60 bytes and more


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(twice)} occurs twice")
    return values


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep Python's garbage collector from walking over all that a parser is just making.

    For a vocabulary that is a third of the time, and nothing of it is garbage.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def checked_keys(values: Any, where: str, kinds: Mapping[Any, tuple[type, ...]]) -> dict[str, Any]:
    """A JSON object in which these keys have values of these types; it may have more of them.

    Raises InputError for the first that is missing or of another type, and for numbers that are
    NaN or beyond 64 bits.
    """
    if not isinstance(values, dict):
        raise damaged(where, f"is {quoted(values)}, expected a JSON object")
    for name, types in kinds.items():
        value = values.get(name)
        fits = not isinstance(value, int | float) or -(2**63) < value < 2**63
        if type(value) not in types or not fits:
            wanted = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise damaged(where, f"{name} is {quoted(value)}, expected {wanted}")
    return values


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object; a duplicate key is refused, as one of the two would be lost."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if data.count(b"[") + data.count(b"{") > CONTAINERS:
        raise damaged(where, f"holds more than {CONTAINERS} lists and objects")
    with parsing(where, "valid JSON"), _without_collecting():
        values = json.loads(text, object_pairs_hook=_once)
    return checked_keys(values, where, {})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    return parse_json(read_text(path), str(path))


def finite(value: Any) -> Any:
    """The value with None for each number that is not finite, which JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return value


def to_json(value: Any, *, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """JSON that every reader takes: a number that is not finite is null."""
    return json.dumps(finite(value), allow_nan=False, ensure_ascii=ensure_ascii, indent=indent)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """A JSON object to a file, as people read it."""
    path.write_text(to_json(values, indent=2) + "\n", encoding="utf-8")
