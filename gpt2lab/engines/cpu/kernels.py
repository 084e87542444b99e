"""One step of GPT-2 as compiled code: many rows of many sequences, by all threads together.

Threads share a step by tickets. Every phase of a layer (a norm, a matrix, the heads) is cut into
chunks; a thread draws the next ticket, waits until the phases before it are done, does the chunk,
and says so. Nothing depends on who did what, so results are the same for any number of threads, and
a thread that the system has put aside holds up no more than its own chunk.

This module needs Numba and is imported to compile only; `compiled` keeps what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np
from numba import carray, njit, types

from gpt2lab.engines.cpu import layout
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import SHUT, STEP, Control
from gpt2lab.engines.cpu.tiles import (
    FINISH,
    add_atomic,
    bits,
    call_at,
    chars,
    finish,
    floats,
    from_bits,
    give_way,
    halves,
    ints,
    load_atomic,
    pack_int8,
    prefetch,
    relax,
    shorts,
    softmax,
    store_atomic,
    swap_atomic,
    tile,
    words,
)

Kernel = Callable[..., Any]

f32: Any = np.float32
i32: Any = np.int32
i64: Any = np.int64
FAST = {"nogil": True, "fastmath": True, "error_model": "numpy"}

JOB_WORDS, LAYER_WORDS = len(layout.Job), len(layout.Layer)


def _constants(words: type[IntEnum]) -> Any:
    """The numbers of an enumeration as a module's: what every Numba takes as an index."""
    module = ModuleType(words.__name__)
    module.__dict__.update({word.name: int(word) for word in words})
    return module


Job, Layer = _constants(layout.Job), _constants(layout.Layer)
SPINS = 2000  # about 50 microseconds before a waiting thread gives way
IDLE = 400  # turns of 100 spins, about a millisecond, before a helper goes to sleep
NEXT = 16384  # bytes of the next sequence's keys, and of its values, that are fetched beforehand
AHEAD = 16384  # bytes of weights that a waiting thread fetches beforehand


# ---- Threads.

_CLAIM, _DONE, _TOTAL, _RUN, _JOB, _STOP, _ASLEEP = (8 * int(word) for word in Control)
_LOW = 0xFFFFFFFF  # the half of CLAIM that counts tickets


@njit(nogil=True)
def wait(control: int, count: int) -> None:
    """Until `count` tickets are done: shortly at full attention, then giving way to others."""
    turns = 0
    while load_atomic(control + _DONE) < count:
        turns += 1
        if turns < SPINS:
            relax()
        else:
            give_way()


@njit(nogil=True)
def claim(control: int, epoch: int) -> int:
    """The next ticket of this epoch, -1 when there is none.

    The next epoch's may be another engine's, which this code must not take; where the swap succeeds
    the epoch had not ended, so the total is its own.
    """
    while True:
        now = load_atomic(control + _CLAIM)
        ticket = now & i64(_LOW)
        if now >> 32 != epoch or ticket >= load_atomic(control + _TOTAL):
            return i64(-1)
        if swap_atomic(control + _CLAIM, now, now + 1):
            return ticket


@njit(nogil=True)
def lead(control: int, run: int, job: int, total: int) -> None:
    """Start a job, take part in it, and return when all of it is done."""
    epoch = (load_atomic(control + _CLAIM) >> 32) + 1
    store_atomic(control + _CLAIM, epoch << 32 | i64(SHUT))
    store_atomic(control + _TOTAL, total)
    store_atomic(control + _DONE, i64(0))
    store_atomic(control + _RUN, run)
    store_atomic(control + _JOB, job)
    store_atomic(control + _CLAIM, epoch << 32)
    call_at(run, control, epoch, i64(0))
    wait(control, total)


