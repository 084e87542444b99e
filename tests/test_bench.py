"""`gpt2lab bench`, and what it measures with: that it measures, not how much."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from gpt2lab.config import SIZES, Config, parameter_shapes
from gpt2lab.engines import benchmark
from gpt2lab.engines.cpu import cpu_features
from gpt2lab.engines.numpy_engine import NumpyEngine

from .support import FABLE, TINY
from .test_commands import fails

QUICK = ("--shape", "fable", "--seconds", "0.02")

needs_path = pytest.mark.skipif(bool(cpu_features.why_not()), reason=cpu_features.why_not())


@pytest.fixture(autouse=True)
def small_readings(monkeypatch):
    """What memory gives does not matter here; reading it should not take long."""
    monkeypatch.setattr(benchmark, "LARGE", 1 << 20)
    monkeypatch.setattr(benchmark, "READ", 1e6)
    monkeypatch.setattr(benchmark, "REST", 0.0)


@needs_path
def test_a_table_of_this_machine(run):
    code, out, err = run("bench", *QUICK, "--dtype", "float32", "--threads", "1")
    assert code == 0, err
    here, model, engine, blank, titles, row = out.splitlines()
    assert here.startswith(f"machine  {cpu_features.here().name}; threads 1") and "GB/s" in here
    assert "fable, random weights; 5.9M parameters, context 512" in model
    assert engine.startswith("engine   cpu") and blank == ""
    for title in ("decode 32", "decode 256", "prefill 256", "batch 8", "batch 32", "of limit"):
        assert title in titles
    dtype, cache, *speeds, share = row.split()
    assert (dtype, cache) == ("float32", "float32") and share.endswith("%")
    assert len(speeds) == 5 and all(float(speed) > 0 for speed in speeds)
    assert "note: float32, batch 32: " in err


def test_json_of_a_model_s_own_weights(run):
    args = ("-m", str(FABLE), "--engine", "numpy", "--seconds", "0.02", "--json")
    code, out, err = run("bench", *args, "--dtype", "float64", "--dtype", "float64")
    assert code == 0, err
    report = json.loads(out)
    assert report["machine"]["read"] > 0 and report["machine"]["threads"] == cpu_features.cores()
    assert report["model"]["name"] == str(FABLE) and report["model"]["n_ctx"] == 512
    [row] = report["results"]  # a dtype that is named twice is measured once
    assert (row["dtype"], row["cache_dtype"]) == ("float64", None)
    assert [case["rows"] for case in row["cases"]] == [1, 1, 1, 8, 32]
    assert all(case["tokens_per_second"] > 0 for case in row["cases"])
    assert row["share"] > 0 and row["limit"] > 0
    assert row["weight_bytes"] == 8 * (report["model"]["parameters"] - 512 * 256)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--shape", "125M"], ["shape '125M'", "124M, 355M, 774M, 1558M, fable"]),
        (["--shape", "124M", "-m", "x"], ["--model and --shape", "give one"]),
        (["-m", "nosuch"], ["nosuch", "gpt2lab models"]),
        (["--engine", "x"], ["engine 'x'", "cpu, numpy, torch"]),
        (["--dtype", "int3"], ["dtype 'int3'", "float32, bfloat16, int8"]),
        (["--engine", "numpy", "--dtype", "int8"], ["dtype 'int8'", "float32, float64"]),
        ([*QUICK, "--engine", "numpy", "--threads", "2"], ["threads", "choose engine cpu"]),
        ([*QUICK, "--device", "cpu"], ["device", "choose engine torch"]),
        (["--seconds", "0"], ["seconds is 0", "above 0"]),
        (["--seconds", "nan"], ["seconds is nan"]),
        (["--seconds", "1e9"], ["seconds is 1e+09", "3600"]),
    ],
    ids=str,
)
def test_bad_input_is_told_before_anything_is_measured(run, args, words):
    fails(run("bench", *args), *words)


@needs_path
def test_bad_threads_and_cache_dtype(run):
    fails(run("bench", *QUICK, "--threads", "0"), "threads is 0", "1 to 256")
    fails(run("bench", *QUICK, "--cache-dtype", "int3"), "cache dtype is 'int3'")


def test_an_error_or_ctrl_c_leaves_what_was_measured(run, monkeypatch):
    speed = benchmark.speed

    def stopped(engine, case, seconds):
        if case.rows > 1:
            raise KeyboardInterrupt
        return speed(engine, case, seconds)

    monkeypatch.setattr(benchmark, "speed", stopped)
    code, out, _ = run("bench", *QUICK, "--engine", "numpy")
    assert code == 130
    *speeds, batch_8, batch_32, share = out.splitlines()[-1].split()[2:]
    assert len(speeds) == 3 and (batch_8, batch_32, share) == ("-", "-", "-")
    code, out, _ = run("bench", *QUICK, "--engine", "numpy", "--json")
    assert code == 130 and len(json.loads(out)["results"][0]["cases"]) == 3


def test_ctrl_c_from_outside():
    running = subprocess.Popen(
        [sys.executable, "-m", "gpt2lab", "bench", *QUICK[:2], "--engine", "numpy", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for line in running.stderr:
        if b"decode 32" in line:
            break
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and b"Traceback" not in err
    assert json.loads(out)["results"][0]["cases"][0]["case"] == "decode 32"


def test_bench_measures_numpy_where_numba_does_not_load(run, monkeypatch):
    """It ended with an error of the compiler's, after a note that promised kernels."""
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(cpu_features, "why_not", lambda: "")
    code, _, err = run("bench", *QUICK)
    assert code == 0 and "numba does not load" in err and "measuring numpy" in err


