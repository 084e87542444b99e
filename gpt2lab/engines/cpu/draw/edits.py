"""The processors that change few logits: biases, penalties, bans. As in `generation.processors`.

Each takes the space of a row, the row, and its own numbers; False means that NumPy shall decide.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from gpt2lab.engines.cpu.draw import table
from gpt2lab.engines.cpu.draw.numbers import PLAIN
from gpt2lab.engines.cpu.layout import constants, f32, i64
from gpt2lab.engines.cpu.llvm.memory import floats, words

DrawRow, DrawStep = constants(table.DrawRow), constants(table.DrawStep)
REMOVED = f32(-np.inf)


@njit(**PLAIN)
def _ids(step: Any) -> Any:
    return carray(words(step[DrawStep.LIST]), max(step[DrawStep.COUNT], i64(1)))


@njit(**PLAIN)
def _tokens(row: Any, first: int) -> Any:
    """The ids so far, from one on."""
    return carray(words(row[DrawRow.TOKENS] + 8 * first), max(row[DrawRow.COUNT] - first, i64(1)))


@njit(**PLAIN)
def add_biases(m: Any, step: Any) -> bool:
    """`logit_bias`."""
    ids, values = (
        _ids(step),
        carray(floats(step[DrawStep.VALUES]), max(step[DrawStep.COUNT], i64(1))),
    )
    fine = True
    for i in range(step[DrawStep.COUNT]):
        m.y[ids[i]] += values[i]
        fine &= m.y[ids[i]] < np.inf
    return fine


@njit(**PLAIN)
def penalise_seen(m: Any, row: Any, penalty: float) -> bool:
    """`repetition_penalty`."""
    tokens, fine = _tokens(row, i64(0)), True
    for i in range(row[DrawRow.COUNT]):
        token = tokens[i]
        if not m.marks[token]:
            m.marks[token] = 1
            old = m.y[token]
            m.y[token] = old * penalty if old < 0 else old / penalty
            fine &= m.y[token] < np.inf
    for i in range(row[DrawRow.COUNT]):
        m.marks[tokens[i]] = 0
    return fine


@njit(**PLAIN)
def penalise_written(m: Any, row: Any, penalty: float, counted: bool) -> bool:
    """`presence_penalty`, or with counted `frequency_penalty`."""
    n = row[DrawRow.COUNT] - row[DrawRow.PROMPT]
    tokens, fine = _tokens(row, row[DrawRow.PROMPT]), True
    for i in range(n):
        m.marks[tokens[i]] += 1
    for i in range(n):
        token = tokens[i]
        if m.marks[token]:
            m.y[token] -= penalty * f32(m.marks[token]) if counted else penalty
            fine &= m.y[token] < np.inf
            m.marks[token] = 0
    return fine


@njit(**PLAIN)
def ban_repeats(m: Any, row: Any, size: int) -> None:
    """`no_repeat_ngram`."""
    tokens, count = _tokens(row, i64(0)), row[DrawRow.COUNT] - size + 1
    for i in range(count):
        same = i64(0)
        while same < size - 1 and tokens[i + same] == tokens[count + same]:
            same += 1
        if same >= size - 1:
            m.y[tokens[i + size - 1]] = REMOVED


@njit(**PLAIN)
def ban_words(m: Any, row: Any, step: Any) -> None:
    """`bad_words`; the list has the length of each word before its ids."""
    tokens, ids, at = _tokens(row, i64(0)), _ids(step), i64(0)
    while at < step[DrawStep.COUNT]:
        size = ids[at]
        behind, same = row[DrawRow.COUNT] - (size - 1), i64(0)
        while behind >= 0 and same < size - 1 and tokens[behind + same] == ids[at + 1 + same]:
            same += 1
        if behind >= 0 and same == size - 1:
            m.y[ids[at + size]] = REMOVED
        at += size + 1


@njit(**PLAIN)
def ban_ends(m: Any, row: Any, step: Any, least: int) -> None:
    """`min_new_tokens`."""
    ids = _ids(step)
    if row[DrawRow.COUNT] - row[DrawRow.PROMPT] < least:
        for i in range(step[DrawStep.COUNT]):
            m.y[ids[i]] = REMOVED
