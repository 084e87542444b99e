"""The cpu engine: equal to the reference, the same bits in every company, and well-behaved."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2lab import Sampling, engines, records, reference
from gpt2lab.config import Config
from gpt2lab.engines import fallback
from gpt2lab.engines.cpu import compile_cache, cpu_features, packed_cache
from gpt2lab.engines.cpu import threads as workers
from gpt2lab.engines.cpu.layout import STEP, Control, bfloat16, ceil_to, widened
from gpt2lab.engines.cpu.packing import (
    KINDS,
    NIBBLES,
    by_head,
    pack,
    panels_of_int4,
    quantised,
    quantised_in_groups,
    shapes,
)
from gpt2lab.errors import Failure, InputError
from gpt2lab.files import file_facts
from gpt2lab.files.kept import keep

from .support import TINY, drawn, new_ids, tiny_engine, tiny_params

pytestmark = pytest.mark.skipif(bool(cpu_features.why_not()), reason=cpu_features.why_not())

if not cpu_features.why_not():
    from gpt2lab.engines.cpu.engine import ROWS, CpuEngine

CONFIG = Config(n_vocab=211, n_ctx=320, n_embd=80, n_head=4, n_layer=2, n_inner=200)
KINDS_OF_ENGINE = [
    ("float32", "float32"),
    ("bfloat16", "bfloat16"),
    ("int8", "bfloat16"),
    ("int4", "bfloat16"),
]
VARIANTS = [
    {},
    {"activation_function": "gelu"},
    {"activation_function": "relu", "n_inner": 33},
    {"scale_attn_weights": False, "layer_norm_epsilon": 1e-3},
    {"scale_attn_by_inverse_layer_idx": True},
    {"n_embd": 36, "n_head": 3, "n_vocab": 50},  # widths that fill no vector
    {"n_embd": 7, "n_head": 1, "n_ctx": 5, "n_layer": 1},
]


@pytest.fixture(scope="module")
def params():
    return tiny_params(CONFIG, scale=6.0)


@pytest.fixture(scope="module", params=KINDS_OF_ENGINE, ids="-".join)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def pair(kind, params):
    """The same engine with one thread and with three."""
    dtype, cache = kind
    return [CpuEngine(CONFIG, params, dtype, cache_dtype=cache, threads=n) for n in (1, 3)]


def tokens(count, seed=0, config=CONFIG):
    return np.random.default_rng(seed).integers(0, config.n_vocab, count).tolist()


def softmax(logits):
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# ---- Equal to the reference.


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_float32_is_the_reference(changes):
    config = dataclasses.replace(TINY, **changes)
    weights = tiny_params(config, scale=4.0)
    ids = np.random.default_rng(1).integers(0, config.n_vocab, (3, config.n_ctx))
    exact = {name: value.astype(np.float64) for name, value in weights.items()}
    expected = reference.model(config, exact, ids)["logits"]
    found = CpuEngine(config, weights, threads=2).logits(ids)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 2e-5 * max(1, np.abs(expected).max())


def test_a_head_of_its_own_is_used(params):
    own = {**params, "lm_head.weight": params["wte.weight"][::-1].copy()}
    ids = [tokens(20)]
    expected = reference.model(CONFIG, own, ids)["logits"]
    assert np.abs(CpuEngine(CONFIG, own).logits(ids) - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("dtype", "cache", "most"),
    [
        ("float32", "bfloat16", 1e-4),
        ("float32", "int8", 1e-3),
        ("bfloat16", "bfloat16", 2e-3),
        ("int8", "bfloat16", 2e-2),
        ("int4", "bfloat16", 0.6),
    ],
)
def test_short_dtypes_stay_close(params, dtype, cache, most):
    """The mean Kullback-Leibler divergence from the reference, on weights with strong opinions."""
    ids = [tokens(CONFIG.n_ctx)]
    p = softmax(reference.model(CONFIG, params, ids)["logits"])
    q = softmax(CpuEngine(CONFIG, params, dtype, cache_dtype=cache).logits(ids))
    divergence = (p * (np.log(p + 1e-30) - np.log(q + 1e-30))).sum(-1).mean()
    assert 0 < divergence < most


def test_int8_keeps_its_accuracy_beside_outliers(params):
    """GPT-2's residual stream has a few columns a hundred times larger than the rest.

    One scale for a whole row of activations would round the others away; blocks have their own.
    """
    loud = {name: value.copy() for name, value in params.items()}
    for place in (3, 41, 66):
        loud["wpe.weight"][:, place] += 60.0
        for layer in range(CONFIG.n_layer):
            loud[f"h.{layer}.ln_1.weight"][place] *= 4
            loud[f"h.{layer}.ln_2.weight"][place] *= 4
    ids = [tokens(200)]
    p = softmax(reference.model(CONFIG, loud, ids)["logits"])
    q = softmax(CpuEngine(CONFIG, loud, "int8").logits(ids))
    assert (p * (np.log(p + 1e-30) - np.log(q + 1e-30))).sum(-1).mean() < 3e-2


# ---- To the bit the same, whatever the company.


def alone(engine, ids, ends):
    """The logits after each of `ends` tokens, one token at a time, in a cache of its own."""
    cache = engine.cache()
    slot, rows = cache.new(), {}
    for i, token in enumerate(ids):
        [logits] = engine.step(cache, [slot], [[token]])
        if i + 1 in ends:
            rows[i + 1] = logits.copy()
    return rows


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_row_is_the_same_bits_in_any_company(pair, data):
    """Random batches, orders, chunks, thread counts and cancellations, against rows alone."""
    single, many = pair
    n = data.draw(st.integers(1, 6), "sequences")
    texts = [
        tokens(data.draw(st.integers(1, 90), "length"), data.draw(st.integers(0, 99), "seed"))
        for _ in range(n)
    ]
    cache, slots, fed, seen = many.cache(), {}, [0] * n, [{} for _ in range(n)]
    cancelled = set()
    while any(fed[i] < len(texts[i]) for i in range(n) if i not in cancelled):
        going = [i for i in range(n) if fed[i] < len(texts[i]) and i not in cancelled]
        chosen = data.draw(st.permutations(going), "order")
        chosen = chosen[: data.draw(st.integers(1, len(chosen)), "rows")]
        for i in chosen:
            if i not in slots:
                slots[i] = cache.new()
        parts = [texts[i][fed[i] : fed[i] + data.draw(st.integers(1, 40), "chunk")] for i in chosen]
        logits = many.step(cache, [slots[i] for i in chosen], parts)
        for row, i, part in zip(logits, chosen, parts, strict=True):
            fed[i] += len(part)
            seen[i][fed[i]] = row.copy()
        if len(going) > 1 and data.draw(st.integers(0, 9), "cancel") == 0:
            gone = data.draw(st.sampled_from(going), "who")
            cancelled.add(gone)
            if gone in slots:
                cache.free(slots.pop(gone))
        again = data.draw(st.sampled_from([None, *slots]), "rewind")
        if again is not None and data.draw(st.booleans(), "whether"):
            fed[again] = data.draw(st.integers(0, fed[again]), "to")
            cache.rewind(slots[again], fed[again])
    for i in range(n):
        expected = alone(single, texts[i], seen[i])
        for end, row in seen[i].items():
            assert np.array_equal(row, expected[end]), (i, end)


def test_thirty_two_rows_and_one_long_prefill_are_the_same_bits(pair):
    single, many = pair
    text = tokens(CONFIG.n_ctx)
    whole = many.logits([text])[0]
    assert len(text) > ROWS  # so that it goes in two parts
    assert np.array_equal(single.logits([text])[0], whole)
    cache = many.cache()
    slots = [cache.new() for _ in range(32)]
    many.step(cache, slots, [text[: 1 + i] for i in range(32)])
    for step in range(3):
        logits = many.step(cache, slots, [[text[1 + i + step]] for i in range(32)])
        for i in range(32):
            assert np.array_equal(logits[i], whole[1 + i + step])


def test_fork_goes_on_as_if_it_had_read_all(pair):
    engine = pair[1]
    text, cache = tokens(100), engine.cache()
    slot = cache.new()
    engine.step(cache, [slot], [text[:75]])
    other = cache.fork(slot)
    engine.step(cache, [slot], [tokens(20, 5)])
    [logits] = engine.step(cache, [other], [text[75:]])
    assert np.array_equal(logits, engine.logits([text])[0, -1])
    assert (cache.length(slot), cache.length(other), len(cache)) == (95, 100, 2)


def test_an_int8_cache_forks_with_its_scales(params):
    engine = CpuEngine(CONFIG, params, "float32", cache_dtype="int8", threads=2)
    text, cache = tokens(90), engine.cache()
    slot = cache.new()
    engine.step(cache, [slot], [text[:61]])
    [logits] = engine.step(cache, [cache.fork(slot)], [text[61:]])
    assert np.array_equal(logits, engine.logits([text])[0, -1])


def test_slots_that_were_used_before_leave_no_trace(pair):
    engine, text = pair[1], tokens(50)
    expected = engine.logits([text])[0, -1]
    for seed in range(5):
        cache = engine.cache()
        slots = [cache.new() for _ in range(4)]
        engine.step(cache, slots, [tokens(130 + i, seed) for i in range(4)])
        for slot in slots:
            cache.free(slot)
        assert np.array_equal(engine.step(cache, [cache.new()], [text])[0], expected)


def test_two_python_threads_share_an_engine(pair):
    """Numba's own thread pool would abort the process here."""
    engine = pair[1]
    texts = [tokens(60, seed) for seed in range(4)]
    expected = [engine.logits([text])[0, -1].copy() for text in texts]
    wrong = []

    def work(i):
        for _ in range(20):
            cache = engine.cache()
            if not np.array_equal(engine.step(cache, [cache.new()], [texts[i]])[0], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_engines_of_several_kinds_take_turns(params):
    """A helper that was still in one engine's code once took a ticket of the next engine's job.

    It then ran float32 code over int8 weights, wrote past buffers, and the process died much later.
    """
    every = [CpuEngine(CONFIG, params, d, cache_dtype=c, threads=3) for d, c in KINDS_OF_ENGINE]
    text = tokens(5)
    expected = [engine.logits([text]) for engine in every]
    for _ in range(300):
        for engine, logits in zip(every, expected, strict=True):
            assert np.array_equal(engine.logits([text]), logits)


def test_code_takes_no_ticket_of_another_epoch(pair):
    """The same, without a race: a helper comes late, and another engine's job stands open."""
    control = np.zeros(64, np.int64)
    control[Control.CLAIM], control[Control.TOTAL] = 7 << 32, 5
    pair[0]._run.call(control.ctypes.data, 6, 0)  # taking one would lead to the job at address 0
    assert (control[Control.CLAIM], control[Control.DONE]) == (7 << 32, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_of_fork_has_helpers_of_its_own(params):
    code = (
        "import os, numpy as np\n"
        "from tests.test_cpu_engine import CONFIG, CpuEngine, tokens, tiny_params\n"
        "engine = CpuEngine(CONFIG, tiny_params(CONFIG, scale=6.0), threads=3)\n"
        "before = engine.logits([tokens(60)])\n"
        "child = os.fork()\n"
        "same = np.array_equal(engine.logits([tokens(60)]), before)\n"
        "if not child: os._exit(0 if same else 1)\n"
        "print(same, os.waitpid(child, 0)[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["True", "0"], done.stderr


# ---- Other machines' paths, as far as this one can take them.


def _paths():
    if cpu_features.why_not():
        return []
    has = cpu_features.features()[1]
    if not cpu_features.here().x86:
        target = cpu_features.target_of("aarch64", has - {"dotprod"})
        return [target] if target != cpu_features.here() else []
    avx2 = has - {name for name in has if name.startswith(("avx512", "avxvnni", "avx10"))}
    plain = has - {"avx512bf16", "avx512vnni", "avxvnni"}
    pairs = has | {"clzero"} if "avx512bf16" in has else plain  # AMD's choice
    found = [cpu_features.target_of("x86_64", frozenset(f)) for f in (avx2, plain, pairs)]
    found = list(dict.fromkeys(found))
    return [target for target in found if target and target != cpu_features.here()]


@pytest.mark.parametrize("target", _paths(), ids=lambda target: target.name)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_paths_of_other_machines(params, target, dtype):
    engine = CpuEngine(CONFIG, params, dtype, threads=2, target=target)
    text = tokens(70)
    expected = reference.model(CONFIG, params, [text])["logits"]
    found = engine.logits([text])
    p, q = softmax(expected), softmax(found)
    most = {"float32": 1e-7, "bfloat16": 2e-3, "int8": 2e-2, "int4": 0.6}[dtype]
    assert (p * (np.log(p + 1e-30) - np.log(q + 1e-30))).sum(-1).mean() < most
    for end, row in alone(engine, text, {1, 33, 70}).items():
        assert np.array_equal(row, found[0, end - 1])


@pytest.mark.parametrize(
    ("cpu", "features", "expected"),
    [
        ("x86_64", "avx2 fma", ("x86 AVX2", "shift", "int16")),
        ("AMD64", "avx2 fma avxvnni", ("x86 AVX2, VNNI", "shift", "vnni")),
        (
            "x86_64",
            "avx2 fma avx512f avx512bw avx512vl avx512dq avx512vnni avx512bf16 clzero",
            ("x86 AVX-512, BF16, VNNI", "pairs", "vnni"),
        ),
        (  # Intel, where pairs of bfloat16 are slower than float32
            "x86_64",
            "avx2 fma avx512f avx512bw avx512vl avx512dq avx512vnni avx512bf16",
            ("x86 AVX-512, VNNI", "shift", "vnni"),
        ),
        ("aarch64", "neon dotprod", ("Arm NEON, dot", "shift", "dot")),
        ("arm64", "neon", ("Arm NEON", "shift", "int16")),
    ],
)
def test_the_path_is_chosen_by_features(cpu, features, expected):
    target = cpu_features.target_of(cpu, frozenset(features.split()))
    assert (target.name, target.bfloat16, target.int8) == expected


def test_a_record_names_how_weights_are_multiplied(params):
    """bfloat16 by pairs and widened give other bits; float32 has one way alone."""
    engines_ = {dtype: CpuEngine(CONFIG, params, dtype) for dtype in ("float32", "bfloat16")}
    told = {dtype: engines.described(engine) for dtype, engine in engines_.items()}
    assert "product" not in told["float32"]
    assert told["bfloat16"]["product"] == cpu_features.here().bfloat16
    model, here = {"name": "m", "sha256": "0"}, told["bfloat16"]
    earlier = {key: value for key, value in here.items() if key != "product"}
    for engine in (here, earlier):  # records of an earlier version do not name it
        records.check_origin({"model": model, "engine": engine}, records.Origin(model, here))
    with pytest.raises(InputError, match=r"product other, this is .*product (shift|pairs)"):
        other = {"model": model, "engine": here | {"product": "other"}}
        records.check_origin(other, records.Origin(model, here))


@pytest.mark.parametrize(("cpu", "features"), [("x86_64", "sse4.2"), ("riscv64", "v")])
def test_a_machine_without_a_path(cpu, features):
    assert cpu_features.target_of(cpu, frozenset([features])) is None


# ---- Packing.


def test_a_packed_matrix_holds_every_number_once():
    target = cpu_features.here()
    weight = np.random.default_rng(0).normal(size=(37, 11)).astype(np.float32)  # [K, N]
    for dtype in ("float32", "bfloat16", "int8"):
        shape, scales = shapes(11, 37, target, dtype)
        data, scale = np.empty(shape, KINDS[dtype]), np.empty(scales, np.float32)
        pack(weight.T, target, dtype, data, scale, None)
        if target.product(dtype) == "vnni":
            data = (data.view(np.uint8) - np.uint8(128)).view(np.int8)
        flat = data.transpose(0, 2, 1, 3).reshape(shape[0] * target.width, -1)  # [N, K]
        values = widened(flat) if dtype == "bfloat16" else flat.astype(np.float32)
        if dtype == "int8":
            values *= scale[:, None]
        size = {"float32": 0, "bfloat16": 2**-8, "int8": 1 / 127}[dtype]
        limit = size * np.abs(weight).max(0)[:, None]
        assert (np.abs(values[:11, :37] - weight.T) <= limit).all()
        assert not values[11:].any()
        assert not values[:, 37:].any()


@pytest.mark.parametrize("product", NIBBLES)
def test_a_panel_of_int4_holds_every_number_once(product):
    """A word holds eight neighbouring numbers of a column, and each block ends with its scales."""
    width, columns = 16, np.random.default_rng(0).normal(size=(21, 70)).astype(np.float32)  # [N, K]
    panels = panels_of_int4(columns, width, product)
    assert panels.shape == (2, STEP[product].panel_bytes(70, width))
    blocks = panels.reshape(2, 2, -1)  # of 64 numbers, the second padded
    words = np.ascontiguousarray(blocks[..., : 8 * width * 4]).view(np.uint32)
    scales = widened(np.ascontiguousarray(blocks[..., 8 * width * 4 :]).view(np.uint16))
    nibbles = np.array(NIBBLES[product], np.uint32)
    numbers = (words[..., None] >> 4 * nibbles & 15).astype(np.float32) - 8
    numbers = numbers.reshape(2, 2, 8, width, 8) * scales[:, :, None, :, None]
    flat = numbers.transpose(0, 3, 1, 2, 4).reshape(2 * width, 128)
    whole = np.pad(columns, ((0, 0), (0, 58))).reshape(21, 2, 64)
    most = np.abs(whole).max(-1, keepdims=True) / 7  # half a step is less
    assert (np.abs(flat[:21].reshape(21, 2, 64) - whole) < most).all()
    assert not flat[21:].any()
    assert not flat[:, 70:].any()


def test_int4_keeps_numbers_that_it_can_hold():
    """Weights that are integers times a scale of bfloat16 already, by calibration or by a load."""
    random = np.random.default_rng(0)
    integers = random.integers(-8, 8, (50, 128)).astype(np.float32)
    integers[:, ::64] = random.integers(-8, -4, (50, 2))  # no group is all zeros
    scales = widened(bfloat16(random.uniform(0.001, 0.1, (50, 2)).astype(np.float32)))
    columns = integers * np.repeat(scales, 64, 1)
    numbers, found = quantised_in_groups(columns)
    assert np.array_equal(numbers * np.repeat(found, 64, 1), columns)
    assert not quantised_in_groups(np.zeros((3, 64), np.float32))[0].any()


def test_heads_are_padded_to_whole_panels():
    order = by_head(12, 4, 16)
    assert len(order) == 3 * 3 * 16
    assert order[:4].tolist() == [0, 1, 2, 3]  # the first head's queries
    assert order[16:20].tolist() == [12, 13, 14, 15]  # its keys
    assert order[3 * 16 : 3 * 16 + 4].tolist() == [4, 5, 6, 7]
    assert sorted(order[order >= 0]) == list(range(36))


def test_bfloat16_rounds_to_the_nearest_even():
    x = np.array([1.0, 1.00390625, 1.01171875, -3.1415926, 0, 65504], np.float32)
    assert widened(bfloat16(x)).tolist() == [1.0, 1.0, 1.015625, -3.140625, 0, 65536]


def test_int8_scales_are_the_largest_of_a_column():
    numbers, scale = quantised(np.array([[1.0, -2.0], [0.0, 0.0]], np.float32))
    assert numbers.tolist() == [[64, -127], [0, 0]]
    assert scale.tolist() == [np.float32(2 / 127), 1.0]


def test_blocks_of_integers_cannot_overflow():
    for name, weight, activation in (
        ("int16", 127, 32767),
        ("vnni", 255, 127),
        ("dot", 127, 127),
        ("nibbles", 15, 127),
        ("nibbles16", 8, 32767),
    ):
        step = STEP[name]
        assert step.block * step.numbers * weight * activation < 2**31


# ---- Generation stands on it.


def test_texts_are_those_of_the_numpy_engine():
    weights = tiny_params(TINY)
    cpu, numpy = CpuEngine(TINY, weights, threads=2), tiny_engine()
    for s in (
        Sampling(temperature=0, max_new_tokens=100, stop_tokens=()),
        Sampling(temperature=0.9, top_p=0.9, seed=3, max_new_tokens=30, n=5, stop_tokens=()),
    ):
        prompts = [[1, 2, 3], [5], list(range(40))]
        found = [new_ids(e, prompts, s) for e in (cpu, numpy)]
        assert found[0] == found[1]


def test_beams_are_those_of_the_numpy_engine():
    weights = tiny_params(TINY)
    s = Sampling(num_beams=4, temperature=0, max_new_tokens=12, n=4)
    found = [
        new_ids(engine, [[4, 8, 15]], s) for engine in (CpuEngine(TINY, weights), tiny_engine())
    ]
    assert found[0] == found[1]


def test_memory_stays_what_it_was(params):
    """Slots that are freed are used again: a thousand texts take the memory of a few."""
    engine = CpuEngine(CONFIG, params, threads=1)
    s = Sampling(temperature=0, max_new_tokens=2, stop_tokens=())
    seen = set()
    for i in range(200):
        list(drawn(engine, [[i % CONFIG.n_vocab, 1]], s))
        seen.add(tuple(buffer.ctypes.data for buffer in engine.memory.spare))
    assert len(seen) == 1


# ---- Bad input.


def refused(function, *words):
    with pytest.raises(InputError) as caught:
        function()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_what_cannot_be_done_is_said_and_changes_nothing(params):
    engine = CpuEngine(CONFIG, params, threads=2)
    cache = engine.cache(slots=2)
    one, two = cache.new(), cache.new()
    refused(cache.new, "all 2 slots", "free one")
    engine.step(cache, [one, two], [tokens(300), tokens(9)])
    refused(lambda: engine.step(cache, [two, one], [[1], tokens(21)]), "would hold 321", "320")
    refused(lambda: engine.step(cache, [two, one], [[1], [211]]), "the id 211", "210")
    refused(lambda: engine.step(cache, [two, one], [[1], [-1]]), "the id -1")
    refused(lambda: engine.step(cache, [two, one], [[1], []]), "is empty; give at least one")
    refused(lambda: engine.step(cache, [two, two], [[1], [1]]), "named twice")
    refused(lambda: engine.step(cache, [two, one], [[1]]), "2 slots and 1 lists")
    refused(lambda: engine.logits([[1], [1, 2]]), "rows differ")
    refused(lambda: engine.logits([1, 2]), "batch")
    assert (cache.length(one), cache.length(two)) == (300, 9)
    text = [*tokens(9), 7]
    assert np.array_equal(engine.step(cache, [two], [[7]])[0], engine.logits([text])[0, -1])


def test_a_step_that_is_broken_off_leaves_slots_as_they_were(params, monkeypatch):
    engine = CpuEngine(CONFIG, params, threads=2)
    cache, calls = engine.cache(), []
    slot = cache.new()
    engine.step(cache, [slot], [tokens(10)])
    whole = workers.Workers.run

    def broken(self, *args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        whole(self, *args)

    monkeypatch.setattr(workers.Workers, "run", broken)
    with pytest.raises(KeyboardInterrupt):
        engine.step(cache, [slot], [tokens(300, 2)])
    assert cache.length(slot) == 10
    monkeypatch.undo()
    text = [*tokens(10), *tokens(40, 3)]
    assert np.array_equal(engine.step(cache, [slot], [text[10:]])[0], engine.logits([text])[0, -1])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dtype": "int2"}, ("'int2'", "float32, bfloat16, int8, int4")),
        ({"cache_dtype": "int4"}, ("'int4'", "float32, bfloat16, int8")),
        ({"dtype": "float64", "engine": "cpu"}, ("'float64'", "float32, bfloat16, int8")),
        ({"cache_dtype": "fp8"}, ("'fp8'", "float32, bfloat16, int8")),
        ({"threads": 0}, ("threads is 0", "1 to 256")),
        ({"engine": "numpy", "threads": 2}, ("numpy engine takes no number of threads", "cpu")),
        ({"engine": "cpu", "device": "cuda"}, ("cpu engine takes no device", "torch")),
        ({"engine": "gpu"}, ("'gpu'", "cpu, numpy, torch")),
    ],
)
def test_wrong_choices_are_named(params, given, words):
    refused(lambda: engines.choose(CONFIG, params, **given), *words)


def test_weights_that_memory_does_not_hold_are_refused(params, monkeypatch):
    monkeypatch.setattr(cpu_features, "memory", lambda: 1000)
    refused(lambda: CpuEngine(CONFIG, params, "bfloat16"), "bfloat16 weights", "dtype int8")


def test_the_default_dtype_is_the_largest_that_fits_twice(params, monkeypatch, caplog):
    from gpt2lab.engines.cpu.engine import default_dtype

    numbers = sum(value.size for value in params.values())
    for factor, expected in ((20, "float32"), (5, "bfloat16"), (1, "int8")):
        monkeypatch.setattr(cpu_features, "memory", lambda factor=factor: factor * numbers)
        assert default_dtype(CONFIG) == expected
    monkeypatch.setattr(cpu_features, "memory", lambda: 5 * numbers)
    assert CpuEngine(CONFIG, params).dtype == "bfloat16" and "held as bfloat16" in caplog.text


def test_a_machine_that_is_not_served_says_so(params, monkeypatch):
    monkeypatch.setattr(cpu_features, "why_not", lambda: "the package numba is not installed")
    refused(lambda: engines.choose(CONFIG, params, "cpu"), "numba", "engine numpy")
    refused(lambda: engines.choose(CONFIG, params, dtype="int8"), "numba", "engine numpy")
    assert engines.choose(CONFIG, params).name == "numpy"


# ---- Code on disk.


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compile_cache, "_loaded", {})
    return tmp_path / "gpt2lab"


def test_kernels_are_compiled_once_and_a_damaged_file_again(own_cache, caplog):
    caplog.set_level("INFO", "gpt2lab")
    target = cpu_features.here()
    compile_cache.library("crew", target)
    [file] = (own_cache / "kernels").glob("crew-*.o")
    assert caplog.text.count("once on this machine") == 1
    compile_cache._loaded.clear()
    compile_cache.library("crew", target)
    assert caplog.text.count("once on this machine") == 1
    good = file.read_bytes()
    for bad in (good[:100], good[:-1] + bytes([good[-1] ^ 1]), b""):
        file.write_bytes(bad)
        compile_cache._loaded.clear()
        compile_cache.library("crew", target)
        assert file.read_bytes()[32:][:4] == good[32:][:4]
        assert len(file.read_bytes()) == len(good)


def test_a_cache_folder_that_cannot_be_written_does_not_matter(own_cache):
    own_cache.write_text("a file where the folder should be")
    compile_cache.library("crew", cpu_features.here())


def test_a_failed_compilation_is_one_line(own_cache, monkeypatch):
    def broken(*args):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(compile_cache, "compile_object", broken)
    with pytest.raises(Failure, match=r"no such instruction.*engine numpy"):
        compile_cache.library("crew", cpu_features.here())


def test_numpy_writes_until_the_kernels_are_there(params, own_cache, monkeypatch, caplog):
    """The first start on a machine; what began with NumPy ends with it."""
    process = type("Process", (), {"returncode": None, "poll": lambda self: self.returncode})()
    monkeypatch.setattr(compile_cache, "in_background", lambda *_: process)
    caplog.set_level("INFO", "gpt2lab")
    engine = engines.choose(CONFIG, params)
    assert isinstance(engine, fallback.Fallback)
    assert "in the background" in caplog.text
    cache, text = engine.cache(), tokens(9)
    slot = cache.new()
    first = engine.step(cache, [slot], [text])
    assert (engine.name, engine.dtype) == ("numpy", "float32")
    engine._build = lambda: CpuEngine(CONFIG, params, "float32")
    monkeypatch.setattr(compile_cache, "ready", lambda *_: True)
    assert (engine.name, engine.dtype, engine.cache_dtype) == ("cpu", "float32", "float32")
    engine.step(cache, [slot], [[1]])  # still NumPy's
    other = engine.cache()
    assert np.abs(engine.step(other, [other.new()], [text]) - first).max() < 1e-4
    assert np.abs(engine.logits([text])[0, -1] - first).max() < 1e-4


def test_numpy_goes_on_when_the_compilation_fails(params, own_cache, monkeypatch):
    process = type("Process", (), {"returncode": 1, "poll": lambda self: 1})()
    monkeypatch.setattr(compile_cache, "in_background", lambda *_: process)
    assert engines.choose(CONFIG, params).name == "numpy"


def test_no_kernels_are_promised_where_numba_does_not_load(params, own_cache, monkeypatch, caplog):
    """A numba that is found and does not import: each start promised kernels that never came."""
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(cpu_features, "why_not", lambda: "")  # it was found
    engine = engines.choose(CONFIG, params)
    assert engine.name == "numpy" and engine._process is None
    assert caplog.text.count("no fast kernels: the package numba does not load") == 1


def test_a_folder_in_the_place_of_a_kernel_leaves_no_other_file(tmp_path):
    """The file that was to be renamed onto it stayed behind at every start."""
    (tmp_path / "a.o" / "full").mkdir(parents=True)
    keep(tmp_path / "a.o", b"code", most=1 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["a.o"]


# ---- Packed weights on disk.


def built(value, key="a model", size=40 << 20):
    plan, calls = packed_cache.PackPlan(), []

    def fill(out):
        calls.append(1)
        out[:] = value

    places = [plan.add((size,), np.uint8, fill), plan.add((3,), np.float32, fill)]
    block = plan.build((lambda: key) if key else None)
    assert places == [0, size]
    assert (block[:size] == value).all()
    assert block[size : size + 12].view(np.float32).tolist() == [value] * 3
    assert block.ctypes.data % 64 == 0
    return len(calls)


def test_packed_weights_are_kept_and_a_damaged_file_is_made_again(own_cache):
    assert built(5) == 2
    assert built(5) == 0
    assert built(6, key="another model") == 2
    assert built(5, key=None) == 2
    for file in (own_cache / "weights").glob("*.bin"):
        raw = bytearray(file.read_bytes())
        raw[-1000] ^= 1
        file.write_bytes(raw)
    assert built(5) == 2
    for file in (own_cache / "weights").glob("*.bin"):
        file.write_bytes(file.read_bytes()[:-1])
    assert built(5) == 2
    assert not list((own_cache / "weights").glob("*.tmp"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes of a name")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_packed_weights_are_read_from_plain_files_only(own_cache, make):
    """A pipe in their place was waited for without an end."""
    assert built(5) == 2
    [file] = (own_cache / "weights").glob("*.bin")
    file.unlink()
    make(file)
    assert built(5) == 2


def test_kept_weights_are_verified_once_a_day_and_when_they_change(own_cache, monkeypatch):
    """Comparing the checksum of 124M's weights at each start took a quarter of it."""
    found, real = [], packed_cache._crc
    monkeypatch.setattr(packed_cache, "_crc", lambda block: found.append(1) or real(block))
    assert built(5) == 2 and len(found) == 1  # written
    [file] = (own_cache / "weights").glob("*.bin")

    def aged(seconds):
        """Starts that compare it; file_facts waits until a file's time is certain, as here."""
        found.clear()
        os.utime(file, (time.time() - seconds,) * 2)
        monkeypatch.setattr(file_facts, "SETTLED", -1.0)
        counts = []
        for _ in range(3):
            assert built(5) == 0
            counts.append(len(found))
        return counts

    assert aged(100) == [1, 1, 1]  # the change of its time counts as a change
    assert aged(packed_cache.DAY + 100) == [1, 2, 2]  # before its time is set, and after
    assert file.stat().st_mtime > time.time() - 100  # so it is not the longest unused
    raw = bytearray(file.read_bytes())
    raw[-1000] ^= 1
    file.write_bytes(raw)
    assert built(5) == 2


def test_kept_weights_are_mapped_and_outlive_their_file(own_cache):
    """They count once for several processes, and a file that is deleted takes nothing away."""
    plan = packed_cache.PackPlan()
    plan.add((40 << 20,), np.uint8, lambda out: out.fill(7))
    plan.build(lambda: "x")
    block = plan.build(lambda: "x")
    assert not block.flags.writeable and block.ctypes.data % 64 == 0
    for file in (own_cache / "weights").iterdir():
        file.unlink()
    assert (block == 7).all()
    assert (plan.build(lambda: "x") == 7).all()


def test_small_models_are_not_kept(own_cache):
    assert built(5, size=1 << 20) == 2
    assert built(5, size=1 << 20) == 2


def test_the_longest_unused_weights_go_first(own_cache, monkeypatch):
    monkeypatch.setattr(packed_cache, "MOST", 100 << 20)
    for number in range(4):
        assert built(number, key=str(number)) == 2
    assert len(list((own_cache / "weights").glob("*.bin"))) == 2
    assert built(3, key="3") == 0


def test_an_engine_from_kept_weights_is_the_same(own_cache, params, monkeypatch):
    monkeypatch.setattr(packed_cache, "LEAST", 0)
    engines_ = [CpuEngine(CONFIG, params, "int8", key=lambda: "x") for _ in range(2)]
    assert len(list((own_cache / "weights").glob("*.bin"))) == 1
    found = [engine.logits([tokens(30)]) for engine in engines_]
    assert np.array_equal(*found)


def test_places_are_whole_lines():
    assert ceil_to(65, 64) == 128
