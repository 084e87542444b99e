"""Pickles read as data: an own machine for the operations that plain values need.

Python's unpickler calls what a pickle names, sets attributes of what it has made, and hashes and
prints without limit. Here nothing is called but the functions that `read` is given, no attribute is
ever set, and everything has a limit: operations, depth, and the number of values when every
reference to one is written out, because forty lists that each hold the one before twice are a
million million values in 400 bytes. So what is returned can be walked, compared and printed.

Source of the operations: CPython's Lib/pickletools.py, which parses them here.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from gpt2lab.errors import InputError
from gpt2lab.files.visible import shown

SIZE = 1 << 24  # bytes of one pickle; that of the largest GPT-2 has half a megabyte
OPERATIONS = 1 << 19  # a vocabulary of 50,000 characters takes 450,000
VALUES = 1 << 22  # with every reference written out
DEPTH = 64  # containers in containers
BITS = 1024  # of one integer
TUPLE_KEYS = 4096  # their hashes can be made equal on purpose, and a dict of those is slow
SCALARS = (str, int, float, bool, bytes, type(None))

Names = Mapping[tuple[str, str], Any]

_PLAIN = ("int", "int_or_bool", "bool", "float", "str", "bytes", "bytes_or_str", "None")
_PUSHED = frozenset(  # the operations that push one plain value and take none
    op.name
    for op in pickletools.opcodes
    if not op.stack_before and op.stack_after and op.stack_after[0].name in _PLAIN
)
_FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_CALLS = ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")


def _check_key(key: Any) -> None:
    """Raise ValueError for a dict key that is no plain value: hashing it may take for ever."""
    parts = key if type(key) is tuple and len(key) <= 8 else (key,)
    if not all(type(part) in SCALARS for part in parts):
        raise ValueError(f"a {type(key).__name__} as a key, which is not plain")
    if any(type(part) is int and part.bit_length() > 60 for part in parts):
        raise ValueError("a key of more than 60 bits")


def pairs(items: list[Any]) -> dict[Any, Any]:
    """A dict of alternating keys and values, the keys checked."""
    if len(items) % 2:
        raise ValueError("a key without a value")
    for key in items[::2]:
        _check_key(key)
    return dict(zip(items[::2], items[1::2], strict=True))


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, where: str, names: Names, storage: Callable[[Any], Any] | None) -> None:
        self._where, self._names, self._storage = where, names, storage
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # what lies under each mark
        self._memo: dict[int, Any] = {}
        self._tuple_keys = self._given = 0

    def run(self, stream: BinaryIO) -> Any:
        """Return the value of the pickle at the stream's position, which is then after it."""
        for count, (operation, argument, at) in enumerate(pickletools.genops(stream)):
            if count >= OPERATIONS or (at or 0) > SIZE:
                raise ValueError(f"a pickle of more than {OPERATIONS} operations or {SIZE} bytes")
            name = operation.name
            if name in _PUSHED:
                self._push(_FIXED.get(name, argument))
            elif name == "STOP":
                break
            elif name in _CALLS:
                self._refuse(argument if isinstance(argument, str) else name)
            elif name not in ("PROTO", "FRAME"):
                step = getattr(self, f"op_{name.lower()}", None)
                if step is None:
                    raise ValueError(f"the operation {name}")
                step(argument)
        if len(self._stack) != 1 or self._below:
            raise ValueError("values left over")
        return self._stack[0]

    def _refuse(self, name: str) -> None:
        raise InputError(
            f"{self._where}: its pickle asks for {shown(name[:80])}, which a file of weights has "
            "no need of; it was refused and nothing was run"
        )

    def _push(self, value: Any) -> None:
        if type(value) is int and value.bit_length() > BITS:
            raise ValueError(f"an integer of more than {BITS} bits")
        self._stack.append(value)

    def _take(self, count: int = 1) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("too few values for an operation")
        found = self._stack[-count:]
        del self._stack[-count:]
        return found

    def _marked(self) -> list[Any]:
        """The values since the last mark."""
        if not self._below:
            raise ValueError("no mark")
        found, self._stack = self._stack, self._below.pop()
        return found

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise ValueError(f"no {kind.__name__} to add to")
        return self._stack[-1]

    # --- the operations, by their names in pickletools ---

    def op_mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def op_pop(self, _: Any) -> None:
        self._take()

    def op_pop_mark(self, _: Any) -> None:
        self._marked()

    def op_dup(self, _: Any) -> None:
        (value,) = self._take()
        self._stack += [value, value]

    def op_empty_list(self, _: Any) -> None:
        self._stack.append([])

    def op_list(self, _: Any) -> None:
        items = self._marked()  # which changes the stack
        self._stack.append(items)

    def op_append(self, _: Any) -> None:
        (value,) = self._take()
        self._top(list).append(value)

    def op_appends(self, _: Any) -> None:
        values = self._marked()
        self._top(list).extend(values)

    def op_empty_tuple(self, _: Any) -> None:
        self._stack.append(())

    def op_tuple(self, _: Any) -> None:
        items = self._marked()
        self._stack.append(tuple(items))

    def op_tuple1(self, _: Any) -> None:
        self._stack.append(tuple(self._take(1)))

    def op_tuple2(self, _: Any) -> None:
        self._stack.append(tuple(self._take(2)))

    def op_tuple3(self, _: Any) -> None:
        self._stack.append(tuple(self._take(3)))

    def op_empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def op_dict(self, _: Any) -> None:
        items = self._marked()
        self._stack.append({})
        self._add(items)

    def op_setitem(self, _: Any) -> None:
        self._add(self._take(2))

    def op_setitems(self, _: Any) -> None:
        self._add(self._marked())

    def _add(self, items: list[Any]) -> None:
        self._tuple_keys += sum(type(key) is tuple for key in items[::2])
        if self._tuple_keys > TUPLE_KEYS:
            raise ValueError(f"more than {TUPLE_KEYS} tuples as keys")
        self._top(dict).update(pairs(items))

    def op_memoize(self, _: Any) -> None:
        self.op_put(len(self._memo))

    def op_put(self, key: Any) -> None:
        (value,) = self._take()
        self._memo[int(key)] = value
        self._stack.append(value)

    op_binput = op_long_binput = op_put

    def op_get(self, key: Any) -> None:
        if int(key) not in self._memo:
            raise ValueError("a value that was never kept")
        self._stack.append(self._memo[int(key)])

    op_binget = op_long_binget = op_get

    def op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        if (module, name) not in self._names:
            self._refuse(f"{module}.{name}")
        self._stack.append(self._names[module, name])

    def op_stack_global(self, _: Any) -> None:
        module, name = self._take(2)
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        self.op_global(f"{module} {name}")

    def op_reduce(self, _: Any) -> None:
        function, arguments = self._take(2)
        if not callable(function) or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        self._given += sum(len(part) for part in arguments if type(part) in (dict, list, tuple))
        if self._given > OPERATIONS:
            raise ValueError(f"calls with more than {OPERATIONS} values")
        self._stack.append(function(*arguments))

    def op_build(self, _: Any) -> None:
        """Let go the attributes that torch hangs on an OrderedDict; nothing else has any."""
        self._take()
        self._top(dict)

    def op_binpersid(self, _: Any) -> None:
        (value,) = self._take()
        if self._storage is None:
            raise ValueError("a reference to a storage")
        self._stack.append(self._storage(value))


