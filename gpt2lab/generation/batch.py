"""A batch of sequences that join and leave between the steps of one engine.

`Batch.add` queues a request and returns its row, `Batch.step` calls the engine once and returns the
tokens drawn, `Batch.cancel` ends a row. A row's ids and log-probabilities are those that it gets
alone, bit for bit with the `cpu` and `numpy` engines: its random stream is its own, and engines
keep each row's arithmetic apart. Text and stop strings are left to `generate`.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from gpt2lab.cache import Sequence
from gpt2lab.engines.protocol import Engine
from gpt2lab.errors import InputError
from gpt2lab.generation.beam import Search
from gpt2lab.generation.draws import RowAsked, draw_rows
from gpt2lab.generation.prefixes import LEAST, Prefixes
from gpt2lab.generation.request import Request

CHUNK = 252  # tokens: as many as the cpu engine sends through the layers together
Lacking = tuple[Sequence, list[int]]  # and the tokens that its slot does not hold yet


@dataclass(eq=False)
class _Prompt(Sequence):
    """A prompt that rows begin from: read once, then forked; the last row takes its slot.

    waiting: how many rows have yet to begin. cached: how many of its tokens were in memory.
    """

    waiting: int = 0
    cached: int = 0


@dataclass(eq=False, kw_only=True)
class Row(Sequence):
    """One sample of a request. Only its batch changes it.

    tokens: prompt and new ids. finish_reason: None while it waits or runs, then "stop" (an end
    token), "length", "cancelled", "error" (`error` says why) or "absent" (beam search found fewer
    texts than `index`). cached: how many tokens of the prompt were in memory when it began.
    """

    request: Request
    index: int = 0
    cached: int = 0
    finish_reason: str | None = None
    error: InputError | None = None

    @property
    def new_tokens(self) -> int:
        """How many tokens were drawn."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def rows(self) -> list[Row]:
        """Itself: what a beam search has several of."""
        return [self]

    @property
    def sequences(self) -> list[Sequence]:
        """Itself: what a beam search has several of."""
        return [self]


@dataclass(eq=False)
class _Beams:
    """The rows of one beam search; they get its texts when it is done."""

    request: Request
    rows: list[Row]
    search: Search

    @property
    def sequences(self) -> list[Sequence]:
        """The hypotheses that go on."""
        return [*self.search.running]


class Token(NamedTuple):
    """One new token: its row, its id, and the model's own log-probability of it, before any setting
    changed it. finish_reason: on the last token of a row why it ended, else None. Where that is
    "error", there is no token: the id is -1."""

    row: Row
    id: int
    logprob: float
    finish_reason: str | None = None


