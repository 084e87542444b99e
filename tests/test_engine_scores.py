"""Scores from the engines: those of the reference's logits, the same bits in any company."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2lab import engines, reference
from gpt2lab.config import Config
from gpt2lab.engines.cpu import cpu_features
from gpt2lab.engines.wanted import Wanted
from gpt2lab.errors import InputError

from .support import tiny_params

# Blocks of the head have 256 ids: eleven of them, the last in part. NumPy adds up eight in another
# order than fewer, in one row as in many or not.
CONFIG = Config(n_vocab=2611, n_ctx=320, n_embd=40, n_head=4, n_layer=2)
KINDS = [("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "int8"), ("int4", "bfloat16")]
EVERYTHING = {"top": 7, "rank": True, "entropy": True}

needs_cpu = pytest.mark.skipif(bool(cpu_features.why_not()), reason=cpu_features.why_not())


@pytest.fixture(scope="module")
def params():
    return tiny_params(CONFIG, scale=6.0)


def tokens(count, seed=0, config=CONFIG):
    return np.random.default_rng(seed).integers(0, config.n_vocab, count).tolist()


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def scored(engine, ids, wanted):
    """The scores of one slot alone."""
    cache = engine.cache()
    [found] = engine.score(cache, [cache.new()], [ids], [wanted])
    return found


def same(one, other):
    """Whether two scores are the same bits."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in vars(one)]
    return all(
        x is y is None or (x is not None and y is not None and np.array_equal(x, y))
        for x, y in pairs
    )


def at(scores, places):
    """The scores at some of the positions."""
    return dataclasses.replace(scores, **{k: v[places] for k, v in vars(scores).items()})


# ---- Equal to the reference.


@pytest.mark.parametrize("name", [pytest.param("cpu", marks=needs_cpu), "numpy", "torch"])
@pytest.mark.parametrize("n_vocab", [2611, 256, 1, 50])
def test_scores_are_those_of_the_reference(name, n_vocab):
    if name == "torch":
        pytest.importorskip("torch")
    config = dataclasses.replace(CONFIG, n_vocab=n_vocab)
    own = tiny_params(config, scale=6.0)
    engine = engines.choose(config, own, name)
    ids = tokens(270, config=config)
    exact = {key: value.astype(np.float64) for key, value in own.items()}
    expected = log_softmax(reference.model(config, exact, [ids])["logits"][0])  # [T, V]
    positions, targets = [*range(260), 5, 5, 269], tokens(263, 1, config)
    k = min(7, n_vocab)
    found = scored(engine, ids, Wanted(positions, targets, k, rank=True, entropy=True))
    rows = expected[positions]  # [P, V]
    own_logprobs = rows[np.arange(len(rows)), targets]
    assert np.abs(found.logprobs - own_logprobs).max() < 1e-5
    assert np.abs(found.entropies + (np.exp(rows) * rows).sum(-1)).max() < 1e-5
    order = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    assert (found.top_ids == order).mean() > 0.99  # a few are as close as float32 goes
    assert np.abs(found.top_logprobs - np.take_along_axis(rows, order, 1)).max() < 1e-5
    ranks = (rows > own_logprobs[:, None]).sum(1) + 1
    assert (found.ranks == ranks).mean() > 0.98 and np.abs(found.ranks - ranks).max() < 2


@needs_cpu
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_scores_are_those_of_the_engine_s_own_logits(params, kind):
    engine = engines.choose(CONFIG, params, "cpu", kind[0], cache_dtype=kind[1])
    ids, targets = tokens(300), tokens(300, 1)
    logits = engine.logits([ids])[0]
    expected = log_softmax(logits)
    found = scored(engine, ids, Wanted(range(300), targets, 2611, rank=True, entropy=True))
    own = logits[np.arange(300), targets]
    assert np.abs(found.logprobs - expected[np.arange(300), targets]).max() < 2e-6
    assert np.array_equal(found.ranks, (logits > own[:, None]).sum(1) + 1)
    assert np.array_equal(found.top_ids, np.argsort(-logits, axis=1, kind="stable"))
    few = scored(engine, ids, Wanted(range(300), targets, 9))
    assert np.array_equal(few.top_ids, found.top_ids[:, :9])
    assert np.array_equal(few.top_logprobs, found.top_logprobs[:, :9])


@needs_cpu
def test_equal_logits_come_in_the_order_of_their_ids(params):
    """Two ids share a row of the head, in other blocks of it."""
    own = {**params, "lm_head.weight": params["wte.weight"][np.arange(2611) % 1300]}
    found = scored(engines.choose(CONFIG, own, "cpu"), tokens(50), Wanted(range(50), top=6))
    pairs = found.top_ids.reshape(-1, 2)
    doubled = pairs[(pairs % 1300)[:, 0] == (pairs % 1300)[:, 1]]
    assert len(doubled) > 100 and (doubled[:, 0] < doubled[:, 1]).all()


# ---- The same bits in any company.


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def pair(request, params):
    """The same engine with one thread and with three."""
    if cpu_features.why_not():
        pytest.skip(cpu_features.why_not())
    dtype, cache = request.param
    return [
        engines.choose(CONFIG, params, "cpu", dtype, cache_dtype=cache, threads=n) for n in (1, 3)
    ]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_scores_are_the_same_bits_in_any_company(pair, data):
    """Random batches, portions, positions and numbers of ids, against each text alone."""
    single, many = pair
    n = data.draw(st.integers(1, 4), "texts")
    texts = [tokens(data.draw(st.integers(1, 300), "length"), seed) for seed in range(n)]
    targets = [tokens(len(text), seed + 50) for seed, text in enumerate(texts)]
    alone = [
        scored(single, text, Wanted(range(len(text)), goals, **EVERYTHING))
        for text, goals in zip(texts, targets, strict=True)
    ]
    cache, fed = many.cache(), [0] * n
    slots = [cache.new() for _ in texts]
    while going := [i for i in range(n) if fed[i] < len(texts[i])]:
        chosen = data.draw(st.permutations(going), "order")
        parts = [texts[i][fed[i] :][: data.draw(st.integers(1, 260), "new")] for i in chosen]
        wanted = []
        for i, part in zip(chosen, parts, strict=True):
            count = st.integers(0, len(part) - 1)
            where = data.draw(st.lists(count, max_size=9), "where")
            where = data.draw(st.sampled_from([where, [*range(len(part))]]), "positions")
            goals = [targets[i][fed[i] + p] for p in where]
            wanted.append(Wanted(where, goals, **EVERYTHING))
        found = many.score(cache, [slots[i] for i in chosen], parts, wanted)
        for i, part, w, scores in zip(chosen, parts, wanted, found, strict=True):
            assert same(scores, at(alone[i], [fed[i] + p for p in w.positions]))
            fed[i] += len(part)


def test_a_step_after_scores_is_a_step_after_a_step(pair):
    """A scoring step writes the keys and values of a step, and leaves no trace in the next one."""
    engine, ids = pair[1], tokens(90)
    cache = engine.cache()
    one, other = cache.new(), cache.new()
    engine.score(cache, [one], [ids[:60]], [Wanted([3, 3, 59], [1, 2, 3])])
    engine.step(cache, [other], [ids[:60]])
    logits = engine.step(cache, [one, other], [ids[60:]] * 2)
    assert np.array_equal(*logits) and cache.length(one) == 90
    engine.score(cache, [one, other], [[7], [8]], [Wanted(), Wanted([0], [1])])
    assert np.array_equal(engine.step(cache, [one], [[9]])[0], engine.logits([[*ids, 7, 9]])[0, -1])


def test_the_numpy_engine_scores_a_row_alone(params):
    """BLAS sums in another order for another number of rows; there are always as many."""
    engine = engines.choose(CONFIG, params, "numpy")
    texts = [tokens(40, seed) for seed in range(3)]
    wanted = [Wanted(range(40), text, **EVERYTHING) for text in texts]
    cache = engine.cache()
    together = engine.score(cache, [cache.new() for _ in texts], texts, wanted)
    for text, one, found in zip(texts, wanted, together, strict=True):
        assert same(scored(engine, text, one), found)
        few = Wanted([39, 3, 17], [text[39], text[3], text[17]], **EVERYTHING)
        assert same(scored(engine, text, few), at(found, [39, 3, 17]))


