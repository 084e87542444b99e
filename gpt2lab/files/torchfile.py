"""torch.save's files without torch: plain values and tensors, and never a line of foreign code.

A torch file is a pickle plus raw storages, and a pickle is a program, which `pickles` reads as
data: the few names that weights need are known here, every other one is refused by name. Both
layouts are read: the zip of torch >= 1.6, whose storages are mapped and held against their CRC-32,
and the older stream. What the values mean is described in `nanogpt` and `huggingface`. torch itself
writes such files.

Source of the layouts: torch/serialization.py and torch/_utils.py of torch 2.13.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpt2lab.errors import InputError
from gpt2lab.files import pickles
from gpt2lab.files.io import accessing, contents, map_bytes, read_head
from gpt2lab.files.tensor_bytes import WIDTHS, floats
from gpt2lab.files.visible import reason, shown

ZIP_MAGIC, ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
DIRECTORY = 1 << 22  # bytes of a zip's; an entry has about 80
DIMENSIONS = 64  # NumPy's limit
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
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")


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
        if self.raw is None or self.raw.size != self.count * self.width:
            raise InputError(f"{self.where}: {self.count} numbers are not all there; it is damaged")
        if self.crc is not None and zlib.crc32(self.raw.data) != self.crc:
            raise InputError(f"{self.where}: the CRC-32 is wrong; the file is damaged")
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
        """Raise ValueError for a shape that no tensor has, InputError for one that does not fit."""
        numbers = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or len(self.shape) > DIMENSIONS:
            raise ValueError(
                f"a tensor of {len(self.shape)} dimensions, {len(self.stride)} strides"
            )
        if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
            raise ValueError("a tensor with an impossible shape")
        steps = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum((size - 1) * step for size, step in steps)
        count, size = self.storage.count, self.size
        if size > count or self.offset > count or (size and last >= count):
            raise InputError(
                f"{self.storage.where}: a tensor {list(self.shape[:8])} reaches past its "
                f"{count} numbers; the file is damaged"
            )

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
    if type(storage) is not _Storage or type(shape) is not tuple or type(stride) is not tuple:
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
    if not all(type(part) is int or (type(part) is str and len(part) < 80) for part in parts[:3]):
        raise ValueError("a device without a name")
    return ":".join(str(part) for part in parts[:3])


def _ordered(*items: Any) -> dict[Any, Any]:
    """An OrderedDict, empty or of a list of pairs as Python 2 wrote it."""
    if not items:
        return {}
    (listed,) = items
    if type(listed) is not list or not all(
        type(x) in (list, tuple) and len(x) == 2 for x in listed
    ):
        raise ValueError("an OrderedDict of other things than pairs")
    return pickles.pairs([part for pair in listed for part in pair])


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    **{("torch", name): f"torch.{name}" for name in _DTYPES},
    **{(module, name): name for module in ("torch", "torch.cuda") for name in _KINDS},
}


def _unpickle(
    stream: BinaryIO,
    where: str,
    names: pickles.Names | None = None,
    storage: Callable[[str, tuple[str, int], int], _Storage] | None = None,
) -> Any:
    """One value from the stream, which is left after it; `storage` makes the storage of a key."""

    def referred(pid: Any) -> _Storage:
        if storage is None or type(pid) is not tuple or not 5 <= len(pid) <= 6:
            raise ValueError("a reference to what is no storage")
        tag, kind, key, _, count, *view = pid
        texts = all(type(part) is str for part in (tag, kind, key))
        if not texts or tag != "storage" or kind not in _KINDS or view not in ([], [None]):
            raise ValueError("an unknown kind of storage")
        if type(count) is not int or not 0 <= count < 2**48:
            raise ValueError("a storage with an impossible number of numbers")
        found = storage(key, _KINDS[kind], count)
        if (found.dtype, found.count) != (_KINDS[kind][0], count):
            raise ValueError("a storage that is two things at once")
        return found

    try:
        return pickles.read(stream, where, names, referred)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may raise anything; it is one line here
        raise InputError(
            f"{where}: not a whole pickle ({reason(error)}); the file is truncated or damaged"
        ) from error


def read_plain(path: Path) -> Any:
    """A pickle of plain values (dicts, lists, text, numbers): every name in it is refused."""
    return _unpickle(io.BytesIO(contents(path, pickles.SIZE)), str(path))


def _directory_size(data: np.ndarray) -> int:
    """Bytes of a zip's directory, which `zipfile` would read and keep whatever its size."""
    tail = data[-(1 << 16) - 128 :].tobytes()
    at = len(tail) - 22
    if tail[at : at + 4] != ZIP_END or tail[-2:] != b"\0\0":
        at = tail.rfind(ZIP_END)
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\x06\x07":  # zip64: its record comes before
        return int.from_bytes(tail[at - 36 : at - 28], "little")
    return int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0


