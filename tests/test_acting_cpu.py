"""Acts in the cpu engine's own step: as the reference computes them, beside the plain engine."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import gpt2lab
from gpt2lab import lens
from gpt2lab.config import Config
from gpt2lab.engines import fallback
from gpt2lab.engines.cpu import compile_cache, cpu_features
from gpt2lab.engines.wanted import Wanted
from gpt2lab.errors import InputError
from gpt2lab.lm import LM
from gpt2lab.weights import Checkpoint

from .support import logged, tiny_engine, tiny_params

pytestmark = pytest.mark.skipif(bool(cpu_features.why_not()), reason=cpu_features.why_not())

if not cpu_features.why_not():
    from gpt2lab.engines.cpu.engine import CpuEngine
    from gpt2lab.engines.cpu.phases import Phase
    from gpt2lab.engines.cpu.plain import PlainStep

# Widths that do not fill the last panel, and more positions than go through the layers together.
CONFIG = Config(n_vocab=97, n_ctx=300, n_embd=40, n_head=2, n_layer=2, n_inner=144)
PARAMS = tiny_params(CONFIG, scale=4.0)
IDS = np.random.default_rng(3).integers(0, 97, 270).tolist()
V = np.random.default_rng(4).normal(size=40)
DTYPES = ("float32", "bfloat16", "int8", "int4")


def model(engine: str = "cpu", dtype: str | None = "float32", **more) -> LM:
    return LM(Checkpoint(CONFIG, PARAMS, None, "none"), engine=engine, dtype=dtype, **more)


ACTS = {
    "a head silenced": [lens.silence_heads(1, 1)],
    "a layer of heads silenced": [lens.silence_heads(0, None)],
    "a head scaled twice": [lens.scale_heads(0, 1, 3), lens.scale_heads(0, [0, 1], -0.5)],
    "neurons silenced": [lens.silence_neurons(1, [0, 3, 127, 143])],
    "neurons scaled": [lens.scale_neurons(0, [31, 32, 143], 2.5), lens.scale_neurons(0, None, 0.8)],
    "steered at the beginning": [lens.steer(0, V, 0.7, name="resid_pre")],
    "steered before a layer": [lens.steer(1, V, -0.7, name="resid_pre")],
    "steered after attention": [lens.steer(0, V, name="resid_mid"), lens.steer(1, V, 2)],
    "steered in what is added": [lens.steer(1, V, name="attn_out"), lens.steer(0, V, 2)],
    "steered at the end": [lens.steer(1, V, 2, name="mlp_out"), lens.steer(1, -V, 0.5)],
    "everything": [
        lens.steer(0, V, 0.5, name="resid_pre"),
        lens.silence_heads(0, 0),
        lens.steer(0, V, 0.5, name="resid_mid"),
        lens.scale_neurons(0, [1, 2, 3], 4.0),
        lens.scale_heads(1, [0, 1], 1.5),
        lens.silence_neurons(1, range(40, 90)),
        lens.steer(1, V, 1.5),
    ],
}


@pytest.fixture(scope="module", params=DTYPES)
def lm(request):
    return model(dtype=request.param)


@pytest.mark.parametrize("acts", ACTS.values(), ids=list(ACTS))
def test_the_logits_are_those_of_the_reference(acts):
    fast, slow, plain = model().acting(acts), model("numpy").acting(acts), model()
    assert (fast.engine.name, slow.engine.name) == ("cpu", "numpy")
    found, expected = (one.logits([IDS]) for one in (fast, slow))
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found - plain.logits([IDS])).max() > 1e-2


def twin(engine: CpuEngine, acts: list[lens.Act]) -> PlainStep:
    """The step in plain NumPy with acts: directions are in its biases and its positions."""
    linear, params = lens.linear(acts, CONFIG), dict(PARAMS)
    for place, added in linear.stream.items():
        layer, part = divmod(place - 1, 2)
        name = f"h.{layer}.{('attn', 'mlp')[part]}.c_proj.bias" if place else "wpe.weight"
        params[name] = params[name] + added
    plain = PlainStep(CONFIG, params, engine.target, engine.dtype, engine.cache_dtype)
    for phase, by_layer in ((Phase.HEADS, linear.heads), (Phase.FC, linear.neurons)):
        plain.factors |= {(layer, phase): factors for layer, factors in by_layer.items()}
    return plain


@pytest.mark.parametrize("count", [3, 40])  # rows up to FEW, and beyond
def test_every_dtype_computes_as_its_twin(lm, count):
    acts = ACTS["everything"]
    ids, last = IDS[:count], list(range(count))
    *_, (_, _, _, expected) = twin(lm.engine, acts).phases([(0, p, ids[p]) for p in last], last)
    found = lm.acting(acts).logits([ids])[0]
    near = 1e-5 if lm.engine.dtype == "float32" else 2e-2
    assert np.abs(found - expected).max() < near * np.abs(expected).max()


def test_a_direction_is_a_bias_to_the_bit(lm):
    """Also int8 and int4 sum up in the same order, since a bias is no part of what is rounded."""
    params = dict(PARAMS)
    for name in ("h.0.attn.c_proj.bias", "h.1.mlp.c_proj.bias"):
        params[name] = params[name] + (1.5 * V).astype(np.float32)
    changed = CpuEngine(CONFIG, params, lm.engine.dtype)
    acting = lm.acting(lens.steer(0, V, 1.5, name="resid_mid"), lens.steer(1, V, 1.5))
    assert acting.logits([IDS]).tobytes() == changed.logits([IDS]).tobytes()


def test_silenced_neurons_and_heads_leave_what_is_not_finite():
    """A product with 0 would be NaN."""
    params = {**PARAMS, "h.0.mlp.c_fc.bias": PARAMS["h.0.mlp.c_fc.bias"].copy()}
    params["h.0.mlp.c_fc.bias"][[5, 143]] = np.inf
    broken = LM(Checkpoint(CONFIG, params, None, "none"), engine="cpu", dtype="float32")
    found = broken.acting(lens.silence_neurons(0, [5, 143])).logits([IDS])
    expected = model().acting(lens.silence_neurons(0, [5, 143])).logits([IDS])
    assert found.tobytes() == expected.tobytes()


def test_acts_of_no_effect_are_the_plain_model_to_the_bit(lm):
    acts = [
        lens.scale_heads(0, [0, 1], 1.0),
        lens.scale_neurons(1, None, 1),
        lens.steer(0, V, 0.0),
        lens.steer(1, np.zeros(40), 3.0),
    ]
    plain = lm.logits([IDS]).tobytes()
    assert lm.acting(acts).logits([IDS]).tobytes() == plain
    back = [lens.scale_heads(1, 0, 2), lens.scale_neurons(1, 7, 4)]  # undone: factors are all 1
    back += [lens.scale_heads(1, 0, 0.5), lens.scale_neurons(1, 7, 0.25)]
    assert lm.acting(back).engine.name == "cpu"
    assert lm.acting(back).logits([IDS]).tobytes() == plain


def test_rows_are_the_same_bits_alone_in_a_batch_in_portions_and_for_any_threads(lm):
    acts, engines = ACTS["everything"], []
    for threads in (1, 3):
        more = {"dtype": lm.engine.dtype, "threads": threads}
        engines.append(model(**more).acting(acts).engine)
    texts, bits = [IDS[:5], IDS[5:6], IDS[6:266]], []
    for engine in engines:
        cache = engine.cache()
        slots = [cache.new() for _ in texts]
        bits.append(engine.step(cache, slots, texts).tobytes())
        rows = []
        for text in texts:
            slot = cache.new()
            for start in range(0, len(text), 37):
                row = engine.step(cache, [slot], [text[start : start + 37]])
            rows.append(row)
        bits.append(np.concatenate(rows).tobytes())
        rows = [engine.logits([text])[:, -1] for text in texts]
        bits.append(np.concatenate(rows).tobytes())
    assert len(set(bits)) == 1


def test_scores_are_those_of_the_logits(lm):
    engine = lm.acting(ACTS["everything"]).engine
    cache, wanted = engine.cache(), Wanted([4, 260], [7, 8], top=2)
    [scores] = engine.score(cache, [cache.new()], [IDS], [wanted])
    logits = engine.logits([IDS])[0, [4, 260]].astype(np.float64)
    expected = logits[[0, 1], [7, 8]] - np.log(np.exp(logits).sum(-1))
    assert np.abs(scores.logprobs - expected).max() < 1e-5


def test_the_plain_engine_beside_it_is_unchanged(lm):
    """Two engines over the same weights take turns, step by step."""
    other = lm.acting(ACTS["everything"])
    engines, found = (lm.engine, other.engine), []
    expected = [engine.logits([IDS[:9]])[0, 3:].tobytes() for engine in engines]
    assert expected[0] != expected[1]
    caches = [engine.cache() for engine in engines]
    slots = [cache.new() for cache in caches]
    rows = [
        [engine.step(cache, [slot], [IDS[:4]])]
        for engine, cache, slot in zip(engines, caches, slots, strict=True)
    ]
    for token in IDS[4:9]:
        for engine, cache, slot, row in zip(engines, caches, slots, rows, strict=True):
            row.append(engine.step(cache, [slot], [[token]]))
    found = [np.concatenate(row).tobytes() for row in rows]
    assert found == expected
    assert lm.acts == () and lm.engine.acts is None


def test_acts_add_up_and_the_weights_are_shared():
    fable = gpt2lab.load(engine="cpu", dtype="float32")
    before = fable.logits([[5, 6, 7]])
    once = fable.acting(lens.silence_heads(0, 1), lens.steer(2, np.ones(256), 0.5))
    tracemalloc.start()
    twice = once.acting(lens.scale_neurons(3, 9, 4.0))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20  # the weights take 30 times that
    tracemalloc.stop()
    at_once = fable.acting(*once.acts, lens.scale_neurons(3, 9, 4.0))
    assert twice.logits([[5, 6, 7]]).tobytes() == at_once.logits([[5, 6, 7]]).tobytes()
    assert fable.logits([[5, 6, 7]]).tobytes() == before.tobytes()
    del fable, once  # the weights stay for who uses them
    assert twice.logits([[5, 6, 7]]).tobytes() == at_once.logits([[5, 6, 7]]).tobytes()


def test_a_record_names_the_acts_and_the_engine():
    """A record that NumPy has made with the same acts asks for that engine."""
    act, given = lens.silence_heads(0, 1), {"max_new_tokens": 6, "seed": 1}
    fast, slow = (
        gpt2lab.load(engine=name, dtype="float32").acting(act) for name in ("cpu", "numpy")
    )
    [done] = fast.complete("The dog", **given)
    assert done.record["engine"] == {
        "name": "cpu",
        "dtype": "float32",
        "cache_dtype": "float32",
        "acts": [act.about],
    }
    assert fast.replay(done.record).tokens == done.tokens
    with pytest.raises(InputError, match="acts"):
        gpt2lab.load(engine="cpu", dtype="float32").replay(done.record)
    [old] = slow.complete("The dog", **given)
    assert slow.replay(old.record).tokens == old.tokens == done.tokens
    with pytest.raises(InputError, match=r"made with engine numpy, .* this is engine cpu"):
        fast.replay(old.record)


OTHERS = {
    "a patch": lambda: lens.patch("h.1.mlp_out", np.ones(40)),
    "a function": lambda: lens.custom("h.0.attn.z", lambda value: value * 2, "doubled"),
    "some positions": lambda: lens.silence_heads(0, 1, positions=[2]),
    "a direction in what is normalised": lambda: lens.steer(0, V, name="ln_1"),
    "too large a factor": lambda: [lens.scale_neurons(0, 1, 1e20), lens.scale_neurons(0, 1, 1e20)],
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=list(OTHERS))
def test_other_acts_are_computed_by_numpy_and_the_log_says_so(other):
    with logged() as said:
        acting = model().acting(lens.silence_heads(1, 0), other())
    assert acting.engine.name == "numpy" and len(said) == 1
    assert "the numpy engine generates" in said[0] and "head 1.0 silenced" in said[0]
    with logged() as said:
        model("numpy").acting(other())
        model().acting(lens.silence_heads(0, 1), lens.steer(0, V, 0, positions=[3]))
    assert said == []


def test_acts_move_to_the_cpu_engine_once_its_kernels_are_compiled(monkeypatch):
    monkeypatch.setattr(compile_cache, "ready", lambda *_: False)
    monkeypatch.setattr(compile_cache, "in_background", lambda *_: FakeProcess())
    built, acts = CpuEngine(CONFIG, PARAMS, "float32"), ACTS["everything"]
    lm = model()
    lm.engine = fallback.Fallback(tiny_engine(CONFIG), lambda: built)
    acting = lm.acting(acts)
    cache = acting.engine.cache()
    slot = cache.new()
    first = acting.engine.step(cache, [slot], [IDS[:9]])
    assert acting.engine.name == "numpy"
    monkeypatch.setattr(compile_cache, "ready", lambda *_: True)
    assert acting.engine.name == "cpu" and acting.engine.acts == [act.about for act in acts]
    assert np.abs(acting.logits([IDS[:9]])[0, -1] - first).max() < 1e-4
    acting.engine.step(cache, [slot], [[1]])  # still NumPy's
    assert isinstance(lm.acting(acts).engine, CpuEngine)
    assert lm.logits([IDS]).tobytes() == built.logits([IDS]).tobytes()


class FakeProcess:
    """A compilation on its way."""

    def poll(self) -> None:
        """It has not ended."""
