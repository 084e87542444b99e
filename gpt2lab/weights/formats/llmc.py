"""llm.c's .bin: a header of 256 int32, then every tensor in one fixed order, matrices [out, in].

Version 1 is float32 with the vocabulary as it is; 3 (float32) and 5 (bfloat16) pad the rows of
`wte` up to a multiple of 128. Written is version 3, which llm.c's CPU and fp32 programs read.

Source: karpathy/llm.c `train_gpt2.py` (write_model), `train_gpt2.c`, and its commit 835060e.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.files.io import map_bytes, read_head
from gpt2lab.files.tensor_bytes import WIDTHS, floats, hollow
from gpt2lab.weights import tensors, tokenizer_files
from gpt2lab.weights.checkpoint import Checkpoint, Params
from gpt2lab.weights.formats import plain

FORMAT = "llmc"
MAGIC = 20240326
HEADER = 1024  # bytes
DTYPES = {1: "float32", 3: "float32", 5: "bfloat16"}  # version -> numbers
PADDING = 128


def _found(path: Path) -> list[Path]:
    files = sorted(path.glob("*.bin")) if path.is_dir() else [path]
    return [file for file in files if read_head(file, 4) == MAGIC.to_bytes(4, "little")]


def recognise(path: Path) -> bool:
    """A file that begins with the magic number, or a folder with one."""
    return bool(_found(path))


def _one(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The file to read; of a training run's model_00000500.bin and so on the latest."""
    files = _found(path)
    if len(files) > 1 and all(re.fullmatch(r"model_\d{8}\.bin", file.name) for file in files):
        return files[-1], (f"{len(files)} checkpoints in {path}; the latest is used",)
    return plain.only(files, path, "models"), ()


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
    """The number type, the rows of `wte` and the configuration; the size of the file is checked."""
    if data.size < HEADER:
        raise InputError(f"{where}: {data.size} bytes are too few for the header; it is truncated")
    _, version, n_ctx, n_vocab, n_layer, n_head, n_embd, rows = data[:32].view("<i4").tolist()
    if version not in DTYPES:
        raise InputError(
            f"{where}: is of version {version}; readable are {', '.join(map(str, DTYPES))}"
        )
    config = tensors.configured(
        where, n_vocab=n_vocab, n_ctx=n_ctx, n_embd=n_embd, n_head=n_head, n_layer=n_layer
    )
    rows = n_vocab if version == 1 else rows
    numbers = tensors.count(config) + (rows - n_vocab) * n_embd
    expected = HEADER + WIDTHS[DTYPES[version]] * numbers
    if rows < n_vocab or data.size != expected:
        raise InputError(
            f"{where}: has {data.size} bytes, its header asks for {expected} with {rows} rows for "
            f"a vocabulary of {n_vocab}; it is truncated or damaged, copy it again"
        )
    return DTYPES[version], rows, config


def _params(data: np.ndarray, dtype: str, rows: int, config: Config, headers: bool) -> Params:
    params: Params = {}
    at = HEADER
    for name, shape in _layout(config, rows):
        size = math.prod(shape) * WIDTHS[dtype]
        raw = data[at : at + size]
        params[name] = hollow(shape) if headers else floats(raw, dtype, shape)
        at += size
    params["wte.weight"] = params["wte.weight"][: config.n_vocab]  # [V, E]
    return tensors.transposed(params)


def load(path: Path, headers: bool = False) -> Checkpoint:
    """A model file of llm.c, or the folder that it lies in."""
    file, notes = _one(path)
    data = map_bytes(file)
    dtype, rows, config = _header(data, str(file))
    params = _params(data, dtype, rows, config, headers)
    params = tensors.check(params, config, str(file), finite=headers)
    made = Checkpoint(config, params, None, FORMAT, file, notes=notes)
    return made if headers else plain.completed(made, *tokenizer_files.beside(file.parent, config))


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write model.bin, version 3; the vocabulary, for which llm.c has no place, goes beside it."""
    plain.must_be_plain(checkpoint, FORMAT)
    config = checkpoint.config
    rows = -(-config.n_vocab // PADDING) * PADDING
    numbers = (MAGIC, 3, config.n_ctx, config.n_vocab, config.n_layer, config.n_head)
    header = np.zeros(HEADER // 4, "<i4")
    header[:8] = (*numbers, config.n_embd, rows)
    params = tensors.transposed(checkpoint.params)
    with (folder / "model.bin").open("wb") as file:
        file.write(header.tobytes())
        for name, _ in _layout(config, rows):
            file.write(np.ascontiguousarray(params[name], "<f4").data)
            if name == "wte.weight":
                file.write(bytes(4 * (rows - config.n_vocab) * config.n_embd))
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save(folder)
    plain.save_settings(checkpoint, folder)
