"""Files: text, JSON and mapped bytes read with one line on what is wrong, and written whole or not.

Nothing here knows a format. Errors of the file system become one line that names the file.
"""

from __future__ import annotations

import errno
import gc
import json
import math
import mmap
import os
import shutil
import stat
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt2lab.errors import Failure, InputError, quoted

WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}  # bytes of one number
_LONGEST = 300  # characters of a name or reason in a message
TEXT_LIMIT = 1 << 25  # bytes of a text or JSON file; a vocabulary of 200,000 tokens has 12 million
LFS = b"version https://git-lfs"  # how the pointer begins that git leaves in place of a large file
IS_LFS = "is a Git LFS pointer, not the file itself; run `git lfs pull` in the repository"
CONTAINERS = 1 << 20  # lists and objects in one JSON file; each takes 60 bytes and more


def reason(error: BaseException) -> str:
    """One printable line saying what an exception said, for use inside another sentence."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join(text.split()) or type(error).__name__
    return shown(line)


def shown(name: str) -> str:
    """A name from a file as it may stand in a message: no control characters, not too long."""
    said = name if name.isprintable() else ascii(name[:_LONGEST])
    return said if len(said) <= _LONGEST else said[: _LONGEST - 3] + "..."


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
            raise InputError(f"{path}: has {size} bytes, at most {limit} are read; it is damaged")
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
    """Give back the memory of a part of a mapped file; whoever reads it next pages it in again.

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


def floats(raw: np.ndarray, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Little-endian bytes as numbers of `shape`: float32 (float64 stays), exactly as stored.

    float32 and float64 are views of the bytes wherever the address is aligned; the 16-bit types
    are widened, which loses nothing.
    """
    if dtype == "bfloat16":  # the upper half of a float32
        halves = raw.view("<u2").astype(np.uint32)
        return (halves << 16).view(np.float32).reshape(shape)
    numbers = raw.view({"float64": "<f8", "float32": "<f4", "float16": "<f2"}[dtype])
    if dtype == "float16":
        return numbers.astype(np.float32).reshape(shape)
    return np.require(numbers, requirements="A").reshape(shape)


def hollow(shape: Sequence[int]) -> np.ndarray:
    """An array of a shape with no numbers behind it, for checks by a file's header alone."""
    return np.broadcast_to(np.float32(0), tuple(shape))


def is_hollow(array: np.ndarray) -> bool:
    """Whether an array was made by `hollow`."""
    return array.size > 1 and not any(array.strides)


class Identity(NamedTuple):
    """What tells a file from all others, and from itself once it has been written to."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int


def identity(path: Path) -> Identity:
    """The identity of a file as it is now, by its real path; InputError when there is none."""
    with accessing(path):
        real = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError at a link to itself
        s = real.stat()
    return Identity(str(real), s.st_size, s.st_mtime_ns, s.st_ino, s.st_ctime_ns)


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


def read_text(path: Path) -> str:
    """A small UTF-8 file."""
    data = contents(path, TEXT_LIMIT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; the file is damaged") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise InputError(f"the key {shown(twice)} stands there twice")
    return values


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep Python's garbage collector from walking over all that a parser is just making.

    For a vocabulary that is a third of the time, and nothing of it is garbage.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object; a key that stands twice in it is refused, as one of the two would be lost."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if data.count(b"[") + data.count(b"{") > CONTAINERS:
        raise InputError(f"{where}: holds more than {CONTAINERS} lists and objects; it is damaged")
    try:
        with _without_collecting():
            values = json.loads(text, object_pairs_hook=_once)
    except InputError as error:
        raise InputError(f"{where}: {error}; the file was tampered with or badly joined") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: not valid JSON ({reason(error)}); it is truncated or damaged, copy it again"
        ) from error
    if not isinstance(values, dict):
        raise InputError(f"{where}: holds a {type(values).__name__}, expected a JSON object")
    return values


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    return parse_json(read_text(path), str(path))


def checked(values: Any, where: str, kinds: Mapping[Any, tuple[type, ...]]) -> dict[str, Any]:
    """A JSON object in which these keys have values of these types; it may have more of them.

    Raises InputError for the first that is missing or of another type, and for numbers that are
    NaN or beyond 64 bits.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: is {quoted(values)}, expected a JSON object; it is damaged")
    for name, types in kinds.items():
        value = values.get(name)
        fits = not isinstance(value, int | float) or -(2**63) < value < 2**63
        if type(value) not in types or not fits:
            wanted = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise InputError(
                f"{where}: {name} is {quoted(value)}, expected {wanted}; it is damaged"
            )
    return values


def finite(value: Any) -> Any:
    """The value with None for each number that is not finite, which JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return value


def to_json(value: Any, *, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """JSON that every reader takes: a number that is not finite is null."""
    return json.dumps(finite(value), allow_nan=False, ensure_ascii=ensure_ascii, indent=indent)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """A JSON object to a file, as people read it."""
    path.write_text(to_json(values, indent=2) + "\n", encoding="utf-8")


def write_whole(path: Path, content: str | bytes) -> None:
    """The whole file or nothing: written beside, under a name of our own, then renamed."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with accessing(path, "written"):
            part.write_bytes(data)
            if path.exists():
                shutil.copymode(path, part)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the disk keep a file or a folder; folders cannot be synced everywhere.

    Raises OSError for a file that the disk does not take: some tell of a lack of space only then.
    """
    if not path.is_dir():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
        return
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
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
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
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
