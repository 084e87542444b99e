"""The torch model's inner values, and the slopes to them, are the reference's."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from gpt2lab import reference
from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.lens import hook_names

from .support import TINY, tiny_params

torch = pytest.importorskip("torch")

from gpt2lab.engines.torch import model
from gpt2lab.train import hooks

T = 9
IDS = np.random.default_rng(5).integers(0, TINY.n_vocab, (2, T))
CONFIGS = {
    "plain": TINY,
    "exact gelu": dataclasses.replace(TINY, activation_function="gelu"),
    "relu, narrow mlp": dataclasses.replace(TINY, activation_function="relu", n_inner=40),
    "by layer": dataclasses.replace(TINY, scale_attn_by_inverse_layer_idx=True),
    "a head of its own": TINY,
}


def params64(which: str = "plain", scale: float = 5.0) -> dict[str, np.ndarray]:
    found = tiny_params(CONFIGS[which], scale=scale)
    params = {name: value.astype(np.float64) for name, value in found.items()}
    if which == "a head of its own":
        params["lm_head.weight"] = params["wte.weight"][::-1].copy()
    return params


def built(which: str = "plain", **options):
    return model.build(CONFIGS[which], params64(which), **options)


def by_the_reference(config: Config, params, ids, replace=None) -> dict[str, np.ndarray]:
    """Every value of a reading; replace: key -> what stands there instead."""
    seen = {}

    def at(key, value):
        seen[key] = (replace or {}).get(key, value)
        return seen[key]

    reference.model(config, params, ids, at=at)
    return seen


def metric(logits):
    """One number, of all logits and not linear in them."""
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view(logits.shape)
    return (weights * logits.tanh()).sum()


def metric_of_arrays(logits: np.ndarray) -> float:
    return float((np.linspace(-1, 1, logits.size).reshape(logits.shape) * np.tanh(logits)).sum())


def hooks_on(gpt) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in gpt.modules())


@pytest.mark.parametrize("which", CONFIGS)
def test_every_value_is_the_reference_s(which):
    expected = by_the_reference(CONFIGS[which], params64(which), IDS)
    gpt = built(which)
    plain = gpt(torch.as_tensor(IDS))
    with hooks.watch(gpt) as values:
        logits = gpt(torch.as_tensor(IDS))
    assert torch.equal(plain, logits)  # to watch changes no bit
    assert list(values) == list(expected) == hook_names.keys(CONFIGS[which])
    for key, value in values.items():
        found, wanted = value.detach().numpy(), expected[key]
        assert found.shape == wanted.shape and found.dtype == np.float64
        if key.endswith("scores"):
            masked = np.triu(np.ones((T, T), bool), 1)
            assert np.all(found[..., masked] == -np.inf)
            found, wanted = found[..., ~masked], wanted[..., ~masked]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10, err_msg=key)


def test_the_names_are_modules_and_no_parameters():
    gpt = built()
    modules = dict(gpt.named_modules())
    assert set(hook_names.keys(TINY)) < set(modules)
    assert list(gpt.state_dict()) == list(params64())


def test_gradients_are_the_finite_differences_of_the_reference():
    """Of the metric, to some numbers of every value, each moved a little through `at`."""
    params, gpt = params64(), built()
    values = by_the_reference(TINY, params, IDS)
    with hooks.watch(gpt) as found:
        metric(gpt(torch.as_tensor(IDS))).backward()
    random = np.random.default_rng(1)
    for key, value in values.items():
        assert found[key].grad.shape == value.shape
        for place in random.integers(0, value.size, 3):
            if key.endswith(("scores", "pattern")):  # below the mask
                place = place // (T * T) * T * T + random.integers(1, T) * T
            sides = []
            for h in (1e-5, -1e-5):
                moved = value.copy()
                moved.flat[place] += h
                logits = by_the_reference(TINY, params, IDS, {key: moved})["logits"]
                sides.append(metric_of_arrays(logits))
            slope = (sides[0] - sides[1]) / 2e-5
            assert float(found[key].grad.flatten()[place]) == pytest.approx(slope, abs=1e-7), key
            assert key.endswith(("embed", "q", "k")) or slope != 0, key


@pytest.mark.parametrize("key", hook_names.keys(TINY))
def test_a_value_that_a_hook_replaces_is_one_that_at_replaces(key):
    params, gpt = params64(), built()
    old = by_the_reference(TINY, params, IDS)[key]
    new = np.random.default_rng(2).normal(size=old.shape)
    expected = by_the_reference(TINY, params, IDS, {key: new})["logits"]
    handle = gpt.get_submodule(key).register_forward_hook(lambda *_: torch.as_tensor(new))
    found = gpt(torch.as_tensor(IDS)).detach()
    handle.remove()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert np.abs(gpt(torch.as_tensor(IDS)).detach().numpy() - expected).max() > 1e-3


def test_hooks_are_gone_afterwards():
    gpt, ids = built(), torch.as_tensor(IDS)
    before = gpt(ids)
    with hooks.watch(gpt, ["pattern"], layers=[1]) as values:
        assert hooks_on(gpt) == 1
        gpt(ids)
    assert list(values) == ["h.1.attn.pattern"]
    with pytest.raises(RuntimeError, match="own"), hooks.watch(gpt):
        raise RuntimeError("own")
    with pytest.raises(RuntimeError, match="own"):
        hooks.attribution_patching(gpt, IDS[0], IDS[1], _failing)
    hooks.attribution_patching(gpt, IDS[0], IDS[1], metric, None)
    assert hooks_on(gpt) == 0
    assert not any(block.watched for block in gpt.h)
    assert all(p.grad is None and p.requires_grad for p in gpt.parameters())
    assert torch.equal(gpt(ids), before)


def _failing(logits):
    raise RuntimeError("own")


def test_frozen_models_have_slopes_and_runs_without_gradients_values():
    gpt, frozen, ids = built(), built().requires_grad_(False), torch.as_tensor(IDS)
    slopes = []
    for each in (gpt, frozen):
        with hooks.watch(each, ["ln_1", "z"]) as values:
            score = metric(each(ids))
        slopes.append(torch.autograd.grad(score, list(values.values())))
    for a, b in zip(*slopes, strict=True):
        assert torch.equal(a, b) and a.abs().max() > 0
    with torch.no_grad(), hooks.watch(gpt, ["z"]) as values:
        gpt(ids)
    assert not values["h.0.attn.z"].requires_grad


def test_what_watches_leaves_a_replacement_as_it_is():
    gpt, ids = built().requires_grad_(False), torch.as_tensor(IDS)
    own = torch.zeros(2, T, TINY.n_embd, dtype=torch.float64)
    gpt.get_submodule("h.0.attn_out").register_forward_hook(lambda *_: own)
    with hooks.watch(gpt, "attn_out") as values:
        gpt(ids)
    assert torch.equal(values["h.0.attn_out"], own) and values["h.0.attn_out"].requires_grad
    assert not own.requires_grad and hooks_on(gpt) == 1


@pytest.mark.parametrize("name", ["scores", "pattern", "z"])
def test_attention_is_written_out_where_its_inside_is_watched(name, monkeypatch):
    """As on a GPU, where the fused function makes no scores: in the layer that is watched alone."""
    ids, taken = torch.as_tensor(IDS), []
    for way in ("attend_fused", "attend_written_out"):
        original = getattr(model, way)

        def noted(*a, way=way, original=original):
            taken.append(way)
            return original(*a)

        monkeypatch.setattr(model, way, noted)
    gpt = built(fused=True)
    with hooks.watch(gpt, [name], layers=[1]) as values:
        gpt(ids)
    gpt(ids)
    second = "attend_fused" if name == "z" else "attend_written_out"
    assert taken == ["attend_fused", second, "attend_fused", "attend_fused"]
    found, expected = values[f"h.1.attn.{name}"], by_the_reference(TINY, params64(), IDS)
    wanted = expected[f"h.1.attn.{name}"]
    wanted[wanted == -1e10] = -np.inf
    np.testing.assert_allclose(found.detach(), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("recompute", [False, True])
def test_watched_training_has_the_same_gradients_and_sees_each_value_once(recompute):
    ids, grads, calls = torch.as_tensor(IDS), [], []
    for watched in (False, True):
        gpt = built(recompute=recompute, dropout=0.2).train()
        torch.manual_seed(3)
        if watched:
            handle = gpt.get_submodule("h.0.mlp_out").register_forward_hook(
                lambda *_: calls.append(1)
            )
            with hooks.watch(gpt) as values:
                score = metric(gpt(ids))
        else:
            score = metric(gpt(ids))
        score.backward()
        grads.append([p.grad.clone() for p in gpt.parameters()])
    handle.remove()
    assert calls == [1]
    for a, b in zip(*grads, strict=True):
        np.testing.assert_array_equal(a, b)
    sums = values["h.0.attn.pattern"].sum(-1)
    np.testing.assert_allclose(sums.detach(), np.ones(sums.shape), atol=1e-12)
    total = values["h.0.resid_mid"] - values["h.0.resid_pre"] - values["h.0.attn_out"]
    assert float(total.detach().abs().max()) < 1e-12


def test_compiled_blocks_are_watched_like_others():
    """Compiled code does not know of hooks that came after it; they were passed over in silence."""
    gpt, ids = model.build(TINY, tiny_params()), torch.as_tensor(IDS)
    plain = copy.deepcopy(gpt)
    if why := model.compile_blocks(gpt, *IDS.shape):
        pytest.skip(f"torch.compile does not work here: {why}")
    expected = gpt(ids)
    with hooks.watch(gpt) as values:
        gpt(ids)
    with hooks.watch(plain) as others:
        plain(ids)
    assert list(values) == list(others)
    for key in values:
        np.testing.assert_allclose(values[key].detach(), others[key].detach(), atol=1e-4)
    assert torch.equal(gpt(ids), expected)


def test_what_changes_the_input_of_a_block_does_not_hide_its_values():
    """A hook before a module gives its positional arguments anew; how it is watched is no such."""
    gpt, ids = built(), torch.as_tensor(IDS)
    for module in (gpt.h[1], gpt.h[1].attn, gpt.h[1].mlp):
        module.register_forward_pre_hook(lambda _, given: 2 * given[0])
    with hooks.watch(gpt, layers=[1]) as values:
        gpt(ids)
    assert list(values) == hook_names.select(TINY, layers=[1])
    with hooks.watch(gpt, ["h.0.resid_post"]) as before:
        gpt(ids)
    assert torch.equal(values["h.1.resid_pre"], 2 * before["h.0.resid_post"])


def test_a_copy_is_watched_by_itself():
    gpt, ids = built(), torch.as_tensor(IDS)
    other = copy.deepcopy(gpt)
    with hooks.watch(other, ["pattern"]) as values:
        gpt(ids)
        assert not values and not gpt.h[0].watched and other.h[0].watched
        other(ids)
    assert len(values) == TINY.n_layer


# ---- Attribution patching.


def linear(logits):
    """Of the last logits, as people take the difference of two answers."""
    return logits[0, -1, 3] - logits[0, -1, 8]


def test_attribution_is_exact_where_the_metric_is_linear():
    params = params64()
    found = hooks.attribution_patching(built(), *IDS, linear, ["ln_f", "logits"])
    clean, corrupt = (by_the_reference(TINY, params, row[None])["logits"][0, -1] for row in IDS)
    change = (clean[3] - clean[8]) - (corrupt[3] - corrupt[8])
    for key in ("ln_f", "logits"):
        assert found[key].shape == (T,)
        assert found[key][-1] == pytest.approx(change, abs=1e-10) and abs(change) > 0.1
        assert not found[key][:-1].any()


@pytest.mark.parametrize("name", [n for n in hook_names.NAMES if n not in ("scores", "pos_embed")])
def test_attribution_is_close_where_the_texts_are(name):
    """Each estimate beside patching itself, place by place; the texts' embeddings differ little."""
    params = params64()
    near = np.random.default_rng(7).normal(size=(2, TINY.n_embd)) * 1e-4
    first, last = IDS[0, 2], IDS[0, 2] + 1
    params["wte.weight"][last] = params["wte.weight"][first] + near[0]
    texts = np.stack([IDS[0], np.where(np.arange(T) == 2, last, IDS[0])])
    gpt = model.build(TINY, params)
    found = hooks.attribution_patching(gpt, *texts, metric, [name])
    values = [by_the_reference(TINY, params, row[None]) for row in texts]
    base = metric_of_arrays(values[1]["logits"])
    assert set(found) == set(hook_names.select(TINY, [name]))
    for key, estimate in found.items():
        clean, corrupt = (each[key] for each in values)
        actual = np.zeros(clean.shape[1:-1])
        for place in np.ndindex(actual.shape):
            new = corrupt.copy()
            new[(0, *place)] = clean[(0, *place)]
            logits = by_the_reference(TINY, params, texts[1:], {key: new})["logits"]
            actual[place] = metric_of_arrays(logits) - base
        assert estimate.shape == actual.shape
        most = np.abs(actual).max()
        assert most > 1e-7
        np.testing.assert_allclose(estimate, actual, rtol=0, atol=1e-2 * most, err_msg=key)


