"""The torch engine: equal to the reference, whatever is chunked, batched, forked or rewound."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from gpt2lab import InputError, Sampling, reference, weights
from gpt2lab.config import Config

from .support import GOLDEN, TINY, new_ids, tiny_engine, tiny_params

torch = pytest.importorskip("torch")

from gpt2lab.engines.torch import engine as torch_engine
from gpt2lab.engines.torch.engine import TorchEngine

VARIANTS = [
    {},
    {"activation_function": "gelu"},
    {"activation_function": "relu"},
    {"layer_norm_epsilon": 1e-2},
    {"n_inner": 48},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"n_embd": 36, "n_head": 3},  # a head width that is no power of two
    {"n_layer": 1, "n_head": 1, "n_vocab": 5},
]
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}


def make(config: Config = TINY, dtype: str | None = None, **options) -> TorchEngine:
    return TorchEngine(config, tiny_params(config), dtype, device="cpu", **options)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other make tiny models 15 times slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def engine():
    """float64: what is equal there to 1e-11 is the same computation."""
    return make(dtype="float64")


@pytest.fixture(scope="module")
def oracle():
    return tiny_engine(dtype="float64")


def draw(shape, config: Config = TINY, seed: int = 0):
    return np.random.default_rng(seed).integers(0, config.n_vocab, shape)


def difference(a, b) -> float:
    return float(np.abs(a - b).max())


def held(cache):
    """What a cache holds: its lengths and the bits of its buffers."""
    slots = sorted(cache._rows)
    return {slot: cache.length(slot) for slot in slots}, [x.clone() for x in cache.layers]


# ---- Equal to the reference.


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("change", VARIANTS, ids=str)
def test_every_variant_equals_the_reference(change, dtype):
    config = replace(TINY, **change)
    tokens = draw((3, 20), config)
    expected = tiny_engine(config, dtype="float64").logits(tokens)
    engine = make(config, dtype)
    found = engine.logits(tokens)
    assert found.dtype == dtype and found.shape == (3, 20, config.n_vocab)
    assert difference(found, expected) < TOLERANCE[dtype]
    cache = engine.cache()
    slots = [cache.new() for _ in tokens]
    engine.step(cache, slots, tokens[:, :19])
    found = engine.step(cache, slots, tokens[:, 19:])
    assert found.dtype == dtype and found.shape == (3, config.n_vocab)
    assert difference(found, expected[:, 19]) < TOLERANCE[dtype]


def test_the_official_code_s_results():
    config, params, _ = weights.load(GOLDEN / "openai_checkpoint")
    expected = np.load(GOLDEN / "openai_checkpoint" / "expected.npz")
    engine = TorchEngine(config, params, "float64")
    assert difference(engine.logits(expected["tokens_b2t7"]), expected["logits64_b2t7"]) < 1e-11


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_an_untied_head_is_used(dtype):
    """Its rows come in reverse: torch takes no array with negative strides as it is."""
    params = tiny_params()
    params["lm_head.weight"] = params["wte.weight"][::-1]
    found = TorchEngine(TINY, params, dtype, device="cpu").logits([[1, 2, 3]])
    assert difference(found, make(dtype=dtype).logits([[1, 2, 3]])[..., ::-1]) < 1e-5


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 0.15), ("float16", 0.02)])
def test_short_dtypes_are_close(oracle, dtype, limit):
    tokens = draw((2, 40))
    expected = oracle.logits(tokens)
    engine = make(dtype=dtype)
    found = engine.logits(tokens)
    assert found.dtype == np.float32
    assert difference(found, expected) < limit
    cache = engine.cache()
    slots = [cache.new(), cache.new()]
    engine.step(cache, slots, tokens[:, :38])
    engine.step(cache, slots, tokens[:, 38:39])
    assert difference(engine.step(cache, slots, tokens[:, 39:]), expected[:, 39]) < limit


def test_large_logits_close_together_stay_apart_in_bfloat16():
    """GPT-2's logits lie near -100, where bfloat16 knows only multiples of 0.5."""
    params = tiny_params()
    params["ln_f.weight"][0], params["ln_f.bias"][0] = 0, 12.5
    params["lm_head.weight"] = params["wte.weight"].copy()
    params["lm_head.weight"][:, 0] = -8
    tokens = draw((2, 20))
    expected = reference.model(TINY, params, tokens)["logits"]
    assert expected.mean() == pytest.approx(-100, abs=1)
    found = TorchEngine(TINY, params, "bfloat16", device="cpu").logits(tokens)
    assert difference(found, expected) < 0.15


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_step_without_calls_of_modules_has_the_same_bits(dtype):
    """Module calls made a token of the bundled model 40 % slower; a hook still gets its values."""
    engine, seen = make(dtype=dtype), []
    texts, one = draw((3, 7)).tolist(), [[5], [6], [7]]

    def steps():
        cache = engine.cache()
        slots = [cache.new() for _ in texts]
        return [engine.step(cache, slots, new) for new in (texts, one, one)]

    plain = steps()
    point = engine.model.get_submodule("h.1.mlp_out")
    hook = point.register_forward_hook(lambda *given: seen.append(given[-1].shape))
    watched = steps()
    hook.remove()
    assert len(seen) == 3
    for a, b in zip(plain, watched, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- The past.


def test_any_chunking_gives_the_same(engine, oracle):
    tokens = draw(64)
    expected = oracle.logits([tokens])[0]
    dice = random.Random(0)
    for _ in range(10):
        cache, place = engine.cache(), 0
        slot = cache.new()
        while place < 64:
            count = dice.choice([1, 1, 2, 7, 30])
            found = engine.step(cache, [slot], [tokens[place : place + count]])
            place = min(64, place + count)
            assert cache.length(slot) == place
            assert difference(found[0], expected[place - 1]) < 1e-11


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_random_steps_of_many_slots_equal_each_alone(dtype):
    """Some slots step, by one token or many, some rest, some begin, fork, rewind or end."""
    engine = make(dtype=dtype)
    oracle = tiny_engine(dtype="float64")
    limit = {**TOLERANCE, "bfloat16": 0.2}[dtype]
    dice, cache = random.Random(1), engine.cache()
    texts: dict[int, list[int]] = {}
    for _ in range(60):
        if len(texts) < 9:
            texts[cache.new()] = []
        for slot in dice.sample(sorted(texts), min(2, len(texts))):
            act = dice.random()
            if act < 0.2:
                texts[cache.fork(slot)] = list(texts[slot])
            elif act < 0.35:
                length = dice.randint(0, len(texts[slot]))
                cache.rewind(slot, length)
                del texts[slot][length:]
            elif act < 0.5 or len(texts) > 11:
                cache.free(slot)
                del texts[slot]
        slots = dice.sample(sorted(texts), dice.randint(0, len(texts)))
        slots = [slot for slot in slots if len(texts[slot]) < 50]
        new = [[dice.randrange(97) for _ in range(dice.choice([1, 1, 1, 2, 9]))] for _ in slots]
        found = engine.step(cache, slots, new)
        assert found.shape == (len(slots), 97)
        for slot, tokens, row in zip(slots, new, found, strict=True):
            texts[slot] += tokens
            assert difference(row, oracle.logits([texts[slot]])[0, -1]) < limit
        assert len(cache) == len(texts)
        assert {slot: cache.length(slot) for slot in texts} == {s: len(t) for s, t in texts.items()}


def test_slots_fork_rewind_and_free(engine):
    cache = engine.cache()
    a = cache.new()
    engine.step(cache, [a], [[1, 2, 3, 4]])
    b = cache.fork(a)
    one, two = engine.step(cache, [a, b], [[5], [6]])
    assert not np.allclose(one, two)
    cache.rewind(a, 4)
    assert difference(engine.step(cache, [a], [[6]])[0], two) < 1e-11
    cache.free(b)
    assert len(cache) == 1 and cache.length(a) == 5
    c = cache.new()
    assert c not in (a, b) and cache.length(c) == 0


def test_the_order_of_the_answers_is_the_caller_s(engine, oracle):
    cache = engine.cache()
    slots = [cache.new() for _ in range(4)]
    texts = {slots[2]: [1, 2, 3], slots[0]: [4], slots[3]: [5, 6, 7], slots[1]: [8, 9]}
    found = engine.step(cache, list(texts), list(texts.values()))
    for row, tokens in zip(found, texts.values(), strict=True):
        assert difference(row, oracle.logits([tokens])[0, -1]) < 1e-11


@pytest.mark.parametrize("forget", ["rewind", "free"])
def test_what_overflowed_and_was_forgotten_harms_nobody(forget):
    """0 times infinity is not a number: a weight of 0 does not make memory safe to read."""
    engine = make(dtype="float16")
    cache = engine.cache()
    a, b = cache.new(), cache.new()
    engine.step(cache, [a, b], [[1] * 6, [2] * 6])
    with torch.inference_mode():
        for layer in cache.layers:
            layer[:, cache.row(a), :, :6] = torch.inf
    if forget == "rewind":
        cache.rewind(a, 0)
    else:
        cache.free(a)
        a = cache.new()
    found = engine.step(cache, [a, b], [[1], [2]])  # both read up to the end of b
    assert np.isfinite(found).all()


# ---- Memory.


def test_memory_stays_what_it_was_over_many_texts(engine):
    cache = engine.cache()
    kept = cache.new()
    sizes = []
    for _ in range(30):
        slots = [cache.new() for _ in range(3)]
        engine.step(cache, slots, [[1, 2, 3]] * 3)
        engine.step(cache, [slots[0]], [[4] * 61])
        for slot in slots:
            cache.free(slot)
        sizes.append(sum(layer.nbytes for layer in cache.layers))
    assert set(sizes) == {2 * 2 * 4 * 32 * 64 * 8}  # L x 2 x 4 slots x E x n_ctx x 8 bytes
    cache.free(kept)
    assert len(cache) == 0 and sum(layer.nbytes for layer in cache.layers) == 0


def test_buffers_double_as_they_grow():
    engine = make(replace(TINY, n_ctx=500))
    cache, rooms = engine.cache(), set()
    slot = cache.new()
    for _ in range(50):
        engine.step(cache, [slot], [[1] * 10])
        rooms.add(cache.room)
    assert rooms == {(1, 64), (1, 128), (1, 256), (1, 500)}
    for _ in range(9):
        cache.new()
        rooms.add(cache.room)
    assert cache.room == (16, 500)


def test_a_cache_may_have_a_limit(engine):
    cache = engine.cache(3)
    slots = [cache.new() for _ in range(3)]
    engine.step(cache, slots, [[1], [2], [3]])
    for attempt in (cache.new, lambda: cache.fork(slots[0])):
        with pytest.raises(InputError, match="all 3 slots of the cache hold a sequence; free one"):
            attempt()
    assert cache.room[0] == 3 and len(cache) == 3
    cache.free(slots[1])
    assert cache.length(cache.fork(slots[0])) == 1
    for bad in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="an integer >= 1"):
            engine.cache(bad)


