"""safetensors files: named tensors, mapped, and written tensor by tensor.

Source: the README of the safetensors repository.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.errors import InputError
from gpt2lab.files.io import accessing, map_bytes, parsing
from gpt2lab.files.json_files import parse_json
from gpt2lab.files.tensor_bytes import floats, hollow
from gpt2lab.files.visible import shown

HEADER = 1 << 22  # bytes of a header; that of the largest GPT-2 has 60,000
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _check(path: Path) -> None:
    """Raise InputError when the library finds the file truncated or damaged."""
    from safetensors import safe_open

    data = map_bytes(path)
    size = int.from_bytes(data[:8].tobytes(), "little")
    if HEADER < size < data.size:
        raise InputError(
            f"{path}: its header has {size} bytes, a GPT-2's has less than {HEADER}; it is damaged "
            "or of another model"
        )
    whole = parsing(path, "a whole safetensors file")
    with accessing(path), whole, safe_open(path, framework="np"):
        pass


def _shared(params: dict[str, np.ndarray], header: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors that safetensors.torch.save_model left out, as another has the same numbers.

    Its metadata maps each name that was left out to the one that was kept.
    """
    pairs = header.get("__metadata__", {}).items()
    return {out: params[kept] for out, kept in pairs if kept in params and out not in header}


def read(
    path: Path, wanted: Callable[[str], bool] = lambda name: True, headers: bool = False
) -> dict[str, np.ndarray]:
    """Return name -> array of the tensors that are wanted: float32 (float64 stays), mapped.

    headers: the numbers are not read and the arrays are hollow. The library checks the header;
    doubled keys, which it lets pass, are refused here.
    """
    _check(path)
    data = map_bytes(path)
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = parse_json(data[8:start].tobytes(), f"{path}: its header")
    params: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        if name == "__metadata__" or not wanted(name):
            continue
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise InputError(
                f"{path}: {shown(name)} has the dtype {entry['dtype']}; "
                f"readable are {', '.join(DTYPES)}, so save the model unquantized"
            )
        begin, end = entry["data_offsets"]
        shape, raw = entry["shape"], data[start + begin : start + end]
        params[name] = hollow(shape) if headers else floats(raw, dtype, shape)
    return {**params, **_shared(params, header)}


def write(path: Path, params: Mapping[str, np.ndarray]) -> None:
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
