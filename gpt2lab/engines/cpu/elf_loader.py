"""Object code loaded without LLVM, where it is ELF for x86-64.

Importing LLVM takes 45 MB, and as long as all else that loads a kernel. The kernels are a few
sections that refer to each other by distance, and to a few C functions through a table of
addresses. So loading is: copy the sections, apply the relocations, protect the pages. Everything
else raises `NotLoadable`, and `compile_cache` lets LLVM load it.

Source: the System V ABI's AMD64 supplement, sections 4.3 and 4.4 (relocations; the large code
model), https://gitlab.com/x86-psABIs/x86-64-ABI; ELF-64 object file format.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gpt2lab.engines.cpu.layout import ceil_to

_HEADER = struct.Struct("<4s5B7xHH4xQQQ4xHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_PROGBITS, _SYMTAB, _RELA = 1, 2, 4  # types of sections
_ALLOCATED = 2  # a flag of sections that are in memory
_PC32, _PLT32, _PC64, _GOTOFF64, _GOT64, _GOTPC64 = 2, 4, 24, 25, 27, 29  # relocations
_TABLE = "_GLOBAL_OFFSET_TABLE_"


class NotLoadable(ValueError):
    """Object code of another system or with parts that are not handled here."""


class Section(NamedTuple):
    """A section's header, and where its content will be in memory, None where it will not."""

    kind: int
    offset: int
    size: int
    link: int
    info: int
    place: int | None


class Symbol(NamedTuple):
    """name: "" for most. place: in memory, None for what is defined elsewhere."""

    name: str
    place: int | None


def _sections(code: bytes) -> tuple[list[Section], int]:
    """The sections, and the bytes of those that will be in memory."""
    head = _HEADER.unpack_from(code)
    magic, wide, little, kind, machine = head[0], head[1], head[2], head[6], head[7]
    if (magic, wide, little, kind, machine) != (b"\x7fELF", 2, 1, 1, 62):
        raise NotLoadable("no ELF object for x86-64")
    start, each, count = head[10], head[14], head[15]
    found, end = [], 0
    for i in range(count):
        _, kind, flags, _, offset, size, link, info, align, _ = _SECTION.unpack_from(
            code, start + i * each
        )
        place = None
        if kind == _PROGBITS and flags & _ALLOCATED:
            place = ceil_to(end, max(align, 1))
            end = place + size
        found.append(Section(kind, offset, size, link, info, place))
    return found, ceil_to(end, 64)


def _symbols(code: bytes, sections: list[Section]) -> list[Symbol]:
    """The symbols of the object, in its order."""
    [table] = [section for section in sections if section.kind == _SYMTAB]
    names, found = sections[table.link].offset, []
    for at in range(table.offset, table.offset + table.size, _SYMBOL.size):
        name, _, _, section, value, _ = _SYMBOL.unpack_from(code, at)
        end = code.index(b"\0", names + name)
        place = sections[section].place if 0 < section < len(sections) else None
        found.append(
            Symbol(code[names + name : end].decode(), None if place is None else place + value)
        )
    return found


def _relocations(code: bytes, sections: list[Section]) -> Iterator[tuple[int, int, int, int]]:
    """(place in memory, kind, number of the symbol, addend) of each that concerns memory."""
    for section in sections:
        if section.kind == _RELA and (into := sections[section.info].place) is not None:
            for at in range(section.offset, section.offset + section.size, _RELOCATION.size):
                offset, info, addend = _RELOCATION.unpack_from(code, at)
                yield into + offset, info & 0xFFFFFFFF, info >> 32, addend


def linked(code: bytes, address: Callable[[str], int]) -> tuple[bytearray, dict[str, int]]:
    """The memory of an object, which may be at any address, and the places of its names.

    address: gives that of a C function. A table of those that are called is at the end.
    """
    sections, table = _sections(code)
    symbols, slots = _symbols(code, sections), dict[str, int]()
    image = bytearray(table)
    for section in sections:
        if section.place is not None:
            part = code[section.offset : section.offset + section.size]
            if len(part) < section.size:
                raise NotLoadable("a truncated object")
            image[section.place : section.place + section.size] = part
    for place, kind, number, addend in _relocations(code, sections):
        name, target = symbols[number]
        if kind == _GOT64:
            value = 8 * slots.setdefault(name, len(slots)) + addend
        elif kind == _GOTPC64 and name == _TABLE:
            value = table - place + addend
        elif kind == _GOTOFF64 and target is not None:
            value = target - table + addend
        elif kind in (_PC64, _PC32, _PLT32) and target is not None:
            value = target - place + addend
        else:
            raise NotLoadable(f"relocation {kind} of {name or number}")
        struct.pack_into("<i" if kind in (_PC32, _PLT32) else "<q", image, place, value)
    for name in slots:
        image += struct.pack("<Q", address(name))
    return image, {name: place for name, place in symbols if name and place is not None}


class LoadedCode:
    """Executable memory with an object in it, for as long as this lives. address: of a name."""

    def __init__(self, code: bytes, address: Callable[[str], int]) -> None:
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            raise NotLoadable("another system than Linux on x86-64")
        try:
            image, self._places = linked(code, address)
        except (struct.error, IndexError, ValueError) as error:
            raise NotLoadable(str(error)) from error
        size = ceil_to(len(image), mmap.PAGESIZE)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = mmap.mmap(-1, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self._memory[: len(image)] = bytes(image)
        self._start: int = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        protect: Any = ctypes.CDLL(None).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if protect(self._start, size, mmap.PROT_READ | mmap.PROT_EXEC):
            raise NotLoadable("the system lets no memory become code")

    def address(self, name: str) -> int:
        """The address of a function of the object."""
        return self._start + self._places[name]
