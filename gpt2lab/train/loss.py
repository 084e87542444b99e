"""Cross entropy over a large vocabulary, a piece at a time, its gradient made in the same pass.

For 16 sequences of 256 tokens the logits of GPT-2's vocabulary are 0.8 GB in float32, and the usual
way keeps them, their softmax and its gradient. Here the head, the loss and both gradients of a
piece of the rows are done before the next piece begins, so that the whole never exists.

Shapes: R rows (all tokens of a batch), E embedding, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

IGNORED = -100  # the target of a row that has none, torch's own sign for it
PIECE = 103e6  # bytes of logits at a time: 1024 rows of GPT-2's vocabulary in bfloat16
CACHED = 1 << 22  # numbers that the softmax is made of at a time: 16 MB, half of an L3 cache


def written_out(
    h: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, scale: float
) -> torch.Tensor:
    """What `cross_entropy` computes, in one line and with all logits: its oracle, and for GPUs."""
    logits = F.linear(h, head.to(h.dtype))  # [R, V]
    wide = torch.promote_types(h.dtype, torch.float32)
    return scale * F.cross_entropy(logits.to(wide), targets, ignore_index=IGNORED, reduction="sum")


def _logprobs(
    p: torch.Tensor, logits: torch.Tensor, at: torch.Tensor, wide: torch.dtype
) -> torch.Tensor:
    """The logarithms of the probabilities p [R, V] at one place of each row, `at` [R, 1]: [R].

    Where a probability is so small that it lost its digits, they come from the logits.
    """
    picked = p.gather(1, at)[:, 0]  # [R]
    found = picked.log()
    tiny = picked < 1e-30
    if tiny.any():
        exact = logits.log_softmax(-1, dtype=wide).gather(1, at)[:, 0]
        found = torch.where(tiny, exact, found)
    return found


def _softmax_less_target(
    logits: torch.Tensor, targets: torch.Tensor, scale: float, wide: torch.dtype
) -> torch.Tensor:
    """Overwrite logits [R, V] with scale * (softmax - target); return the summed loss.

    A few rows at a time, so that what is in the wide dtype stays in the cache.
    """
    total = torch.zeros((), dtype=wide, device=logits.device)
    few = max(1, CACHED // logits.shape[1])
    for rows, target in zip(logits.split(few), targets.split(few), strict=True):
        p = rows.softmax(-1, dtype=wide)  # [few, V]
        known = target != IGNORED
        at = torch.where(known, target, 0)[:, None]  # [few, 1]
        total -= (_logprobs(p, rows, at, wide) * known).sum()
        p.scatter_add_(1, at, torch.full_like(at, -1, dtype=wide))
        weight = scale * known.to(wide)[:, None]  # [few, 1]
        if rows.dtype == wide:
            torch.mul(p, weight, out=rows)  # spares a pass
        else:
            rows.copy_(p.mul_(weight))
    return total


def _add(total: torch.Tensor, part: torch.Tensor) -> None:
    """total += part of a narrower dtype; torch would first widen a copy of the whole of it."""
    for a, b in zip(total.split(16), part.split(16), strict=True):
        a += b


class _HeadGradient:
    """The gradient of the head [V, E], the sum of those of all pieces.

    Of 512 rows, 768 wide, oneDNN makes it as [E, V], with the long side last, 1.6 times as fast;
    MKL as [V, E] in 0.57 of the time, as it adds to the sum itself and nothing has to be turned.
    """

    def __init__(self, head: torch.Tensor, h: torch.Tensor, wide: torch.dtype) -> None:
        self.head, self.wide = head, wide
        is_exact = torch.get_float32_matmul_precision() == "highest"  # else it is oneDNN's
        self.by_blas = h.dtype == head.dtype == torch.float32 and is_exact
        self.total: torch.Tensor | None = None

    def add(self, rows: torch.Tensor, p: torch.Tensor, *, alone: bool) -> None:
        """Add that of states [size, E] whose logits have the gradient p [size, V]."""
        if self.by_blas:
            if self.total is None:
                self.total = torch.mm(p.t(), rows)  # [V, E]
            else:
                self.total.addmm_(p.t(), rows)
            return
        part = rows.t().contiguous() @ p  # [E, V]
        if self.total is None:
            self.total = part if alone else part.to(self.wide)
        else:
            _add(self.total, part)

    def result(self) -> torch.Tensor:
        """The gradient [V, E] in the head's dtype."""
        assert self.total is not None, "no rows"
        return self.total if self.by_blas else torch.empty_like(self.head).copy_(self.total.t())


class _InPieces(torch.autograd.Function):
    """The loss with its gradients to `h` and `head`, which are made while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any, h: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, scale: float
    ) -> torch.Tensor:
        w = head.to(h.dtype)  # [V, E]
        wide = torch.promote_types(h.dtype, torch.float32)
        size = max(1, int(PIECE / (len(w) * h.itemsize)))  # rows of a piece
        total = torch.zeros((), dtype=wide, device=h.device)
        dh, dw = torch.empty_like(h), _HeadGradient(head, h, wide)
        logits = torch.empty(min(size, len(h)), len(w), dtype=h.dtype, device=h.device)
        for start in range(0, len(h), size):
            rows = h[start : start + size]  # [size, E]
            p = torch.mm(rows, w.t(), out=logits[: len(rows)])  # [size, V]
            total += _softmax_less_target(p, targets[start : start + size], scale, wide)
            torch.mm(p, w, out=dh[start : start + size])
            dw.add(rows, p, alone=len(h) <= size)
        ctx.save_for_backward(dh, dw.result())
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (g,) = grads
        dh, dw = ctx.saved_tensors
        return (dh, dw, None, None) if g == 1 else (dh * g, dw * g, None, None)


def cross_entropy(
    h: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    scale: float,
    *,
    whole: bool = False,
) -> torch.Tensor:
    """`scale` times the summed cross entropy of states h [R, E] times head [V, E] against targets.

    targets: ids [R], `IGNORED` where a row has none. The arithmetic is in h's dtype, the softmax in
    float32 at least; the head's gradient has the head's dtype. Differentiable once. whole: make all
    logits of a training pass at once, which spares small ones some calls; so it is on a GPU, where
    the memory is another question, and a kernel for each piece a cost.
    """
    if h.is_cuda or (whole and torch.is_grad_enabled()):
        return written_out(h, head, targets, scale)
    if not torch.is_grad_enabled():
        w, size = head.to(h.dtype), max(1, int(PIECE / (len(head) * 4)))
        pairs = zip(h.split(size), targets.split(size), strict=True)
        return torch.stack([written_out(rows, w, t, scale) for rows, t in pairs]).sum()
    loss: torch.Tensor = _InPieces.apply(h, head, targets, scale)
    return loss
