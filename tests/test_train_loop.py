"""One step: its gradient whatever it is made of, its masks, its learning rate, its seeds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from gpt2lab.errors import InputError

torch = pytest.importorskip("torch")

from gpt2lab.corpus.batches import Batches, Evaluation, TrainingBatch
from gpt2lab.engines.torch import model
from gpt2lab.train import optim, spikes
from gpt2lab.train import step as loop
from gpt2lab.train.parallel.group import Group

from . import train_helpers as helpers

V = helpers.CONFIG.n_vocab


def state(dtype=np.float64, **options):
    params = {k: v.astype(dtype) * 5 for k, v in helpers.fresh().params.items()}
    gpt = model.build(helpers.CONFIG, params, **options)
    return loop.State(gpt, loop.Objective(gpt), optim.adamw(gpt, 0.01))


def batch(rows=8, lengths=None, T=16):
    ids = np.random.default_rng(1).integers(0, V, (rows, T + 1))
    lengths = np.full(rows, T) if lengths is None else np.array(lengths)
    return TrainingBatch(ids[:, :-1].copy(), ids[:, 1:].copy(), lengths)


def weights(s):
    return {name: p.detach().clone() for name, p in s.model.named_parameters()}


@pytest.mark.parametrize("micro", [1, 2, 4, 8])
@pytest.mark.parametrize("lengths", [None, [16, 3, 16, 1, 9, 16, 2, 16]], ids=["full", "ragged"])
def test_a_batch_in_parts_is_the_batch(micro, lengths):
    """Also when the parts hold different numbers of tokens: the loss is divided once, by all."""
    whole, parts = state(), state()
    config = helpers.settings(batch_size=8, dropout=0.0)
    divided = helpers.settings(batch_size=8, micro_batch=micro, dropout=0.0)
    for _ in range(3):
        a = loop.one_step(whole, batch(8, lengths), config, 0.01)
        b = loop.one_step(parts, batch(8, lengths), divided, 0.01)
        assert b[:2] == pytest.approx(a[:2], abs=1e-10)
    for name, value in weights(whole).items():
        np.testing.assert_allclose(weights(parts)[name], value, rtol=0, atol=1e-10)


def test_two_processes_average_to_one():
    """The gradients of both halves, averaged as DistributedDataParallel does."""
    config = helpers.settings(batch_size=8, dropout=0.0, clip=0.0)
    whole = state()
    loop._gradients(whole, [batch(8)], 1 / 128, Group(), lambda: False)
    halves = []
    for rank in (0, 1):
        half, group = state(), Group(rank, 2)
        part = loop._parts(batch(8), config, group)
        loop._gradients(half, part, 2 / 128, Group(), lambda: False)
        halves.append([p.grad for p in half.model.parameters()])
    for whole_grad, a, b in zip(whole.model.parameters(), *halves, strict=True):
        np.testing.assert_allclose((a + b) / 2, whole_grad.grad, rtol=0, atol=1e-12)


def test_the_end_token_keeps_its_loss_and_filler_has_none():
    """Masks go by length. Trainers that mask by the padding's id, when that is the end token, make
    models that never stop (transformers' collator with pad = eos)."""
    end = V - 1
    given = batch(2, [16, 5])
    given.targets[:] = end
    _, targets = loop.tensors(given, torch.device("cpu"))
    assert (targets[0] == end).all()
    assert (targets[1, :5] == end).all()
    assert (targets[1, 5:] == loop.IGNORED).all()
    other = batch(2, [16, 5])
    other.targets[:] = end
    other.tokens[1, 5:] = other.targets[1, 5:] = 3
    losses = [
        loop.one_step(state(), b, helpers.settings(batch_size=2, dropout=0.0), 0.01)[0]
        for b in (given, other)
    ]
    assert losses[0] == losses[1]
    assert np.isfinite(losses[0])


def test_the_loss_of_a_step_is_the_mean_over_its_tokens():
    s, given = state(), batch(4, [16, 2, 7, 16])
    logits = s.model(torch.as_tensor(given.tokens)).detach()
    logprobs = torch.log_softmax(logits, -1).gather(-1, torch.as_tensor(given.targets)[..., None])
    seen = torch.arange(16) < torch.as_tensor(given.lengths)[:, None]
    expected = -logprobs[..., 0][seen].mean().item()
    assert loop.one_step(s, given, helpers.settings(dropout=0.0), 0.01)[0] == pytest.approx(
        expected
    )


def test_a_stop_in_the_middle_of_a_step_leaves_nothing_of_it():
    s = state()
    before = weights(s)
    asked = iter([False, False, True])
    config = helpers.settings(batch_size=8, micro_batch=2)
    assert loop.one_step(s, batch(8), config, 0.01, stop=lambda: next(asked)) is None
    assert s.step == s.tokens == 0
    assert all(p.grad is None for p in s.model.parameters())
    assert all(torch.equal(before[name], value) for name, value in weights(s).items())


def test_a_skipped_step_leaves_weights_and_optimiser_to_the_bit():
    s = state(np.float32)
    config = helpers.settings(dropout=0.0)
    loop.one_step(s, batch(4), config, 0.01)
    before = weights(s)
    moments = {n: s.optimizer.state[p]["exp_avg"].clone() for n, p in s.model.named_parameters()}
    s.window.judge = lambda loss, norm: "made up"
    assert loop.one_step(s, batch(4), config, 0.01)[2] == "made up"
    assert s.step == 2
    assert all(torch.equal(before[name], value) for name, value in weights(s).items())
    for name, parameter in s.model.named_parameters():
        assert torch.equal(s.optimizer.state[parameter]["exp_avg"], moments[name])
        assert int(s.optimizer.state[parameter]["step"]) == 1


def test_only_blocks_are_trained_when_told():
    from gpt2lab.train.optimizer_state import new_state

    config = helpers.settings(train_only="blocks", block_size=16)
    s = new_state(helpers.fresh(), config, torch.device("cpu"), Group())
    before = weights(s)
    loop.one_step(s, batch(4), config, 0.01)
    for name, value in weights(s).items():
        assert torch.equal(value, before[name]) == (not name.startswith("h.")), name


def test_the_learning_rate_warms_up_and_falls():
    s, config = state(), helpers.settings(steps=100, warmup=5, learning_rate=1.0)
    rates = []
    for step in range(100):
        s.step = step
        rates.append(loop.rate(s, config, 100))
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert all(a >= b for a, b in pairwise(rates[5:]))
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    s.step = 1
    assert loop.rate(s, helpers.settings(steps=20, warmup=100, learning_rate=1.0), 20) == 1.0


def test_dropout_is_a_function_of_seed_and_step_alone():
    losses = []
    for disturb in (False, True):
        s = state(dropout=0.5)
        for _ in range(2):
            if disturb:
                torch.rand(7)
            found = loop.one_step(s, batch(4), helpers.settings(dropout=0.5), 0.01)
        losses.append(found[0])
    assert losses[0] == losses[1]
    other = loop.one_step(state(dropout=0.5), batch(4), helpers.settings(seed=9), 0.01)
    same = loop.one_step(state(dropout=0.5), batch(4), helpers.settings(seed=0), 0.01)
    assert other[0] != same[0]


def test_processes_that_cannot_share_a_batch_are_told():
    with pytest.raises(InputError, match="batch_size 4 cannot be shared by 3 processes"):
        Group(0, 3).check_batch(helpers.settings(batch_size=4))
    with pytest.raises(InputError, match="2 processes with 4 at once; make it a multiple of 8"):
        Group(0, 2).check_batch(helpers.settings(batch_size=4, micro_batch=4))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_validation_is_the_mean_over_every_token_however_it_is_shared(world, size):
    s, windows = state(), Evaluation(helpers.token_set(), 16)
    expected = loop.evaluate(s, windows, 1)

    totals = []

    class Summing(Group):
        def sum(self, values):
            totals.append(values[0])
            return [sum(totals)] if len(totals) == world else values

    for rank in range(world):
        found = loop.evaluate(s, windows, size, group=Summing(rank, world))
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_text_shorter_than_a_block_trains_anyway():
    short = helpers.token_set("the cat", documents=1)
    for order in ("packed", "windows"):
        s = state()
        batches = Batches([(short, 1.0)], block=16, batch=2, order=order, seed=0)
        config = helpers.settings(steps=60, batch_size=2, order=order, dropout=0.0)
        losses = [step.loss for step in loop.train(s, batches, config)]
        assert losses[-1] < 0.3 < losses[0]


def test_training_on_the_text_learns_it():
    s = state(np.float32)
    batches = Batches([(helpers.token_set(), 1.0)], block=16, batch=8, order="packed", seed=0)
    config = helpers.settings(steps=150, batch_size=8, dropout=0.0)
    losses = [step.loss for step in loop.train(s, batches, config)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])


