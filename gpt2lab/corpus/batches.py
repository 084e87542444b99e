"""The batch of a step: a pure function of the sets, their weights, the seed and the step.

Nothing here remembers what was asked before: step 7,000 is computed without the 6,999 steps before
it, and any rows of it without the others. So a run that is resumed, or spread over any number of
processes, sees the same tokens. Two orders: `windows` begin anywhere, drawn again for every step
(nanoGPT's way); `packed` lays the documents of an epoch end to end in a shuffled order and cuts
that into blocks, so that an epoch predicts every token exactly once.

All randomness is the raw output of Philox, keyed by what it is for: it is the same for every
version of NumPy. Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gpt2lab.corpus.packed import SETS, WINDOWS, PackedSet, permutation, random_bits
from gpt2lab.corpus.token_set import TokenSet
from gpt2lab.errors import InputError

CYCLE = 1000  # samples in which every set has exactly its share
ORDERS = ("packed", "windows")


class Batch(NamedTuple):
    """Rows to learn from: after tokens[b, :t+1] comes targets[b, t].

    tokens, targets: int64 [B, T]. lengths: int64 [B]; what a row holds from its length on is
    filler and counts for nothing. A token is never a mark of filler: any id can be a target.
    """

    tokens: np.ndarray
    targets: np.ndarray
    lengths: np.ndarray


class Place(NamedTuple):
    """Where a row came from.

    spans: (document, start, stop) in the set, tokens counted from its beginning; the stop of the
    last one includes the last target. text: None when no tokenizer is known.
    """

    row: int
    set: str
    epoch: int
    spans: list[tuple[int, int, int]]
    text: str | None


# --- from spans of a row of tokens to a batch -----------------------------------------------------


def _batch(rows: np.ndarray, lengths: np.ndarray) -> Batch:
    """Rows of T+1 ids, of which lengths + 1 are real, as inputs and targets; filler becomes 0."""
    tokens, targets = rows[:, :-1].copy(), rows[:, 1:].copy()  # [B, T] each
    if (lengths < tokens.shape[1]).any():
        filler = np.arange(tokens.shape[1]) >= lengths[:, None]  # [B, T]
        tokens[filler] = targets[filler] = 0
    return Batch(tokens, targets, lengths)


def _windows(data: TokenSet, starts: np.ndarray, block: int) -> Batch:
    """The rows that begin at the given tokens and go on as far as there is text."""
    rows = np.zeros((len(starts), block + 1), np.int64)
    lengths = np.minimum(data.n_tokens - starts - 1, block)  # [B]
    tokens = data.tokens
    for row, start, length in zip(rows, starts.tolist(), lengths.tolist(), strict=True):
        row[: length + 1] = tokens[start : start + length + 1]
    return _batch(rows, lengths)


def _quotas(weights: Sequence[float]) -> np.ndarray:
    """Whole numbers in the ratio of the weights that sum to CYCLE: the largest remainders win."""
    exact = np.array(weights) / math.fsum(weights) * CYCLE
    quotas = np.floor(exact).astype(np.int64)
    most = np.argsort(quotas - exact, kind="stable")
    quotas[most[: CYCLE - quotas.sum()]] += 1
    return quotas


class Part(NamedTuple):
    """The steps of a run with one batch size: the first, the samples done before it, their rows."""

    step: int
    samples: int
    batch: int


class Batches:
    """All batches of a run.

    blocks_per_epoch: samples after which every token was predicted once; of several sets, the sum.
    fingerprint: of the sets and their weights, whatever is made of them. parts: where the batch
    size was changed.
    """

    def __init__(
        self,
        sets: Sequence[tuple[TokenSet, float]],
        *,
        block: int,
        batch: int,
        order: str = "packed",
        seed: int = 0,
        parts: Sequence[Part] = (),
    ) -> None:
        """sets: each with its weight, its share of the samples (exact in every 1,000).

        block: tokens of a row. batch: rows of a step. order: "packed" or "windows". parts: of a run
        that had other batch sizes before; the last is that of now.
        """
        _check(sets, block, batch, order, seed)
        self.sets = [data for data, _ in sets]
        self.block, self.batch, self.order, self.seed = block, batch, order, seed
        self.parts = list(parts) or [Part(0, 0, batch)]
        assert self.parts[-1].batch == batch
        self._quotas = _quotas([weight for _, weight in sets])
        _check_quotas(sets, self._quotas)
        self._packed = [PackedSet(data, block, seed, i) for i, data in enumerate(self.sets)]
        self._cycle = lru_cache(maxsize=4)(self._dealt)
        self.blocks_per_epoch = sum(map(self._blocks, range(len(sets))))
        weights = [weight for _, weight in sets]
        read = [[data.fingerprint for data in self.sets], weights]
        self.fingerprint = hashlib.sha256(json.dumps(read).encode()).hexdigest()

    @property
    def began(self) -> int:
        """The first step on these data."""
        return self.parts[0].step

    def samples_before(self, step: int) -> int:
        """How many samples were seen before a step."""
        part = self._part(step)
        return part.samples + (step - part.step) * part.batch

    def steps(self, samples: float) -> int:
        """The steps after which this many samples are seen, with the current batch size."""
        at, done, batch = self.parts[-1]
        return at + math.ceil((samples - done) / batch - 1e-9)

    def _part(self, step: int) -> Part:
        return next(part for part in reversed(self.parts) if part.step <= step)

    def _blocks(self, which: int) -> int:
        if self.order == "packed":
            return self._packed[which].blocks
        return max(1, self.sets[which].n_tokens // self.block)

    def _dealt(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """For each sample of a cycle its set, and how many the set had in the cycle before it."""
        dealt = np.repeat(np.arange(len(self._quotas)), self._quotas)
        dealt = dealt[permutation(CYCLE, self.seed, SETS, 0, cycle)]  # [CYCLE]
        before = np.empty(CYCLE, np.int64)
        for which, quota in enumerate(self._quotas):
            before[dealt == which] = np.arange(quota)
        return dealt, before

    def _samples(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the samples start:stop of the run: the set of each, and its number in that set."""
        numbers = np.arange(start, stop)
        if len(self.sets) == 1:
            return np.zeros(len(numbers), np.int64), numbers
        cycles = [self._cycle(c) for c in range(start // CYCLE, (stop - 1) // CYCLE + 1)]
        at = numbers - start // CYCLE * CYCLE
        which = np.concatenate([dealt for dealt, _ in cycles])[at]
        before = np.concatenate([count for _, count in cycles])[at]
        return which, numbers // CYCLE * self._quotas[which] + before

    def _starts(self, step: int, rows: np.ndarray, which: int) -> np.ndarray:
        """Where the windows of these rows begin; drawn for the whole step."""
        raw = random_bits(self._part(step).batch, self.seed, WINDOWS, 0, step)[rows]
        choices = max(1, self.sets[which].n_tokens - self.block)
        starts: np.ndarray = (raw % np.uint64(choices)).astype(np.int64)
        return starts

    def _of_one_set(self, step: int, rows: np.ndarray, which: int, samples: np.ndarray) -> Batch:
        if self.order == "packed":
            return _batch(*self._packed[which].rows(samples))
        return _windows(self.sets[which], self._starts(step, rows, which), self.block)

    def rows(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """The rows start:stop of the batch of a step, all by default; steps count from 0.

        Only these rows are read.
        """
        batch = self._part(max(step, self.began)).batch
        stop = batch if stop is None else stop
        if step < self.began or not 0 <= start < stop <= batch:
            raise InputError(
                f"step {step}, rows {start}:{stop}: steps count from {self.began}, rows from 0 to "
                f"{batch}"
            )
        base = self.samples_before(step)
        which, samples = self._samples(base + start, base + stop)
        if len(self.sets) == 1:
            return self._of_one_set(step, np.arange(start, stop), 0, samples)
        return self._of_several(step, np.arange(start, stop), which, samples)

    def _of_several(
        self, step: int, rows: np.ndarray, which: np.ndarray, samples: np.ndarray
    ) -> Batch:
        whole = Batch(*(np.zeros((len(rows), n), np.int64) for n in (self.block, self.block, 1)))
        for number in np.unique(which):
            here = np.flatnonzero(which == number)
            part = self._of_one_set(step, rows[here], int(number), samples[here])
            whole.tokens[here], whole.targets[here] = part.tokens, part.targets
            whole.lengths[here, 0] = part.lengths
        return whole._replace(lengths=whole.lengths[:, 0])

    def where(self, step: int) -> list[Place]:
        """Where every row of a step came from, for people: set, documents, text."""
        batch, base = self.rows(step), self.samples_before(step)
        which, samples = self._samples(base, base + len(batch.tokens))
        return [
            self._place(step, row, int(which[row]), int(samples[row]), batch)
            for row in range(len(batch.tokens))
        ]

    def _place(self, step: int, row: int, which: int, sample: int, batch: Batch) -> Place:
        data, length = self.sets[which], int(batch.lengths[row])
        if self.order == "packed":
            epoch, spans = self._packed[which].spans(sample)
        else:
            start = int(self._starts(step, np.array([row]), which)[0])
            epoch, spans = sample // self._blocks(which), [(start, start + length + 1)]
        ids = [*batch.tokens[row, :length].tolist(), int(batch.targets[row, length - 1])]
        text = data.tokenizer.decode(ids) if data.tokenizer else None
        return Place(row, data.name, epoch, _by_document(data, spans), text)


def _by_document(data: TokenSet, spans: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Spans of a set cut where its documents end: (document, start, stop)."""
    found = []
    for start, stop in spans:
        number = int(np.searchsorted(data.ends, start, "right"))
        while start < stop:
            end = min(stop, int(data.ends[number]))
            found.append((number, start, end))
            start, number = end, number + 1
    return found


def _check(
    sets: Sequence[tuple[TokenSet, float]], block: int, batch: int, order: str, seed: int
) -> None:
    if not sets or len(sets) > CYCLE:
        raise InputError(f"sets: {len(sets)} given, expected 1 to {CYCLE}")
    if block < 1 or batch < 1:
        raise InputError(f"block {block}, batch {batch}: both must be at least 1")
    if order not in ORDERS:
        raise InputError(f"order: {order!r} is unknown; known: {', '.join(ORDERS)}")
    if not 0 <= seed < 1 << 63:
        raise InputError(f"seed: {seed} is outside 0 to 2**63 - 1")
    for data, weight in sets:
        _check_length(data)
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(f"{data.name}: its weight {weight} must be a number above 0")


def _check_length(data: TokenSet) -> None:
    if data.n_tokens < 2:
        raise InputError(
            f"{data.name}: holds {data.n_tokens} tokens; to predict one, at least 2 are needed"
        )


def _check_quotas(sets: Sequence[tuple[TokenSet, float]], quotas: np.ndarray) -> None:
    for (data, weight), quota in zip(sets, quotas, strict=True):
        if quota < 1:
            raise InputError(
                f"{data.name}: its weight {weight} is less than one sample in {CYCLE}; "
                "raise it, or leave the set out"
            )


# --- evaluation -----------------------------------------------------------------------------------


class Evaluation:
    """The windows over which a loss is measured: len() of them, `rows(start, stop)` gives some.

    n_targets: how many tokens they predict in all.
    """

    def __init__(self, data: TokenSet, block: int, numbers: np.ndarray) -> None:
        self._data, self._block, self._numbers = data, block, numbers
        self.n_targets = int(np.minimum(data.n_tokens - 1 - numbers * block, block).sum())

    def __len__(self) -> int:
        return len(self._numbers)

    def rows(self, start: int, stop: int) -> Batch:
        """The windows start:stop, as far as there are any."""
        return _windows(self._data, self._numbers[start:stop] * self._block, self._block)


def evaluation(data: TokenSet, block: int, most: int | None = None) -> Evaluation:
    """A split cut into windows of `block` tokens: every token but the first is predicted once.

    The last window is shorter. most: the limit of windows, evenly spaced when there are more.
    """
    _check_length(data)
    if block < 1 or (most is not None and most < 1):
        raise InputError(f"block {block}, most {most}: both must be at least 1")
    total = math.ceil((data.n_tokens - 1) / block)
    count = total if most is None else min(most, total)
    return Evaluation(data, block, np.arange(count) * total // count)
