"""GPT-2 as a torch module, for the torch engine, for training and for hooks.

The functions of `reference` are modules here, whose parameters have the names and the shapes of
the checkpoints, matrices [in, out]. Parameters may be float32 while the arithmetic runs in another
dtype: each is converted where it is used, so its gradient arrives in its own dtype again. That is
mixed precision without a second copy of the weights to keep in step.

Every inner value is the result of a submodule named by its key (`lens.hook_names`): a forward hook
on `model.get_submodule("h.3.attn.pattern")` sees that value, and what it returns replaces it. The
values are the reference's except for the masked scores, which are minus infinity here and -1e10
there.

Shapes: B batch, T tokens, R rows, H heads, D head width, E embedding, F width of the MLP,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, Self, cast

import numpy as np

from gpt2lab import forks
from gpt2lab.config import Config
from gpt2lab.errors import MissingExtraError
from gpt2lab.files.visible import reason

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.utils.checkpoint import checkpoint
except ModuleNotFoundError:
    raise MissingExtraError("the torch model", "torch", "train") from None

forks.tame(torch)

Tap = Callable[[str, torch.Tensor], torch.Tensor]

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


class Past(Protocol):
    """The keys and values of earlier tokens, as attention uses them (`rows.Rows`)."""

    def attend(self, layer: int, c: torch.Tensor, scale: float) -> torch.Tensor:
        """Store the new keys and values, and attend: c [B, T, 3, H, D] -> [B, T, E].

        c: queries, keys and values of the new tokens. scale: multiplies the scores.
        """


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


class Point(nn.Identity):
    """A place that one inner value passes as it is, for forward hooks to see or to replace it."""

    def train(self, mode: bool = True) -> Self:
        """Nothing: a point is the same in both, and the walk through all of them costs time."""
        return self


def hooks_of(points: Iterable[nn.Module]) -> tuple[Mapping[int, Any], ...]:
    """Where torch keeps the hooks of modules: each is empty as long as there is none.

    The containers stay the same for a module's life, so a look at whether one is filled is cheap.
    """
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return tuple(getattr(point, kind) for point in points for kind in kinds)


def untouched(name: str, value: torch.Tensor) -> torch.Tensor:
    """The plain `at`, as in the reference: every value passes as it is."""
    return value


def attend_written_out(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    dropout: float,
    at: Tap = untouched,
) -> torch.Tensor:
    """Causal attention of [B, H, T, D] as two batched products with a masked softmax in between."""

    def seen(name: str, w: torch.Tensor) -> torch.Tensor:
        if at is untouched:  # spares two views, there and back
            return w
        return at(name, w.view(B, H, T, T)).flatten(0, 1)  # [B H, T, T]

    B, H, T, D = q.shape
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))  # 3 x [B H, T, D]
    mask = torch.full((T, T), float("-inf"), dtype=q.dtype, device=q.device).triu(1)  # [T, T]
    w = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale)  # [B H, T, T]
    w = seen("attn.pattern", seen("attn.scores", w).softmax(-1))
    if dropout:
        w = F.dropout(w, dropout)
    return torch.bmm(w, v).view(B, H, T, D)


def attend_fused(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, dropout: float
) -> torch.Tensor:
    """The same through torch's one function, which on GPUs never makes the scores."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, dropout_p=dropout)


class Attention(nn.Module):
    """Masked self-attention, with the fused query, key and value matrix of the official code.

    A hook on `scores` or `pattern` has them written out wherever they otherwise are not made.
    `pattern` is seen before its dropout: its rows sum to 1. With a past there are no inner values.
    fused: go through torch's one function on a CPU too.
    """

    fused = False

    def __init__(self, config: Config, layer: int, dropout: float) -> None:
        super().__init__()
        E = config.n_embd
        self.c_attn = Conv1D(E, 3 * E)
        self.c_proj = Conv1D(E, E)
        self.q, self.k, self.v = Point(), Point(), Point()
        self.scores, self.pattern, self.z = Point(), Point(), Point()
        self._hooks_within = hooks_of((self.scores, self.pattern))
        self.n_head, self.layer = config.n_head, layer
        self.scale = config.attention_scale(layer)
        self.dropout = dropout

    def forward(
        self, x: torch.Tensor, at: Tap = untouched, past: Past | None = None
    ) -> torch.Tensor:
        c = self.c_attn(x).unflatten(-1, (3, self.n_head, -1))  # [B, T, 3, H, D]
        if past is not None:
            return self.c_proj(past.attend(self.layer, c, self.scale))  # [B, T, E]
        q, k, v = c.permute(2, 0, 3, 1, 4)  # 3 x [B, H, T, D]
        q, k, v = at("attn.q", q), at("attn.k", k), at("attn.v", v)
        settings = self.scale, self.dropout if self.training else 0.0
        if at is not untouched and any(self._hooks_within):
            a = attend_written_out(q, k, v, *settings, at)
        else:
            attend = attend_fused if x.is_cuda or self.fused else attend_written_out
            a = attend(q, k, v, *settings)
        a = at("attn.z", a)  # [B, H, T, D]
        return self.c_proj(a.transpose(1, 2).flatten(2))  # [B, T, E]


