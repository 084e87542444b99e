"""Checkpoints of every kind, recognised by their content: `recognise`, `load`, `save`.

Each format is a module with `recognise(path)`, `load(path, headers)` and, where it can be written,
`save(checkpoint, folder)`; a further format is one more line in `FORMATS`. Reading needs neither
torch nor TensorFlow. Proof that a conversion changed nothing is `convert`'s.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from gpt2lab.errors import InputError, few
from gpt2lab.files.atomic import new_folder
from gpt2lab.files.io import accessing
from gpt2lab.files.visible import shown
from gpt2lab.weights import checksums, foreign
from gpt2lab.weights.checkpoint import Checkpoint, Params
from gpt2lab.weights.formats import gpt2simple, huggingface, llmc, nanogpt, openai, run_folder

__all__ = ["FORMATS", "Checkpoint", "Params", "load", "recognise", "save", "writable"]

FORMATS: dict[str, ModuleType] = {  # asked in this order; a run folder also looks like OpenAI's
    "run": run_folder,
    "huggingface": huggingface,
    "gpt2simple": gpt2simple,
    "openai": openai,
    "nanogpt": nanogpt,
    "llmc": llmc,
}


def _format_of(path: Path) -> str | None:
    with accessing(path):
        return next((name for name, format in FORMATS.items() if format.recognise(path)), None)


def _inside(path: Path, deeper: bool = True) -> list[Path]:
    """What lies in a folder, or in the folders in it, and would itself be recognised."""
    try:
        entries = sorted(path.iterdir())[:1000] if path.is_dir() else []
        known = [entry for entry in entries if _format_of(entry) is not None]
        folders = [entry for entry in entries if entry.is_dir()][:20] if deeper else []
        return known or [found for folder in folders for found in _inside(folder, False)]
    except (OSError, InputError):
        return []


def _unknown(path: Path) -> str:
    """Why nothing at a path can be loaded, and what to do."""
    inside = [shown(str(entry)) for entry in _inside(path)]
    if len(inside) == 1:
        return f"{path}: is no checkpoint, but there is one in it; load {inside[0]}"
    said = None if inside else foreign.here(path)
    if said:
        return said
    step = f"but these are: {few(inside)}" if inside else "it may be empty, truncated or foreign"
    return f"{path}: not a checkpoint of a known format ({', '.join(FORMATS)}); {step}"


def _exists(path: Path) -> bool:
    try:
        return path.exists() or openai.recognise(path)  # a TensorFlow prefix is no file itself
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)[:200]!a}: not a usable path ({error})") from error


def recognise(path: Path | str) -> str:
    """The name of a checkpoint's format, a key of `FORMATS`; InputError when it has none."""
    path = Path(path)
    if not _exists(path):
        raise InputError(f"{path}: there is no such file or folder; check the path")
    format = _format_of(path)
    if format is None:
        raise InputError(_unknown(path))
    return format


def load(path: Path | str, headers: bool = False) -> Checkpoint:
    """Read a checkpoint folder or file, whatever its format.

    headers: the numbers are not read, the arrays are stand-ins of the right shape, and vocabulary,
    settings and notes are left out. A head by itself is believed where the configuration has one.
    Raises InputError, one line, for all that is missing, damaged or not a GPT-2.
    """
    path = Path(path)
    format = recognise(path)
    try:
        with accessing(path):
            checksums.check(path, headers)
            checkpoint: Checkpoint = FORMATS[format].load(path, headers)
    except InputError as error:
        raise foreign.explained(path, error) from error
    return checkpoint


def writable() -> list[str]:
    """The formats that can be written."""
    return [name for name, format in FORMATS.items() if hasattr(format, "save")]


def writer(format: str) -> ModuleType:
    """The module of a format that can be written; InputError, with their names, for another."""
    if format not in writable():
        raise InputError(f"format {format!r} cannot be written; known: {', '.join(writable())}")
    return FORMATS[format]


def save(checkpoint: Checkpoint, folder: Path | str, format: str = "huggingface") -> None:
    """Write a new folder in a format; it appears whole or not at all.

    Raises InputError when the folder exists, or the format cannot hold the model.
    """
    module = writer(format)
    with new_folder(Path(folder)) as temporary:
        module.save(checkpoint, temporary)
