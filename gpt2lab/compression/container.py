"""The file of compressed data: a header that names what decodes it, and a coded part a stream.

    4 bytes  89 47 32 7A              magic
    1        version 1
    1        method: 0 the data as they are, 1 coded
    32       sha256 of the model      (method 1 only, to here ...)
    4        fingerprint of its logits
    text     path of the engine, text name of the model
    integer  tokens, integer streams, integers the bytes of each stream  (... to here)
    8        the beginning of the sha256 of the data
    integer  bytes of the data
    ...      the streams, or the data
    4        CRC-32 of everything before

A text is its length in bytes, an integer, and UTF-8; an integer is little-endian in groups of 7
bits, the highest bit of a byte set where more follow. The CRC finds every damage of up to 32
neighbouring bits before anything is decoded.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field

from gpt2lab.errors import InputError

MAGIC = b"\x89G2z"
VERSION = 1
STORED, CODED = 0, 1
MOST_STREAMS = 4096


@dataclass(frozen=True)
class Container:
    """Compressed data and what is needed to decode them.

    n_bytes, digest: of the data, the beginning of the sha256. parts: the coded streams, or the data
    themselves where `model` is empty. n_tokens: of all streams. model: its sha256. name: for
    people. path, fingerprint: of `engine_path`.
    """

    n_bytes: int
    digest: bytes
    parts: list[bytes]
    n_tokens: int = 0
    model: bytes = b""
    name: str = ""
    path: str = ""
    fingerprint: bytes = field(default=b"")

    @property
    def coded(self) -> bool:
        """Whether a model is needed to decode."""
        return bool(self.model)


def digest_of(data: bytes) -> bytes:
    """The beginning of the sha256 of some data."""
    return hashlib.sha256(data).digest()[:8]


def stored(data: bytes) -> Container:
    """Data that no model makes smaller, as they are."""
    return Container(len(data), digest_of(data), [data])


def _integer(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "replace")[:200]
    return _integer(len(data)) + data


def packed(c: Container) -> bytes:
    """The file."""
    head = MAGIC + bytes([VERSION, CODED if c.coded else STORED])
    if c.coded:
        head += c.model + c.fingerprint + _text(c.path) + _text(c.name)
        head += b"".join(map(_integer, (c.n_tokens, len(c.parts), *map(len, c.parts))))
    data = head + c.digest + _integer(c.n_bytes) + b"".join(c.parts)
    return data + zlib.crc32(data).to_bytes(4, "little")


class _Fields:
    """Reads the fields of a file one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > len(self._data) - self._at:
            raise ValueError("it ends in the middle")
        self._at += count
        return self._data[self._at - count : self._at]

    def integer(self) -> int:
        """The next integer."""
        value, shift = 0, 0
        while True:
            [byte] = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            if (shift := shift + 7) > 63:
                raise ValueError("an integer is longer than 64 bits")

    def text(self) -> str:
        """The next text."""
        return self.take(self.integer()).decode("utf-8", "replace")

    def rest(self) -> int:
        """How many bytes follow."""
        return len(self._data) - self._at


def unpacked(data: bytes, where: str) -> Container:
    """Read a file; InputError for one of another kind and for a damaged one."""
    if data[: len(MAGIC)] != MAGIC:
        raise InputError(f"{where}: is not a file of gpt2lab compress; give one with that content")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise InputError(f"{where}: its checksum does not match; it is damaged, copy it again")
    try:
        return _fields(_Fields(data[len(MAGIC) : -4]))
    except ValueError as error:
        raise InputError(f"{where}: cannot be decoded ({error}); copy it again") from None


def _fields(f: _Fields) -> Container:
    version, method = f.take(2)
    if version != VERSION or method not in (STORED, CODED):
        raise ValueError(f"version {version}, method {method}; this program knows version 1")
    named, lengths, n_tokens = (b"", b"", "", ""), list[int](), 0
    if method == CODED:
        named = (f.take(32), f.take(4), f.text(), f.text())
        n_tokens, streams = f.integer(), f.integer()
        if streams > min(MOST_STREAMS, n_tokens):
            raise ValueError(f"{streams} streams of {n_tokens} tokens")
        lengths = [f.integer() for _ in range(streams)]
    digest, n_bytes = f.take(8), f.integer()
    parts = [f.take(length) for length in (lengths if method == CODED else [f.rest()])]
    if f.rest() or n_tokens > n_bytes:
        raise ValueError("the lengths in its header contradict each other")
    model, print_, path, name = named
    return Container(n_bytes, digest, parts, n_tokens, model, name, path, print_)
