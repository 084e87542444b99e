"""Hugging Face folders: config.json beside safetensors or pytorch_model.bin, whole or in shards.

Reads what transformers has written over the years: with and without the `transformer.` prefix,
tied and untied heads, stored masks, four number types. Writes what transformers 5 writes, so that
every tool of that family can open it. config.json is `hf_config`'s.

Source: transformers 5.23 `modeling_gpt2.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2lab.config import Config
from gpt2lab.errors import InputError, few
from gpt2lab.files import file_facts, safetensors_file, torchfile
from gpt2lab.files.io import accessing, identity, is_file_name, read_head
from gpt2lab.files.json_files import read_json, write_json
from gpt2lab.files.visible import shown
from gpt2lab.weights import foreign, recommended, tensors, tokenizer_files
from gpt2lab.weights.checkpoint import Checkpoint, Params, Source
from gpt2lab.weights.formats import hf_config, state_dict

FORMAT = "huggingface"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# --- weights ---


def _read_one(path: Path, headers: bool = False) -> Params:
    if torchfile.is_torch_file(path):
        return state_dict.tensors_of(torchfile.read(path), str(path), headers)
    return safetensors_file.read(
        path, lambda name: not tensors.is_buffer(tensors.bare(name)), headers
    )


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
    """Return the message for a folder without weights of the usual names."""
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


def _with_head(
    params: Params, values: dict[str, Any], where: Path
) -> tuple[Params, tuple[str, ...]]:
    """Return the model with its tables, and a note on a head that config.json does not mention.

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


def _tensors(
    files: list[Path], values: dict[str, Any], leading: Path, headers: bool = False
) -> tuple[Params, tuple[str, ...]]:
    """The language model's tensors out of its files, and notes on what else is in them."""
    params = state_dict.joined([(file, _read_one(file, headers)) for file in files], leading)
    params, left_out = state_dict.without_heads(params)
    params, tied_notes = _with_head(params, values, leading)
    return params, left_out + tied_notes


def shape(path: Path) -> tuple[Config, bool]:
    """The configuration and whether the head is tied, by headers alone."""
    leading, files = weight_files(path)
    values, config, _ = hf_config.described(leading.parent)
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
    values, config, notes = hf_config.described(folder)
    before = tuple(identity(file) for file in files)
    params, more = _tensors(files, values, leading)
    finite = file_facts.recall(before, "finite") is True
    params = tensors.check(params, config, str(leading), finite=finite)
    if not finite:
        file_facts.remember(before, "finite", True)
    tokenizer, vocabulary = tokenizer_files.beside(folder, config)
    config, marks = tokenizer_files.marked(config, tokenizer)
    settings, wrong = recommended.read(folder, values, config)
    source, notes = Source(before, dict(params)), notes + more + vocabulary + marks + wrong
    return Checkpoint(config, params, tokenizer, FORMAT, path, settings, notes, source)


# --- writing ---


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
        safetensors_file.write(folder / "model.safetensors", stored)
        write_json(folder / "config.json", hf_config.written(checkpoint.config, tied))
        write_json(folder / recommended.FILE, recommended.written(checkpoint))
        (folder / "README.md").write_text(_card(checkpoint), encoding="utf-8")
        if checkpoint.tokenizer is not None:
            checkpoint.tokenizer.save(folder)
