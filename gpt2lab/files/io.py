"""Files read with one line on what is wrong: bytes, text, mapped bytes, and what identifies a file.

Nothing here knows a format. Errors of the file system become one line that names the file.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt2lab.errors import Failure, InputError
from gpt2lab.files.visible import reason

TEXT_LIMIT = 1 << 25  # bytes of a text or JSON file; a vocabulary of 200,000 tokens has 12 million
LFS = b"version https://git-lfs"  # how the pointer begins that git leaves in place of a large file
IS_LFS = "is a Git LFS pointer, not the file itself; run `git lfs pull` in the repository"


def is_file_name(name: str) -> bool:
    """Whether a name from a file names a file in the same folder, and leads nowhere else."""
    plain = name.isprintable() and not set(name) & set("/\\:")
    return plain and name not in ("", ".", "..")


@contextmanager
def accessing(path: Path, verb: str = "read") -> Iterator[None]:
    """Turn what the file system refuses inside the block into one line about `path`.

    A full disk is a Failure, everything else an InputError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Failure(f"{path}: {reason(error)}; free some space and try again") from error
        raise InputError(
            f"{path}: cannot be {verb} ({reason(error)}); check the path, its rights and the disk"
        ) from error


def damaged(where: object, why: str) -> InputError:
    """The error for a file whose content makes no sense, to be raised: the file, and why."""
    return InputError(f"{where}: {why}; it is truncated or damaged, copy it again")


@contextmanager
def parsing(where: object, what: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the block raise into one line: `what` it is not, and why.

    For parsers whose input may be wrong in more ways than are worth a sentence each.
    """
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        why = reason(error)
        why = why if isinstance(error, ValueError) else f"{type(error).__name__}: {why}"
        raise damaged(where, f"not {what} ({why})") from error


def read_head(path: Path, size: int) -> bytes:
    """The first bytes of a regular file; empty when there is none, for recognising formats."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(size)
    except (OSError, ValueError):  # ValueError: a path with a NUL in it
        return b""


def check_regular(path: Path) -> int:
    """The size of a file; InputError for a pipe or a device, which would be waited for for ever."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "pipe or device"
        raise InputError(f"{path}: is a {kind}, expected a file; put the real file in its place")
    return status.st_size


def contents(path: Path, limit: int) -> bytes:
    """The bytes of a regular file that is not meant to be large."""
    with accessing(path):
        if (size := check_regular(path)) > limit:
            raise damaged(path, f"has {size} bytes, at most {limit} are read")
        data = path.read_bytes()
    if data.startswith(LFS):
        raise InputError(f"{path}: {IS_LFS}")
    return data


def map_bytes(path: Path) -> np.ndarray:
    """A file as uint8 [size], mapped, not read: a 6 GB model opens at once and pages in by use.

    The mapping is read-only: arrays over it are the file, and what is known of the file is true of
    them. Copy what you want to change.
    """
    with accessing(path):
        if check_regular(path) == 0:
            return np.zeros(0, np.uint8)
        return np.asarray(np.memmap(path, np.uint8, "r"))  # [size]


def let_go(array: np.ndarray) -> None:
    """Release the memory of a part of a mapped file; the next read pages it in again.

    So a pass over a large file does not hold all of it. Does nothing for arrays of another kind.
    """
    base: Any = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    if base is None or base.mode != "r" or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = (array.ctypes.data - base.ctypes.data) // mmap.PAGESIZE * mmap.PAGESIZE
    with suppress(OSError, ValueError):
        base.base.madvise(mmap.MADV_DONTNEED, start, array.nbytes)


def in_parts(array: np.ndarray, size: int = 1 << 18) -> Iterator[np.ndarray]:
    """Yield `size` numbers of an array at a time, without keeping a mapped file in memory.

    By default a part has a MiB of float32, so that a second look finds it in the processor's cache.
    """
    flat = array.reshape(-1)
    for start in range(0, flat.size, size):
        part = flat[start : start + size]
        yield part
        let_go(part)


class Identity(NamedTuple):
    """What tells a file from all others, and from itself once it has been written to."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content as 64 hexadecimal digits."""
    with accessing(path):
        check_regular(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def identity(path: Path) -> Identity:
    """The identity of a file as it is now, by its real path; InputError when there is none."""
    with accessing(path):
        real = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError at a link to itself
        s = real.stat()
    return Identity(str(real), s.st_size, s.st_mtime_ns, s.st_ino, s.st_ctime_ns)


def read_text(path: Path) -> str:
    """A small UTF-8 file."""
    data = contents(path, TEXT_LIMIT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise damaged(path, f"byte {error.start} is not UTF-8") from error
