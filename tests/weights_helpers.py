"""A tiny model with no accidental zeros, and its files in every layout that people have."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2lab import reference
from gpt2lab.config import Config, parameter_shapes
from gpt2lab.weights import Checkpoint, Params, tensors
from gpt2lab.weights.convert import fixed_tokens
from gpt2lab.weights.formats import hf_config, openai, tensorbundle

PLAIN = Config(n_vocab=61, n_ctx=12, n_embd=16, n_head=2, n_layer=2)
EXACT = Config(n_vocab=61, n_ctx=12, n_embd=16, n_head=2, n_layer=2, activation_function="gelu")


def tiny(config: Config = PLAIN, seed: int = 0) -> Params:
    """Random parameters that bfloat16 and float16 hold exactly, so every layout holds the same."""
    random = np.random.default_rng(seed)
    return {
        name: (random.integers(-100, 100, shape) / 256).astype(np.float32)
        for name, shape in parameter_shapes(config).items()
    }


def checkpoint(config: Config = PLAIN, **changes: Any) -> Checkpoint:
    return Checkpoint(config, {**tiny(config), **changes}, None, "huggingface")


def logits(loaded: Checkpoint) -> np.ndarray:
    tokens = fixed_tokens(loaded.config.n_vocab, loaded.config.n_ctx)
    return reference.model(loaded.config, loaded.params, tokens)["logits"]


def same(loaded: Checkpoint, params: Params) -> bool:
    """The same names in the same order, and the same bits."""
    return list(loaded.params) == list(params) and all(
        loaded.params[name].dtype == array.dtype and np.array_equal(loaded.params[name], array)
        for name, array in params.items()
    )


def bits16(array: np.ndarray) -> np.ndarray:
    """float32 cut to bfloat16, as uint16."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def raw(array: np.ndarray, dtype: str) -> bytes:
    if dtype == "BF16":
        return bits16(array).tobytes()
    return array.astype({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).tobytes()


def safetensors_file(path: Path, params: Params, dtype: str = "F32") -> None:
    header, body = {}, b""
    for name, array in params.items():
        data = raw(array, dtype)
        places = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": places}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def config_json(folder: Path, config: Config = PLAIN, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    values = {**hf_config.written(config, tied=True), **changes}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")


def prefixed(params: Params, prefix: str = "transformer.") -> Params:
    return {prefix + name: array for name, array in params.items()}


def torch_file(path: Path, value: Any) -> None:
    """Store a value by torch itself, its arrays as tensors; one array is one storage."""
    torch = pytest.importorskip("torch")
    made: dict[int, Any] = {}

    def converted(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return made.setdefault(id(value), torch.tensor(value))
        if isinstance(value, dict):
            return {key: converted(item) for key, item in value.items()}
        return [converted(item) for item in value] if isinstance(value, list) else value

    with path.open("wb") as file:  # whose entries are then named archive/...
        torch.save(converted(value), file)


def masks(params: Params) -> Params:
    """The causal masks that old files carry along."""
    buffers = {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 12, 12), np.float32)) for i in range(2)}
    return {**params, **buffers, "h.0.attn.masked_bias": np.array(-1e4, np.float32)}


# --- Hugging Face ---


def hf_safe(folder: Path, dtype: str = "F32", prefix: str = "transformer.") -> Path:
    config_json(folder)
    safetensors_file(folder / "model.safetensors", prefixed(tiny(), prefix), dtype)
    return folder