def test_acts_change_scores_as_they_change_logits(params):
    """An act on the logits of one position reaches that position's scores, after a past too."""
    from gpt2lab import lens
    from gpt2lab.engines.numpy_engine import NumpyEngine

    act = lens.patch("logits", 3.0, positions=[5], units=[9])
    engine = NumpyEngine(CONFIG, params, tap=lambda before: lens.tap([act], before))
    plain, ids = engines.choose(CONFIG, params, "numpy"), tokens(8)
    expected = log_softmax(engine.logits([ids])[0])[:, 9]
    assert np.abs(expected - log_softmax(plain.logits([ids])[0])[:, 9])[5] > 0.1
    cache = engine.cache()
    slot = cache.new()
    first = engine.score(cache, [slot], [ids[:4]], [Wanted(range(4), [9] * 4)])[0]
    rest = engine.score(cache, [slot], [ids[4:]], [Wanted(range(4), [9] * 4)])[0]
    assert np.abs(np.concatenate([first.logprobs, rest.logprobs]) - expected).max() < 1e-5


# ---- Memory.


@pytest.mark.parametrize("name", [pytest.param("cpu", marks=needs_cpu), "numpy"])
def test_logits_of_all_positions_are_never_in_memory(name):
    config = dataclasses.replace(CONFIG, n_vocab=20_000)
    engine = engines.choose(config, tiny_params(config), name)
    ids = tokens(320, config=config)
    wanted = Wanted(range(320), ids, 5, rank=True, entropy=True)
    scored(engine, ids[:20], Wanted([1], [1]))
    tracemalloc.start()
    scored(engine, ids, wanted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 320 * 20_000 * 4 / 2  # half of the logits


# ---- Bad input.

BAD = [
    (Wanted([0, 3], [1, 2]), "position is 3; it must be an integer from 0 to 2"),
    (Wanted([-1], [1]), "position is -1; it must be an integer from 0 to 2"),
    (Wanted([True], [1]), "position is True; it must be an integer"),
    (
        Wanted([0], [2611]),
        "the list of targets holds the id 2611; this model's ids go from 0 to 2610",
    ),
    (Wanted([0], [-1]), "the list of targets holds the id -1"),
    (Wanted([0, 1], [5]), "2 positions and 1 targets; give as many"),
    (Wanted([], [5]), "0 positions and 1 targets; give as many"),
    (Wanted([0], [5], top=2612), "top is 2612; it must be an integer from 0 to 2611"),
    (Wanted([0], rank=True), "ranks are those of targets, and there are none; give targets"),
]


@pytest.mark.parametrize("name", [pytest.param("cpu", marks=needs_cpu), "numpy", "torch"])
@pytest.mark.parametrize(("wanted", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_what_cannot_be_measured_is_named_and_changes_nothing(params, name, wanted, message):
    if name == "torch":
        pytest.importorskip("torch")
    engine = engines.choose(CONFIG, params, name)
    cache = engine.cache()
    one, two = cache.new(), cache.new()
    with pytest.raises(InputError) as caught:
        engine.score(cache, [one, two], [[1, 2], [1, 2, 3]], [Wanted(), wanted])
    assert message in str(caught.value)
    with pytest.raises(InputError, match="2 slots and 1 of what is wanted; give as many"):
        engine.score(cache, [one, two], [[1], [2]], [Wanted()])
    assert (cache.length(one), cache.length(two)) == (0, 0)
    assert engine.score(cache, [], [], []) == []


@pytest.mark.parametrize("name", [pytest.param("cpu", marks=needs_cpu), "numpy", "torch"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(params, name, value):
    if name == "torch":
        pytest.importorskip("torch")
    head = params["wte.weight"].copy()
    head[300] = value
    engine = engines.choose(CONFIG, {**params, "lm_head.weight": head}, name)
    cache = engine.cache()
    slot = cache.new()
    with pytest.raises(InputError, match=r"NaN or infinity at ids? .*; check the weights"):
        engine.score(cache, [slot], [[1, 2]], [Wanted([1], [3])])
    assert cache.length(slot) == 0
