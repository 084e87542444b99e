"""How fast this machine reads memory, which limits a single text: a token needs all weights.

The limit depends on how much is read over and over, for some of it stays in the cache: here 50 GB/s
for a gigabyte and 60 for the 124 MB of int8 weights. On a shared machine it also moves between 50
and 80 from one second to the next. So as many bytes are read as the contender needs for a token,
again and again, in turn with it; `one.share` does that.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

TOTAL = 1.5e9  # bytes that are read each time
REST = 0.1  # seconds in which the threads of others stop spinning; ONNX Runtime needs most


class Memory:
    """So many bytes, and threads to read them."""

    def __init__(self, size: float, threads: int) -> None:
        self._parts = np.array_split(np.ones(int(size / 4), np.float32), threads)
        self._pool = ThreadPoolExecutor(threads)
        self._again = max(1, round(TOTAL / size))
        self.read()

    def _read(self, part: np.ndarray) -> None:
        """np.dot reads fastest of NumPy's functions, given a thread of OpenBLAS each."""
        for _ in range(self._again):
            np.dot(part, part)

    def read(self) -> float:
        """GB/s. The first reading after a rest is slower, and not counted."""
        time.sleep(REST)
        list(self._pool.map(self._read, self._parts))
        start = time.perf_counter()
        list(self._pool.map(self._read, self._parts))
        size = self._again * sum(part.nbytes for part in self._parts)
        return size / (time.perf_counter() - start) / 1e9
