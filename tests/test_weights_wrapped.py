"""Whole GPT-2 weights under the names that trainers and wrappers give them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gpt2lab import weights
from gpt2lab.errors import InputError
from gpt2lab.weights import tensors
from tests.weights_helpers import (
    EXACT,
    config_json,
    halves,
    masks,
    nanogpt_value,
    prefixed,
    safetensors_file,
    same,
    tiny,
    torch_file,
)

PREFIXES = [
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "module.module.",
    "model.",
    "net.",
    "pretrained_model.",
    "backbone.",
    "model._orig_mod.module.",
    "_fsdp_wrapped_module.",
    "my_gpt2.inner.",
]


def with_head(params):
    """The body under `transformer.` and the head beside it, as in GPT2LMHeadModel."""
    return {**prefixed(params), tensors.HEAD: params["wte.weight"]}


def write(folder, kind, state):
    """A folder of one kind with these tensors."""
    config_json(folder)
    if kind == "safetensors":
        safetensors_file(folder / "model.safetensors", state)
    elif kind == "bin":
        torch_file(folder / "pytorch_model.bin", state)
    else:
        files = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
        shards = dict(zip(files, halves(state), strict=True))
        for file, part in shards.items():
            torch_file(folder / file, part)
        where = {name: file for file, part in shards.items() for name in part}
        index = folder / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": where}))


@pytest.mark.parametrize("kind", ["safetensors", "bin", "sharded"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_same_model_under_every_prefix(tmp_path, kind, prefix):
    """DataParallel's `module.`, torch.compile's `_orig_mod.` after another prefix, Lightning's
    `model.` and trl's `pretrained_model.` made of a whole model one without a single tensor."""
    write(tmp_path / "m", kind, prefixed(with_head(masks(tiny())), prefix))
    loaded = weights.load(tmp_path / "m")
    assert same(loaded, tiny())
    assert len(loaded.notes) == 1  # on the vocabulary


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("holder", ["model", "model_state_dict", "state_dict"])
def test_nanogpt_files_under_every_prefix(tmp_path, prefix, holder):
    value = nanogpt_value(masks(tiny(EXACT)), f"{prefix}transformer.")
    value[holder] = value.pop("model")
    torch_file(tmp_path / "ckpt.pt", value)
    assert same(weights.load(tmp_path), tiny(EXACT))


def test_wrappers_in_the_middle_of_a_name(tmp_path):
    """FSDP, checkpointing of activations and torch.compile wrap single layers."""
    state = {}
    for i, (name, array) in enumerate(prefixed(tiny()).items()):
        wrapper = ("_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_orig_mod.")[i % 3]
        state[name.replace(".ln_1.", f".{wrapper}ln_1.").replace(".mlp.", f".mlp.{wrapper}")] = (
            array
        )
    write(tmp_path / "m", "bin", state)
    assert same(weights.load(tmp_path / "m"), tiny())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {}, "epoch": 3},
        lambda state: {"state_dict": prefixed(state, "net."), "pytorch-lightning_version": "2"},
        lambda state: {"module": state, "global_steps": 5, "loss": np.ones((), np.float32)},
        lambda state: {"checkpoint": 1, "model": {"state_dict": prefixed(state, "module.")}},
    ],
)
def test_a_training_state_holds_the_model(tmp_path, wrap):
    config_json(tmp_path / "m")
    torch_file(tmp_path / "m" / "pytorch_model.bin", wrap(with_head(tiny())))
    assert same(weights.load(tmp_path / "m"), tiny())
    assert same(weights.load(tmp_path / "m" / "pytorch_model.bin"), tiny())


def test_the_state_of_an_optimizer_is_called_that(tmp_path):
    config_json(tmp_path / "m")
    state = {"state": {0: {"exp_avg": np.ones(3, np.float32)}}, "param_groups": []}
    torch_file(tmp_path / "m" / "pytorch_model.bin", state)
    with pytest.raises(InputError, match="is the state of an optimizer, not a model"):
        weights.load(tmp_path / "m")


# --- two names for one tensor ---


@pytest.mark.parametrize("prefix", ["", "module."])
def test_only_the_head_is_stored(tmp_path, prefix):
    """safetensors.torch.save_model keeps one of two tied names, lm_head.weight, and writes into the
    metadata that wte is the same; the model was refused as one without wte."""
    state = prefixed(with_head(tiny()), prefix)
    del state[f"{prefix}transformer.wte.weight"]
    write(tmp_path / "m", "safetensors", state)
    assert same(weights.load(tmp_path / "m"), tiny())  # tied by config.json
    config_json(tmp_path / "m", tie_word_embeddings=False)
    with pytest.raises(InputError, match=r"1 missing: wte\.weight"):
        weights.load(tmp_path / "m")


