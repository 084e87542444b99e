"""TensorFlow's checkpoint files without TensorFlow: named tensors in an index and data shards.

`PREFIX.index` is a table in LevelDB's layout (sorted keys, prefix-compressed, in checked blocks);
its values are small protocol buffers that say where a tensor lies in
`PREFIX.data-00000-of-0000N`. Both the blocks and the tensors carry a CRC-32C, and both are held
against it. The meaning of the names is explained in `openai`.

Source of the layouts: tensorflow/core/util/tensor_bundle/tensor_bundle.h,
tensorflow/core/protobuf/tensor_bundle.proto, LevelDB's doc/table_format.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2lab.errors import InputError
from gpt2lab.files.io import accessing, map_bytes
from gpt2lab.files.tensor_bytes import WIDTHS, floats, hollow
from gpt2lab.files.visible import shown
from gpt2lab.weights.checkpoint import Params

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER = 48  # two block handles, padded to 40 bytes, and the magic number
DTYPES = {1: "float32", 2: "float64", 14: "bfloat16", 19: "float16"}  # types.proto
BLOCK = 1 << 14  # a written block is closed when it holds this many bytes

_DAMAGED = "the file is truncated or damaged, copy it again"


class _Fault(Exception):
    """What is wrong inside a file, before its name is put in front."""


@dataclass(frozen=True)
class _Entry:
    """Where one tensor lies."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: bool


def _crc(data: bytes | np.ndarray) -> int:
    """CRC-32C; a mapped tensor goes through in pieces, so that it is never in memory twice."""
    from google_crc32c import extend

    crc = 0
    for start in range(0, len(data), 1 << 24):
        crc = extend(crc, bytes(data[start : start + (1 << 24)]))
    return crc


def _masked(crc: int) -> int:
    """LevelDB's mask: a CRC over data that itself holds CRCs is weak, so they are stored turned."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place and the place after it; seven bits a byte, lowest first."""
    number = shift = 0
    while True:
        if at >= len(data) or shift > 56:
            raise _Fault("a number does not end")
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return number, at


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and value of a protocol buffer: a varint, four or eight bytes, or a piece."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield field, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _Fault(f"a field of unknown type {kind}")
        piece, at = data[at : at + size], at + size
        if len(piece) < size:
            raise _Fault("a field reaches past the end")
        yield field, piece if kind == 2 else int.from_bytes(piece, "little")


def _numbers(data: bytes) -> dict[int, int]:
    return {field: value for field, value in _fields(data) if isinstance(value, int)}


def _entry(data: bytes) -> _Entry:
    numbers, shape, slices = _numbers(data), [], False
    for field, value in _fields(data):
        if field == 2 and isinstance(value, bytes):
            dims = (part for number, part in _fields(value) if number == 2)
            shape = [_numbers(part).get(1, 0) for part in dims if isinstance(part, bytes)]
        slices |= field == 7
    dtype, shard, offset, size, crc = (numbers.get(field, 0) for field in (1, 3, 4, 5, 6))
    return _Entry(dtype, tuple(shape), shard, offset, size, crc, slices)


def _block(data: bytes, handle: tuple[int, int]) -> bytes:
    """The contents of one block, its CRC checked and its restart points cut off."""
    offset, size = handle
    if offset + size + 5 > len(data) - FOOTER:
        raise _Fault("a block reaches past the end")
    body, kind = data[offset : offset + size], data[offset + size]
    stored = int.from_bytes(data[offset + size + 1 : offset + size + 5], "little")
    if _masked(_crc(body + bytes([kind]))) != stored:
        raise _Fault("the CRC-32C of a block is wrong")
    if kind != 0:
        raise _Fault(f"a block is compressed (kind {kind}); TensorFlow writes them plain")
    restarts = int.from_bytes(body[-4:], "little") if size >= 4 else size
    if 4 * restarts + 4 > size:
        raise _Fault("a block's restart points reach past its beginning")
    return body[: size - 4 * restarts - 4]


