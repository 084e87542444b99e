"""Hugging Face folders: config.json beside safetensors or pytorch_model.bin, whole or in shards.

Reads what transformers has written over the years: with and without the `transformer.` prefix,
tied and untied heads, stored masks, four number types. Writes what transformers 5 writes, so that
every tool of that family can open it. config.json is `hf_config`'s.

Source: transformers 5.23 `modeling_gpt2.py`.
"""

from __future__ import annotations

from pathlib import Path

from gpt2lab.errors import InputError, few, quoted
from gpt2lab.files import file_facts, safetensors_file, torchfile
from gpt2lab.files.io import accessing, identity, is_file_name
from gpt2lab.files.json_files import read_json, write_json
from gpt2lab.files.visible import shown
from gpt2lab.weights import foreign, recommended, tensors, tokenizer_files
from gpt2lab.weights.checkpoint import Checkpoint, Params, Source
from gpt2lab.weights.formats import hf_config, state_dict

FORMAT = "huggingface"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


# --- weights ---


def _read_one(path: Path, headers: bool) -> Params:
    if torchfile.is_torch_file(path):
        return state_dict.tensors_of(torchfile.read(path), str(path), headers)
    return safetensors_file.read(
        path, lambda name: not tensors.is_buffer(tensors.bare(name)), headers
    )


def shards(index: Path) -> list[Path]:
    """The files that a shard index names; a name that leads out of the folder is refused."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: holds no weight_map; it is damaged")
    for file in weight_map.values():
        if not isinstance(file, str) or not is_file_name(file):
            raise InputError(
                f"{index}: the shard {quoted(file)} is not a file name in this folder; it is "
                "damaged"
            )
    return [index.parent / file for file in sorted(set(weight_map.values()))]


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
    others = [shown(f.name) for f in folder.iterdir() if foreign.is_weights(f)]
    step = f"; give the path of the file itself: {few(others)}" if others else ""
    raise InputError(
        foreign.here(folder)
        or f"{folder}: has a config.json but no weights; expected {' or '.join(WEIGHTS)}, whole or "
        f"in shards with their index{step}"
    )


def _with_head(
    params: Params, tied: bool, where: Path, headers: bool
) -> tuple[Params, tuple[str, ...]]:
    """Return the model with its tables, and a note on a head that config.json does not mention.

    Of two tied tables either may be stored. Where both are and differ, transformers 5 takes the
    stored head too; by headers alone, they are taken to be the same.
    """
    head, wte = params.get(tensors.HEAD), params.get("wte.weight")
    if head is None and not tied:
        raise InputError(
            f"{where}: config.json says tie_word_embeddings false, but lm_head.weight is missing"
        )
    if head is None or not tied:
        return params, ()
    if headers or wte is None:
        rest = {name: array for name, array in params.items() if name != tensors.HEAD}
        return {"wte.weight": head, **rest}, ()
    note = "the head differs from wte although config.json ties them; the stored head is used"
    return params, () if tensors.same(head, wte) else (note,)


# --- the format ---


def recognise(path: Path) -> bool:
    """A folder with a config.json, or one of the files in such a folder."""
    folder = path if path.is_dir() else path.parent
    named = path.is_dir() or path.name in ("config.json", *SHARDED)
    return (folder / "config.json").is_file() and (named or foreign.is_weights(path))


def load(path: Path, headers: bool = False) -> Checkpoint:
    """A folder, or its weights file, as a Checkpoint. Raises InputError for all that is wrong."""
    folder = path if path.is_dir() else path.parent
    leading, files = weight_files(path)
    values, config, notes = hf_config.described(folder)
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: is missing; a download may have been stopped, repeat it")
    before = tuple(identity(file) for file in files)
    finite = headers or file_facts.recall(before, "finite") is True
    parts = ((file, _read_one(file, headers)) for file in files)
    params, left_out = state_dict.joined(parts, leading)
    tied = values.get("tie_word_embeddings") is not False
    params, more = _with_head(params, tied, leading, headers)
    params = tensors.check(params, config, str(leading), finite=finite)
    if headers:
        return Checkpoint(config, params, None, FORMAT, path)
    if not finite:
        file_facts.remember(before, "finite", True)
    tokenizer, vocabulary = tokenizer_files.beside(folder, config)
    config, marks = tokenizer_files.marked(config, tokenizer)
    settings, wrong = recommended.read(folder, values, config)
    source, notes = (
        Source(before, dict(params)),
        notes + left_out + more + vocabulary + marks + wrong,
    )
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