def test_the_metadata_says_which_names_are_one(tmp_path):
    torch = pytest.importorskip("torch")
    save_model = pytest.importorskip("safetensors.torch").save_model
    transformers = pytest.importorskip("transformers")
    config_json(tmp_path / "m", tie_word_embeddings=False)
    config = transformers.GPT2Config.from_pretrained(tmp_path / "m")
    config.tie_word_embeddings = True
    model = transformers.GPT2LMHeadModel(config)
    save_model(model, str(tmp_path / "m" / "model.safetensors"))
    loaded = weights.load(tmp_path / "m")
    assert torch.equal(torch.tensor(loaded.params["wte.weight"]), model.lm_head.weight)


def test_a_tied_head_of_other_numbers_is_used_as_transformers_does(tmp_path):
    """transformers 5 does not tie what was stored with two values."""
    transformers = pytest.importorskip("transformers")
    state = {**with_head(tiny()), tensors.HEAD: tiny(seed=3)["wte.weight"]}
    write(tmp_path / "m", "safetensors", state)
    loaded = weights.load(tmp_path / "m")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert np.array_equal(loaded.params[tensors.HEAD], model.lm_head.weight.detach().numpy())
    assert any("the stored head is used" in note for note in loaded.notes)


# --- other heads ---


@pytest.mark.parametrize(
    "head",
    [
        "v_head.summary.weight",
        "multiple_choice_head.summary.bias",
        "score.weight",
        "classifier.out_proj.weight",
        "summary.weight",
        "value_head.0.weight",
        "qa_outputs.bias",
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_head_beside_a_whole_body_is_left_out_with_a_note(tmp_path, head, prefix):
    """A double-heads model, trl's value head and a classifier hold a whole GPT-2, which was refused
    for the one name beside it."""
    state = {**with_head(tiny()), head: np.ones((1, 16), np.float32)}
    write(tmp_path / "m", "safetensors", prefixed(state, prefix))
    loaded = weights.load(tmp_path / "m")
    assert same(loaded, tiny())
    assert any("left out beside the language model: " in note for note in loaded.notes)


def test_what_is_no_number_beside_the_body_is_left_out(tmp_path):
    write(tmp_path / "m", "bin", {**with_head(tiny()), "accuracy.total": np.arange(3)})
    assert same(weights.load(tmp_path / "m"), tiny())


def test_a_bias_of_the_head_is_refused_unless_it_is_zero(tmp_path):
    bias = np.zeros(61, np.float32)
    write(tmp_path / "m", "safetensors", {**with_head(tiny()), "lm_head.bias": bias})
    assert same(weights.load(tmp_path / "m"), tiny())
    write(tmp_path / "m", "safetensors", {**with_head(tiny()), "lm_head.bias": bias + 1})
    with pytest.raises(InputError, match=r"1 unexpected: lm_head\.bias"):
        weights.load(tmp_path / "m")


# --- still refused ---


def test_a_body_that_is_partly_there_names_five_at_most(tmp_path):
    state = {name: array for name, array in with_head(tiny()).items() if ".h.1." not in name}
    write(tmp_path / "m", "safetensors", {**state, "score.weight": np.ones((2, 16), np.float32)})
    with pytest.raises(InputError, match=r"12 missing: h\.1\.ln_1\.weight, .* and 7 more$"):
        weights.load(tmp_path / "m")


def test_a_foreign_model_names_five_at_most(tmp_path):
    """A line of 11,700 characters listed every tensor of a BERT."""
    bert = {
        f"bert.encoder.layer.{i}.output.dense.weight": np.ones(1, np.float32) for i in range(99)
    }
    write(tmp_path / "m", "safetensors", bert)
    with pytest.raises(InputError, match=r"no tensor of a GPT-2; its 99 tensors are .* 94 more$"):
        weights.load(tmp_path / "m")


def test_two_bodies_are_not_mixed(tmp_path):
    two = {**prefixed(with_head(tiny()), "policy."), **prefixed(with_head(tiny()), "reference.")}
    write(tmp_path / "m", "safetensors", two)
    with pytest.raises(InputError, match="comes twice"):
        weights.load(tmp_path / "m")


def test_an_adapter_inside_the_names_is_called_that(tmp_path):
    state = with_head(tiny())
    lora = {
        name.replace("c_attn.", "c_attn.base_layer."): array for name, array in state.items()
    } | {"transformer.h.0.attn.c_attn.lora_A.default.weight": np.ones((2, 16), np.float32)}
    write(tmp_path / "m", "safetensors", prefixed(lora, "base_model.model."))
    with pytest.raises(InputError, match="a LoRA adapter is not merged: merge_and_unload"):
        weights.load(tmp_path / "m")
