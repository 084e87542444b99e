"""The phases of a step, and how many tickets each is cut into.

Every phase waits until all tickets before it are done. x is the residual stream; acts holds rows
in the form that a product takes; wide holds attention's output, then the inside of the MLP.

    phase      reads               writes             tickets
    NORM_1     x                   acts               T_ROWS     ln_1
    HEADS      acts, slots         slots, wide        heads      q, k, v of one head; its attention
    PACK_1     wide                acts               T_ROWS     only where rows are not float32
    PROJECT    acts or wide        x (adds)           chunks     attn.c_proj
    NORM_2     x                   acts               T_ROWS     ln_2
    FC         acts                wide               chunks     mlp.c_fc, activation function
    PACK_2     wide                acts               T_ROWS     as PACK_1
    OUT        acts or wide        x (adds)           chunks     mlp.c_proj
    ... for each layer, then
    NORM_F     x                   acts               T_LAST     ln_f of the rows asked for
    LOGITS     acts                logits             chunks     the head
    or, in a scoring step,
    TARGETS    acts                target logits      chunks     the head for given ids alone
    SCORES     acts, target logits parts of scores    blocks     the head, block by block

HEADS and FC multiply what they have written by the factors of acts, where a layer has some; what
acts add to x is in the biases of PROJECT and OUT (`acting`).

Up to `FEW` rows, the phases NORM and PACK have no tickets: each thread prepares these rows for
itself, in memory of its own, when it first draws a ticket of the phase behind. That costs less than
waiting for others.

The engine writes the counts into the job once (`cut`); engine and kernel add them up by the same
functions, `layer_tickets` and `all_tickets`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from gpt2lab.engines.cpu.layout import HEAD_BLOCK, Job


class Phase(IntEnum):
    """The phases in order; those of a layer come before NORM_F."""

    NORM_1 = 0
    HEADS = 1
    PACK_1 = 2
    PROJECT = 3
    NORM_2 = 4
    FC = 5
    PACK_2 = 6
    OUT = 7
    NORM_F = 8
    LOGITS = 9
    TARGETS = 10
    SCORES = 11


FEW = 4
_LAYERS, _TICKETS, _IN_LAYER = int(Job.LAYERS), int(Job.TICKETS), int(Phase.NORM_F)
_END = _TICKETS + len(Phase)


def layer_tickets(job: Any) -> Any:
    """How many tickets one layer has."""
    total = 0
    for phase in range(_IN_LAYER):
        total += job[_TICKETS + phase]
    return total


def all_tickets(job: Any) -> Any:
    """How many tickets a step has."""
    return layer_tickets(job) * job[_LAYERS] + sum(job[_TICKETS + _IN_LAYER : _END])


def cut(
    job: Any,
    rows: int,
    last: int,
    threads: int,
    width: int,
    packs: bool,
    targets: int | None = None,
) -> None:
    """Write into a job how many tickets each phase has.

    rows: new tokens of the step; last: how many of them get logits. width: columns of a panel.
    packs: whether products take rows in another form than float32. targets: how many a scoring step
    has, None where logits are wanted. Several tickets for each thread let a fast thread do more of
    them; the heads are never split.
    """
    few, most = rows <= FEW, 1 if threads == 1 else 4 * threads

    def chunks(columns: int) -> int:
        """Chunks of a matrix: whole panels."""
        return min(-(-columns // width), most)

    def spread(count: int) -> int:
        """Chunks of rows: four rows or more, where they are not few."""
        return 0 if few else min(-(-count // 4), 4 * threads)

    embed, inner = int(job[Job.EMBED]), int(job[Job.INNER])
    counts = {
        Phase.NORM_1: spread(rows),
        Phase.HEADS: int(job[Job.HEADS]),
        Phase.PACK_1: spread(rows) if packs else 0,
        Phase.PROJECT: chunks(embed),
        Phase.NORM_2: spread(rows),
        Phase.FC: chunks(inner),
        Phase.PACK_2: spread(rows) if packs else 0,
        Phase.OUT: chunks(embed),
        Phase.NORM_F: spread(last),
        Phase.LOGITS: 0,
        Phase.TARGETS: 0,
        Phase.SCORES: 0,
    }
    if last and targets is None:
        counts[Phase.LOGITS] = min(int(job[Job.HEAD_PANELS]), 4 * most)
    elif last and targets is not None:
        counts[Phase.TARGETS] = min(-(-targets // 4), 4 * threads)
        counts[Phase.SCORES] = -(-int(job[Job.VOCAB]) // HEAD_BLOCK)
    job[Job.FEW] = few
    for phase, count in counts.items():
        job[Job.TICKETS + phase] = count
