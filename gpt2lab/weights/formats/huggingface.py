"""Hugging Face folders: config.json beside safetensors or pytorch_model.bin, whole or in shards.

Reads what transformers has written over the years: with and without the `transformer.` prefix,
tied and untied heads, stored masks, four number types. Writes what transformers 5 writes, so that
every tool of that family can open it. Code that a folder may bring (`auto_map`) is never looked at.

Sources: transformers 5.23 `configuration_gpt2.py`, `modeling_gpt2.py`; the safetensors README.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.config import Config
from gpt2lab.errors import InputError, few, quoted
from gpt2lab.files import file_facts, torchfile
from gpt2lab.files.io import accessing, identity, is_file_name, map_bytes, read_head
from gpt2lab.files.json_files import parse_json, read_json, write_json
from gpt2lab.files.tensor_bytes import WIDTHS, floats, hollow
from gpt2lab.files.visible import reason, shown
from gpt2lab.weights import foreign, recommended, tensors, tokenizer_files
from gpt2lab.weights.checkpoint import Checkpoint, Params, Source
from gpt2lab.weights.formats import wrapped

FORMAT = "huggingface"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
HEADER = 1 << 22  # bytes of a safetensors header; that of the largest GPT-2 has 60,000
_SAFE_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_ALIASES = {  # attribute_map of GPT2Config
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
_ACTIVATIONS = {  # names of the same curve
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
}


# --- weights ---


def _check_safetensors(path: Path) -> None:
    """Raise InputError when the library finds the file truncated, damaged or foreign."""
    from safetensors import SafetensorError, safe_open

    data = map_bytes(path)
    size = int.from_bytes(data[:8].tobytes(), "little")
    if HEADER < size < data.size:
        raise InputError(
            f"{path}: its header has {size} bytes, a GPT-2's has less than {HEADER}; it is damaged "
            "or of another model"
        )
    try:
        with accessing(path), safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise InputError(
            f"{path}: not a whole safetensors file ({reason(error)}); "
            "it is truncated or damaged, copy it again"
        ) from error


def read_safetensors(path: Path, headers: bool = False) -> Params:
    """Name -> array of one safetensors file: float32 (float64 stays), mapped; masks left out.

    headers: the numbers are not read and the arrays are hollow.

    The library checks the header; doubled keys, which it lets pass, are refused here.
    """
    _check_safetensors(path)
    data = map_bytes(path)
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = parse_json(data[8:start].tobytes(), f"{path}: its header")
    params: Params = {}
    for name, entry in header.items():
        if name == "__metadata__" or tensors.is_buffer(tensors.bare(name)):
            continue
        dtype = _SAFE_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise InputError(
                f"{path}: {shown(name)} has the dtype {entry['dtype']}; "
                f"readable are {', '.join(_SAFE_DTYPES)}, so save the model unquantized"
            )
        begin, end = entry["data_offsets"]
        shape, raw = entry["shape"], data[start + begin : start + end]
        params[name] = hollow(shape) if headers else floats(raw, dtype, shape)
    return {**params, **_shared(params, header)}


def _shared(params: Params, header: dict[str, Any]) -> Params:
    """The tensors that safetensors.torch.save_model left out, as another has the same numbers.

    Its metadata maps each name that was left out to the one that was kept.
    """
    pairs = header.get("__metadata__", {}).items()
    return {out: params[kept] for out, kept in pairs if kept in params and out not in header}


def tensors_of(state: Any, where: str, headers: bool = False) -> Params:
    """The floating-point arrays of a torch state dict, or of a training state that holds one.

    Stored masks are left out, and beside the model what is no floating-point tensor.
    """
    state = wrapped.state_of(state, where)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise InputError(f"{where}: holds no state dict (tensors by name)")
    wanted: dict[str, torchfile.Tensor] = {}
    for name, tensor in state.items():
        if tensors.is_buffer(tensors.bare(name)):
            continue
        if not isinstance(tensor, torchfile.Tensor) or tensor.dtype not in WIDTHS:
            if not tensors.is_body(tensors.bare(name)):
                continue
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise InputError(f"{where}: {shown(name)} is {kind}, expected a floating-point tensor")
        wanted[name] = tensor
    storages = {id(tensor.storage): tensor.storage.count for tensor in wanted.values()}
    if sum(tensor.size for tensor in wanted.values()) > 2 * sum(storages.values()):
        raise InputError(f"{where}: its tensors share their numbers far too often; it is damaged")
    return {
        name: hollow(tensor.shape) if headers else tensor.array() for name, tensor in wanted.items()
    }


def _read_one(path: Path, headers: bool = False) -> Params:
    if torchfile.is_torch_file(path):
        return tensors_of(torchfile.read(path), str(path), headers)
    return read_safetensors(path, headers)


def _join(parts: list[tuple[Path, Params]], where: Path) -> Params:
    whole: Params = {}
    for path, params in parts:
        for name, array in params.items():
            if tensors.bare(name) in whole:
                raise InputError(f"{where}: the tensor {shown(name)} comes twice, also in {path}")
            whole[tensors.bare(name)] = array
    return whole


def _is_file_of_tensors(path: Path) -> bool:
    """Whether a file begins as safetensors or torch files do."""
    head = read_head(path, 9)
    is_safe = len(head) == 9 and head[8:] == b"{" and head[5:8] == b"\x00\x00\x00"
    return is_safe or torchfile.is_torch_file(path)


def shards(index: Path) -> list[Path]:
    """The files that a shard index names; a name that leads out of the folder is refused."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: holds no weight_map; it is damaged")
    if not all(isinstance(file, str) for file in weight_map.values()):
        raise InputError(f"{index}: names a shard that is no text; it is damaged")
    files = sorted(set(weight_map.values()))
    for file in files:
        if not is_file_name(file):
            raise InputError(f"{index}: the shard {shown(file)} is not a file name in this folder")
    return [index.parent / file for file in files]


