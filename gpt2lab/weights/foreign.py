"""What lies where a checkpoint should be: pointers, web pages, adapters, other programs' formats.

Nothing of it can be loaded. It is recognised by the first bytes of the files, so that a refusal may
say what is there and what to do about it. Looked at only after something was refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gpt2lab.errors import InputError, few, quoted
from gpt2lab.files import torchfile
from gpt2lab.files.io import IS_LFS, LFS, read_head
from gpt2lab.files.json_files import read_json
from gpt2lab.files.visible import shown

HEAD = 512  # bytes that are looked at
ENTRIES = 1000  # files of one folder
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5")
ADAPTER = "adapter_config.json"
ELSEWHERE = "it is not read here; take the model's safetensors or pytorch_model.bin"

_BEGINNINGS = {  # first bytes -> what the file is
    LFS: IS_LFS,
    b"GGUF": f"is a GGUF file of llama.cpp; {ELSEWHERE}",
    b"lmgg": f"is a GGML file of llama.cpp; {ELSEWHERE}",
    b"fmgg": f"is a GGML file of llama.cpp; {ELSEWHERE}",
    b"tjgg": f"is a GGML file of llama.cpp; {ELSEWHERE}",
    b"\x89HDF": f"holds TensorFlow's weights as HDF5 (Keras); {ELSEWHERE}",
    b"\x1f\x8b": "is a packed archive (gzip); unpack it and give the folder",
    b"BZh": "is a packed archive (bzip2); unpack it and give the folder",
    b"\xfd7zXZ": "is a packed archive (xz); unpack it and give the folder",
    b"\x28\xb5\x2f\xfd": "is a packed archive (zstd); unpack it and give the folder",
    b"7z\xbc\xaf": "is a packed archive (7z); unpack it and give the folder",
    b"Rar!": "is a packed archive (rar); unpack it and give the folder",
}
_ENDINGS = {  # for formats whose files begin in no fixed way
    ".onnx": f"is an ONNX file; {ELSEWHERE}",
    ".msgpack": f"holds Flax's weights (msgpack); {ELSEWHERE}",
    ".pb": f"is a graph of TensorFlow (SavedModel); {ELSEWHERE}",
    ".tflite": f"is a TensorFlow Lite file; {ELSEWHERE}",
    ".ot": f"holds weights for Rust (rust-bert); {ELSEWHERE}",
    ".mlmodel": f"is a Core ML file; {ELSEWHERE}",
}
_TORCH = (b"data.pkl", b"byteorder", b"version", b".format_version", b".storage_alignment")
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml")


def _in_zip(head: bytes) -> str | None:
    """What a zip is, by the name of its first entry; None for a torch file."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if name.endswith(b".npy"):
        return f"is an archive of NumPy arrays (npz), as MLX has written; {ELSEWHERE}"
    if not name or name.rpartition(b"/")[2] in _TORCH:
        return None
    return "is a packed archive (zip); unpack it and give the folder"


def kind(path: Path) -> str | None:
    """What a file is, when it is nothing that can be read here: the rest of a sentence about it."""
    if not path.is_file():
        return None
    head = read_head(path, HEAD)
    if not head:
        return "is empty; a copy or download was stopped, repeat it"
    for beginning, said in _BEGINNINGS.items():
        if head.startswith(beginning):
            return said
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "is a web page, not the file itself; download the raw file, not the page about it"
    if head.startswith(torchfile.ZIP_MAGIC):
        return _in_zip(head)
    if b"DecoderModelSpec" in head[:64] or b"DecoderSpec" in head[:64]:
        return f"is a model of CTranslate2; {ELSEWHERE}"
    if head[257:262] == b"ustar":
        return "is a packed archive (tar); unpack it and give the folder"
    return _ENDINGS.get(path.suffix)


def claims(folder: Path) -> bool:
    """Whether a folder holds an adapter, or under a name for weights what cannot be read."""
    if (folder / ADAPTER).is_file():
        return True
    named = (file for file in _files(folder) if file.suffix in (*WEIGHTS, *_ENDINGS))
    return any(kind(file) for file in named if file.stat().st_size)


def _files(folder: Path) -> Iterator[Path]:
    """The files right in a folder, those that most likely hold the weights first."""
    try:
        entries = [entry for entry in sorted(folder.iterdir())[:ENTRIES] if entry.is_file()]
    except OSError:
        return
    yield from sorted(entries, key=lambda entry: entry.suffix not in WEIGHTS)


def _adapter(folder: Path) -> str | None:
    """Return the message for a folder with a LoRA adapter, which needs its base model."""
    if not (folder / ADAPTER).is_file():
        return None
    try:
        values = read_json(folder / ADAPTER)
    except InputError:
        values = {}
    base = values.get("base_model_name_or_path")
    of = f" for the model {quoted(base)}" if isinstance(base, str) and base else ""
    return (
        f"{folder}: holds an adapter of peft (LoRA){of}, not a whole model; load both in peft, "
        "call merge_and_unload(), and save the result with save_pretrained"
    )


def is_weights(path: Path) -> bool:
    """Whether a file begins as safetensors or torch files do."""
    head = read_head(path, 9)
    return torchfile.is_torch_file(path) or (len(head) == 9 and head[5:] == b"\x00\x00\x00{")


def _without_config(path: Path) -> str | None:
    """Return the message for weights that no config.json describes."""
    folder = path if path.is_dir() else path.parent
    if (folder / "config.json").is_file():
        return None
    found = list(_files(folder)) if path.is_dir() else [path]
    names = [shown(file.name) for file in found if is_weights(file)]
    if not names:
        return None
    return (
        f"{folder}: holds {few(names)} but no config.json, which says how wide and deep the model "
        "is; put the model's config.json beside the weights"
    )


def here(path: Path) -> str | None:
    """What lies at a path that is no checkpoint, as a sentence with a next step, or None."""
    folder = path if path.is_dir() else path.parent
    found = _adapter(folder)
    if found:
        return found
    for file in [path] if path.is_file() else _files(folder):
        said = kind(file)
        if said and (path.is_file() or not said.startswith("is empty")):
            return f"{file}: {said}"
    return _without_config(path)


def explained(path: Path, error: InputError) -> InputError:
    """The error, or a better one where a file that it speaks of is none of the model's at all."""
    folder = path if path.is_dir() else path.parent
    for file in _files(folder):
        said = kind(file) if str(file) in str(error) else None
        if said:
            return InputError(f"{file}: {said}")
    return error
