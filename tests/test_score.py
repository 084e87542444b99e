"""Scores against the reference's own sums, with every window and stride counted by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import gpt2lab
from gpt2lab import InputError, Sampling, Score, engines, reference
from gpt2lab.files.json_files import to_json
from gpt2lab.score import continuations, rolling, score, scores

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
    [found] = rolling(engine, [tokens], stride)
    assert score(engine, None, tokens, stride=stride).stride == stride and len(found) == 149
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


# ---- Many at a time.


TEXTS = ["The cat sat on the mat.", "word " * 600, "The", "Once upon a time there was a dog."]


def test_a_list_is_scored_as_each_text_alone(lm):
    found = lm.score(TEXTS, stride=100)
    assert [one.to_dict() for one in found] == [lm.score(t, stride=100).to_dict() for t in TEXTS]
    ids = [lm.encode(text) for text in TEXTS[2:]]
    assert [s.total for s in lm.score(ids)] == [s.total for s in found[2:]]
    assert lm.score([TEXTS[0]])[0].tokens == found[0].tokens
    assert [s.stride for s in found] == [None, 100, None, None]


def test_a_list_with_a_bad_text_names_it(lm):
    for bad, words in (("", "text 2: the text is empty"), ([], "text 2: the prompt is empty")):
        with pytest.raises(InputError, match=words):
            lm.score(["The", bad])
    with pytest.raises(InputError, match="text 2: one token alone has nothing before it"):
        lm.score(["The cat", "The"], after_end=False)


def questions(n_vocab, most):
    """Contexts and endings of many lengths, one ending alone, one question without any."""
    random = np.random.default_rng(0)

    def ids(low, high):
        return random.integers(0, n_vocab, random.integers(low, high)).tolist()

    made = [(ids(1, most), [ids(1, 9) for _ in range(random.integers(1, 6))]) for _ in range(9)]
    return [*made, ([5], [[5]]), ([1, 2], [])]


@pytest.mark.parametrize("dtype", [None, "int8", "numpy"])
def test_continuations_are_the_ends_of_separate_texts(lm, dtype, monkeypatch):
    """Bit for bit in the cpu engine, in portions of any size; BLAS has another order of sums."""
    engine = (
        lm.engine
        if dtype is None
        else engines.choose(
            lm.config,
            lm.params,
            "numpy" if dtype == "numpy" else "cpu",
            *[dtype] * (dtype == "int8"),
        )
    )
    asked = questions(lm.config.n_vocab, 60)
    greedy = [int(np.argmax(engine.logits([asked[0][0]])[0, -1]))]
    asked[0][1].append(greedy)
    for together in (2016, 50):
        monkeypatch.setattr("gpt2lab.score.TOGETHER", together)
        found = continuations(engine, asked)
        assert [len(each) for each in found] == [len(endings) for _, endings in asked]
        for (context, endings), each in zip(asked, found, strict=True):
            for ending, one in zip(endings, each, strict=True):
                [whole] = rolling(engine, [[*context, *ending]])
                expected = whole[len(context) - 1 :]
                if dtype != "numpy" and engine.name == "cpu":
                    assert one.logprobs == expected
                assert one.logprobs == pytest.approx(expected, abs=1e-4)
                assert one.total == pytest.approx(sum(one.logprobs))
    assert found[0][-1].greedy and not found[0][0].greedy


def test_what_cannot_follow_is_named():
    engine = tiny_engine()
    for question, words in (
        (([], [[1]]), "question 2: the context is empty; give at least one token"),
        (([1], [[1], []]), "question 2: the ending 2 is empty; give at least one token"),
        (([1], [[97]]), "question 2: the ending 1 holds the id 97"),
        (
            ([1] * 60, [[1] * 6]),
            "question 2: context and ending 1 take 65 positions",
        ),
    ):
        with pytest.raises(InputError, match=words):
            continuations(engine, [([1], [[2]]), question])
    [[full]] = continuations(engine, [([1] * 60, [[1] * 5])])
    assert len(full.logprobs) == 5
    assert continuations(engine, []) == scores(engine, None, []) == []


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

    weights = {**lm.params, "lm_head.weight": np.full_like(lm.params["wte.weight"], np.inf)}
    broken = engines.choose(lm.config, weights, "numpy")
    with pytest.raises(InputError, match="NaN or infinity at id 0; check the weights"):
        score(broken, None, [1, 2])


def test_a_bias_of_minus_infinity_passes_through_json():
    """A record held -Infinity, which is no JSON and which other readers refuse."""
    s = Sampling(logit_bias={5: -math.inf, 6: 1.5})
    text = json.dumps(s.to_dict(), allow_nan=False)
    assert Sampling.from_dict(json.loads(text)) == s
    assert to_json({"a": [math.nan, 1.5, (math.inf,)]}) == '{"a": [null, 1.5, [null]]}'
