"""The Python API with arguments of every odd kind: a result or one short InputError, in short time.

Arrays where numbers are meant, nested lists, ranges longer than any memory, texts of a megabyte:
each raised some other exception once, hung, filled the memory, or came back whole in the message.
"""

from __future__ import annotations

import copy
import pickle
import time
from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpt2lab
from gpt2lab import InputError, Sampling
from gpt2lab.config import Config
from gpt2lab.generation.processors import PROCESSORS
from gpt2lab.generation.sampler import process
from gpt2lab.lm import LM
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.weights import Checkpoint

from .support import FABLE, tiny_params
from .test_errors import Rude, doubling, nested

SECONDS, CHARACTERS = 60, 2000  # of a call on a busy machine; of a message

ODD = [
    None, True, -1, 0, 2**31, 2**62, 10**400, 0.5, float("nan"), float("inf"), 1e308, 1j,
    "", "x", "x" * 10**4, "\udc80", "\0", b"x", b"x" * 10**6, bytearray(3),
    [], [1, 2], [[1, 2], [3]], ["a", 1], [None], (), (1,), {}, {"a": 1}, {5: 1e30},
    {5: float("nan")}, {1, 2}, nested(5_000), doubling(60), [doubling(60)],
    range(10**12), range(2**70),
    [range(10**12)],
    np.array(1), np.array([1, 2]), np.array([]), np.array([[1, 2]]), np.array(["a"]),
    np.float32(0.5), np.int64(3), np.zeros((1000, 1000)), [np.array([1, 2]), np.array([3])],
    object(), Rude(), len, Sampling, iter([1, 2]),
]  # fmt: skip
NAMES = [
    *Sampling.__dataclass_fields__,
    *("do_sample", "max_length", "min_length", "num_beam_groups", "eos_token_id", "stop_strings"),
    *("bad_words_ids", "nsamples", "pad_token_id", "key", "zzz", "x" * 10_000),
]
odd = st.integers(0, len(ODD) - 1)  # places: Hypothesis prints what it draws, whole
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def lm():
    """A tiny model with the bundled vocabulary: what is asked of it is checked, not computed."""
    tokenizer = Tokenizer.load(FABLE)
    config = Config(n_vocab=tokenizer.n_vocab, n_ctx=1024, n_embd=8, n_head=2, n_layer=1)
    params = tiny_params(config)
    return LM(Checkpoint(config, params, tokenizer, "huggingface"), engine="numpy")


def survives(call, *arguments, **named):
    """Call it: a result, or an InputError of one short line; the time that it took is bounded."""
    start = time.perf_counter()
    try:
        call(*arguments, **named)
    except InputError as error:
        said = str(error)
        assert 0 < len(said) < CHARACTERS and "\n" not in said
    assert time.perf_counter() - start < SECONDS


@quick
@given(places=st.dictionaries(st.sampled_from(NAMES), odd, min_size=1, max_size=3))
def test_settings_of_any_kind(lm, places):
    values = {name: ODD[place] for name, place in places.items()}
    survives(lm.settings, **values)
    survives(Sampling.from_dict, values)
    if "max_new_tokens" not in values and "max_length" not in values:
        values = {**values, "max_new_tokens": 2}
        survives(lambda: list(islice(lm.stream("a", **values), 2)))


@pytest.mark.parametrize("place", range(len(ODD)))
def test_arguments_of_any_kind(lm, place):
    """Each public function with each odd argument in each of its places."""
    value, tokenizer = ODD[place], lm.tokenizer
    few = {"max_new_tokens": 2}
    for call in (
        lambda: lm.generate(value, **few),
        lambda: lm.generate(value, overflow="tail", **few),
        lambda: lm.generate("a", overflow=value, **few),
        lambda: lm.complete("a", batch_size=value, **few),
        lambda: lm.complete([value], **few),
        lambda: lm.score(value),
        lambda: lm.score("a", stride=value),
        lambda: lm.logits(value),
        lambda: lm.logits([value]),
        lambda: lm.replay(value),
        lambda: lm.replay({"model": {}, "engine": {}, "settings": {}, "prompt_tokens": value}),
        lambda: LM(lm.checkpoint, engine=value) if value is not None else None,
        lambda: LM(lm.checkpoint, engine="numpy", dtype=value),
        lambda: LM(lm.checkpoint, cache_dtype=value) if value is not None else None,
        lambda: LM(lm.checkpoint, engine="cpu", threads=value) if value is not None else None,
        lambda: LM(lm.checkpoint, engine="numpy", device=value),
        lambda: LM(lm.checkpoint, engine="numpy", key=value),
        lambda: Sampling.from_dict(value),
        lambda: tokenizer.encode(value),
        lambda: tokenizer.encode("a", value),
        lambda: tokenizer.decode(value),
        lambda: tokenizer.decode([5], value),
        lambda: tokenizer.token_bytes(value),
        lambda: tokenizer.pieces(value),
        lambda: tokenizer.offsets(value),
        lambda: tokenizer.encode_with_offsets(value),
    ):
        survives(call)


