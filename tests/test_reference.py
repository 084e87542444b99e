"""The reference against the official TensorFlow code's own results, and against itself."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpt2lab import InputError, activations, reference, weights
from gpt2lab.config import Config, parameter_shapes
from gpt2lab.init import initialise

from .support import GOLDEN, TINY, tiny_params

OFFICIAL_ORDER = [
    "softmax",
    "gelu",
    "norm",
    "split_states",
    "merge_states",
    "conv1d",
    "attention_mask",
    "attn",
    "mlp",
    "block",
    "past_shape",
    "expand_tile",
    "positions_for",
    "model",
]


def test_every_official_function_is_there_in_the_official_order():
    tree = ast.parse(Path(reference.__file__).read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [name for name in names if name in OFFICIAL_ORDER] == OFFICIAL_ORDER


@pytest.fixture(scope="module")
def official():
    config, params, _ = weights.load(GOLDEN / "openai_checkpoint")
    return config, params, np.load(GOLDEN / "openai_checkpoint" / "expected.npz")


def float64(params):
    return {name: value.astype(np.float64) for name, value in params.items()}


def test_logits_and_present_equal_the_official_code(official):
    config, params, expected = official
    out = reference.model(config, params, expected["tokens_b2t7"])
    assert out["logits"].dtype == np.float32
    assert np.abs(out["logits"] - expected["logits_b2t7"]).max() < 2e-6
    assert np.abs(out["present"] - expected["present_b2t7"]).max() < 2e-6


def test_float64_equals_the_official_code_to_1e11(official):
    config, params, expected = official
    out = reference.model(config, float64(params), expected["tokens_b2t7"])
    assert out["logits"].dtype == np.float64
    assert np.abs(out["logits"] - expected["logits64_b2t7"]).max() < 1e-11


def test_a_past_from_elsewhere_gives_the_official_result(official):
    config, params, expected = official
    out = reference.model(config, params, expected["rand_tokens"], expected["rand_past"])
    assert np.abs(out["logits"] - expected["rand_logits"]).max() < 2e-6
    assert np.abs(out["present"] - expected["rand_present"]).max() < 2e-6


@pytest.mark.parametrize("cuts", [(24,), (1,) * 24, (5, 1, 18), (23, 1)])
def test_any_split_of_the_tokens_gives_the_official_result(official, cuts):
    config, params, expected = official
    logits, past, start = [], None, 0
    for size in cuts:
        out = reference.model(config, params, expected["inc_tokens"][:, start : start + size], past)
        logits.append(out["logits"])
        joined = [out["present"]] if past is None else [past, out["present"]]
        past = np.concatenate(joined, axis=-2)
        start += size
    assert np.abs(np.concatenate(logits, axis=1) - expected["inc_logits_full"]).max() < 2e-6
    assert np.abs(past - expected["inc_present_full"]).max() < 2e-6


def test_splitting_in_float64_changes_nothing_but_rounding():
    params, tokens = float64(tiny_params()), np.arange(20)[None] % TINY.n_vocab
    whole = reference.model(TINY, params, tokens)
    first = reference.model(TINY, params, tokens[:, :13])
    second = reference.model(TINY, params, tokens[:, 13:], first["present"])
    assert np.abs(second["logits"] - whole["logits"][:, 13:]).max() < 1e-11


def test_last_gives_the_last_row_alone():
    params, tokens = tiny_params(), np.arange(9)[None]
    whole = reference.model(TINY, params, tokens)["logits"]
    last = reference.model(TINY, params, tokens, last=True)["logits"]
    assert last.shape == (1, 1, TINY.n_vocab)
    assert np.abs(last[0, 0] - whole[0, -1]).max() < 1e-5


def test_no_row_of_a_batch_changes_the_bits_of_another():
    params, tokens = tiny_params(), np.random.default_rng(0).integers(0, 97, (5, 8))
    batch = reference.model(TINY, params, tokens)["logits"]
    for row in range(5):
        alone = reference.model(TINY, params, tokens[row : row + 1])["logits"]
        assert np.array_equal(alone[0], batch[row])


def test_the_future_is_invisible():
    params, tokens = tiny_params(), np.arange(10)[None]
    other = tokens.copy()
    other[0, 7:] = 50
    a = reference.model(TINY, params, tokens)["logits"]
    b = reference.model(TINY, params, other)["logits"]
    assert np.array_equal(a[:, :7], b[:, :7])
    assert not np.allclose(a[:, 7:], b[:, 7:])


def test_erf_is_exact():
    x = np.concatenate([np.linspace(-7, 7, 10001), -(10.0 ** np.arange(-300, 1, 7))])
    assert np.abs(activations.erf(x) - [math.erf(v) for v in x]).max() < 3e-16


def test_gelus_by_their_formulas():
    x = np.linspace(-5, 5, 101)
    tanh = [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x]
    exact = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]
    assert np.abs(reference.gelu(x) - tanh).max() < 1e-15
    assert np.abs(activations.gelu_exact(x) - exact).max() < 1e-15


def test_small_functions_by_hand():
    assert np.allclose(reference.softmax(np.array([0.0, math.log(3)])), [0.25, 0.75])
    assert np.isfinite(reference.softmax(np.array([1e4, -1e4]))).all()
    assert reference.attention_mask(2, 4).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert reference.attention_mask(3, 2).tolist() == [[0, 0], [1, 0], [1, 1]]
    x = np.arange(24.0).reshape(2, 3, 4)
    assert reference.split_states(x, 2).shape == (2, 3, 2, 2)
    assert np.array_equal(reference.merge_states(reference.split_states(x, 2)), x)
    assert reference.expand_tile(np.array([1, 2]), 3).tolist() == [[1, 2]] * 3
    assert reference.positions_for(np.zeros((2, 3), int), 5).tolist() == [[5, 6, 7]] * 2
    assert reference.past_shape(config=TINY, batch_size=3, sequence=7) == [3, 2, 2, 4, 7, 8]
    normed = reference.norm(x, np.full(4, 2.0), np.full(4, 1.0))
    assert np.allclose(normed.mean(-1), 1) and np.allclose(normed.std(-1), 2, rtol=1e-4)
    assert np.allclose(
        reference.conv1d(x, np.ones((4, 2)), np.array([0.0, 1.0])),
        np.stack([x.sum(-1), x.sum(-1) + 1], -1),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"activation_function": "gelu"},
        {"activation_function": "relu"},
        {"layer_norm_epsilon": 1e-2},
        {"n_inner": 48},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
    ],
)
def test_every_variant_equals_transformers(change):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = replace(TINY, **change)
    params = tiny_params(config)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.n_vocab,
            n_positions=config.n_ctx,
            n_embd=config.n_embd,
            n_head=config.n_head,
            n_layer=config.n_layer,
            n_inner=config.n_inner,
            activation_function=config.activation_function,
            layer_norm_epsilon=config.layer_norm_epsilon,
            scale_attn_weights=config.scale_attn_weights,
            scale_attn_by_inverse_layer_idx=config.scale_attn_by_inverse_layer_idx,
            attn_implementation="eager",
        )
    ).eval()
    state = {f"transformer.{name}": torch.from_numpy(value) for name, value in params.items()}
    theirs.load_state_dict({**state, "lm_head.weight": state["transformer.wte.weight"]})
    tokens = np.random.default_rng(1).integers(0, 97, (2, 20))
    with torch.no_grad():
        expected = theirs.double()(torch.from_numpy(tokens)).logits.numpy()
    ours = reference.model(config, float64(params), tokens)["logits"]
    assert np.abs(ours - expected).max() < 1e-11
    plain = reference.model(TINY, float64(tiny_params()), tokens)["logits"]
    assert change == {"n_inner": 48} or np.abs(ours - plain).max() > 1e-6


def test_an_untied_head_is_used():
    params = tiny_params()
    params["lm_head.weight"] = params["wte.weight"][::-1]
    tied = reference.model(TINY, tiny_params(), [[1, 2, 3]])["logits"]
    assert np.allclose(reference.model(TINY, params, [[1, 2, 3]])["logits"], tied[..., ::-1])


@pytest.mark.parametrize(
    ("scheme", "wpe", "proj"),
    [("openai", 0.01, 0.02), ("paper", 0.01, 0.02 / 2), ("hf", 0.02, 0.02 / 2)],
)
def test_initialisation_has_the_scheme_s_deviations(scheme, wpe, proj):
    config = Config(n_vocab=500, n_ctx=400, n_embd=128, n_head=4, n_layer=2)
    params = initialise(config, 3, scheme)
    assert {name: value.shape for name, value in params.items()} == parameter_shapes(config)
    assert params["wte.weight"].std() == pytest.approx(0.02, rel=0.03)
    assert params["wpe.weight"].std() == pytest.approx(wpe, rel=0.03)
    assert params["h.1.mlp.c_proj.weight"].std() == pytest.approx(proj, rel=0.03)
    assert params["h.0.attn.c_attn.weight"].std() == pytest.approx(0.02, rel=0.03)
    assert (params["ln_f.weight"] == 1).all() and (params["h.0.mlp.c_fc.bias"] == 0).all()
    again = initialise(config, 3, scheme)
    assert all(np.array_equal(params[name], again[name]) for name in params)
    assert not np.array_equal(initialise(config, 4, scheme)["wte.weight"], params["wte.weight"])


def test_an_unknown_scheme_is_named():
    with pytest.raises(InputError, match="'xavier'"):
        initialise(TINY, 0, "xavier")
