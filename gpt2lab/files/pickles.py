"""Pickles read as data: Python's unpickler without the operations that could do anything else.

What a pickle names is looked up in the table that `read` is given, and nothing else is called; no
attribute is ever set. Everything has a limit: operations, depth, and the number of values when
every reference to one is written out, because forty lists that each hold the one before twice are a
million million values in 400 bytes. So what is returned can be walked, compared and printed.

Source: CPython's Lib/pickle.py, whose unpickler written in Python is the base here.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar

from gpt2lab.errors import InputError
from gpt2lab.files.visible import shown

SIZE = 1 << 24  # bytes of one pickle; that of the largest GPT-2 has half a megabyte
OPERATIONS = 1 << 19  # a vocabulary of 50,000 characters takes 450,000
VALUES = 1 << 22  # with every reference written out
DEPTH = 64  # containers in containers
BITS = 1024  # of one integer
TUPLE_KEYS = 4096  # their hashes can be made equal on purpose, and a dict of those is slow
SCALARS = (str, int, float, bool, bytes, type(None))
CONTAINERS = (dict, list, tuple)

Names = Mapping[tuple[str, str], Any]

_ALLOWED = (  # neither objects (INST, OBJ, NEWOBJ, EXT) nor sets, whose members would be hashed
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG "
    "LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE BINUNICODE8 "
    "SHORT_BINUNICODE BINBYTES BINBYTES8 SHORT_BINBYTES EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE "
    "TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE "
    "GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID"
)


def _check_key(key: Any) -> None:
    """Raise ValueError for a dict key that is no plain value: hashing it may take for ever."""
    parts = key if type(key) is tuple and len(key) <= 8 else (key,)
    if not all(type(part) in SCALARS for part in parts):
        raise ValueError(f"a {type(key).__name__} as a key, which is not plain")
    if any(type(part) is int and part.bit_length() > 60 for part in parts):
        raise ValueError("a key of more than 60 bits")


def pairs(items: list[Any]) -> dict[Any, Any]:
    """A dict of alternating keys and values, the keys checked."""
    for key in items[::2]:
        _check_key(key)
    return dict(zip(items[::2], items[1::2], strict=True))


def _counted(step: Callable[[Any], None]) -> Callable[[Any], None]:
    """An operation of the unpickler, or what the reader below has in its place, with the limit."""

    def counted(reader: _Reader) -> None:
        reader.operations += 1
        if reader.operations > OPERATIONS:
            raise ValueError(f"more than {OPERATIONS} operations")
        getattr(reader, step.__name__)()

    return counted


class _Reader(pickle._Unpickler):
    """Python's unpickler with the operations that are allowed, those of dicts and calls checked."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        getattr(pickle, name)[0]: _counted(pickle._Unpickler.dispatch[getattr(pickle, name)[0]])
        for name in _ALLOWED.split()
    }
    stack: list[Any]  # the base class makes it
    pop_mark: Callable[[], list[Any]]

    def __init__(
        self, stream: BinaryIO, where: str, names: Names, storage: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(stream, fix_imports=False, encoding="latin-1")
        self._where, self._names, self._storage = where, names, storage
        self.operations = self._tuple_keys = self._given = 0

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise InputError(
                f"{self._where}: its pickle asks for {shown(f'{module}.{name}'[:80])}, which a "
                "file of weights has no need of; it was refused and nothing was run"
            )
        return self._names[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None:
            raise ValueError("a reference to a storage")
        return self._storage(pid)

    def _add(self, items: list[Any]) -> None:
        """Put alternating keys and values into the dict at the top."""
        self._tuple_keys += sum(type(key) is tuple for key in items[::2])
        if self._tuple_keys > TUPLE_KEYS or type(self.stack[-1]) is not dict:
            raise ValueError(f"more than {TUPLE_KEYS} tuples as keys, or no dict to add to")
        self.stack[-1].update(pairs(items))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._add([key, value])

    def load_setitems(self) -> None:
        self._add(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._add(items)

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not callable(function) or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        self._given += sum(len(part) for part in arguments if type(part) in CONTAINERS)
        if self._given > OPERATIONS:
            raise ValueError(f"calls with more than {OPERATIONS} values")
        self.stack.append(function(*arguments))

    def load_build(self) -> None:
        """Let go the attributes that torch hangs on an OrderedDict; nothing else has any."""
        self.stack.pop()
        if type(self.stack[-1]) is not dict:
            raise ValueError("attributes of what is no OrderedDict")


def _extent(value: Any, known: dict[int, tuple[int, int]], depth: int = 1) -> tuple[int, int]:
    """The number of values in a container with every reference written out, and its depth.

    Each container is looked at once, however often it is referred to. Raises ValueError for values
    that hold themselves, or too many, or too deep.
    """
    if id(value) not in known:
        known[id(value)] = (VALUES, 0)  # what it has in itself
        parts = [*value.keys(), *value.values()] if type(value) is dict else value
        if depth > DEPTH or any(type(n) is int and n.bit_length() > BITS for n in parts):
            raise ValueError(f"more than {DEPTH} containers in each other or {BITS} bits")
        inner = [_extent(part, known, depth + 1) for part in parts if type(part) in CONTAINERS]
        values = 1 + len(parts) + sum(count for count, _ in inner)
        known[id(value)] = values, 1 + max((deep for _, deep in inner), default=0)
    if known[id(value)][0] > VALUES or known[id(value)][1] > DEPTH:
        raise ValueError(f"more than {VALUES} values or {DEPTH} containers in each other")
    return known[id(value)]


def read(
    stream: BinaryIO,
    where: str,
    names: Names | None = None,
    storage: Callable[[Any], Any] | None = None,
) -> Any:
    """One value from the stream, which is left after it: dicts, lists, tuples, text, numbers.

    names: (module, name) -> a value, or a function that is called with what the pickle gives it
    and has to check that. storage: what a persistent id stands for. Raises InputError for a name
    outside the list; any Exception for what is damaged.
    """
    value = _Reader(stream, where, names or {}, storage).load()
    _extent([value], {})
    return value
