"""Token ids and batches of them, checked where they come in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np

from gpt2lab.config import Config
from gpt2lab.errors import InputError, quoted

MOST = 4_000_000  # ids of one text


def check_ids(ids: Any, config: Config, what: str = "prompt") -> list[int]:
    """Token ids as a list of int, or an error that names what is wrong with them."""
    wrong = isinstance(ids, str | bytes | bytearray | Mapping | set)
    if wrong or not isinstance(ids, Iterable) or getattr(ids, "ndim", 1) == 0:
        raise InputError(f"the {what} is {quoted(ids)}; it takes a text or a list of token ids")
    checked = []
    for token in islice(ids, MOST + 1):  # one by one: a range may be longer than any memory
        if not isinstance(token, int | np.integer) or isinstance(token, bool):
            raise InputError(f"the {what} holds {quoted(token)}; token ids are whole numbers")
        if not 0 <= token < config.n_vocab:
            raise InputError(
                f"the {what} holds the id {quoted(token)}; this model's ids go from 0 to "
                f"{config.n_vocab - 1}"
            )
        checked.append(int(token))
    if not checked:
        raise InputError(f"the {what} is empty; give at least one token")
    if len(checked) > MOST:
        raise InputError(f"the {what} has more than {MOST} tokens; give it in parts")
    return checked


def check_batch(tokens: Any, config: Config) -> list[list[int]]:
    """A batch of ids [B, T] as lists, or an error that names what is wrong with it."""
    tokens = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    if isinstance(tokens, str | bytes | bytearray | Mapping | set) or not _is_listed(tokens):
        raise InputError(f"tokens: got {quoted(tokens)}; a batch [B, T] of ids is needed")
    rows = []
    for row in islice(tokens, MOST + 1):
        if not _is_listed(row):
            raise InputError(f"tokens: got a row {quoted(row)}; a batch [B, T] of ids is needed")
        rows.append(check_ids(row, config, "batch"))
        if len(rows[-1]) != len(rows[0]):
            raise InputError("tokens: the rows differ in length; a batch [B, T] is needed")
        if len(rows[-1]) > config.n_ctx:
            raise InputError(
                f"tokens: {len(rows[-1])} are more than the model's {config.n_ctx} positions; "
                "give fewer"
            )
    if not rows or len(rows) > MOST:
        raise InputError(f"tokens: a batch holds 1 to {MOST} rows; it has none, or more")
    return rows


def _is_listed(given: Any) -> bool:
    return isinstance(given, Iterable) and getattr(given, "ndim", 1) > 0
