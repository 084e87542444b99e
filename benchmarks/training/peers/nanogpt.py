"""What nanoGPT's train.py does on a CPU, written anew in plain torch.

Its defaults there: eager float32 (autocast is for GPUs), `scaled_dot_product_attention`, the exact
GELU, no biases, all logits at once, AdamW not fused (that too is for GPUs), clipping at 1, the loss
asked for at every step. Its README turns `torch.compile` off on CPUs; `compiled` leaves it on.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.training.cases import Case
from benchmarks.training.contenders import Trained


def build(case: Case) -> Any:
    """The model: ids and targets [B, T] to the mean loss."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    E, H = case.n_embd, case.n_head

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.between = nn.LayerNorm(E, bias=False), nn.LayerNorm(E, bias=False)
            self.qkv, self.out = nn.Linear(E, 3 * E, bias=False), nn.Linear(E, E, bias=False)
            self.up, self.down = nn.Linear(E, 4 * E, bias=False), nn.Linear(4 * E, E, bias=False)

        def attend(self, x: Any) -> Any:
            q, k, v = (t.unflatten(2, (H, -1)).transpose(1, 2) for t in self.qkv(x).split(E, 2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [B, H, T, D]
            return self.out(y.transpose(1, 2).flatten(2))  # [B, T, E]

        def forward(self, x: Any) -> Any:
            x = x + self.attend(self.before(x))
            return x + self.down(F.gelu(self.up(self.between(x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.wpe = nn.Embedding(case.n_vocab, E), nn.Embedding(case.block, E)
            self.blocks = nn.ModuleList(Block() for _ in range(case.n_layer))
            self.norm = nn.LayerNorm(E, bias=False)
            self.head = nn.Linear(E, case.n_vocab, bias=False)
            self.head.weight = self.wte.weight
            for name, p in self.named_parameters():
                if p.dim() == 2:
                    scaled = name.endswith(("out.weight", "down.weight"))
                    nn.init.normal_(p, std=0.02 / (2 * case.n_layer) ** 0.5 if scaled else 0.02)

        def forward(self, tokens: Any, targets: Any) -> Any:
            x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
            for block in self.blocks:
                x = block(x)
            logits = self.head(self.norm(x))  # [B, T, V]
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return Model()


def optimizer(model: Any) -> Any:
    """AdamW whose decay is for matrices only; fused only where there is a GPU."""
    import torch

    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))


def train(case: Case, steps: int, threads: int, compiled: bool) -> Trained:
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    data = case.tokens()
    model = build(case)
    adamw = optimizer(model)
    forward = torch.compile(model) if compiled else model

    def batch() -> tuple[Any, Any]:
        starts = torch.randint(len(data) - case.block, (case.batch,))
        rows = np.stack([data[i : i + case.block + 1] for i in starts]).astype(np.int64)
        ids = torch.from_numpy(rows)  # [B, T + 1]
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    trained = Trained()
    for _ in range(steps):
        loss = forward(*batch())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        trained.losses.append(loss.item())
        trained.times.append(time.perf_counter())
    return trained
