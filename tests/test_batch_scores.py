"""Scores of prompts and the most probable tokens, in the batch that draws: the bits as alone."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
import pytest

from gpt2lab import InputError, Sampling, score
from gpt2lab.engines.cpu import cpu_features
from gpt2lab.engines.wanted import Wanted, measure
from gpt2lab.generation.batch import Batch
from gpt2lab.generation.request import Request
from gpt2lab.generation.sampler import log_probability, most_probable

from .support import TINY, tiny_engine, tiny_params

S = Sampling(max_new_tokens=4, seed=1, top_p=0.9, stop_tokens=())
BEAMS = Sampling(max_new_tokens=4, temperature=0, num_beams=2, n=2, stop_tokens=())
DICE = random.Random(5)
PROMPTS = [tuple(DICE.randrange(97) for _ in range(n)) for n in (1, 2, 30, 30, 45)]
CPU = () if cpu_features.why_not() else ("float32", "int8")


@cache
def engine(name: str) -> Any:
    if name == "numpy":
        return tiny_engine()
    if name == "torch":
        pytest.importorskip("torch")
        from gpt2lab.engines.torch.engine import TorchEngine

        return TorchEngine(TINY, tiny_params(), device="cpu")
    from gpt2lab.engines.cpu.engine import CpuEngine

    return CpuEngine(TINY, tiny_params(), name, threads=2)


def finish(batch: Batch) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    while batch:
        for token in batch.step():
            found.setdefault(token.row, []).append(token)
    return found


def plain(name: str, prompt: tuple[int, ...], index: int) -> list[tuple[int, float]]:
    batch = Batch(engine(name))
    batch.add(Request(prompt, S), index)
    return [(token.id, token.logprob) for [tokens] in [finish(batch).values()] for token in tokens]


@pytest.mark.parametrize("name", ["numpy", "torch", *CPU])
@pytest.mark.parametrize("chunk", [7, 252])
def test_scores_of_prompts_beside_rows_that_draw(name, chunk):
    """Rows with and without scores share a batch; each gets the tokens that it gets alone."""
    batch, asked = Batch(engine(name), chunk=chunk), {}
    for prompt in PROMPTS:
        for index, (top, scored) in enumerate([(0, False), (3, True), (0, True), (5, False)]):
            row = batch.add(Request(prompt, S), index, top=top, prompt_scores=scored)
            asked[row] = (top, scored)
        batch.step()
    while batch:
        batch.step()
    assert not batch._prompts
    for row, (top, scored) in asked.items():
        prompt = row.request.prompt
        if name in ("numpy", *CPU):
            assert row.tokens[len(prompt) :] == [t for t, _ in plain(name, prompt, row.index)]
        assert row.new_tokens == 4 and (row.prompt_scores is not None) == scored
        if row.prompt_scores is not None and len(prompt) > 1:
            expected = score.rolling(engine(name), [prompt])[0]
            same = np.array_equal if name in ("numpy", *CPU) else np.allclose
            assert same(row.prompt_scores.logprobs, expected)
            ids = row.prompt_scores.top_ids
            assert (ids is None) == (top == 0)
            logits = engine(name).logits([prompt])[0, :-1]
            if top:
                assert np.array_equal(ids, measure(logits, Wanted((), None, top)).top_ids)
        elif row.prompt_scores is not None:
            assert row.prompt_scores.logprobs.shape == (0,)


@pytest.mark.parametrize("name", ["numpy", *CPU])
def test_the_most_probable_tokens_come_with_each_token(name):
    batch = Batch(engine(name))
    rows = [batch.add(Request(PROMPTS[2], S, limit), 0, top=6) for limit in (None, 40)]
    found = finish(batch)
    for row, limit in zip(rows, (None, 40), strict=True):
        before = list(PROMPTS[2])
        for token in found[row]:
            logits = engine(name).logits([before])[0, -1]
            ids = np.argsort(-logits[:limit], kind="stable")[:6].tolist()
            assert [i for i, _ in token.top] == ids
            own = dict(token.top)
            assert token.id not in own or own[token.id] == token.logprob
            before.append(token.id)


def test_most_probable_is_log_probability():
    logits = np.random.default_rng(1).normal(0, 3, 5000).astype(np.float32)
    for token, logprob in most_probable(logits, 20):
        assert logprob == log_probability(logits, token)
    assert len(most_probable(logits, 9, 4)) == 4


def test_a_beam_search_may_have_the_scores_of_its_prompt():
    batch = Batch(engine("numpy"))
    rows = [batch.add(Request(PROMPTS[2], BEAMS), i, prompt_scores=True) for i in range(2)]
    other = batch.add(Request(PROMPTS[2], BEAMS), 0)
    finish(batch)
    expected = score.rolling(engine("numpy"), [PROMPTS[2]])[0]
    for row in rows:
        assert row.prompt_scores is not None
        assert np.array_equal(row.prompt_scores.logprobs, expected)
    assert other.tokens == rows[0].tokens and other.prompt_scores is None


def test_what_cannot_be_given_is_refused():
    batch = Batch(engine("numpy"))
    with pytest.raises(InputError, match="top is 98"):
        batch.add(Request(PROMPTS[2], S), top=98)
    with pytest.raises(InputError, match="leave out top or num_beams"):
        batch.add(Request(PROMPTS[2], BEAMS), top=2)
    assert len(batch) == 0 and not batch._prompts


@pytest.mark.parametrize("name", ["numpy", *CPU[:1]])
def test_a_prompt_whose_scores_are_not_finite_ends_its_rows_alone(name):
    params = tiny_params()
    params["wpe.weight"] = params["wpe.weight"].copy()
    params["wpe.weight"][20:] = np.nan
    batch = Batch(type(engine(name))(TINY, params, engine(name).dtype))
    bad = [batch.add(Request(PROMPTS[3], S), i, prompt_scores=True) for i in range(2)]
    good = batch.add(Request(PROMPTS[1], S), prompt_scores=True)
    found = finish(batch)
    assert [row.finish_reason for row in bad] == ["error", "error"] and "NaN" in str(bad[0].error)
    assert [len(found[row]) for row in [*bad, good]] == [1, 1, 4]
    assert good.finish_reason == "length" and len(batch._cache) == len(batch._prefixes)


@pytest.mark.skipif(not CPU, reason="no cpu engine here")
def test_a_score_that_is_interrupted_may_be_repeated():
    """The slot has moved and the scores are lost: it is rewound to where they end."""
    batch = Batch(engine("float32"), chunk=10)
    row = batch.add(Request(PROMPTS[4], S), prompt_scores=True)
    inner = batch.engine

    class Interrupted:
        config, name, calls = inner.config, inner.name, 0
        step, cache = inner.step, inner.cache

        def score(self, *args: Any) -> Any:
            found = inner.score(*args)
            self.calls += 1
            if self.calls % 2:
                raise KeyboardInterrupt
            return found

    batch.engine = Interrupted()  # type: ignore[assignment]
    while batch:
        try:
            batch.step()
        except KeyboardInterrupt:
            continue
    assert row.prompt_scores is not None
    assert np.array_equal(
        row.prompt_scores.logprobs, score.rolling(engine("float32"), [PROMPTS[4]])[0]
    )
    assert row.tokens[45:] == [token for token, _ in plain("float32", PROMPTS[4], 0)]


@pytest.mark.skipif(not CPU, reason="no cpu engine here")
def test_memory_that_a_step_does_not_get_leaves_the_engine_usable(monkeypatch):
    """Scratch buffers grow with the rows of a step; whichever fails, the next step works."""
    from gpt2lab.engines.cpu import buffers
    from gpt2lab.engines.cpu.engine import CpuEngine

    short, long = Request(PROMPTS[1], S), Request(PROMPTS[4], S)
    zeros = np.zeros
    for fails_at in range(1, 9):
        one = CpuEngine(TINY, tiny_params(), "float32", threads=2)
        batch, calls = Batch(one), 0
        first = batch.add(short)
        batch.step()

        def failing(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fails_at:  # noqa: B023
                raise MemoryError("no memory")
            return zeros(*args, **more)

        row = batch.add(long)
        monkeypatch.setattr(buffers.np, "zeros", failing)
        with pytest.raises(MemoryError):
            batch.step()
        monkeypatch.undo()
        finish(batch)
        assert row.tokens[45:] == [token for token, _ in plain("float32", PROMPTS[4], 0)]
        assert first.tokens[2:] == [token for token, _ in plain("float32", PROMPTS[1], 0)]
