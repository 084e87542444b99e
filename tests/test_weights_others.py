"""OpenAI's folders, fine-tuning runs, nanoGPT and llm.c: what is peculiar to each."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from gpt2lab import weights
from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.text.tokenizer import Tokenizer, official
from gpt2lab.weights import tensors
from gpt2lab.weights.formats import openai, tensorbundle
from tests.weights_helpers import (
    EXACT,
    PLAIN,
    checkpoint,
    llmc_file,
    nanogpt_file,
    nanogpt_value,
    openai_folder,
    same,
    simple_run,
    tiny,
    torch_file,
    variables,
)

# --- OpenAI ---


def test_layers_are_ordered_as_numbers(tmp_path):
    """h10 stands before h2 in the file."""
    config = Config(n_vocab=61, n_ctx=12, n_embd=16, n_head=2, n_layer=12)
    weights.save(checkpoint(config), tmp_path / "out", "openai")
    loaded = weights.load(tmp_path / "out")
    assert same(loaded, tiny(config))
    assert list(loaded.params)[26] == "h.2.ln_1.weight"


@pytest.mark.parametrize(
    ("hparams", "said"),
    [
        ({"n_vocab": 61, "n_ctx": 12, "n_embd": 16, "n_head": 2}, "without n_layer"),
        ({"rotary": True}, "unknown keys rotary"),
        ({"n_head": 3}, "n_embd 16 is not a multiple of n_head 3"),
        ({"n_vocab": 62}, r"wte.weight is \[61, 16\], expected \[62, 16\]"),
        ({"n_layer": 3}, "12 missing: h.2.ln_1.weight"),
        ({"n_layer": 1}, "12 unexpected: h.1."),
    ],
)
def test_hparams_that_do_not_fit(tmp_path, hparams, said):
    folder = openai_folder(tmp_path / "model")
    values = json.loads((folder / "hparams.json").read_text())
    values = hparams if len(hparams) == 4 else {**values, **hparams}
    (folder / "hparams.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=said):
        weights.load(folder)


def test_an_unknown_variable_of_the_model_is_reported(tmp_path):
    folder = openai_folder(tmp_path / "model")
    strange = {"model/h0/attn/rotary": np.ones(3, np.float32)}
    tensorbundle.write(folder / "model.ckpt", {**variables(tiny()), **strange})
    with pytest.raises(InputError, match="1 unexpected: model/h0/attn/rotary"):
        weights.load(folder)


def test_several_checkpoints_and_no_word_which(tmp_path):
    folder = openai_folder(tmp_path / "model")
    tensorbundle.write(folder / "other.ckpt", variables(tiny(seed=3)))
    with pytest.raises(InputError, match=r"holds 2 checkpoints; load one of them: .*other\.ckpt"):
        weights.load(folder)
    (folder / "checkpoint").write_text('model_checkpoint_path: "/gone/away/model.ckpt"\n')
    assert same(weights.load(folder), tiny())


def test_saved_with_a_vocabulary_under_openai_s_names(tmp_path):
    config = Config(n_vocab=50257, n_ctx=2, n_embd=2, n_head=1, n_layer=1, end_tokens=(50256,))
    made = checkpoint(config)
    made.tokenizer = official()
    weights.save(made, tmp_path / "out", "openai")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        "checkpoint",
        "encoder.json",
        "hparams.json",
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
        "vocab.bpe",
    }
    loaded = weights.load(tmp_path / "out")
    assert loaded.config == config
    text = "Hello, wörld 123<|endoftext|>"
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.encode(text) == official().encode(text)


def test_a_character_vocabulary_has_no_place_at_openai(tmp_path):
    made = checkpoint()
    made.tokenizer = Tokenizer.characters("abc")
    with pytest.raises(InputError, match="convert to huggingface or nanogpt"):
        weights.save(made, tmp_path / "out", "openai")
    assert list(tmp_path.iterdir()) == []


# --- gpt-2-simple and nshepperd ---


def test_the_latest_checkpoint_of_a_run_by_number_or_by_its_word(tmp_path):
    run = simple_run(tmp_path / "run1")
    loaded = weights.load(run)
    assert same(loaded, tiny())
    assert loaded.generation == {"stop": ("<|endoftext|>",)}
    assert loaded.config.end_tokens == ()
    (run / "checkpoint").write_text('model_checkpoint_path: "model-90"\n')
    assert same(weights.load(run), tiny(seed=9))
    (run / "checkpoint").write_text('model_checkpoint_path: "model-80"\n')  # not there any more
    assert same(weights.load(run), tiny())


def test_a_folder_of_runs(tmp_path):
    simple_run(tmp_path / "run1")
    assert same(weights.load(tmp_path), tiny())
    simple_run(tmp_path / "run2")
    with pytest.raises(InputError, match=r"holds 2 runs; load one of them: .*run1, .*run2"):
        weights.load(tmp_path)


def test_a_run_without_hparams_is_read_off_its_shapes(tmp_path):
    """nshepperd's train.py copies neither hparams.json nor the vocabulary into the run."""
    config = Config(n_vocab=61, n_ctx=12, n_embd=128, n_head=2, n_layer=2)
    (tmp_path / "run1").mkdir()
    tensorbundle.write(tmp_path / "run1" / "model-5", variables(tiny(config)))
    loaded = weights.load(tmp_path / "run1")
    assert (loaded.config, loaded.format) == (config, "gpt2simple")
    assert "n_head 2, if heads are 64 wide" in loaded.notes[0]
    run = simple_run(tmp_path / "narrow")
    (run / "hparams.json").unlink()
    with pytest.raises(InputError, match=r"width 16 is not made of heads of 64; put .*hparams"):
        weights.load(run)
    tensorbundle.write(run / "model-100", {"model/wpe": np.ones((2, 64), np.float32)})
    with pytest.raises(InputError, match="holds no model/wte; it is no GPT-2"):
        weights.load(run)


