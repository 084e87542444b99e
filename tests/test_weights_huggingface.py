"""Hugging Face folders: what config.json may say, heads, shards, broken files, and transformers."""

from __future__ import annotations

import json
import os
import struct
import warnings
from dataclasses import replace

import numpy as np
import pytest

from gpt2lab import weights
from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.files import file_facts, tensor_bytes
from gpt2lab.text.tokenizer import Tokenizer, official
from gpt2lab.weights import Checkpoint, tensors
from gpt2lab.weights.checkpoint import Source
from gpt2lab.weights.convert import fixed_tokens
from tests.weights_helpers import (
    EXACT,
    PLAIN,
    checkpoint,
    config_json,
    hf_bin,
    hf_safe,
    hf_sharded,
    logits,
    masks,
    prefixed,
    safetensors_file,
    same,
    tiny,
    torch_file,
)


def folder_with(folder, **changes):
    hf_safe(folder)
    config_json(folder, **changes)
    return folder


# --- config.json ---


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"activation_function": "gelu"}, {"activation_function": "gelu"}),
        ({"activation_function": "relu"}, {"activation_function": "relu"}),
        ({"activation_function": "gelu_pytorch_tanh"}, {}),
        ({"activation_function": "gelu_fast"}, {}),
        ({"layer_norm_epsilon": 1e-6}, {"layer_norm_epsilon": 1e-6}),
        ({"scale_attn_weights": False}, {"scale_attn_weights": False}),
        ({"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_by_inverse_layer_idx": True}),
        ({"n_ctx": 7}, {}),  # n_positions is what counts
        ({"eos_token_id": 5}, {"end_tokens": (5,)}),
        ({"eos_token_id": [5, 6]}, {"end_tokens": (5, 6)}),
        ({"auto_map": {"AutoModel": "evil.Model"}, "reorder_and_upcast_attn": True}, {}),
    ],
)
def test_what_config_json_says_is_honoured(tmp_path, changes, expected):
    loaded = weights.load(folder_with(tmp_path / "model", **changes))
    assert loaded.config == replace(PLAIN, **expected)


