"""Threads that help with a step: plain Python threads inside compiled code, without Python's lock.

The caller's thread leads and would finish alone; helpers take tickets from it (`tickets`). Between
steps they spin for one to two milliseconds, then block on a semaphore until the next step, so an
idle process costs nothing. A child of fork starts with threads of its own.
"""

from __future__ import annotations

import atexit
import os
import threading

import numpy as np

from gpt2lab.engines.cpu.compile_cache import CompiledCode
from gpt2lab.engines.cpu.layout import SHUT, Control


class Workers:
    """A crew of `count` threads, the caller's included."""

    def __init__(self, count: int, code: CompiledCode) -> None:
        self.count = count
        self._code = code
        self.lock = threading.Lock()  # held by the thread that fills a job and runs it
        self._memory = np.zeros(int(Control.ASLEEP) + 8 * count + 8, np.int64)
        shift = -self._memory.ctypes.data % 64 // 8  # each word on a cache line of its own
        self._control = self._memory[shift:]
        self._control[Control.CLAIM] = SHUT  # no job yet
        self._address = self._control.ctypes.data
        self._wake = [threading.Semaphore(0) for _ in range(1, count)]
        self._asleep = [int(Control.ASLEEP) + 8 * me for me in range(1, count)]
        self._threads = [
            threading.Thread(target=self._help, args=(me,), name=f"gpt2lab-{me}", daemon=True)
            for me in range(1, count)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, function: int, job: int, tickets: int) -> None:
        """Do a job: `function` is the address of its code, `job` that of its words."""
        for asleep, wake in zip(self._asleep, self._wake, strict=True):
            if self._control[asleep]:
                self._control[asleep] = 0
                wake.release()
        self._code.call(self._address, function, job, tickets, 0)

    def close(self) -> None:
        """Let the threads end."""
        with self.lock:
            self._control[Control.STOP] = 1
            for wake in self._wake:
                wake.release()
        for thread in self._threads:
            thread.join(timeout=1)

    def _help(self, me: int) -> None:
        while not self._control[Control.STOP]:
            self._code.call(self._address, 0, 0, 0, me)
            self._wake[me - 1].acquire()


_crews: dict[int, Workers] = {}
_making = threading.Lock()


def crew(count: int, code: CompiledCode) -> Workers:
    """The process's workers of this count; engines share them, one step at a time."""
    with _making:
        if count not in _crews:
            _crews[count] = Workers(count, code)
        return _crews[count]


def _forget() -> None:
    """In a child of fork: the threads are gone, and the locks may have no owner."""
    global _making
    _making = threading.Lock()
    _crews.clear()


def _close() -> None:
    for workers in list(_crews.values()):
        workers.close()


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
