"""Tickets: how threads share a step without depending on each other.

Every phase of a step (`phases`) is cut into chunks. A thread draws the next ticket, waits until the
phases before it are done, does the chunk, and counts it as done. No result depends on who did what,
so results are the same for any number of threads, and a thread that the system has suspended delays
no more than its own chunk.

CLAIM holds the epoch (the number of the job) beside the next ticket, so that one compare-and-swap
settles both: a helper that wakes up late cannot take a ticket of another job.
"""

from __future__ import annotations

from numba import njit, types

from gpt2lab.engines.cpu.layout import SHUT, Control, i64
from gpt2lab.engines.cpu.llvm.memory import (
    call_at,
    give_way,
    load_atomic,
    relax,
    store_atomic,
    swap_atomic,
)

SPINS = 2000  # about 50 to 100 microseconds before a waiting thread yields
# Turns of 100 spins, one to two milliseconds, before a helper goes to sleep. A step after 0.3 ms of
# spinning is 7 % slower than one after 0.1 ms (KVM, Xeon 2.5 GHz, two threads), so what the caller
# does between steps counts twice. Spinning on loads without `relax` nearly cures it on an idle
# machine; beside other processes a single run was 8 % slower (docs/notes.md).
IDLE = 400

CLAIM, DONE, TOTAL, RUN, JOB, STOP, ASLEEP = (8 * int(word) for word in Control)
LOW = 0xFFFFFFFF  # the half of CLAIM that counts tickets


@njit(nogil=True)
def wait(control: int, count: int) -> None:
    """Wait until `count` tickets are done; spin briefly, then yield."""
    turns = 0
    while load_atomic(control + DONE) < count:
        turns += 1
        if turns < SPINS:
            relax()
        else:
            give_way()


@njit(nogil=True)
def next_ticket(control: int, epoch: int) -> int:
    """The next ticket of this epoch, -1 when there is none.

    The next epoch's may be another engine's, which this code must not take; where the swap succeeds
    the epoch had not ended, so the total is its own.
    """
    while True:
        now = load_atomic(control + CLAIM)
        ticket = now & i64(LOW)
        if now >> 32 != epoch or ticket >= load_atomic(control + TOTAL):
            return i64(-1)
        if swap_atomic(control + CLAIM, now, now + 1):
            return ticket


@njit(nogil=True)
def lead(control: int, run: int, job: int, total: int) -> None:
    """Start a job, take part in it, and return when all of it is done."""
    epoch = (load_atomic(control + CLAIM) >> 32) + 1
    store_atomic(control + CLAIM, epoch << 32 | i64(SHUT))
    store_atomic(control + TOTAL, total)
    store_atomic(control + DONE, i64(0))
    store_atomic(control + RUN, run)
    store_atomic(control + JOB, job)
    store_atomic(control + CLAIM, epoch << 32)
    call_at(run, control, epoch, i64(0))
    wait(control, total)


@njit(nogil=True)
def follow(control: int, me: int) -> None:
    """Take part in every job that comes; return when none came for a while."""
    seen, turns = i64(-1), 0
    asleep = control + ASLEEP + 64 * me
    while load_atomic(control + STOP) == 0:
        now = load_atomic(control + CLAIM)
        epoch = now >> 32
        if epoch != seen and now & i64(LOW) < i64(SHUT):
            call_at(load_atomic(control + RUN), control, epoch, me)
            seen, turns = epoch, 0
            continue
        turns += 1
        for _ in range(100):
            relax()
        if turns > IDLE // 8:
            give_way()
        if turns > IDLE:
            store_atomic(asleep, i64(1))
            if load_atomic(control + CLAIM) >> 32 == epoch:
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


CREW = types.void(types.int64, types.int64, types.int64, types.int64, types.int64)