# ---- Spikes.


def test_a_spike_is_six_standard_deviations_above_the_mean_of_128_steps():
    window, random = spikes.Window(), np.random.default_rng(0)
    losses = random.normal(3, 0.1, 300)
    assert all(window.judge(float(loss), 1.0) is None for loss in losses[:63])
    assert spikes.Window().judge(1e9, 1.0) is None  # nothing to compare with yet
    for loss in losses[63:]:
        assert window.judge(float(loss), 1.0) is None
    limit = losses[-128:].mean() + 6 * losses[-128:].std()
    assert window.judge(limit - 1e-6, 1.0) is None
    why = window.judge(limit + 1.0, 1.0)
    assert "loss" in why
    assert "6 standard deviations of the last 128 steps" in why
    assert "gradient norm 2 is above 1" in window.judge(3.0, 2.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_a_spike_from_the_first_step_and_leaves_no_trace(value):
    window = spikes.Window()
    assert window.judge(value, 1.0) == f"loss {value} is not finite"
    assert window.judge(1.0, value) == f"gradient norm {value} is not finite"
    assert (list(window.loss), list(window.norm)) == ([1.0], [1.0])


def test_a_window_follows_a_level_that_has_changed():
    window = spikes.Window()
    for _ in range(128):
        window.judge(1.0 + np.random.default_rng(0).normal() * 0.01, 1.0)
    skipped = sum(window.judge(2.0, 1.0) is not None for _ in range(128))
    assert skipped < 10


def test_a_window_survives_json():
    import json

    window = spikes.Window()
    for loss in np.random.default_rng(0).normal(3, 0.1, 200):
        window.judge(float(loss), float(loss) / 3)
    other = spikes.Window()
    other.restore(json.loads(json.dumps(window.to_dict())))
    assert (other.loss, other.norm) == (window.loss, window.norm)