# ---- Generation: the numpy engine's ids.


def ids(engine, s, prompts=((10, 20, 30), (5, 6, 7, 8, 9, 10, 11), (90, 1, 2, 3, 4)), **options):
    return new_ids(engine, prompts, s, **options)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0, "max_new_tokens": 150},  # past the window, which slides
        {"n": 4, "seed": 7, "top_p": 0.9},
        {"n": 3, "seed": 8, "max_new_tokens": 150, "window_keep": 0.25},
        {"temperature": 0, "num_beams": 4, "n": 2, "stop_tokens": (5, 9, 17, 33)},
        {"temperature": 0, "num_beams": 2, "max_new_tokens": 80},
        {"seed": 4, "num_beams": 3, "temperature": 0.9},
    ],
    ids=str,
)
def test_generation_gives_the_numpy_engine_s_ids(engine, oracle, settings):
    s = Sampling(**{"max_new_tokens": 30, "stop_tokens": (5,), **settings})
    expected = ids(oracle, s)
    for batch_size in (1, 2, 16):
        assert ids(engine, s, batch_size=batch_size) == expected


# ---- Wrong inputs.


@pytest.mark.parametrize(
    ("slots", "tokens", "message"),
    [
        ([0, 1], [[1], []], "step of slot 1 is empty; give at least one token"),
        ([0, 1], [[1], [97]], "slot 1 holds the id 97; this model's ids go from 0 to 96"),
        ([0, 1], [[1], [-1]], "slot 1 holds the id -1"),
        ([0, 1], [[1], [0.5]], "slot 1 holds 0.5; token ids are integers"),
        ([0, 1], [[1], "a"], "step of slot 1 is 'a'"),
        (
            [0, 1],
            [[1], [1] * 60],
            "slot 1 would hold 65 tokens, more than the model's 64 positions",
        ),
        ([0, 0], [[1], [2]], r"a slot is named twice in one step: \[0, 0\]"),
        ([0, 7], [[1], [2]], "slot 7 holds no sequence of this cache"),
        ([0, 1], [[1]], "2 slots and 1 lists of tokens"),
    ],
)
def test_a_wrong_step_is_named_and_changes_nothing(engine, slots, tokens, message):
    cache = engine.cache()
    a, b = cache.new(), cache.new()
    engine.step(cache, [a, b], [[1, 2, 3], [4, 5, 6, 7, 8]])
    lengths, buffers = held(cache)
    with pytest.raises(InputError, match=message):
        engine.step(cache, slots, tokens)
    assert held(cache)[0] == lengths
    assert all(map(torch.equal, cache.layers, buffers))


