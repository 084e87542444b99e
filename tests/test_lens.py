"""Inner values: their names, their equality with other implementations, and acting on them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import gpt2lab
from gpt2lab import lens, reference
from gpt2lab.config import Config
from gpt2lab.engines.numpy_engine import NumpyEngine
from gpt2lab.errors import InputError
from gpt2lab.lens import hook_names as naming
from gpt2lab.lm import LM
from gpt2lab.weights import Checkpoint

from .support import TINY, tiny_params

TEXT = "Once upon a time, there was a little girl named Lily."
IDS = [5, 17, 3, 96, 0, 44, 17, 3]


@pytest.fixture(scope="module")
def fable():
    return gpt2lab.load(engine="numpy")


def tiny(config: Config = TINY, dtype: str | None = None, seed: int = 0, **more) -> LM:
    """A model object over random parameters, without a tokenizer."""
    params = {**tiny_params(config, seed), **more}
    return LM(Checkpoint(config, params, None, "none"), engine="numpy", dtype=dtype)


# ---- Names.


def test_every_value_that_the_reference_shows_has_a_name_and_the_told_shape():
    model, met = tiny(), []
    letters = {"B": 1, "T": 8, "S": 8, "H": 4, "D": 8, "E": 32, "F": 128, "V": 97}

    def at(key, value):
        met.append(key)
        name, _ = naming.parse(key)
        shape = tuple(letters[letter] for letter in naming.NAMES[name].shape.split())
        assert value.shape == shape, key
        return value

    reference.model(TINY, model.params, [IDS], at=at)
    assert met == naming.keys(TINY)


def test_hooks_are_those_of_transformer_lens():
    hooks = [naming.hook_of(key) for key in naming.keys(TINY)]
    assert hooks[:4] == [
        "hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre", "blocks.0.ln1.hook_normalized",
    ]  # fmt: skip
    assert "blocks.1.attn.hook_pattern" in hooks
    assert len(set(hooks)) == len(hooks)
    assert naming.parse("blocks.11.mlp.hook_post") == ("mlp_post", 11)


def test_keys_are_chosen_by_name_layer_hook_and_wildcard():
    assert lens.select(TINY, "pattern") == ["h.0.attn.pattern", "h.1.attn.pattern"]
    assert lens.select(TINY, ["z", "logits"], layers=-1) == ["h.1.attn.z", "logits"]
    assert lens.select(TINY, "h.*.attn.[qk]", [0]) == ["h.0.attn.q", "h.0.attn.k"]
    assert lens.select(TINY, "blocks.1.hook_mlp_out") == ["h.1.mlp_out"]
    assert lens.select(TINY) == lens.keys(TINY)


@pytest.mark.parametrize(
    ("wanted", "layers", "message"),
    [
        ("patern", None, "did you mean pattern"),
        ("h.0.attn.patern", None, "did you mean h.0.attn.pattern"),
        ("blocks.0.hook_residpost", None, "blocks.0.hook_resid_post"),
        ("h.2.attn.z", None, "layer 2 .* 0 to 1"),
        ("z", [2], "layer 2 .* 0 to 1"),
        ("z", ["0"], "layer '0'"),
        ("h.*.nothing", None, "no inner value"),
        (7, None, "no inner value is named 7|names"),
    ],
)
def test_unknown_names_are_told_with_the_closest(wanted, layers, message):
    with pytest.raises(InputError, match=message):
        lens.select(TINY, [wanted], layers)


# ---- Traces.


def test_a_trace_is_the_forward_pass_to_the_bit(fable):
    trace = fable.trace(TEXT)
    assert list(trace) == lens.keys(fable.config)
    np.testing.assert_array_equal(trace["logits"], fable.logits(trace.tokens))
    plain = NumpyEngine(fable.config, fable.params).logits(trace.tokens)
    np.testing.assert_array_equal(trace["logits"], plain)
    for layer in range(1, fable.config.n_layer):
        np.testing.assert_array_equal(trace["resid_pre", layer], trace["resid_post", layer - 1])
    np.testing.assert_array_equal(trace["blocks.2.attn.hook_z"], trace["h.2.attn.z"])
    assert trace.stack("pattern").shape == (6, 1, 4, len(trace.pieces), len(trace.pieces))
    assert "".join(trace.pieces) == TEXT


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        dataclasses.replace(TINY, activation_function="gelu", scale_attn_by_inverse_layer_idx=True),
        dataclasses.replace(TINY, activation_function="relu", scale_attn_weights=False),
        dataclasses.replace(TINY, n_inner=40, layer_norm_epsilon=1e-3),
    ],
)
def test_values_equal_transformers(config):
    """Hidden states, attentions, and through its modules most of the rest, to 1e-4."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = tiny(config)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.n_vocab,
            n_positions=config.n_ctx,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_inner=config.n_inner,
            activation_function=config.activation_function,
            layer_norm_epsilon=config.layer_norm_epsilon,
            scale_attn_weights=config.scale_attn_weights,
            scale_attn_by_inverse_layer_idx=config.scale_attn_by_inverse_layer_idx,
            attn_implementation="eager",
        )
    ).eval()
    state = {f"transformer.{name}": torch.tensor(v) for name, v in model.params.items()}
    wrong = theirs.load_state_dict(state, strict=False)
    assert not wrong.unexpected_keys
    seen = {}
    body = theirs.transformer
    for i, block in enumerate(body.h):
        for name, module in (
            ("ln_1", block.ln_1),
            ("attn_out", block.attn),
            ("ln_2", block.ln_2),
            ("mlp_pre", block.mlp.c_fc),
            ("mlp_post", block.mlp.act),
            ("mlp_out", block.mlp),
        ):
            module.register_forward_hook(
                lambda _, __, out, key=(name, i): seen.update(
                    {key: out[0] if isinstance(out, tuple) else out}
                )
            )
    with torch.no_grad():
        out = theirs(
            torch.tensor([IDS]), output_hidden_states=True, output_attentions=True, use_cache=True
        )
    trace = model.trace(IDS)

    def near(ours, other):
        np.testing.assert_allclose(ours, other.numpy(), atol=1e-4, rtol=1e-4)

    near(trace["logits"], out.logits)
    for i in range(config.n_layer):
        near(trace["pattern", i], out.attentions[i])
        near(trace["resid_pre", i], out.hidden_states[i])
        near(trace["k", i], out.past_key_values.layers[i].keys)
        near(trace["v", i], out.past_key_values.layers[i].values)
    near(trace["ln_f"], out.hidden_states[-1])  # the last hidden state is normalised there
    for key, value in seen.items():
        near(trace[key], value)
    assert len(seen) == 6 * config.n_layer


