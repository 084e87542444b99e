"""Checkpoints that survive: written aside, synced, hashed, renamed, and only then named `latest`.

A checkpoint is a folder `step-N`: a model folder that every tool reads, what a run needs to resume,
and a manifest of the sha256 of each file. It appears whole or not at all, and what the disk changed
later is found before it is used. `saving` decides what the files hold.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpt2lab.errors import Failure, InputError
from gpt2lab.files.atomic import sync, write_whole
from gpt2lab.files.io import accessing, contents
from gpt2lab.files.json_files import write_json
from gpt2lab.train.parallel.group import ALONE, Group
from gpt2lab.weights import checksums

MANIFEST = checksums.MANIFEST
NEEDED = (*checksums.NEEDED, "state.json")
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


def seal(folder: Path) -> None:
    """Write the manifest of all files of the folder; all of it is on the disk after."""
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    for path in files:
        sync(path)
    with ThreadPoolExecutor() as threads:  # large models have many files, hashed side by side
        entries = threads.map(checksums.entry, files)
        lines = {path.name: entry for path, entry in zip(files, entries, strict=True)}
    write_json(folder / MANIFEST, {"format": 1, "files": lines})
    sync(folder / MANIFEST)
    sync(folder)


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None when every file is as it was written."""
    try:
        held = checksums.held(folder / MANIFEST)
    except InputError as error:
        return str(error)
    missing = next((name for name in NEEDED if name not in held), None)
    if missing is not None:
        return f"its manifest does not list {missing}"
    faults = (checksums.fault(folder, name, line) for name, line in held.items())
    return next((why for why in faults if why is not None), None)


# ---- Writing.


def clear(run: Path) -> None:
    """Remove what an interrupted save left behind."""
    for path in [*run.glob("step-*.tmp"), *run.glob("step-*.old")]:
        shutil.rmtree(path, ignore_errors=True)


def begin(run: Path, step: int) -> Path:
    """Make an empty folder `step-N.tmp` to write a checkpoint into."""
    clear(run)
    folder = run / f"{name_of(step)}.tmp"
    with accessing(folder, "written"):
        folder.mkdir(parents=True)
    return folder


def point(run: Path, pointer: str, name: str) -> None:
    """Let the file `pointer` of a run name a checkpoint."""
    write_whole(run / pointer, name + "\n")
    sync(run / pointer)
    sync(run)


def publish(run: Path, step: int) -> Path:
    """Seal `step-N.tmp`, give it its name, and only then let `latest` name it.

    An existing checkpoint of that step (a damaged one, say) is replaced.
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


def save(run: Path, step: int, write: Callable[[Path], None], group: Group = ALONE) -> Path:
    """Write a checkpoint, whole or not at all: `write` fills the folder that it is given.

    Called by all processes of the group, as is `write`. Raises, on all of them, Failure when the
    disk is full, InputError when it cannot be written; earlier checkpoints stay as they were.
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
    """The checkpoint that `latest` or `best` names, None if there is no such file."""
    try:
        name = contents(run / pointer, 1000).decode("ascii").strip()
    except (InputError, UnicodeDecodeError):
        return None
    return name if step_of(name) >= 0 else None


def newest_whole(run: Path, damaged: Callable[[str], None] | None = None) -> Path:
    """Return the checkpoint to resume from: that of `latest`, or the newest intact one before it.

    damaged: called with a line for each damaged checkpoint. Raises Failure if none is intact: a run
    never starts over by itself.
    """
    named = pointed(run, LATEST)
    found = [path for path in all_of(run) if named is None or path.name <= named]
    for folder in reversed(found):
        why = fault(folder)
        if why is None:
            return folder
        if damaged is not None:
            damaged(f"{folder} is damaged and passed over: {why}")
    raise Failure(
        f"{run}: there is no whole checkpoint to resume from; start again with --overwrite"
    )


def prune(run: Path, keep: int, best: str | None) -> None:
    """Delete old checkpoints except the best and the newest `keep` (0 keeps all).

    No checkpoint goes unless the newest one is intact.
    """
    found = [path for path in all_of(run) if path.name != best]
    if not keep or len(found) <= keep or fault(found[-1]) is not None:
        return
    for folder in found[:-keep]:
        aside = folder.with_suffix(".old")  # half a checkpoint must not have a checkpoint's name
        folder.replace(aside)
        shutil.rmtree(aside, ignore_errors=True)