def _directory(path: Path, data: np.ndarray) -> list[zipfile.ZipInfo]:
    if _directory_size(data) > DIRECTORY:
        raise InputError(
            f"{path}: its zip directory has more than {DIRECTORY} bytes; it is damaged"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(archive.infolist(), key=lambda info: info.header_offset)
    except OSError:
        raise
    except Exception as error:  # a damaged directory may raise anything; it is one line here
        raise InputError(
            f"{path}: not a whole zip file ({reason(error)}); it is truncated or damaged, "
            "copy it again"
        ) from error


def _place(info: zipfile.ZipInfo, data: np.ndarray) -> int | None:
    """Where the bytes of an entry begin; None where directory and file do not agree on it."""
    start = info.header_offset
    head = data[start : start + 30].tobytes() if start >= 0 else b""
    if len(head) < 30 or head[:4] != ZIP_MAGIC or info.compress_type or info.flag_bits & 1:
        return None
    crc, (name, extra) = int.from_bytes(head[14:18], "little"), struct.unpack("<HH", head[26:30])
    kind = "utf-8" if info.flag_bits & 0x800 else "cp437"
    called = data[start + 30 : start + 30 + name].tobytes()
    if called != info.orig_filename.encode(kind, "replace"):
        return None
    place: int = start + 30 + name + extra
    if info.flag_bits & 8 and not crc:  # the CRC follows the data
        after = data[place + info.file_size :][:8].tobytes()
        crc = int.from_bytes(after[4:8], "little") if after[:4] == b"PK\x07\x08" else info.CRC
    return place if crc == info.CRC else None


def _zip_entries(path: Path, data: np.ndarray) -> dict[str, tuple[int, int, int | None]]:
    """Entry name without the archive's own -> (offset, size, CRC-32).

    torch can leave all CRCs out, and then writes 0: they are None.
    """
    infos, end = _directory(path, data), 0
    summed = any(info.CRC for info in infos)
    entries: dict[str, tuple[int, int, int | None]] = {}
    for info in infos:
        offset, name = _place(info, data), info.filename.partition("/")[2]
        if offset is None:
            raise InputError(f"{path}: entry {shown(info.filename)} is damaged or compressed")
        if offset + info.file_size > data.size or info.file_size != info.compress_size:
            raise InputError(f"{path}: entry {shown(info.filename)} reaches past the file's end")
        if name in entries or info.header_offset < end:
            raise InputError(
                f"{path}: entry {shown(info.filename)} comes twice or overlaps another"
            )
        entries[name] = (offset, info.file_size, info.CRC if summed else None)
        end = offset + info.file_size
    return entries


def _read_zip(path: Path) -> Any:
    data = map_bytes(path)
    entries = _zip_entries(path, data)

    def record(name: str) -> tuple[np.ndarray, int | None]:
        if name not in entries:
            raise InputError(f"{path}: the zip holds no {shown(name)}; it is not from torch.save")
        offset, size, crc = entries[name]
        return data[offset : offset + size], crc

    def storage(key: str, kind: tuple[str, int], count: int) -> _Storage:
        if key not in storages:
            raw, crc = record(f"data/{key}")
            storages[key] = _Storage(*kind, count, raw, crc, f"{path}: storage {shown(key)}")
        return storages[key]

    storages: dict[str, _Storage] = {}
    raw, crc = record("data.pkl")
    if raw.size > pickles.SIZE:
        raise InputError(f"{path}: data.pkl has more than {pickles.SIZE} bytes; it is damaged")
    program = _Storage("uint8", 1, raw.size, raw, crc, f"{path}: data.pkl").bytes().tobytes()
    if "byteorder" in entries and record("byteorder")[0][:9].tobytes() != b"little":
        raise InputError(f"{path}: written on a big-endian machine; save it again on another")
    return _unpickle(io.BytesIO(program), str(path), _ALLOWED, storage)


def _read_stream(path: Path) -> Any:
    """The layout before torch 1.6: four pickles, the keys, then each storage after its count."""
    data, where = map_bytes(path), str(path)
    storages: dict[str, _Storage] = {}

    def storage(key: str, kind: tuple[str, int], count: int) -> _Storage:
        return storages.setdefault(
            key, _Storage(*kind, count, where=f"{path}: storage {shown(key)}")
        )

    stream = io.BytesIO(data[: pickles.SIZE].tobytes())
    _unpickle(stream, where)  # the magic number, seen already
    protocol, system = (_unpickle(stream, where) for _ in range(2))
    little = type(system) is dict and system.get("little_endian") is True
    if protocol != STREAM_PROTOCOL or not little:
        raise InputError(f"{path}: written by an unknown version of torch or big-endian")
    value = _unpickle(stream, where, _ALLOWED, storage)
    keys = _unpickle(stream, where)
    _give(path, data, stream.tell(), storages, keys)
    return value


def _give(
    path: Path, data: np.ndarray, position: int, storages: dict[str, _Storage], keys: Any
) -> None:
    """Give the storages their bytes: each key's follow in this order, after a count."""
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise InputError(f"{path}: holds no list of its storages; the file is damaged")
    for key in keys:
        found = storages.get(key)
        if found is None or found.raw is not None:
            raise InputError(f"{path}: a storage that is unused or comes twice; it is damaged")
        size = found.count * found.width
        if data.size < position + 8 + size:  # also when what is missing is not asked for
            raise InputError(f"{path}: {data.size} bytes are too few; it is truncated")
        if int.from_bytes(data[position : position + 8].tobytes(), "little") != found.count:
            raise InputError(f"{found.where}: its count is not {found.count}; it is damaged")
        found.raw = data[position + 8 : position + 8 + size]
        position += 8 + size


def is_torch_file(path: Path) -> bool:
    """Whether the file begins as torch.save begins one."""
    return read_head(path, len(STREAM_MAGIC)).startswith((ZIP_MAGIC, STREAM_MAGIC))


def verify(path: Path) -> bool:
    """Whether a file has CRCs, which are then compared; InputError where one is wrong."""
    if read_head(path, 4) != ZIP_MAGIC:
        return False
    data, where = map_bytes(path), str(path)
    entries = _zip_entries(path, data)
    for name, (offset, size, crc) in entries.items():
        raw = data[offset : offset + size]
        _Storage("uint8", 1, size, raw, crc, f"{where}: {shown(name)}").bytes()
    return any(crc is not None for _, _, crc in entries.values())


def read(path: Path) -> Any:
    """What torch.save stored: dicts, lists, numbers, text and `Tensor`s. Nothing is executed.

    Raises InputError for a name outside the list, a truncated or damaged file, another format.
    """
    head = read_head(path, len(STREAM_MAGIC))
    if head.startswith(ZIP_MAGIC):
        with accessing(path):
            return _read_zip(path)
    if head == STREAM_MAGIC:
        with accessing(path):
            return _read_stream(path)
    with accessing(path), path.open("rb"):
        raise InputError(f"{path}: not a torch file; it is empty, damaged or of another format")