def _index(folder: Path, name: str, shards: dict[str, Params]) -> None:
    weight_map = {key: file for file, params in shards.items() for key in params}
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def halves(params: Params) -> list[Params]:
    items = list(params.items())
    return [dict(items[: len(items) // 2]), dict(items[len(items) // 2 :])]


def hf_sharded(folder: Path) -> Path:
    config_json(folder)
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    shards = dict(zip(files, halves(prefixed(tiny())), strict=True))
    for file, params in shards.items():
        safetensors_file(folder / file, params)
    _index(folder, "model.safetensors.index.json", shards)
    return folder


def hf_bin(folder: Path) -> Path:
    config_json(folder)
    params = masks(tiny())
    torch_file(folder / "pytorch_model.bin", {**params, tensors.HEAD: params["wte.weight"]})
    return folder


def hf_bin_sharded(folder: Path) -> Path:
    config_json(folder)
    files = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    shards = dict(zip(files, halves(prefixed(tiny())), strict=True))
    for file, params in shards.items():
        torch_file(folder / file, params)
    _index(folder, "pytorch_model.bin.index.json", shards)
    return folder


# --- TensorFlow ---


def variables(params: Params) -> Params:
    return {
        openai.theirs(name): array[None] if name.endswith(tensors.LINEARS) else array
        for name, array in params.items()
    }


def openai_folder(folder: Path, shards: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    hparams = {key: getattr(PLAIN, key) for key in openai.HPARAMS}
    (folder / "hparams.json").write_text(json.dumps(hparams))
    tensorbundle.write(folder / "model.ckpt", variables(tiny()), shards)
    return folder


def simple_run(folder: Path) -> Path:
    """A run with an older checkpoint of other numbers and an optimizer's variables."""
    openai_folder(folder)
    for file in folder.glob("model.ckpt*"):
        file.unlink()
    slots = {f"{name}/Adam": array for name, array in variables(tiny(seed=5)).items()}
    counters = {"global_step": np.array(7, np.float32), "beta1_power": np.ones((), np.float32)}
    tensorbundle.write(folder / "model-90", variables(tiny(seed=9)))
    tensorbundle.write(folder / "model-100", {**variables(tiny()), **slots, **counters})
    (folder / "counter").write_text("100\n")
    return folder


# --- llm.c ---


def llmc_file(folder: Path, version: int) -> Path:
    """Written out tensor by tensor, not with the writer that is tested."""
    folder.mkdir(exist_ok=True)
    params, L = tiny(), range(PLAIN.n_layer)
    rows = 61 if version == 1 else 128
    parts = [np.pad(params["wte.weight"], ((0, rows - 61), (0, 0))), params["wpe.weight"]]
    for module in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
        parts += [params[f"h.{i}.{module}.weight"].T for i in L]
        parts += [params[f"h.{i}.{module}.bias"] for i in L]
    parts += [params["ln_f.weight"], params["ln_f.bias"]]
    header = np.zeros(256, "<i4")
    header[:8] = (20240326, version, 12, 61, 2, 2, 16, 0 if version == 1 else rows)
    dtype = "BF16" if version == 5 else "F32"
    data = b"".join(raw(np.ascontiguousarray(part), dtype) for part in parts)
    (folder / "gpt2_tiny.bin").write_bytes(header.tobytes() + data)
    return folder


# --- nanoGPT ---


def nanogpt_state(params: Params, prefix: str = "transformer.") -> Params:
    state = prefixed(tensors.transposed(params), prefix)
    return {**state, prefix.replace("transformer.", tensors.HEAD): state[f"{prefix}wte.weight"]}


def nanogpt_value(params: Params, prefix: str = "transformer.", **arguments: Any) -> dict[str, Any]:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": 61}
    return {
        "model": nanogpt_state(params, prefix),
        "optimizer": {"state": {}, "param_groups": []},
        "model_args": {**sizes, "bias": True, "dropout": 0.0, **arguments},
        "iter_num": 7,
        "best_val_loss": np.array(1.5, np.float32),
        "config": {"dataset": "shakespeare_char"},
    }


def nanogpt_file(folder: Path, prefix: str = "transformer.") -> Path:
    folder.mkdir(exist_ok=True)
    torch_file(folder / "ckpt.pt", nanogpt_value(masks(tiny(EXACT)), prefix))
    return folder


LAYOUTS: dict[str, tuple[str, Callable[[Path], Path]]] = {  # name -> format, writer
    "safetensors": ("huggingface", hf_safe),
    "safetensors without prefix": ("huggingface", lambda f: hf_safe(f, prefix="")),
    "safetensors float16": ("huggingface", lambda f: hf_safe(f, "F16")),
    "safetensors bfloat16": ("huggingface", lambda f: hf_safe(f, "BF16")),
    "safetensors sharded": ("huggingface", hf_sharded),
    "pytorch_model.bin": ("huggingface", hf_bin),
    "pytorch_model.bin sharded": ("huggingface", hf_bin_sharded),
    "openai": ("openai", openai_folder),
    "openai in three files": ("openai", lambda f: openai_folder(f, 3)),
    "gpt-2-simple": ("gpt2simple", simple_run),
    "llm.c 1": ("llmc", lambda f: llmc_file(f, 1)),
    "llm.c 3": ("llmc", lambda f: llmc_file(f, 3)),
    "llm.c 5": ("llmc", lambda f: llmc_file(f, 5)),
    "nanogpt": ("nanogpt", nanogpt_file),
    "nanogpt compiled": ("nanogpt", lambda f: nanogpt_file(f, "_orig_mod.transformer.")),
}
