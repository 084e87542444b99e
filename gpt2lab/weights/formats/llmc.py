"""llm.c's .bin: a header of 256 int32, then every tensor in one fixed order, matrices [out, in].

Version 1 is float32 with the vocabulary as it is; 3 (float32) and 5 (bfloat16) pad the rows of
`wte` up to a multiple of 128. Written is version 3, which llm.c's CPU and fp32 programs read.

Source: karpathy/llm.c `train_gpt2.py` (write_model), `train_gpt2.c`, and its commit 835060e.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpt2lab.config import Config
from gpt2lab.errors import InputError, few
from gpt2lab.files.io import accessing, map_bytes, read_head
from gpt2lab.files.tensor_bytes import WIDTHS, floats
from gpt2lab.files.visible import shown
from gpt2lab.weights import recommended, tensors, tokenizer_files
from gpt2lab.weights.checkpoint import Checkpoint, Params

FORMAT = "llmc"
FILE = "model.bin"
MAGIC = 20240326
HEADER = 1024  # bytes
DTYPES = {1: "float32", 3: "float32", 5: "bfloat16"}  # version -> numbers
PADDING = 128


def _is_model(path: Path) -> bool:
    return read_head(path, 4) == MAGIC.to_bytes(4, "little")


def _found(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if _is_model(path) else []
    return [file for file in sorted(path.glob("*.bin")) if _is_model(file)]


def recognise(path: Path) -> bool:
    """A file that begins with the magic number, or a folder with one."""
    return bool(_found(path))


def _one(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The file to read; of a training run's model_00000500.bin and so on the latest."""
    files = _found(path)
    steps = [file for file in files if re.fullmatch(r"model_\d{8}\.bin", file.name)]
    if len(files) == 1:
        return files[0], ()
    if files and len(steps) == len(files):
        return steps[-1], (f"{len(steps)} checkpoints in {path}; the latest is used",)
    listed = few([shown(file.name) for file in files])
    raise InputError(f"{path}: holds several models ({listed}); give one of the files")


def _layout(config: Config, rows: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the order of the file; the layers of one kind stand together."""
    E = config.n_embd
    inner = (
        ("ln_1.weight", (E,)),
        ("ln_1.bias", (E,)),
        ("attn.c_attn.weight", (3 * E, E)),
        ("attn.c_attn.bias", (3 * E,)),
        ("attn.c_proj.weight", (E, E)),
        ("attn.c_proj.bias", (E,)),
        ("ln_2.weight", (E,)),
        ("ln_2.bias", (E,)),
        ("mlp.c_fc.weight", (4 * E, E)),
        ("mlp.c_fc.bias", (4 * E,)),
        ("mlp.c_proj.weight", (E, 4 * E)),
        ("mlp.c_proj.bias", (E,)),
    )
    layers = range(config.n_layer)
    return [
        ("wte.weight", (rows, E)),
        ("wpe.weight", (config.n_ctx, E)),
        *((f"h.{layer}.{name}", shape) for name, shape in inner for layer in layers),
        ("ln_f.weight", (E,)),
        ("ln_f.bias", (E,)),
    ]


def _header(data: np.ndarray, where: str) -> tuple[str, int, Config]:
    """The number type, the rows of `wte` and the configuration."""
    if data.size < HEADER:
        raise InputError(f"{where}: {data.size} bytes are too few for the header; it is truncated")
    numbers = [int(number) for number in data[:HEADER].view("<i4")]
    _, version, n_ctx, n_vocab, n_layer, n_head, n_embd, rows = numbers[:8]
    if version not in DTYPES:
        raise InputError(
            f"{where}: is of version {version}; readable are {', '.join(map(str, DTYPES))}"
        )
    sizes = {"n_vocab": n_vocab, "n_ctx": n_ctx, "n_embd": n_embd, "n_head": n_head}
    config = tensors.configured(where, **sizes, n_layer=n_layer)
    rows = n_vocab if version == 1 else rows
    if rows < n_vocab:
        raise InputError(f"{where}: {rows} rows are too few for a vocabulary of {n_vocab}")
    return DTYPES[version], rows, config


def _count(config: Config, rows: int) -> int:
    """The numbers of a whole file, before a layout of what may be a billion layers is made."""
    one = _layout(replace(config, n_layer=1), rows)
    layer = sum(math.prod(shape) for name, shape in one if name.startswith("h."))
    return sum(math.prod(shape) for _, shape in one) + (config.n_layer - 1) * layer


def _params(data: np.ndarray, dtype: str, rows: int, config: Config) -> Params:
    params: Params = {}
    at = HEADER
    for name, shape in _layout(config, rows):
        size = math.prod(shape) * WIDTHS[dtype]
        params[name] = floats(data[at : at + size], dtype, shape)
        at += size
    params["wte.weight"] = params["wte.weight"][: config.n_vocab]  # [V, E]
    return tensors.transposed(params)


def _opened(file: Path) -> tuple[np.ndarray, str, int, Config]:
    """The bytes of a whole file, the number type, the rows of `wte` and the configuration."""
    data = map_bytes(file)
    dtype, rows, config = _header(data, str(file))
    expected = HEADER + WIDTHS[dtype] * _count(config, rows)
    if data.size != expected:
        raise InputError(
            f"{file}: has {data.size} bytes, its header asks for {expected}; "
            "it is truncated or damaged, copy it again"
        )
    return data, dtype, rows, config


def shape(path: Path) -> tuple[Config, bool]:
    """The configuration and whether the head is tied, by headers alone."""
    return _opened(_one(path)[0])[-1], True


def load(path: Path) -> Checkpoint:
    """A model file of llm.c, or the folder that it lies in."""
    file, notes = _one(path)
    data, dtype, rows, config = _opened(file)
    params = tensors.check(_params(data, dtype, rows, config), config, str(file))
    tokenizer, more = tokenizer_files.beside(file.parent, config)
    config = tokenizer_files.ended(config, tokenizer)
    made = Checkpoint(config, params, tokenizer, FORMAT, file, {}, notes + more)
    return recommended.beside(made)


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write model.bin, version 3; the vocabulary, for which llm.c has no place, goes beside it."""
    tensors.must_be_plain(checkpoint, FORMAT)
    config = checkpoint.config
    rows = -(-config.n_vocab // PADDING) * PADDING
    numbers = (MAGIC, 3, config.n_ctx, config.n_vocab, config.n_layer, config.n_head)
    header = np.zeros(HEADER // 4, "<i4")
    header[:8] = (*numbers, config.n_embd, rows)
    params = tensors.transposed(checkpoint.params)
    with accessing(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open("wb") as file:
            file.write(header.tobytes())
            for name, _ in _layout(config, rows):
                file.write(np.ascontiguousarray(params[name], "<f4").data)
                if name == "wte.weight":
                    file.write(bytes(4 * (rows - config.n_vocab) * config.n_embd))
        if checkpoint.tokenizer is not None:
            checkpoint.tokenizer.save(folder)
        recommended.write_beside(checkpoint, folder)
