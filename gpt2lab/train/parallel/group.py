"""One process or many: who takes which rows of a step, what they tell each other, what each keeps.

The processes are torchrun's; without it there is one, and nothing here does anything. They either
share the model (DDP: each has the whole, gradients are averaged) or divide it (FSDP: each keeps its
part of every parameter, gradient and moment, and a block is put together only while it computes).
`dry_run` tells what a process of such a group would hold.

Processes speak to each other through torch.distributed, which neither knows who speaks nor hides
what is said: this is for private networks only.
"""

from __future__ import annotations

import math
import re
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from gpt2lab.config import Config
from gpt2lab.errors import Failure, InputError, MissingExtraError
from gpt2lab.files.visible import reason
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.model import GPT2  # the first to import torch, and to say which extra it is in
from gpt2lab.train.optim import adamw
from gpt2lab.train.parallel.rendezvous import Meeting
from gpt2lab.train.precision import DTYPES, choose

try:
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils._python_dispatch import TorchDispatchMode
except ModuleNotFoundError:
    raise MissingExtraError("training", "torch", "train") from None


T = TypeVar("T")

TIMEOUT = 600.0  # seconds until a process that does not answer in a step is given up
PATIENCE = timedelta(days=1)  # the same, where the others wait while the first does something long


@dataclass(frozen=True)
class Group:
    """The processes of a run: this one is `rank` of `world`."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def divides(self, settings: TrainConfig) -> bool:
        """Whether each process holds a part of the model only."""
        return self.world > 1 and settings.parallel == "fsdp"

    def sum(self, values: list[float]) -> list[float]:
        """The sum over all processes of each number."""
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process; all come to the same answer."""
        return flag

    def barrier(self) -> None:
        """Wait for all."""

    def agree(self, act: Callable[[], T]) -> T:
        """Let the first process `act` once all are here; its result, or its error, is everyone's.

        Only InputError and Failure are told to the others.
        """
        return act()

    def at(self, stage: str) -> None:
        """Say what this process does from now on, for an error about processes that wait."""

    def begin(self) -> None:
        """From now on steps are made: another process may take longer to answer."""

    def refuse(self, error: InputError | Failure) -> InputError | Failure:
        """Let all know why this process leaves; the first error of the run."""
        return error

    def wrap(self, objective: nn.Module, settings: TrainConfig, device: torch.device) -> nn.Module:
        """The objective as the processes share or divide it; divided, it is to be filled yet."""
        return objective

    def exchanging(self, objective: Any, last: bool) -> AbstractContextManager[Any]:
        """Around a micro-batch: shared gradients are exchanged in the last one of a step only.

        Divided ones are in each, as to keep them until then would take the memory of the whole.
        """
        return nullcontext()

    def whole(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Name -> parameter; where processes hold a part each, together on the first's CPU.

        The others then get nothing. One parameter at a time is put together on each.
        """
        found: dict[str, torch.Tensor] = {}
        for name, value in model.named_parameters():
            tensor = value.detach()
            if not is_part(tensor):
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


# ---- Telling each other.


def _is_of_others(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)


@contextmanager
def _answered(meeting: Meeting | None = None) -> Iterator[None]:
    """Turn what comes of another process's end, or silence, into one line: where each is, too.

    torch's own waits end here when gloo's limit is over, or the other's connection.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_of_others(error):
            raise
        why = re.sub(r"^\[[^]]*\] *", "", reason(error))  # a line of gloo's source
        where = f"; {meeting.stages()}" if meeting else ""
        raise Failure(
            f"another process of this run has ended or does not answer ({why:.90}{where}); see "
            "what it said, and start all again with --resume"
        ) from error


def _tried(act: Callable[[], T]) -> tuple[T | None, InputError | Failure | None]:
    try:
        return act(), None
    except (InputError, Failure) as error:
        return None, error


def _told(error: InputError | Failure | None) -> tuple[bool, str] | None:
    """An error as the others are told it: whether it is the user's, and its line."""
    return None if error is None else (isinstance(error, InputError), str(error))


def _finished(work: Any) -> Callable[[timedelta], bool]:
    """Whether a call that is under way is done; waits no longer than it is told."""

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
class Joined(Group):
    """One process of several. patient: for waits that may be long. meeting: for other words."""

    patient: Any = None
    meeting: Any = None

    def at(self, stage: str) -> None:
        self.meeting.at(stage)

    def begin(self) -> None:
        self.meeting.begun = True

    def refuse(self, error: InputError | Failure) -> InputError | Failure:
        said: InputError | Failure = self.meeting.refuse(error)
        return said

    def sum(self, values: list[float]) -> list[float]:
        numbers = torch.tensor(values, dtype=torch.float64)
        with _answered(self.meeting):
            self.meeting.wait(_finished(dist.all_reduce(numbers, async_op=True)))
        return [float(number) for number in numbers]

    def any(self, flag: bool) -> bool:
        return self.sum([float(flag)])[0] > 0

    def barrier(self) -> None:
        with _answered(self.meeting):
            work = dist.barrier(group=self.patient, async_op=True)
            self.meeting.wait(_finished(work), patient=True)

    def agree(self, act: Callable[[], T]) -> T:
        self.any(False)  # all are here, or one is missing, which is soon known
        result, error = _tried(act) if self.first else (None, None)
        self.barrier()  # the act may take hours, and a wait in the next call hears nothing
        said: list[Any] = [result, _told(error), self.meeting.stage]
        with _answered(self.meeting):
            dist.broadcast_object_list(said, src=0, group=self.patient)
        if error is not None:
            raise error
        self._check_stage(said[2])
        if said[1] is not None:
            mistake, line = said[1]
            raise InputError(line) if mistake else Failure(line)
        return cast(T, said[0])

    def _check_stage(self, stage: str) -> None:
        """Raise Failure where this process would take another answer for the one it waits for."""
        if stage != self.meeting.stage:
            raise Failure(
                f"process {self.rank} is at {self.meeting.stage} while process 0 is at {stage}; "
                "start all with the same command, where all see the same files"
            )

    def wrap(self, objective: nn.Module, settings: TrainConfig, device: torch.device) -> nn.Module:
        self.any(False)  # as in `agree`: torch's own calls hear nothing
        with _answered(self.meeting):
            if self.divides(settings):
                return _divided(objective, _mesh(device, self.world), device)
            return _shared(objective, self.world, settings, device)

    @contextmanager
    def exchanging(self, objective: Any, last: bool) -> Iterator[None]:
        with _answered(self.meeting), ExitStack() as held:
            if isinstance(objective, DistributedDataParallel) and not last:
                held.enter_context(objective.no_sync())
            yield


def join(device: str | None = None, timeout: float = TIMEOUT) -> Group:
    """Meet the other processes that torchrun started; `ALONE` where it started none.

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
    return Joined(rank, world, patient, meeting)


def leave(group: Group) -> None:
    """Part from the others, when all are done.

    gloo's threads now and then abort a process that ends in the usual way afterwards: a program
    should write out what it has to say, and leave by `os._exit`.
    """
    if group.world == 1 and not dist.is_initialized():
        return
    group.barrier()
    dist.destroy_process_group()


# ---- Sharing the model, or dividing it.


def _shared(
    objective: nn.Module, world: int, settings: TrainConfig, device: torch.device
) -> nn.Module:
    """DDP, with the order in which it sums settled before the first step.

    It lays its buckets out anew after the first backward pass, and a number's place in them decides
    in which order the processes' parts of it are added. Without a pass of no consequence here, the
    first step after a resume would differ in the last bit.
    """
    if world == 1:
        return objective
    shared = DistributedDataParallel(objective, gradient_as_bucket_view=True)
    size = settings.micro_batch or settings.batch_size // world
    tokens = torch.zeros(size, settings.block_size or 1, dtype=torch.int64, device=device)  # [B, T]
    shared(tokens, tokens, 0.0).backward()
    shared.zero_grad(set_to_none=True)
    return shared


def _mesh(device: torch.device, world: int) -> Any:
    """The processes in a row."""
    from torch.distributed.device_mesh import init_device_mesh  # half a second, for FSDP alone

    return init_device_mesh(device.type, (world,))


def _divided(objective: Any, mesh: Any, device: torch.device) -> nn.Module:
    """FSDP of an objective that lies on the meta device: block by block, then what is left.

    Blocks are put together, and their gradients made, in the dtype of the arithmetic; sums over
    processes are float32. Embeddings and the last norm stay float32 as on one process. Nothing is
    kept whole between two passes: after a validation, too, parameters are what the optimiser knows.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    compute = objective.model.compute
    narrow = None if compute == torch.float32 else compute
    policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32)
    for block in objective.model.h:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    fully_shard(objective, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    objective.to_empty(device=device)
    return cast(nn.Module, objective)


def is_part(tensor: torch.Tensor) -> bool:
    """Whether a tensor is this process's part of one."""
    return hasattr(tensor, "full_tensor")


def own(tensor: torch.Tensor) -> torch.Tensor:
    """What of a tensor this process holds."""
    held = tensor.detach()
    return held.to_local() if is_part(held) else held  # type: ignore[attr-defined]


def _own_rows(array: np.ndarray[Any, Any], tensor: Any) -> np.ndarray[Any, Any]:
    """The rows of an array that belong to this process's part of a tensor."""
    if not is_part(tensor):
        return array
    rank, world = tensor.device_mesh.get_local_rank(), tensor.device_mesh.size()
    size = math.ceil(len(array) / world)  # the last processes have less, or nothing
    return array[rank * size : (rank + 1) * size]


def fill(model: nn.Module, params: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Give a model its parameters; of a mapped file a process reads what it keeps."""
    for name, parameter in model.named_parameters():
        rows = _own_rows(params[name], parameter)
        own(parameter).copy_(torch.from_numpy(np.array(rows)))


# ---- What the optimiser keeps, in files.


@contextmanager
def _stored(folder: Path, verb: str) -> Iterator[None]:
    """Turn what torch.distributed.checkpoint raises, which is no Exception, into one line."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with _answered(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process is no surprise
            yield
    except CheckpointException as error:
        first = next((cause for cause, _ in error.failures.values()), error)
        raise Failure(
            f"{folder}: the optimiser's state cannot be {verb} ({reason(first)}); check the disk"
        ) from error


def write_parts(kept: dict[str, torch.Tensor], folder: Path, name: str, group: Group) -> None:
    """Write tensors that are divided: a safetensors file from each process, called `name-*`.

    Called by all. torch's usual way (`.metadata`) would be a pickle; the places of the parts stand
    in the headers of the files instead. Raises Failure, on all, when one cannot write.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    assert isinstance(group, Joined), "one process has nothing divided"
    if kept:
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        with _stored(folder, "written"):
            save(dict(kept), storage_writer=writer, process_group=group.patient)
    group.agree(lambda: _named(folder, name))


def _named(folder: Path, name: str) -> None:
    parts = sorted(folder.glob("shard-*.safetensors"))
    for number, part in enumerate(parts, 1):
        part.rename(folder / f"{name}-{number:05d}-of-{len(parts):05d}.safetensors")


def read_parts(wanted: dict[str, torch.Tensor], folder: Path, group: Group) -> None:
    """Fill the tensors of `wanted` from a checkpoint's files, however many processes wrote those.

    What the files do not hold is taken out of `wanted`. Raises Failure when they cannot be read.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    together = group.patient if isinstance(group, Joined) else None
    alone = not any(map(is_part, wanted.values()))
    with _stored(folder, "read"):
        for name in set(wanted) - set(reader.read_metadata().state_dict_metadata):
            del wanted[name]
        load(wanted, storage_reader=reader, process_group=together, no_dist=alone)


# ---- What a process would hold.


class _Meter(TorchDispatchMode):
    """Counts the memory that tensors hold, and the most they ever did.

    A number that is asked of a tensor without contents is 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._storages: dict[int, weakref.ref[Any]] = {}

    def now(self) -> int:
        """Bytes, at this moment. Storages may have shrunk: FSDP empties and refills the same."""
        gone = [key for key, storage in self._storages.items() if storage() is None]
        for key in gone:
            del self._storages[key]
        return sum(s.nbytes() for ref in self._storages.values() if (s := ref()) is not None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        result = func(*args, **(kwargs or {}))
        if sum(map(self._is_new, torch.utils._pytree.tree_leaves(result))):
            self.most = max(self.most, self.now())
        return result

    def _is_new(self, value: Any) -> bool:
        if not isinstance(value, torch.Tensor):
            return False
        storage = own(value).untyped_storage()
        known = self._storages.get(storage._cdata)
        if known is not None and known() is not None:
            return False
        self._storages[storage._cdata] = weakref.ref(storage)
        return True


@contextmanager
def _made_up(world: int) -> Iterator[None]:
    """A process group of this process, the first of `world`, in which nothing is said."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise InputError("a dry run is made by one process; start it without torchrun")
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def _rehearsal(config: Config, settings: TrainConfig, mesh: Any) -> Any:
    """The state of a run, as it would be made, of tensors without contents."""
    from gpt2lab.train import step  # which stands on this file

    compute, cpu = DTYPES[settings.dtype], torch.device("cpu")
    with torch.device("meta"):
        gpt = GPT2(config, compute=compute, dropout=settings.dropout, recompute=settings.recompute)
    for name, parameter in gpt.named_parameters():
        parameter.requires_grad_(settings.train_only == "all" or name.startswith("h."))
    objective: nn.Module = step.Objective(gpt)
    objective = objective.to_empty(device=cpu) if mesh is None else _divided(objective, mesh, cpu)
    return step.State(gpt, objective, adamw(gpt, settings.learning_rate))


def _bytes(tensors: Iterable[torch.Tensor | None]) -> int:
    return sum(own(tensor).nbytes for tensor in tensors if tensor is not None)


def _measured(state: Any, settings: TrainConfig, group: Group, meter: _Meter) -> dict[str, int]:
    """Take two steps, as AdamW's moments are made in the first, and measure the second."""
    from gpt2lab.corpus.batches import Batch
    from gpt2lab.train import step

    found, model = {"before": 0}, state.model
    ids = np.zeros((settings.batch_size, settings.block_size or 1), np.int64)  # [B, T]
    batch = Batch(ids, ids, np.full(len(ids), ids.shape[1]))

    def forward(_: Any, __: Any) -> None:
        found["before"] = meter.now()

    def backward(*_: Any) -> None:
        found["activations"] = meter.now() - found["before"]

    def update(*_: Any) -> None:
        found["gradients"] = _bytes(p.grad for p in model.parameters())

    state.objective.register_forward_pre_hook(forward, prepend=True)
    state.objective.register_forward_hook(backward)
    state.optimizer.register_step_pre_hook(update)
    for _ in range(2):
        meter.most = 0
        step.one_step(state, batch, settings, 0.0, group=group)
    found["parameters"] = _bytes(model.parameters())
    found["optimizer"] = 2 * _bytes(own["exp_avg"] for own in state.optimizer.state.values())
    return found


def _one_or_two_parts(config: Config, settings: TrainConfig, world: int) -> TrainConfig:
    """Settings with nothing left open, of a step that is no longer than its memory asks for."""
    block = settings.block_size or config.n_ctx
    if block > config.n_ctx:
        raise InputError(f"block_size {block} is more than the model's context {config.n_ctx}")
    rows = settings.micro_batch or settings.batch_size // world
    batch = rows * world * min(2, settings.batch_size // (rows * world))
    chosen, _ = choose(settings.dtype, torch.device("cpu"), config, block)
    dtype = str(chosen).removeprefix("torch.")
    return replace(settings, batch_size=batch, micro_batch=rows, block_size=block, dtype=dtype)


def dry_run(config: Config, settings: TrainConfig, world: int) -> dict[str, int]:
    """What each of `world` processes would hold in training, in bytes, found on this one.

    The code of a whole step of the first process (forward and backward pass, clipping, AdamW) is
    run in a made-up group, with tensors that have shapes and no contents: any model takes seconds
    and no memory, and nothing is computed. Measured are a process's parameters, gradients, moments
    of the optimiser, and activations: what a forward pass leaves for the backward pass. The total
    of a divided model is measured, the most that was held at a moment, blocks that are put together
    and the work of the backward pass included. Of a shared one it is the sum, since DDP never gives
    its gradients' memory back.

    All of it is on the CPU's path. A GPU's attention does not keep its scores and its loss makes
    all logits at once, so there activations differ. Raises InputError for a batch that cannot be
    shared.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    group = Group(0, world)
    group.check_batch(settings)
    settings, meter = _one_or_two_parts(config, settings, world), _Meter()
    with _made_up(world):
        mesh = _mesh(torch.device("cpu"), world) if group.divides(settings) else None
        with FakeTensorMode(allow_non_fake_inputs=True), meter:
            state = _rehearsal(config, settings, mesh)
            found = _measured(state, settings, group, meter)
    names = ("parameters", "gradients", "optimizer", "activations")
    total = sum(found[name] for name in names) if mesh is None else meter.most
    return {
        "processes": world,
        "texts_at_once": settings.micro_batch or 1,
        "block_size": settings.block_size or 1,
        **{f"{name}_bytes": found[name] for name in names},
        "total_bytes": total,
    }
