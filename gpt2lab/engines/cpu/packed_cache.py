"""Packed weights: one block of memory, kept on disk for the next start.

A `PackPlan` lists arrays and how each is filled; `build` reads the block from the user's cache
folder where it was made before, else fills it and keeps it there. A file that is damaged, truncated
or of another layout is made again. The block is read, not mapped: memory of its own can have large
pages, and a file that goes away does not matter.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.engines.cpu.layout import ceil_to
from gpt2lab.errors import Failure, InputError
from gpt2lab.files.io import check_regular
from gpt2lab.files.kept import cache_folder, keep

Array = np.ndarray[Any, np.dtype[Any]]
Fill = Callable[[Array], None]

LEAST = 32 << 20  # smaller blocks are packed faster than found
MOST = 8 << 30  # bytes that are kept in all; the longest unused go first
_MAGIC = b"gpt2lab packed 1"
_HEAD = struct.Struct("<16sQQ")  # magic, bytes, crc32c
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
        raw = np.empty(self.size + 64, np.uint8)
        block = raw[-raw.ctypes.data % 64 :][: self.size]
        file = _file(key()) if key is not None and self.size >= LEAST else None
        if file is None or not _read(file, block):
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

    crc = 0
    for start in range(0, len(block), _PART):
        crc = google_crc32c.extend(crc, block[start : start + _PART].tobytes())
    return int(crc)


def _read(path: Path, block: Array) -> bool:
    """Fill the block from a file; False when it is not there, damaged, or another's."""
    try:
        if check_regular(path) != _HEAD.size + len(block):
            return False
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            if len(head) != _HEAD.size:
                return False
            magic, size, crc = _HEAD.unpack(head)
            if magic != _MAGIC or size != len(block):
                return False
            if file.readinto(block.data) != size or file.read(1) or _crc(block) != crc:
                return False
        os.utime(path)
    except (OSError, InputError):
        return False
    return True
