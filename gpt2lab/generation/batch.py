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

from gpt2lab.cache import Sequence
from gpt2lab.checks import whole
from gpt2lab.engines.protocol import Engine
from gpt2lab.errors import InputError
from gpt2lab.generation.beam import Search
from gpt2lab.generation.draws import RowAsked, draw_rows
from gpt2lab.generation.members import BeamRows, Key, PromptToRead, Row, Token
from gpt2lab.generation.prefixes import LEAST, Prefixes
from gpt2lab.generation.request import Request
from gpt2lab.generation.sampler import most_probable

__all__ = ["CHUNK", "Batch", "Row", "Token"]

CHUNK = 252  # tokens: as many as the cpu engine sends through the layers together
Lacking = tuple[Sequence, list[int]]  # and the tokens that its slot does not hold yet
Portion = tuple[Sequence, list[int], int]  # its next tokens, and how many it will still lack


def _unscored(sequence: Sequence) -> bool:
    return isinstance(sequence, PromptToRead) and sequence.unscored


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
        self._running: list[Row | BeamRows] = []
        self._prompts: dict[Key, PromptToRead] = {}
        self._rejected: list[Token] = []  # of rows that ended before they began
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

    def add(
        self, request: Request, index: int = 0, *, top: int = 0, prompt_scores: bool = False
    ) -> Row:
        """Queue sample `index` of a request; InputError where the cache could never hold it.

        top: how many of the most probable ids each token comes with. prompt_scores: whether the row
        shall have the scores of the prompt's tokens too, all but the first, with as many; such a
        prompt is read whole.
        """
        with self._alone():
            self._check(request, top)
            if not self and self.engine.name != self._name:
                self._open()
            if self._room(request) > self._positions:
                raise InputError(
                    f"prompt and answer take up to {self._room(request)} positions of the KV cache "
                    f"and its limit is {self._positions:.0f}; shorten them or raise the limit"
                )
            ids = list(request.prompt)
            row = Row(ids, request=request, index=index, top=top, scored=prompt_scores)
            prompt = self._prompts.setdefault(row.key, PromptToRead([*ids], top=row.key[1]))
            prompt.waiting += 1
            self._queue.append(row)
            return row

    def _check(self, request: Request, top: int) -> None:
        whole("top", top, 0, self.engine.config.n_vocab)
        if top and request.sampling.num_beams > 1:
            raise InputError(
                f"top is {top}, and a beam search gives no other tokens than its own; leave out "
                "top or num_beams"
            )

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
            rejected, self._rejected = self._rejected, []
            return [*rejected, *self._draw()]

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
            alike = [q for q in self._queue if (q.request, q.key) == (row.request, row.key)]
            self._queue = deque(other for other in self._queue if other not in alike)
            search = Search(row.request)
            self._running.append(BeamRows(row.request, row.key, [row, *alike], search))

    def _begin(self) -> None:
        """Start those whose prompt has been read: in a fork of its slot, or the slot itself."""
        if not self._prompts:
            return
        for member in self._running:
            first = member.sequences[0]
            if first.slot >= 0:
                continue
            prompt = self._prompts[member.key]
            if prompt.logits is not None:
                last = prompt.waiting == len(member.rows)
                first.slot = prompt.slot if last else self._cache.fork(prompt.slot)
                first.logits, prompt.slot = prompt.logits, -1 if last else prompt.slot
                for row in member.rows:
                    row.cached, row.prompt_scores = prompt.cached, prompt.scores
                self._leave(member.key, len(member.rows))

    def _leave(self, key: Key, rows: int) -> None:
        """Note that rows no longer wait for a prompt; drop it with the last of them."""
        prompt = self._prompts[key]
        prompt.waiting -= rows
        if not prompt.waiting:
            del self._prompts[key]
            if prompt.slot >= 0:
                self._prefixes.keep(prompt)

    # ---- A step.

    def _read(self) -> None:
        """Run the engine over what slots lack: up to `chunk` tokens, single ones first."""
        for part in self._parts(self._lacking()):
            if _unscored(part[0][0]):
                self._score(part)
                continue
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
                if isinstance(q, PromptToRead) and q.unscored:
                    new = q.to_score(self._cache)
                else:
                    new = q.tokens if q.slot < 0 else q.lacking(self._cache, n_ctx, keep)
                found[id(q)] = q, new
        return [*found.values()]

    def _unread(self, member: Row | BeamRows) -> list[Sequence]:
        """The sequences of a running member, or the prompt that it begins from, without logits."""
        own: list[Sequence] = member.sequences
        if own[0].slot < 0:
            own = [self._prompts[member.key]]
        return [sequence for sequence in own if sequence.logits is None]

    def _parts(self, lacking: list[Lacking]) -> Iterator[list[Portion]]:
        """Calls of the engine: first those for scores alone, then the step."""
        singles = [(q, new) for q, new in lacking if len(new) == 1 and not _unscored(q)]
        longer = [(q, new) for q, new in lacking if len(new) > 1 or _unscored(q)]
        step: list[Portion] = [(q, self._start(q, new), 0) for q, new in singles]
        if not self._cache.chunked:
            yield from ([(q, self._start(q, new), 0)] for q, new in longer)
            longer = []
        left, scored = max(1, self._chunk - len(step)), list[Portion]()
        for place, (q, new) in enumerate(longer):
            if left and (new := self._start(q, new, longer[:place])):
                part = scored if _unscored(q) else step
                part.append((q, new[:left], len(new[left:])))
                left -= len(new[:left])
        yield from filter(None, (scored, step))

    def _score(self, part: list[Portion]) -> None:
        """Read portions of prompts for the scores of their tokens."""
        prompts = [(q, new) for q, new, _ in part if isinstance(q, PromptToRead)]
        slots, wanted = [q.slot for q, _ in prompts], [q.wanted(len(new)) for q, new in prompts]
        try:
            found = self.engine.score(self._cache, slots, [new for _, new in prompts], wanted)
        except InputError as error:  # logits that are not finite
            for one in part if len(part) > 1 else ():
                self._score([one])
            if len(part) == 1:
                self._reject(prompts[0][0], error)
            return
        for (prompt, new), scores in zip(prompts, found, strict=True):
            prompt.take(len(new), scores)
            if not self._cache.chunked:  # the step reads it whole, as without scores
                self._cache.rewind(prompt.slot, 0)

    def _reject(self, prompt: PromptToRead, error: InputError) -> None:
        """End the rows that wait for a prompt."""
        running = [row for member in self._running for row in member.rows]
        for row in [*running, *self._queue]:
            if self._prompts.get(row.key) is prompt:
                self._rejected.append(self._fail(row, error))

    def _start(
        self, sequence: Sequence, new: list[int], ahead: Iterable[Lacking] = ()
    ) -> list[int]:
        """What a sequence lacks, in a slot from now on; of a prompt, all behind a known beginning.

        Nothing for now where a prompt ahead of it, which is being read, will soon know more of it.
        """
        if sequence.slot >= 0:
            return new
        assert isinstance(sequence, PromptToRead)
        if sequence.top is not None:  # its scores need every token
            sequence.slot = self._cache.new()
            return new
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
                if isinstance(member, BeamRows)
                else [self._take(member, next(drawn))]
            )
        ]

    def _take(self, row: Row, drawn: tuple[int, float] | InputError) -> Token:
        """Append a token to its row; it may end the row."""
        if isinstance(drawn, InputError):
            return self._fail(row, drawn)
        s, (token, logprob) = row.request.sampling, drawn
        top: tuple[tuple[int, float], ...] = ()
        if row.top and row.logits is not None:
            top = most_probable(row.logits, row.top, row.request.limit)
        row.tokens.append(token)
        row.logits = None
        ends = token in (s.stop_tokens or ())
        reason = "stop" if ends else "length" if row.new_tokens >= s.max_new_tokens else None
        if reason:
            self._end(row, reason)
        return Token(row, token, logprob, reason, top)

    def _search(self, beams: BeamRows) -> list[Token]:
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
            self._leave(row.key, 1)
            return
        member = next(member for member in self._running if row in member.rows)
        if member.sequences[0].slot < 0:
            self._leave(row.key, 1)
        if isinstance(member, BeamRows):
            member.rows.remove(row)
            if member.rows:
                return
        self._running.remove(member)
        for sequence in member.sequences:
            if sequence.slot >= 0:
                self._prefixes.keep(sequence, whole=reason != "error")
        if self._positions < math.inf:
            rooms = sum(self._room(m.request) for m in self._running)
            self._prefixes.shrink(self._positions - rooms)
