"""What lies where a checkpoint should be is named in the refusal, with the way out."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from gpt2lab import weights
from gpt2lab.errors import InputError
from gpt2lab.weights import find
from tests.weights_helpers import (
    config_json,
    hf_bin,
    hf_safe,
    nanogpt_file,
    openai_folder,
    safetensors_file,
    tiny,
    torch_file,
)

LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 548105171\n"
)
PAGE = b"<!DOCTYPE html>\n<html><head><title>model.safetensors</title></head></html>\n"


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        weights.load(path)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 2000
    return said


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, **{"h.0.ln_1.weight": np.ones(4)})
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("gpt2/config.json", "{}")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("config.json"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LFS, "is a Git LFS pointer, not the file itself; run `git lfs pull`"),
        (PAGE, "is a web page, not the file itself; download the raw file"),
        (b"", "is empty; a copy or download was stopped"),
    ],
)
@pytest.mark.parametrize(
    "file", ["model.safetensors", "pytorch_model.bin", "config.json", "generation_config.json"]
)
def test_a_placeholder_in_place_of_a_file(tmp_path, file, content, said):
    """A clone without Git LFS leaves 130 bytes of text as weights, a wrong link a web page; they
    were called damaged."""
    folder = (hf_bin if file.endswith(".bin") else hf_safe)(tmp_path / "model")
    (folder / file).write_bytes(content)
    assert f"{folder / file}: {said}" in refusal(folder)
    if file != "generation_config.json":
        [found] = find.listing([folder])
        assert said[:20] in found.problem and len(found.problem) < 200
    if file.startswith(("model", "pytorch")):
        assert f"{folder / file}: {said}" in refusal(folder / file)


@pytest.mark.parametrize(
    "file", ["hparams.json", "model.ckpt.index", "model.ckpt.data-00000-of-00001"]
)
def test_a_placeholder_in_openais_layout(tmp_path, file):
    folder = openai_folder(tmp_path / "124M")
    (folder / file).write_bytes(LFS)
    assert "Git LFS pointer" in refusal(folder)


FILES = {
    "gpt2.Q8_0.gguf": (b"GGUF\x03\0\0\0" + bytes(64), "is a GGUF file of llama.cpp"),
    "ggml-model.bin": (b"lmgg" + bytes(64), "is a GGML file"),
    "tf_model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
    "flax_model.msgpack": (b"\x81\xabtransformer" + bytes(64), "Flax"),
    "model.onnx": (b"\x08\x07\x12\x07pytorch" + bytes(64), "ONNX"),
    "saved_model.pb": (b"\x08\x01\x12" + bytes(64), "SavedModel"),
    "weights.npz": (npz(), "archive of NumPy arrays"),
    "gpt2.zip": (zipped(), "packed archive (zip); unpack it"),
    "gpt2.tar": (tarred(), "packed archive (tar); unpack it"),
    "gpt2.tar.gz": (b"\x1f\x8b\x08" + bytes(64), "packed archive (gzip); unpack it"),
    "rust_model.ot": (b"\x01\x02" + bytes(64), "Rust"),
}


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_other_programs_files_are_called_by_their_name(tmp_path, name, with_config):
    content, said = FILES[name]
    folder = tmp_path / "model"
    folder.mkdir()
    if with_config:
        config_json(folder)
    (folder / name).write_bytes(content)
    assert said in refusal(folder)
    assert said in refusal(folder / name)


@pytest.mark.parametrize("with_config", [True, False])
def test_an_adapter_names_its_base(tmp_path, with_config):
    folder = tmp_path / "adapter"
    folder.mkdir()
    if with_config:
        config_json(folder)
    values = {"peft_type": "LORA", "base_model_name_or_path": "owner/base-model"}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    safetensors_file(folder / "adapter_model.safetensors", {"a.lora_A.weight": np.ones((2, 2))})
    said = refusal(folder)
    assert "adapter of peft (LoRA) for the model 'owner/base-model'" in said
    assert "merge_and_unload" in said
    (folder / "adapter_config.json").write_text("{")
    assert "adapter of peft (LoRA), not a whole model" in refusal(folder)


def test_a_folder_of_ctranslate2(tmp_path):
    folder = tmp_path / "ct2"
    folder.mkdir()
    (folder / "config.json").write_text('{"bos_token": "<s>", "layer_norm_epsilon": null}')
    name = b"TransformerDecoderModelSpec\0"
    (folder / "model.bin").write_bytes(b"\6\0\0\0" + len(name).to_bytes(2, "little") + name)
    (folder / "vocabulary.json").write_text("[]")
    assert "is a model of CTranslate2" in refusal(folder)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_without_a_config_json(tmp_path, kind):
    folder = hf_safe(tmp_path / "model") if kind == "safetensors" else hf_bin(tmp_path / "model")
    (folder / "config.json").unlink()
    [file] = folder.iterdir()
    for path in (folder, file):
        assert f"holds {file.name} but no config.json" in refusal(path)


def test_weights_of_another_name_are_pointed_to(tmp_path):
    folder = hf_bin(tmp_path / "model")
    (folder / "pytorch_model.bin").rename(folder / "best.pt")
    assert "give the path of the file itself: best.pt" in refusal(folder)
    assert weights.load(folder / "best.pt").format == "huggingface"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"model_type": None, "architectures": ["BertModel"]}, "model_type is None"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "quantization is set"),
    ],
)
def test_a_foreign_config_names_the_model(tmp_path, changes, said):
    config_json(hf_safe(tmp_path / "model"), **changes)
    assert said in refusal(tmp_path / "model")


def test_architectures_speak_where_model_type_is_missing(tmp_path):
    folder = hf_safe(tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    del values["model_type"]
    values["architectures"] = ["LlamaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(values))
    assert "architectures is ['LlamaForCausalLM']" in refusal(folder)


def test_a_folder_above_the_checkpoint_names_it(tmp_path):
    """The hub's cache keeps a model two levels down, a Trainer its checkpoints one."""
    folder = tmp_path / "models--a--b"
    (folder / "snapshots").mkdir(parents=True)
    hf_safe(folder / "snapshots" / "0123abc")
    assert f"load {folder / 'snapshots' / '0123abc'}" in refusal(folder)
    assert f"load {folder / 'snapshots' / '0123abc'}" in refusal(folder / "snapshots")


