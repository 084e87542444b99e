"""Packed weights: one block of memory, kept on disk for the next start.

A `PackPlan` lists arrays and how each is filled; `build` maps the block from the user's cache
folder where it was made before, else fills it and keeps it there. A file that is damaged, truncated
or of another layout is made again.

The block is mapped, not read: its pages are the page cache's, so a start copies nothing and several
processes hold them once. Its checksum is compared when the file is new or has changed
(`files.file_facts`), and once a day. Nothing writes into a kept file: it is made whole beside its
name, and deleting it leaves a mapping as it is.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.engines.cpu.layout import ceil_to
from gpt2lab.errors import Failure, InputError
from gpt2lab.files import file_facts
from gpt2lab.files.io import check_regular, identity, map_bytes
from gpt2lab.files.kept import cache_folder, keep

Array = np.ndarray[Any, np.dtype[Any]]
Fill = Callable[[Array], None]

LEAST = 32 << 20  # smaller blocks are packed faster than found
MOST = 8 << 30  # bytes that are kept in all; the longest unused go first
DAY = 86400.0  # seconds; used files get a new time, and are verified, this often
_MAGIC = b"gpt2lab packed 2"
_HEAD = struct.Struct("<16sQQ32x")  # magic, bytes, crc32c; the block begins at a multiple of 64
_PART = 16 << 20


class PackPlan:
    """Arrays that will lie in one block, each at a multiple of 64 bytes."""

    def __init__(self) -> None:
        self._items: list[tuple[int, int, tuple[int, ...], Any, Fill]] = []
        self.size = 0

    def add(self, shape: tuple[int, ...], kind: Any, fill: Fill) -> int:
        """An array and the function that will fill it; returns its place in the block."""
        place = self.size
        self.size = ceil_to(place + int(np.prod(shape)) * np.dtype(kind).itemsize, 64)
        self._items.append((place, self.size, shape, kind, fill))
        return place

    def build(self, key: Callable[[], str] | None, threads: int = 1) -> Array:
        """The block, uint8. key: names the content exactly; None, or a small block, is not kept."""
        file = _file(key()) if key is not None and self.size >= LEAST else None
        if file is not None and (found := _mapped(file, self.size)) is not None:
            return found
        raw = np.empty(self.size + 64, np.uint8)
        block = raw[-raw.ctypes.data % 64 :][: self.size]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(threads) as pool:  # NumPy copies without Python's lock
            list(pool.map(lambda item: _fill(block, *item), self._items))
        if file is not None:
            keep(file, _HEAD.pack(_MAGIC, len(block), _crc(block)), block.data, most=MOST)
        return block


def _fill(
    block: Array, place: int, end: int, shape: tuple[int, ...], kind: Any, fill: Fill
) -> None:
    """One array, and zeros up to the next."""
    count = int(np.prod(shape)) * np.dtype(kind).itemsize
    block[place + count : end] = 0
    fill(block[place : place + count].view(kind).reshape(shape))


def layout_key(*parts: Any) -> str:
    """A short hash of a layout: some values, and the code that packs."""
    digest = hashlib.sha256(repr(parts).encode())
    for name in ("packing.py", "layout.py", "packed_cache.py", "weights.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:16]


def _file(key: str) -> Path | None:
    with suppress(Failure):
        return cache_folder("weights") / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.bin"
    return None


def _crc(block: Array) -> int:
    import google_crc32c

    fixed, crc = block.view(), 0
    fixed.flags.writeable = False  # the library takes no other memory
    for start in range(0, len(fixed), _PART):
        crc = google_crc32c.extend(crc, fixed[start : start + _PART])
    return int(crc)


def _mapped(path: Path, size: int) -> Array | None:
    """The block in a file; None when it is not there, damaged, or another's."""
    try:
        if check_regular(path) != _HEAD.size + size:
            return None
        files, raw = (identity(path),), map_bytes(path)
        magic, length, crc = _HEAD.unpack(raw[: _HEAD.size].tobytes())
        if magic != _MAGIC or length != size:
            return None
        block = raw[_HEAD.size :]
        old = path.stat().st_mtime < time.time() - DAY
        if old or file_facts.recall(files, "crc32c") != crc:
            if _crc(block) != crc:
                return None
            file_facts.remember(files, "crc32c", crc)
        if old:
            os.utime(path)
    except (OSError, InputError):
        return None
    _expect(raw)
    return block


def _expect(raw: Array) -> None:
    """Ask the system to read a mapped file ahead, all of which will be used."""
    with suppress(AttributeError, OSError, ValueError):
        base: Any = raw.base
        base.base.madvise(mmap.MADV_WILLNEED)