def test_masked_places_and_rows_of_the_pattern(fable):
    trace = fable.trace(TEXT, names=["scores", "pattern"])
    length = trace.tokens.shape[1]
    later = np.triu(np.ones((length, length), bool), 1)
    for layer in range(fable.config.n_layer):
        assert (trace["scores", layer][..., later] == -1e10).all()
        assert (trace["pattern", layer][..., later] == 0).all()
        np.testing.assert_allclose(trace["pattern", layer].sum(-1), 1, atol=1e-6)


def test_only_what_is_wanted_is_kept(fable):
    trace = fable.trace(TEXT, names=["z", "resid_post"], layers=[1, 4])
    assert list(trace) == ["h.1.attn.z", "h.1.resid_post", "h.4.attn.z", "h.4.resid_post"]
    assert "h.1.attn.z" in trace and "h.1.attn.q" not in trace
    with pytest.raises(InputError, match=r"h.1.attn.q was not traced.*'q'"):
        trace["q", 1]
    with pytest.raises(InputError, match="layer 9"):
        trace["z", 9]
    with pytest.raises(InputError, match="z is in every layer"):
        trace["z"]
    with pytest.raises(InputError, match="did you mean"):
        trace["h.1.attn.zz"]


def test_several_texts_at_once_are_each_alone():
    model = tiny()
    both = model.trace([IDS, IDS[::-1]])
    assert both["pattern", 1].shape == (2, 4, 8, 8)
    np.testing.assert_array_equal(
        both["resid_post", 1][1], model.trace(IDS[::-1])["resid_post", 1][0]
    )
    with pytest.raises(InputError, match="2, 8 tokens"):
        model.trace([IDS, IDS[:2]])


def test_under_transformer_lens_names_heads_come_after_tokens(fable):
    found = fable.trace(TEXT).as_transformer_lens()
    length = fable.trace(TEXT, names="embed").tokens.shape[1]
    assert found["blocks.0.attn.hook_q"].shape == (1, length, 4, 64)
    assert found["blocks.0.attn.hook_pattern"].shape == (1, 4, length, length)
    assert "logits" not in found and "" not in found


def test_a_float64_model_is_traced_in_float64():
    assert tiny(dtype="float64").trace(IDS)["z", 0].dtype == np.float64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([], "empty"),
        ([97], "97"),
        ([0] * 65, "65 tokens, the model sees 64; shorten"),
        ("a text", "without a tokenizer"),
    ],
)
def test_texts_that_cannot_be_traced(text, message):
    with pytest.raises(InputError, match=message):
        tiny().trace(text)


