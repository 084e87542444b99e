"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from gpt2lab.errors import InputError
from gpt2lab.files.io import accessing


def write_whole(path: Path, *parts: str | bytes | memoryview) -> None:
    """Write a file whole or not at all: beside it, under a name of our own, and then renamed."""
    part = path.with_name(f".{os.urandom(16).hex()}.part")
    try:
        with accessing(path, "written"):
            with part.open("wb") as file:
                for data in parts:
                    file.write(data.encode("utf-8") if isinstance(data, str) else data)
            if path.exists():
                import shutil

                shutil.copymode(path, part)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the disk keep a file or a folder; folders cannot be synced everywhere.

    Raises OSError for a file that the disk does not take: some tell of a lack of space only then.
    """
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename the finished folder to its name; what stood there is deleted only after that."""
    for file in (*temporary.rglob("*"), temporary):
        sync(file)
    aside = temporary.with_suffix(".old")
    replacing = os.path.lexists(target)
    if replacing:
        target.rename(aside)
    try:
        temporary.rename(target)
    except BaseException:
        if replacing:
            aside.rename(target)
        raise
    try:
        sync(target.parent)
    finally:
        if replacing:
            _discard(aside)


@contextmanager
def new_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Give a temporary sibling of `target` to write into; it gets the name when all went well.

    Whatever goes wrong inside, Ctrl-C too, leaves no trace and `target` as it was. An existing
    `target` is an error; with `force` it is replaced, after the new one is complete.
    """
    target = target.absolute()
    if os.path.lexists(target) and not force:
        raise InputError(
            f"{target}: exists already; choose another folder, or replace it with --force"
        )
    made = [parent for parent in target.parents if not parent.exists()]
    temporary = target.with_name(f".{os.urandom(16).hex()}.tmp")
    try:
        with accessing(target, "written"):
            temporary.mkdir(parents=True)
            yield temporary
            _put_in_place(temporary, target)
    except BaseException:
        _discard(temporary)
        with suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise
