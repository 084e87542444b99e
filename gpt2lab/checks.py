"""What people give, checked: integers, numbers, words, token ids and batches of ids.

Each function returns the value, or raises InputError with its name, the value and the limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from gpt2lab.errors import InputError, quoted

MOST = 4_000_000  # ids of one text


def is_whole(value: Any) -> bool:
    """Whether a value is an integer, of Python or NumPy, and no bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number, of Python or NumPy, and no bool."""
    real = is_whole(value) or isinstance(value, float | np.floating)
    return real and -math.inf < value < math.inf


def whole(name: str, value: Any, low: int = 0, high: float = math.inf) -> int:
    """An integer from `low` to `high`, both allowed."""
    if not is_whole(value) or not low <= value <= high:
        span = f">= {low}" if high == math.inf else f"from {low} to {high}"
        raise InputError(f"{name} is {quoted(value)}; it must be an integer {span}")
    return int(value)


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    """A finite number from `low` to `high`, both allowed."""
    if not is_number(value) or not low <= value <= high:
        span = f">= {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InputError(f"{name} is {quoted(value)}; it must be a number {span}")
    return value


def one_of(name: str, value: Any, known: Sequence[Any]) -> Any:
    """One of the known words; of values that are no text, the very same object."""
    if not any(value is k or (isinstance(value, str) and value == k) for k in known):
        raise InputError(
            f"{name} is {quoted(value)}; it must be one of {', '.join(map(str, known))}"
        )
    return value


def check_ids(ids: Any, n_vocab: int, what: str = "prompt") -> list[int]:
    """Token ids below `n_vocab` as a list of int: one at least."""
    if (
        type(ids) is list and 0 < len(ids) <= MOST and set(map(type, ids)) == {int}
        and min(ids) >= 0 and max(ids) < n_vocab
    ):  # fmt: skip
        return ids.copy()  # plain ones, as each row of each step has them
    wrong = isinstance(ids, str | bytes | bytearray | Mapping | set)
    if wrong or not _is_listed(ids):
        raise InputError(f"the {what} is {quoted(ids)}; it takes a text or a list of token ids")
    checked = []
    for token in islice(ids, MOST + 1):  # one by one: a range may be longer than any memory
        if not is_whole(token):
            raise InputError(f"the {what} holds {quoted(token)}; token ids are integers")
        if not 0 <= token < n_vocab:
            raise InputError(
                f"the {what} holds the id {quoted(token)}; this model's ids go from 0 to "
                f"{n_vocab - 1}"
            )
        checked.append(int(token))
    if not checked:
        raise InputError(f"the {what} is empty; give at least one token")
    if len(checked) > MOST:
        raise InputError(f"the {what} has more than {MOST} tokens; give it in parts")
    return checked


def check_batch(tokens: Any, n_vocab: int, n_ctx: int) -> list[list[int]]:
    """A batch of ids [B, T] as lists: one row at least, none longer than `n_ctx`."""
    tokens = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    if isinstance(tokens, str | bytes | bytearray | Mapping | set) or not _is_listed(tokens):
        raise InputError(f"tokens: got {quoted(tokens)}; a batch [B, T] of ids is needed")
    rows: list[list[int]] = []
    for row in islice(tokens, MOST + 1):
        if not _is_listed(row):
            raise InputError(f"tokens: got a row {quoted(row)}; a batch [B, T] of ids is needed")
        rows.append(check_ids(row, n_vocab, "batch"))
        if len(rows[-1]) != len(rows[0]):
            raise InputError("tokens: the rows differ in length; a batch [B, T] is needed")
        if len(rows[-1]) > n_ctx:
            raise InputError(
                f"tokens: {len(rows[-1])} are more than the model's {n_ctx} positions; give fewer"
            )
    if not rows or len(rows) > MOST:
        raise InputError(f"tokens: a batch holds 1 to {MOST} rows; it has none, or more")
    return rows


def _is_listed(given: Any) -> bool:
    return isinstance(given, Iterable) and getattr(given, "ndim", 1) > 0