@pytest.mark.parametrize("place", range(len(ODD)))
def test_sources_and_records_of_any_kind(lm, place):
    """A nested list as a model was a RecursionError, an array as a record's hash a ValueError."""
    value = ODD[place]
    if not (value is None or isinstance(value, str | int | float)):
        survives(gpt2lab.load, value, download=False, engine="numpy")
    good = lm.complete("a", max_new_tokens=2, seed=1)[0].record
    for key in good:
        survives(lm.replay, {**good, key: value})
        if isinstance(good[key], dict):
            for inner in good[key]:
                if inner not in ("max_new_tokens", "n"):
                    survives(lm.replay, {**good, key: {**good[key], inner: value}})


def test_a_million_samples_at_most(lm):
    """All samples were listed before the first token, so a large n filled the memory."""
    with pytest.raises(InputError, match="n is 2147483648; it must be an integer from 1 to 1"):
        lm.generate("a", n=2**31)
    first = next(lm.stream("a", n=10**6, max_new_tokens=2))
    assert first.index == 0


def test_a_model_is_copied_and_not_pickled(lm):
    """It was a ValueError of ctypes; a program with processes wants to know what to do instead."""
    with pytest.raises(InputError, match=r"cannot be pickled.*gpt2lab.load in each process"):
        pickle.dumps(lm)
    assert copy.copy(lm).engine is lm.engine
    assert pickle.loads(pickle.dumps(lm.tokenizer)).encode("a b") == lm.tokenizer.encode("a b")


# ---- Settings that make logits overflow.

HARSH = {
    "temperature": 1e-6,
    "repetition_penalty": 1e-6,
    "logit_bias": {5: 1e30},
    "presence_penalty": -1e6,
    "frequency_penalty": -1e6,
}


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize(
    "shape", ["top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "none"]
)
def test_settings_that_make_a_logit_infinite_are_refused(lm, shape, beams):
    """softmax was NaN, and top_p took an element of an empty array: an IndexError."""
    more = {} if shape == "none" else {shape: 0.5 if shape != "top_k" else 3}
    with pytest.raises(InputError, match=r"larger than float32 holds \(temperature\)"):
        lm.generate("a", max_new_tokens=4, seed=1, num_beams=beams, **{"top_p": 1.0} | HARSH | more)


@quick
@given(
    logits=st.lists(
        st.sampled_from([-np.inf, -3e38, -1e30, -1.0, 0.0, 1.0, 1e30, 3e38]), min_size=4, max_size=9
    ),
    harsh=st.dictionaries(st.sampled_from(sorted(HARSH)), st.just(0), max_size=4),
    shape=st.sampled_from(["top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"]),
)
def test_every_processor_takes_extreme_logits(logits, harsh, shape):
    given = {name: HARSH[name] for name in harsh} | {shape: 3 if shape == "top_k" else 0.5}
    given["logit_bias"] = {3: 1e30} if "logit_bias" in harsh else {}
    assert shape in PROCESSORS
    survives(process, np.array(logits, np.float32), Sampling(**given), [1, 2])


@pytest.mark.parametrize("penalty", [-100.0, 100.0])
def test_a_length_penalty_that_no_float_holds(lm, penalty):
    """2,000 ** 100 is an OverflowError in Python."""
    from gpt2lab.generation.beam import _scale

    assert 0 < _scale(2000, Sampling(length_penalty=penalty)) < np.inf
    assert lm.generate("a", max_new_tokens=3, num_beams=2, length_penalty=penalty, temperature=0)
