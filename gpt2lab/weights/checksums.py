"""Checksums that lie beside weights: safetensors, torch's older stream and llm.c carry none inside.

They are in the manifest.json of a run's checkpoint, in the verify.json of `convert`, and in the
names of the hub cache's files. `check` holds a model against the first two before it is loaded:
hashing a gigabyte takes a second, once, as it is remembered. `report` looks at all of them, and at
the checksums inside the formats that have some.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from gpt2lab.errors import InputError
from gpt2lab.files import torchfile
from gpt2lab.files.file_facts import known_sha256
from gpt2lab.files.io import accessing, file_sha256, is_file_name
from gpt2lab.files.json_files import checked_keys, read_json
from gpt2lab.weights import foreign, tokenizer_files
from gpt2lab.weights.formats import tensorbundle

MANIFEST, RECORD = "manifest.json", "verify.json"
#: What a checkpoint of a run consists of, as far as it is there.
MODEL = ("config.json", "generation_config.json", "model.safetensors", *tokenizer_files.FILES)
NEEDED = ("config.json", "model.safetensors")
_WEIGHTS = re.compile(r".*(\.(safetensors|bin|pt|pth|index)|\.data-\d+-of-\d+)", re.ASCII)
Hashed = Callable[[Path], str]


def entry(path: Path) -> dict[str, object]:
    """A file's line of a manifest, the inverse of `held`."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def held(path: Path) -> dict[str, tuple[int, str]]:
    """Name -> (bytes, sha256) of a manifest.json or verify.json; InputError for a damaged one."""
    files = checked_keys(read_json(path), str(path), {"files": (dict,)})["files"]
    found = {}
    for name, line in files.items():
        if not is_file_name(name):
            raise InputError(f"{path}: names {name[:80]!a}, which is no file of its folder")
        line = checked_keys(line, f"{path}: {name}", {"bytes": (int,), "sha256": (str,)})
        found[name] = (line["bytes"], line["sha256"])
    return found


def beside(folder: Path) -> tuple[Path | None, dict[str, tuple[int, str]]]:
    """The file in a folder that holds checksums of the others, and those."""
    where = folder / MANIFEST
    if re.fullmatch(r"step-\d+", folder.absolute().name, re.ASCII) and where.is_file():
        return where, held(where)
    where = folder / RECORD
    if where.is_file() and "files" in read_json(where):
        return where, held(where)
    return None, {}


def fault(
    folder: Path, name: str, line: tuple[int, str], hashed: Hashed | None = file_sha256
) -> str | None:
    """How a file differs from what was written; None when it does not.

    hashed: what gives its sha256; None compares sizes alone.
    """
    path, (size, digest) = folder / name, line
    if not path.is_file():
        return f"{name} is missing"
    if (there := path.stat().st_size) != size:
        said = foreign.kind(path)
        return f"{name} {said}" if said else f"{name} has {there} bytes, {size} were written"
    if hashed is not None and hashed(path) != digest:
        return f"{name} is not what was written (its sha256 differs); the disk changed it"
    return None


def check_checkpoint(folder: Path, headers: bool = False) -> None:
    """Raise InputError where the model of a run's checkpoint is not what the run wrote.

    headers: compare the sizes of the files alone.
    """
    lines = held(folder / MANIFEST)
    for name in MODEL:
        if name in lines:
            why = fault(folder, name, lines[name], None if headers else known_sha256)
        elif name in NEEDED or (folder / name).exists():  # a manifest of {} would check nothing
            why = f"{MANIFEST} does not list {name}, so it cannot be checked"
        else:
            continue
        if why is not None:
            raise InputError(f"{folder}: {why}; take another step folder of the run")


def check(path: Path, headers: bool = False) -> None:
    """Raise InputError where checksums lie beside a model and its files are not those.

    headers: as in `check_checkpoint`.
    """
    folder = path if path.is_dir() else path.parent
    where, lines = beside(folder)
    if where is not None and where.name == MANIFEST:
        check_checkpoint(folder, headers)
        return
    for name, line in lines.items():
        why = fault(folder, name, line, None if headers else known_sha256)
        if why is not None:
            raise InputError(f"{folder}: {why}, or somebody did on purpose: then delete {where}")


class Checked(NamedTuple):
    """One file of weights. kind: where its checksum is, "" for none. fault: what is wrong."""

    file: Path
    kind: str
    fault: str | None


def hub_hash(path: Path, etag: str) -> str:
    """The hash of a file that its ETag on the hub should be: sha256, or git's of a small file."""
    if len(etag) == 64:
        return file_sha256(path)
    head = b"blob %d\0" % path.stat().st_size
    with path.open("rb") as file:
        git = hashlib.file_digest(file, lambda: hashlib.sha1(head, usedforsecurity=False))
    return git.hexdigest()


def _of_blob(path: Path) -> Checked | None:
    """A file of the hub's cache: its link leads to a blob whose name is its hash."""
    name = path.resolve().name if path.is_symlink() else ""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name):
        return None
    differs = hub_hash(path, name) != name
    return Checked(path, "hub cache", "differs from what was downloaded" if differs else None)


def _inside(path: Path) -> Checked:
    """A file by the checksums that its own format has."""
    try:
        if path.suffix == ".index":
            tensorbundle.read(path.with_suffix(""))
            return Checked(path, "CRC-32C inside", None)
        kind = "CRC-32 inside" if torchfile.verify(path) else ""
        return Checked(path, kind, None)
    except InputError as error:
        return Checked(path, "inside", str(error))


def weights(folder: Path) -> list[Path]:
    """The files of weights in a folder, by their names."""
    return sorted(file for file in folder.iterdir() if _WEIGHTS.fullmatch(file.name))


def report(path: Path) -> Iterator[Checked]:
    """Each file of weights of a model, held against the checksum that it has, if it has one.

    path: a folder or file of a model; of a run, one of its checkpoints.
    """
    folder = path if path.is_dir() else path.parent
    try:
        with accessing(path):
            where, lines = beside(folder)
            files = weights(path) if path.is_dir() else [path]
    except InputError as error:
        yield Checked(path, "", str(error))
        return
    for file in files:
        if ".data-" in file.name:  # TensorFlow's: its checksums are in the index
            continue
        if where is not None and file.name in lines:
            yield Checked(file, where.name, fault(folder, file.name, lines[file.name]))
        elif not file.is_file():
            yield Checked(file, "", "is no file")
        else:
            yield _of_blob(file) or _inside(file)