def test_masked_scores_count_nothing():
    found = hooks.attribution_patching(built(), *IDS, metric, ["scores", "pos_embed"])
    assert all(np.isfinite(estimate).all() for estimate in found.values())
    assert np.abs(found["h.1.attn.scores"]).max() > 0
    assert not found["pos_embed"].any()  # the same for both texts


def test_pictures_are_layer_by_place_and_layer_by_head():
    found = hooks.attribution_patching(built(), *IDS, metric, ["resid_pre", "z"])
    stream, heads = hooks.picture(found, "resid_pre"), hooks.picture(found, "z")
    assert stream.shape == (TINY.n_layer, T) and heads.shape == (TINY.n_layer, TINY.n_head)
    np.testing.assert_array_equal(stream[1], found["h.1.resid_pre"])
    np.testing.assert_array_equal(heads[0], found["h.0.attn.z"].sum(-1))
    with pytest.raises(InputError, match="no estimates of 'q'; there are those of: resid_pre, z"):
        hooks.picture(found, "q")


def test_narrow_arithmetic_gives_float32_estimates():
    exact = hooks.attribution_patching(model.build(TINY, tiny_params(scale=2.0)), *IDS, linear)
    gpt = model.build(TINY, tiny_params(scale=2.0), compute=torch.bfloat16)
    narrow = hooks.attribution_patching(gpt, *IDS, linear)
    for key, value in exact.items():
        assert narrow[key].dtype == value.dtype == np.float32
        np.testing.assert_allclose(narrow[key], value, atol=0.1 * np.abs(value).max())