def _parts(value: Any) -> list[Any]:
    if type(value) is dict:
        return [*value.keys(), *value.values()]
    return list(value) if type(value) in (list, tuple) else []


def _check_extent(value: Any) -> None:
    """Raise ValueError for values that hold themselves, or too many, or too deep.

    Each container is looked at once, however often it is referred to: those inside it first.
    """
    extents: dict[int, tuple[int, int] | None] = {}  # id -> (values, depth); None while inside
    waiting = [value]
    while waiting:
        top = waiting[-1]
        inner = [part for part in _parts(top) if type(part) in (dict, list, tuple)]
        if id(top) not in extents:
            extents[id(top)] = None
            if any(extents.get(id(part), ()) is None for part in inner):
                raise ValueError("a value that holds itself")
            waiting += [part for part in inner if id(part) not in extents]
            continue
        waiting.pop()
        if extents[id(top)] is not None:
            continue
        found = [extents[id(part)] or (VALUES, 0) for part in inner]
        values = 1 + len(_parts(top)) + sum(count for count, _ in found)
        depth = 1 + max((deep for _, deep in found), default=0)
        if values > VALUES or depth > DEPTH:
            raise ValueError(
                f"more than {VALUES} values, each counted wherever it stands, or more than {DEPTH} "
                "containers in each other"
            )
        extents[id(top)] = (values, depth)


def read(
    stream: BinaryIO,
    where: str,
    names: Names | None = None,
    storage: Callable[[Any], Any] | None = None,
) -> Any:
    """One value from the stream, which is left after it: dicts, lists, tuples, text, numbers.

    names: (module, name) -> a value, or a function that is called with what the pickle gives it
    and has to check that. storage: what a persistent id stands for. Raises InputError for a name
    outside the list; ValueError and its like for all that is damaged.
    """
    value = _Machine(where, names or {}, storage).run(stream)
    _check_extent(value)
    return value
