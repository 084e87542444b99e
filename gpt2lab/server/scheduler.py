"""One thread a model: it owns the batch, and runs the engine's other calls between its steps.

Other threads put messages into its inbox. What rows generate goes back to the event loop, once a
step. A `Job` is an iterator whose parts run one at a time between steps, so that a long text that
is scored delays no stream for long.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from gpt2lab.engines.protocol import Engine
from gpt2lab.errors import InputError
from gpt2lab.generation.batch import Batch, Row
from gpt2lab.generation.request import Request
from gpt2lab.generation.stopping import Writer
from gpt2lab.server.refusals import Refusal
from gpt2lab.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

DEAD = "the thread that runs the model has ended by an error; restart the server"


class Drawn(NamedTuple):
    """One new token of one choice. text: whole characters. start: where its own text begins.

    choice: its number among all of the flight. finish: "stop" or "length" with the last token.
    top: the most probable tokens (id, log-probability) in its place.
    """

    choice: int
    token: int
    text: str
    logprob: float
    top: Sequence[tuple[int, float]]
    finish: str | None


@dataclass(eq=False)
class Flight:
    """The rows of one HTTP request on their way. Its queue belongs to the event loop.

    samples: (request, index) of each choice. top: as in `Batch.add`. rows: of the owner's thread.
    left: choices that have not ended. closed: the rest is not wanted.
    """

    samples: list[tuple[Request, int]]
    top: int
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[list[Drawn] | Exception] = field(default_factory=asyncio.Queue)
    rows: dict[Row, tuple[int, Writer]] = field(default_factory=dict)
    left: int = 0
    closed: bool = False


Job = Iterator[None]


class Scheduler:
    """The thread that owns a model's batch; `start` begins it, `stop` ends it.

    rows: how many run at once. reuse: bytes of ended rows that are kept, as in `Batch`. most: how
    many rows may wait or run together; more are refused with 429.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer | None,
        *,
        rows: int = 32,
        most: int = 256,
        reuse: float | None = None,
    ) -> None:
        self.engine, self.tokenizer, self.most = engine, tokenizer, most
        self.batch = Batch(engine, rows=rows, reuse=reuse)
        self.alive, self.waiting = False, 0
        self._failed: Callable[[], None] = lambda: None
        self.steps = self.tokens = 0  # taken and generated so far
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._flights: dict[Row, Flight] = {}
        self._jobs: list[tuple[Job, Future[None]]] = []
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    # ---- The event loop's side.

    def on_failure(self, act: Callable[[], None]) -> None:
        """What to call, from the thread, when it ends by an error."""
        self._failed = act

    def start(self) -> None:
        """Begin the thread."""
        self.alive = True
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step; what is on its way is not finished."""
        self._inbox.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _check(self, more: int) -> None:
        """Refuse what the thread cannot take."""
        if not self.alive:
            raise Refusal(503, DEAD, code="engine_dead")
        if self.waiting + more > self.most:
            raise Refusal(
                429,
                f"{self.waiting} samples wait or run, {more} more pass the limit of {self.most} "
                "(--queue); send it again later, or ask for fewer",
                code="queue_full",
                retry=1,
            )

    async def generate(
        self, samples: list[tuple[Request, int]], top: int = 0
    ) -> AsyncGenerator[list[Drawn], None]:
        """What the rows of these samples generate, step by step, until all have ended.

        Closing the iterator, or cancelling the task, frees their rows before the next step.
        """
        self._check(len(samples))
        flight = Flight(samples, top, asyncio.get_running_loop(), left=len(samples))
        self.waiting += len(samples)
        self._inbox.put(partial(self._begin, flight))
        try:
            while flight.left:
                found = await flight.queue.get()
                if isinstance(found, Exception):
                    raise found
                ended = sum(drawn.finish is not None for drawn in found)
                flight.left -= ended
                self.waiting -= ended
                yield found
        finally:
            self.waiting -= flight.left
            if flight.left:
                flight.closed = True
                self._inbox.put(partial(self._end, flight))

    async def run(self, job: Job) -> None:
        """Run a job between the steps, to its end; closing it where the caller is cancelled."""
        self._check(1)
        future: Future[None] = Future()
        self.waiting += 1
        self._inbox.put(partial(self._jobs.append, (job, future)))
        try:
            await asyncio.wrap_future(future)
        finally:
            self.waiting -= 1

    # ---- The owner's side.

    def _run(self) -> None:
        try:
            while self._messages():
                self._part_of_job()
                if self.batch:
                    self._deliver()
        except BaseException as error:
            log.error(f"the model's thread has ended by an error: {error!r:.500}")
            self.alive = False
            self._give_up()
            self._failed()

    def _messages(self) -> bool:
        """Do what the inbox holds; wait for something where there is no work. False ends it."""
        idle = not self.batch and not self._jobs
        while True:
            try:
                message = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if message is None:
                self.alive = False
                self._give_up()
                return False
            message()
            idle = False

    def _begin(self, flight: Flight) -> None:
        if flight.closed:
            return
        try:
            for choice, (request, index) in enumerate(flight.samples):
                row = self.batch.add(request, index, top=flight.top)
                flight.rows[row] = choice, Writer(self.tokenizer, request.sampling)
                self._flights[row] = flight
        except InputError as error:
            self._end(flight)
            self._send(flight, error)

    def _end(self, flight: Flight) -> None:
        """Free the rows that a flight still has."""
        for row in [*flight.rows]:
            self._drop(flight, row)

    def _drop(self, flight: Flight, row: Row) -> None:
        del flight.rows[row], self._flights[row]
        self.batch.cancel(row)

    def _deliver(self) -> None:
        """Take a step, and send to each flight what its rows drew."""
        found: dict[Flight, list[Drawn]] = {}
        self.steps += 1
        for token in self.batch.step():
            flight = self._flights.get(token.row)
            if flight is None:
                continue  # of a beam whose text has ended already
            if token.row.error is not None:
                self._end(flight)
                self._send(flight, token.row.error)
                found.pop(flight, None)
                continue
            self.tokens += 1
            choice, writer = flight.rows[token.row]
            text, finish = writer.push(token)
            drawn = Drawn(choice, token.id, text, token.logprob, token.top, finish)
            found.setdefault(flight, []).append(drawn)
            if finish:
                self._drop(flight, token.row)
        for flight, drawn_now in found.items():
            self._send(flight, drawn_now)
        self._absent()

    def _absent(self) -> None:
        """End the choices for which a beam search found no text."""
        for row, flight in [*self._flights.items()]:
            if row.finish_reason == "absent":
                choice = flight.rows[row][0]
                self._drop(flight, row)
                self._send(flight, [Drawn(choice, -1, "", 0.0, (), "length")])

    def _part_of_job(self) -> None:
        """One part of the oldest job; the others wait their turn."""
        if not self._jobs:
            return
        job, future = self._jobs.pop(0)
        if future.cancelled():
            return
        try:
            next(job)
            self._jobs.append((job, future))
        except StopIteration:
            self._settle(future, None)
        except (InputError, Refusal, MemoryError) as error:
            self._settle(future, error)

    def _settle(self, future: Future[None], error: BaseException | None) -> None:
        """End a future, unless its caller has gone in the meantime."""
        if future.set_running_or_notify_cancel():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def _send(self, flight: Flight, found: list[Drawn] | Exception) -> None:
        try:
            flight.loop.call_soon_threadsafe(flight.queue.put_nowait, found)
        except RuntimeError:  # the loop is closed
            self._inbox.put(partial(self._end, flight))

    def _give_up(self) -> None:
        """Tell all who wait that nothing more will come."""
        error = Refusal(503, "the server has stopped; send it again later", code="stopped")
        for flight in {*self._flights.values()}:
            self._send(flight, error)
        for _, future in self._jobs:
            self._settle(future, error)
        self._flights, self._jobs = {}, []
