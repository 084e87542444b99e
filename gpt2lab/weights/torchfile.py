"""torch.save's files without torch: plain values and tensors, and never a line of foreign code.

A torch file is a pickle plus raw storages, and a pickle is a program. The reader here knows the
few names that a file of weights needs and refuses every other one by name before anything is
called. Both layouts are read: the zip of torch >= 1.6, whose storages are mapped and held against
their CRC-32, and the older stream. The writer makes the zip that `torch.load(weights_only=True)`
takes. What the values mean is told in `nanogpt` and `huggingface`.

Source of the layouts: torch/serialization.py and torch/_utils.py of torch 2.13.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpt2lab.errors import InputError
from gpt2lab.files import accessing, floats, map_bytes, read_head, reason, shown

ZIP_MAGIC = b"PK\x03\x04"
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


@dataclass
class _Storage:
    """The numbers behind one or several tensors; `raw` comes last in the older layout."""

    dtype: str
    width: int
    count: int
    raw: np.ndarray | None = None
    crc: int | None = None
    where: str = ""

    def bytes(self) -> np.ndarray:
        if self.raw is None or self.raw.size != self.count * self.width:
            raise InputError(f"{self.where}: {self.count} numbers are not all there; it is damaged")
        if self.crc is not None and zlib.crc32(self.raw.data) != self.crc:
            raise InputError(f"{self.where}: the CRC-32 is wrong; the file is damaged")
        self.crc = None  # once is enough
        return self.raw


@dataclass(frozen=True)
class Tensor:
    """A tensor that is read when asked for: an optimizer's are never touched."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return self.storage.dtype

    def _flat(self) -> np.ndarray:
        storage = self.storage
        raw = storage.bytes()
        if storage.dtype in ("float64", "float32", "float16", "bfloat16"):
            return floats(raw, storage.dtype, (storage.count,))
        return raw.view(np.dtype(storage.dtype))

    def array(self) -> np.ndarray:
        """The numbers; 16-bit floats widened to float32. A mapped view where it can be one."""
        flat, size = self._flat(), math.prod(self.shape)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if size > flat.size or (size and last >= flat.size):
            raise InputError(
                f"{self.storage.where}: a tensor {list(self.shape)} reaches past its "
                f"{flat.size} numbers; the file is damaged"
            )
        if size == 0 or _steps(self.shape) == self.stride:
            return flat[self.offset : self.offset + size].reshape(self.shape)
        strides = [step * flat.itemsize for step in self.stride]
        loose = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)
        return np.ascontiguousarray(loose)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or len(shape) != len(stride):
        raise ValueError("a tensor without a storage")
    if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
        raise ValueError("a tensor with an impossible shape")
    return Tensor(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _Call:
    """A name that a pickle may call. Without attributes, so that a pickle cannot change it."""

    __slots__ = ("__function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.__function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a pickle that changes a function")


class _Dict(dict[Any, Any]):
    """OrderedDict as pickles name it; the attributes that torch hangs on it are let go."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def _allowed() -> dict[tuple[str, str], Any]:
    names: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): _Dict,
        ("torch._utils", "_rebuild_tensor_v2"): _Call(_rebuild_tensor),
        ("torch._utils", "_rebuild_tensor"): _Call(_rebuild_tensor),
        ("torch._utils", "_rebuild_parameter"): _Call(_rebuild_parameter),
        ("torch", "Size"): _Call(tuple),
        ("torch", "device"): _Call(lambda *parts: ":".join(map(str, parts))),
    }
    names.update({("torch", name): f"torch.{name}" for name in _DTYPES})
    names.update({("torch", name): kind for name, kind in _KINDS.items()})
    names.update({("torch.cuda", name): kind for name, kind in _KINDS.items()})
    return names


class _Reader(pickle.Unpickler):
    """An unpickler of the allowed names only; `storage` makes the storage of a key."""

    def __init__(
        self,
        stream: BinaryIO,
        where: str,
        allowed: dict[tuple[str, str], Any],
        storage: Callable[[str, tuple[str, int], int], _Storage] | None = None,
    ) -> None:
        super().__init__(stream, encoding="latin-1")
        self._where, self._allowed, self._storage = where, allowed, storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._allowed:
            return self._allowed[module, name]
        raise InputError(
            f"{self._where}: its pickle asks for {shown(f'{module}.{name}')}, which a file of "
            "weights has no need of; it was refused and nothing was run"
        )

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None:
            raise ValueError("a reference to a storage")
        tag, kind, key, _location, count, *view = pid
        if tag != "storage" or kind not in _KINDS.values() or any(view) or type(count) is not int:
            raise ValueError(f"an unknown kind of storage {kind!r}")
        return self._storage(str(key), kind, count)


def _end_of_pickle(stream: BinaryIO, size: int) -> int:
    """Walk one pickle without running it and give its end.

    Python's unpickler makes its memo as large as a pickle says, so that is looked at before.
    """
    position = 0
    for opcode, argument, at in pickletools.genops(stream):
        if opcode.name.endswith("PUT") and int(argument or 0) > size:
            raise ValueError("a memo index larger than the file")
        position = at or 0
    return position + 1


def _unpickle(
    stream: BinaryIO,
    size: int,
    where: str,
    allowed: dict[tuple[str, str], Any] | None = None,
    storage: Callable[[str, tuple[str, int], int], _Storage] | None = None,
) -> Any:
    """One value from the stream, which is left after it."""
    start = stream.tell()
    try:
        end = _end_of_pickle(stream, size)
        stream.seek(start)
        body = io.BytesIO(stream.read(end - start))
        return _Reader(body, where, allowed or {}, storage).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may raise anything; it is one line here
        raise InputError(
            f"{where}: not a whole pickle ({reason(error)}); the file is truncated or damaged"
        ) from error


def read_plain(path: Path) -> Any:
    """A pickle of plain values (dicts, lists, text, numbers): every name in it is refused."""
    with accessing(path):
        data = path.read_bytes()
    return _unpickle(io.BytesIO(data), len(data), str(path))


def _zip_entries(path: Path, data: np.ndarray) -> dict[str, tuple[int, int, int]]:
    """Entry name without the archive's own -> (offset, size, CRC-32)."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise InputError(
            f"{path}: not a whole zip file ({reason(error)}); it is truncated or damaged, "
            "copy it again"
        ) from error
    entries = {}
    for info in infos:
        head = data[info.header_offset : info.header_offset + 30].tobytes()
        if len(head) < 30 or head[:4] != ZIP_MAGIC or info.compress_type or info.flag_bits & 1:
            raise InputError(f"{path}: entry {shown(info.filename)} is damaged or compressed")
        offset = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
        if offset + info.file_size > data.size or info.file_size != info.compress_size:
            raise InputError(f"{path}: entry {shown(info.filename)} reaches past the file's end")
        entries[info.filename.partition("/")[2]] = (offset, info.file_size, info.CRC)
    return entries


