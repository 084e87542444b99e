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

from gpt2lab import checks
from gpt2lab.corpus.packed import SETS, WINDOWS, PackedSet, permutation, random_bits
from gpt2lab.corpus.token_set import TokenSet
from gpt2lab.errors import InputError

CYCLE = 1000  # samples in which every set has exactly its share
ORDERS = ("packed", "windows")
WeightedSets = Sequence[tuple[TokenSet, float]]


class TrainingBatch(NamedTuple):
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


def _batch(rows: np.ndarray, lengths: np.ndarray) -> TrainingBatch:
    """Rows of T+1 ids, of which lengths + 1 are real, as inputs and targets; filler becomes 0."""
    tokens, targets = rows[:, :-1].copy(), rows[:, 1:].copy()  # [B, T] each
    if (lengths < tokens.shape[1]).any():
        filler = np.arange(tokens.shape[1]) >= lengths[:, None]  # [B, T]
        tokens[filler] = targets[filler] = 0
    return TrainingBatch(tokens, targets, lengths)


def _windows(data: TokenSet, starts: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows [B, T + 1] from the given tokens on, as far as there is text, and their lengths."""
    rows = np.zeros((len(starts), block + 1), np.int64)
    lengths = np.minimum(data.n_tokens - starts - 1, block)  # [B]
    for row, start, length in zip(rows, starts.tolist(), lengths.tolist(), strict=True):
        row[: length + 1] = data.tokens[start : start + length + 1]
    return rows, lengths


def _check_length(data: TokenSet) -> None:
    if data.n_tokens < 2:
        raise InputError(
            f"{data.name}: holds {data.n_tokens} tokens; to predict one, at least 2 are needed"
        )


def _quotas(sets: WeightedSets) -> np.ndarray:
    """Whole numbers in the ratio of the weights that sum to CYCLE: the largest remainders win."""
    if not 0 < len(sets) <= CYCLE:
        raise InputError(f"sets: {len(sets)} given, expected 1 to {CYCLE}")
    for data, weight in sets:
        _check_length(data)
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(f"{data.name}: its weight {weight} must be a number above 0")
    weights = [weight for _, weight in sets]
    exact = np.array(weights) / math.fsum(weights) * CYCLE
    quotas = np.floor(exact).astype(np.int64)
    most = np.argsort(quotas - exact, kind="stable")
    quotas[most[: CYCLE - quotas.sum()]] += 1
    for (data, weight), quota in zip(sets, quotas, strict=True):
        if quota < 1:
            raise InputError(
                f"{data.name}: its weight {weight} is less than one sample in {CYCLE}; "
                "raise it, or leave the set out"
            )
    return quotas


class BatchSize(NamedTuple):
    """A batch size of a run: its first step, the samples seen before it, the rows of a step."""

    step: int
    samples: int
    batch: int


class Batches:
    """All batches of a run.

    blocks_per_epoch: samples after which every token was predicted once; of several sets, the sum.
    fingerprint: of the sets and their weights, whatever is made of them. sizes: the batch sizes
    that the run had, the current one last. began: the first step on these data.
    """

    def __init__(
        self,
        sets: WeightedSets,
        *,
        block: int,
        batch: int,
        order: str = "packed",
        seed: int = 0,
        sizes: Sequence[BatchSize] = (),
    ) -> None:
        """sets: each with its weight, its share of the samples (exact in every 1,000).

        block: tokens of a row. batch: rows of a step. order: "packed" or "windows". sizes: of a run
        that had other batch sizes before; the last is that of now.
        """
        self.block, self.batch = checks.whole("block", block, 1), checks.whole("batch", batch, 1)
        self.order = checks.one_of("order", order, ORDERS)
        self.seed = checks.whole("seed", seed, 0, 2**63 - 1)
        self._quotas = _quotas(sets)
        self.sets, weights = [data for data, _ in sets], [weight for _, weight in sets]
        self.sizes = list(sizes) or [BatchSize(0, 0, batch)]
        assert self.sizes[-1].batch == batch
        self.began = self.sizes[0].step
        self._packed = [PackedSet(data, block, seed, i) for i, data in enumerate(self.sets)]
        self._cycle = lru_cache(maxsize=4)(self._dealt)
        self.blocks_per_epoch = sum(map(self._blocks, range(len(sets))))
        read = [[data.fingerprint for data in self.sets], weights]
        self.fingerprint = hashlib.sha256(json.dumps(read).encode()).hexdigest()

    def _size(self, step: int) -> BatchSize:
        return next(size for size in reversed(self.sizes) if size.step <= step)

    def samples_before(self, step: int) -> int:
        """How many samples were seen before a step."""
        size = self._size(step)
        return size.samples + (step - size.step) * size.batch

    def steps(self, samples: float) -> int:
        """The steps after which this many samples are seen, with the current batch size."""
        at, done, batch = self.sizes[-1]
        return at + math.ceil((samples - done) / batch - 1e-9)

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
        first, last = start // CYCLE, (stop - 1) // CYCLE
        dealt, before = zip(*(self._cycle(cycle) for cycle in range(first, last + 1)), strict=True)
        numbers = np.arange(start, stop)
        at = numbers - first * CYCLE
        which = np.concatenate(dealt)[at]
        return which, numbers // CYCLE * self._quotas[which] + np.concatenate(before)[at]

    def _starts(self, step: int, rows: np.ndarray, which: int) -> np.ndarray:
        """Where the windows of these rows begin; drawn for the whole step."""
        raw = random_bits(self._size(step).batch, self.seed, WINDOWS, 0, step)[rows]
        choices = max(1, self.sets[which].n_tokens - self.block)
        starts: np.ndarray = (raw % np.uint64(choices)).astype(np.int64)
        return starts

    def rows(self, step: int, start: int = 0, stop: int | None = None) -> TrainingBatch:
        """The rows start:stop of the batch of a step, all by default; steps count from 0.

        Only these rows are read.
        """
        batch = self._size(max(step, self.began)).batch
        stop = batch if stop is None else stop
        if step < self.began or not 0 <= start < stop <= batch:
            raise InputError(
                f"step {step}, rows {start}:{stop}: steps count from {self.began}, rows from 0 to "
                f"{batch}"
            )
        base, numbers = self.samples_before(step), np.arange(start, stop)
        which, samples = self._samples(base + start, base + stop)
        rows = np.zeros((stop - start, self.block + 1), np.int64)
        lengths = np.zeros(stop - start, np.int64)
        for number in np.unique(which).tolist():
            here = np.flatnonzero(which == number)
            if self.order == "packed":
                found = self._packed[number].rows(samples[here])
            else:
                starts = self._starts(step, numbers[here], number)
                found = _windows(self.sets[number], starts, self.block)
            rows[here], lengths[here] = found
        return _batch(rows, lengths)

    def where(self, step: int) -> list[Place]:
        """Where every row of a step came from, for people: set, documents, text."""
        batch, base = self.rows(step), self.samples_before(step)
        which, samples = self._samples(base, base + len(batch.tokens))
        pairs = zip(which.tolist(), samples.tolist(), strict=True)
        return [self._place(step, row, *pair, batch) for row, pair in enumerate(pairs)]

    def _place(self, step: int, row: int, which: int, sample: int, batch: TrainingBatch) -> Place:
        data, length = self.sets[which], int(batch.lengths[row])
        if self.order == "packed":
            spans = self._packed[which].spans(sample)
        else:
            start = int(self._starts(step, np.array([row]), which)[0])
            spans = [(start, start + length + 1)]
        ids = [*batch.tokens[row, :length].tolist(), int(batch.targets[row, length - 1])]
        text = data.tokenizer.decode(ids) if data.tokenizer else None
        epoch = sample // self._blocks(which)
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


# --- evaluation -----------------------------------------------------------------------------------


class Evaluation:
    """A split cut into windows of `block` tokens: every token but the first is predicted once.

    The last window is shorter. most: the limit of windows, evenly spaced when there are more.
    len() gives their number, `rows(start, stop)` some of them; n_targets: how many tokens they
    predict in all.
    """

    def __init__(self, data: TokenSet, block: int, most: int | None = None) -> None:
        _check_length(data)
        self._data, self._block = data, checks.whole("block", block, 1)
        total = math.ceil((data.n_tokens - 1) / block)
        count = total if most is None else min(checks.whole("most", most, 1), total)
        self._starts = np.arange(count) * total // count * block
        self.n_targets = int(np.minimum(data.n_tokens - 1 - self._starts, block).sum())

    def __len__(self) -> int:
        return len(self._starts)

    def rows(self, start: int, stop: int) -> TrainingBatch:
        """The windows start:stop, as far as there are any."""
        return _batch(*_windows(self._data, self._starts[start:stop], self._block))
