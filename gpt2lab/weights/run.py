"""A run's folder as a model: its best checkpoint, or its latest where nothing was validated.

The checkpoints are Hugging Face folders; which is which is told in `train.checkpoint`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from gpt2lab.errors import InputError
from gpt2lab.files import read_text
from gpt2lab.weights import checksums, huggingface
from gpt2lab.weights.checkpoint import Checkpoint

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
    checksums.check_checkpoint(path / name)
    found = huggingface.load(path / name)
    note = f"{path.name}: {name} of the run, its {pointer.name}"
    return replace(found, format=FORMAT, notes=(note, *found.notes))
