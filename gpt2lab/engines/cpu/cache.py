"""The KV cache of the cpu engine: slots of keys and values in panels, as `kv` reads them.

A slot is one piece of memory, [keys][values][scales], each [layer][head]. The system gives its
pages as positions are written, so a slot of a long context costs nothing at first.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from gpt2lab.cache import Slots
from gpt2lab.config import Config
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import Job, ceil_to

Array = np.ndarray[Any, np.dtype[Any]]

ITEM = {"float32": 4, "bfloat16": 2, "int8": 1}
SPARE = 8  # buffers of freed slots that are kept for the next ones


class SlotMemory:
    """How a slot lies in memory, and the buffers of freed slots. spare: these buffers."""

    def __init__(self, config: Config, target: Target, dtype: str) -> None:
        self.config, self.dtype, self.spare = config, dtype, list[Array]()
        self._width, self._item = target.width, ITEM[dtype]
        self._size, self._positions = (
            ceil_to(n, target.width) for n in (config.head_width, config.n_ctx)
        )
        self._heads = config.n_layer * config.n_head
        self._values = self._heads * self._positions * self._size * self._item  # bytes of all keys
        self._scales = 2 * self._values
        scales = self._heads * 2 * 4 * self._positions if dtype == "int8" else 0
        self.bytes = self._scales + scales

    def describe(self, job: Array) -> None:
        """Write the layout into a job."""
        job[Job.SIZE], job[Job.POSITIONS] = self._size, self._positions
        job[Job.KEY_BYTES] = self._positions * self._size * self._item
        job[Job.SCALE_BYTES] = 2 * 4 * self._positions
        job[Job.V_OFFSET], job[Job.SCALE_OFFSET] = self._values, self._scales
        job[Job.V_PANEL] = self._positions * self._width * self._item

    def take(self) -> Array:
        """Memory for one slot."""
        try:
            return self.spare.pop()
        except IndexError:
            return np.frombuffer(_own_memory(self.bytes), np.uint8)

    def give_back(self, buffer: Array) -> None:
        """Keep a slot's memory for the next one, up to a few."""
        if len(self.spare) < SPARE:
            self.spare.append(buffer)

    def used(self, buffer: Array, length: int) -> list[Array]:
        """The parts of a slot's buffer that hold its first `length` tokens."""
        width, item = self._width, self._item
        keys = buffer[: self._values].reshape(self._heads, -1, width * self._size * item)
        values = buffer[self._values : self._scales]
        panels = values.reshape(self._heads * self._size // width, -1)
        parts = [keys[:, : -(-length // width)], panels[:, : ceil_to(length, 2) * width * item]]
        if self.dtype == "int8":
            scales = buffer[self._scales :].reshape(2 * self._heads, -1)
            parts.append(scales[:, : 4 * length])
        return parts


class CpuCache(Slots):
    """Slots of keys and values in panels; memory is taken as positions are written."""

    chunked = True

    def __init__(self, memory: SlotMemory, slots: int | None = None) -> None:
        super().__init__(memory.config, slots)
        self._memory = memory
        self._buffers: dict[int, Array] = {}
        self._addresses: dict[int, int] = {}

    @property
    def position_bytes(self) -> int:
        """The memory of one position of one slot."""
        return -(-self._memory.bytes // self.config.n_ctx)

    def address(self, slot: int) -> int:
        """The address of the slot's keys."""
        return self._addresses[slot]

    def _take(self, slot: int) -> None:
        self._buffers[slot] = self._memory.take()
        self._addresses[slot] = int(self._buffers[slot].ctypes.data)

    def _copy(self, slot: int, other: int, length: int) -> None:
        source, to = (self._memory.used(self._buffers[s], length) for s in (slot, other))
        for old, new in zip(source, to, strict=True):
            new[:] = old

    def _give_back(self, slot: int) -> None:
        self._memory.give_back(self._buffers.pop(slot))
        del self._addresses[slot]


def _own_memory(size: int) -> mmap.mmap:
    """Zeros from the system that belong to this process alone.

    A plain `mmap.mmap(-1, size)` is shared with every child of fork: sequences of several processes
    would overwrite each other. Windows knows no fork, and no such flags.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
