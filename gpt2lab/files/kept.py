"""The user's cache folder: files that may vanish, and that no other user can have written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gpt2lab.errors import Failure, InputError
from gpt2lab.files.atomic import write_whole


def _is_own(folder: Path) -> bool:
    """Whether a folder is there, can be written to, and belongs to this user and no one else."""
    s = folder.lstat()
    if not stat.S_ISDIR(s.st_mode) or not os.access(folder, os.W_OK):
        return False
    if os.name == "nt":  # the user's folders are closed to others as they are
        return True
    return s.st_uid == os.getuid() and not s.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _cache_roots() -> Iterator[Path]:
    """Where caches of this user may go: the usual place, and a temporary folder of one's own."""
    env = os.environ
    usual = env.get("LOCALAPPDATA", "") if os.name == "nt" else env.get("XDG_CACHE_HOME", "")
    if not Path(usual).is_absolute():  # the specification of XDG has it ignored
        usual = os.path.expanduser("~/.cache")  # noqa: PTH111 - no error where there is no home
    if Path(usual).is_absolute():
        yield Path(usual) / "gpt2lab"
    import tempfile

    user = env.get("USERNAME", "user") if os.name == "nt" else os.getuid()
    yield Path(tempfile.gettempdir()) / f"gpt2lab-{user}"


def cache_folder(name: str) -> Path:
    """A folder for files that may vanish, made where it is missing: `<user's cache>/gpt2lab/name`.

    It belongs to the user and no other can write to it, so what lies in it may be trusted. Where
    the cache folder is not such a place, it is a temporary folder that is. Raises Failure when
    neither can be had.
    """
    for root in _cache_roots():
        with suppress(OSError):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_own(root):  # nothing is made behind a link that another has put there
                continue
            (root / name).mkdir(mode=0o700, exist_ok=True)
            if _is_own(root / name):
                return root / name
    raise Failure("no folder for caches: neither the user's nor a temporary one can be written to")


def _make_room(folder: Path, most: int) -> None:
    """Delete what was not used for the longest time, until the files have at most `most` bytes.

    Windows deletes no file that a process has mapped; it stays.
    """
    found = sorted((s.st_mtime, s.st_size, p) for p in folder.iterdir() for s in [p.stat()])
    total = sum(size for _, size, _ in found)
    for _, size, path in found:
        if total <= most:
            return
        with suppress(PermissionError):
            path.unlink()
            total -= size


def keep(path: Path, *parts: bytes | memoryview, most: int) -> None:
    """Write a file into a cache folder, whole or not at all; without room, nothing happens.

    most: bytes that the files of the folder may have together; those longest unused are deleted.
    """
    size = sum(memoryview(part).nbytes for part in parts)
    import shutil

    with suppress(OSError, InputError, Failure):
        _make_room(path.parent, most - size)
        if shutil.disk_usage(path.parent).free >= 2 * size:
            write_whole(path, *parts)
