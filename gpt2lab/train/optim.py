"""AdamW as GPT-2 is trained with, the learning rate of a step, the size of a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn


def adamw(
    model: nn.Module,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.1,
) -> torch.optim.AdamW:
    """AdamW over the trained parameters; only matrices decay, embeddings included (nanoGPT's rule).

    One fused pass over the memory is three times as fast as torch's default on a CPU.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(p.is_cuda or p.device.type == "cpu" for p in trained)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=fused)


def learning_rate(progress: float, peak: float, final: float, schedule: str) -> float:
    """The rate at `progress`, from 0 at the end of the warmup to 1 at the end of the run."""
    if schedule == "constant":
        return peak
    left = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return final + (peak - final) * left


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """The length of all gradients as one vector, a scalar; not finite when one number is not."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # shards know a part each


def update(optimizer: torch.optim.Optimizer, norm: torch.Tensor, clip: float) -> None:
    """One step, after shortening the gradient to `clip` where `norm` is more; 0 never shortens.

    The fused optimizer divides while it reads the gradients, which saves a pass over them; its
    arguments are the divisor and that nothing overflowed.
    """
    # 1e-6 as in torch's clip_grad_norm_, so that other trainers' steps are met to the last digits
    divisor = ((norm + 1e-6) / clip).clamp(min=1.0) if clip else torch.ones_like(norm)
    if optimizer.defaults["fused"] and norm.dtype == torch.float32:
        optimizer.grad_scale = divisor  # type: ignore[attr-defined]
        optimizer.found_inf = torch.zeros_like(divisor)  # type: ignore[attr-defined]
    elif divisor > 1:
        for group in optimizer.param_groups:
            torch._foreach_div_([p.grad for p in group["params"] if p.grad is not None], divisor)
    optimizer.step()
