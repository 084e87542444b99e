"""What the processes of a run tell each other besides numbers: their stage, and why one gave up.

It is left in torchrun's store. A collective call of torch waits inside C++, for minutes, where
Python handles no signal, and does not report which process is missing. Every wait here comes back
twice a second: to hear Ctrl-C, to see whether another process has refused, and to look at the
clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from gpt2lab.errors import Failure, InputError

BEAT = timedelta(seconds=0.5)
START = 180.0  # seconds that processes wait for each other before the first step
_REFUSED = "refused"


def message_of(error: InputError | Failure) -> tuple[bool, str]:
    """An error as the others receive it: whether it is the user's, and its line."""
    return isinstance(error, InputError), str(error)


def unpack(packed: Sequence[Any]) -> InputError | Failure:
    """The inverse of `message_of`; it may have more entries."""
    return InputError(packed[1]) if packed[0] else Failure(packed[1])


class Meeting:
    """One process's view of all: it writes down its stage, and reads those of the others.

    timeout: seconds until a process that does not come to the same call is given up, `START` at
    most until training has `begun`.
    """

    def __init__(self, store: Any, rank: int, world: int, timeout: float) -> None:
        self._store, self._rank, self._world = store, rank, world
        self._timeout, self.begun = timeout, False
        self.at("starting")

    def at(self, stage: str) -> None:
        """Write down what this process does now."""
        self.stage = stage
        self._write(stage)

    def _write(self, stage: str) -> None:
        with suppress(RuntimeError):  # the store ends with the process that keeps it
            self._store.set(f"stage {self._rank}", stage)

    def _stage_of(self, rank: int) -> str:
        with suppress(RuntimeError):
            if self._store.check([f"stage {rank}"]):
                return str(self._store.get(f"stage {rank}").decode())
        return "has not started"

    def stages(self) -> str:
        """Where every process is; of many, those that are elsewhere than most."""
        found = [self._stage_of(rank) for rank in range(self._world)]
        usual = max(set(found), key=found.count)
        named = [r for r in range(self._world) if self._world <= 8 or found[r] != usual][:8]
        told = [f"process {rank}: {found[rank]}" for rank in named]
        return ", ".join(told + ([f"the others: {usual}"] if self._world > 8 else []))

    def wait(self, done: Callable[[timedelta], bool], *, patient: bool = False) -> None:
        """Wait until `done`, which is given the time that it may take at once.

        Raises the error of another process that refused, and Failure, unless `patient`, when that
        takes too long.
        """
        limit = self._timeout if self.begun else min(START, self._timeout)
        began, told = time.monotonic(), False
        while not done(BEAT):
            if not told:  # once, and nothing where there is no wait: steps are many
                self._write(f"waits at: {self.stage}")
                told = True
            self.listen()
            if not patient and time.monotonic() - began > limit:
                raise Failure(
                    f"another process of this run has ended or does not answer within {limit:.0f} s"
                    f" ({self.stages()}); see what it said, and start all again with --resume"
                )
        if told:
            self._write(self.stage)

    def everyone(self) -> None:
        """Wait until all processes have started."""
        keys = [f"stage {rank}" for rank in range(self._world)]

        def done(beat: timedelta) -> bool:
            if not self._store.check(keys):
                time.sleep(beat.total_seconds() / 10)
                return False
            return True

        self.wait(done)

    def refuse(self, error: InputError | Failure) -> InputError | Failure:
        """Tell all why this process leaves; return the error of the one that did so first."""
        mine = json.dumps([*message_of(error), self._rank])
        try:
            first = self._store.compare_set(_REFUSED, "", mine).decode()
        except RuntimeError:
            return error
        return error if first == mine else unpack(json.loads(first))

    def listen(self) -> None:
        """Raise the error with which another process left, if one did."""
        try:
            said = self._store.check([_REFUSED]) and self._store.get(_REFUSED).decode()
        except RuntimeError:  # the process that keeps the store is gone, which soon shows
            return
        if said:
            raise unpack(json.loads(said))
