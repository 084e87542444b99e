"""Batches: pure functions of seed and step, every token once an epoch, the same for all ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2lab.corpus.batches import CYCLE, ORDERS, Batches, Evaluation, TrainingBatch
from gpt2lab.corpus.token_set import Tokens, TokenSet
from gpt2lab.errors import InputError
from gpt2lab.text.tokenizer import Tokenizer

END = 10_000

FROZEN_PACKED = [[7, 10000, 9, 10, 11, 12], [19, 20, 10000, 0, 1, 2]]
FROZEN_WINDOWS = [407, 375, 430, 153]


def made(lengths: list[int], end: bool, name: str = "texts") -> TokenSet:
    """Documents of these lengths; every token differs, but for the end token that closes each."""
    total = sum(lengths)
    ids, ends = np.arange(total), np.cumsum(lengths)
    if end:
        ids[ends - 1] = END
    return TokenSet.of(name, ids, ends, n_vocab=END + 1, end_token=END if end else None)


def plain(n: int, name: str = "text") -> TokenSet:
    return made([n], False, name)


def one(data: TokenSet, **more) -> Batches:
    return Batches([(data, 1.0)], **{"block": 8, "batch": 4, "seed": 3, **more})


def real(batch: TrainingBatch) -> list[tuple[int, int]]:
    """(input, target) of everything that counts."""
    pairs = []
    for tokens, targets, length in zip(*batch, strict=True):
        assert not tokens[length:].any() and not targets[length:].any()
        pairs += zip(tokens[:length].tolist(), targets[:length].tolist(), strict=True)
    return pairs


def samples(batches: Batches, start: int, stop: int) -> list[TrainingBatch]:
    """The samples start:stop of a run, one by one, whatever step they are in."""
    return [
        batches.rows(p // batches.batch, p % batches.batch, p % batches.batch + 1)
        for p in range(start, stop)
    ]


def same(a: TrainingBatch, b: TrainingBatch) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=12).filter(lambda x: sum(x) > 1)


@given(LENGTHS, st.integers(1, 40), st.integers(1, 5), st.booleans(), st.integers(0, 2**63 - 1))
@settings(max_examples=150, deadline=None)
def test_packed_predicts_every_token_once_an_epoch(lengths, block, batch, end, seed):
    data = made(lengths, end)
    batches = one(data, block=block, batch=batch, seed=seed)
    row, ends = data.tokens[:].tolist(), set(data.ends.tolist())
    after = {row[at - 1]: row[at] for at in range(1, len(row)) if at not in ends}
    firsts = {row[0], *(row[at] for at in ends if at < len(row))}
    for epoch in range(3):
        n = batches.blocks_per_epoch
        pairs = [pair for b in samples(batches, epoch * n, (epoch + 1) * n) for pair in real(b)]
        found, wanted = Counter(target for _, target in pairs), Counter(row)
        if end:
            assert found == wanted
        else:
            assert sum((wanted - found).values()) == 1 and not found - wanted
        for before, target in pairs:
            assert target in firsts if before not in after else after[before] == target
            assert not (end and target in firsts and target != END) or before == END


@given(
    st.sampled_from(ORDERS),
    st.lists(st.integers(2, 60), min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(0, 2000),
    st.data(),
)
@settings(max_examples=80, deadline=None)
def test_a_batch_is_pure(order, lengths, batch, step, data):
    """Parts make the whole, a new object gives the same, nothing depends on what was asked."""

    def new() -> Batches:
        sets = [(made([n, 3], bool(n % 2), str(i)), i + 1.0) for i, n in enumerate(lengths)]
        return Batches(sets, block=7, batch=batch, order=order, seed=5)

    batches = new()
    whole = batches.rows(step)
    cut = data.draw(st.integers(0, batch))
    parts = [new().rows(step, a, b) for a, b in ((0, cut), (cut, batch)) if a < b]
    joined = TrainingBatch(*map(np.concatenate, zip(*parts, strict=True)))
    batches.rows(data.draw(st.integers(0, 3000)))
    assert same(joined, whole) and same(batches.rows(step), whole)
    assert [array.dtype for array in whole] == [np.int64] * 3
    assert whole.tokens.shape == whole.targets.shape == (batch, 7)
    assert set(whole.lengths.tolist()) <= set(range(1, 8))


@pytest.mark.parametrize("order", ORDERS)
def test_seeds_and_epochs_differ(order):
    data = made([5] * 200, True)
    first, other = one(data, order=order), one(data, order=order, seed=4)
    assert not same(first.rows(0), other.rows(0))
    n = first.blocks_per_epoch
    before, after = samples(first, 0, n), samples(first, n, 2 * n)
    assert not all(map(same, before, after))


def test_the_order_of_documents_does_not_depend_on_the_batch():
    data = made([4, 9, 2, 6, 30], True)
    n = one(data).blocks_per_epoch
    by_four, by_three = samples(one(data), 0, 2 * n), samples(one(data, batch=3), 0, 2 * n)
    assert all(map(same, by_four, by_three))


def test_documents_are_shuffled_uniformly():
    """Of three documents, each of the six orders comes about as often."""
    data = made([2, 2, 2], False)
    batches = one(data, block=100, batch=1)
    orders = Counter(tuple(batches.rows(epoch).tokens[0, :5:2]) for epoch in range(3000))
    assert len(orders) == 6 and all(400 < count < 600 for count in orders.values())


def test_orders_are_frozen():
    """A run that is resumed under another NumPy must find its data in the same order."""
    batches = one(made([7, 2, 9, 4], True), block=6, batch=2)
    assert batches.rows(0).targets.tolist() == FROZEN_PACKED
    windows = one(plain(500), block=3, order="windows")
    assert windows.rows(9).tokens[:, 0].tolist() == FROZEN_WINDOWS


@given(st.integers(2, 300), st.integers(1, 40), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_windows_are_rows_of_the_text(n, block, step):
    batch = one(plain(n), block=block, order="windows").rows(step)
    length = min(block, n - 1)
    assert batch.lengths.tolist() == [length] * 4
    start = batch.tokens[:, :1]
    assert (batch.tokens[:, :length] == start + np.arange(length)).all()
    assert (batch.targets[:, :length] == batch.tokens[:, :length] + 1).all()
    assert (start >= 0).all() and (start + length < n).all()


def test_windows_begin_everywhere_alike():
    batches = one(plain(24), block=4, batch=100, order="windows")
    starts = Counter()
    for step in range(100):
        starts.update(batches.rows(step).tokens[:, 0].tolist())
    assert sorted(starts) == list(range(20))
    assert all(400 < count < 600 for count in starts.values())


def test_shares_are_exact_in_every_thousand():
    weights = [0.65, 0.3, 0.05]
    sets = [(made([100], False, name), w) for name, w in zip("abc", weights, strict=True)]
    batches = Batches(sets, block=9, batch=50, seed=1)
    for cycle in range(2):
        steps = range(cycle * CYCLE // 50, (cycle + 1) * CYCLE // 50)
        names = Counter(place.set for step in steps for place in batches.where(step))
        assert names == {"a": 650, "b": 300, "c": 50}


def test_every_set_walks_its_own_epochs():
    """Whatever stands beside it, a set gives its blocks in turn: all of them before one again."""
    small, large = made([40], False, "small"), made([400], False, "large")
    batches = Batches([(small, 1.0), (large, 3.0)], block=13, batch=6, seed=2)
    seen: dict[str, list[tuple]] = {"small": [], "large": []}
    for step in range(300):
        for place in batches.where(step):
            seen[place.set].append((place.epoch, *place.spans))
    for name, blocks in (("small", 3), ("large", 31)):
        for epoch in range(len(seen[name]) // blocks):
            part = seen[name][epoch * blocks : (epoch + 1) * blocks]
            assert {e for e, *_ in part} == {epoch} and len(set(part)) == blocks


def test_where_shows_the_text():
    tokenizer = Tokenizer.characters("abcdefgh", ["<|endoftext|>"])
    ids = tokenizer.encode("abc<|endoftext|>defgh<|endoftext|>", allowed_special="all")
    data = TokenSet.of("letters", ids, n_vocab=9, end_token=8, tokenizer=tokenizer)
    batches = one(data, block=100, batch=1)
    [place] = batches.where(5)
    assert place.set == "letters" and place.epoch == 5
    assert place.text in (
        "<|endoftext|>abc<|endoftext|>defgh<|endoftext|>",
        "<|endoftext|>defgh<|endoftext|>abc<|endoftext|>",
    )
    assert sorted(place.spans) == [(0, 0, 4), (1, 4, 10)]
    [window] = one(data, block=3, batch=1, order="windows").where(0)
    start = window.spans[0][1]
    assert window.text == tokenizer.decode(ids[start : start + 4])


@given(st.integers(2, 200), st.integers(1, 50), st.none() | st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_evaluation_predicts_every_token_once(n, block, most):
    found = Evaluation(plain(n), block, most)
    pairs = [pair for i in range(0, len(found), 3) for pair in real(found.rows(i, i + 3))]
    assert all(target == before + 1 for before, target in pairs)
    targets = [target for _, target in pairs]
    assert len(targets) == found.n_targets and targets == sorted(set(targets))
    if most is None or len(found) < most:
        assert targets == list(range(1, n))
    else:
        assert len(found) == most


def test_evaluation_of_few_windows_spreads_them():
    found = Evaluation(plain(1001), 10, 4)
    assert found.rows(0, 4).tokens[:, 0].tolist() == [0, 250, 500, 750]


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=4), st.data())
def test_many_arrays_are_one_row(parts, data):
    row = np.array([id_ for part in parts for id_ in part], np.uint16)
    tokens = Tokens([np.array(part, np.uint16) for part in parts])
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(row))] * 2)))
    assert len(tokens) == len(row)
    assert tokens[start:stop].tolist() == row[start:stop].tolist()
    if len(row):
        at = np.array(data.draw(st.lists(st.integers(0, len(row) - 1))), np.int64)
        assert tokens.take(at).tolist() == row[at].tolist()


class Watched(Tokens):
    """Counts what is read."""

    read = 0

    def take(self, at):
        Watched.read += len(at)
        return super().take(at)


def test_a_batch_reads_its_own_tokens_only():
    ids = np.zeros(3_000_000, np.uint16)
    ends = np.arange(3, 3_000_001, 3)
    data = TokenSet("many", Watched([ids]), lambda: ends, 10, None, None, "f")
    batches = one(data, block=64, batch=12)
    batches.rows(7, 2, 5)
    assert Watched.read == 3 * 65


def test_fingerprints_follow_what_is_read():
    a, b = made([5, 6], True, "a"), made([6, 5], True, "b")
    c = made([5, 6], True, "renamed")
    assert a.fingerprint == c.fingerprint != b.fingerprint
    base = one(a).fingerprint
    assert base == one(c, batch=9, seed=8).fingerprint
    two = Batches([(a, 1.0), (a, 1.0)], block=8, batch=4)
    assert base == one(a, block=9).fingerprint == one(a, order="windows").fingerprint
    assert len({base, one(b).fingerprint, two.fingerprint}) == 3


@pytest.mark.parametrize("order", ORDERS)
def test_a_text_of_two_tokens_trains(order):
    batches = one(plain(2), order=order)
    batch = batches.rows(3)
    assert real(batch) == [(0, 1)] * 4 and batches.blocks_per_epoch == 1


BAD = [
    ({"block": 0}, "block is 0; it must be an integer >= 1"),
    ({"batch": 0}, "batch is 0; it must be an integer >= 1"),
    ({"order": "random"}, "order is 'random'; it must be one of packed, windows"),
    ({"seed": -1}, "seed is -1; it must be an integer from 0 to"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_bad_settings_are_named(values, message):
    with pytest.raises(InputError, match=message):
        one(plain(9), **values)


def test_bad_sets_are_named():
    with pytest.raises(InputError, match="text: holds 1 tokens; to predict one, at least 2"):
        one(plain(1))
    with pytest.raises(InputError, match="text: its weight nan must be a number above 0"):
        Batches([(plain(9), float("nan"))], block=2, batch=2)
    with pytest.raises(InputError, match="few: its weight 1e-06 is less than one sample in 1000"):
        Batches([(plain(9, "few"), 1e-6), (plain(9), 1.0)], block=2, batch=2)
    with pytest.raises(InputError, match="sets: 0 given"):
        Batches([], block=2, batch=2)
    with pytest.raises(InputError, match="step 0, rows 3:3: steps count from 0, rows from 0 to 4"):
        one(plain(9)).rows(0, 3, 3)
    with pytest.raises(InputError, match="bad: the id 7 at token 1 is outside the vocabulary"):
        TokenSet.of("bad", [1, 7], n_vocab=7)
