"""A batch that rows join and leave between steps: each row gets what it would get alone."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2lab import InputError, Sampling
from gpt2lab.engines.cpu import cpu_features
from gpt2lab.generation import generate
from gpt2lab.generation.batch import Batch
from gpt2lab.generation.request import Request, requests

from .support import TINY, tiny_engine, tiny_params

PROMPTS = ((1, 2, 3), (5,), tuple(range(40)), (1, 2, 3, 4, 5), (9,) * 64)
SETTINGS = (
    Sampling(max_new_tokens=6, seed=1, stop_tokens=()),
    Sampling(max_new_tokens=40, temperature=0, stop_tokens=(), window_keep=0.25),
    Sampling(max_new_tokens=9, seed=7, top_p=0.8, repetition_penalty=1.2, stop_tokens=(4, 5, 6)),
    Sampling(max_new_tokens=12, seed=3, top_k=20, min_p=0.01, stop_tokens=()),
    Sampling(max_new_tokens=7, temperature=0, num_beams=3, n=2, stop_tokens=(11, 12)),
)


@cache
def engine(name: str) -> Any:
    if name == "numpy":
        return tiny_engine()
    from gpt2lab.engines.cpu.engine import CpuEngine

    return CpuEngine(TINY, tiny_params(), name, threads=2)


ENGINES = ("numpy", *(() if cpu_features.why_not() else ("float32", "bfloat16", "int8")))


@cache
def alone(name: str, request: Request, index: int) -> list[tuple[int, float]]:
    """The tokens of a row that has the engine for itself, its prompt read at once."""
    batch = Batch(engine(name), chunk=10**6)
    batch.add(request, index)
    return [(token.id, token.logprob) for token in generate.tokens(batch)]


def request(prompt: int, settings: int) -> Request:
    return Request(PROMPTS[prompt], SETTINGS[settings])


@pytest.mark.parametrize("name", ENGINES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_joining_leaving_and_chunks_change_no_bit(name, seed):
    """Ids and log-probabilities of random rows that join at random steps, in chunks of any size."""
    dice = random.Random(seed)
    batch = Batch(engine(name), rows=dice.randint(1, 6), chunk=dice.randint(1, 70))
    found: dict[Any, list[tuple[int, float]]] = {}
    cancelled = set()
    waiting = dice.randint(1, 12)
    while waiting or batch:
        for _ in range(min(waiting, dice.randint(0, 3))):
            waiting -= 1
            wanted = request(dice.randrange(len(PROMPTS)), dice.randrange(len(SETTINGS)))
            index = dice.randrange(3 if wanted.sampling.num_beams == 1 else 2)
            found[batch.add(wanted, index)] = []
        if batch:
            for token in batch.step():
                found[token.row].append((token.id, token.logprob))
        for row in [*found]:
            if row.finish_reason is None and dice.random() < 0.02:
                batch.cancel(row)
                cancelled.add(row)
    assert len(batch) == 0 and not batch._prompts
    assert len(batch._cache) == len(batch._prefixes)
    for row, tokens in found.items():
        expected = alone(name, row.request, row.index)
        if row in cancelled:
            assert row.finish_reason == "cancelled" and tokens == expected[: len(tokens)]
        else:
            assert tokens == expected and row.finish_reason in ("stop", "length")


@pytest.mark.parametrize("name", ENGINES)
def test_rows_of_different_settings_share_every_step(name):
    """One call of the engine a step, whatever the rows are; a prompt is read once for all."""
    batch, calls = Batch(Counted(engine(name))), []
    batch.engine.calls = calls
    rows = [batch.add(request(0, s), index) for s in range(4) for index in range(2)]
    while batch:
        batch.step()
    assert sum(PROMPTS[0] == tuple(new) for call in calls for new in call) == 1
    assert len(calls) == max(row.new_tokens for row in rows)
    assert max(map(len, calls)) == 8


class Counted:
    """An engine that notes the tokens of each call."""

    def __init__(self, engine: Any) -> None:
        self.inner, self.config, self.cache = engine, engine.config, engine.cache
        self.name = engine.name
        self.calls: list[Any] = []

    def step(self, cache: Any, slots: Any, tokens: Any, wanted: Any = None) -> Any:
        self.calls.append(tokens)
        return self.inner.step(cache, slots, tokens, wanted)


@pytest.mark.skipif(len(ENGINES) == 1, reason="no cpu engine here")
def test_a_long_prompt_delays_no_row_that_decodes():
    """It is read in chunks of the stated size beside them, and each step draws for the others."""
    batch = Batch(Counted(engine("float32")), chunk=12)
    first = batch.add(request(0, 1))
    batch.step()
    batch.add(request(4, 0))
    for step in range(2, 8):
        assert next(token.row for token in batch.step()) is first and first.new_tokens == step
    assert [sum(map(len, call)) for call in batch.engine.calls[1:7]] == [12, 12, 12, 12, 12, 10]


def test_a_step_that_fails_may_be_repeated():
    """Once a window that had to slide was lost with the step that was interrupted."""

    class Failing(Counted):
        fail = False

        def step(self, *args: Any) -> Any:
            if self.fail:
                raise KeyboardInterrupt
            return super().step(*args)

    s = replace(SETTINGS[1], max_new_tokens=120)
    batch = Batch(Failing(engine("numpy")))
    row = batch.add(Request(PROMPTS[0], s))
    while batch:
        batch.engine.fail = True
        with pytest.raises(KeyboardInterrupt):
            batch.step()
        batch.engine.fail = False
        batch.step()
    plain = Batch(engine("numpy"))
    other = plain.add(Request(PROMPTS[0], s))
    assert len([*generate.tokens(plain)]) == 120 and row.tokens == other.tokens
    assert row.slides == other.slides > 0


def test_a_row_whose_settings_allow_nothing_ends_alone():
    """The others go on; the reader of the whole batch gets the error."""
    nothing = Sampling(bad_words=tuple((i,) for i in range(97)), seed=0, stop_tokens=())
    batch = Batch(engine("numpy"))
    bad, good = batch.add(Request((1, 2), nothing)), batch.add(request(0, 0))
    while batch:
        batch.step()
    assert bad.finish_reason == "error" and "every token is ruled out" in str(bad.error)
    assert good.finish_reason == "length" and good.new_tokens == 6
    batch.add(Request((1, 2), nothing))
    with pytest.raises(InputError, match="every token is ruled out"):
        list(generate.tokens(batch))


def test_logits_that_are_not_numbers_end_their_row():
    params = tiny_params()
    params["wpe.weight"] = params["wpe.weight"].copy()
    params["wpe.weight"][20:] = np.nan
    from gpt2lab.engines.numpy_engine import NumpyEngine

    batch = Batch(NumpyEngine(TINY, params))
    short = batch.add(Request((1, 2), SETTINGS[0]))
    long = batch.add(Request(tuple(range(30)), SETTINGS[0]))
    while batch:
        batch.step()
    assert long.finish_reason == "error" and "NaN" in str(long.error)
    assert short.finish_reason == "length"


def test_the_cache_is_limited_in_bytes():
    """Rows wait until prompt and answer fit; one that never fits is refused."""
    each = engine("numpy").cache().position_bytes
    batch = Batch(engine("numpy"), cache_bytes=30 * each)
    rows = [batch.add(request(0, 0), index) for index in range(5)]  # 9 positions each
    batch.step()
    assert [row.new_tokens for row in rows] == [1, 1, 1, 0, 0]
    with pytest.raises(InputError, match="46 positions of the KV cache and its limit is 30"):
        batch.add(request(2, 0))
    while batch:
        batch.step()
    assert [row.new_tokens for row in rows] == [6] * 5


def test_a_second_thread_is_refused():
    """A batch belongs to one thread at a time: a call that meets another says so."""
    inside, leave = threading.Event(), threading.Event()

    class Slow(Counted):
        def step(self, *args: Any) -> Any:
            inside.set()
            leave.wait(10)
            return super().step(*args)

    batch = Batch(Slow(engine("numpy")))
    row = batch.add(request(0, 0))
    thread = threading.Thread(target=batch.step)
    thread.start()
    inside.wait(10)
    for call in (batch.step, lambda: batch.cancel(row), lambda: batch.add(request(0, 0))):
        with pytest.raises(RuntimeError, match="let one thread own it"):
            call()
    leave.set()
    thread.join()
    assert row.new_tokens == 1


def test_rows_that_were_cancelled_give_their_place_at_once():
    batch = Batch(engine("numpy"), rows=1)
    first, second, third = (batch.add(request(p, 0)) for p in (0, 1, 2))
    batch.step()
    batch.cancel(first)
    batch.cancel(second)  # while it waits
    batch.cancel(first)  # again: nothing
    assert [token.row for token in batch.step()] == [third] and len(batch) == 1
    assert (first.new_tokens, second.new_tokens, third.new_tokens) == (1, 0, 1)


def test_requests_are_checked_where_they_are_made():
    with pytest.raises(InputError, match="65 tokens, the model sees 64"):
        requests([[1] * 65], Sampling(), TINY)
