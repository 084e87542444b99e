"""Rounding to int4 by a calibration text: closer than to the nearest, and held exactly."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2lab import reference, weights
from gpt2lab.config import Config
from gpt2lab.engines.cpu import cpu_features
from gpt2lab.engines.cpu.calibration import MET_BY, calibrated, compensated
from gpt2lab.engines.cpu.packing import GROUP, holds_int4, quantised_in_groups

from .support import tiny_params

CONFIG = Config(n_vocab=97, n_ctx=64, n_embd=96, n_head=4, n_layer=2)


def activations(rows, columns, seed=0):
    """Rows whose numbers depend on each other, as a residual stream's do."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(rows, columns // 4)) @ random.normal(size=(columns // 4, columns))
    return mixed + 0.1 * random.normal(size=(rows, columns))


@pytest.mark.parametrize("count", [64, 128, 100])
def test_a_product_errs_less_than_rounded_to_the_nearest(count):
    columns = np.random.default_rng(1).normal(size=(30, count)).astype(np.float32)  # [N, K]
    x = activations(500, count)
    found = compensated(columns, x.T @ x)
    whole = np.pad(columns, ((0, 0), (0, -count % GROUP)))
    numbers, scales = quantised_in_groups(whole)
    plain = (numbers * np.repeat(scales, GROUP, 1))[:, :count]
    errors = [np.square(x @ (columns - other).T).sum() for other in (found, plain)]
    assert errors[0] < 0.6 * errors[1]
    assert holds_int4(found)


def test_activations_that_do_not_depend_on_each_other_leave_nothing_to_compensate():
    columns = np.random.default_rng(1).normal(size=(8, 64)).astype(np.float32)
    numbers, scales = quantised_in_groups(columns)
    assert np.array_equal(compensated(columns, np.eye(64)), numbers * scales)


def test_a_direction_that_the_text_never_takes_is_rounded_all_the_same():
    columns = np.random.default_rng(1).normal(size=(8, 64)).astype(np.float32)
    found = compensated(columns, np.zeros((64, 64)))
    assert np.isfinite(found).all()
    assert holds_int4(found)


@pytest.mark.skipif(bool(cpu_features.why_not()), reason=cpu_features.why_not())
def test_a_calibrated_model_is_a_checkpoint_that_int4_holds():
    from gpt2lab.engines.cpu.engine import CpuEngine

    params = tiny_params(CONFIG, scale=4.0)
    random = np.random.default_rng(0)
    texts = [random.integers(0, 97, 64).tolist() for _ in range(20)]
    new = calibrated(CONFIG, params, texts)
    for layer in range(CONFIG.n_layer):
        assert all(holds_int4(new[f"h.{layer}.{name}.weight"].T) for name in MET_BY)
    assert np.array_equal(new["wte.weight"], params["wte.weight"])
    held_out = [random.integers(0, 97, 64).tolist()]
    exact = reference.model(CONFIG, params, held_out)["logits"]
    plain, better = (CpuEngine(CONFIG, p, "int4").logits(held_out) for p in (params, new))
    assert np.square(better - exact).mean() < 0.8 * np.square(plain - exact).mean()


def test_the_command_writes_a_model_that_int4_holds(run, tmp_path):
    words = "The fox ran over the hill and the small dog slept beside the river. " * 80
    (tmp_path / "text.txt").write_text(words, "utf-8")
    target = tmp_path / "new"
    given = ["convert", "fable", str(target), "--to", "huggingface", "--int4"]
    code, out, err = run(*given, str(tmp_path / "text.txt"))
    assert code == 0, err
    assert "rounded for int4" in out
    new = weights.load(target)
    assert all(holds_int4(new.params[f"h.5.{name}.weight"].T) for name in MET_BY)
    (tmp_path / "short.txt").write_text("Too short.", "utf-8")
    code, _, err = run(*given, str(tmp_path / "short.txt"), "--force")
    assert (code, "too few" in err) == (2, True)
    assert np.array_equal(weights.load(target).params["wpe.weight"], new.params["wpe.weight"])
    assert run(*given, str(tmp_path / "text.txt"), "--verify", "--force")[0] == 2
