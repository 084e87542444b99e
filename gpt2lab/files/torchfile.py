"""torch.save's files without torch: plain values and tensors, and never a line of foreign code.

A torch file is a pickle plus raw storages, and a pickle is a program, which `pickles` reads as
data. Both layouts are read: the zip of torch >= 1.6, whose storages are mapped and held against
their CRC-32, and the older stream. What the values mean is for `weights/formats` to know.

Source of the layouts: torch/serialization.py and torch/_utils.py of torch 2.13.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from gpt2lab.errors import InputError
from gpt2lab.files import pickles
from gpt2lab.files.io import (
    accessing,
    check_regular,
    contents,
    damaged,
    map_bytes,
    parsing,
    read_head,
)
from gpt2lab.files.tensor_bytes import WIDTHS, floats
from gpt2lab.files.visible import shown

if TYPE_CHECKING:
    import zipfile

ZIP_MAGIC, ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
DIRECTORY = 1 << 22  # bytes of a zip's; an entry has about 80
DIMENSIONS = 64  # NumPy's limit
NUMBERS = 2**48  # of one storage or tensor; no file has as many
STREAM_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # 0x1950a86a20f9469cfc6c, pickled
STREAM_PROTOCOL = 1001

_KINDS = {  # storage class -> (dtype, bytes of one number)
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of an array in C order, counted in numbers."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@dataclass(slots=True)
class _Storage:
    """The numbers behind one or several tensors; `raw` comes last in the older layout."""

    dtype: str
    width: int
    count: int
    raw: np.ndarray | None = None
    crc: int | None = None
    where: str = ""
    wide: np.ndarray | None = None

    def bytes(self) -> np.ndarray:
        """The bytes, all of them and as they were written."""
        if self.raw is None or self.raw.size != self.count * self.width:
            raise damaged(self.where, f"{self.count} numbers are not all there")
        if self.crc is not None and zlib.crc32(self.raw.data) != self.crc:
            raise damaged(self.where, "the CRC-32 is wrong")
        self.crc = None  # once is enough
        return self.raw

    def flat(self) -> np.ndarray:
        """The numbers in a row; 16-bit floats are widened once for all tensors that share them."""
        if self.wide is None:
            raw = self.bytes()
            if self.dtype in WIDTHS:
                self.wide = floats(raw, self.dtype, (self.count,))
            else:
                self.wide = raw.view(np.dtype(self.dtype))
        return self.wide


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that is read when asked for: an optimizer's are never touched."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raise InputError for a tensor that reaches past its storage, ValueError for none."""
        numbers = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or len(self.shape) > DIMENSIONS:
            raise ValueError(f"{len(self.shape)} dimensions, {len(self.stride)} strides")
        if not all(type(number) is int and 0 <= number < NUMBERS for number in numbers):
            raise ValueError("a tensor with an impossible shape")
        steps = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum((size - 1) * step for size, step in steps)
        count, size = self.storage.count, self.size
        if size > count or self.offset > count or (size and last >= count):
            what = f"a tensor {list(self.shape[:8])} reaches past its {count} numbers"
            raise damaged(self.storage.where, what)

    @property
    def dtype(self) -> str:
        return self.storage.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def array(self) -> np.ndarray:
        """The numbers; 16-bit floats widened to float32. A mapped view where it can be one."""
        flat = self.storage.flat()  # as many as the shape was held against when this was made
        if self.size == 0 or _steps(self.shape) == self.stride:
            return flat[self.offset : self.offset + self.size].reshape(self.shape)
        strides = [step * flat.itemsize for step in self.stride]
        loose = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)
        return np.ascontiguousarray(loose)


# --- what a pickle may name; every function checks what it is given ---


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
    if (type(storage), type(shape), type(stride)) != (_Storage, tuple, tuple):
        raise ValueError("a tensor without a storage or a shape")
    return Tensor(storage, offset, shape, stride)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    if type(tensor) is not Tensor:
        raise ValueError("a parameter that is no tensor")
    return tensor