def test_models_verbose_tells_what_computes(run):
    code, out, err = run("models", "--verbose", str(FABLE.parent))
    assert code == 0 and "engine" not in out
    assert "torch is" in err
    if cpu_features.why_not():
        assert "note: engine: numpy; cpu cannot run here" in err
    else:
        assert (
            f"note: engine: cpu, {cpu_features.here().name}, {cpu_features.cores()} thread" in err
        )
        assert "note: kernels compiled: float32" in err  # by conftest
    assert "engine" not in run("models", str(FABLE.parent))[2]
    assert isinstance(json.loads(run("models", "-v", "--json", str(FABLE.parent))[1]), list)


def test_models_verbose_tells_why_not(run, monkeypatch):
    monkeypatch.setattr(cpu_features, "why_not", lambda: "the package numba is not installed")
    assert "cpu cannot run here: the package numba is not installed" in run("models", "-v")[2]


# ---- gpt2lab.engines.measure


@pytest.mark.parametrize("apart", [True, False])
def test_random_weights_have_the_shapes_of_a_model(apart):
    params = benchmark.random_params(TINY, apart)
    assert {name: value.shape for name, value in params.items()} == parameter_shapes(TINY)
    assert all(value.dtype == np.float32 for value in params.values())
    first, second = (params[f"h.{i}.mlp.c_fc.weight"] for i in (0, 1))
    assert np.shares_memory(first, second) != apart
    assert not params["ln_f.bias"].any() and (params["ln_f.weight"] == 1).all()


def test_a_token_needs_every_weight_but_the_positions():
    matrices = 12 * 12 * 768**2 + 50257 * 768
    need = benchmark.bytes_per_token(SIZES["124M"], "bfloat16")
    assert 2 * matrices < need < 2.01 * matrices


class Spy(NumpyEngine):
    """Notes the length of every slot before a step, and how many tokens are new."""

    def step(self, cache, slots, tokens):
        seen = [(cache.length(slot), len(new)) for slot, new in zip(slots, tokens, strict=True)]
        self.seen = [*getattr(self, "seen", []), *seen]
        return super().step(cache, slots, tokens)


@pytest.mark.parametrize(("n_ctx", "start", "last"), [(8, 4, 7), (512, 32, 95)])
def test_decoding_is_measured_near_its_first_position(n_ctx, start, last):
    """It goes back before the window is full, and before the past has grown much."""
    config = Config(n_vocab=97, n_ctx=n_ctx, n_embd=32, n_head=4, n_layer=1)
    engine = Spy(config, benchmark.random_params(config))
    timed = benchmark.steps(engine, benchmark.cases(config)[0])
    for _ in range(2 * benchmark.SPAN + 1):
        next(timed)
    lengths = [length for length, _ in engine.seen[1:]]
    assert engine.seen[0] == (0, start)
    assert (min(lengths), max(lengths)) == (start, last)


def test_a_prefill_begins_anew_each_time():
    [case] = [case for case in benchmark.cases(TINY) if case.prefill]
    engine = Spy(TINY, benchmark.random_params(TINY))
    timed = benchmark.steps(engine, case)
    next(timed)
    next(timed)
    assert engine.seen == [(0, TINY.n_ctx // 2)] * 3


def test_the_cases_of_a_short_window_are_told_once():
    titles = [case.title for case in benchmark.cases(TINY)]
    assert titles == ["decode 32", "prefill 32", "batch 8", "batch 32"]