def test_what_is_whole_is_not_touched_by_what_lies_beside_it(tmp_path):
    """Repositories hold the same model for several programs, not all of them pulled."""
    folder = hf_safe(tmp_path / "model")
    for name, (content, _) in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "rust_model.ot").write_bytes(LFS)
    assert len(weights.load(folder).notes) == 1
    params = {f"transformer.{name}": array for name, array in tiny().items() if "ln_f" not in name}
    safetensors_file(folder / "model.safetensors", params)
    assert r"2 missing: ln_f.weight" in refusal(folder)


def test_a_torch_file_is_not_called_an_archive(tmp_path):
    torch_file(tmp_path / "x.pt", {"step": 3})
    assert "packed" not in refusal(tmp_path / "x.pt")
    assert nanogpt_file(tmp_path / "n") and weights.load(tmp_path / "n").format == "nanogpt"


def test_a_meta_pkl_of_words_leaves_a_model_of_ids(tmp_path):
    """nanoGPT's scripts are changed to words; the model was refused as one whose alphabet holds
    'the', without a way to load it."""
    folder = nanogpt_file(tmp_path / "n")
    itos = {i: f"word{i}" for i in range(61)}
    (folder / "meta.pkl").write_bytes(pickle.dumps({"itos": itos}))
    loaded = weights.load(folder)
    assert loaded.tokenizer is None
    assert any("to words or pieces ('word0', " in note for note in loaded.notes)