def _no_weights(folder: Path) -> str:
    """What to say of a folder without weights of the usual names; others can be given as a file."""
    others = [shown(f.name) for f in folder.iterdir() if _is_file_of_tensors(f)]
    step = f"; give the path of the file itself: {few(others)}" if others else ""
    return (
        f"{folder}: has a config.json but no weights; expected {' or '.join(WEIGHTS)}, whole or in "
        f"shards with their index{step}"
    )


def weight_files(path: Path) -> tuple[Path, list[Path]]:
    """The file that leads, for messages, and the files that hold the tensors."""
    if path.is_file() and path.name not in ("config.json", *SHARDED):
        return path, [path]
    folder = path if path.is_dir() else path.parent
    for whole, index in zip(WEIGHTS, SHARDED, strict=True):
        if (folder / whole).is_file():
            return folder / whole, [folder / whole]
        if (folder / index).is_file():
            return folder / index, shards(folder / index)
    raise InputError(foreign.here(folder) or _no_weights(folder))


# --- config.json ---


def _refuse_foreign(values: dict[str, Any], where: Path) -> None:
    kind = values.get("model_type", "gpt2")
    if kind != "gpt2":
        raise InputError(f"{where}: model_type is {quoted(kind)}; only gpt2 can be loaded")
    made = values.get("architectures")
    name = made[0] if isinstance(made, list) and made else "GPT2"
    if "model_type" not in values and not str(name).startswith("GPT2"):
        raise InputError(f"{where}: architectures is {quoted(made)}; only GPT-2 can be loaded")
    for key in ("add_cross_attention", "quantization_config", "quantization"):
        if values.get(key):
            raise InputError(f"{where}: {key} is set, which this GPT-2 does not compute")


def _activation(name: Any, where: Path) -> str:
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise InputError(
            f"{where}: activation_function {quoted(name)} is not computed; "
            f"known: {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _typed(
    values: dict[str, Any], key: str, kinds: tuple[type, ...], default: Any, where: Path
) -> Any:
    value = values.get(key, default)
    if type(value) not in kinds:
        raise InputError(f"{where}: {key} is {quoted(value)}, expected a {kinds[0].__name__}")
    return value


