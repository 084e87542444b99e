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
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt2lab.files.io import map_bytes, parsing
from gpt2lab.files.tensor_bytes import WIDTHS, floats, hollow
from gpt2lab.files.visible import shown
from gpt2lab.weights.checkpoint import Params

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER = 48  # two block handles, padded to 40 bytes, and the magic number
DTYPES = {1: "float32", 2: "float64", 14: "bfloat16", 19: "float16"}  # types.proto
BLOCK = 1 << 14  # a written block is closed when it holds this many bytes


class _Entry(NamedTuple):
    """Where one tensor lies."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: bool


def index_path(prefix: Path) -> Path:
    """The index file of a checkpoint prefix."""
    return prefix.with_name(prefix.name + ".index")


def shard_path(prefix: Path, shard: int, shards: int) -> Path:
    """The data file with a number."""
    return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")


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


# --- reading; whatever a damaged file makes these raise is one line in `read` ---


def _varints(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """Numbers from a place on, and the place after them; seven bits a byte, lowest first."""
    numbers = []
    for _ in range(count):
        number = shift = 0
        while shift == 0 or data[at - 1] > 127:
            if at >= len(data) or shift > 56:
                raise ValueError("a number does not end")
            number |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
        numbers.append(number)
    return numbers, at


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and value of a protocol buffer: a varint, four or eight bytes, or a piece."""
    at = 0
    while at < len(data):
        (tag,), at = _varints(data, at, 1)
        field, kind = tag >> 3, tag & 7
        if kind not in (0, 1, 2, 5):
            raise ValueError(f"a field of unknown type {kind}")
        (size,), at = _varints(data, at, 1) if kind in (0, 2) else ([8 if kind == 1 else 4], at)
        if kind == 0:
            yield field, size
            continue
        piece, at = data[at : at + size], at + size
        if at > len(data):
            raise ValueError("a field reaches past the end")
        yield field, piece if kind == 2 else int.from_bytes(piece, "little")


def _numbers(data: bytes) -> dict[int, int]:
    return {field: value for field, value in _fields(data) if isinstance(value, int)}


def _entry(data: bytes) -> _Entry:
    pieces = {field: value for field, value in _fields(data) if isinstance(value, bytes)}
    dims = (part for field, part in _fields(pieces.get(2, b"")) if field == 2)
    shape = tuple(_numbers(part).get(1, 0) for part in dims if isinstance(part, bytes))
    dtype, shard, offset, size, crc = (_numbers(data).get(field, 0) for field in (1, 3, 4, 5, 6))
    return _Entry(dtype, shape, shard, offset, size, crc, 7 in pieces)


def _block(data: bytes, offset: int, size: int) -> bytes:
    """The contents of one block, its CRC checked and its restart points cut off."""
    body, kind, crc = data[offset : offset + size], *struct.unpack_from("<BI", data, offset + size)
    if _masked(_crc(body + bytes([kind]))) != crc:
        raise ValueError("the CRC-32C of a block is wrong")
    if kind != 0:
        raise ValueError(f"a block is compressed (kind {kind}); TensorFlow writes them plain")
    restarts = int.from_bytes(body[-4:], "little")
    return body[: size - 4 * restarts - 4]


