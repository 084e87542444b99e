"""The throughput of an engine on this machine, beside the memory bandwidth that limits it.

Only the engine's steps are timed, with greedy decoding. A single sequence is limited by memory
bandwidth: every weight is read once for a new token. Bandwidth changes on shared machines from one
second to the next, so both are measured in turn (`share`).
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from gpt2lab.config import Config, parameter_shapes
from gpt2lab.engines import ENGINES
from gpt2lab.engines.cpu.layout import head_dtype
from gpt2lab.engines.protocol import Engine
from gpt2lab.errors import InputError, quoted

Array = np.ndarray[Any, np.dtype[Any]]

ITEM = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "int4": 0.53125}
USUAL = ("float32", "bfloat16", "int8", "int4")  # what is measured when no dtype is named
BATCHES = (8, 32)
START = 32  # tokens of a short prompt
SPAN = 64  # tokens that are decoded before the cache is rewound to the prompt
LARGE = 256 << 20  # bytes, more than most caches hold
MOST = 1 << 30  # bytes that are taken to measure a limit
READ = 1e9  # bytes that are read each time
REST = 0.05  # seconds in which the engine's waiting threads go to sleep
TURN = 16  # tokens between two readings
TURNS = 3  # at least

_MODULES = {"numpy": "numpy_engine", "cpu": "cpu.engine", "torch": "torch.engine"}


@dataclass(frozen=True)
class Case:
    """`rows` sequences of `length` tokens: prefill of all of them, or decoding after them."""

    title: str
    rows: int
    length: int
    prefill: bool = False


def cases(config: Config) -> list[Case]:
    """The cases for a model; its context length may be short."""
    half = max(1, config.n_ctx // 2)
    start = min(START, half)
    found = [
        Case(f"decode {start}", 1, start),
        Case(f"decode {half}", 1, half),
        Case(f"prefill {half}", 1, half, prefill=True),
        *(Case(f"batch {rows}", rows, start) for rows in BATCHES),
    ]
    return list(dict.fromkeys(found))  # in a short window the first two are one


def dtypes(engine: str, wanted: tuple[str, ...] = ()) -> list[str]:
    """The wanted dtypes, for none of them the usual ones that the engine has.

    Raises InputError for an unknown engine or dtype, before anything is measured.
    """
    if engine not in ENGINES:
        raise InputError(f"engine {quoted(engine)} is unknown; known: {', '.join(ENGINES)}")
    known = import_module(f"gpt2lab.engines.{_MODULES[engine]}").DTYPES
    for dtype in wanted:
        if dtype not in known:
            raise InputError(
                f"dtype {quoted(dtype)} is not one of the {engine} engine's: {', '.join(known)}"
            )
    return list(dict.fromkeys(wanted)) or [dtype for dtype in USUAL if dtype in known]


def random_params(config: Config, apart: bool = True) -> dict[str, Array]:
    """Weights for measuring: speed does not depend on them. Name -> float32 array.

    One small block of random numbers is repeated, for drawing all would take longer than measuring.
    apart: every array has memory of its own. An engine that packs copies needs less: without it,
    arrays of one shape are the same one.
    """
    block = np.random.default_rng(0).normal(0, 0.02, 65_521).astype(np.float32)  # a prime number
    made: dict[Any, Array] = {}
    params = {}
    for name, shape in parameter_shapes(config).items():
        key = name if apart else (shape, name.endswith("bias"))
        if key not in made:
            made[key] = np.resize(block, shape) if len(shape) == 2 else np.ones(shape, np.float32)
            if name.endswith("bias"):
                made[key][:] = 0
        params[name] = made[key]
    return params


def bytes_per_token(config: Config, dtype: str) -> int:
    """How many bytes of weights a new token needs: all but the positions', the head's once."""
    shapes = parameter_shapes(config)
    del shapes["wpe.weight"]
    head = int(np.prod(shapes.pop("wte.weight")))
    others = sum(int(np.prod(shape)) for shape in shapes.values())
    return round(ITEM[dtype] * others + ITEM[head_dtype(dtype)] * head)


class Memory:
    """A number of bytes, and threads to read them.

    `np.max` of int32 reads as fast as a loop of vector loads (52 of 53 GB/s here) and as `np.dot`,
    and leaves it to the caller how many threads there are.
    """

    def __init__(self, size: int, threads: int) -> None:
        self._parts = np.array_split(np.ones(max(size // 4, threads), np.int32), threads)
        self._pool = ThreadPoolExecutor(threads)
        self._again = max(1, round(READ / size))
        self.read()

    def _read(self, part: Array) -> None:
        for _ in range(self._again):
            np.max(part)

    def read(self) -> float:
        """GB/s of all threads."""
        time.sleep(REST)
        start = time.perf_counter()
        list(self._pool.map(self._read, self._parts))
        size = self._again * sum(part.nbytes for part in self._parts)
        return size / (time.perf_counter() - start) / 1e9


def bandwidth(threads: int, seconds: float) -> float:
    """GB/s at which the threads read memory: the median of some readings."""
    memory, found = Memory(LARGE, threads), list[float]()
    end = time.perf_counter() + seconds
    while len(found) < TURNS or time.perf_counter() < end:
        found.append(memory.read())
    return statistics.median(found)


def steps(engine: Engine, case: Case) -> Iterator[float]:
    """The seconds of each step of a case, without an end; the first warms up."""
    draw, cache = random.Random(0), engine.cache()
    first = cache.new()
    prompt = [draw.randrange(engine.config.n_vocab) for _ in range(case.length)]
    engine.step(cache, [first], [prompt])
    slots = [first, *(cache.fork(first) for _ in range(1, case.rows))]
    end = 0 if case.prefill else min(engine.config.n_ctx, case.length + SPAN)
    tokens = [prompt if case.prefill else prompt[-1:]] * case.rows
    while True:
        if cache.length(first) >= end:
            for slot in slots:
                cache.rewind(slot, 0 if case.prefill else case.length)
        start = time.perf_counter()
        best = engine.step(cache, slots, tokens).argmax(-1)  # [rows]
        if not case.prefill:
            tokens = [[int(token)] for token in best]
        yield time.perf_counter() - start


def speed(engine: Engine, case: Case, seconds: float) -> float:
    """Tokens per second of all rows: the median of the steps in this time, at least one."""
    timed, found = steps(engine, case), list[float]()
    next(timed)
    while not found or sum(found) < seconds:
        found.append(next(timed))
    return case.rows * (case.length if case.prefill else 1) / statistics.median(found)


def share(engine: Engine, threads: int, seconds: float) -> tuple[float, float]:
    """What part of the memory's limit a single short text reaches, and that limit in GB/s.

    Both are medians of turns, each compared with a reading right before and one right after it. As
    many bytes are read as a token needs, up to `MOST`: what of them stays in the caches, does so
    for both.
    """
    need = bytes_per_token(engine.config, engine.dtype)
    memory, timed = Memory(min(need, MOST), threads), steps(engine, cases(engine.config)[0])
    limits, parts = [memory.read()], list[float]()
    end = time.perf_counter() + seconds
    while len(parts) < TURNS or time.perf_counter() < end:
        next(timed)  # wakes the engine's threads
        rate = TURN * need / sum(next(timed) for _ in range(TURN)) / 1e9
        limits.append(memory.read())
        parts.append(2 * rate / sum(limits[-2:]))
    return statistics.median(parts), statistics.median(limits)
