"""The walk through the source: real lines, real values, nothing out of date."""

from __future__ import annotations

import inspect
import linecache
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gpt2lab import reference
from gpt2lab.errors import InputError
from gpt2lab.lens import walkthrough

from .test_lens import IDS, tiny


@pytest.fixture(scope="module")
def calls():
    return walkthrough.walk(tiny(), IDS)


def named(calls, name, scope=None):
    return [c for c in calls if c.name == name and scope in (None, c.scope)]


def test_every_function_that_runs_is_told_in_its_order(calls):
    """The stations of one layer, as a reader of the official file would list them."""
    small = ("split_states", "merge_states", "attention_mask")
    layer = [(c.name, c.scope) for c in calls if c.layer == 1 and c.name not in small]
    assert layer == [
        ("block", "h.1"),
        ("norm", "h.1.ln_1"),
        ("attn", "h.1"),
        ("conv1d", "h.1.attn.c_attn"),
        ("split_heads", "h.1"),
        ("split_heads", "h.1"),
        ("split_heads", "h.1"),
        ("multihead_attn", "h.1"),
        ("mask_attn_weights", "h.1"),
        ("softmax", "h.1"),
        ("merge_heads", "h.1"),
        ("conv1d", "h.1.attn.c_proj"),
        ("norm", "h.1.ln_2"),
        ("mlp", "h.1"),
        ("conv1d", "h.1.mlp.c_fc"),
        ("gelu", "h.1"),
        ("conv1d", "h.1.mlp.c_proj"),
    ]
    names = [c.name for c in calls]
    assert names[0] == "model" and names[-1] == "norm" and calls[-1].scope == "ln_f"
    assert names.count("block") == 2


def test_lines_are_those_of_the_installed_file(calls):
    text = Path(reference.__file__).read_text(encoding="utf-8").splitlines()
    for call in calls:
        assert call.lines[0].text.startswith(f"def {call.name}(")
        for line in call.lines:
            assert text[line.number - 1].strip() == line.text.strip()
    whole = inspect.getsource(reference.softmax)
    for line in named(calls, "softmax")[0].lines:
        assert line.text in whole


def test_the_sentence_is_the_docstring_s_first(calls):
    assert named(calls, "gelu")[0].about.startswith("GPT-2's GELU, the tanh form")
    assert all(call.about.endswith(".") and call.about.count(". ") == 0 for call in calls)


def test_inputs_and_outputs_are_the_values_of_the_run(calls):
    model = tiny()
    trace = model.trace(IDS)

    def same(one, value):
        assert one.shape == value.shape
        real = value[value > -1e9]
        assert (one.low, one.high) == (pytest.approx(real.min()), pytest.approx(real.max()))
        assert one.masked == (real.size < value.size)

    same(named(calls, "conv1d", "h.0.attn.c_attn")[0].inputs[0], trace["ln_1", 0])
    same(named(calls, "softmax")[0].inputs[0], trace["scores", 0])
    same(named(calls, "softmax")[0].outputs[0], trace["pattern", 0])
    same(named(calls, "gelu")[1].inputs[0], trace["mlp_pre", 1])
    same(named(calls, "gelu")[1].outputs[0], trace["mlp_post", 1])
    same(named(calls, "block")[1].outputs[0], trace["resid_post", 1])
    same(calls[0].outputs[0], trace["logits"])
    assert [one.name for one in calls[0].outputs] == ["logits", "present"]
    assert calls[0].outputs[1].shape == (1, 2, 2, 4, 8, 8)
    weight = named(calls, "conv1d", "h.0.mlp.c_fc")[0].inputs[1]
    assert weight.parameter == "h.0.mlp.c_fc.weight" and weight.shape == (32, 128)


def test_each_line_has_what_it_made(calls):
    trace = tiny().trace(IDS)
    [lines] = [c.lines for c in named(calls, "multihead_attn", "h.0")]
    made = {line.text.strip().partition(" =")[0]: line.seen for line in lines if line.seen}
    assert [one.shape for one in made["w"]] == [(1, 4, 8, 8)]
    attn = {line.text.strip(): line.seen for line in named(calls, "attn", "h.0")[0].lines}
    split = next(v for k, v in attn.items() if k.startswith("q, k, v = map("))
    assert [(one.name, one.shape) for one in split] == [
        (name, (1, 4, 8, 8)) for name in ("q", "k", "v")
    ]
    assert split[0].high == pytest.approx(trace["q", 0].max())
    loop = next(line for line in calls[0].lines if "block(h, params" in line.text)
    assert loop.seen[0].times == 2
    assert loop.seen[0].high == pytest.approx(trace["resid_post", 1].max())


def test_a_picture_holds_the_largest_of_each_part():
    value = np.zeros((30, 100))
    value[0, 0], value[29, 99], value[3, 50] = -5, 7, 2
    found = np.array(walkthrough.picture(value))
    assert found.shape == (walkthrough.ROWS, walkthrough.COLUMNS)
    assert (found[0, 0], found[-1, -1], found[1, 20]) == (-5, 7, 2)
    assert np.count_nonzero(found) == 3
    masked = np.array([[1.0, -1e10], [2.0, 3.0]])
    assert np.isnan(walkthrough.picture(masked)[0][1])
    assert walkthrough.picture(np.arange(3.0)) == ((0.0, 1.0, 2.0),)
    assert walkthrough.picture(np.zeros((0, 4))) == ()


def test_nobody_listens_afterwards_and_whoever_did_goes_on():
    def other(frame, event, arg):
        return None

    before = sys.gettrace()
    sys.settrace(other)
    try:
        walkthrough.walk(tiny(), IDS)
        assert sys.gettrace() is other
        with pytest.raises(InputError):
            walkthrough.walk(tiny(), [97])
        assert sys.gettrace() is other
    finally:
        sys.settrace(before)


def test_another_thread_s_reading_is_not_told():
    """Python's trace function is of one thread: a server that computes beside it is not heard."""
    model, done = tiny(), threading.Event()

    def read():
        while not done.is_set():
            model.logits([IDS])

    thread = threading.Thread(target=read)
    thread.start()
    try:
        found = walkthrough.walk(model, IDS)
    finally:
        done.set()
        thread.join()
    assert [c.name for c in found] == [c.name for c in walkthrough.walk(model, IDS)]


def test_a_reference_without_its_source_is_told(monkeypatch):
    monkeypatch.setattr(linecache, "getlines", lambda file: [])
    with pytest.raises(InputError, match="source of the reference is not installed"):
        walkthrough.walk(tiny(), IDS)


def test_another_activation_is_told_by_its_own_function():
    import dataclasses

    from .support import TINY

    found = walkthrough.walk(tiny(dataclasses.replace(TINY, activation_function="relu")), IDS)
    assert named(found, "relu") and not named(found, "gelu")


def test_a_model_that_acts_is_told_as_it_acts():
    from gpt2lab import lens

    found = walkthrough.walk(tiny().acting(lens.silence_heads(1, None)), IDS)
    merged = named(found, "merge_heads", "h.1")[0].outputs[0]
    assert (merged.low, merged.high) == (0, 0)
    assert named(found, "merge_heads", "h.0")[0].outputs[0].high > 0