# ---- While writing.


def test_watching_gives_the_values_of_each_step(fable):
    """Token by token with the cache: the same values as in one reading of the whole."""
    given = {"max_new_tokens": 6, "seed": 3}
    watched = list(fable.watch("The little fox", **given))
    assert "".join(piece.text for piece, _ in watched) == fable.generate("The little fox", **given)
    prompt = len(fable.encode("The little fox"))
    assert [(t.start, t.tokens.shape[1]) for _, t in watched] == [
        (0, prompt), *((prompt + i, 1) for i in range(5)),
    ]  # fmt: skip
    ids = [*fable.encode("The little fox"), *(piece.token for piece, _ in watched)]
    whole = fable.trace(ids[:-1])
    for _, step in watched[1:]:
        at = slice(step.start, step.start + 1)
        assert step.tokens.tolist() == [ids[at]]
        for key in ("h.3.resid_post", "h.5.mlp_post", "ln_f"):
            np.testing.assert_allclose(step[key], whole[key][:, at], atol=1e-4)
        np.testing.assert_allclose(step["z", 2], whole["z", 2][:, :, at], atol=1e-5)
        np.testing.assert_allclose(step["k", 2], whole["k", 2][:, :, at], atol=1e-5)
        row = whole["pattern", 2][:, :, at, : step.start + 1]
        np.testing.assert_allclose(step["pattern", 2], row, atol=1e-5)


def test_watching_past_the_window():
    """When the window slides the step reads its kept half again."""
    config = dataclasses.replace(TINY, n_ctx=8)
    model = tiny(config)
    steps = [t for _, t in model.watch(IDS[:6], names="embed", max_new_tokens=6, temperature=0)]
    assert [(t.start, t.tokens.shape[1]) for t in steps] == [
        (0, 6), (6, 1), (7, 1), (0, 4), (4, 1), (5, 1),
    ]  # fmt: skip
    for step in steps:
        np.testing.assert_array_equal(step["embed"][0], model.params["wte.weight"][step.tokens[0]])


def test_one_text_is_watched_at_a_time(fable):
    with pytest.raises(InputError, match="one text at a time"):
        next(fable.watch("The", n=2))


# ---- Acting.


def written_out_silencing(model, ids, layer, head):
    """The logits without a head, made by taking its rows of c_proj to zero."""
    D = model.config.head_width
    params = dict(model.params)
    name = f"h.{layer}.attn.c_proj.weight"
    params[name] = params[name].copy()
    params[name][head * D : (head + 1) * D] = 0
    return reference.model(model.config, params, [ids])["logits"]


def test_silencing_a_head_is_the_model_without_its_rows():
    model = tiny()
    other = model.acting(lens.silence_heads(1, 2))
    np.testing.assert_allclose(
        other.logits([IDS]), written_out_silencing(model, IDS, 1, 2), atol=1e-5
    )
    assert not np.allclose(other.logits([IDS]), model.logits([IDS]), atol=1e-2)


def test_silencing_neurons_is_the_model_without_their_rows():
    model = tiny()
    params = dict(model.params)
    params["h.0.mlp.c_proj.weight"] = params["h.0.mlp.c_proj.weight"].copy()
    params["h.0.mlp.c_proj.weight"][[3, 77]] = 0
    expected = reference.model(TINY, params, [IDS])["logits"]
    found = model.acting(lens.silence_neurons(0, [3, 77])).logits([IDS])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_scaling_is_between():
    model = tiny(dtype="float64")
    halves = [
        model.trace(IDS, acts=[lens.scale_heads(0, 1, factor)])["attn_out", 0]
        for factor in (0, 0.5, 1)
    ]
    np.testing.assert_allclose(halves[1], (halves[0] + halves[2]) / 2, atol=1e-12)


def test_a_steered_stream_is_moved_by_strength_times_direction():
    model, v = tiny(dtype="float64"), np.arange(32) / 10
    moved = model.trace(IDS, acts=[lens.steer(0, v, -2.5, positions=[2, 5])])
    step = moved["resid_post", 0] - model.trace(IDS)["resid_post", 0]
    expected = np.zeros((1, 8, 32))
    expected[0, [2, 5]] = -2.5 * v
    np.testing.assert_allclose(step, expected, atol=1e-12)
    np.testing.assert_array_equal(moved["resid_pre", 1], moved["resid_post", 0])


