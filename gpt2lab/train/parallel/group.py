"""The processes of a run: which rows of a step each takes, and how they agree.

torchrun starts the processes; without it there is one, and most methods here do nothing. They
either share the model (DDP: each holds all of it, gradients are averaged) or shard it (FSDP: each
holds its part of every parameter, gradient and moment; a block is gathered only while it computes).

Processes communicate through torch.distributed, which neither authenticates nor encrypts: use it in
private networks only.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

from gpt2lab.errors import Failure, InputError, MissingExtraError
from gpt2lab.files.visible import reason
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.parallel.rendezvous import Meeting, message_of, unpack

try:
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
except ModuleNotFoundError:
    raise MissingExtraError("training", "torch", "train") from None

from gpt2lab.train.parallel import sharding

T = TypeVar("T")

TIMEOUT = 600.0  # seconds until a process that does not answer in a step is given up
PATIENCE = timedelta(days=1)  # the same, where the others wait while the first does something long


@contextmanager
def answered(meeting: Meeting | None = None) -> Iterator[None]:
    """Turn the error of another process's end, or silence, into one line: where each is, too."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or re.search("gloo|NCCL", str(error))):
            raise
        why = re.sub(r"^\[[^]]*\] *", "", reason(error))  # a line of gloo's source
        where = f"; {meeting.stages()}" if meeting else ""
        raise Failure(
            f"another process of this run has ended or does not answer ({why:.90}{where}); see "
            "what it said, and start all again with --resume"
        ) from error


def _finished(work: Any) -> Callable[[timedelta], bool]:
    """Return a function that waits for a call for a limited time and returns whether it is done."""

    def done(beat: timedelta) -> bool:
        try:
            work.wait(beat)
        except RuntimeError as error:
            if "Operation timed out" in str(error):
                return False
            raise
        return True

    return done