def test_what_config_json_leaves_out_has_the_defaults_of_transformers(tmp_path):
    folder = hf_safe(tmp_path / "model")
    values = {"vocab_size": 61, "max_position_embeddings": 12, "hidden_size": 16}
    values |= {"num_attention_heads": 2, "num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(values))
    loaded = weights.load(folder)
    assert loaded.config == PLAIN
    assert loaded.notes[0] == "an end token of [50256] is outside the vocabulary and is left out"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; only gpt2"),
        ({"add_cross_attention": True}, "add_cross_attention is set"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
        (
            {"activation_function": "quick_gelu"},
            "activation_function is 'quick_gelu'; it must be one of gelu_new",
        ),
        ({"activation_function": ["gelu"]}, r"activation_function is \['gelu'\]"),
        ({"n_embd": 0}, "n_embd is 0; it must be an integer"),
        ({"n_embd": "16"}, "n_embd is '16'"),
        ({"n_embd": 10**4000}, "n_embd is an integer of"),
        ({"n_head": 3}, "n_embd 16 is not a multiple of n_head 3"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon is '1e-5', it must be above 0"),
        ({"layer_norm_epsilon": -1.0}, "layer_norm_epsilon is -1.0"),
        ({"scale_attn_weights": 1}, "scale_attn_weights is 1; it must be one of True"),
        ({"eos_token_id": "x"}, r"eos_token_id is \['x'\]"),
        ({"vocab_size": 60}, r"wte.weight is \[61, 16\], expected \[60, 16\]"),
        ({"n_inner": 32}, r"h.0.mlp.c_fc.weight is \[16, 64\], expected \[16, 32\]"),
        (
            {"tie_word_embeddings": False},
            "tie_word_embeddings false, but lm_head.weight is missing",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(tmp_path, changes, said):
    with pytest.raises(InputError, match=said) as caught:
        weights.load(folder_with(tmp_path / "model", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "nul", '{"a": 1, "a": 2}', "[" * 100_000, "\xff"])
def test_a_broken_config_json_is_one_line(tmp_path, text):
    folder = hf_safe(tmp_path / "model")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"config\.json: ") as caught:
        weights.load(folder)
    assert "\n" not in str(caught.value)


def test_generation_config_gives_settings_and_the_end(tmp_path):
    folder = folder_with(tmp_path / "model", eos_token_id=5)
    values = {"eos_token_id": [7], "temperature": 0.7, "top_k": 40, "top_p": None, "max_length": 50}
    values |= {"do_sample": False, "early_stopping": "never", "transformers_version": "5"}
    (folder / "generation_config.json").write_text(json.dumps(values))
    loaded = weights.load(folder)
    assert loaded.config.end_tokens == (7,)
    del values["eos_token_id"], values["top_p"], values["transformers_version"]
    assert loaded.generation == values
    (folder / "generation_config.json").write_text('{"stop_strings": ["THE END"]}')
    assert weights.load(folder).generation == {"stop": ("THE END",)}
    for wrong in ('{"stop_strings": [1]}', '{"top_k": "many"}', '{"top_p": 0.0}'):
        (folder / "generation_config.json").write_text(wrong)
        loaded = weights.load(folder)
        assert loaded.generation == {}
        assert any("recommends what cannot be done" in note for note in loaded.notes)


def test_recommendations_that_contradict_each_other_are_passed_over(tmp_path):
    folder = folder_with(tmp_path / "model")
    path = folder / "generation_config.json"
    path.write_text('{"max_new_tokens": 300, "min_new_tokens": 200}')
    assert weights.load(folder).generation == {"max_new_tokens": 300, "min_new_tokens": 200}
    path.write_text('{"max_new_tokens": 10, "min_new_tokens": 50}')
    loaded = weights.load(folder)
    assert loaded.generation == {"max_new_tokens": 10}
    assert any("min_new_tokens 50 is more than" in note for note in loaded.notes)


def test_where_documents_begin_and_end_survives_a_round_trip(tmp_path):
    folder = folder_with(tmp_path / "model", eos_token_id=[5, 6], bos_token_id=7)
    loaded = weights.load(folder)
    assert (loaded.config.end_tokens, loaded.config.begin) == ((5, 6), 7)
    weights.save(loaded, tmp_path / "again")
    again = weights.load(tmp_path / "again")
    assert (again.config.end_tokens, again.config.begin) == ((5, 6), 7)
    plain = weights.load(folder_with(tmp_path / "plain", eos_token_id=5, bos_token_id=5))
    assert plain.config.start_token is None and plain.config.begin == 5


# --- the head ---


def test_a_head_of_its_own_is_kept_and_an_equal_one_is_tied(tmp_path):
    own = {**tiny(), tensors.HEAD: tiny(seed=3)["wte.weight"]}
    config_json(tmp_path / "own", tie_word_embeddings=False)
    safetensors_file(tmp_path / "own" / "model.safetensors", own)
    loaded = weights.load(tmp_path / "own")
    assert same(loaded, own)
    assert not any("head" in note for note in loaded.notes)
    config_json(tmp_path / "own")
    assert any("the stored head is used" in note for note in weights.load(tmp_path / "own").notes)
    equal = {**tiny(), tensors.HEAD: tiny()["wte.weight"]}
    safetensors_file(tmp_path / "own" / "model.safetensors", equal)
    assert same(weights.load(tmp_path / "own"), tiny())


def test_stored_masks_are_left_out(tmp_path):
    config_json(tmp_path / "model")
    safetensors_file(tmp_path / "model" / "model.safetensors", prefixed(masks(tiny())))
    assert same(weights.load(tmp_path / "model"), tiny())


# --- files ---


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/etc/passwd", "a/b", "..", "C:x", "a\\b"]
)
def test_a_shard_that_leads_out_of_the_folder_is_refused(tmp_path, shard):
    folder = hf_sharded(tmp_path / "model")
    safetensors_file(tmp_path / "model.safetensors", tiny())
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"wte.weight": shard}}))
    with pytest.raises(InputError, match="is not a file name in this folder"):
        weights.load(folder)