def _read_zip(path: Path) -> Any:
    data = map_bytes(path)
    entries = _zip_entries(path, data)

    def record(name: str) -> tuple[np.ndarray, int | None]:
        if name not in entries:
            raise InputError(f"{path}: the zip holds no {shown(name)}; it is not from torch.save")
        offset, size, crc = entries[name]
        # torch can be told to leave the CRC out; it then writes 0.
        return data[offset : offset + size], crc or None

    def storage(key: str, kind: tuple[str, int], count: int) -> _Storage:
        if key not in storages:
            raw, crc = record(f"data/{key}")
            storages[key] = _Storage(*kind, count, raw, crc, f"{path}: storage {shown(key)}")
        return storages[key]

    storages: dict[str, _Storage] = {}
    raw, crc = record("data.pkl")
    program = _Storage("uint8", 1, raw.size, raw, crc, f"{path}: data.pkl").bytes().tobytes()
    if "byteorder" in entries and record("byteorder")[0].tobytes() != b"little":
        raise InputError(f"{path}: written on a big-endian machine; save it again on another")
    return _unpickle(io.BytesIO(program), len(program), str(path), _allowed(), storage)


def _read_stream(path: Path) -> Any:
    """The layout before torch 1.6: four pickles, the keys, then each storage after its count."""
    data, where = map_bytes(path), str(path)
    storages: dict[str, _Storage] = {}

    def storage(key: str, kind: tuple[str, int], count: int) -> _Storage:
        return storages.setdefault(
            key, _Storage(*kind, count, where=f"{path}: storage {shown(key)}")
        )

    with accessing(path), path.open("rb") as stream:
        _unpickle(stream, data.size, where)  # the magic number, seen already
        protocol, system = (_unpickle(stream, data.size, where) for _ in range(2))
        if protocol != STREAM_PROTOCOL or not dict(system).get("little_endian"):
            raise InputError(f"{path}: written by an unknown version of torch or big-endian")
        value = _unpickle(stream, data.size, where, _allowed(), storage)
        keys, position = _unpickle(stream, data.size, where), stream.tell()
    for key in keys:
        if key not in storages:
            raise InputError(f"{path}: a storage that no tensor uses; the file is damaged")
        size = storages[key].count * storages[key].width
        storages[key].raw = data[position + 8 : position + 8 + size]
        position += 8 + size
    if position > data.size:  # also when what is missing is not asked for
        raise InputError(f"{path}: has {data.size} of {position} bytes; it is truncated")
    return value


