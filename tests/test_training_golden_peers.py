"""Three steps of AdamW, as nanoGPT and transformers make them: losses, gradients, weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpt2lab.config import Config, parameter_shapes
from gpt2lab.init import initialise

from .support import GOLDEN

torch = pytest.importorskip("torch")

from gpt2lab.corpus.batches import TrainingBatch
from gpt2lab.engines.torch import model
from gpt2lab.train import loss, optim, step
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.optimizer_state import to_checkpoint

NANOGPT = Config(n_vocab=97, n_ctx=32, n_embd=32, n_head=4, n_layer=2, activation_function="gelu")
LR, BETAS, DECAY = 1e-3, (0.9, 0.95), 0.1
PATHS = {
    "in pieces": loss.cross_entropy,
    "written out": loss.written_out,
}


@pytest.fixture
def small_pieces(monkeypatch):
    """The loss in pieces of ten rows of the small vocabulary, and not all rows at once."""
    monkeypatch.setattr(loss, "PIECE", 10 * NANOGPT.n_vocab * 8)
    monkeypatch.setattr(loss, "CACHED", 3 * NANOGPT.n_vocab)


def three_steps(config, params, tokens, targets, clip, cross_entropy):
    """Our losses, norms and weights from float64 `params`."""
    gpt = model.build(config, params)
    optimizer = optim.adamw(gpt, LR, BETAS, DECAY)
    losses, norms = [], []
    for ids, next_ids in zip(torch.from_numpy(tokens), torch.from_numpy(targets), strict=True):
        h = gpt.hidden(ids).flatten(0, 1)  # [B T, E]
        value = cross_entropy(h, gpt.head, next_ids.flatten(), 1 / next_ids.numel())
        value.backward()
        norm = optim.gradient_norm(gpt.parameters())
        losses.append(value.item())
        norms.append(norm.item())
        optim.update(optimizer, norm, clip)
        optimizer.zero_grad(set_to_none=True)
    return losses, norms, to_checkpoint(gpt).params


def split(flat, config) -> dict[str, np.ndarray]:
    """All parameters of a configuration out of one vector."""
    params, start = {}, 0
    for name, shape in parameter_shapes(config).items():
        params[name] = flat[start : start + np.prod(shape)].reshape(shape)
        start += np.prod(shape)
    assert start == len(flat)
    return params


def far(ours, theirs) -> float:
    return max(np.abs(ours[name] - theirs[name]).max() for name in theirs)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "training_golden" / "nanogpt.npz") as file:
        return dict(file)


@pytest.mark.parametrize("cross_entropy", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize(("name", "clip"), [("clipped", 1.0), ("unclipped", 0.0)])
def test_three_steps_equal_those_of_nanogpt(golden, small_pieces, name, clip, cross_entropy):
    params = split(golden["initial"].astype(np.float64), NANOGPT)
    tokens, targets = (golden[key].astype(np.int64) for key in ("tokens", "targets"))
    losses, norms, weights = three_steps(NANOGPT, params, tokens, targets, clip, cross_entropy)
    assert np.abs(losses - golden[f"{name}_losses"]).max() < 1e-9
    assert np.abs(norms - golden[f"{name}_norms"]).max() < 1e-9
    assert far(weights, split(golden[f"{name}_weights"], NANOGPT)) < 1e-9


@pytest.mark.parametrize("micro_batch", [None, 2, 1])
@pytest.mark.parametrize(("name", "clip"), [("clipped", 1.0), ("unclipped", 0.0)])
def test_three_steps_of_the_loop_equal_those_of_nanogpt(golden, name, clip, micro_batch):
    """The loop itself, with the batch whole and in parts."""
    gpt = model.build(NANOGPT, split(golden["initial"].astype(np.float64), NANOGPT))
    optimizer = optim.adamw(gpt, LR, BETAS, DECAY)
    state = step.State(gpt, step.Objective(gpt), optimizer)
    settings = TrainConfig(steps=3, batch_size=4, micro_batch=micro_batch, clip=clip)
    tokens, targets = (golden[key].astype(np.int64) for key in ("tokens", "targets"))
    for i in range(3):
        batch = TrainingBatch(tokens[i], targets[i], np.full(4, NANOGPT.n_ctx))
        value, norm, why = step.one_step(state, batch, settings, LR)
        assert why is None
        # The loss that is told is a sum in float32; nothing is computed from it.
        assert value == pytest.approx(golden[f"{name}_losses"][i], abs=1e-6)
        assert norm == pytest.approx(golden[f"{name}_norms"][i], abs=1e-9)
    assert far(to_checkpoint(gpt).params, split(golden[f"{name}_weights"], NANOGPT)) < 1e-9


def test_the_golden_steps_tell_clipping_from_none(golden):
    """A comparison that a loop without clipping would pass as well is none."""
    assert (golden["clipped_norms"] > 1.1).all()
    assert np.abs(golden["clipped_weights"] - golden["unclipped_weights"]).max() > 1e-5
    assert np.abs(golden["clipped_weights"] - golden["initial"]).max() > 1e-3


def transformers_steps(config, params, tokens, targets, clip):
    """The losses, norms and weights of transformers' GPT-2 and torch's own AdamW."""
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.n_vocab,
            n_positions=config.n_ctx,
            n_embd=config.n_embd,
            n_head=config.n_head,
            n_layer=config.n_layer,
            activation_function=config.activation_function,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).double()
    own = {name.removeprefix("transformer."): p for name, p in gpt.named_parameters()}
    assert set(own) == set(params)
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(torch.from_numpy(params[name]))
    groups = [
        {"params": [p for p in own.values() if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in own.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=False, foreach=False)
    losses, norms = [], []
    gpt.train()
    for ids, next_ids in zip(torch.from_numpy(tokens), torch.from_numpy(targets), strict=True):
        # Its own loss is float32 whatever the model is.
        logits = gpt(input_ids=ids, use_cache=False).logits.flatten(0, 1)  # [B T, V]
        value = torch.nn.functional.cross_entropy(logits, next_ids.flatten())
        value.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(gpt.parameters(), clip or np.inf).item())
        losses.append(value.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses, norms, {name: p.detach().numpy() for name, p in own.items()}


@pytest.mark.parametrize("cross_entropy", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_three_steps_equal_those_of_transformers(small_pieces, clip, cross_entropy):
    pytest.importorskip("transformers")
    config = replace(NANOGPT, activation_function="gelu_new", n_head=2)
    params = {k: v.astype(np.float64) for k, v in initialise(config, 7, "hf").items()}
    rows = np.random.default_rng(8).integers(0, config.n_vocab, (3, 4, config.n_ctx + 1))
    tokens, targets = rows[:, :, :-1].copy(), rows[:, :, 1:].copy()
    ours = three_steps(config, params, tokens, targets, clip, cross_entropy)
    theirs = transformers_steps(config, params, tokens, targets, clip)
    assert min(theirs[1]) > 0.6  # so a clip of 0.5 does something
    assert np.abs(np.subtract(ours[0], theirs[0])).max() < 1e-9
    assert np.abs(np.subtract(ours[1], theirs[1])).max() < 1e-9
    assert far(ours[2], theirs[2]) < 1e-9