@dataclass(frozen=True)
class Group:
    """The processes of a run: this one is `rank` of `world`.

    patient: torch's group for waits that may be long. meeting: for other words; without one, as for
    a single process, nothing is exchanged.
    """

    rank: int = 0
    world: int = 1
    patient: Any = None
    meeting: Meeting | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def divides(self, settings: TrainConfig) -> bool:
        """Return whether each process holds a part of the model only."""
        return self.world > 1 and settings.parallel == "fsdp"

    # ---- Agreeing.

    def at(self, stage: str) -> None:
        """Note what this process does from now on, for an error about processes that wait."""
        if self.meeting:
            self.meeting.at(stage)

    def begin(self) -> None:
        """Note that steps begin: another process may take longer to answer."""
        if self.meeting:
            self.meeting.begun = True

    def refuse(self, error: InputError | Failure) -> InputError | Failure:
        """Tell all why this process leaves; return the first error of the run."""
        return self.meeting.refuse(error) if self.meeting else error

    def sum(self, values: list[float]) -> list[float]:
        """Return the sum over all processes of each number."""
        if self.meeting is None:
            return values
        numbers = torch.tensor(values, dtype=torch.float64)
        with answered(self.meeting):
            self.meeting.wait(_finished(dist.all_reduce(numbers, async_op=True)))
        return [float(number) for number in numbers]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any process."""
        return self.sum([float(flag)])[0] > 0 if self.meeting else flag

    def barrier(self) -> None:
        """Wait for all, however long."""
        if self.meeting:
            with answered(self.meeting):
                work = dist.barrier(group=self.patient, async_op=True)
                self.meeting.wait(_finished(work), patient=True)

    def agree(self, act: Callable[[], T]) -> T:
        """Let the first process `act` once all are here; all get its result or its error.

        Only InputError and Failure are reported to the others.
        """
        if self.meeting is None:
            return act()
        self.any(False)  # all are here, or one is missing, which is soon known
        said: list[Any] = [None, None, self.meeting.stage]  # result, error, stage
        own: InputError | Failure | None = None
        try:
            said[0] = act() if self.first else None
        except (InputError, Failure) as error:
            own = error
            said[1] = message_of(error)
        self.barrier()  # the act may take hours, and a wait in the next call hears nothing
        with answered(self.meeting):
            dist.broadcast_object_list(said, src=0, group=self.patient)
        if own is not None:
            raise own
        if said[2] != self.meeting.stage:  # it would take another answer for the one it waits for
            raise Failure(
                f"process {self.rank} is at {self.meeting.stage} while process 0 is at {said[2]}; "
                "start all with the same command, where all see the same files"
            )
        if said[1] is not None:
            raise unpack(said[1])
        return cast(T, said[0])

    # ---- Computing.

    def wrap(self, objective: nn.Module, settings: TrainConfig, device: torch.device) -> nn.Module:
        """Return the objective as the processes share or shard it; sharded, without contents."""
        if self.meeting is None:
            return objective
        self.any(False)  # as in `agree`: torch's own calls hear nothing
        with answered(self.meeting):
            if self.divides(settings):
                return sharding.shard(objective, sharding.mesh_of(device, self.world), device)
            return sharding.replicate(objective, self.world, settings, device)

    @contextmanager
    def exchanging(self, objective: Any, last: bool) -> Iterator[None]:
        """Around a micro-batch: shared gradients are exchanged in the last one of a step only.

        Sharded ones are in each: to keep them until then would take the memory of the whole.
        """
        if self.meeting is None:
            yield
            return
        with answered(self.meeting), ExitStack() as held:
            if isinstance(objective, DistributedDataParallel) and not last:
                held.enter_context(objective.no_sync())
            yield

    def whole(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Return name -> parameter; sharded ones, gathered one by one, on the first's CPU alone."""
        found: dict[str, torch.Tensor] = {}
        for name, value in model.named_parameters():
            tensor = value.detach()
            if not sharding.is_part(tensor):
                found[name] = tensor
                continue
            together = tensor.full_tensor()  # type: ignore[attr-defined]
            if self.first:
                found[name] = together.cpu()
        return found

    def check_batch(self, config: TrainConfig) -> None:
        """Raise InputError where the processes cannot have equal shares of a step."""
        share = self.world * (config.micro_batch or 1)
        if config.batch_size % share:
            parts = f" with {config.micro_batch} at once" if config.micro_batch else ""
            raise InputError(
                f"batch_size {config.batch_size} cannot be shared by {self.world} processes"
                f"{parts}; make it a multiple of {share}"
            )


ALONE = Group()


def join(device: str | None = None, timeout: float = TIMEOUT) -> Group:
    """Meet the other processes that torchrun started; `ALONE` if it started none.

    device: as in the settings; of several GPUs each process of a machine takes its own. timeout:
    seconds until one that does not answer is given up. Raises InputError for a device that they
    would all take, Failure when they do not meet.
    """
    if not dist.is_torchelastic_launched():
        return ALONE
    from torch.distributed.rendezvous import rendezvous  # not in every torch

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda:"):
        raise InputError(f"device {name!r} is one GPU for all; write cuda, and each takes its own")
    if name == "cuda":
        torch.cuda.set_device(dist.get_node_local_rank())
    backend, limit = "cpu:gloo,cuda:nccl" if name == "cuda" else "gloo", timedelta(seconds=timeout)
    try:
        store, rank, world = next(rendezvous("env://", timeout=limit))
        meeting = Meeting(store, rank, world, timeout)
        meeting.everyone()
        dist.init_process_group(
            backend, timeout=limit, world_size=world, rank=rank,
            store=dist.distributed_c10d.PrefixStore("torch", store),
        )  # fmt: skip
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise Failure(
            f"the processes did not meet ({reason(error):.120}); see that all were started by "
            "torchrun with one rendezvous, in a network where they reach each other"
        ) from error
    if rank:  # only the first process logs
        logging.getLogger("gpt2lab").setLevel(logging.ERROR)
    return Group(rank, world, patient, meeting)


def leave(group: Group) -> None:
    """Part from the others when all are done.

    gloo's threads now and then abort a process that ends in the usual way afterwards: flush what
    there is to print, and leave by `os._exit`.
    """
    if group.world == 1 and not dist.is_initialized():
        return
    group.barrier()
    dist.destroy_process_group()
