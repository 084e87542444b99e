"""Scores against the reference's own sums, with every window and stride counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpt2lab
from gpt2lab import InputError, reference
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
    with pytest.raises(InputError, match="stride is 0; it must be a whole number"):
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