def _items(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of every entry; a key is given as what it shares with the one before and on."""
    at, key = 0, b""
    while at < len(block):
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or at + fresh + size > len(block):
            raise _Fault("an entry reaches past its block")
        key = key[:shared] + block[at : at + fresh]
        at += fresh + size
        yield key, block[at - size : at]


def _handle(data: bytes, at: int = 0) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _table(data: bytes) -> dict[bytes, bytes]:
    """Every key and value of a whole table file."""
    footer = data[-FOOTER:]
    if len(footer) < FOOTER or not footer.endswith(MAGIC):
        raise _Fault("the magic number at its end is missing")
    _, at = _handle(footer)  # the meta index: nothing there
    index, _ = _handle(footer, at)
    entries: dict[bytes, bytes] = {}
    for _, value in _items(_block(data, index)):
        for key, content in _items(_block(data, _handle(value)[0])):
            if key in entries:
                raise _Fault("a name occurs twice")
            entries[key] = content
    return entries


def _index(data: bytes) -> tuple[int, dict[str, _Entry]]:
    """The number of shards, and name -> entry."""
    table = _table(data)
    header = _numbers(table.pop(b"", b""))
    if header.get(2, 0) != 0:
        raise _Fault("its numbers are big-endian, which is not read")
    shards = header.get(1, 0)
    if not 1 <= shards <= 99999:
        raise _Fault(f"it speaks of {shards} data files")
    names = {key.decode("utf-8", "backslashreplace"): _entry(value) for key, value in table.items()}
    return shards, names


def index_path(prefix: Path) -> Path:
    """The index file of a checkpoint prefix."""
    return prefix.with_name(prefix.name + ".index")


def shard_path(prefix: Path, shard: int, shards: int) -> Path:
    """The data file with a number."""
    return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")


def exists(prefix: Path) -> bool:
    """Whether a checkpoint of this prefix lies there: an index, and a data file beside it."""
    return index_path(prefix).is_file()


def _tensor(data: np.ndarray, entry: _Entry, headers: bool) -> np.ndarray:
    """One tensor out of its mapped shard; shape, size and CRC-32C are checked first.

    headers: only shape and size are, and the array is hollow.
    """
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise _Fault(f"has the dtype number {entry.dtype}, which holds no weights")
    if entry.slices:
        raise _Fault("is a partitioned variable, which GPT-2 never has; save it in one piece")
    if math.prod(entry.shape) * WIDTHS[dtype] != entry.size:
        raise _Fault(f"has {entry.size} bytes, too many or too few for {list(entry.shape)} {dtype}")
    if entry.offset + entry.size > data.size:
        raise _Fault(f"reaches past the end of its data file of {data.size} bytes")
    if headers:
        return hollow(entry.shape)
    raw = data[entry.offset : entry.offset + entry.size]
    if _masked(_crc(raw)) != entry.crc:
        raise _Fault("does not match its CRC-32C")
    return floats(raw, dtype, entry.shape)


def read(
    prefix: Path, wanted: Callable[[str], bool] = lambda name: True, headers: bool = False
) -> Params:
    """Name -> array of the tensors that are wanted: float32 (float64 stays), mapped.

    headers: the numbers are not read and the arrays are hollow.

    Raises InputError for whatever is missing, truncated, damaged or not plain weights.
    """
    path = index_path(prefix)
    try:
        shards, entries = _index(map_bytes(path).tobytes())
    except _Fault as fault:
        raise InputError(f"{path}: {fault}; {_DAMAGED}") from fault
    mapped: dict[int, np.ndarray] = {}
    params: Params = {}
    for name, entry in entries.items():
        if not wanted(name):
            continue
        if entry.shard >= shards:
            raise InputError(f"{path}: {shown(name)} is in data file {entry.shard} of {shards}")
        file = shard_path(prefix, entry.shard, shards)
        if entry.shard not in mapped:
            mapped[entry.shard] = map_bytes(file)
        try:
            params[name] = _tensor(mapped[entry.shard], entry, headers)
        except _Fault as fault:
            raise InputError(f"{file}: {shown(name)} {fault}; {_DAMAGED}") from fault
    return params


# --- writing ---


def _put_varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protocol buffer of varints and pieces; zeros are left out, as TensorFlow leaves them."""
    out = b""
    for field, value in fields:
        if isinstance(value, bytes):
            out += _put_varint(field << 3 | 2) + _put_varint(len(value)) + value
        elif value:
            out += _put_varint(field << 3) + _put_varint(value)
    return out


def _entry_message(shape: tuple[int, ...], shard: int, offset: int, raw: bytes) -> bytes:
    dims = b"".join(_message((2, _message((1, size)))) for size in shape)
    fields = _message((1, 1), (2, dims), (3, shard), (4, offset), (5, len(raw)))
    return fields + bytes([6 << 3 | 5]) + struct.pack("<I", _masked(_crc(raw)))


def _closed(items: list[tuple[bytes, bytes]]) -> bytes:
    """A block of whole keys with one restart point at its beginning, its kind and its CRC."""
    body = b"".join(
        b"\x00" + _put_varint(len(key)) + _put_varint(len(value)) + key + value
        for key, value in items
    )
    body += struct.pack("<II", 0, 1) + b"\x00"
    return body + struct.pack("<I", _masked(_crc(body)))


def _blocks(items: list[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    block: list[tuple[bytes, bytes]] = []
    for item in items:
        block.append(item)
        if sum(len(key) + len(value) for key, value in block) > BLOCK:
            yield block
            block = []
    if block:
        yield block


def _table_file(items: list[tuple[bytes, bytes]]) -> bytes:
    out, index = b"", []
    for block in _blocks(sorted(items)):
        data = _closed(block)
        index.append((block[-1][0], _put_varint(len(out)) + _put_varint(len(data) - 5)))
        out += data
    footer = b""
    for content in ([], index):  # the empty meta index, then the index
        data = _closed(content)
        footer += _put_varint(len(out)) + _put_varint(len(data) - 5)
        out += data
    return out + footer.ljust(FOOTER - len(MAGIC), b"\x00") + MAGIC


def write(prefix: Path, params: Params, shards: int = 1) -> None:
    """Store float32 tensors as `PREFIX.index` and its data files, as TensorFlow's Saver does."""
    header = _message((1, shards), (3, _message((1, 1))))  # little-endian; producer version 1
    items = [(b"", header)]
    names = sorted(params)
    for shard in range(shards):
        path = shard_path(prefix, shard, shards)
        with accessing(path, "written"), path.open("wb") as file:
            for name in names[shard::shards]:
                raw = np.ascontiguousarray(params[name], "<f4").tobytes()
                entry = _entry_message(params[name].shape, shard, file.tell(), raw)
                items.append((name.encode(), entry))
                file.write(raw)
    with accessing(index_path(prefix), "written"):
        index_path(prefix).write_bytes(_table_file(items))
