"""What each process of a run would hold in memory, found by one process without computing.

The code of a whole step runs in a simulated group, on tensors that have shapes and no contents.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2lab.config import Config
from gpt2lab.corpus.batches import TrainingBatch
from gpt2lab.engines.torch.model import GPT2
from gpt2lab.errors import InputError
from gpt2lab.train import step
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.optim import adamw
from gpt2lab.train.optimizer_state import freeze, model_options
from gpt2lab.train.parallel.group import Group
from gpt2lab.train.parallel.sharding import held_part, mesh_of, shard
from gpt2lab.train.probe import choose


class _Meter(TorchDispatchMode):
    """Counts the memory that tensors hold, and the most they ever did.

    The value of a tensor without contents is 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._storages: dict[int, weakref.ref[Any]] = {}

    def now(self) -> int:
        """Bytes, at this moment. Storages may have shrunk: FSDP empties and refills the same."""
        alive = {key: ref for key, ref in self._storages.items() if ref() is not None}
        self._storages = alive
        return sum(s.nbytes() for ref in alive.values() if (s := ref()) is not None)

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
        storage = held_part(value).untyped_storage()
        known = self._storages.get(storage._cdata)
        if known is not None and known() is not None:
            return False
        self._storages[storage._cdata] = weakref.ref(storage)
        return True


@contextmanager
def _simulated(world: int) -> Iterator[None]:
    """A process group of this process, the first of `world`, in which nothing is exchanged."""
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
    cpu = torch.device("cpu")
    with torch.device("meta"):
        gpt = GPT2(config, **model_options(settings))
    freeze(gpt, settings)
    objective: nn.Module = step.Objective(gpt, whole=settings.loss == "whole")
    objective = objective.to_empty(device=cpu) if mesh is None else shard(objective, mesh, cpu)
    return step.State(gpt, objective, adamw(gpt, settings.learning_rate))


def _bytes(tensors: Iterable[torch.Tensor | None]) -> int:
    return sum(held_part(tensor).nbytes for tensor in tensors if tensor is not None)


def _measured(state: Any, settings: TrainConfig, group: Group, meter: _Meter) -> dict[str, int]:
    """Take two steps, as AdamW's moments are made in the first, and measure the second."""
    found, model = {"before": 0}, state.model
    ids = np.zeros((settings.batch_size, settings.block_size or 1), np.int64)  # [B, T]
    batch = TrainingBatch(ids, ids, np.full(len(ids), ids.shape[1]))

    def forward(*_: Any) -> None:
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
    found["optimizer"] = 2 * _bytes(kept["exp_avg"] for kept in state.optimizer.state.values())
    return found


def _one_or_two_parts(config: Config, settings: TrainConfig, world: int) -> TrainConfig:
    """Settings with nothing left open, of a step that is no longer than its memory asks for."""
    block = settings.block_size or config.n_ctx
    if block > config.n_ctx:
        raise InputError(f"block_size {block} is more than the model's context {config.n_ctx}")
    rows = settings.micro_batch or settings.batch_size // world
    batch = rows * world * min(2, settings.batch_size // (rows * world))
    settings, _ = choose(config, replace(settings, block_size=block), rows)
    return replace(settings, batch_size=batch, micro_batch=rows)


def dry_run(config: Config, settings: TrainConfig, world: int) -> dict[str, int]:
    """Measure what each of `world` processes would hold in training, in bytes, on this one.

    A whole step of the first process (forward and backward pass, clipping, AdamW) runs on tensors
    without contents, so any model takes seconds and no memory. Activations are what a forward pass
    leaves for the backward pass. The total of a sharded model is the most that was held at a
    moment, gathered blocks included; that of a shared one is the sum, since DDP never frees the
    memory of its gradients.

    All of it is on the CPU's path. A GPU's attention does not keep its scores and its loss makes
    all logits at once, so there activations differ. Raises InputError for a batch that cannot be
    shared.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    group = Group(0, world)
    group.check_batch(settings)
    settings, meter = _one_or_two_parts(config, settings, world), _Meter()
    with _simulated(world):
        mesh = mesh_of(torch.device("cpu"), world) if group.divides(settings) else None
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