class MLP(nn.Module):
    """Out to width F, through the activation, and back."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.c_fc = Conv1D(config.n_embd, config.mlp_width)
        self.c_proj = Conv1D(config.mlp_width, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]

    def forward(self, x: torch.Tensor, at: Tap = untouched) -> torch.Tensor:
        x = at("mlp_post", self.activation(at("mlp_pre", self.c_fc(x))))  # [B, T, F]
        return self.c_proj(x)  # [B, T, E]


class Block(nn.Module):
    """One layer: attention and MLP, each normalised before and added to the residual stream.

    `attn_out` and `mlp_out` are seen after their dropout, as they are added.
    """

    def __init__(self, config: Config, layer: int, dropout: float) -> None:
        super().__init__()
        self.resid_pre, self.resid_mid, self.resid_post = Point(), Point(), Point()
        self.attn_out, self.mlp_out = Point(), Point()
        self.mlp_pre, self.mlp_post = Point(), Point()
        self.ln_1 = Norm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config, layer, dropout)
        self.ln_2 = Norm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)
        self.dropout = dropout
        inner = (m for m in self.modules() if isinstance(m, Point | Norm))
        self._hooks_within = hooks_of(inner)
        self.layer, self.n_head, self.scale = layer, config.n_head, config.attention_scale(layer)
        self.epsilon = config.layer_norm_epsilon
        self.activation = ACTIVATIONS[config.activation_function]

    @property
    def watched(self) -> bool:
        """Whether a hook waits for one of the inner values."""
        return any(self._hooks_within)

    def through(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """The `at` of a block that is watched: the value as it comes out of its point."""
        return self.get_submodule(name)(value)

    def drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout) if self.dropout and self.training else x

    def forward(
        self, x: torch.Tensor, at: Tap = untouched, past: Past | None = None
    ) -> torch.Tensor:
        x = at("resid_pre", x)
        a = self.drop(self.attn(self.ln_1(x), at=at, past=past))
        x = at("resid_mid", x + at("attn_out", a))
        m = self.drop(self.mlp(self.ln_2(x), at=at))
        return at("resid_post", x + at("mlp_out", m))  # [B, T, E]

    @forks.cached_property
    def _used(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Weight and bias of each part in order of use: on modules every look-up takes time."""
        attn, mlp = self.attn, self.mlp
        parts = (self.ln_1, attn.c_attn, attn.c_proj, self.ln_2, mlp.c_fc, mlp.c_proj)
        return [(part.weight, part.bias) for part in parts]

    def extend(self, x: torch.Tensor, past: Past) -> torch.Tensor:
        """`forward` of the rows [R, E] over a cache where nothing is watched, to the same bits.

        It calls no module: for a single token of a small model these calls took a quarter of the
        time. All parameters have the dtype of the rows, as the engine's have.
        """
        (g1, b1), (wa, ba), (wp, bp), (g2, b2), (wf, bf), (wm, bm) = self._used
        c = torch.addmm(ba, F.layer_norm(x, g1.shape, g1, b1, self.epsilon), wa)  # [R, 3 E]
        c = c.view(1, -1, 3, self.n_head, len(g1) // self.n_head)  # [1, R, 3, H, D]
        x = x + torch.addmm(bp, past.attend(self.layer, c, self.scale)[0], wp)  # [R, E]
        m = torch.addmm(bf, F.layer_norm(x, g2.shape, g2, b2, self.epsilon), wf)  # [R, F]
        return x + torch.addmm(bm, self.activation(m), wm)  # [R, E]


class GPT2(nn.Module):
    """The whole of GPT-2; the keys of its state dict are the names of the checkpoints.

    compute: the dtype of the arithmetic, by default that of the parameters. dropout: after the
    embeddings, on the attention weights and on what each half of a block adds. fused: attention
    by torch's one function on a CPU too. recompute: keep only the input of each block for the
    backward pass (gradient checkpointing). tied: without a head of its own, `lm_head.weight`
    [V, E]. The parameters are not set: see `with_parameters`.

    A block that is watched is neither compiled nor recomputed, so that a hook sees its value once
    a pass. `logits` is passed by `forward` alone: training makes its loss of what `hidden` gives.
    """

    def __init__(
        self,
        config: Config,
        *,
        compute: torch.dtype | None = None,
        dropout: float = 0.0,
        fused: bool = False,
        recompute: bool = False,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.config, self.compute = config, compute
        self.dropout, self.recompute = dropout, recompute
        self.embed, self.pos_embed, self.logits = Point(), Point(), Point()
        V, P, E = config.n_vocab, config.n_ctx, config.n_embd
        # with weights, as torch draws them on the meta device by a compiler that it imports for 2 s
        self.wte = nn.Embedding(V, E, _weight=torch.empty(V, E))
        self.wpe = nn.Embedding(P, E, _weight=torch.empty(P, E))
        self.h = nn.ModuleList(Block(config, layer, dropout) for layer in range(config.n_layer))
        for block in self.h:
            cast(Block, block).attn.fused = fused
        self.ln_f = Norm(config.n_embd, config.layer_norm_epsilon)
        self.lm_head = None if tied else nn.Linear(config.n_embd, config.n_vocab, bias=False)
        self._all_hooks = hooks_of(self.modules())

    @property
    def head(self) -> torch.Tensor:
        """The matrix [V, E] that turns the last state into logits."""
        return self.wte.weight if self.lm_head is None else self.lm_head.weight

    def hidden(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor | None = None,
        past: Past | None = None,
    ) -> torch.Tensor:
        """Return the input of the head: ids [B, T] -> [B, T, E], in the dtype of the arithmetic.

        positions: of the tokens [B, T]; None counts them from 0. past: the cache that attention
        reads and extends; None attends to these tokens alone.
        """
        if past is not None and positions is not None and not any(self._all_hooks):
            return self._extend(tokens[0], positions[0], past)[None]  # [1, R, E]
        x = self.embed(self.wte(tokens))  # [B, T, E]
        if positions is None:
            where = self.wpe.weight[: tokens.shape[1]].expand_as(x)  # [B, T, E]
        else:
            where = self.wpe(positions)  # [B, T, E]
        x = x + self.pos_embed(where)
        x = x.to(self.compute or x.dtype)
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        for block in self.h:
            if block.watched:
                x = block._call_impl(x, at=block.through, past=past)  # compiled code sees no hooks
            elif self.recompute and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            elif past is not None:
                x = block(x, past=past)
            else:
                x = block(x)
        return self.ln_f(x)

    def _extend(self, ids: torch.Tensor, positions: torch.Tensor, past: Past) -> torch.Tensor:
        """`hidden` of the rows [R] of an engine's step, without a call of a module: [R, E]."""
        x = self.wte.weight[ids] + self.wpe.weight[positions]  # [R, E]
        for block in self.h:
            x = cast(Block, block).extend(x, past)
        return F.layer_norm(x, x.shape[-1:], self.ln_f.weight, self.ln_f.bias, self.ln_f.epsilon)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V] of ids [B, T]."""
        h = self.hidden(tokens)
        return self.logits(F.linear(h, self.head.to(h.dtype)))


def with_parameters(config: Config, params: Mapping[str, torch.Tensor], **options: Any) -> GPT2:
    """Return the module over these tensors, which it shares; options: those of `GPT2`.

    A head of its own among them makes it untied. Raises AssertionError for names or shapes that
    are not the configuration's: what comes from a file has been checked by `weights`.
    """
    with torch.device("meta"):
        model = GPT2(config, tied="lm_head.weight" not in params, **options)
    wrong = model.load_state_dict(params, assign=True)
    assert not wrong.missing_keys and not wrong.unexpected_keys
    return model


def build(config: Config, params: Mapping[str, np.ndarray[Any, Any]], **options: Any) -> GPT2:
    """Return the module with a copy of these parameters, in their dtype; see `with_parameters`."""
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in params.items()}
    return with_parameters(config, tensors, **options)


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