def test_missing_and_doubled_shards(tmp_path):
    folder = hf_sharded(tmp_path / "model")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors"):
        weights.load(folder)
    params = {"transformer.wte.weight": tiny()["wte.weight"]}
    safetensors_file(folder / "model-00002-of-00002.safetensors", params)
    with pytest.raises(InputError, match=r"the tensor transformer\.wte\.weight comes twice"):
        weights.load(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="holds no weight_map"):
        weights.load(folder)


def test_a_folder_without_weights_says_what_was_expected(tmp_path):
    config_json(tmp_path / "model")
    with pytest.raises(InputError, match=r"no weights; expected model\.safetensors or pytorch_mod"):
        weights.load(tmp_path / "model")


def header_file(path, header: str | bytes, body: bytes = b"", size: int | None = None):
    data = header.encode() if isinstance(header, str) else header
    path.write_bytes(struct.pack("<Q", len(data) if size is None else size) + data + body)


def one(name="a", dtype="F32", shape="[1]", offsets="[0,4]") -> str:
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


@pytest.mark.parametrize(
    ("header", "body", "size", "said"),
    [
        ("{}", b"", 2**63, "not a whole safetensors file"),
        ("{}", b"", 101 << 20, "not a whole safetensors file"),
        ("{" + one(offsets="[0,8]") + "}", bytes(4), None, "not a whole"),
        ("{" + one() + "}", bytes(8), None, "not a whole"),  # bytes that belong to nothing
        ("{" + one() + "," + one("b") + "}", bytes(4), None, "not a whole"),  # overlap
        ("{" + one(shape="[4294967296,4294967296]") + "}", bytes(4), None, "not a whole"),
        ("{" + one(dtype="F99") + "}", bytes(4), None, "not a whole"),
        ("{" + one(dtype="I32") + "}", bytes(4), None, "a has the dtype I32; readable are F64"),
        ("{" + one() + "," + one() + "}", bytes(4), None, "the key a occurs twice"),
        (b"\xff\xfe{}", b"", None, "not a whole"),
    ],
)
def test_broken_safetensors(tmp_path, header, body, size, said):
    config_json(tmp_path / "model")
    header_file(tmp_path / "model" / "model.safetensors", header, body, size)
    with pytest.raises(InputError, match=said) as caught:
        weights.load(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_doubled_keys_inside_an_entry_are_refused(tmp_path):
    """The library takes the last of two shapes without a word."""
    config_json(tmp_path / "model")
    entry = '{"a":{"dtype":"F32","shape":[9],"shape":[1],"data_offsets":[0,4]}}'
    header_file(tmp_path / "model" / "model.safetensors", entry, bytes(4))
    with pytest.raises(InputError, match=r"occurs twice|not a whole"):
        weights.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ([1, 2], "holds no state dict"),
        ({"wte.weight": np.arange(3)}, "wte.weight is int64, expected a floating-point tensor"),
        ({"wte.weight": "x"}, "wte.weight is str"),
        ({1: 2}, "holds no state dict"),
    ],
)
def test_a_bin_that_holds_no_model(tmp_path, state, said):
    folder = hf_bin(tmp_path / "model")
    torch_file(folder / "pytorch_model.bin", state)
    with pytest.raises(InputError, match=said):
        weights.load(folder)


# --- the tokenizer ---