def _size(sizes: Any) -> tuple[int, ...]:
    if type(sizes) not in (list, tuple) or not all(type(size) is int for size in sizes):
        raise ValueError("a torch.Size of other things than integers")
    return tuple(sizes)


def _device(*parts: Any) -> str:
    if not all(type(part) in (int, str) for part in parts):
        raise ValueError("a device without a name")
    return ":".join(map(str, parts))[:80]


def _ordered(*items: Any) -> dict[Any, Any]:
    """An OrderedDict, empty or of a list of pairs as Python 2 wrote it."""
    if not items:
        return {}
    listed = [(key, value) for key, value in items[0]]
    return pickles.pairs([part for pair in listed for part in pair])


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    **{("torch", dtype): f"torch.{dtype}" for dtype, _ in _KINDS.values()},
    **{(module, name): name for module in ("torch", "torch.cuda") for name in _KINDS},
}
_Made = Callable[[str, tuple[str, int], int], _Storage]  # the storage of a key, a kind and a count


def _referred(pid: Any, storage: _Made) -> _Storage:
    """The storage that a persistent id means: ("storage", class, key, device, count)."""
    tag, kind, key, _, count, *view = pid
    texts = all(type(part) is str for part in (tag, kind, key))
    if not texts or tag != "storage" or kind not in _KINDS or view not in ([], [None]):
        raise ValueError("an unknown kind of storage")
    if type(count) is not int or not 0 <= count < NUMBERS:
        raise ValueError("a storage with an impossible number of numbers")
    found = storage(key, _KINDS[kind], count)
    if (found.dtype, found.count) != (_KINDS[kind][0], count):
        raise ValueError("a storage that is two things at once")
    return found


def _unpickle(stream: BinaryIO, where: str, storage: _Made | None = None) -> Any:
    """One value from the stream, which is left after it; plain where there are no storages."""
    with parsing(where, "a whole pickle"):
        if storage is None:
            return pickles.read(stream, where)
        return pickles.read(stream, where, _ALLOWED, lambda pid: _referred(pid, storage))


def read_plain(path: Path) -> Any:
    """A pickle of plain values (dicts, lists, text, numbers): every name in it is refused."""
    return _unpickle(io.BytesIO(contents(path, pickles.SIZE)), str(path))


def _directory_size(data: np.ndarray) -> int:
    """Bytes of a zip's directory, which `zipfile` would read and keep whatever its size."""
    tail = data[-(1 << 16) - 128 :].tobytes()
    at = tail.rfind(ZIP_END)
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\x06\x07":  # zip64: its record comes before
        return int.from_bytes(tail[at - 36 : at - 28], "little")
    return int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0


def _directory(path: Path, data: np.ndarray) -> list[zipfile.ZipInfo]:
    """The entries in the order of the file, each held against the header before its bytes."""
    if _directory_size(data) > DIRECTORY:
        raise damaged(path, f"its zip directory has more than {DIRECTORY} bytes")
    import zipfile

    with parsing(path, "a whole zip file"), zipfile.ZipFile(path) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        for info in infos:
            archive.open(info).close()
    return infos


def _zip_entries(path: Path, data: np.ndarray) -> dict[str, tuple[np.ndarray, int | None]]:
    """Entry name without the archive's own -> (bytes, CRC-32).

    torch can leave all CRCs out, and then writes 0: they are None.
    """
    infos, end = _directory(path, data), 0
    summed = any(info.CRC for info in infos)
    entries: dict[str, tuple[np.ndarray, int | None]] = {}
    for info in infos:
        start, name = info.header_offset, info.filename.partition("/")[2]
        start += 30 + sum(struct.unpack("<HH", data[start + 26 : start + 30].tobytes()))
        if info.compress_type or start + info.file_size > data.size:
            raise damaged(path, f"entry {shown(info.filename)} is compressed or cut off")
        if name in entries or info.header_offset < end:
            raise damaged(path, f"entry {shown(info.filename)} comes twice or overlaps another")
        end = start + info.file_size
        entries[name] = (data[start:end], info.CRC if summed else None)
    return entries


