"""The fast engine: compiled kernels over packed weights, on the processor alone.

The logits of a row are the same bits alone, in any batch, in any chunking of a prefill and for any
number of threads: every sum keeps its own order (`llvm.tile`), and threads share work, not sums.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt2lab import forks
from gpt2lab.checks import check_batch, one_of, whole
from gpt2lab.config import Config, parameter_shapes
from gpt2lab.engines.cpu import compile_cache, cpu_features, phases
from gpt2lab.engines.cpu.acting import ActedLayers, LinearActs, layer_words
from gpt2lab.engines.cpu.buffers import ROWS, StepBuffers
from gpt2lab.engines.cpu.cache import ITEM, CpuCache, SlotMemory
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.engines.cpu.draw.drawer import Drawing, RowToDraw
from gpt2lab.engines.cpu.layout import JOB_WORDS, Job, ceil_to
from gpt2lab.engines.cpu.partials import Asked, Partials
from gpt2lab.engines.cpu.threads import crew
from gpt2lab.engines.cpu.weights import PackedWeights
from gpt2lab.engines.wanted import Scores, Wanted, check_wanted
from gpt2lab.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "int8", "int4")
CACHE_DTYPES = DTYPES[:3]


class CpuEngine:
    """Keeps the protocol of `engines.protocol.Engine`.

    dtype: of the weights, one of `DTYPES`; None is `default_dtype`. cache_dtype: of keys and
    values, one of `CACHE_DTYPES`; None is float32 for float32 weights, bfloat16 for the others.
    threads: None is one for each physical core that this process may use. target: None is this
    machine's. key: gives a text that names config and params exactly (`PackedWeights.build`).
    Raises InputError for other dtypes and for weights that the free memory does not hold.
    """

    name = "cpu"
    acts: list[str] | None = None  # in words, for a record
    _acted: ActedLayers | None = None
    _added: Array | None = None  # by acts, before the first layer [E]

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
        self.cache_dtype = one_of("cache dtype", kept, CACHE_DTYPES)
        self.config, self.target = config, target
        self.threads = (
            cpu_features.cores() if threads is None else whole("threads", threads, 1, 256)
        )
        self._run = compile_cache.library("run", target, self.dtype, self.cache_dtype)
        self._crew_code = compile_cache.library("crew", target)
        self._drawing = Drawing(target, config.n_vocab)
        self.memory = SlotMemory(config, target, self.cache_dtype)
        self._cut: tuple[Any, ...] | None = None  # the rows that the tickets in the job are for
        self._tickets = self._serial = 0
        self._params, self._wte, self._wpe = params, params["wte.weight"], params["wpe.weight"]
        self._start_job()
        self._weights = self._packed(params, key)
        self._buffers = StepBuffers(self._job, target, target.step(self.dtype), self.threads)

    @property
    def product(self) -> str | None:
        """How weights of this dtype are multiplied here (`cpu_features.Target`), for a record.

        None for float32, which every machine multiplies in one way.
        """
        return None if self.dtype == "float32" else self.target.product(self.dtype)

    def cache(self, slots: int | None = None) -> CpuCache:
        """An empty cache; `slots` limits how many sequences it holds."""
        return CpuCache(self.memory, slots)

    def acting(self, acts: LinearActs) -> CpuEngine:
        """An engine with these acts in place of any others, over the same weights and threads."""
        other = copy.copy(self)
        other.acts, other._added = acts.about or None, acts.stream.get(0)
        acted = layer_words(acts, self._weights.layers, self._params, self.target.width)
        other._job, other._cut = self._job.copy(), None
        other._job_address = int(other._job.ctypes.data)
        other._acted, other._job[Job.LAYER] = acted, acted.words.ctypes.data
        step = self.target.step(self.dtype)
        other._buffers = StepBuffers(other._job, self.target, step, self.threads)
        return other

    def step(
        self,
        cache: CpuCache,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[bool] | None = None,
    ) -> Array:
        """Append tokens[i] to slots[i]; the logits after the last token of each: [N, V].

        wanted: for which slots there shall be logits, all by default; N counts these.

        A step that fails or is interrupted leaves every slot at the length that it had.
        """
        checked = cache.check_step(slots, tokens)
        addresses, places, flat = _rows_of(cache, slots, checked)
        lengths = np.cumsum([len(new) for new in checked], dtype=np.int64)
        ends = (lengths - 1)[slice(None) if wanted is None else list(wanted)].tolist()
        out = np.empty((len(ends), self._vocab), np.float32)
        done = 0
        for start in range(0, len(flat), ROWS):
            part = slice(start, start + ROWS)
            last = [end - start for end in ends[done:] if end < start + ROWS]
            where = out[done : done + len(last)]
            self._rows(addresses[part], places[part], flat[part], last, where)
            done += len(last)
        for slot, new in zip(slots, checked, strict=True):
            cache.extend(slot, len(new))
        return out[:, : self.config.n_vocab]  # [N, V]

    def score(
        self,
        cache: CpuCache,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[Wanted],
    ) -> list[Scores]:
        """Append tokens[i] to slots[i]; the scores at the positions of wanted[i], for each slot.

        A step that fails or is interrupted leaves every slot at the length that it had.
        """
        checked = cache.check_step(slots, tokens)
        n_vocab = self.config.n_vocab
        asked = Asked(
            check_wanted(wanted, checked, n_vocab), [len(new) for new in checked], n_vocab
        )
        addresses, places, flat = _rows_of(cache, slots, checked)
        found = []
        for start in range(0, len(flat), asked.together):
            part, partials = slice(start, start + asked.together), asked.part(start)
            last = partials.rows.tolist()
            self._rows(addresses[part], places[part], flat[part], last, partials)
            found.append(partials.scores())
        for slot, new in zip(slots, checked, strict=True):
            cache.extend(slot, len(new))
        return asked.scores(found)

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
                ends, where = list(range(len(part))), out[b, start : start + len(part)]
                self._rows([cache.address(slot)] * len(part), places, part, ends, where)
        cache.free(slot)
        return out[..., : self.config.n_vocab]  # [B, T, V]

    def draw(self, rows: Sequence[RowToDraw]) -> list[tuple[int, float] | None]:
        """The next token of each row and its log-probability, by all threads together.

        None where the result would depend on rounding, and for all rows until the kernel is
        compiled: `generation.sampler` draws these.
        """
        return self._drawing.draw(crew(self.threads, self._crew_code), rows)

    # ---- A step.

    def _rows(
        self,
        slots: list[int],
        places: list[int],
        tokens: list[int],
        last: list[int],
        out: Array | Partials,
    ) -> None:
        """Send rows through the layers; the logits of those in `last` go to out [last, V padded].

        slots: the address of each row's slot. places: its position. `Partials` get their scores.
        """
        job, b, count = self._job, self._buffers, len(tokens)
        groups: list[list[int]] = []
        for r, slot in enumerate(slots):
            if r and slots[r - 1] == slot and groups[-1][1] < self.target.rows:
                groups[-1][1] += 1
            else:
                groups.append([r, 1])
        workers = crew(self.threads, self._crew_code)
        with forks.whole(), workers.lock:
            b.reserve(count)
            x = b.x[:count, : self.config.n_embd]
            np.add(self._wte.take(tokens, 0), self._wpe.take(places, 0), out=x)  # [count, E]
            if self._added is not None:
                x += self._added
            b.row[:count, 0], b.row[:count, 1] = slots, places
            b.group[: len(groups)] = groups
            b.last[: len(last)] = last
            self._serial += 1
            job[Job.SERIAL : Job.LAST + 1] = self._serial, count, len(groups), len(last)
            targets = None
            if isinstance(out, Partials):
                out.describe(job)
                targets = out.targets
            else:
                job[Job.LOGITS] = out.ctypes.data
            if self._cut != (count, len(last), targets):
                self._cut = None  # so that after an interrupt here all of it is done again
                packs, width = self.target.packs(self.dtype), self.target.width
                phases.cut(job, count, len(last), self.threads, width, packs, targets)
                self._tickets = int(phases.all_tickets(job))
                self._cut = (count, len(last), targets)
            workers.run(self._run.address, self._job_address, self._tickets)

    # ---- What is made once.

    def _start_job(self) -> None:
        """The words of a job that never change."""
        c, job = self.config, np.zeros(JOB_WORDS, np.int64)
        self._vocab = ceil_to(c.n_vocab, self.target.width)
        self._job, self._job_address = job, int(job.ctypes.data)
        job[Job.WORKERS] = self.threads
        job[Job.LAYERS], job[Job.EMBED], job[Job.HEADS] = c.n_layer, c.n_embd, c.n_head
        job[Job.HEAD], job[Job.INNER] = c.head_width, c.mlp_width
        job[Job.ACTIVATION] = ("gelu_new", "gelu", "relu").index(c.activation_function)
        job[Job.EPSILON] = np.float32(c.layer_norm_epsilon).view(np.int32)
        job[Job.LOGITS_STRIDE] = 4 * self._vocab
        job[Job.HEAD_PANELS], job[Job.VOCAB] = self._vocab // self.target.width, c.n_vocab
        self.memory.describe(job)

    def _packed(self, params: dict[str, Array], key: Callable[[], str] | None) -> PackedWeights:
        """The packed weights; their addresses go into the job."""
        packed, job = PackedWeights(self.config, params, self.target, self.dtype), self._job
        self._enough_memory(packed.size)
        packed.build(self.config, key, self.threads)
        job[Job.LAYER], job[Job.FINAL] = packed.layers.ctypes.data, packed.final.ctypes.data
        job[Job.HEAD_WEIGHT], job[Job.HEAD_SCALE] = packed.head
        return packed

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


def _rows_of(
    cache: CpuCache, slots: Sequence[int], tokens: list[list[int]]
) -> tuple[list[int], list[int], list[int]]:
    """The rows of a step: the address of each one's slot, its position, its token."""
    addresses, places, flat = list[int](), list[int](), list[int]()
    for slot, new in zip(slots, tokens, strict=True):
        length = cache.length(slot)
        addresses += [cache.address(slot)] * len(new)
        places += range(length, length + len(new))
        flat += new
    return addresses, places, flat


def default_dtype(config: Config) -> str:
    """float32, or the largest dtype whose weights fit twice into the memory that is free."""
    free = cpu_features.memory()
    numbers = sum(int(np.prod(shape)) for shape in parameter_shapes(config).values())
    for dtype in CACHE_DTYPES:  # int4 is for who asks for it: it costs more than noise
        if free is None or dtype == CACHE_DTYPES[-1] or numbers * ITEM[dtype] * 2 <= free:
            break
    return dtype