def test_a_vocabulary_larger_than_the_model_loads_and_a_smaller_one_is_fine(tmp_path):
    """A tokenizer with an added [PAD] refused the whole model, which never needs that token."""
    folder = hf_safe(tmp_path / "model")
    Tokenizer.characters([chr(33 + i) for i in range(62)]).save(folder)
    larger = weights.load(folder)
    assert larger.tokenizer is not None
    assert "the vocabulary has 62 tokens, the model 61" in larger.notes[-1]
    Tokenizer.characters([chr(33 + i) for i in range(50)]).save(folder)
    loaded = weights.load(folder)
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.n_vocab == 50


@pytest.mark.parametrize("n_vocab", [50256, 50257, 50304, 50305])
def test_the_official_vocabulary_stands_in_where_it_fits(tmp_path, n_vocab):
    config = Config(n_vocab=n_vocab, n_ctx=2, n_embd=2, n_head=1, n_layer=1, end_tokens=(50255,))
    made = Checkpoint(config, tiny(config), None, "huggingface")
    weights.save(made, tmp_path / "model")
    loaded = weights.load(tmp_path / "model")
    assert (loaded.tokenizer is official()) == (n_vocab in (50257, 50304))
    assert len(loaded.notes) == 1
    (tmp_path / "model" / "vocab.txt").write_text("[PAD]\n")  # another tokenizer's vocabulary
    assert weights.load(tmp_path / "model").tokenizer is None


# --- what is saved ---

VARIANTS = [
    PLAIN,
    EXACT,
    replace(PLAIN, activation_function="relu", layer_norm_epsilon=1e-3, n_inner=24),
    replace(PLAIN, scale_attn_weights=False, end_tokens=(60,)),
    replace(PLAIN, scale_attn_by_inverse_layer_idx=True, end_tokens=(5, 60)),
]