# --- nanoGPT ---


def test_a_model_without_biases_has_zeros(tmp_path):
    (tmp_path / "out").mkdir()
    params = tiny(EXACT)
    no_bias = {name: array for name, array in params.items() if not name.endswith(".bias")}
    torch_file(tmp_path / "out" / "ckpt.pt", nanogpt_value(no_bias, bias=False))
    loaded = weights.load(tmp_path / "out")
    zeros = {name: np.zeros_like(array) for name, array in params.items() if name not in no_bias}
    assert same(loaded, {name: {**no_bias, **zeros}[name] for name in params})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rotary": True}, "unknown keys 'rotary'; the model is from a changed nanoGPT"),
        ({"bias": 1}, "bias is 1, expected a bool"),
        ({"n_embd": None}, "model_args: n_embd is None"),
        ({"vocab_size": 60}, r"wte.weight is \[61, 16\], expected \[60, 16\]"),
        ({"n_layer": 10**9}, "n_layer 1000000000, but there are only"),
        ({"n_layer": 2**1000}, "n_layer is an integer of 1001 bits"),
        ({"n_layer": 10**9, "bias": False}, "n_layer 1000000000, but there are only"),
    ],
)
def test_model_args_that_do_not_fit(tmp_path, arguments, said):
    torch_file(tmp_path / "ckpt.pt", nanogpt_value(tiny(EXACT), **arguments))
    with pytest.raises(InputError, match=said):
        weights.load(tmp_path / "ckpt.pt")


def test_several_pt_files(tmp_path):
    nanogpt_file(tmp_path / "out").joinpath("ckpt.pt").rename(tmp_path / "out" / "a.pt")
    assert same(weights.load(tmp_path / "out"), tiny(EXACT))
    nanogpt_file(tmp_path / "out").joinpath("ckpt.pt").rename(tmp_path / "out" / "b.pt")
    with pytest.raises(
        InputError, match=r"holds 2 checkpoints; load one of them: .*a\.pt, .*b\.pt"
    ):
        weights.load(tmp_path / "out")


ALPHABET = [chr(0x410 + i) for i in range(61)]


