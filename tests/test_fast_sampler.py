"""The compiled draw of the cpu engine against the NumPy sampler: the same tokens, the same bits."""

from __future__ import annotations

import copy
import os
import pickle

import numpy as np
import pytest

from gpt2lab import Sampling
from gpt2lab.engines.cpu import cpu_features
from gpt2lab.errors import InputError
from gpt2lab.generation.batch import Batch
from gpt2lab.generation.draws import RowAsked, draw_rows
from gpt2lab.generation.plans import plan
from gpt2lab.generation.request import Request
from gpt2lab.generation.sampler import next_token, stream

from .support import TINY, new_ids, tiny_params

pytestmark = pytest.mark.skipif(bool(cpu_features.why_not()), reason=cpu_features.why_not())

if not cpu_features.why_not():
    from gpt2lab.engines.cpu import compile_cache
    from gpt2lab.engines.cpu.draw.drawer import Drawer, Plan, RowToDraw
    from gpt2lab.engines.cpu.draw.numbers import uniform
    from gpt2lab.engines.cpu.engine import CpuEngine
    from gpt2lab.engines.cpu.threads import crew

#: Draws of each of `SETTINGS`; GPT2LAB_DRAWS=10000 is the whole comparison.
DRAWS = int(os.environ.get("GPT2LAB_DRAWS", "64"))

ALL = {
    "temperature": 0.9,
    "top_k": 60,
    "top_p": 0.9,
    "min_p": 0.01,
    "typical_p": 0.95,
    "epsilon_cutoff": 1e-4,
    "eta_cutoff": 2e-4,
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 3,
    "bad_words": ((4,), (8, 9)),
    "min_new_tokens": 50,
    "stop_tokens": (11,),
    "logit_bias": {3: 1.5, 5: -np.inf},
}
SETTINGS = {
    "neutral": {},
    "the defaults": {"temperature": 0.7, "top_p": 0.95},
    "greedy": {"temperature": 0},
    "greedy with penalties": {"temperature": 0, "repetition_penalty": 1.5},
    "temperature": {"temperature": 1.7},
    "top_k 1": {"top_k": 1},
    "top_k 40": {"top_k": 40},
    "top_k 700": {"top_k": 700},
    "top_p 0.1": {"top_p": 0.1},
    "top_p 0.7": {"top_p": 0.7},
    "top_p 0.999": {"top_p": 0.999},
    "min_p": {"min_p": 0.05},
    "min_p 1": {"min_p": 1.0},
    "typical_p": {"typical_p": 0.9},
    "typical_p 0.2": {"typical_p": 0.2},
    "epsilon_cutoff": {"epsilon_cutoff": 3e-3},
    "eta_cutoff": {"eta_cutoff": 2e-3},
    "repetition_penalty": {"repetition_penalty": 1.3},
    "presence_penalty": {"presence_penalty": 0.7},
    "frequency_penalty": {"frequency_penalty": 0.4},
    "no_repeat_ngram 1": {"no_repeat_ngram_size": 1},
    "no_repeat_ngram 2": {"no_repeat_ngram_size": 2},
    "bad_words": {"bad_words": ((7,), (8, 9), (3,)), "stop_tokens": (3,)},
    "logit_bias": {"logit_bias": {5: 3.0, 9: -np.inf, 11: -2}},
    "min_new_tokens": {"min_new_tokens": 60, "stop_tokens": (1, 2)},
    "all": ALL | {"presence_penalty": 0.1, "frequency_penalty": 0.2},
    "hf": ALL | {"preset": "hf"},
    "openai": {"preset": "openai", "temperature": 0.8, "top_p": 0.9},
    "openai with top_k": {"preset": "openai", "top_k": 40, "top_p": 0.99},
    "gpt-2-simple": {"preset": "gpt-2-simple", "temperature": 0.7, "top_p": 0.9},
    "gpt-2-simple with top_k": {"preset": "gpt-2-simple", "top_k": 40},
    "nanogpt": {"preset": "nanogpt", "temperature": 0.8, "top_k": 200},
    "an order of one's own": {
        "processors": ("top_p", "temperature", "min_p"),
        "top_p": 0.9,
        "temperature": 1.5,
        "min_p": 0.02,
    },
}
PROMPT = 10


