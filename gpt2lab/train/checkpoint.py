"""Checkpoints that survive: written aside, synced, hashed, renamed, and only then named `latest`.

A checkpoint is a folder `step-N`: a model folder that every tool reads, with what a run needs to
go on beside it, and a manifest of the sha256 of each file. It appears whole or not at all, and what
the disk changed later is found before it is used: safetensors would load a flipped byte without a
word. Nothing in it is a pickle. What stands in the files is `run`'s.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpt2lab.errors import Failure, InputError
from gpt2lab.files import accessing, is_file_name, read_json, sync, write_json, write_whole
from gpt2lab.train.distributed import ALONE, Group

MANIFEST = "manifest.json"
LATEST = "latest"
_NAME = re.compile(r"step-(\d{8,})", re.ASCII)


def name_of(step: int) -> str:
    """The folder of a step's checkpoint; names sort as steps do."""
    return f"step-{step:08d}"


def step_of(name: str) -> int:
    """The inverse of `name_of`; -1 for any other name."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else -1


def all_of(run: Path) -> list[Path]:
    """The checkpoints of a run by their names, whole or not, the oldest first."""
    with accessing(run):
        return sorted(path for path in run.iterdir() if path.is_dir() and step_of(path.name) >= 0)


# ---- Whether a checkpoint is what was written.


def sha256(path: Path) -> str:
    """The sha256 of a file."""
    with accessing(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Write the manifest: what every file of the folder holds. All of it is on the disk after."""
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    for path in files:
        sync(path)
    with ThreadPoolExecutor() as threads:  # hashing lets them run side by side: large models have
        digests = list(threads.map(sha256, files))  # many files, and the save may be in a hurry
    held = {
        path.name: {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(files, digests, strict=True)
    }
    write_json(folder / MANIFEST, {"format": 1, "files": held})
    sync(folder / MANIFEST)
    sync(folder)


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None when every file is as it was written."""
    try:
        files = read_json(folder / MANIFEST)["files"]
        for name, held in files.items():
            if not is_file_name(name):
                return f"its manifest names {name!a}"
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != held["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, {held['bytes']} were written"
            if sha256(path) != held["sha256"]:
                return f"{name} is not what was written (its sha256 differs); the disk changed it"
    except InputError as error:
        return str(error)
    except (KeyError, TypeError, AttributeError):
        return "its manifest is damaged"
    return None


# ---- Writing.


def begin(run: Path, step: int) -> Path:
    """An empty folder `step-N.tmp` to write a checkpoint into; leftovers of others are removed."""
    clear(run)
    folder = run / f"{name_of(step)}.tmp"
    with accessing(folder, "written"):
        folder.mkdir(parents=True)
    return folder


def clear(run: Path) -> None:
    """Remove what a broken-off save left behind."""
    for path in [*run.glob("step-*.tmp"), *run.glob("step-*.old")]:
        shutil.rmtree(path, ignore_errors=True)


def publish(run: Path, step: int) -> Path:
    """Seal `step-N.tmp`, give it its name, and only then let `latest` name it.

    A checkpoint of that step that stood there (a damaged one, say) makes way.
    """
    temporary, folder = run / f"{name_of(step)}.tmp", run / name_of(step)
    with accessing(folder, "written"):
        seal(temporary)
        if folder.exists():
            folder.rename(folder.with_suffix(".old"))
        temporary.rename(folder)
        sync(run)
        point(run, LATEST, folder.name)
    clear(run)
    return folder


def point(run: Path, pointer: str, name: str) -> None:
    """Let the file `pointer` of a run name a checkpoint."""
    write_whole(run / pointer, name + "\n")
    sync(run / pointer)
    sync(run)


def save(run: Path, step: int, write: Callable[[Path], None], group: Group = ALONE) -> Path:
    """Write a checkpoint: `write` fills the folder it is given. Whole or not at all.

    Called by all processes of the group, and so is `write`. Raises, on all of them, Failure when
    the disk is full, InputError when it cannot be written; the checkpoints before it are then as
    they were.
    """
    folder = group.agree(lambda: begin(run, step))
    try:
        with accessing(folder, "written"):
            write(folder)
        return group.agree(lambda: publish(run, step))
    finally:
        if group.first:
            clear(run)


# ---- Finding one again.


def pointed(run: Path, pointer: str) -> str | None:
    """The checkpoint that `latest` or `best` names, None where there is no such file."""
    try:
        name = (run / pointer).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if step_of(name) >= 0 else None


def newest_whole(run: Path, tell: Callable[[str], None]) -> Path:
    """The checkpoint to go on from: the one `latest` names, or the newest whole one before it.

    tell: gets a line for each that is damaged. Raises Failure when none is whole: a run never
    starts over by itself.
    """
    named = pointed(run, LATEST)
    found = all_of(run)
    if named is not None:
        found = [path for path in found if path.name <= named]
    for folder in reversed(found):
        why = fault(folder)
        if why is None:
            return folder
        tell(f"{folder} is damaged and passed over: {why}")
    raise Failure(
        f"{run}: there is no whole checkpoint to resume from; start again with --overwrite"
    )


def prune(run: Path, keep: int, best: str | None) -> None:
    """Delete old checkpoints but the newest `keep` (0: all are kept) and the best.

    Called after a newer one is in place; of the newest, at least one is always kept, and no other
    goes unless that one is whole.
    """
    found = [path for path in all_of(run) if path.name != best]
    if not keep or len(found) <= keep or fault(found[-1]) is not None:
        return
    for folder in found[:-keep]:
        aside = folder.with_suffix(".old")  # half a checkpoint must not have a checkpoint's name
        folder.replace(aside)
        shutil.rmtree(aside, ignore_errors=True)