def test_the_window_may_be_filled_to_its_end(engine, oracle):
    cache, tokens = engine.cache(), draw(64)
    slot = cache.new()
    engine.step(cache, [slot], [tokens[:63]])
    found = engine.step(cache, [slot], [tokens[63:]])
    assert difference(found[0], oracle.logits([tokens])[0, -1]) < 1e-11
    with pytest.raises(InputError, match="slot 0 would hold 65 tokens"):
        engine.step(cache, [slot], [[1]])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[97]], "id 97"),
        ([[-1]], "id -1"),
        ([1, 2], "a row 1; a batch \\[B, T\\]"),
        ([[]], "the batch is empty"),
        ([], "it has none"),
        ([[1], [1, 2]], "differ in length"),
        ([[0.5]], "0.5; token ids are integers"),
        ([[1] * 65], "65 are more than the model's 64 positions"),
    ],
)
def test_bad_batches_are_named(engine, tokens, message):
    with pytest.raises(InputError, match=message):
        engine.logits(tokens)


@pytest.mark.parametrize("dtype", ["int8", "float8", 16, ""])
def test_an_unknown_dtype_is_named(dtype):
    with pytest.raises(InputError, match=r"dtype is .* one of float32, bfloat16, float16"):
        make(dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "gpu0", "", "cpu:3", "meta", 0])
