"""Shards: a split of a prepared set as NumPy's .npy files, written document by document.

A shard is two files that any program reads: `train-00000.tokens.npy`, the ids as uint16 (uint32
above 65,536 tokens), and `train-00000.ends.npy`, where its documents end, counted in its tokens, as
int64. No document is in two shards. `manifest` describes and checks them.
"""

from __future__ import annotations

import io
import os
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from gpt2lab.errors import InputError
from gpt2lab.files.io import accessing, map_bytes
from gpt2lab.files.visible import reason

ENDS = np.dtype("<i8")
HEADER = 128  # bytes before the numbers: NumPy aligns them, whatever the length of the row
KINDS = ("tokens", "ends")
#: What NumPy raises at a damaged header, which is a Python literal: its tokenizer's errors pass.
NPY_ERRORS = (ValueError, TypeError, SyntaxError, tokenize.TokenError)


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
    try:
        if npy.read_magic(head) != (1, 0):
            raise ValueError("a version of the format that is not supported")
        shape, _, found = npy.read_array_header_1_0(head, max_header_size=HEADER)
    except NPY_ERRORS as error:
        raise InputError(
            f"{path}: not an .npy file ({reason(error)}); copy it or prepare the texts again"
        ) from error
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


def _header(dtype: np.dtype, length: int) -> bytes:
    """Return what comes before a row of numbers in an .npy file."""
    file = io.BytesIO()
    values = {"descr": dtype.str, "fortran_order": False, "shape": (length,)}
    npy.write_array_header_1_0(file, values)
    assert file.tell() == HEADER
    return file.getvalue()


class _RowWriter:
    """Writes one row of numbers as an .npy file, from any length that was written before."""

    def __init__(self, path: Path, dtype: np.dtype, length: int) -> None:
        """Open the file and cut it to `length` numbers; 0: begin it."""
        self.path, self.length, self._dtype = path, length, dtype
        self._waiting: list[np.ndarray] = []
        self.n_waiting = 0
        with accessing(path, "written"):
            self._file = path.open("r+b" if length else "w+b", buffering=0)
            if not length:
                self._write(_header(dtype, 0))
            if self._file.seek(0, os.SEEK_END) < self._size(length):
                raise InputError(f"{path}: is cut off; start from the beginning with --force")
            self.cut(length)

    def _size(self, length: int) -> int:
        return HEADER + length * self._dtype.itemsize

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        with accessing(self.path, "written"):
            while view:
                view = view[self._file.write(view) :]

    def add(self, numbers: np.ndarray) -> None:
        """Append numbers; they are in the file after the next `flush`."""
        self._waiting.append(numbers)
        self.n_waiting += len(numbers)
        self.length += len(numbers)

    def flush(self) -> None:
        """Give what waits to the file."""
        if self._waiting:
            self._write(np.concatenate(self._waiting).astype(self._dtype).tobytes())
        self._waiting, self.n_waiting = [], 0

    def sync(self) -> None:
        """Bring everything to the disk."""
        self.flush()
        with accessing(self.path, "written"):
            os.fsync(self._file.fileno())

    def cut(self, length: int) -> None:
        """Forget all numbers but the first `length`."""
        self.flush()
        self._file.truncate(self._size(length))
        self._file.seek(0, os.SEEK_END)
        self.length = length

    def rest(self, start: int, most: int) -> Iterator[np.ndarray]:
        """Read the numbers from `start` on, at most `most` at once."""
        self.flush()
        with accessing(self.path), self.path.open("rb") as file:
            file.seek(self._size(start))
            while data := file.read(most * self._dtype.itemsize):
                yield np.frombuffer(data, self._dtype)

    def close(self) -> None:
        """Write the header of the row as it is now, and close the file."""
        self.flush()
        with accessing(self.path, "written"):
            self._file.seek(0)
        self._write(_header(self._dtype, self.length))
        self.sync()
        self.leave()

    def leave(self) -> None:
        """Close the file as it is."""
        self._file.close()


class Mark(NamedTuple):
    """How far a split is written: shards closed, and tokens and documents of the open one."""

    shard: int = 0
    tokens: int = 0
    documents: int = 0


class ShardWriter:
    """Writes one split, document by document, and can continue from any `Mark` that it gave.

    Which bytes are written depends on the documents alone, not on how often the writing was
    interrupted: what an earlier attempt wrote after the mark is cut off or overwritten.
    """

    FLUSH = 1 << 18  # tokens kept in memory

    def __init__(
        self, folder: Path, split: str, n_vocab: int, shard_tokens: int, mark: Mark
    ) -> None:
        self._folder, self._split, self._most = folder, split, shard_tokens
        self._dtypes = (token_dtype(n_vocab), ENDS)
        self._open(*mark)

    def _open(self, shard: int, tokens: int, documents: int) -> None:
        self.shard, self._begun = shard, tokens  # where the open document begins
        self._tokens, self._ends = (
            _RowWriter(shard_path(self._folder, self._split, shard, kind), dtype, length)
            for kind, dtype, length in zip(KINDS, self._dtypes, (tokens, documents), strict=True)
        )

    def add(self, ids: np.ndarray) -> None:
        """Append ids to the open document."""
        self._tokens.add(ids)
        if self._tokens.n_waiting >= self.FLUSH:
            self._flush()

    def _flush(self) -> None:
        self._tokens.flush()
        self._ends.flush()

    def end(self) -> None:
        """Complete the open document; a shard that is full with it is closed."""
        self._begun = self._tokens.length
        self._ends.add(np.array([self._begun]))
        if self._begun >= self._most:
            self._close_shard()
            self._open(self.shard + 1, 0, 0)

    def take_back(self) -> Iterator[np.ndarray]:
        """Yield the ids of the open document, part by part, and then forget them."""
        yield from self._tokens.rest(self._begun, self.FLUSH)
        self._tokens.cut(self._begun)

    @property
    def mark(self) -> Mark:
        """How far the split is written; safe on the disk after the next `sync`."""
        return Mark(self.shard, self._tokens.length, self._ends.length)

    def sync(self) -> None:
        """Bring everything to the disk. No document may be open."""
        assert self._begun == self._tokens.length
        self._tokens.sync()
        self._ends.sync()

    def _close_shard(self) -> None:
        self._tokens.close()
        self._ends.close()

    def finish(self) -> int:
        """Close the last shard and return how many there are; one without documents is removed."""
        if self.mark.documents:
            self._close_shard()
            return self.shard + 1
        self.leave()
        for kind in KINDS:
            shard_path(self._folder, self._split, self.shard, kind).unlink()
        return self.shard

    def leave(self) -> None:
        """Close the files as they are."""
        self._tokens.leave()
        self._ends.leave()
