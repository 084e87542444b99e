"""What a scoring step measures: the request, the result, and the measuring of logits in NumPy.

A `Wanted` names positions of the new tokens of one slot, and what is wanted of the distribution of
the token that follows each; `Scores` holds it. `measure` is the rule, a few lines a number; the
`cpu` and `torch` engines compute the same without logits in NumPy.

Shapes: P positions, K most probable ids, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpt2lab.checks import check_ids, whole
from gpt2lab.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Wanted:
    """What to measure of one slot in a scoring step.

    positions: indices of the slot's new tokens, from 0, in any order and any of them several times;
    what is measured is the distribution of the token that follows each. targets: the id for each
    position whose log-probability is wanted, None for no log-probabilities. top: how many of the
    most probable ids. rank: whether the targets' ranks are wanted. entropy: whether the
    distributions' entropies are.
    """

    positions: Sequence[int] = ()
    targets: Sequence[int] | None = None
    top: int = 0
    rank: bool = False
    entropy: bool = False

    def of(self, part: slice) -> Wanted:
        """The same of some of the positions."""
        targets = None if self.targets is None else self.targets[part]
        return replace(self, positions=self.positions[part], targets=targets)


@dataclass(frozen=True)
class Scores:
    """What was measured at the positions of a `Wanted`, in its order; logarithms are natural.

    logprobs: [P] log-probability of each target. top_ids: [P, K] the most probable ids, the most
    probable first, of equal ones the smaller id; top_logprobs: [P, K] theirs. ranks: [P] 1 + how
    many ids are more probable than the target. entropies: [P] in nats. None for what was not asked.
    """

    logprobs: Array | None = None
    top_ids: Array | None = None
    top_logprobs: Array | None = None
    ranks: Array | None = None
    entropies: Array | None = None


def check_wanted(
    wanted: Sequence[Wanted], tokens: Sequence[Sequence[int]], n_vocab: int
) -> list[Wanted]:
    """What is wanted of each slot, as plain lists; InputError for what cannot be measured.

    tokens: the new ones of each slot.
    """
    if len(wanted) != len(tokens):
        raise InputError(f"{len(tokens)} slots and {len(wanted)} of what is wanted; give as many")
    return [_checked(one, len(new), n_vocab) for one, new in zip(wanted, tokens, strict=True)]


def _checked(w: Wanted, length: int, n_vocab: int) -> Wanted:
    positions = [whole("position", position, 0, length - 1) for position in w.positions]
    targets = w.targets
    if targets is not None:
        if len(targets) != len(positions):
            raise InputError(f"{len(positions)} positions and {len(targets)} targets; give as many")
        targets = check_ids(targets, n_vocab, "list of targets") if positions else []
    elif w.rank:
        raise InputError("ranks are those of targets, and there are none; give targets")
    return replace(w, positions=positions, targets=targets, top=whole("top", w.top, 0, n_vocab))


def check_logits(logits: Array) -> None:
    """Refuse NaN and infinity in logits [.., V]: the largest tells, since a NaN survives `max`."""
    if not logits.max() < np.inf:
        wrong = int(np.argmin(logits < np.inf)) % logits.shape[-1]
        raise InputError(f"the logits hold NaN or infinity at id {wrong}; check the weights")


def largest(values: Array, count: int) -> Array:
    """The indices of the `count` largest of a row, the largest first, of equal ones the smaller."""
    count = min(count, len(values))
    chosen = np.arange(len(values))
    if 0 < count < len(values):
        chosen = np.flatnonzero(values >= np.partition(values, -count)[-count])
    return chosen[np.argsort(-values[chosen], kind="stable")][:count]


def measure(logits: Array, wanted: Wanted) -> Scores:
    """The scores of rows of logits [P, V], one for each position of what is wanted."""
    check_logits(logits)
    logprobs = (logits - logits.max(-1, keepdims=True)).astype(np.float64)
    logprobs -= np.log(np.exp(logprobs).sum(-1, keepdims=True))  # [P, V]
    found: dict[str, Array] = {}
    if wanted.targets is not None:
        own = np.take_along_axis(logprobs, np.array(wanted.targets, np.intp)[:, None], -1)  # [P, 1]
        found["logprobs"] = own[:, 0]
        if wanted.rank:
            found["ranks"] = (logprobs > own).sum(-1) + 1
    if wanted.top:
        ids = np.stack([largest(row, wanted.top) for row in logits])  # [P, K]
        found |= {"top_ids": ids, "top_logprobs": np.take_along_axis(logprobs, ids, -1)}
    if wanted.entropy:
        p = np.exp(logprobs)
        np.multiply(p, logprobs, out=p, where=p > 0)
        found["entropies"] = -p.sum(-1)
    return Scores(**found)


def nothing(w: Wanted) -> Scores:
    """What is wanted, of no positions."""
    none, no_rows = np.zeros(0), np.zeros((0, w.top))
    return Scores(
        logprobs=none if w.targets is not None else None,
        top_ids=no_rows.astype(np.intp) if w.top else None,
        top_logprobs=no_rows if w.top else None,
        ranks=none.astype(np.intp) if w.rank else None,
        entropies=none if w.entropy else None,
    )


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of several lists of positions as one list."""
    names = [name for name in vars(parts[0]) if getattr(parts[0], name) is not None]
    return Scores(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})