def meta(path, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    itos = dict(enumerate(ALPHABET))
    stoi = {character: token for token, character in itos.items()}
    path.write_bytes(pickle.dumps({"vocab_size": 61, "itos": itos, "stoi": stoi, **changes}))


@pytest.mark.parametrize("place", ["out/meta.pkl", "data/shakespeare_char/meta.pkl"])
def test_a_character_vocabulary_is_found(tmp_path, place):
    nanogpt_file(tmp_path / "out")
    meta(tmp_path / place)
    tokenizer = weights.load(tmp_path / "out").tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("ВАБ") == [2, 0, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"itos": None}, "holds no itos"),
        ({"itos": {}}, "holds no itos"),
        ({"itos": {0: "a", 2: "b"}}, "itos does not map 0 to 1 to characters"),
        ({"itos": {0: 7}}, "itos does not map 0 to 0 to characters"),
        ({"itos": {0: "a", 1: "a"}}, "twice"),
        ({"more": print}, "asks for builtins.print"),
    ],
)
def test_a_meta_pkl_that_is_none(tmp_path, changes, said):
    """A damaged vocabulary beside good weights refused the whole model, ids as well."""
    nanogpt_file(tmp_path / "out")
    meta(tmp_path / "out" / "meta.pkl", **changes)
    loaded = weights.load(tmp_path / "out")
    assert loaded.tokenizer is None
    [note] = [note for note in loaded.notes if said in note]
    assert note.endswith("without a tokenizer the model takes token ids, not text")


@pytest.mark.parametrize("data", [b"", b"\x80\x04cut", b"<html>", b"\x00" * 300])
def test_a_meta_pkl_of_other_bytes(tmp_path, data):
    nanogpt_file(tmp_path / "out")
    (tmp_path / "out" / "meta.pkl").write_bytes(data)
    loaded = weights.load(tmp_path / "out")
    assert loaded.tokenizer is None
    assert any("meta.pkl" in note and "token ids" in note for note in loaded.notes)


@pytest.mark.parametrize("dataset", ["../secret", "/etc", "a\0b", 7, None, ".."])
def test_a_data_set_named_outside_is_not_looked_at(tmp_path, dataset):
    (tmp_path / "out").mkdir()
    meta(tmp_path / "secret" / "meta.pkl")
    meta(tmp_path / "meta.pkl")
    (tmp_path / "data").mkdir()
    value = {**nanogpt_value(tiny(EXACT)), "config": {"dataset": dataset}}
    torch_file(tmp_path / "out" / "ckpt.pt", value)
    assert weights.load(tmp_path / "out").tokenizer is None


def test_characters_come_back(tmp_path):
    made = checkpoint(EXACT)
    made.tokenizer = Tokenizer.characters(ALPHABET)
    weights.save(made, tmp_path / "out", "nanogpt")
    assert pickle.loads((tmp_path / "out" / "meta.pkl").read_bytes())["stoi"]["А"] == 0
    tokenizer = weights.load(tmp_path / "out").tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("ВАБ") == [2, 0, 1]


def test_another_vocabulary_goes_beside(tmp_path):
    config = replace(EXACT, n_vocab=50304)
    made = checkpoint(config)
    made.tokenizer = official()
    weights.save(made, tmp_path / "out", "nanogpt")
    loaded = weights.load(tmp_path / "out")
    assert loaded.config == config
    assert loaded.tokenizer is not None


def test_nanogpt_s_own_steps_work_on_what_we_save(tmp_path):
    """What train.py --init_from=resume does: load, load the state, load the optimizer, step."""
    torch = pytest.importorskip("torch")
    weights.save(checkpoint(EXACT), tmp_path / "out", "nanogpt")
    value = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    assert set(value) == {
        "model",
        "optimizer",
        "model_args",
        "iter_num",
        "best_val_loss",
        "config",
    }
    assert value["model_args"]["bias"] is True
    state = value["model"]
    assert state[tensors.HEAD].data_ptr() == state["transformer.wte.weight"].data_ptr()
    assert tuple(state["transformer.h.0.attn.c_attn.weight"].shape) == (48, 16)
    params = [torch.nn.Parameter(t) for name, t in state.items() if name != tensors.HEAD]
    groups = [[p for p in params if p.dim() >= 2], [p for p in params if p.dim() < 2]]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups])
    optimizer.load_state_dict(value["optimizer"])
    sum(p.sum() for p in params).backward()
    optimizer.step()
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