def _end_tokens(values: dict[str, Any], generation: dict[str, Any], where: Path) -> tuple[int, ...]:
    """generation_config.json wins; a config.json that says nothing means 50256, the default."""
    ids = generation.get("eos_token_id")
    if ids is None:
        ids = values.get("eos_token_id", 50256)
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(type(token) is int for token in ids):
        raise InputError(f"{where}: eos_token_id is {quoted(ids)}, expected integers")
    return tuple(ids)


def _start_token(values: dict[str, Any], generation: dict[str, Any], ends: list[int]) -> int | None:
    """bos_token_id, where it is a token of the model and another than the first end token."""
    token, vocab = generation.get("bos_token_id"), values.get("vocab_size", 50257)
    token = values.get("bos_token_id") if token is None else token
    fits = type(token) is int and type(vocab) is int and 0 <= token < vocab
    return token if fits and [token] != ends[:1] else None


def _config(values: dict[str, Any], ends: list[int], start: int | None, where: Path) -> Config:
    """config.json's values as ours; what it leaves out has the default of GPT2Config."""
    _refuse_foreign(values, where)
    values = {**{ours: values[key] for key, ours in _ALIASES.items() if key in values}, **values}
    activation = _activation(values.get("activation_function", "gelu_new"), where)
    vocab = values.get("vocab_size", 50257)
    inverse = "scale_attn_by_inverse_layer_idx"
    return tensors.configured(
        str(where),
        n_vocab=vocab,
        n_ctx=values.get("n_positions", values.get("n_ctx", 1024)),
        n_embd=values.get("n_embd", 768),
        n_head=values.get("n_head", 12),
        n_layer=values.get("n_layer", 12),
        n_inner=values.get("n_inner"),
        activation_function=activation,
        layer_norm_epsilon=_typed(values, "layer_norm_epsilon", (float, int), 1e-5, where),
        scale_attn_weights=_typed(values, "scale_attn_weights", (bool,), True, where),
        scale_attn_by_inverse_layer_idx=_typed(values, inverse, (bool,), False, where),
        end_tokens=tuple(ends),
        start_token=start,
    )


def _with_head(
    params: Params, values: dict[str, Any], where: Path
) -> tuple[Params, tuple[str, ...]]:
    """The model with its tables, and what to say of a head that config.json does not speak of.

    Of two tied tables either may be stored. Where both are and differ, transformers 5 takes the
    stored head too.
    """
    tied = values.get("tie_word_embeddings", True) is not False
    if not tied and tensors.HEAD not in params:
        raise InputError(
            f"{where}: config.json says tie_word_embeddings false, but lm_head.weight is missing"
        )
    if not tied or tensors.HEAD not in params:
        return params, ()
    if "wte.weight" not in params:
        return {**params, "wte.weight": params[tensors.HEAD]}, ()
    if tensors.same(params[tensors.HEAD], params["wte.weight"]):
        return params, ()
    note = "the head differs from wte although config.json ties them; the stored head is used"
    return params, (note,)


# --- the format ---


def recognise(path: Path) -> bool:
    """A folder with a config.json, or one of the files in such a folder."""
    folder = path if path.is_dir() else path.parent
    if not (folder / "config.json").is_file():
        return False
    if path.is_dir() or path.name in ("config.json", *SHARDED):
        return True
    return _is_file_of_tensors(path)


def _described(folder: Path) -> tuple[dict[str, Any], Config, tuple[str, ...]]:
    """The values of config.json, the configuration that they make, and notes."""
    values = read_json(folder / "config.json")
    path = folder / "generation_config.json"
    generation = read_json(path) if path.is_file() else {}
    ends, vocab = _end_tokens(values, generation, folder), values.get("vocab_size", 50257)
    known = [token for token in ends if type(vocab) is int and 0 <= token < vocab]
    start = _start_token(values, generation, known)
    config = _config(values, known, start, folder / "config.json")
    if len(known) == len(ends):
        return values, config, ()
    note = f"an end token of {quoted(list(ends))} is outside the vocabulary and is left out"
    return values, config, (note,)


