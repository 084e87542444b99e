"""A run's folder as a model: its best checkpoint, or its latest where nothing was validated.

The checkpoints are Hugging Face folders; `train.checkpoint_files` names them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from gpt2lab.errors import InputError
from gpt2lab.files.io import read_text
from gpt2lab.weights import checksums
from gpt2lab.weights.checkpoint import Checkpoint
from gpt2lab.weights.formats import huggingface

FORMAT = "run"
POINTERS = ("best", "latest")


def _pointer(path: Path) -> Path | None:
    """The file that names the checkpoint to take."""
    if not (path / "run.json").is_file():
        return None
    return next((path / name for name in POINTERS if (path / name).is_file()), None)


def recognise(path: Path) -> bool:
    """A folder with a run.json and a checkpoint that is named."""
    return _pointer(path) is not None


def _step(path: Path) -> tuple[Path, Path]:
    """The checkpoint to take, and the file that names it."""
    pointer = _pointer(path)
    assert pointer is not None, "recognised before"
    name = read_text(pointer).strip()
    if not re.fullmatch(r"step-\d+", name, re.ASCII) or not (path / name).is_dir():
        raise InputError(
            f"{pointer}: names {name[:40]!a}, which is no checkpoint of this run; give the path of "
            "one of its step folders"
        )
    return path / name, pointer


def load(path: Path, headers: bool = False) -> Checkpoint:
    """The model of the run; a note says of which step."""
    folder, pointer = _step(path)
    checksums.check_checkpoint(folder, headers)
    found = huggingface.load(folder, headers)
    note = f"{path.name}: {folder.name} of the run, its {pointer.name}"
    return replace(found, format=FORMAT, notes=(note, *found.notes))