@njit(nogil=True)
def follow(control: int, me: int) -> None:
    """A helper: takes part in every job that comes, and returns when none came for a while."""
    seen, turns = i64(-1), 0
    asleep = control + _ASLEEP + 64 * me
    while load_atomic(control + _STOP) == 0:
        now = load_atomic(control + _CLAIM)
        epoch = now >> 32
        if epoch != seen and now & i64(_LOW) < i64(SHUT):
            call_at(load_atomic(control + _RUN), control, epoch, me)
            seen, turns = epoch, 0
            continue
        turns += 1
        for _ in range(100):
            relax()
        if turns > IDLE // 8:
            give_way()
        if turns > IDLE:
            store_atomic(asleep, i64(1))
            if load_atomic(control + _CLAIM) >> 32 == epoch:
                return
            store_atomic(asleep, i64(0))
            turns = 0


@njit(nogil=True, error_model="numpy")
def crew(control: int, run: int, job: int, total: int, me: int) -> None:
    """`lead` for the thread 0, `follow` for the others."""
    if me == 0:
        lead(control, run, job, total)
    else:
        follow(control, me)


# ---- Numbers.


@njit(inline="always", **FAST)
def to_bf16(x: float) -> int:
    """The 16 bits of the nearest bfloat16."""
    raw = bits(x)
    return (raw + i32(0x7FFF) + ((raw >> i32(16)) & i32(1))) >> i32(16)


@njit(**FAST)
def norm(x: int, g: int, b: int, out: int, n: int, epsilon: float) -> None:
    """ln of one row; addresses of float32."""
    xs, gs, bs, os = (
        carray(floats(x), n),
        carray(floats(g), n),
        carray(floats(b), n),
        carray(floats(out), n),
    )
    mean = f32(0)
    for i in range(n):
        mean += xs[i]
    mean /= f32(n)
    variance = f32(0)
    for i in range(n):
        variance += (xs[i] - mean) * (xs[i] - mean)
    r = f32(1) / np.sqrt(variance / f32(n) + epsilon)
    for i in range(n):
        os[i] = (xs[i] - mean) * r * gs[i] + bs[i]


@njit(**FAST)
def multiply(out: int, by: int, n: int) -> None:
    """float32 at one address times those at another, in place."""
    os, bs = carray(floats(out), n), carray(floats(by), n)
    for i in range(n):
        os[i] *= bs[i]


@njit(**FAST)
def copy(source: int, out: int, n: int) -> None:
    """float32 from one address to another."""
    xs, os = carray(floats(source), n), carray(floats(out), n)
    for i in range(n):
        os[i] = xs[i]


# ---- Activations in the form that a product takes: (row, how many, out, scales).


@njit(**FAST)
def _largest(x: int, n: int) -> float:
    xs = carray(floats(x), n)
    top = f32(0)
    for i in range(n):
        top = max(top, abs(xs[i]))
    return top


@njit(**FAST)
def _block(x: int, m: int, limit: float, scales: int) -> float:
    """Note the scale of a block and return by what its numbers are multiplied."""
    top = _largest(x, m)
    carray(floats(scales), 1)[0] = top / limit
    return limit / top if top > f32(1e-30) else f32(0)