@pytest.mark.parametrize(
    ("clean", "corrupt", "more", "message"),
    [
        ([1, 2], [1, 2, 3], {}, "the clean text has 2 tokens and the corrupt one 3; .* one length"),
        ([], [1], {}, "the clean text is empty; give at least one token"),
        ([1], [97], {}, "the corrupt text holds the id 97; this model's ids go from 0 to 96"),
        ([1] * 65, [2] * 65, {}, "the texts have 65 tokens, the model sees 64; shorten them"),
        ([1], [2], {"names": ["patern"]}, "no inner value is named 'patern'; did you mean pattern"),
        ([1], [2], {"names": "z", "layers": [2]}, "layer 2 does not exist; .* from 0 to 1"),
        (
            [1],
            [2],
            {"metric": lambda logits: logits},
            r"gives a tensor \[1, 1, 97\]; .* one number",
        ),
        ([1], [2], {"metric": lambda logits: 0.5}, "the metric gives 0.5; .* by torch alone"),
        ([1], [2], {"metric": lambda logits: logits.detach().sum()}, "the metric gives a tensor"),
    ],
)
def test_what_does_not_fit_is_refused(clean, corrupt, more, message):
    gpt = built()
    with pytest.raises(InputError, match=message):
        hooks.attribution_patching(gpt, clean, corrupt, **{"metric": metric, **more})
    assert hooks_on(gpt) == 0


def test_dropout_is_refused_where_runs_are_compared():
    gpt = built(dropout=0.1)
    with pytest.raises(InputError, match=r"at random \(0.1\); call model.eval\(\) first"):
        hooks.attribution_patching(gpt, *IDS, metric)
    assert hooks.attribution_patching(gpt.eval(), *IDS, metric)


def test_wrong_names_are_refused_before_anything_is_watched():
    gpt = built()
    with pytest.raises(InputError, match=r"did you mean h.0.attn.pattern"):  # noqa: SIM117
        with hooks.watch(gpt, ["h.0.attn.patern"]):
            pass
    assert hooks_on(gpt) == 0
