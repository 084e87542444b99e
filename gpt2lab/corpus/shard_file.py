"""Shards: a split of a prepared set as NumPy's .npy files, written document by document.

A shard is two files that any program reads: `train-00000.tokens.npy`, the ids as uint16 (uint32
above 65,536 tokens), and `train-00000.ends.npy`, where its documents end, counted in its tokens, as
int64. No document is in two shards. `manifest` describes and checks them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from gpt2lab.errors import InputError
from gpt2lab.files.io import map_bytes, parsing

ENDS = np.dtype("<i8")
HEADER = 128  # bytes before the numbers: NumPy aligns them, whatever the length of the row
KINDS = ("tokens", "ends")
BUFFER = 1 << 18  # tokens of an open shard that wait in memory, or are moved at once


def token_dtype(n_vocab: int) -> np.dtype:
    """Return the type of the ids of a vocabulary."""
    return np.dtype("<u2" if n_vocab <= 1 << 16 else "<u4")


def shard_path(folder: Path, split: str, number: int, kind: str) -> Path:
    """Return the path of one of a shard's two files."""
    return folder / f"{split}-{number:05d}.{kind}.npy"


def read_row(path: Path, dtype: np.dtype, length: int | None = None) -> np.ndarray:
    """Map the row of numbers in an .npy file: [length], by default of any length.

    The header is checked before any number is looked at. Raises InputError for other contents.
    """
    raw = map_bytes(path)
    head = io.BytesIO(raw[:HEADER].tobytes())
    with parsing(path, "an .npy file"):
        if npy.read_magic(head) != (1, 0):
            raise ValueError("a version of the format that is not supported")
        shape, _, found = npy.read_array_header_1_0(head, max_header_size=HEADER)
    row = raw[head.tell() :]
    if found != dtype or shape != (row.size // dtype.itemsize,) or row.size % dtype.itemsize:
        raise InputError(
            f"{path}: {row.size} bytes of numbers, its header says {found} {list(shape)}, expected "
            f"one row of {dtype}; it is cut off or damaged"
        )
    if length not in (None, *shape):
        raise InputError(
            f"{path}: has {shape[0]} numbers, the manifest says {length}; it was replaced, copy it "
            "or prepare the texts again"
        )
    return row.view(dtype)  # [length]


class _Row:
    """A row of numbers that grows in an .npy file, from the first `length` of an earlier one."""

    def __init__(self, path: Path, dtype: np.dtype, length: int) -> None:
        self.dtype = dtype
        size = BUFFER * dtype.itemsize
        self._file = path.open("r+b" if length else "w+b", buffering=size)
        if length and self._file.seek(0, os.SEEK_END) < self._place(length):
            raise InputError(f"{path}: is cut off; start from the beginning with --force")
        self.cut(length)

    def _place(self, number: int) -> int:
        return HEADER + number * self.dtype.itemsize

    def add(self, numbers: np.ndarray) -> None:
        """Append numbers; they are safe on the disk after the next `sync`."""
        self._file.write(numbers.astype(self.dtype).data)
        self.length += len(numbers)

    def cut(self, length: int) -> None:
        """Forget all numbers but the first `length`."""
        self._file.truncate(self._place(length))  # of an empty file: the header, as zeros
        self._file.seek(0, os.SEEK_END)
        self.length = length

    def rest(self, start: int) -> Iterator[np.ndarray]:
        """Yield the numbers from `start` on."""
        self._file.seek(self._place(start))
        while data := self._file.read(BUFFER * self.dtype.itemsize):
            yield np.frombuffer(data, self.dtype)

    def sync(self) -> None:
        """Bring everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write the header of the row as it is now, and close the file."""
        self._file.seek(0)
        values = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        npy.write_array_header_1_0(self._file, values)
        assert self._file.tell() == HEADER
        self.sync()
        self._file.close()

    def leave(self) -> None:
        """Close the file as it is, also where the disk does not take what waits in memory."""
        with suppress(OSError):
            self._file.close()


class Mark(NamedTuple):
    """How far a split is written: shards closed, and tokens and documents of the open one."""

    shard: int = 0
    tokens: int = 0
    documents: int = 0


class ShardWriter:
    """Writes one split, document by document, and can continue from any `Mark` that it gave.

    Which bytes are written depends on the documents alone, not on how often the writing was
    interrupted: what an earlier attempt wrote after the mark is cut off or overwritten. Errors of
    the file system are the caller's.
    """

    def __init__(
        self, folder: Path, split: str, n_vocab: int, shard_tokens: int, mark: Mark
    ) -> None:
        self._folder, self._split, self._most = folder, split, shard_tokens
        self._dtypes = (token_dtype(n_vocab), ENDS)
        self._open(*mark)

    def _open(self, shard: int, tokens: int, documents: int) -> None:
        self._shard, self._begun = shard, tokens  # where the open document begins
        self._tokens, self._ends = self._rows = [
            _Row(shard_path(self._folder, self._split, shard, kind), dtype, length)
            for kind, dtype, length in zip(KINDS, self._dtypes, (tokens, documents), strict=True)
        ]

    @property
    def mark(self) -> Mark:
        """How far the split is written; safe on the disk after the next `sync`."""
        return Mark(self._shard, self._tokens.length, self._ends.length)

    def add(self, ids: np.ndarray) -> None:
        """Append ids to the open document."""
        self._tokens.add(ids)

    def end(self) -> None:
        """Complete the open document; a shard that is full with it is closed."""
        self._begun = self._tokens.length
        self._ends.add(np.array([self._begun]))
        if self._begun >= self._most:
            self._close()
            self._open(self._shard + 1, 0, 0)

    def take_back(self) -> Iterator[np.ndarray]:
        """Yield the ids of the open document, part by part, and then forget them."""
        yield from self._tokens.rest(self._begun)
        self._tokens.cut(self._begun)

    def sync(self) -> None:
        """Bring everything to the disk. No document may be open."""
        assert self._begun == self._tokens.length
        for row in self._rows:
            row.sync()

    def _close(self) -> None:
        for row in self._rows:
            row.close()

    def finish(self) -> int:
        """Close the last shard and return how many there are; one without documents is removed."""
        if self._ends.length:
            self._close()
            return self._shard + 1
        self.leave()
        for kind in KINDS:
            shard_path(self._folder, self._split, self._shard, kind).unlink()
        return self._shard

    def leave(self) -> None:
        """Close the files as they are."""
        for row in self._rows:
            row.leave()