@pytest.mark.parametrize("config", VARIANTS)
def test_every_variant_comes_back(tmp_path, config):
    made = checkpoint(config, **{tensors.HEAD: tiny(seed=4)["wte.weight"]})
    made.generation = {"temperature": 0.5, "do_sample": True, "stop": ("<|endoftext|>",)}
    weights.save(made, tmp_path / "out")
    loaded = weights.load(tmp_path / "out")
    assert loaded.config == config
    assert same(loaded, made.params)
    assert loaded.generation == made.generation
    assert "61 tokens" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_what_we_save_with_the_same_logits(tmp_path, config, tied):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    made = checkpoint(config, **({} if tied else {tensors.HEAD: tiny(seed=4)["wte.weight"]}))
    weights.save(made, tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "out", output_loading_info=True
        )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.tensor(fixed_tokens(config.n_vocab, config.n_ctx))
    with torch.no_grad():
        theirs = model(tokens).logits.numpy()
    assert np.max(np.abs(theirs - logits(made))) < 2e-4 * np.max(np.abs(theirs))
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    assert tuple(ends) == config.end_tokens


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("bare", [True, False])
def test_we_load_what_transformers_saves(tmp_path, safe, bare):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = transformers.GPT2Config(
        vocab_size=61, n_positions=12, n_embd=16, n_head=2, n_layer=2, eos_token_id=60
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    saved = model.transformer if bare else model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved.save_pretrained(tmp_path / "out", max_shard_size="8KB" if safe else "1GB")
        if not safe:
            for file in (tmp_path / "out").glob("*.safetensors*"):
                file.unlink()
            torch.save(saved.state_dict(), tmp_path / "out" / "pytorch_model.bin")
    loaded = weights.load(tmp_path / "out")
    assert loaded.config == replace(PLAIN, end_tokens=(60,))
    with torch.no_grad():
        theirs = model(torch.tensor(fixed_tokens(61, 12))).logits.numpy()
    assert np.max(np.abs(theirs - logits(loaded))) < 1e-5


# --- what is known of a file from before ---


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache folder of the test's own, for files of any size; gives the file that is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.setattr(file_facts, "WORTH", 0)
    return tmp_path / "cache" / "gpt2lab" / "known" / "files.json"


def old_folder(folder, **arrays):
    """A saved model; with SETTLED below 0 it counts as old, as its ctime cannot be set back."""
    weights.save(checkpoint(**arrays), folder)
    return folder


def looks(monkeypatch):
    """The names of the arrays that are read through in search of NaN, as it happens."""
    seen: list[int] = []
    honest = tensors._is_finite
    monkeypatch.setattr(tensors, "_is_finite", lambda array: seen.append(1) or honest(array))
    return seen


def test_a_file_that_was_looked_through_once_is_not_read_again(tmp_path, kept, monkeypatch):
    """124M parameters were read from first to last at every start, only to find no NaN."""
    monkeypatch.setattr(file_facts, "SETTLED", -1.0)
    folder, seen = old_folder(tmp_path / "model"), looks(monkeypatch)
    first = weights.load(folder)
    assert len(seen) == len(first.params) and kept.is_file()
    second = weights.load(folder)
    assert len(seen) == len(first.params) and same(second, first.params)


def test_a_file_that_changed_is_looked_through_again(tmp_path, kept, monkeypatch):
    """Nothing but the identity of the file stands between a NaN and the model."""
    monkeypatch.setattr(file_facts, "SETTLED", -1.0)
    folder = old_folder(tmp_path / "model")
    weights.load(folder)
    file = folder / "model.safetensors"
    data, times = bytearray(file.read_bytes()), file.stat()
    data[-4:] = np.float32(np.nan).tobytes()
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    with pytest.raises(InputError, match=r"1 holding NaN or infinity: ln_f\.bias"):
        weights.load(folder)


def test_a_file_of_this_very_moment_is_not_remembered(tmp_path, kept):
    """Within one tick of the file system's clock it could change without a trace."""
    weights.load(old_folder(tmp_path / "model"))
    assert not kept.exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff", b'{"KEY": 5}', b'{"KEY": []}'])
def test_a_damaged_memory_is_no_memory(tmp_path, kept, monkeypatch, damage):
    monkeypatch.setattr(file_facts, "SETTLED", -1.0)
    folder, seen = old_folder(tmp_path / "model"), looks(monkeypatch)
    loaded = weights.load(folder)
    [key] = json.loads(kept.read_text())
    kept.write_bytes(damage.replace(b"KEY", key.encode()))
    weights.load(folder)
    assert len(seen) == 2 * len(loaded.params)
    assert json.loads(kept.read_text())[key] == {"finite": True}


def test_without_a_place_for_the_memory_all_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(file_facts, "WORTH", 0)
    monkeypatch.setattr(file_facts, "SETTLED", -1.0)
    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setenv("LOCALAPPDATA", str(blocked))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(blocked))
    assert same(weights.load(old_folder(tmp_path / "model")), tiny())


def test_the_oldest_entries_go(tmp_path, kept, monkeypatch):
    monkeypatch.setattr(file_facts, "SETTLED", -1.0)
    monkeypatch.setattr(file_facts, "ENTRIES", 2)
    for name in "abc":
        weights.load(old_folder(tmp_path / name))
    assert len(json.loads(kept.read_text())) == 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_known_of_a_file_of_16_bits_is_remembered(dtype):
    """Its widened numbers could be written to, so 124M's were hashed again at each start: 2 s."""
    numbers = np.array([[1.5, -2.0], [0.0, 3e-5]], np.float32)
    halves = numbers.view(np.uint32) >> 16
    raw = numbers.astype("<f2") if dtype == "float16" else halves.astype("<u2")
    found = tensor_bytes.floats(raw.reshape(-1).view(np.uint8), dtype, (2, 2))
    exact = raw.astype(np.float32) if dtype == "float16" else (halves << 16).view(np.float32)
    assert found.dtype == np.float32 and np.array_equal(found, exact)
    params = {"wte.weight": found}
    assert Source((), dict(params)).holds(params)
