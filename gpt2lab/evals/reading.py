"""Texts as tokens for scoring: a context that fits the window, and questions in portions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gpt2lab import score
from gpt2lab.errors import InputError
from gpt2lab.evals.task import Watch
from gpt2lab.lm import LM
from gpt2lab.score import Continuation

PORTION = 64  # questions between two reports of progress


def ids(lm: LM, text: str) -> list[int]:
    """The tokens of a text alone; a name of a special token in it is plain text."""
    if lm.tokenizer is None:
        raise InputError(f"{lm.name} comes without a tokenizer; evaluate a model that has one")
    return lm.tokenizer.encode(text, add_special_tokens=False)


def begun(lm: LM, tokens: list[int]) -> list[int]:
    """Tokens after the one that documents begin after, where the model has it."""
    return tokens if lm.config.begin is None else [lm.config.begin, *tokens]


def fitting(lm: LM, context: list[int], longest: int) -> list[int]:
    """The end of a context that leaves room for an ending of `longest` tokens."""
    room = lm.config.n_ctx - longest + 1
    if room < 1:
        raise InputError(
            f"an ending of {longest} tokens does not fit the model's {lm.config.n_ctx} positions; "
            "evaluate a model with a longer context"
        )
    return context[-room:]


def split(lm: LM, context: str, ending: str) -> tuple[list[int], list[int]]:
    """The tokens of a text, cut where the ending begins.

    White space at the end of the context belongs to the ending, as tokens begin with a space; the
    cut is by the number of the context's own tokens. Source: lm-evaluation-harness, `_encode_pair`.
    """
    kept = context.rstrip()
    ending = context[len(kept) :] + ending
    before, whole = ids(lm, kept), ids(lm, kept + ending)
    return before, whole[len(before) :]


def questions(
    lm: LM, asked: Sequence[tuple[list[int], list[list[int]]]], watch: Watch
) -> Iterator[list[Continuation]]:
    """The scores of the endings of each question; contexts are cut from the left to fit."""
    for start in range(0, len(asked), PORTION):
        part = [
            (fitting(lm, context, max(map(len, endings))), endings)
            for context, endings in asked[start : start + PORTION]
        ]
        yield from score.continuations(lm.engine, part)
        watch(min(len(asked), start + PORTION))


def best(values: Sequence[float]) -> int:
    """The place of the largest value, of equal ones the first."""
    return max(range(len(values)), key=lambda i: (values[i], -i))


def window(lm: LM) -> str:
    """The window in a protocol id."""
    return f"ctx{lm.config.n_ctx}"


def nats(found: Any) -> float:
    """The negative log-probability of an ending."""
    return -float(found.total)
