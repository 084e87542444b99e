"""The torch model, its loss and its optimiser equal the reference and transformers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gpt2lab import reference
from gpt2lab.config import Config

from .support import TINY, tiny_params

torch = pytest.importorskip("torch")

from gpt2lab.engines.torch import model
from gpt2lab.train import loss, machine, optim, probe

IDS = np.random.default_rng(5).integers(0, TINY.n_vocab, (3, 17))
CONFIGS = {
    "plain": TINY,
    "exact gelu": dataclasses.replace(TINY, activation_function="gelu"),
    "relu, narrow mlp": dataclasses.replace(TINY, activation_function="relu", n_inner=40),
    "unscaled": dataclasses.replace(TINY, scale_attn_weights=False, layer_norm_epsilon=1e-3),
    "by layer": dataclasses.replace(TINY, scale_attn_by_inverse_layer_idx=True),
}


def params64(config: Config = TINY, scale: float = 5.0) -> dict[str, np.ndarray]:
    return {k: v.astype(np.float64) for k, v in tiny_params(config, scale=scale).items()}


def total_loss(gpt, ids, targets=None, scale=1.0):
    tokens = torch.as_tensor(ids)
    targets = tokens[:, 1:] if targets is None else targets
    h = gpt.hidden(tokens[:, :-1]).flatten(0, 1)
    return loss.cross_entropy(h, gpt.head, targets.flatten(), scale)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 1e-4), (np.float64, 1e-11)])
def test_logits_equal_the_reference(config, dtype, most):
    params = {k: v.astype(dtype) for k, v in tiny_params(config).items()}
    expected = reference.model(config, params, IDS)["logits"]
    logits = model.build(config, params)(torch.as_tensor(IDS)).detach().numpy()
    assert logits.dtype == dtype
    np.testing.assert_allclose(logits, expected, rtol=0, atol=most)


def test_a_head_of_its_own_is_used():
    params = params64()
    params["lm_head.weight"] = params["wte.weight"][::-1].copy()
    gpt = model.build(TINY, params)
    expected = reference.model(TINY, params, IDS)["logits"]
    np.testing.assert_allclose(gpt(torch.as_tensor(IDS)).detach(), expected, rtol=0, atol=1e-11)
    assert sorted(gpt.state_dict()) == sorted(params)


def test_the_state_dict_is_the_checkpoint():
    params = tiny_params()
    state = model.build(TINY, params).state_dict()
    assert list(state) == list(params)
    for name, value in params.items():
        np.testing.assert_array_equal(state[name], value)


def test_gradients_equal_finite_differences():
    """Of the mean loss to some numbers of every parameter, by the reference in float64."""
    params = params64()
    gpt = model.build(TINY, params)
    n = IDS[:, 1:].size
    total_loss(gpt, IDS, scale=1 / n).backward()

    def value() -> float:
        logits = reference.model(TINY, params, IDS[:, :-1])["logits"]
        logits = logits - logits.max(-1, keepdims=True)
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return float(-np.take_along_axis(logprobs, IDS[:, 1:, None], -1).mean())

    random = np.random.default_rng(0)
    for name, parameter in gpt.named_parameters():
        for place in random.integers(0, params[name].size, 3):
            flat, h = params[name].reshape(-1), 1e-5
            kept = flat[place]
            flat[place] = kept + h
            up = value()
            flat[place] = kept - h
            slope = (up - value()) / (2 * h)
            flat[place] = kept
            assert float(parameter.grad.flatten()[place]) == pytest.approx(slope, abs=1e-8), name


def test_loss_and_gradients_equal_transformers():
    transformers = pytest.importorskip("transformers")
    params = params64()
    settings = transformers.GPT2Config(
        vocab_size=TINY.n_vocab, n_positions=TINY.n_ctx, n_embd=TINY.n_embd, n_head=TINY.n_head,
        n_layer=TINY.n_layer, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(settings).double()
    state = {f"transformer.{name}": torch.from_numpy(v) for name, v in params.items()}
    theirs.load_state_dict({**state, "lm_head.weight": state["transformer.wte.weight"]})
    ids = torch.as_tensor(IDS)
    logits = theirs(ids[:, :-1]).logits  # its own loss would round them to float32
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    expected.backward()
    ours = model.build(TINY, params)
    value = total_loss(ours, IDS, scale=1 / IDS[:, 1:].size)
    value.backward()
    assert value.item() == pytest.approx(expected.item(), abs=1e-12)
    grads = {name: p.grad for name, p in theirs.transformer.named_parameters()}
    for name, parameter in ours.named_parameters():
        np.testing.assert_allclose(parameter.grad, grads[name], rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("product", ["onednn", "blas"])
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_the_loss_in_pieces_is_the_written_out_one(dtype, product, rows, monkeypatch):
    """Several pieces and several blocks in each, the last of them short, some targets ignored.

    Each library's product has an order of its own for the head's gradient.
    """
    before = torch.get_float32_matmul_precision()
    if not probe.use_matmul(product):
        pytest.skip("oneDNN's product is not exact here")
    monkeypatch.setattr(loss, "PIECE", 13 * 50 * dtype.itemsize)
    monkeypatch.setattr(loss, "CACHED", 5 * 50)
    random = torch.Generator().manual_seed(1)
    h = torch.randn(rows, 8, generator=random).to(dtype).requires_grad_()
    wide = torch.promote_types(dtype, torch.float32)
    head = torch.randn(50, 8, generator=random).to(wide).requires_grad_()
    targets = torch.randint(0, 50, (rows,), generator=random)
    targets[2::3] = loss.IGNORED
    found, expected = [], []
    for function, into in ((loss.cross_entropy, found), (loss.written_out, expected)):
        value = function(h, head, targets, 0.25)
        into.extend([value, *torch.autograd.grad(3 * value, (h, head))])
    close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype]
    torch.set_float32_matmul_precision(before)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and a.is_contiguous()
        np.testing.assert_allclose(a.float().detach(), b.float().detach(), rtol=close, atol=close)


def test_a_target_of_almost_no_probability_has_a_finite_loss():
    """Its probability is 0 in float32; the loss once was infinite, and the whole step was lost."""
    h = torch.tensor([[200.0, 0.0], [0.0, 1.0]], requires_grad=True)
    head, targets = torch.eye(2, requires_grad=True), torch.tensor([1, 1])
    for function in (loss.cross_entropy, loss.written_out):
        value = function(h, head, targets, 1.0)
        assert value.item() == pytest.approx(200.31326, rel=1e-6)


def test_the_whole_logits_never_exist(monkeypatch):
    monkeypatch.setattr(loss, "PIECE", 16 * 1000 * 4)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple) else [out]:
                if isinstance(t, torch.Tensor) and t.shape[-1:] == (1000,):
                    largest = max(largest, t.shape[0])
            return out

    h, head = torch.randn(64, 8, requires_grad=True), torch.randn(1000, 8, requires_grad=True)
    none = torch.zeros(64, dtype=torch.long)
    with Watch():
        value = loss.cross_entropy(h, head, none, 1.0)
        value.backward()
        with torch.no_grad():
            alone = loss.cross_entropy(h, head, none, 1.0)
    assert alone.item() == pytest.approx(value.item(), rel=1e-6)
    assert 0 < largest <= 16


def test_fused_and_written_out_attention_agree():
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 9, 4, generator=random, dtype=torch.float64) for _ in range(3))
    a = model.attend_written_out(q, k, v, 0.4, 0.0)
    np.testing.assert_allclose(a, model.attend_fused(q, k, v, 0.4, 0.0), atol=1e-13)


def test_recomputing_changes_nothing():
    grads = []
    for recompute in (False, True):
        gpt = model.build(TINY, params64(), recompute=recompute, dropout=0.2).train()
        torch.manual_seed(3)
        total_loss(gpt, IDS).backward()
        grads.append([p.grad.clone() for p in gpt.parameters()])
    for a, b in zip(*grads, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bfloat16_arithmetic_leaves_the_weights_and_gradients_float32():
    params = tiny_params(scale=2.0)
    gpt = model.build(TINY, params, compute=torch.bfloat16)
    assert gpt(torch.as_tensor(IDS)).dtype == torch.bfloat16
    total_loss(gpt, IDS, scale=1 / IDS[:, 1:].size).backward()
    exact = model.build(TINY, params)
    total_loss(exact, IDS, scale=1 / IDS[:, 1:].size).backward()
    for (name, a), b in zip(gpt.named_parameters(), exact.parameters(), strict=True):
        assert a.dtype == a.grad.dtype == torch.float32
        assert float((a.grad - b.grad).norm() / b.grad.norm()) < 0.05, name


def test_dropout_is_off_by_default_and_when_not_training():
    gpt = model.build(TINY, tiny_params()).train()
    dropping = model.build(TINY, tiny_params(), dropout=0.5)
    ids = torch.as_tensor(IDS)
    assert torch.equal(gpt(ids), gpt(ids))
    assert torch.equal(dropping.eval()(ids), gpt(ids))
    assert not torch.equal(dropping.train()(ids), dropping(ids))


def test_only_matrices_decay():
    gpt = model.build(TINY, tiny_params())
    optimizer = optim.adamw(gpt, 0.1, weight_decay=0.5)
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert all(p.dim() == 2 for p in decayed["params"])
    assert all(p.dim() == 1 for p in others["params"])
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(gpt.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip", [0.0, 1e-2, 1e9])
def test_an_update_is_torchs_plain_adamw_after_its_clipping(dtype, clip):
    ours, theirs = (
        [torch.nn.Parameter(torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4).clone())]
        for _ in range(2)
    )
    holder = torch.nn.ParameterList(ours)
    optimizer = optim.adamw(holder, 0.1, (0.9, 0.95), 0.1)
    plain = torch.optim.AdamW(theirs, 0.1, (0.9, 0.95), weight_decay=0.1, foreach=False)
    for step in range(3):
        grad = torch.arange(12, dtype=dtype).view(3, 4) * (step + 1)
        ours[0].grad, theirs[0].grad = grad.clone(), grad.clone()
        norm = optim.gradient_norm(ours)
        assert float(norm) == pytest.approx(float(grad.norm()), rel=1e-6)
        optim.update(optimizer, norm, clip)
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs, clip)
        plain.step()
    np.testing.assert_allclose(ours[0].detach(), theirs[0].detach(), rtol=1e-5)


def test_the_learning_rate_goes_from_peak_to_final():
    for schedule, middle in (("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)):
        assert optim.learning_rate(0, 1.0, 0.1, schedule) == pytest.approx(1.0)
        assert optim.learning_rate(0.5, 1.0, 0.1, schedule) == pytest.approx(middle)
        end = 1.0 if schedule == "constant" else 0.1
        assert optim.learning_rate(1, 1.0, 0.1, schedule) == pytest.approx(end)


def test_a_quicker_product_is_kept_only_while_it_is_exact(monkeypatch):
    before = torch.get_float32_matmul_precision()
    try:
        monkeypatch.setattr(probe, "_error_of_a_product", lambda: 1e-3)
        assert not probe.quicken_float32()
        assert torch.get_float32_matmul_precision() == "highest"
        monkeypatch.undo()
        if probe.quicken_float32():
            assert probe._error_of_a_product() < 2e-5
    finally:
        torch.set_float32_matmul_precision(before)


def test_memory_is_kept_where_glibc_is():
    import platform

    assert machine.keep_memory() == (platform.libc_ver()[0] == "glibc")
    assert machine.peak_memory() > 1e6


def test_compiled_blocks_compute_the_same_and_what_cannot_be_compiled_is_left_out(monkeypatch):
    ids = torch.as_tensor(IDS)
    gpt = model.build(TINY, tiny_params())
    expected = gpt(ids).detach()
    why = model.compile_blocks(gpt, 3, 17)
    np.testing.assert_allclose(gpt(ids).detach(), expected, rtol=0, atol=1e-4)
    assert why is None or isinstance(why, str)  # without a C++ compiler
    assert all(p.grad is None for p in gpt.parameters())

    def broken(*args, **options):
        raise RuntimeError("no compiler here")

    gpt = model.build(TINY, tiny_params())
    monkeypatch.setattr(torch, "compile", lambda *a, **k: broken)
    assert model.compile_blocks(gpt, 3, 17) == "no compiler here"
    assert torch.equal(gpt(ids).detach(), expected)
