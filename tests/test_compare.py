"""Two models: the paired statistics against formulas and other code, and the command."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gpt2lab import InputError
from gpt2lab.evals import comparison
from gpt2lab.evals.suite import Cell

from .support import FABLE
from .test_evals import small


def cell(values, weights=None, metric="accuracy") -> Cell:
    weights = [1.0] * len(values) if weights is None else list(weights)
    value = sum(values) / sum(weights)
    value = math.exp(value) if metric == "perplexity" else value
    return Cell("t", "t", "p", metric, value, n=len(values), values=list(values), weights=weights)


def test_mcnemar_is_the_exact_binomial():
    one, other = [1] * 9 + [0] * 2 + [1] * 5, [0] * 9 + [1] * 2 + [1] * 5
    exact = 2 * sum(math.comb(11, k) for k in range(3)) / 2**11
    assert comparison.mcnemar(one, other) == pytest.approx(exact)
    assert comparison.mcnemar([1, 0], [1, 0]) == 1.0


def test_the_paired_interval_sees_what_unpaired_ones_cannot():
    """A gain of 0.02 nats a token on every item, far below the spread between items."""
    random = np.random.default_rng(0)
    weights = random.integers(10, 60, 200).astype(float)
    values = weights * random.normal(3.5, 0.5, 200)
    better = values - weights * random.normal(0.02, 0.01, 200)
    [found] = comparison.differences(
        [cell(values, weights, "perplexity")], [cell(better, weights, "perplexity")]
    )
    assert found.high < 0 and found.verdict == "different" and found.p is None
    assert found.low < found.second - found.first < found.high
    shuffled = values + weights * random.normal(0, 0.05, 200)
    [none] = comparison.differences(
        [cell(values, weights, "perplexity")], [cell(shuffled, weights, "perplexity")]
    )
    assert none.verdict == "no difference that shows"


def test_the_interval_covers_as_often_as_it_says():
    random, covered = np.random.default_rng(1), 0
    for _ in range(60):
        a, b = (random.random(150) < 0.5).astype(float), (random.random(150) < 0.5).astype(float)
        ones = np.ones(150)
        low, high = comparison.bootstrap("accuracy", a, b, (ones, ones))
        covered += low <= 0 <= high
    assert covered >= 52


def test_seeds_of_one_recipe_are_noise():
    values = np.linspace(2, 4, 80)
    first, second = cell(values, metric="perplexity"), cell(values - 0.1, metric="perplexity")
    runs = [[cell(values - 0.2, metric="perplexity")], [cell(values + 0.2, metric="perplexity")]]
    [found] = comparison.differences([first], [second], runs)
    assert found.noise > 2 and found.verdict == "within the noise of seeds"
    assert comparison.differences([first], [second])[0].verdict == "different"
    with pytest.raises(InputError, match="80 items of one model and 79"):
        comparison.differences([first], [cell(values[1:], metric="perplexity")])


def test_drift_and_tokens():
    one, other = small(0), small(0)
    other.params = dict(other.params)
    name = "h.0.mlp.c_fc.weight"
    other.params[name] = other.params[name] * np.float32(1.5)
    found = comparison.drift(one, other)
    assert found["wte"] == 0 and found["h.0"] > 0.05
    third = small(1)
    moved = comparison.moved_tokens(one, third, "The cat sat.", 3)
    a, b = one.score("The cat sat."), third.score("The cat sat.")
    largest = max(abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True))
    assert len(moved) == 3 and abs(moved[0]["change"]) == pytest.approx(largest)


def test_the_command(run, tmp_path):
    (tmp_path / "text.txt").write_text("One day, a little fox ran.\nIt was fun.\n" * 100)
    words = ["compare", str(FABLE), str(FABLE), "--engine", "numpy", "--data", str(tmp_path)]
    code, out, err = run(*words, "--tasks", "text", "--samples", "1", "--json")
    found = json.loads(out)
    assert code == 0, err
    assert {d["verdict"] for d in found["differences"]} == {"no difference that shows"}
    assert set(found["drift"].values()) == {0.0} and "h.5" in found["drift"]
    [[first, second]] = found["samples"]
    assert first == second and first
    code, _, err = run("compare", str(FABLE), str(FABLE), "--samples", "-1")
    assert code == 2 and err.count("\n") == 1
