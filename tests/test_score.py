"""Scores against the reference's own sums, with every window and stride counted by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import gpt2lab
from gpt2lab import InputError, Sampling, Score, reference
from gpt2lab.files.json_files import to_json
from gpt2lab.score import score, token_logprobs

from .support import tiny_engine


@pytest.fixture(scope="module")
def lm():
    return gpt2lab.load()


def log_probability(engine, context, token):
    """The long way: the softmax of the last position of one forward pass."""
    probs = reference.softmax(engine.logits([context])[0, -1].astype(np.float64))
    return math.log(probs[token])


def test_every_token_is_scored_by_what_stands_before_it(lm):
    tokens = lm.tokenizer.encode("The cat sat on the mat.")
    result = lm.score("The cat sat on the mat.")
    for place, token in enumerate(tokens):
        expected = log_probability(lm.engine, [4095, *tokens[:place]], token)
        assert result.logprobs[place] == pytest.approx(expected, abs=1e-4)
    assert result.after_end and result.stride is None
    assert result.total == pytest.approx(sum(result.logprobs))
    assert result.perplexity == pytest.approx(math.exp(-result.total / len(tokens)))
    assert result.n_bytes == 23 and result.n_words == 6
    assert result.bits_per_byte == pytest.approx(-result.total / math.log(2) / 23)


def test_words_add_up_to_the_whole(lm):
    result = lm.score("The cat, it sat\n\non the  mat. \u00e9t\u00e9 \U0001f600!")
    words = [word for word, _ in result.words]
    assert words == [
        "The",
        "cat,",
        "it",
        "sat",
        "on",
        "the",
        "mat.",
        "\u00e9t\u00e9",
        "\U0001f600!",
    ]
    assert sum(value for _, value in result.words) == pytest.approx(result.total)


def test_the_first_token_may_be_left_out(lm):
    whole, rest = lm.score("The cat sat."), lm.score("The cat sat.", after_end=False)
    assert rest.logprobs[0] is None and rest.n_scored == whole.n_scored - 1
    assert rest.n_bytes == whole.n_bytes - 3


@pytest.mark.parametrize("stride", [1, 7, 32, 64])
def test_past_the_window_each_token_is_scored_once_with_the_stated_context(stride):
    engine, n_ctx = tiny_engine(), 64
    tokens = np.random.default_rng(0).integers(0, 97, 150).tolist()
    found, used = token_logprobs(engine, tokens, stride)
    assert used == stride and len(found) == 149
    for target in (1, 64, 65, 66, 100, 149):
        if target <= n_ctx:
            start = 0
        else:  # the window that ends at the first stride border at or after the target
            end = min(149, n_ctx + math.ceil((target - n_ctx) / stride) * stride)
            start = end - n_ctx
        expected = log_probability(engine, tokens[start:target], tokens[target])
        assert found[target - 1] == pytest.approx(expected, abs=1e-4)


def test_the_default_stride_is_half_the_window_and_said(lm):
    result = lm.score("word " * 600)
    assert result.stride == 256
    assert lm.score("word " * 600, stride=100).stride == 100


def test_bad_input_is_named(lm):
    with pytest.raises(InputError, match="stride is 0; it must be an integer from 1"):
        lm.score("word " * 600, stride=0)
    with pytest.raises(InputError, match="the text is empty"):
        score(lm.engine, lm.tokenizer, [])
    with pytest.raises(InputError, match="no end token"):
        score(tiny_engine(), None, [1, 2], after_end=True)
    with pytest.raises(InputError, match="one token alone"):
        score(tiny_engine(), None, [1])
    with pytest.raises(InputError, match="the id 99"):
        score(tiny_engine(), None, [1, 99, 2])


def test_a_score_is_plain_data(lm):
    row = lm.score("The cat.").to_dict()
    assert row["n_tokens"] == 3 and row["word_perplexity"] > 1
    assert score(tiny_engine(), None, [1, 2]).to_dict()["bits_per_byte"] is None


# ---- Numbers that no float holds.


def unlikely(nats):
    """A score whose every token has this log-probability."""
    return Score([1, 2], [-nats, -nats], True, None, n_bytes=2, n_words=1, words=[("a", -2 * nats)])


def test_a_perplexity_that_no_float_holds_is_infinite():
    """A mean of 710 nats a token was an OverflowError, in `score`, in --json and in `to_dict`."""
    for nats in (709.0, 710.0, 1e38, math.inf):
        found = unlikely(nats)
        assert found.perplexity == (math.exp(709) if nats == 709 else math.inf)
        assert found.word_perplexity == math.inf
        text = json.dumps(found.to_dict(), allow_nan=False)
        assert (json.loads(text)["perplexity"] is None) == (nats > 709)
    assert json.loads(text)["logprobs"] == [None, None]
    assert math.isnan(Score([1], [None], False, None).perplexity)


@pytest.mark.parametrize("flags", [[], ["--json"], ["--per-token"], ["--per-word"]])
def test_the_command_shows_an_infinite_perplexity(run, monkeypatch, flags):
    monkeypatch.setattr("gpt2lab.lm.LM.score", lambda *_, **__: unlikely(1e5))
    code, out, err = run("score", "a b", *flags)
    assert code == 0 and not err
    assert '"perplexity": null' in out if "--json" in flags else "perplexity inf" in out


def test_logits_that_overflow_are_refused(lm):
    """They gave NaN for every figure, without a word."""

    class Broken:
        config = lm.config

        def logits(self, tokens):
            return np.full((1, len(tokens[0]), lm.config.n_vocab), np.inf, np.float32)

    with pytest.raises(InputError, match="NaN or infinity at id 0; check the weights"):
        score(Broken(), None, [1, 2])


def test_a_bias_of_minus_infinity_passes_through_json():
    """A record held -Infinity, which is no JSON and which other readers refuse."""
    s = Sampling(logit_bias={5: -math.inf, 6: 1.5})
    text = json.dumps(s.to_dict(), allow_nan=False)
    assert Sampling.from_dict(json.loads(text)) == s
    assert to_json({"a": [math.nan, 1.5, (math.inf,)]}) == '{"a": [null, 1.5, [null]]}'
