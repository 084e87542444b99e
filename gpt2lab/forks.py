"""Forks: a child begins with no lock held and no product half done, whatever other threads do.

A fork copies the memory of a process and only the thread that asked for it. What another thread
had in hand at that moment is never finished in the child: a lock stays held, the threads of a BLAS
library stay waited for, and the child hangs at its first product. So each piece of such work holds
a lock of its own thread, and a fork waits until all of these are free, for the length of a step at
most.

Properties that are computed once have no lock at all (`cached_property` here): functools' holds one
for a whole class before Python 3.12, and two threads that compute the same value do no harm.

Torch's threads do not come along either, and OpenMP would wait for them for ever. In a child torch
therefore computes with one thread, as it does in the processes of its own DataLoader.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Generic, Self, TypeVar, overload
from weakref import WeakSet

T = TypeVar("T")

PATIENCE = 60.0  # seconds that a fork waits for other threads, so that it never waits for ever

_locks: WeakSet[threading.RLock] = WeakSet()  # one of each thread that has worked
_adding = threading.RLock()
_held: list[threading.RLock] = []  # while a fork is under way
_torch: ModuleType | None = None
torch_is_inherited = False  # whether the parent of this process had imported torch


class _Own(threading.local):
    """What each thread has of its own: its lock, made when it first asks for it."""

    def __init__(self) -> None:
        with _adding:
            self.lock = threading.RLock()
            _locks.add(self.lock)


_own = _Own()

#: `with whole():` a fork in another thread waits until the block has ended. Every step asks for it.
whole: Callable[[], threading.RLock] = partial(getattr, _own, "lock")


class cached_property(Generic[T]):
    """A property that is computed when it is first read and kept in the object's `__dict__`."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function, self.__doc__ = function, function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> Self | T:
        if instance is None:
            return self
        kept: T = instance.__dict__.setdefault(self.function.__name__, self.function(instance))
        return kept


def tame(torch: ModuleType) -> None:
    """Give torch one thread in the children of this process, and here if this is such a child."""
    global _torch
    _torch = torch
    if torch_is_inherited:
        torch.set_num_threads(1)


def _before() -> None:
    _adding.acquire()
    end = time.monotonic() + PATIENCE
    for lock in list(_locks):
        if lock.acquire(timeout=max(0.0, end - time.monotonic())):
            _held.append(lock)


def _in_parent() -> None:
    while _held:
        _held.pop().release()
    _adding.release()


def _in_child() -> None:
    """Begin afresh: what is left belongs to threads that are not here."""
    global _adding, torch_is_inherited
    _adding = threading.RLock()
    _locks.clear()
    _held.clear()
    _own.__init__()  # type: ignore[misc]
    torch_is_inherited = "torch" in sys.modules
    if _torch is not None:
        tame(_torch)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