def no_effect(width: int) -> list[lens.Act]:
    return [
        lens.scale_heads(0, [0, 1], 1.0),
        lens.scale_neurons(1, None, 1),
        lens.steer(0, np.ones(width), 0.0),
        lens.steer(1, np.zeros(width), 3.0),
    ]


def test_acts_without_effect_are_the_plain_model_to_the_bit(fable):
    """Negative zeros too, which an addition of zero would turn round."""
    acts = no_effect(256)
    plain, same = fable.trace(TEXT), fable.trace(TEXT, acts=acts)
    for key, value in plain.items():
        assert value.tobytes() == same[key].tobytes(), key
    other = fable.acting(*acts)
    given = {"max_new_tokens": 12, "seed": 5}
    assert other.generate("The dog", **given) == fable.generate("The dog", **given)
    signed = tiny(**{"ln_f.bias": np.full(32, -0.0, np.float32)})
    assert signed.acting(*no_effect(32)).logits([IDS]).tobytes() == signed.logits([IDS]).tobytes()


def test_nothing_is_left_behind(fable):
    """The plain model, its trace and its text are what they were before anybody acted."""
    before = fable.logits([fable.encode(TEXT)]).tobytes()
    weights = {name: value.tobytes() for name, value in fable.params.items()}
    other = fable.acting(lens.silence_heads(0, None), lens.steer(2, np.ones(256), 9))
    for _ in other.stream("The dog", max_new_tokens=3, seed=1):
        break  # a text that is broken off
    list(other.watch("The dog", max_new_tokens=3, seed=1))
    other.trace(TEXT)

    def broken(value):
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError):
        fable.trace(TEXT, acts=[lens.custom("h.3.mlp_out", broken, "broken")])
    assert fable.logits([fable.encode(TEXT)]).tobytes() == before
    assert weights == {name: value.tobytes() for name, value in fable.params.items()}
    assert fable.acts == ()


def test_acts_hold_token_by_token(fable):
    """What is written with the cache is what a reading of the whole at each step would choose."""
    v = np.random.default_rng(0).normal(size=256)
    other = fable.acting(
        lens.steer(2, v, 3.0), lens.silence_heads(4, 1), lens.scale_neurons(5, 7, 4)
    )
    prompt = fable.encode("The little fox")
    [done] = other.complete(prompt, max_new_tokens=12, temperature=0)
    ids = list(prompt)
    for _ in range(12):
        ids.append(int(np.argmax(other.logits([ids])[0, -1])))
    assert done.tokens == ids[len(prompt) :]
    assert done.text != fable.complete(prompt, max_new_tokens=12, temperature=0)[0].text


def test_an_acting_model_scores_and_acts_on(fable):
    once = fable.acting(lens.silence_heads(0, 0))
    twice = once.acting(lens.silence_heads(1, 3))
    at_once = fable.acting(lens.silence_heads(0, 0), lens.silence_heads(1, 3))
    assert twice.score(TEXT).total == at_once.score(TEXT).total != fable.score(TEXT).total
    assert once.trace(TEXT)["z", 0][0, 0].any() == np.False_
    assert len(twice.acts) == 2


def test_a_record_tells_the_acts_and_the_plain_model_refuses_it(fable):
    other = fable.acting(lens.silence_heads(0, 1))
    [done] = other.complete("The dog", max_new_tokens=4, seed=1)
    assert done.record["engine"]["acts"] == ["h.0.attn.z[1] at positions all times 0.0"]
    assert other.replay(done.record).text == done.text
    with pytest.raises(InputError, match="acts"):
        fable.replay(done.record)


# ---- Patching values in.


def test_patching_everything_gives_the_other_run():
    """The whole stream of another prompt, patched in at a layer, is that prompt from there on."""
    model = tiny()
    clean = model.trace(IDS)
    corrupt = [7, 8, 9, 10, 11, 12, 13, 14]
    patched = model.trace(corrupt, acts=[lens.patch("h.1.resid_pre", clean)])
    np.testing.assert_array_equal(patched["logits"], clean["logits"])
    np.testing.assert_array_equal(patched["z", 0], model.trace(corrupt)["z", 0])


def test_patching_one_head_at_one_place():
    model = tiny()
    clean, corrupt = model.trace(IDS), [*IDS[:4], 50, *IDS[5:]]
    patched = model.trace(
        corrupt, acts=[lens.patch("blocks.1.attn.hook_z", clean, units=[2], positions=[6])]
    )
    expected = model.trace(corrupt)["z", 1].copy()
    expected[0, 2, 6] = clean["z", 1][0, 2, 6]
    np.testing.assert_array_equal(patched["z", 1], expected)