@pytest.fixture(scope="module")
def draws():
    """draws(rows, n_vocab): (token, log-probability) or None of each row."""
    target = cpu_features.here()
    workers = crew(2, compile_cache.library("crew", target))
    kernel = compile_cache.library("draw", target)
    assert Drawer(kernel, 97).has_numpys_exp(workers)
    return lambda rows, n_vocab: Drawer(kernel, n_vocab).draw(workers, rows)


def logits_of(random, n_vocab):
    """Logits of several shapes: flat, peaked, with ties, with -inf, large ones with small steps."""
    rows = [random.normal(0, scale, n_vocab) for scale in (0.3, 1, 3, 8)]
    rows.append(np.round(random.normal(0, 2, n_vocab)))
    rows.append(np.where(random.random(n_vocab) < 0.5, -np.inf, random.normal(0, 2, n_vocab)))
    rows.append(random.normal(0, 1, n_vocab) + 1000)
    return np.array(rows, np.float32)


def wanted(random, settings, n_vocab, limit=None, rows=32):
    """Rows of the settings with random histories and seeds, and the `Sampling` of each."""
    logits, found = logits_of(random, n_vocab), []
    for place in range(rows):
        s = Sampling(seed=int(random.integers(0, 2**64, dtype=np.uint64)), **settings)
        tokens = random.integers(0, min(n_vocab, 60), random.integers(PROMPT, 60)).tolist()
        sample = int(random.integers(0, 2**40))
        row = logits[place % len(logits)]
        found.append((s, RowToDraw(row, plan(s), limit or n_vocab, tokens, PROMPT, sample)))
    return found


def compare(found, rows, limit=None):
    """Hold draws against NumPy's; how many were left to it."""
    for (s, row), drawn in zip(rows, found, strict=True):
        if drawn is not None:
            expected = next_token(row.logits, s, row.tokens, PROMPT, row.sample, limit)
            assert drawn == expected, s
    return found.count(None)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("n_vocab", [997, 5000])
def test_every_setting_draws_what_numpy_draws(draws, name, n_vocab):
    """Rows that rounding could change are left to NumPy, and they are few."""
    random, left = np.random.default_rng(len(name) + n_vocab), 0
    for _ in range(0, DRAWS, 32):
        rows = wanted(random, SETTINGS[name], n_vocab)
        left += compare(draws([row for _, row in rows], n_vocab), rows)
    assert left <= 0.1 * DRAWS


@pytest.mark.parametrize("n_vocab", [1, 3, 63, 64, 65, 511, 513, 50257])
def test_any_vocabulary_and_a_limit_inside_it(draws, n_vocab):
    random = np.random.default_rng(n_vocab)
    for limit in (None, max(1, n_vocab - 3)):
        for settings in ({"temperature": 0.8, "top_p": 0.95}, {"top_k": 2}, {"temperature": 0}):
            rows = wanted(random, settings, n_vocab, limit, rows=7)
            compare(draws([row for _, row in rows], n_vocab), rows, limit)


def test_rows_of_different_settings_in_one_call(draws):
    random, rows = np.random.default_rng(5), []
    for settings in SETTINGS.values():
        rows += wanted(random, settings, 997, rows=3)
    random.shuffle(rows)
    compare(draws([row for _, row in rows], 997), rows)


def test_the_random_numbers_are_those_of_the_stream():
    random = np.random.default_rng(0)
    for seed, sample in random.integers(0, 2**64, (200, 2), dtype=np.uint64).tolist():
        step = int(random.integers(0, 2000))
        words = [number - (number >> 63 << 64) for number in (seed, sample)]
        assert uniform(*words, step) == stream(seed, sample, step).random()


ASKED = {
    "NaN": lambda x: x.__setitem__(3, np.nan),
    "infinity": lambda x: x.__setitem__(3, np.inf),
    "nothing is left": lambda x: x.fill(-np.inf),
}