def is_torch_file(path: Path) -> bool:
    """Whether the file begins as torch.save begins one."""
    return read_head(path, len(STREAM_MAGIC)).startswith((ZIP_MAGIC, STREAM_MAGIC))


def read(path: Path) -> Any:
    """What torch.save stored: dicts, lists, numbers, text and `Tensor`s. Nothing is executed.

    Raises InputError for a name outside the list, a truncated or damaged file, another format.
    """
    head = read_head(path, len(STREAM_MAGIC))
    if head.startswith(ZIP_MAGIC):
        with accessing(path):
            return _read_zip(path)
    if head == STREAM_MAGIC:
        try:
            return _read_stream(path)
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: damaged ({reason(error)}); copy it again") from error
    with accessing(path), path.open("rb"):
        raise InputError(f"{path}: not a torch file; it is empty, damaged or of another format")


# --- writing ---


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data  # LONG1


def _tensor(array: np.ndarray, key: str) -> bytes:
    kind = {"float32": b"FloatStorage", "float64": b"DoubleStorage", "int64": b"LongStorage"}
    steps = _steps(array.shape)
    storage = _text("storage") + b"ctorch\n" + kind[array.dtype.name] + b"\n"
    storage = b"(" + storage + _text(key) + _text("cpu") + _integer(array.size) + b"tQ"
    shape = b"(" + b"".join(map(_integer, array.shape)) + b"t"
    stride = b"(" + b"".join(map(_integer, steps)) + b"t"
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = storage + _integer(0) + shape + stride + b"\x89" + hooks  # offset 0, no gradient
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def _pickled(value: Any, arrays: list[np.ndarray]) -> Iterator[bytes]:
    """The value as pickle opcodes of protocol 2; its arrays are collected, each object once."""
    if isinstance(value, np.ndarray):
        if not any(value is array for array in arrays):
            arrays.append(value)
        key = next(i for i, array in enumerate(arrays) if array is value)
        yield _tensor(value, str(key))
    elif value is None or isinstance(value, bool):
        yield {None: b"N", True: b"\x88", False: b"\x89"}[value]
    elif isinstance(value, int):
        yield _integer(value)
    elif isinstance(value, float):
        yield b"G" + struct.pack(">d", value)
    elif isinstance(value, str):
        yield _text(value)
    elif isinstance(value, dict):
        yield b"}("
        for key, item in value.items():
            yield from _pickled(key, arrays)
            yield from _pickled(item, arrays)
        yield b"u"
    elif isinstance(value, (list, tuple)):
        yield b"](" if isinstance(value, list) else b"("
        for item in value:
            yield from _pickled(item, arrays)
        yield b"e" if isinstance(value, list) else b"t"
    else:
        raise TypeError(f"no place for a {type(value).__name__} in a torch file")


def pickled(value: Any) -> tuple[bytes, list[np.ndarray]]:
    """Plain values and arrays as a pickle, and the arrays whose storages it refers to by number."""
    arrays: list[np.ndarray] = []
    return b"\x80\x02" + b"".join(_pickled(value, arrays)) + b".", arrays


def _entry(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    """One stored entry that begins at a multiple of 64, as torch's do, so that it can be mapped."""
    info = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))
    size = memoryview(data).nbytes
    large = size >= 2**31
    assert archive.fp is not None
    start = archive.fp.tell() + 30 + len(info.filename) + 4 + 20 * large
    padding = -start % 64
    info.extra = struct.pack("<HH", 0x4246, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=large) as file:
        file.write(data)


def write(path: Path, value: Any) -> None:
    """Store dicts, lists, text, numbers, None and float or int64 arrays as torch.save would.

    An array that stands in several places is one storage, as tied weights are in torch.
    """
    program, arrays = pickled(value)
    with accessing(path, "written"), zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _entry(archive, "data.pkl", program)
        _entry(archive, "byteorder", sys.byteorder.encode())
        for number, array in enumerate(arrays):
            flat = np.ascontiguousarray(array).reshape(-1)
            _entry(archive, f"data/{number}", flat.data.cast("B") if flat.size else b"")
        _entry(archive, "version", b"3\n")
