"""One file of the hub in the cache that all its tools share: fetched, resumed, checked, linked.

A transfer that was cut resumes where it stopped, also in a later call, and each file is checked
against the hash that the hub gives. huggingface_hub (2.4) throws a partial file away when a call
ends, and does not check hashes.

Source: huggingface_hub 2.4 `file_download.py` (the cache's layout).
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt2lab.errors import Failure, InputError
from gpt2lab.files.visible import reason
from gpt2lab.weights import checksums
from gpt2lab.weights.hub import transfer as web
from gpt2lab.weights.hub.address import Hub, library
from gpt2lab.weights.hub.transfer import Passing, Remote

#: Called while a file arrives with its name, the bytes that are there, and all of them (or None).
Progress = Callable[[str, int, int | None], None]


@contextmanager
def writing(hub: Hub) -> Iterator[None]:
    """Turn what the disk refuses inside the block into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Failure(
                f"{hub.folder}: the disk is full ({reason(error)}); make room, the same command "
                "then resumes where it stopped; or set HF_HUB_CACHE to another disk"
            ) from error
        raise InputError(
            f"{hub.folder}: cannot be written ({reason(error)}); set HF_HUB_CACHE to a folder "
            "that you may write"
        ) from error


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _start(hub: Hub, remote: Remote, answer: Any, path: Path, have: int) -> int:
    """Where the bytes of an answer belong; 0 when the server sends the whole file."""
    if answer.status_code not in (206, 416):
        answer.raise_for_status()
        return 0
    if have and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        return have
    path.unlink(missing_ok=True)  # it understood something else; from the start, then
    raise Passing(f"{hub.endpoint} cannot go on with {remote.file}; run the command again")


def _receive(hub: Hub, remote: Remote, path: Path, progress: Progress | None) -> None:
    """One request for what is missing of a file; bytes are kept as they come.

    A body is left as soon as it is longer than the file may be; the check will say how.
    """
    have = _length(path)
    with web.opened(hub, remote.file, have) as answer:
        have = _start(hub, remote, answer, path, have)
        with path.open("r+b" if have else "wb") as file:
            file.seek(have)
            for piece in answer.iter_bytes():
                file.write(piece)
                have += len(piece)
                if progress:
                    progress(remote.file, have, remote.size)
                if have > (remote.limit if remote.size is None else remote.size):
                    break


def _fetch(hub: Hub, remote: Remote, path: Path, progress: Progress | None) -> None:
    """Fetch a file to `path`, resuming from what is there. Cut transfers are taken up again."""
    missing, free = (remote.size or 0) - _length(path), shutil.disk_usage(path.parent).free
    if missing > free:
        raise Failure(
            f"{hub.folder}: {remote.file} needs {missing / 1e6:,.1f} MB more and the disk has "
            f"{free / 1e6:,.1f} MB free; make room, or set HF_HUB_CACHE to another disk"
        )

    def attempt() -> None:
        if remote.size is not None and path.exists() and _length(path) >= remote.size:
            return
        with web.network(hub, remote.file):
            _receive(hub, remote, path, progress)
        if _length(path) < (remote.size or 0):
            raise Passing(f"{hub.endpoint} sent too little of {remote.file}; run it again")

    web.patiently(attempt, web.WAITS, (Passing, web.NoConnection), lambda: _length(path))


def _fault(remote: Remote, path: Path) -> str | None:
    """What is wrong with a file that should be whole; None when it is as the hub says."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"it has {size} bytes, expected {remote.size}"
    if size > remote.limit:
        return f"it has more than {remote.limit:,} bytes, which it may have at most"
    found = checksums.hub_hash(path, remote.etag) if remote.is_hashed else remote.etag
    return None if found == remote.etag else f"its hash is {found}, expected {remote.etag}"


def fetch_checked(hub: Hub, remote: Remote, path: Path, progress: Progress | None) -> None:
    """Fetch a file and check it. A wrong one is removed; what was resumed is fetched once afresh,
    as the part from an earlier call may have been the bad one."""
    fault = None
    for _ in range(2 if path.exists() else 1):
        _fetch(hub, remote, path, progress)
        fault = _fault(remote, path)
        if fault is None:
            return
        path.unlink()
    raise Failure(
        f"{remote.file} of {hub.repo} arrived damaged: {fault}; it was removed, "
        f"run the command again, or name another endpoint than {hub.endpoint}"
    )


def _link(blob: Path, pointer: Path) -> None:
    """Give a blob its name in the snapshot; where links cannot be made, as on Windows, move it."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except (OSError, NotImplementedError):
        blob.replace(pointer)


def _only_a_file(path: Path) -> None:
    """Remove what is not a plain file where one is to be written: a link would lead elsewhere."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.unlink()


def _obtain(hub: Hub, remote: Remote, name: str, force: bool, progress: Progress | None) -> None:
    """Have a checked file in the snapshot: the one that is there, else a fetched one."""
    blob = hub.folder / "blobs" / name
    pointer = hub.folder / "snapshots" / remote.commit / remote.file
    partial = blob.with_name(f"{name}.incomplete")  # older versions of the hub go on with it
    there = next((path for path in (blob, pointer) if path.is_file()), None)
    if there and not force and _fault(remote, there) is None:
        if there == blob and not (pointer.is_symlink() and pointer.exists()):
            _link(blob, pointer)
        return
    _only_a_file(partial)
    if force or not remote.is_hashed:  # a part of an earlier call could not be checked
        partial.unlink(missing_ok=True)
    fetch_checked(hub, remote, partial, progress)
    partial.replace(blob)
    _link(blob, pointer)


def obtain(hub: Hub, remote: Remote, force: bool, progress: Progress | None) -> None:
    """Have a file, after other processes that fetch the same one."""
    name = remote.etag
    if not remote.is_hashed:  # such an etag may be that of all files
        what = "\n".join((remote.commit, remote.file, remote.etag))
        name = hashlib.sha256(what.encode()).hexdigest()
    with writing(hub):
        for folder in (hub.locks, hub.folder / "blobs"):
            folder.mkdir(parents=True, exist_ok=True)
        lock = hub.locks / f"{name}.lock"
        _only_a_file(lock)
        with library().utils.WeakFileLock(lock):
            _obtain(hub, remote, name, force, progress)