# --- llm.c ---


@pytest.mark.parametrize(
    ("place", "number", "said"),
    [
        (1, 2, "is of version 2; readable are 1, 3, 5"),
        (4, 0, "n_layer is 0"),
        (4, 2**31 - 1, "its header asks for"),
        (6, -16, "n_embd is -16"),
        (7, 60, "60 rows for a vocabulary of 61"),
        (7, 64, "its header asks for"),
    ],
)
def test_headers_that_do_not_fit(tmp_path, place, number, said):
    path = llmc_file(tmp_path / "out", 3) / "gpt2_tiny.bin"
    data = bytearray(path.read_bytes())
    data[4 * place : 4 * place + 4] = number.to_bytes(4, "little", signed=True)
    path.write_bytes(data)
    with pytest.raises(InputError, match=said):
        weights.load(path)


def test_written_as_llmc_writes_it(tmp_path):
    weights.save(checkpoint(), tmp_path / "out", "llmc")
    by_hand = (llmc_file(tmp_path / "hand", 3) / "gpt2_tiny.bin").read_bytes()
    assert (tmp_path / "out" / "model.bin").read_bytes() == by_hand


def test_the_latest_of_a_training_run(tmp_path):
    first = llmc_file(tmp_path / "log", 3) / "gpt2_tiny.bin"
    first.rename(tmp_path / "log" / "model_00000900.bin")
    weights.save(replace(checkpoint(), params=tiny(seed=8)), tmp_path / "other", "llmc")
    (tmp_path / "other" / "model.bin").rename(tmp_path / "log" / "model_00010000.bin")
    loaded = weights.load(tmp_path / "log")
    assert same(loaded, tiny(seed=8))
    assert "2 checkpoints" in loaded.notes[0]
    (tmp_path / "log" / "model_00000900.bin").rename(tmp_path / "log" / "mine.bin")
    with pytest.raises(
        InputError, match=r"holds 2 models; load one of them: .*mine\.bin, .*model_00010000\.bin"
    ):
        weights.load(tmp_path / "log")


# --- what a format cannot hold ---


@pytest.mark.parametrize(
    ("config", "faults"),
    [
        (
            replace(PLAIN, activation_function="relu"),
            dict.fromkeys(("openai", "llmc", "nanogpt"), r"activation_function relu \(only GELU\)"),
        ),
        (replace(PLAIN, layer_norm_epsilon=1e-6), dict.fromkeys(("openai", "llmc"), "1e-06")),
        (replace(PLAIN, n_inner=32), dict.fromkeys(("openai", "llmc", "nanogpt"), "n_inner 32")),
        (replace(EXACT, scale_attn_weights=False), {"nanogpt": "scale_attn_weights false"}),
        (
            replace(EXACT, scale_attn_by_inverse_layer_idx=True),
            {"nanogpt": "scale_attn_by_inverse_layer_idx true"},
        ),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_name(tmp_path, config, faults):
    for format, fault in faults.items():
        with pytest.raises(InputError, match=f"the format {format} cannot hold .*{fault}"):
            weights.save(checkpoint(config), tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "config"), [("openai", PLAIN), ("nanogpt", EXACT), ("llmc", PLAIN)]
)
def test_a_head_of_its_own_is_refused(tmp_path, format, config):
    made = checkpoint(config, **{tensors.HEAD: tiny(seed=3)["wte.weight"]})
    with pytest.raises(InputError, match=r"cannot hold a head of its own \(lm_head.weight\)"):
        weights.save(made, tmp_path / "out", format)


def test_names_of_variables():
    assert openai.ours("model/h11/attn/c_proj/w") == "h.11.attn.c_proj.weight"
    assert openai.ours("model/ln_f/g") == "ln_f.weight"
    assert openai.ours("model/h0/mlp/c_fc/x") == "model/h0/mlp/c_fc/x"
    for name, wanted in {
        "model/wte": True,
        "model/wte/Adam_1": False,
        "model/strange": True,
        "model/beta1_power": False,
        "save/counter": False,
    }.items():
        assert openai.is_model(name) is wanted, name