def test_an_unknown_device_is_named_with_what_there_is(device):
    with pytest.raises(InputError, match=rf"device is '{device}'; .* one of .*cpu"):
        TorchEngine(TINY, tiny_params(), device=device)


def test_the_best_device_that_holds_the_dtype_is_chosen(monkeypatch):
    assert make().device == "cpu" and make().dtype == "float32" and make().name == "torch"
    assert TorchEngine(TINY, tiny_params(), device=torch.device("cpu")).device == "cpu"
    monkeypatch.setattr(torch_engine, "devices", lambda: ["mps", "cpu"])
    monkeypatch.setattr(
        torch_engine, "_holds", lambda device, dtype: device == "cpu" or dtype != torch.float64
    )
    choose = torch_engine._choose_device
    assert choose(None, "float32") == "mps" and choose(None, "float64") == "cpu"
    with pytest.raises(InputError, match="dtype 'float64' is not one that the device 'mps'"):
        choose("mps", "float64")


@pytest.mark.skipif(torch_engine.devices() == ["cpu"], reason="no GPU here")
@pytest.mark.parametrize("device", torch_engine.devices())
def test_a_gpu_gives_the_reference_s_logits(device):
    tokens = draw((3, 20))
    engine = TorchEngine(TINY, tiny_params(), device=device)
    assert difference(engine.logits(tokens), tiny_engine().logits(tokens)) < 1e-3


def test_without_torch_the_next_step_is_told():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from gpt2lab.errors import InputError\n"
        "try:\n    import gpt2lab.engines.torch.engine\n"
        "except InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "the torch engine needs the package torch, which is not installed; "
        "run: pip install 'gpt2lab[train]'"
    )


# ---- What is left alone.


@pytest.mark.parametrize("dtype", torch_engine.DTYPES)
def test_arrays_are_never_written_to(tmp_path, dtype):
    """Read-only memory maps, other byte orders and other layouts are taken without a warning."""
    params = tiny_params()
    before = {name: value.copy() for name, value in params.items()}
    np.save(tmp_path / "wte.npy", params["wte.weight"])
    params["wte.weight"] = np.load(tmp_path / "wte.npy", mmap_mode="r")
    params["wpe.weight"] = params["wpe.weight"].astype(">f4")
    params["h.0.mlp.c_fc.weight"] = np.asfortranarray(params["h.0.mlp.c_fc.weight"])
    engine = TorchEngine(TINY, params, dtype, device="cpu")
    expected = make(dtype=dtype).logits([[1, 2, 3]])
    assert np.array_equal(engine.logits([[1, 2, 3]]), expected)
    cache = engine.cache()
    engine.step(cache, [cache.new()], [[1, 2, 3]])
    assert all(np.array_equal(params[name], value) for name, value in before.items())


def test_settings_of_torch_stay_as_they_were(engine):
    def settings():
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_rng_state().tolist(),
        )

    before = settings()
    cache = engine.cache()
    slot = cache.new()
    engine.step(cache, [slot], [[1]])
    cache.free(cache.fork(slot))
    with pytest.raises(InputError):
        engine.step(cache, [slot], [[97]])
    assert settings() == before


def test_the_answers_are_the_caller_s_to_change(engine):
    cache = engine.cache()
    slot = cache.new()
    found = engine.step(cache, [slot], [[1]])
    kept = found.copy()
    engine.step(cache, [slot], [[2]])
    assert np.array_equal(found, kept)
    found[:] = 0
    cache.rewind(slot, 0)
    assert np.array_equal(engine.step(cache, [slot], [[1]]), kept)
