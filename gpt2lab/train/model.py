"""GPT-2 as a torch module: the reference, made to be differentiated.

The functions of `reference` stand here as modules whose parameters have the names and the shapes of
the checkpoints, matrices [in, out]. The parameters may be float32 (or float64) while the arithmetic
runs in another dtype: each is brought to the dtype of what it meets, where it meets it, so the
gradient that arrives at it is in its own dtype again. That is mixed precision without a second copy
of the weights to keep in step.

Shapes: B batch, T tokens, H heads, D head width, E embedding, F width of the MLP, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gpt2lab.config import Config
from gpt2lab.errors import MissingExtraError
from gpt2lab.files import reason

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.utils.checkpoint import checkpoint
except ModuleNotFoundError:
    raise MissingExtraError("training", "torch", "train") from None

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


class Conv1D(nn.Module):
    """x @ w + b, with w [in, out]."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.empty(n_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2)  # [B T, in]
        y = torch.addmm(self.bias.to(x.dtype), rows, self.weight.to(x.dtype))
        return y.view(*x.shape[:-1], -1)  # [B, T, out]


class Norm(nn.Module):
    """Layer normalisation; the gains stay in their own dtype, which is the more exact one.

    A CPU's kernel takes both dtypes as they are; elsewhere all of it is done in that of the gains.
    """

    def __init__(self, n: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n))
        self.bias = nn.Parameter(torch.empty(n))
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == self.weight.dtype or x.device.type == "cpu":
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)
        wide = x.to(self.weight.dtype)
        return F.layer_norm(wide, self.weight.shape, self.weight, self.bias, self.epsilon).to(
            x.dtype
        )


def attend_written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, dropout: float
) -> torch.Tensor:
    """Causal attention of [B, H, T, D] as two batched products with a masked softmax in between."""
    B, H, T, D = q.shape
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))  # 3 x [B H, T, D]
    mask = torch.full((T, T), float("-inf"), dtype=q.dtype, device=q.device).triu(1)  # [T, T]
    w = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale)  # [B H, T, T]
    w = w.softmax(-1)
    if dropout:
        w = F.dropout(w, dropout)
    return torch.bmm(w, v).view(B, H, T, D)


def attend_fused(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, dropout: float
) -> torch.Tensor:
    """The same through torch's one function, which on GPUs never makes the scores."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, dropout_p=dropout)


class Attention(nn.Module):
    """Masked self-attention, with the fused query, key and value matrix of the official code."""

    def __init__(self, config: Config, layer: int, dropout: float) -> None:
        super().__init__()
        E = config.n_embd
        self.c_attn = Conv1D(E, 3 * E)
        self.c_proj = Conv1D(E, E)
        self.n_head = config.n_head
        self.scale = 1 / math.sqrt(config.head_width) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c = self.c_attn(x).unflatten(-1, (3, self.n_head, -1))  # [B, T, 3, H, D]
        q, k, v = c.permute(2, 0, 3, 1, 4)  # 3 x [B, H, T, D]
        attend = attend_fused if x.is_cuda else attend_written_out
        a = attend(q, k, v, self.scale, self.dropout if self.training else 0.0)
        return self.c_proj(a.transpose(1, 2).flatten(2))  # [B, T, E]


class MLP(nn.Module):
    """Out to width F, through the activation, and back."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.c_fc = Conv1D(config.n_embd, config.mlp_width)
        self.c_proj = Conv1D(config.mlp_width, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.activation(self.c_fc(x)))  # [B, T, E]


class Block(nn.Module):
    """One layer: attention and MLP, each normalised before and added to the residual stream."""

    def __init__(self, config: Config, layer: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = Norm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config, layer, dropout)
        self.ln_2 = Norm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)
        self.dropout = dropout

    def drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout) if self.dropout and self.training else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop(self.attn(self.ln_1(x)))
        return x + self.drop(self.mlp(self.ln_2(x)))  # [B, T, E]


class GPT2(nn.Module):
    """The whole of GPT-2; the keys of its state dict are the names of the checkpoints.

    compute: the dtype of the arithmetic, None for that of the parameters. dropout: after the
    embeddings, on the attention weights and on what each half of a block adds; 0 is the published
    code. recompute: keep only the input of each block for the backward pass and compute the rest
    again (gradient checkpointing). tied: without a head of its own, `lm_head.weight` [V, E].
    The parameters are not set: give them by `load`.
    """

    def __init__(
        self,
        config: Config,
        *,
        compute: torch.dtype | None = None,
        dropout: float = 0.0,
        recompute: bool = False,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.config, self.compute = config, compute
        self.dropout, self.recompute = dropout, recompute
        self.wte = nn.Embedding(config.n_vocab, config.n_embd)
        self.wpe = nn.Embedding(config.n_ctx, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer, dropout) for layer in range(config.n_layer))
        self.ln_f = Norm(config.n_embd, config.layer_norm_epsilon)
        self.lm_head = None if tied else nn.Linear(config.n_embd, config.n_vocab, bias=False)

    @property
    def head(self) -> torch.Tensor:
        """The matrix [V, E] that turns the last state into logits."""
        return self.wte.weight if self.lm_head is None else self.lm_head.weight

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the head meets: ids [B, T] -> [B, T, E], in the dtype of the arithmetic."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]  # [B, T, E]
        x = x.to(self.compute or x.dtype)
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        for block in self.h:
            if self.recompute and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.ln_f(x)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V] of ids [B, T]."""
        h = self.hidden(tokens)
        return F.linear(h, self.head.to(h.dtype))


def build(config: Config, params: Mapping[str, np.ndarray[Any, Any]], **options: Any) -> GPT2:
    """The module with these parameters, copied, in their dtype; options: those of `GPT2`.

    A head of its own among them makes it untied. Raises AssertionError for names or shapes that
    are not the configuration's: what comes from a file has been checked by `weights`.
    """
    with torch.device("meta"):
        model = GPT2(config, tied="lm_head.weight" not in params, **options)
    state = {name: torch.from_numpy(np.array(value)) for name, value in params.items()}
    wrong = model.load_state_dict(state, assign=True)
    assert not wrong.missing_keys and not wrong.unexpected_keys
    return model


def parameters(model: GPT2) -> dict[str, np.ndarray[Any, Any]]:
    """Name -> parameter as an array over the model's own memory (on a CPU)."""
    return {name: value.detach().cpu().numpy() for name, value in model.named_parameters()}


def compile_blocks(model: GPT2, batch: int, length: int) -> str | None:
    """Let torch compile each block, one graph for all; why it cannot, None where it can.

    batch, length: of the texts to come. A pass through one block tells, there and back; where it
    fails (no C++ compiler, say) the model is as it was.
    """
    config, weight = model.config, model.wte.weight
    x = torch.zeros(batch, length, config.n_embd, device=weight.device, requires_grad=True)
    for block in model.h:
        block.compile(dynamic=False)
    try:
        model.h[0](x.to(model.compute or weight.dtype)).sum().backward()
    except Exception as error:  # torch's compilers raise errors of every kind
        for block in model.h:
            block._compiled_call_impl = None
        return reason(error)
    finally:
        model.zero_grad(set_to_none=True)
    return None