@njit(**FAST)
def pack_int16(x: int, n: int, out: int, scales: int) -> None:
    """A row in blocks of int16 with a scale each."""
    size = i64(_INT16)
    for start in range(0, n, size):
        m = min(size, n - start)
        inverse = _block(x + 4 * start, m, f32(32767), scales + start // size * 8)
        xs, os = carray(floats(x + 4 * start), m), carray(shorts(out + 2 * start), m)
        for i in range(m):
            os[i] = np.int16(np.rint(xs[i] * inverse))
    if n % 2:
        carray(shorts(out + 2 * n), 1)[0] = np.int16(0)


@njit(**FAST)
def pack_bf16(x: int, n: int, out: int, scales: int) -> None:
    """A row as bfloat16."""
    xs, os = carray(floats(x), n), carray(halves(out), n)
    for i in range(n):
        os[i] = np.uint16(to_bf16(xs[i]) & i32(0xFFFF))
    if n % 2:
        carray(halves(out + 2 * n), 1)[0] = np.uint16(0)


@njit(**FAST)
def pack_float(x: int, n: int, out: int, scales: int) -> None:
    """A row as it is."""
    copy(x, out, n)
    carray(floats(out + 4 * n), 1)[0] = f32(0)  # where a product takes two at a time


_INT16 = STEP["int16"].block * STEP["int16"].numbers


def pack_kernel(target: Target, product: str) -> Kernel:
    """Which of them serves a product."""
    if product in ("vnni", "dot"):
        return pack_int8(target)
    return {"int16": pack_int16, "pairs": pack_bf16}.get(product, pack_float)


# ---- Keys and values. Keys: panels of `width` positions; values: panels of `width` places of D.

CACHE_PRODUCT = {"float32": "float", "bfloat16": "shift", "int8": "byte"}


def store_kernels(target: Target, dtype: str) -> tuple[Kernel, Kernel]:
    """store_k, store_v: one head's keys or values (d numbers at `source`) of one position.

    Their arguments: source, d, the head's address, the position, then SIZE or V_PANEL, and where
    the position's scale stands (int8 alone).
    """
    width = target.width

    if dtype == "float32":

        @njit(**FAST)
        def store_k(source: int, d: int, head: int, at: int, size: int, scale: int) -> None:
            base = head + at // width * size * width * 4 + at % width * 4
            xs, os = carray(floats(source), d), carray(floats(base), d * width)
            for i in range(d):
                os[i * width] = xs[i]

        @njit(**FAST)
        def store_v(source: int, d: int, head: int, at: int, panel: int, scale: int) -> None:
            for start in range(0, d, width):
                m = min(i64(width), d - start)
                copy(source + start * 4, head + start // width * panel + at * width * 4, m)

    elif dtype == "bfloat16":  # two of them are a word: whole words are what vectors can write

        @njit(**FAST)
        def store_k(source: int, d: int, head: int, at: int, size: int, scale: int) -> None:
            base = head + at // width * size * width * 2 + at % width * 4
            xs, os = carray(floats(source), d), carray(ints(base), d // 2 * width + 1)
            for i in range(d // 2):
                low = to_bf16(xs[2 * i]) & i32(0xFFFF)
                os[i * width] = low | to_bf16(xs[2 * i + 1]) << i32(16)
            if d % 2:
                os[d // 2 * width] = to_bf16(xs[d - 1]) & i32(0xFFFF)

        @njit(**FAST)
        def store_v(source: int, d: int, head: int, at: int, panel: int, scale: int) -> None:
            kept = i32(0xFFFF) if at % 2 else i32(-65536)  # the other position's half
            shift = i32(16) if at % 2 else i32(0)
            for start in range(0, d, width):
                m = min(i64(width), d - start)
                base = head + start // width * panel + at // 2 * width * 4
                xs, os = carray(floats(source + start * 4), m), carray(ints(base), m)
                for i in range(m):
                    os[i] = (os[i] & kept) | (to_bf16(xs[i]) & i32(0xFFFF)) << shift

    else:

        @njit(**FAST)
        def store_k(source: int, d: int, head: int, at: int, size: int, scale: int) -> None:
            inverse = _block(source, d, f32(127), scale)
            base = head + at // width * size * width + at % width
            xs, os = carray(floats(source), d), carray(chars(base), d * width)
            for i in range(d):
                os[i * width] = np.int8(np.rint(xs[i] * inverse))

        @njit(**FAST)
        def store_v(source: int, d: int, head: int, at: int, panel: int, scale: int) -> None:
            inverse = _block(source, d, f32(127), scale)
            for start in range(0, d, width):
                m = min(i64(width), d - start)
                base = head + start // width * panel + at * width
                xs, os = carray(floats(source + start * 4), m), carray(chars(base), m)
                for i in range(m):
                    os[i] = np.int8(np.rint(xs[i] * inverse))

    return store_k, store_v


# ---- The step.

_RESIDUAL, _INNER, _LOGITS, _PLAIN = range(4)  # what becomes of a product: `tiles.FINISH`


def step_kernel(target: Target, weights: str, cache: str) -> Kernel:
    """run(control, epoch, me): this thread's part of a step.

    weights, cache: "float32", "bfloat16" or "int8".
    """
    product, keys = target.product(weights), CACHE_PRODUCT[cache]
    step, key_step = STEP[product], STEP[keys]
    numbers, key_numbers = step.numbers, key_step.numbers
    panel_step = step.weight_bytes * target.width  # bytes of one step of a panel
    width, high = target.width, target.rows
    narrow = tile(target, product)
    key_step_bytes, key_bytes = key_step.weight_bytes * width, key_step.weight_bytes // key_numbers
    against, against_two = tile(target, keys), tile(target, keys, 2)
    pack, (store_k, store_v) = pack_kernel(target, product), store_kernels(target, cache)
    residual, inner, logits, plain = (finish(target, kind, weights == "int8") for kind in FINISH)
    soften, scaled_cache = softmax(target), cache == "int8"
    unpacked = product in ("float", "shift")  # float32 rows are multiplied as they are

    @njit(nogil=True)
    def cut(count: int, parts: int, i: int) -> int:
        return count * i // parts

    @njit(nogil=True)
    def fetch(address: int, size: int) -> None:
        for i in range(0, size, 64):
            prefetch(address + i)

    @njit(nogil=True, error_model="numpy")
    def columns(
        job: Any, kind: int, w: int, scale: int, bias: int, k: int, rows: int,
        x: int, xs: int, sx: int, out: int, stride: int, first: int, end: int, after: int,
        acc: int,
    ) -> None:  # fmt: skip
        """x times the panels first to end of w, for all rows, into out.

        While many rows go through a panel, the next one is fetched; `after` is the panel that this
        thread will probably take after these.
        """
        steps = (k + numbers - 1) // numbers
        size = steps * panel_step
        tiles = (rows + high - 1) // high
        pace = panel_step // tiles if tiles > 1 else i64(0)
        for p in range(first, end):
            at, r = w + p * size, i64(0)
            for i in range(tiles):  # equal heights, at most `high`
                n = (rows - r + tiles - i - 1) // (tiles - i)
                following = p + 1 if p + 1 < end else after
                narrow(
                    n, at, i64(0), x + r * xs, xs, acc, i64(width * 4), steps,
                    sx + r * job[Job.SCALES_STRIDE], job[Job.SCALES_STRIDE],
                    w + following * size + i * steps * pace, pace,
                )  # fmt: skip
                at_columns, act = p * width * 4, job[Job.ACTIVATION]
                ss, bs = scale + at_columns, bias + at_columns
                to = out + r * stride + at_columns
                if kind == _RESIDUAL:
                    residual(n, acc, i64(width * 4), ss, bs, to, stride, act)
                elif kind == _INNER:
                    inner(n, acc, i64(width * 4), ss, bs, to, stride, act)
                elif kind == _LOGITS:
                    logits(n, acc, i64(width * 4), ss, bs, to, stride, act)
                else:
                    plain(n, acc, i64(width * 4), ss, bs, to, stride, act)
                r += n

    # ---- Rows before a product: normalised or not, in the form that it takes.

    @njit(nogil=True, error_model="numpy")
    def normalise(
        job: Any, g: int, b: int, first: int, end: int, last: bool, own: int, acts: int, sx: int
    ) -> None:
        """ln of the residual stream; with `last`, of the rows whose logits are wanted."""
        e, epsilon = job[Job.EMBED], from_bits(i32(job[Job.EPSILON]))
        chosen = carray(words(job[Job.LAST_ROW]), max(job[Job.LAST], i64(1)))
        temp = own + job[Job.OWN_Z]
        for r in range(first, end):
            source = chosen[r] if last else r
            out = acts + r * job[Job.ACTS_STRIDE]
            norm(job[Job.X] + source * job[Job.X_STRIDE], g, b, temp, e, epsilon)
            pack(temp, e, out, sx + r * job[Job.SCALES_STRIDE])

    @njit(nogil=True, error_model="numpy")
    def pack_rows(job: Any, n: int, first: int, end: int, acts: int, sx: int) -> None:
        """What attention or the inside of the MLP gave."""
        for r in range(first, end):
            source = job[Job.WIDE] + r * job[Job.WIDE_STRIDE]
            pack(source, n, acts + r * job[Job.ACTS_STRIDE], sx + r * job[Job.SCALES_STRIDE])

    # ---- Heads.

    @njit(nogil=True, error_model="numpy")
    def over_cache(
        rows: int, w: int, ws: int, panels: int, x: int, xs: int, out: int, stride: int, steps: int
    ) -> None:
        """x times some panels of keys, or of values."""
        i, none = i64(0), i64(0)
        while rows == 1 and i + 2 <= panels:  # two abreast, for more sums on their way
            to = out + i * width * 4
            against_two(rows, w + i * ws, ws, x, xs, to, stride, steps, x, none, x, none)
            i += 2
        while i < panels:
            to = out + i * width * 4
            against(rows, w + i * ws, ws, x, xs, to, stride, steps, x, none, x, none)
            i += 1

    @njit(**FAST)
    def attend(
        job: Any, layer: int, h: int, first: int, rows: int, scale: int, q: int, stride: int,
        own: int,
    ) -> None:  # fmt: skip
        """Attention of one head for neighbouring rows of one sequence."""
        d, size = job[Job.HEAD], job[Job.SIZE]
        row = carray(words(job[Job.ROW] + first * 16), 2)
        number = layer * job[Job.HEADS] + h
        head = row[0] + number * job[Job.KEY_BYTES]
        scales = row[0] + job[Job.SCALE_OFFSET] + number * job[Job.SCALE_BYTES]
        seen = row[1] + 1  # keys that the first of the rows sees
        panels = (seen + rows - 1 + width - 1) // width
        p_stride = job[Job.POSITIONS] * 4
        p, z = own + job[Job.OWN_P], own + job[Job.OWN_Z]
        numbers_d = size // key_numbers
        over_cache(
            rows, head, numbers_d * key_step_bytes, panels, q, stride, p, p_stride, numbers_d
        )
        steps, end = (seen + rows - 1 + key_numbers - 1) // key_numbers, panels * width
        totals = z + high * size * 4
        for r in range(rows):
            at, n = p + r * p_stride, seen + r
            if scaled_cache:
                multiply(at, scales, n)
            total = soften(at, n, end, scale)
            carray(floats(totals + r * 4), 1)[0] = f32(1) / total
            if scaled_cache:
                multiply(at, scales + p_stride, n)
        values, value_panels = head + job[Job.V_OFFSET], size // width
        over_cache(
            rows, values, job[Job.V_PANEL], value_panels, p, p_stride, z, size * 4, steps
        )  # fmt: skip
        for r in range(rows):
            inverse = carray(floats(totals + r * 4), 1)[0]
            out = job[Job.WIDE] + (first + r) * job[Job.WIDE_STRIDE] + h * d * 4
            zs, os = carray(floats(z + r * size * 4), d), carray(floats(out), d)
            for i in range(d):
                os[i] = zs[i] * inverse

    @njit(nogil=True, error_model="numpy")
    def keep(job: Any, layer: int, h: int, qkv: int, stride: int) -> None:
        """The new keys and values of one head into the cache."""
        d, size, number = job[Job.HEAD], job[Job.SIZE], layer * job[Job.HEADS] + h
        row = carray(words(job[Job.ROW]), 2 * job[Job.ROWS])
        for r in range(job[Job.ROWS]):
            slot, at, source = row[2 * r], row[2 * r + 1], qkv + r * stride
            head = slot + number * job[Job.KEY_BYTES]
            scale = slot + job[Job.SCALE_OFFSET] + number * job[Job.SCALE_BYTES] + at * 4
            store_k(source + size * 4, d, head, at, size, scale)
            scale += job[Job.POSITIONS] * 4
            store_v(source + size * 8, d, head + job[Job.V_OFFSET], at, job[Job.V_PANEL], scale)

    @njit(nogil=True, error_model="numpy")
    def await_group(job: Any, layer: int, h: int, first: int) -> None:
        """Ask for the keys and values of the sequence whose turn is next."""
        row = carray(words(job[Job.ROW] + first * 16), 2)
        head = row[0] + (layer * job[Job.HEADS] + h) * job[Job.KEY_BYTES]
        panels, at = row[1] // width + 1, row[1] // key_numbers + 1
        fetch(head, min(panels * job[Job.SIZE] * width * key_bytes, i64(NEXT)))
        size = min(at * key_step_bytes, i64(NEXT // 2))
        for i in range(job[Job.SIZE] // width):
            fetch(head + job[Job.V_OFFSET] + i * job[Job.V_PANEL], size)

    @njit(nogil=True, error_model="numpy")
    def await_values(job: Any, layer: int, h: int) -> None:
        """Ask for the places where the new values of one head will be written."""
        row = carray(words(job[Job.ROW]), 2 * job[Job.ROWS])
        offset = job[Job.V_OFFSET] + (layer * job[Job.HEADS] + h) * job[Job.KEY_BYTES]
        for r in range(job[Job.ROWS]):
            place = row[2 * r] + offset + row[2 * r + 1] // key_numbers * key_step_bytes
            for i in range(job[Job.SIZE] // width):
                fetch(place + i * job[Job.V_PANEL], i64(key_step_bytes))

    @njit(nogil=True, error_model="numpy")
    def one_head(job: Any, layer: int, w: Any, h: int, own: int, acts: int, sx: int) -> None:
        """Queries, keys and values of one head for all rows, then its attention."""
        panels, rows = 3 * job[Job.SIZE] // width, job[Job.ROWS]
        following = min(h + job[Job.WORKERS], job[Job.HEADS] - 1)
        if job[Job.GROUPS] > 1:
            await_values(job, layer, h)
        qkv, stride = own + job[Job.OWN_Q], 3 * job[Job.SIZE] * 4
        columns(
            job, _PLAIN, w[Layer.QKV], w[Layer.QKV_SCALE], w[Layer.QKV_BIAS], job[Job.EMBED], rows,
            acts, job[Job.ACTS_STRIDE], sx, qkv - h * stride, stride,
            h * panels, (h + 1) * panels, following * panels, own + 64,
        )  # fmt: skip
        keep(job, layer, h, qkv, stride)
        scale = w[Layer.ATTENTION]
        groups = carray(words(job[Job.GROUP]), 2 * job[Job.GROUPS])
        for g in range(job[Job.GROUPS]):
            if g + 1 < job[Job.GROUPS]:
                await_group(job, layer, h, groups[2 * g + 2])
            first = groups[2 * g]
            attend(
                job, layer, h, first, groups[2 * g + 1], scale, qkv + first * stride, stride, own
            )

    # ---- Phases.

    @njit(nogil=True, error_model="numpy")
    def matrix(
        job: Any, kind: int, w: int, scale: int, bias: int, k: int, n: int, rows: int,
        x: int, xs: int, sx: int, out: int, stride: int, parts: int, ticket: int, own: int,
    ) -> None:  # fmt: skip
        panels = (n + width - 1) // width
        first, end = cut(panels, parts, ticket), cut(panels, parts, ticket + 1)
        after = cut(panels, parts, min(ticket + job[Job.WORKERS], parts - 1))
        columns(
            job, kind, w, scale, bias, k, rows, x, xs, sx, out, stride, first, end, after, own + 64
        )

    @njit(nogil=True, error_model="numpy")
    def ahead(control: int, before: int, w: int, k: int, n: int, parts: int, ticket: int) -> None:
        """Wait for the phases before, and fetch the first weights meanwhile."""
        if load_atomic(control + _DONE) < before:
            size = (k + numbers - 1) // numbers * panel_step
            first = cut((n + width - 1) // width, parts, ticket)
            fetch(w + first * size, min(size, i64(AHEAD)))
            wait(control, before)

    @njit(nogil=True, error_model="numpy")
    def norm_rows(
        job: Any, g: int, b: int, rows: int, last: bool, parts: int, t: int, control: int,
        start: int, own: int, acts: int, sx: int,
    ) -> None:  # fmt: skip
        """A ticket of a phase of its own: some rows normalised."""
        wait(control, start)
        normalise(job, g, b, cut(rows, parts, t), cut(rows, parts, t + 1), last, own, acts, sx)

    @njit(nogil=True, error_model="numpy")
    def from_stream(
        job: Any, layer: int, w: Any, half: int, t: int, control: int, start: int, tag: Any,
        phase: int, own: int, acts: int, sx: int,
    ) -> None:  # fmt: skip
        """A ticket of what reads the residual stream: heads, or c_fc. Few rows are normalised here,
        once by each thread, which costs less than waiting for others.
        """
        e, f, rows = job[Job.EMBED], job[Job.INNER], job[Job.ROWS]
        heads = half == 0
        parts = job[Job.T_HEADS] if heads else job[Job.T_FC]
        n = 3 * job[Job.SIZE] * job[Job.HEADS] if heads else f
        ahead(control, start, w[Layer.QKV] if heads else w[Layer.FC], e, n, parts, t)
        if job[Job.FEW] and tag[0] != phase:
            g = w[Layer.LN_1_G] if heads else w[Layer.LN_2_G]
            b = w[Layer.LN_1_B] if heads else w[Layer.LN_2_B]
            normalise(job, g, b, i64(0), rows, False, own, acts, sx)
            tag[0] = phase
        if heads:
            for h in range(cut(job[Job.HEADS], parts, t), cut(job[Job.HEADS], parts, t + 1)):
                one_head(job, layer, w, h, own, acts, sx)
            return
        matrix(
            job, _INNER, w[Layer.FC], w[Layer.FC_SCALE], w[Layer.FC_BIAS], e, f, rows,
            acts, job[Job.ACTS_STRIDE], sx, job[Job.WIDE], job[Job.WIDE_STRIDE], parts, t, own,
        )  # fmt: skip

    @njit(nogil=True, error_model="numpy")
    def to_stream(
        job: Any, w: Any, half: int, t: int, control: int, start: int, tag: Any, phase: int,
        own: int, acts: int, sx: int,
    ) -> None:  # fmt: skip
        """A ticket of what adds to the residual stream: the projection of attention, or of the MLP."""  # noqa: E501
        e, k, parts = job[Job.EMBED], job[Job.INNER], job[Job.T_PROJECT]
        at, scale, bias = w[Layer.OUT], w[Layer.OUT_SCALE], w[Layer.OUT_BIAS]
        if half == 0:
            k = e
            at, scale, bias = w[Layer.PROJECT], w[Layer.PROJECT_SCALE], w[Layer.PROJECT_BIAS]
        ahead(control, start, at, k, e, parts, t)
        if job[Job.FEW] and not unpacked and tag[0] != phase:
            pack_rows(job, k, i64(0), job[Job.ROWS], acts, sx)
            tag[0] = phase
        x = job[Job.WIDE] if unpacked else acts
        xs = job[Job.WIDE_STRIDE] if unpacked else job[Job.ACTS_STRIDE]
        matrix(
            job, _RESIDUAL, at, scale, bias, k, e, job[Job.ROWS], x, xs, sx,
            job[Job.X], job[Job.X_STRIDE], parts, t, own,
        )  # fmt: skip

    @njit(nogil=True, error_model="numpy")
    def in_layer(job: Any, layer: int, t: int, own: int, control: int, start: int) -> None:
        """Ticket t of one layer; `start` tickets belong to earlier layers."""
        w = carray(words(job[Job.LAYER] + layer * 8 * LAYER_WORDS), LAYER_WORDS)
        few, rows, tag = job[Job.FEW] != 0, job[Job.ROWS], carray(words(own), 1)
        acts = own + job[Job.OWN_ACTS] if few else job[Job.ACTS]
        sx = own + job[Job.OWN_SCALES] if few else job[Job.SCALES]
        phase = job[Job.SERIAL] << 32 | start
        spread = job[Job.T_ROWS]  # 0 for few rows
        for half in range(2):
            if t < spread:
                g = w[Layer.LN_1_G] if half == 0 else w[Layer.LN_2_G]
                b = w[Layer.LN_1_B] if half == 0 else w[Layer.LN_2_B]
                norm_rows(job, g, b, rows, False, spread, t, control, start, own, acts, sx)
                return
            t, start, phase = t - spread, start + spread, phase + 1
            parts = job[Job.T_HEADS] if half == 0 else job[Job.T_FC]
            if t < parts:
                from_stream(job, layer, w, half, t, control, start, tag, phase, own, acts, sx)
                return
            t, start, phase = t - parts, start + parts, phase + 1
            if not unpacked:
                if t < spread:
                    wait(control, start)
                    k = job[Job.EMBED] if half == 0 else job[Job.INNER]
                    pack_rows(job, k, cut(rows, spread, t), cut(rows, spread, t + 1), acts, sx)
                    return
                t, start = t - spread, start + spread
            if t < job[Job.T_PROJECT]:
                to_stream(job, w, half, t, control, start, tag, phase, own, acts, sx)
                return
            t, start = t - job[Job.T_PROJECT], start + job[Job.T_PROJECT]

    @njit(nogil=True, error_model="numpy")
    def at_end(job: Any, t: int, own: int, control: int, start: int) -> None:
        """Ticket t of the end: ln_f, then the logits of the rows that are asked for."""
        rows, spread, few = job[Job.LAST], job[Job.T_LAST], job[Job.FEW] != 0
        final, tag = carray(words(job[Job.FINAL]), 2), carray(words(own), 1)
        acts = own + job[Job.OWN_ACTS] if few else job[Job.ACTS]
        sx = own + job[Job.OWN_SCALES] if few else job[Job.SCALES]
        phase = job[Job.SERIAL] << 32 | (start + 5)  # the last layer's end with start + 4
        if t < spread:
            norm_rows(job, final[0], final[1], rows, True, spread, t, control, start, own, acts, sx)
            return
        t, start, parts = t - spread, start + spread, job[Job.T_LOGITS]
        n = job[Job.HEAD_PANELS] * width
        ahead(control, start, job[Job.HEAD_WEIGHT], job[Job.EMBED], n, parts, t)
        if few and tag[0] != phase:
            normalise(job, final[0], final[1], i64(0), rows, True, own, acts, sx)
            tag[0] = phase
        matrix(
            job, _LOGITS, job[Job.HEAD_WEIGHT], job[Job.HEAD_SCALE], i64(0), job[Job.EMBED], n,
            rows, acts, job[Job.ACTS_STRIDE], sx, job[Job.LOGITS], job[Job.LOGITS_STRIDE],
            parts, t, own,
        )  # fmt: skip

    @njit(nogil=True, error_model="numpy")
    def run(control: int, epoch: int, me: int) -> None:
        while True:
            ticket = claim(control, epoch)
            if ticket < 0:
                return
            job = carray(words(load_atomic(control + _JOB)), JOB_WORDS)
            own = job[Job.SCRATCH] + me * job[Job.SCRATCH_STRIDE]
            prepared = i64(0) if job[Job.FEW] else (2 if unpacked else 4) * job[Job.T_ROWS]
            each = prepared + job[Job.T_HEADS] + 2 * job[Job.T_PROJECT] + job[Job.T_FC]
            layer = ticket // each
            if layer < job[Job.LAYERS]:
                in_layer(job, layer, ticket - layer * each, own, control, layer * each)
            else:
                before = job[Job.LAYERS] * each
                at_end(job, ticket - before, own, control, before)
            add_atomic(control + _DONE, i64(1))

    return run


SIGNATURES = {
    "run": types.void(types.int64, types.int64, types.int64),
    "crew": types.void(types.int64, types.int64, types.int64, types.int64, types.int64),
}
