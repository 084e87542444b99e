"""How a model lies on several processes: a whole copy on each, or a shard on each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gpt2lab.train.config import TrainConfig


def replicate(
    objective: nn.Module, world: int, settings: TrainConfig, device: torch.device
) -> nn.Module:
    """DDP, with the order in which it sums settled before the first step.

    It lays its buckets out again after the first backward pass, and their layout decides in which
    order the parts of a sum are added. Without a pass of no consequence here, the first step after
    a resume would differ in the last bit.
    """
    if world == 1:
        return objective
    shared = DistributedDataParallel(objective, gradient_as_bucket_view=True)
    size = settings.micro_batch or settings.batch_size // world
    tokens = torch.zeros(size, settings.block_size or 1, dtype=torch.int64, device=device)  # [B, T]
    shared(tokens, tokens, 0.0).backward()
    shared.zero_grad(set_to_none=True)
    return shared


def mesh_of(device: torch.device, world: int) -> Any:
    """The processes in a row."""
    from torch.distributed.device_mesh import init_device_mesh  # half a second, for FSDP alone

    return init_device_mesh(device.type, (world,))


def shard(objective: Any, mesh: Any, device: torch.device) -> nn.Module:
    """FSDP of an objective that lies on the meta device: block by block, then what is left.

    Blocks are gathered, and their gradients made, in the dtype of the arithmetic; sums over
    processes are float32. Embeddings and the last norm stay float32 as on one process. Nothing
    stays gathered between two passes: parameters are always what the optimizer knows.
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


def held_part(tensor: torch.Tensor) -> torch.Tensor:
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
        held_part(parameter).copy_(torch.from_numpy(np.array(rows)))