def test_mean_ablation_is_a_patch_with_an_array():
    model = tiny()
    mean = model.trace(IDS)["z", 0].mean(axis=2, keepdims=True)[:, [1]]  # [1, 1, 1, D]
    z = model.trace(IDS, acts=[lens.patch("h.0.attn.z", mean, units=[1])])["z", 0]
    np.testing.assert_allclose(z[0, 1], np.broadcast_to(mean[0, 0], (8, 8)), atol=0)


def test_a_patch_of_the_prompt_stays_while_writing_goes_on(fable):
    """The trace's positions are patched and no others, however the text is read."""
    source = fable.trace("The big cat")
    other = fable.acting(lens.patch("h.1.mlp_out", source))
    read = [step for _, step in other.watch("The old dog", max_new_tokens=3, temperature=0)]
    np.testing.assert_array_equal(read[0]["mlp_out", 1], source["mlp_out", 1])
    whole = other.trace([*fable.encode("The old dog"), int(read[1].tokens[0, 0])])
    np.testing.assert_allclose(whole["mlp_out", 1][:, -1:], read[1]["mlp_out", 1], atol=1e-5)


def test_a_custom_act_sees_the_whole_value():
    model = tiny()
    act = lens.custom(
        "h.0.attn.pattern", lambda p: np.eye(8, dtype=p.dtype) + 0 * p, "look at self"
    )
    trace = model.trace(IDS, acts=[act])
    np.testing.assert_allclose(trace["z", 0], trace["v", 0], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lens.silence_heads(2, 0), "layer 2 .* 0 to 1"),
        (lambda: lens.silence_heads(0, 4), "head 4 .* 0 to 3"),
        (lambda: lens.silence_neurons(0, 128), "neuron 128 .* 0 to 127"),
        (lambda: lens.silence_heads(0, []), "empty or holds"),
        (lambda: lens.silence_heads(0, [1, 1]), "twice"),
        (lambda: lens.silence_heads(0, "1"), "'1'"),
        (lambda: lens.silence_heads(-1, 1), "-1"),
        (lambda: lens.scale_heads(0, 1, float("nan")), "the factor is nan"),
        (lambda: lens.scale_heads(0, 1, "2"), "number"),
        (lambda: lens.steer(0, np.ones(31)), "31 entries, this model is 32"),
        (lambda: lens.steer(0, np.ones((2, 32))), "one row"),
        (lambda: lens.steer(0, [float("inf")] * 32), "finite"),
        (lambda: lens.steer(0, np.ones(32), name="z"), "must be one of"),
        (lambda: lens.patch("h.0.attn.zz", np.ones(8)), "did you mean"),
        (lambda: lens.patch("z", np.ones(8)), "every layer"),
        (
            lambda: lens.patch("h.0.attn.z", np.ones((1, 4, 7, 8))),
            r"\[1, 4, 7, 8\].*\[1, 4, 8, 8\]",
        ),
        (lambda: lens.patch("h.0.mlp_out", np.ones((1, 1, 1, 1, 1))), "axes"),
        (lambda: lens.patch("h.0.mlp_out", "words"), "a trace, or an array"),
        (lambda: lens.silence_heads(0, 1, positions=[8]), "outside of the text, which has 8"),
        (lambda: lens.silence_heads(0, 1, positions=[64]), "position 64 .* 0 to 63"),
        (lambda: lens.custom("h.0.mlp_out", lambda v: v[:, 1:], "cut"), "shape"),
        (lambda: "silence", "no act"),
    ],
)
def test_acts_that_do_not_fit(make, message):
    with pytest.raises(InputError, match=message):
        tiny().trace(IDS, acts=[make()])


def test_a_patch_from_a_shorter_trace_names_its_positions():
    model = tiny()
    short = model.trace(IDS[:3])
    with pytest.raises(InputError, match="position 5 is not in the trace"):
        lens.patch("h.0.mlp_out", short, positions=[5])
    with pytest.raises(InputError, match="outside of the text, which has 4"):
        model.trace(IDS[:4], acts=[lens.patch("h.0.mlp_out", model.trace(IDS))])


def test_writing_without_looking_imports_no_lens():
    """Looking inside costs nothing to those who do not."""
    import subprocess
    import sys

    code = (
        "import sys, gpt2lab; lm = gpt2lab.load(engine='numpy');"
        "lm.generate('Once', max_new_tokens=1, seed=0);"
        "print([m for m in sys.modules if m.startswith('gpt2lab.lens')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
