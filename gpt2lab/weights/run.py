"""A run's folder as a model: its best checkpoint, or its latest where nothing was validated.

The checkpoints are Hugging Face folders; which is which is told in `train.checkpoint`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from gpt2lab.errors import InputError
from gpt2lab.files import accessing, identity, read_json, read_text
from gpt2lab.weights import huggingface, remembered
from gpt2lab.weights.checkpoint import Checkpoint

FORMAT = "run"
POINTERS = ("best", "latest")


def _pointer(path: Path) -> Path | None:
    """The file that names the checkpoint to take."""
    if not (path / "run.json").is_file():
        return None
    return next((path / name for name in POINTERS if (path / name).is_file()), None)


def _sha256(path: Path) -> str:
    """The sha256 of a file; of a large one it is remembered for as long as the file is the same."""
    files = (identity(path),)
    known = remembered.recall(files, "sha256")
    if not isinstance(known, str):
        with accessing(path), path.open("rb") as file:
            known = hashlib.file_digest(file, "sha256").hexdigest()
        remembered.remember(files, "sha256", known)
    return known


def _check(folder: Path) -> None:
    """Raise InputError where the model's files are not what the run wrote."""
    held = read_json(folder / "manifest.json").get("files", {})
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        wrong = name in held and (
            not (folder / name).is_file() or _sha256(folder / name) != held[name].get("sha256")
        )
        if wrong:
            raise InputError(
                f"{folder / name} is not what the run wrote (its sha256 differs); the disk changed "
                "it: take another step folder of the run"
            )


def recognise(path: Path) -> bool:
    """A folder with a run.json and a checkpoint that is named."""
    return _pointer(path) is not None


def load(path: Path) -> Checkpoint:
    """The model of the run; a note says of which step."""
    pointer = _pointer(path)
    assert pointer is not None, "recognised before"
    name = read_text(pointer).strip()
    if not re.fullmatch(r"step-\d+", name, re.ASCII) or not (path / name).is_dir():
        raise InputError(
            f"{pointer}: names {name[:40]!a}, which is no checkpoint of this run; give the path of "
            "one of its step folders"
        )
    _check(path / name)
    found = huggingface.load(path / name)
    note = f"{path.name}: {name} of the run, its {pointer.name}"
    return replace(found, format=FORMAT, notes=(note, *found.notes))