class Batch:
    """Sequences on one engine. It belongs to one thread at a time; others get a RuntimeError.

    rows: how many run at once, each beam of a search counted; the others wait in order.
    chunk: how many tokens go through the engine in one step, running rows first, so that a long
    prompt delays no other for long. Where the bits would depend on it (`cache.chunked` is False),
    each prompt is read at once instead.
    cache_bytes: limit of the KV cache; a row waits until its prompt and answer fit beside others.
    reuse: bytes of ended rows that are kept for prompts that begin like them (`prefixes`); 0 reads
    every prompt whole, None is one row of full length. The bits are the same; where they would not
    be (`cache.chunked` is False: numpy and torch sum differently for another number of tokens),
    nothing is reused.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        rows: int = 16,
        chunk: int = CHUNK,
        cache_bytes: float = math.inf,
        reuse: float | None = None,
    ) -> None:
        self.engine, self.rows, self._chunk = engine, rows, chunk
        self._limits = cache_bytes, reuse
        self._open()
        self._queue: deque[Row] = deque()
        self._running: list[Row | _Beams] = []
        self._prompts: dict[tuple[int, ...], _Prompt] = {}
        self._in_use = threading.Lock()

    def _open(self) -> None:
        """Take a cache of what the engine is now: `engines.fallback` begins as another one."""
        cache_bytes, reuse = self._limits
        self._name, self._cache = self.engine.name, self.engine.cache()
        self._positions = cache_bytes // self._cache.position_bytes
        self._prefixes = Prefixes(self._cache, reuse)

    def __len__(self) -> int:
        """How many rows wait or run."""
        return len(self._queue) + sum(len(member.rows) for member in self._running)

    def add(self, request: Request, index: int = 0) -> Row:
        """Queue sample `index` of a request; InputError where the cache could never hold it."""
        with self._alone():
            if not self and self.engine.name != self._name:
                self._open()
            if self._room(request) > self._positions:
                raise InputError(
                    f"prompt and answer take up to {self._room(request)} positions of the KV cache "
                    f"and its limit is {self._positions:.0f}; shorten them or raise the limit"
                )
            row = Row(list(request.prompt), request=request, index=index)
            prompt = self._prompts.setdefault(request.prompt, _Prompt(list(request.prompt)))
            prompt.waiting += 1
            self._queue.append(row)
            return row

    def cancel(self, row: Row) -> None:
        """End a row now. One that has ended already stays as it is."""
        with self._alone():
            if row.finish_reason is None:
                self._end(row, "cancelled")

    def step(self) -> list[Token]:
        """Admit waiting rows, run the engine once, and draw a token for each row that is ready.

        A step that raises or is interrupted leaves the rows as they were, and may be repeated.
        """
        with self._alone():
            self._admit()
            self._read()
            self._begin()
            return self._draw()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("another call is using this batch; let one thread own it")
        try:
            yield
        finally:
            self._in_use.release()

    # ---- Joining.

    def _room(self, request: Request) -> int:
        """How many positions of the KV cache a request may come to fill."""
        s = request.sampling
        longest = min(self.engine.config.n_ctx, len(request.prompt) + s.max_new_tokens)
        return s.num_beams * longest

    def _admit(self) -> None:
        """Let rows in from the queue, in order, while there is room."""
        while self._queue:
            row, running = self._queue[0], [member.request for member in self._running]
            beams = sum(r.sampling.num_beams for r in [*running, row.request])
            positions = sum(map(self._room, [*running, row.request]))
            if running and (beams > self.rows or positions > self._positions):
                break
            self._queue.popleft()
            self._prefixes.touch(list(row.request.prompt))
            self._prefixes.shrink(self._positions - positions)
            if row.request.sampling.num_beams == 1:
                self._running.append(row)
                continue
            alike = [other for other in self._queue if other.request == row.request]
            self._queue = deque(other for other in self._queue if other not in alike)
            self._running.append(_Beams(row.request, [row, *alike], Search(row.request)))

    def _begin(self) -> None:
        """Start those whose prompt has been read: in a fork of its slot, or the slot itself."""
        if not self._prompts:
            return
        for member in self._running:
            first = member.sequences[0]
            if first.slot >= 0:
                continue
            prompt = self._prompts[member.request.prompt]
            if prompt.logits is not None:
                last = prompt.waiting == len(member.rows)
                first.slot = prompt.slot if last else self._cache.fork(prompt.slot)
                first.logits, prompt.slot = prompt.logits, -1 if last else prompt.slot
                for row in member.rows:
                    row.cached = prompt.cached
                self._leave(prompt, member.request, len(member.rows))

    def _leave(self, prompt: _Prompt, request: Request, rows: int) -> None:
        """Note that rows no longer wait for a prompt; drop it with the last of them."""
        prompt.waiting -= rows
        if not prompt.waiting:
            del self._prompts[request.prompt]
            if prompt.slot >= 0:
                self._prefixes.keep(prompt)

    # ---- A step.

    def _read(self) -> None:
        """Run the engine over what slots lack: up to `chunk` tokens, single ones first."""
        for part in self._parts(self._lacking()):
            slots = [sequence.slot for sequence, _, _ in part]
            whole = [sequence for sequence, _, rest in part if not rest]
            wanted = None if len(whole) == len(part) else [not rest for _, _, rest in part]
            logits = self.engine.step(self._cache, slots, [new for _, new, _ in part], wanted)
            for sequence, row in zip(whole, logits, strict=True):
                sequence.logits = row  # [V]

    def _lacking(self) -> list[Lacking]:
        """What slots lack, and prompts without a slot yet; each once, in the order of the rows."""
        n_ctx, found = self.engine.config.n_ctx, dict[int, Lacking]()
        for member in self._running:
            keep = member.request.sampling.window_keep
            for q in self._unread(member):
                new = q.tokens if q.slot < 0 else q.lacking(self._cache, n_ctx, keep)
                found[id(q)] = q, new
        return [*found.values()]

    def _unread(self, member: Row | _Beams) -> list[Sequence]:
        """The sequences of a running member, or the prompt that it begins from, without logits."""
        own: list[Sequence] = member.sequences
        if own[0].slot < 0:
            own = [self._prompts[member.request.prompt]]
        return [sequence for sequence in own if sequence.logits is None]

    def _parts(self, lacking: list[Lacking]) -> Iterator[list[tuple[Sequence, list[int], int]]]:
        """Calls of the engine: (sequence, its next tokens, how many it will still lack)."""
        singles = [(q, self._start(q, new), 0) for q, new in lacking if len(new) == 1]
        longer = [(q, new) for q, new in lacking if len(new) > 1]
        if not self._cache.chunked:
            yield from ([(q, self._start(q, new), 0)] for q, new in longer)
            longer = []
        left = max(1, self._chunk - len(singles))
        for place, (sequence, new) in enumerate(longer):
            if left and (new := self._start(sequence, new, longer[:place])):
                singles.append((sequence, new[:left], len(new[left:])))
                left -= len(new[:left])
        if singles:
            yield singles

    def _start(
        self, sequence: Sequence, new: list[int], ahead: Iterable[Lacking] = ()
    ) -> list[int]:
        """What a sequence lacks, in a slot from now on; of a prompt, all behind a known beginning.

        Nothing for now where a prompt ahead of it, which is being read, will soon know more of it.
        """
        if sequence.slot >= 0:
            return new
        assert isinstance(sequence, _Prompt)
        running = [q for member in self._running for q in member.sequences]
        prefix = self._prefixes.best(new, [*running, *self._prompts.values()])
        if self._prefixes.coming(new, [q for q, _ in ahead]) >= prefix.length + LEAST:
            return []
        sequence.slot, sequence.cached = self._prefixes.begin(prefix), prefix.length
        return new[prefix.length :]

    def _draw(self) -> list[Token]:
        """The new tokens of all members whose logits are there."""
        ready = [m for m in self._running if all(q.logits is not None for q in m.sequences)]
        asked = [
            RowAsked(m.logits, m.request, m.tokens, m.index)
            for m in ready
            if isinstance(m, Row) and m.logits is not None
        ]
        drawn = iter(draw_rows(self.engine, asked))
        return [
            token
            for member in ready
            for token in (
                self._search(member)
                if isinstance(member, _Beams)
                else [self._take(member, next(drawn))]
            )
        ]

    def _take(self, row: Row, drawn: tuple[int, float] | InputError) -> Token:
        """Append a token to its row; it may end the row."""
        if isinstance(drawn, InputError):
            return self._fail(row, drawn)
        s, (token, logprob) = row.request.sampling, drawn
        row.tokens.append(token)
        row.logits = None
        ends = token in (s.stop_tokens or ())
        reason = "stop" if ends else "length" if row.new_tokens >= s.max_new_tokens else None
        if reason:
            self._end(row, reason)
        return Token(row, token, logprob, reason)

    def _search(self, beams: _Beams) -> list[Token]:
        """Take a step of a beam search; when it is done, the tokens of its rows."""
        s, tokens = beams.request.sampling, list[Token]()
        try:
            if not beams.search.advance(self._cache):
                return []
        except InputError as error:
            return [self._fail(row, error) for row in [*beams.rows]]
        for row in [*beams.rows]:
            if row.index >= len(beams.search.finished):
                self._end(row, "absent")
                continue
            best = beams.search.finished[row.index]
            row.tokens, row.slides = best.tokens, best.slides
            reason = "stop" if best.tokens[-1] in (s.stop_tokens or ()) else "length"
            new = zip(best.tokens[len(beams.request.prompt) :], best.logprobs, strict=True)
            tokens += [Token(row, token, logprob) for token, logprob in new]
            tokens[-1] = tokens[-1]._replace(finish_reason=reason)
            self._end(row, reason)
        return tokens

    # ---- Leaving.

    def _fail(self, row: Row, error: InputError) -> Token:
        row.error = error
        self._end(row, "error")
        return Token(row, -1, math.nan, "error")

    def _end(self, row: Row, reason: str) -> None:
        """Take a row out, wherever it is, and free what it alone held."""
        row.finish_reason = reason
        if row in self._queue:
            self._queue.remove(row)
            self._leave(self._prompts[row.request.prompt], row.request, 1)
            return
        member = next(member for member in self._running if row in member.rows)
        if member.sequences[0].slot < 0:
            self._leave(self._prompts[row.request.prompt], row.request, 1)
        if isinstance(member, _Beams):
            member.rows.remove(row)
            if member.rows:
                return
        self._running.remove(member)
        for sequence in member.sequences:
            if sequence.slot >= 0:
                self._prefixes.keep(sequence, whole=reason != "error")
        self._prefixes.shrink(self._positions - sum(self._room(m.request) for m in self._running))