def configuration(folder: Path) -> Config:
    """The configuration of a model by its config.json alone, where no weights lie yet."""
    return _described(folder)[1]


def _tensors(
    files: list[Path], values: dict[str, Any], leading: Path, headers: bool = False
) -> tuple[Params, tuple[str, ...]]:
    """The language model's tensors out of its files, and notes on what else is in them."""
    params = _join([(file, _read_one(file, headers)) for file in files], leading)
    params, left_out = wrapped.without_heads(params)
    params, told = _with_head(params, values, leading)
    return params, left_out + told


def shape(path: Path) -> tuple[Config, bool]:
    """The configuration and whether the head is tied, by headers alone."""
    leading, files = weight_files(path)
    values, config, _ = _described(leading.parent)
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: is missing; a download may have been stopped, repeat it")
    params, _ = _tensors(files, values, leading, headers=True)
    tensors.check(params, config, str(leading), finite=True)
    return config, values.get("tie_word_embeddings") is not False


def load(path: Path) -> Checkpoint:
    """A folder, or its weights file, as a Checkpoint. Raises InputError for all that is wrong."""
    folder = path if path.is_dir() else path.parent
    leading, files = weight_files(path)
    values, config, notes = _described(folder)
    before = tuple(identity(file) for file in files)
    params, told = _tensors(files, values, leading)
    finite = file_facts.recall(before, "finite") is True
    params = tensors.check(params, config, str(leading), finite=finite)
    if not finite:
        file_facts.remember(before, "finite", True)
    tokenizer, more = tokenizer_files.beside(folder, config)
    config, marks = tokenizer_files.marked(config, tokenizer)
    settings, wrong = recommended.read(folder, values, config)
    source, notes = Source(before, dict(params)), notes + told + more + marks + wrong
    return Checkpoint(config, params, tokenizer, FORMAT, path, settings, notes, source)


# --- writing ---


def write_safetensors(path: Path, params: Params) -> None:
    """Store float32 arrays as one safetensors file, tensor by tensor, without a second copy."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in params.items():
        begin, end = end, end + 4 * array.size
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # so that the numbers begin at a multiple of 8
    with accessing(path, "written"), path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in params.values():
            file.write(np.ascontiguousarray(array, "<f4").data)


def config_values(config: Config, tied: bool) -> dict[str, Any]:
    """config.json as transformers 5 reads it; every switch is written, also those at rest."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.n_vocab,
        "n_positions": config.n_ctx,
        "n_ctx": config.n_ctx,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_layer": config.n_layer,
        "n_inner": config.n_inner,
        "activation_function": config.activation_function,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "scale_attn_weights": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": config.begin,
        "eos_token_id": config.end_tokens[0] if config.end_tokens else None,
        "tie_word_embeddings": tied,
        "use_cache": True,
        "dtype": "float32",
    }


def _card(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    size = sum(array.size for array in checkpoint.params.values())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- gpt2
---

# A GPT-2 of {size:,} parameters

{config.n_layer} layers, {config.n_head} heads, width {config.n_embd}, {config.n_ctx} positions,
{config.n_vocab:,} tokens; activation {config.activation_function}. Converted from the format
{checkpoint.format} by gpt2lab; the numbers are float32.

```python
import gpt2lab

lm = gpt2lab.load("path/to/this/folder")
```

What it was trained on, and under which licence, its makers have to say here.
"""


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a model folder: config, float32 weights, vocabulary, settings and a model card."""
    params, tied = checkpoint.params, tensors.HEAD not in checkpoint.params
    stored = {
        f"transformer.{name}": array for name, array in params.items() if name != tensors.HEAD
    }
    if not tied:
        stored[tensors.HEAD] = params[tensors.HEAD]
    with accessing(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / "model.safetensors", stored)
        write_json(folder / "config.json", config_values(checkpoint.config, tied))
        write_json(folder / recommended.FILE, recommended.written(checkpoint))
        (folder / "README.md").write_text(_card(checkpoint), encoding="utf-8")
        if checkpoint.tokenizer is not None:
            checkpoint.tokenizer.save(folder)
