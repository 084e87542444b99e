"""The fast engine: compiled kernels over packed weights, on the processor alone.

The logits of a row are the same bits alone, in any batch, in any chunking of a prefill and for any
number of threads: every sum keeps its own order (`tiles`), and threads share work, not sums.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from gpt2lab import forks
from gpt2lab.checks import check_batch, one_of, whole
from gpt2lab.config import Config, parameter_shapes
from gpt2lab.engines.cpu import compile_cache, cpu_features, packed_cache
from gpt2lab.engines.cpu import threads as workers
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.layout import STEP, Job, Layer, ceil_to
from gpt2lab.engines.cpu.packed_cache import Plan
from gpt2lab.engines.cpu.packing import KINDS, by_head, evened, pack, shapes
from gpt2lab.errors import InputError
from gpt2lab.files.io import let_go

Array = np.ndarray[Any, np.dtype[Any]]

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "int8")
ITEM = {"float32": 4, "bfloat16": 2, "int8": 1}
ROWS = 252  # how many tokens go through the layers together: whole tiles of 6 and of 12
FEW = 4  # up to so many rows, every thread prepares them for itself instead of waiting for others
SPARE = 8  # buffers of freed slots that are kept for the next ones


class CpuCache:
    """Slots of keys and values in panels. Memory is taken as positions are written to."""

    chunked = True

    def __init__(self, engine: CpuEngine, slots: int | None = None) -> None:
        self._engine, self._limit = engine, slots
        self._buffers: dict[int, Array] = {}
        self._addresses: dict[int, int] = {}
        self._lengths: dict[int, int] = {}
        self._next = 0

    def new(self) -> int:
        """A fresh slot of length 0."""
        if self._limit is not None and len(self._buffers) >= self._limit:
            raise InputError(
                f"all {self._limit} slots of the cache hold a sequence; free one, or ask for more"
            )
        slot, self._next = self._next, self._next + 1
        self._buffers[slot] = self._engine.buffer()
        self._addresses[slot] = int(self._buffers[slot].ctypes.data)
        self._lengths[slot] = 0
        return slot

    def length(self, slot: int) -> int:
        """How many tokens the slot holds."""
        return self._lengths[slot]

    def address(self, slot: int) -> int:
        """Where the slot's keys begin."""
        return self._addresses[slot]

    def set_length(self, slot: int, length: int) -> None:
        """Note that tokens were written up to a length."""
        self._lengths[slot] = length

    def rewind(self, slot: int, length: int) -> None:
        """Forget everything past the first `length` tokens."""
        assert 0 <= length <= self._lengths[slot]
        self._lengths[slot] = length

    def fork(self, slot: int) -> int:
        """A new slot that begins with all that this one holds; both go on independently."""
        other, length = self.new(), self._lengths[slot]
        self._engine.copy(self._buffers[slot], self._buffers[other], length)
        self._lengths[other] = length
        return other

    def free(self, slot: int) -> None:
        """Give the slot back."""
        self._engine.spare(self._buffers.pop(slot))
        del self._lengths[slot], self._addresses[slot]

    def __len__(self) -> int:
        return len(self._buffers)

    @property
    def position_bytes(self) -> int:
        """The memory of one position of one slot."""
        return -(-self._engine.slot_bytes // self._engine.config.n_ctx)


class CpuEngine:
    """Keeps the protocol of `engines.Engine`.

    dtype: of the weights, "float32", "bfloat16" or "int8"; None is `default_dtype`. cache_dtype: of
    keys and values, the same three; None is float32 for float32 weights, bfloat16 for the others.
    threads: None is one for each physical core that this process may use. target: None is this
    machine's. key: gives a text that names config and params exactly (`storage.Plan.build`).
    Raises InputError for other dtypes and for weights that the free memory does not hold.
    """

    name = "cpu"

    def __init__(
        self,
        config: Config,
        params: dict[str, Array],
        dtype: str | None = None,
        *,
        cache_dtype: str | None = None,
        threads: int | None = None,
        target: Target | None = None,
        key: Callable[[], str] | None = None,
    ) -> None:
        target = target or cpu_features.here()
        if target is None or cpu_features.why_not():
            raise InputError(
                f"the cpu engine cannot run here: {cpu_features.why_not()}; "
                "choose engine numpy or torch"
            )
        if dtype is None and (dtype := default_dtype(config)) != "float32":
            free = (cpu_features.memory() or 0) / 1e9
            log.warning(f"{free:.1f} GB of memory are free, so the weights are held as {dtype}")
        self.dtype = one_of("dtype", dtype, DTYPES)
        kept = "float32" if self.dtype == "float32" else "bfloat16"
        kept = kept if cache_dtype is None else cache_dtype
        self.cache_dtype = one_of("cache dtype", kept, DTYPES)
        self.config, self.target = config, target
        self.threads = (
            cpu_features.cores() if threads is None else whole("threads", threads, 1, 256)
        )
        self._run = compile_cache.library("run", target, self.dtype, self.cache_dtype)
        self._crew_code = compile_cache.library("crew", target)
        self._inner, self._spare = config.mlp_width, list[Array]()
        self._cut: tuple[int, int] = (0, 0)  # what the tickets in the job are for
        self._total, self._serial, self._room = 0, 0, 0
        self._lay_out()
        self._pack(params, key)

    def cache(self, slots: int | None = None) -> CpuCache:
        """An empty cache; `slots` limits how many sequences it holds."""
        return CpuCache(self, slots)

    def step(
        self,
        cache: CpuCache,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[bool] | None = None,
    ) -> Array:
        """Append tokens[i] to slots[i]; the logits after the last token of each: [N, V].

        wanted: for which slots there shall be logits, all by default; N counts these.

        A step that fails or is broken off leaves every slot at the length that it had.
        """
        before = self._check(cache, slots, tokens)
        flat = [int(token) for new in tokens for token in new]
        owner = [i for i, new in enumerate(tokens) for _ in new]
        places = [n + j for n, new in zip(before, tokens, strict=True) for j in range(len(new))]
        ends = np.cumsum([len(new) for new in tokens]) - 1
        ends = ends if wanted is None else ends[np.asarray(wanted, bool)]
        out = np.empty((len(ends), self._vocab), np.float32)
        address = [cache.address(slot) for slot in slots]
        done = 0
        for start in range(0, len(flat), ROWS):
            end = min(len(flat), start + ROWS)
            count = int(np.searchsorted(ends, end)) - done
            rows = owner[start:end]
            self._rows(
                [address[i] for i in rows],
                places[start:end],
                flat[start:end],
                ends[done : done + count] - start,
                out[done : done + count],
            )
            done += count
        for slot, length, new in zip(slots, before, tokens, strict=True):
            cache.set_length(slot, length + len(new))
        return out[:, : self.config.n_vocab]  # [N, V]

    def logits(self, tokens: Any) -> Array:
        """The logits of every position of a batch [B, T] without a past: [B, T, V]."""
        rows = check_batch(tokens, self.config.n_vocab, self.config.n_ctx)
        out = np.empty((len(rows), len(rows[0]), self._vocab), np.float32)
        cache = self.cache()
        slot = cache.new()
        for b, row in enumerate(rows):
            for start in range(0, len(row), ROWS):
                part = row[start : start + ROWS]
                places = list(range(start, start + len(part)))
                ends = np.arange(len(part))
                where = out[b, start : start + len(part)]
                self._rows([cache.address(slot)] * len(part), places, part, ends, where)
        cache.free(slot)
        return out[..., : self.config.n_vocab]  # [B, T, V]

    # ---- A step.

    def _check(self, cache: CpuCache, slots: Sequence[int], tokens: Sequence[Any]) -> list[int]:
        """The slots' lengths; InputError, before anything is changed, for what cannot be done."""
        if len(slots) != len(tokens):
            raise InputError(f"{len(slots)} slots and {len(tokens)} lists of tokens; give as many")
        if len(set(slots)) != len(slots):
            raise InputError(f"a slot is named twice in one step: {list(slots)}")
        lengths = [cache.length(slot) for slot in slots]
        for slot, length, new in zip(slots, lengths, tokens, strict=True):
            if not len(new):
                raise InputError(f"no new tokens for slot {slot}; give at least one")
            if length + len(new) > self.config.n_ctx:
                raise InputError(
                    f"tokens: {length} past and {len(new)} new ones are more than the model's "
                    f"{self.config.n_ctx} positions; give fewer, or rewind the slot"
                )
            for token in (min(new), max(new)):
                if not 0 <= token < self.config.n_vocab:
                    raise InputError(
                        f"tokens: id {token} is outside the vocabulary; "
                        f"ids end at {self.config.n_vocab - 1}"
                    )
        return lengths

    def _rows(
        self, slots: list[int], places: list[int], tokens: list[int], ends: Array, out: Array
    ) -> None:
        """Send rows through the layers; the logits of those in `ends` go to out [ends, V padded].

        slots: the address of each row's slot. places: its position.
        """
        job, count = self._job, len(tokens)
        groups: list[list[int]] = []
        for r, slot in enumerate(slots):
            if r and slots[r - 1] == slot and groups[-1][1] < self.target.rows:
                groups[-1][1] += 1
            else:
                groups.append([r, 1])
        crew = workers.crew(self.threads, self._crew_code)
        with forks.whole(), crew.lock:
            self._reserve(count)
            x = self._x[:count, : self.config.n_embd]
            np.add(self._wte[tokens], self._wpe[places], out=x)
            self._row[:count, 0], self._row[:count, 1] = slots, places
            self._group[: len(groups)] = groups
            self._last[: len(ends)] = ends
            self._serial += 1
            job[Job.SERIAL] = self._serial
            job[Job.ROWS], job[Job.GROUPS], job[Job.LAST] = count, len(groups), len(ends)
            job[Job.LOGITS] = out.ctypes.data
            crew.run(self._run.address, self._job_address, self._tickets(count, len(ends)))

    def _tickets(self, rows: int, last: int) -> int:
        """Into how many chunks each phase is cut; returns how many there are in all."""
        key = (rows, last)
        if key == self._cut:
            return self._total
        self._cut = (0, 0)  # so that after an interrupt here all of it is done again
        c, n, job = self.config, self.threads, self._job

        def panels(columns: int) -> int:
            return -(-columns // self.target.width)

        most = 1 if n == 1 else 4 * n
        few = rows <= FEW
        job[Job.FEW] = few
        job[Job.T_ROWS] = 0 if few else min(-(-rows // 4), 4 * n)
        job[Job.T_HEADS] = c.n_head
        job[Job.T_PROJECT] = min(panels(c.n_embd), most)
        job[Job.T_FC] = min(panels(self._inner), most)
        job[Job.T_LAST] = 0 if few or not last else min(-(-last // 4), 4 * n)
        job[Job.T_LOGITS] = min(panels(c.n_vocab), 4 * most) if last else 0
        unpacked = self.target.product(self.dtype) in ("float", "shift")
        each = (2 if unpacked else 4) * job[Job.T_ROWS] + job[Job.T_HEADS]
        each += 2 * job[Job.T_PROJECT] + job[Job.T_FC]
        self._total = int(each * c.n_layer + job[Job.T_LAST] + job[Job.T_LOGITS])
        self._cut = key
        return self._total

    # ---- Slots.

    def buffer(self) -> Array:
        """Memory for one slot: from the system, so zeros that take none until they are written."""
        try:
            return self._spare.pop()
        except IndexError:
            return np.frombuffer(_own_memory(self.slot_bytes), np.uint8)

    def spare(self, buffer: Array) -> None:
        """Keep a slot's memory for the next one, up to a few."""
        if len(self._spare) < SPARE:
            self._spare.append(buffer)

    def copy(self, source: Array, to: Array, length: int) -> None:
        """The first `length` positions of one slot into another."""
        for old, new in zip(self._used(source, length), self._used(to, length), strict=True):
            new[:] = old

    def _used(self, buffer: Array, length: int) -> list[Array]:
        """The parts of a slot's buffer that hold its first `length` tokens."""
        width, heads = self.target.width, self.config.n_layer * self.config.n_head
        item, size = ITEM[self.cache_dtype], int(self._job[Job.SIZE])
        values, scales = int(self._job[Job.V_OFFSET]), int(self._job[Job.SCALE_OFFSET])
        keys = buffer[:values].reshape(heads, -1, width * size * item)
        mixed = buffer[values:scales].reshape(heads * size // width, -1)
        parts = [keys[:, : -(-length // width)], mixed[:, : ceil_to(length, 2) * width * item]]
        if self.cache_dtype == "int8":
            parts.append(buffer[scales:].reshape(2 * heads, -1)[:, : 4 * length])
        return parts

    # ---- What is made once.

    def _lay_out(self) -> None:
        """The words of a job that never change, and how a slot is laid out."""
        c, width = self.config, self.target.width
        size, item = ceil_to(c.head_width, width), ITEM[self.cache_dtype]
        positions, heads = ceil_to(c.n_ctx, width), c.n_layer * c.n_head
        self._vocab = ceil_to(c.n_vocab, width)
        job = self._job = np.zeros(len(Job), np.int64)
        self._job_address = int(job.ctypes.data)
        job[Job.WORKERS] = self.threads
        job[Job.LAYERS], job[Job.EMBED], job[Job.HEADS] = c.n_layer, c.n_embd, c.n_head
        job[Job.HEAD], job[Job.SIZE], job[Job.INNER] = c.head_width, size, self._inner
        job[Job.ACTIVATION] = ("gelu_new", "gelu", "relu").index(c.activation_function)
        job[Job.EPSILON] = np.float32(c.layer_norm_epsilon).view(np.int32)
        job[Job.LOGITS_STRIDE] = 4 * self._vocab
        job[Job.KEY_BYTES] = positions * size * item
        job[Job.SCALE_BYTES] = 2 * 4 * positions
        job[Job.V_OFFSET] = heads * job[Job.KEY_BYTES]
        job[Job.SCALE_OFFSET] = 2 * job[Job.V_OFFSET]
        job[Job.V_PANEL], job[Job.POSITIONS] = positions * width * item, positions
        scales = heads * job[Job.SCALE_BYTES] if self.cache_dtype == "int8" else 0
        self.slot_bytes = int(job[Job.SCALE_OFFSET] + scales)

    def _pack(self, params: dict[str, Array], key: Callable[[], str] | None) -> None:
        """Pack the weights into one block of memory; vectors stay float32."""
        c, width, job = self.config, self.target.width, self._job
        self._wte, self._wpe = params["wte.weight"], params["wpe.weight"]
        order, plan = by_head(c.n_embd, c.head_width, width), Plan()

        def vector(
            name: str, by: Array | None = None, factor: Callable[[], Array] | None = None
        ) -> int:
            chosen = np.arange(len(params[name])) if by is None else by

            def fill(out: Array) -> None:
                out[: len(chosen)] = np.where(chosen < 0, 0, params[name][np.maximum(chosen, 0)])
                out[len(chosen) :] = 0
                if factor is not None:
                    out[: len(chosen)] /= factor()

            return plan.add((ceil_to(len(chosen), width),), np.float32, fill)

        def norm(name: str, columns: Array) -> tuple[int, int, Callable[[], Array] | None]:
            """Gain, bias, and for integers the factors that the matrix behind takes over."""
            factor = None
            if self.dtype == "int8":
                factor = cache(
                    lambda: evened(params[f"{name}.weight"], params[f"{name}.bias"], columns)
                )
            gain = vector(f"{name}.weight", factor=factor)
            return gain, vector(f"{name}.bias", factor=factor), factor

        def matrix(
            columns: Array, by: Array | None = None, factor: Callable[[], Array] | None = None
        ) -> tuple[int, int]:
            n, k = len(columns) if by is None else len(by), columns.shape[1]
            shape, scales = shapes(n, k, self.target, self.dtype)

            def fill(out: Array) -> None:
                """The numbers, and behind them the scales."""
                data, rest = out[: out.size - 4 * scales], out[out.size - 4 * scales :]
                data = data.view(KINDS[self.dtype]).reshape(shape)
                by_k = None if factor is None else factor()
                pack(columns, self.target, self.dtype, data, rest.view(np.float32), by, by_k)
                let_go(columns)

            size = int(np.prod(shape)) * np.dtype(KINDS[self.dtype]).itemsize
            place = plan.add((size + 4 * scales,), np.uint8, fill)
            return place, place + size

        table = self._layers = np.zeros((c.n_layer, len(Layer)), np.int64)
        for i, row in enumerate(table):
            h = f"h.{i}."
            evens: dict[str, Callable[[], Array] | None] = {}
            for first, name, behind in (
                (Layer.LN_1_G, "ln_1", "attn.c_attn"),
                (Layer.LN_2_G, "ln_2", "mlp.c_fc"),
            ):
                columns = params[f"{h}{behind}.weight"].T
                row[first], row[first + 1], evens[behind] = norm(h + name, columns)
            for first, name, by in (
                (Layer.QKV, "attn.c_attn", order),
                (Layer.PROJECT, "attn.c_proj", None),
                (Layer.FC, "mlp.c_fc", None),
                (Layer.OUT, "mlp.c_proj", None),
            ):
                columns = params[f"{h}{name}.weight"].T
                row[first], row[first + 1] = matrix(columns, by, evens.get(name))
                row[first + 2] = vector(f"{h}{name}.bias", by)
        columns = params.get("lm_head.weight", self._wte)
        *ends, even = norm("ln_f", columns)
        final, head = np.array(ends, np.int64), matrix(columns, None, even)
        self._enough_memory(plan.size)
        layout = packed_cache.layout_key(self.target, self.dtype)
        kept = key if self.dtype != "float32" else None  # float32 is copied as fast as it is read
        self._block = plan.build(kept and (lambda: f"{kept()} {layout}"), self.threads)
        base = int(self._block.ctypes.data)
        table += base
        for i, row in enumerate(table):
            scale = c.head_width**-0.5 if c.scale_attn_weights else 1.0
            scale /= i + 1 if c.scale_attn_by_inverse_layer_idx else 1
            row[Layer.ATTENTION] = np.float32(scale).view(np.int32)
        self._final = final + base
        job[Job.LAYER], job[Job.FINAL] = table.ctypes.data, self._final.ctypes.data
        job[Job.HEAD_WEIGHT], job[Job.HEAD_SCALE] = head[0] + base, head[1] + base
        job[Job.HEAD_PANELS] = self._vocab // width

    def _enough_memory(self, need: int) -> None:
        """InputError when the packed weights are more than the memory that is free."""
        free = cpu_features.memory()
        if free is not None and need > free:
            smaller = DTYPES[DTYPES.index(self.dtype) + 1 :]
            step = f"choose dtype {' or '.join(smaller)}, or " if smaller else ""
            raise InputError(
                f"the {self.dtype} weights of this model take {need / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB of memory are free; {step}close other programs"
            )

    def _reserve(self, rows: int) -> None:
        """Buffers for so many rows; they only grow, to at most `ROWS`."""
        if rows <= self._room:
            return
        rows, self._room = min(ROWS, max(rows, 2 * self._room)), 0
        c, width, high, job = self.config, self.target.width, self.target.rows, self._job
        step, size = STEP[self.target.product(self.dtype)], int(job[Job.SIZE])
        embed, most = ceil_to(c.n_embd, width), ceil_to(max(c.n_embd, self._inner) + 1, 128)
        self._x = np.zeros((rows, embed), np.float32)
        self._wide = np.zeros((rows, most), np.float32)
        acts = most * step.activation_bytes // step.numbers
        self._acts = np.zeros((rows, acts), np.uint8)
        self._scales = np.zeros((rows, most // (step.block * step.numbers) + 1, 2), np.float32)
        for word, array in (
            (Job.X, self._x),
            (Job.WIDE, self._wide),
            (Job.ACTS, self._acts),
            (Job.SCALES, self._scales),
        ):
            job[word], job[word + 1] = array.ctypes.data, array.strides[0]
        self._row = np.zeros((rows, 2), np.int64)
        self._group = np.zeros((rows, 2), np.int64)
        self._last = np.zeros(rows, np.int64)
        job[Job.ROW], job[Job.GROUP] = self._row.ctypes.data, self._group.ctypes.data
        job[Job.LAST_ROW] = self._last.ctypes.data
        end = 64 + ceil_to(high * width * 4, 64)  # a tag, then the sums of a tile
        for word, need in (
            (Job.OWN_ACTS, FEW * self._acts.strides[0]),
            (Job.OWN_SCALES, FEW * self._scales.strides[0]),
            (Job.OWN_Q, rows * 3 * size * 4),
            (Job.OWN_P, high * int(job[Job.POSITIONS]) * 4),
            (Job.OWN_Z, max(high * (size + 1), ceil_to(embed, 128)) * 4),
        ):
            job[word], end = end, end + ceil_to(need, 64)
        self._scratch = np.zeros((self.threads, end + 64), np.uint8)
        job[Job.SCRATCH], job[Job.SCRATCH_STRIDE] = self._scratch.ctypes.data, end + 64
        self._room = rows  # last, so that after an interrupt above all of it is done again


def _own_memory(size: int) -> mmap.mmap:
    """Zeros from the system that belong to this process alone.

    A plain `mmap.mmap(-1, size)` is shared with every child of fork: texts of several processes
    would be written over each other. Windows knows no fork, and no such flags.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def default_dtype(config: Config) -> str:
    """float32, or the largest dtype whose weights fit twice into the memory that is free."""
    free = cpu_features.memory()
    numbers = sum(int(np.prod(shape)) for shape in parameter_shapes(config).values())
    for dtype in DTYPES:
        if free is None or dtype == DTYPES[-1] or numbers * ITEM[dtype] * 2 <= free:
            break
    return dtype