def _items(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of every entry; a key is given as what it shares with the one before and on."""
    at, key = 0, b""
    while at < len(block):
        (shared, fresh, size), at = _varints(block, at, 3)
        key = key[:shared] + block[at : at + fresh]
        at += fresh + size
        if at > len(block):
            raise ValueError("an entry reaches past its block")
        yield key, block[at - size : at]


def _index(data: bytes) -> tuple[int, dict[str, _Entry]]:
    """The number of shards, and name -> entry."""
    footer = data[-FOOTER:]
    if len(footer) < FOOTER or not footer.endswith(MAGIC):
        raise ValueError("the magic number at its end is missing")
    (_, _, offset, size), _ = _varints(footer, 0, 4)  # the meta index, empty, and the index
    table: dict[bytes, bytes] = {}
    for _, handle in _items(_block(data, offset, size)):
        table |= _items(_block(data, *_varints(handle, 0, 2)[0]))
    header = _numbers(table.pop(b"", b""))
    if header.get(2, 0) != 0:
        raise ValueError("its numbers are big-endian, which is not read")
    names = {key.decode("utf-8", "backslashreplace"): _entry(value) for key, value in table.items()}
    return header.get(1, 0), names


def _tensor(data: np.ndarray, entry: _Entry, headers: bool) -> np.ndarray:
    """One tensor out of its mapped shard; shape, size and CRC-32C are checked first.

    headers: only shape and size are, and the array is hollow.
    """
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise ValueError(f"its dtype number {entry.dtype} holds no weights")
    if entry.slices:
        raise ValueError("it is a partitioned variable, which GPT-2 never has")
    if math.prod(entry.shape) * WIDTHS[dtype] != entry.size:
        raise ValueError(f"{entry.size} bytes do not make {list(entry.shape[:8])} {dtype}")
    if entry.offset + entry.size > data.size:
        raise ValueError(f"it reaches past the end of its data file of {data.size} bytes")
    if headers:
        return hollow(entry.shape)
    raw = data[entry.offset : entry.offset + entry.size]
    if _masked(_crc(raw)) != entry.crc:
        raise ValueError("it does not match its CRC-32C")
    return floats(raw, dtype, entry.shape)


def read(
    prefix: Path, wanted: Callable[[str], bool] = lambda name: True, headers: bool = False
) -> Params:
    """Name -> array of the tensors that are wanted: float32 (float64 stays), mapped.

    headers: the numbers are not read and the arrays are hollow.

    Raises InputError for whatever is missing, truncated, damaged or not plain weights.
    """
    path = index_path(prefix)
    with parsing(path, "an index of TensorFlow"):
        shards, entries = _index(map_bytes(path).tobytes())
    mapped: dict[int, np.ndarray] = {}
    params: Params = {}
    for name, entry in entries.items():
        if not wanted(name):
            continue
        file = shard_path(prefix, entry.shard, shards)
        if entry.shard not in mapped:
            mapped[entry.shard] = map_bytes(file)
        with parsing(file, f"the tensor {shown(name)}"):
            params[name] = _tensor(mapped[entry.shard], entry, headers)
    return params


# --- writing ---


def _put_varints(*numbers: int) -> bytes:
    out = bytearray()
    for number in numbers:
        while number > 127:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    return bytes(out)


def _message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protocol buffer of varints and pieces; zeros are left out, as TensorFlow leaves them."""
    out = b""
    for field, value in fields:
        if isinstance(value, bytes):
            out += _put_varints(field << 3 | 2, len(value)) + value
        elif value:
            out += _put_varints(field << 3, value)
    return out


def _entry_message(shape: tuple[int, ...], shard: int, offset: int, raw: bytes) -> bytes:
    dims = b"".join(_message((2, _message((1, size)))) for size in shape)
    fields = _message((1, 1), (2, dims), (3, shard), (4, offset), (5, len(raw)))
    return fields + struct.pack("<BI", 6 << 3 | 5, _masked(_crc(raw)))


def _closed(items: list[tuple[bytes, bytes]]) -> bytes:
    """A block of whole keys with one restart point at its beginning, its kind and its CRC."""
    body = b"".join(_put_varints(0, len(key), len(value)) + key + value for key, value in items)
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
        index.append((block[-1][0], _put_varints(len(out), len(data) - 5)))
        out += data
    footer = b""
    for content in ([], index):  # the empty meta index, then the index
        data = _closed(content)
        footer += _put_varints(len(out), len(data) - 5)
        out += data
    return out + footer.ljust(FOOTER - len(MAGIC), b"\x00") + MAGIC


def write(prefix: Path, params: Params, shards: int = 1) -> None:
    """Store float32 tensors as `PREFIX.index` and its data files, as TensorFlow's Saver does."""
    items = [(b"", _message((1, shards), (3, _message((1, 1)))))]  # little-endian; version 1
    names = sorted(params)
    for shard in range(shards):
        with shard_path(prefix, shard, shards).open("wb") as file:
            for name in names[shard::shards]:
                raw = np.ascontiguousarray(params[name], "<f4").tobytes()
                entry = _entry_message(params[name].shape, shard, file.tell(), raw)
                items.append((name.encode(), entry))
                file.write(raw)
    index_path(prefix).write_bytes(_table_file(items))
