"""Keys and values of one head in a slot: how they are stored, found and prefetched.

Keys lie in panels of `width` positions, values in panels of `width` numbers of the head: both are
weights of a product (`CACHE_PRODUCT`), which attention multiplies by queries and probabilities.
`plain.stored_keys` and `plain.stored_values` read them back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray, njit

from gpt2lab.engines.cpu import layout
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import CACHE_PRODUCT, STEP, constants, f32, i32, i64
from gpt2lab.engines.cpu.llvm.memory import chars, floats, ints, words
from gpt2lab.engines.cpu.matrix import fetch
from gpt2lab.engines.cpu.rows import FAST, Kernel, copy, start_block, to_bf16

Job = constants(layout.Job)

NEXT = 16384  # bytes of the next sequence's keys, and of its values, that are prefetched


# ---- Storing: (source, d, the head's address, position, SIZE or V_PANEL, address of the scale).


def _store_float32(width: int) -> tuple[Kernel, Kernel]:
    """float32 as it is."""

    @njit(**FAST)
    def store_k(source: int, d: int, head: int, at: int, size: int, scale: int) -> None:
        """One number a row of the position's column."""
        base = head + at // width * size * width * 4 + at % width * 4
        xs, os = carray(floats(source), d), carray(floats(base), d * width)
        for i in range(d):
            os[i * width] = xs[i]

    @njit(**FAST)
    def store_v(source: int, d: int, head: int, at: int, panel: int, scale: int) -> None:
        """One row of each panel."""
        for start in range(0, d, width):
            m = min(i64(width), d - start)
            copy(source + start * 4, head + start // width * panel + at * width * 4, m)

    return store_k, store_v


def _store_bfloat16(width: int) -> tuple[Kernel, Kernel]:
    """Two bfloat16 are one word of 32 bits: vectors write whole words only."""

    @njit(**FAST)
    def store_k(source: int, d: int, head: int, at: int, size: int, scale: int) -> None:
        """Pairs of numbers share a word of the position's column."""
        base = head + at // width * size * width * 2 + at % width * 4
        xs, os = carray(floats(source), d), carray(ints(base), d // 2 * width + 1)
        for i in range(d // 2):
            low = to_bf16(xs[2 * i]) & i32(0xFFFF)
            os[i * width] = low | to_bf16(xs[2 * i + 1]) << i32(16)
        if d % 2:
            os[d // 2 * width] = to_bf16(xs[d - 1]) & i32(0xFFFF)

    @njit(**FAST)
    def store_v(source: int, d: int, head: int, at: int, panel: int, scale: int) -> None:
        """Half a word: the other half is the other position of a pair."""
        kept = i32(0xFFFF) if at % 2 else i32(-65536)  # the other position's half
        shift = i32(16) if at % 2 else i32(0)
        for start in range(0, d, width):
            m = min(i64(width), d - start)
            base = head + start // width * panel + at // 2 * width * 4
            xs, os = carray(floats(source + start * 4), m), carray(ints(base), m)
            for i in range(m):
                os[i] = (os[i] & kept) | (to_bf16(xs[i]) & i32(0xFFFF)) << shift

    return store_k, store_v


def _store_int8(width: int) -> tuple[Kernel, Kernel]:
    """int8 with one float32 scale for each position's keys, and one for its values."""

    @njit(**FAST)
    def store_k(source: int, d: int, head: int, at: int, size: int, scale: int) -> None:
        """The position's column, divided by its scale."""
        inverse = start_block(source, d, f32(127), scale)
        base = head + at // width * size * width + at % width
        xs, os = carray(floats(source), d), carray(chars(base), d * width)
        for i in range(d):
            os[i * width] = np.int8(np.rint(xs[i] * inverse))

    @njit(**FAST)
    def store_v(source: int, d: int, head: int, at: int, panel: int, scale: int) -> None:
        """One row of each panel, divided by its scale."""
        inverse = start_block(source, d, f32(127), scale)
        for start in range(0, d, width):
            m = min(i64(width), d - start)
            base = head + start // width * panel + at * width
            xs, os = carray(floats(source + start * 4), m), carray(chars(base), m)
            for i in range(m):
                os[i] = np.int8(np.rint(xs[i] * inverse))

    return store_k, store_v


STORES = {"float32": _store_float32, "bfloat16": _store_bfloat16, "int8": _store_int8}


# ---- Finding.


class HeadAddresses(NamedTuple):
    """Where a head's part of a slot is; its scales belong to int8 caches alone."""

    keys: Any
    values: Any
    key_scales: Any
    value_scales: Any


@njit(nogil=True, error_model="numpy")
def find_head(job: Any, slot: int, layer: int, h: int) -> Any:
    """The addresses of head h of a layer in the slot at an address."""
    number = layer * job[Job.HEADS] + h
    keys = slot + number * job[Job.KEY_BYTES]
    scales = slot + job[Job.SCALE_OFFSET] + number * job[Job.SCALE_BYTES]
    return HeadAddresses(keys, keys + job[Job.V_OFFSET], scales, scales + job[Job.POSITIONS] * 4)


def cache_kernels(target: Target, dtype: str) -> tuple[Kernel, Kernel, Kernel]:
    """keep, await_group, await_values: store one head's new keys and values; prefetch them."""
    width, step = target.width, STEP[CACHE_PRODUCT[dtype]]
    step_bytes, numbers = step.weight_bytes * width, step.numbers
    key_bytes = step.weight_bytes // numbers
    store_k, store_v = STORES[dtype](width)

    @njit(nogil=True, error_model="numpy")
    def keep(job: Any, layer: int, h: int, qkv: int, stride: int) -> None:
        """Store the new keys and values of one head."""
        d, size = job[Job.HEAD], job[Job.SIZE]
        row = carray(words(job[Job.ROW]), 2 * job[Job.ROWS])
        for r in range(job[Job.ROWS]):
            at, source = row[2 * r + 1], qkv + r * stride
            head = find_head(job, row[2 * r], layer, h)
            store_k(source + size * 4, d, head.keys, at, size, head.key_scales + at * 4)
            scale = head.value_scales + at * 4
            store_v(source + size * 8, d, head.values, at, job[Job.V_PANEL], scale)

    @njit(nogil=True, error_model="numpy")
    def await_group(job: Any, layer: int, h: int, first: int) -> None:
        """Prefetch the keys and values of the sequence whose turn is next."""
        row = carray(words(job[Job.ROW] + first * 16), 2)
        head = find_head(job, row[0], layer, h)
        panels, at = row[1] // width + 1, row[1] // numbers + 1
        fetch(head.keys, min(panels * job[Job.SIZE] * width * key_bytes, i64(NEXT)))
        size = min(at * step_bytes, i64(NEXT // 2))
        for i in range(job[Job.SIZE] // width):
            fetch(head.values + i * job[Job.V_PANEL], size)

    @njit(nogil=True, error_model="numpy")
    def await_values(job: Any, layer: int, h: int) -> None:
        """Prefetch the places where the new values of one head will be written."""
        row = carray(words(job[Job.ROW]), 2 * job[Job.ROWS])
        for r in range(job[Job.ROWS]):
            place = find_head(job, row[2 * r], layer, h).values
            place += row[2 * r + 1] // numbers * step_bytes
            for i in range(job[Job.SIZE] // width):
                fetch(place + i * job[Job.V_PANEL], i64(step_bytes))

    return keep, await_group, await_values