@pytest.mark.parametrize("name", ASKED)
def test_logits_that_are_no_numbers_get_the_message_of_numpy(draws, name):
    engine = CpuEngine(TINY, tiny_params())
    good = np.random.default_rng(0).normal(0, 1, TINY.n_vocab).astype(np.float32)
    bad = good.copy()
    ASKED[name](bad)
    request = Request((1, 2), Sampling(seed=1, top_p=0.9))
    first, second, third = draw_rows(
        engine, [RowAsked(row, request, [1, 2], 0) for row in (good, bad, good)]
    )
    assert first == third == next_token(good, request.sampling, [1, 2], 2, 0)
    assert isinstance(second, InputError)
    with pytest.raises(InputError) as told:
        next_token(bad, request.sampling, [1, 2], 2, 0)
    assert str(second) == str(told.value)


def test_all_banned_but_one(draws):
    x = np.zeros(97, np.float32)
    words = tuple((i,) for i in range(97) if i != 41)
    for more in ({}, {"top_p": 0.5}, {"temperature": 0}, {"typical_p": 0.5}, {"min_p": 0.1}):
        s = Sampling(seed=1, bad_words=words, **more)
        [found] = draws([RowToDraw(x, plan(s), 97, [1], 1, 0)], 97)
        assert found is None or found == next_token(x, s, [1], 1, 0)
        assert next_token(x, s, [1], 1, 0)[0] == 41


def test_settings_that_only_numpy_has():
    """An order that changes logits after others were removed, and numbers of NumPy's."""
    late = Sampling(processors=("top_k", "repetition_penalty"), top_k=5, repetition_penalty=2.0)
    assert plan(late) is None
    assert plan(Sampling(logit_bias={3: np.float64(0.1)})) is None
    assert plan(Sampling(bad_words=("word",))) is None


def test_ids_outside_the_vocabulary_are_left_to_numpy():
    engine, x = CpuEngine(TINY, tiny_params()), np.zeros(TINY.n_vocab, np.float32)
    [found] = draw_rows(
        engine, [RowAsked(x, Request((1,), Sampling(logit_bias={97: 1.0})), [1], 0)]
    )
    assert "outside the vocabulary" in str(found)


def test_a_copy_of_a_plan_has_memory_of_its_own(draws):
    s = Sampling(seed=3, bad_words=((1,), (2, 3)), logit_bias={4: 1.0}, top_k=9)
    x = np.random.default_rng(1).normal(0, 1, 97).astype(np.float32)
    for other in (copy.deepcopy(plan(s)), pickle.loads(pickle.dumps(plan(s)))):
        [found] = draws([RowToDraw(x, other, 97, [5, 2], 1, 0)], 97)
        assert found == next_token(x, s, [5, 2], 1, 0)
    assert isinstance(other, Plan)


def test_a_batch_draws_the_same_with_and_without_the_kernel(monkeypatch):
    """Texts of a seed do not depend on whether the kernel is compiled already."""
    engine = CpuEngine(TINY, tiny_params())
    s = Sampling(seed=7, n=9, max_new_tokens=30, temperature=0.8, top_p=0.95)
    fast = new_ids(engine, [[1, 2, 3], [4]], s)
    calls = []
    monkeypatch.setattr(CpuEngine, "draw", lambda self, rows: calls.append(1) or [None] * len(rows))
    assert new_ids(engine, [[1, 2, 3], [4]], s) == fast
    assert calls
    monkeypatch.delattr(CpuEngine, "draw")
    assert new_ids(engine, [[1, 2, 3], [4]], s) == fast


def test_the_kernel_is_compiled_in_the_background(monkeypatch):
    """A first token waits for no compiler: until the kernel is there, NumPy draws."""
    engine, begun = CpuEngine(TINY, tiny_params()), []
    monkeypatch.setattr(compile_cache, "kept", lambda *_: None)
    monkeypatch.setattr(compile_cache, "_started", [])
    monkeypatch.setattr(compile_cache, "in_background", lambda *_: begun.append(1))
    s = Sampling(seed=7, n=2, max_new_tokens=5)
    without = new_ids(engine, [[1, 2, 3]], s)
    assert begun
    monkeypatch.undo()
    assert new_ids(engine, [[1, 2, 3]], s) == without
    assert len(Batch(engine)) == 0