def _read_zip(path: Path) -> Any:
    entries = _zip_entries(path, map_bytes(path))
    storages: dict[str, _Storage] = {}

    def storage(key: str, kind: tuple[str, int], count: int) -> _Storage:
        if key not in storages:
            raw, crc = entries[f"data/{key}"]
            storages[key] = _Storage(*kind, count, raw, crc, f"{path}: storage {shown(key)}")
        return storages[key]

    if "data.pkl" not in entries:
        raise InputError(f"{path}: the zip holds no data.pkl; it is not from torch.save")
    raw, crc = entries["data.pkl"]
    if raw.size > pickles.SIZE:
        raise damaged(path, f"data.pkl has more than {pickles.SIZE} bytes")
    program = _Storage("uint8", 1, raw.size, raw, crc, f"{path}: data.pkl").bytes().tobytes()
    if "byteorder" in entries and entries["byteorder"][0][:9].tobytes() != b"little":
        raise InputError(f"{path}: written on a big-endian machine; save it again on another")
    return _unpickle(io.BytesIO(program), str(path), storage)


def _read_stream(path: Path) -> Any:
    """The layout before torch 1.6: four pickles, the keys, then each storage after its count."""
    data, where = map_bytes(path), str(path)
    storages: dict[str, _Storage] = {}

    def storage(key: str, kind: tuple[str, int], count: int) -> _Storage:
        new = _Storage(*kind, count, where=f"{path}: storage {shown(key)}")
        return storages.setdefault(key, new)

    stream = io.BytesIO(data[: pickles.SIZE].tobytes())
    _unpickle(stream, where)  # the magic number, seen already
    protocol, system = (_unpickle(stream, where) for _ in range(2))
    little = type(system) is dict and system.get("little_endian") is True
    if protocol != STREAM_PROTOCOL or not little:
        raise InputError(f"{path}: written by an unknown version of torch or big-endian")
    value = _unpickle(stream, where, storage)
    keys = _unpickle(stream, where)
    with parsing(path, "a whole list of storages"):
        _give(data[stream.tell() :], storages, keys)
    return value


def _give(data: np.ndarray, storages: dict[str, _Storage], keys: list[str]) -> None:
    """Give the storages their bytes: each key's follow in this order, after a count."""
    for key in keys:
        found = storages[key]
        size = 8 + found.count * found.width
        if data.size < size:  # also when what is missing is not asked for
            raise ValueError("bytes are missing at its end")
        if found.raw is not None or data[:8].view("<i8")[0] != found.count:
            raise ValueError(f"storage {shown(key)} comes twice or with another count")
        found.raw, data = data[8:size], data[size:]


def is_torch_file(path: Path) -> bool:
    """Whether the file begins as torch.save begins one."""
    return read_head(path, len(STREAM_MAGIC)).startswith((ZIP_MAGIC, STREAM_MAGIC))


def verify(path: Path) -> bool:
    """Whether a file has CRCs, which are then compared; InputError where one is wrong."""
    if read_head(path, 4) != ZIP_MAGIC:
        return False
    entries = _zip_entries(path, map_bytes(path))
    for name, (raw, crc) in entries.items():
        _Storage("uint8", 1, raw.size, raw, crc, f"{path}: {shown(name)}").bytes()
    return any(crc is not None for _, crc in entries.values())


def read(path: Path) -> Any:
    """What torch.save stored: dicts, lists, numbers, text and `Tensor`s. Nothing is executed.

    Raises InputError for a name outside the list, a truncated or damaged file, another format.
    """
    with accessing(path):
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(len(STREAM_MAGIC))
        if head.startswith(ZIP_MAGIC):
            return _read_zip(path)
        if head == STREAM_MAGIC:
            return _read_stream(path)
    raise InputError(f"{path}: not a torch file; it is empty, damaged or of another format")
