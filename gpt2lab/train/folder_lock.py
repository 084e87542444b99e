"""Holding a run's folder: for one process at a time, and wherever it is moved meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from gpt2lab.errors import InputError
from gpt2lab.train.parallel.group import Group


def _identity(path: Path | int) -> tuple[int, int] | None:
    """What tells a folder from all others, whatever its name; None where there is none."""
    with suppress(OSError):
        found = os.fstat(path) if isinstance(path, int) else path.stat()
        return found.st_dev, found.st_ino
    return None


def _name_of(handle: int) -> Path | None:
    """What the system calls a folder that is open, where it tells that."""
    with suppress(OSError):
        return Path(f"/proc/self/fd/{handle}").readlink()
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        return Path(os.fsdecode(fcntl.fcntl(handle, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))  # type: ignore[attr-defined]
    return None


@dataclass
class Claim:
    """A folder that a run holds from before its first file to its end.

    Every process of the run has one. The first holds the lock and the open folder (None on the
    others), so that no process takes itself for one that has nothing yet.
    """

    folder: Path
    made: tuple[Path, ...] = ()  # the folders that were made for it, the innermost first
    lock: filelock.BaseFileLock | None = None
    handle: int | None = None

    def _candidates(self) -> Iterator[Path | None]:
        """Where the folder may be: its name, what the system says, beside its name."""
        assert self.handle is not None
        yield self.folder
        yield _name_of(self.handle)
        with suppress(OSError):
            yield from self.folder.parent.iterdir()

    def whereabouts(self) -> Path | None:
        """Where the folder is now, under another name perhaps; None where it is gone.

        To be asked of the first process. Where folders cannot be opened (Windows) they cannot be
        renamed either while they hold an open file.
        """
        if self.handle is None:
            return self.folder
        own = _identity(self.handle)
        found = (path for path in self._candidates() if path is not None and _identity(path) == own)
        return next(found, None)

    def release(self) -> None:
        """Let go of the folder."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


def held(folder: Path, group: Group, made: tuple[Path, ...] = ()) -> Claim:
    """Hold a folder that is there, or raise InputError, which says that another process does."""
    claim = Claim(folder, made)

    def acquire() -> None:
        lock = filelock.FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(
                f"{folder} is in use by another process; wait for it, or choose another folder"
            ) from None
        claim.lock = lock
        with suppress(OSError):  # Windows
            claim.handle = os.open(folder, os.O_RDONLY)

    group.agree(acquire)
    return claim
