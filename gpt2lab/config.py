"""The five numbers that make a GPT-2, the variants that change its result, the official sizes.

Names are those of the official `hparams.json`; the variants keep the names of the Hugging Face
`config.json`, where they come from. What a file says in other words is translated in `weights/`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from gpt2lab.checks import one_of, whole
from gpt2lab.errors import InputError, few, quoted

MOST = 2**31 - 1  # of each number; what formats and kernels count with
MOST_ENDS = 1000
ACTIVATIONS = ("gelu_new", "gelu", "relu")


@dataclass(frozen=True)
class Config:
    """The shape of one GPT-2. The defaults are the official 124M model.

    The five official numbers come first. The rest are variants found in checkpoints in the wild;
    each of them changes the logits. `end_tokens` are the ids that end a text; it may be empty.
    `start_token` is the id that a document begins after, where it is not the first end token.
    """

    n_vocab: int = 50257
    n_ctx: int = 1024
    n_embd: int = 768
    n_head: int = 12
    n_layer: int = 12
    n_inner: int | None = None  # width of the MLP; None means 4 * n_embd
    activation_function: str = "gelu_new"  # "gelu_new" is the tanh form, "gelu" the exact one
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True  # divide the scores by sqrt(head width)
    scale_attn_by_inverse_layer_idx: bool = False  # and by (layer index + 1)
    end_tokens: tuple[int, ...] = ()
    start_token: int | None = None

    def __post_init__(self) -> None:
        for name in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "n_inner"):
            value = getattr(self, name)
            if value is None and name == "n_inner":
                continue
            whole(f"config: {name}", value, 1, MOST)
        if self.n_embd % self.n_head:
            raise InputError(
                f"config: n_embd {self.n_embd} is not a multiple of n_head {self.n_head}; "
                "every head has the same width"
            )
        one_of("config: activation_function", self.activation_function, ACTIVATIONS)
        epsilon = self.layer_norm_epsilon
        if not isinstance(epsilon, float | int) or not 0 < epsilon < 1:
            raise InputError(
                f"config: layer_norm_epsilon is {quoted(epsilon)}, it must be above 0 and below 1"
            )
        for name in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx"):
            one_of(f"config: {name}", getattr(self, name), (True, False))
        if len(self.end_tokens) > MOST_ENDS:
            raise InputError(
                f"config: {len(self.end_tokens)} end tokens, at most {MOST_ENDS} are possible"
            )
        for token in (*self.end_tokens, *([] if self.start_token is None else [self.start_token])):
            if not isinstance(token, int) or not 0 <= token < self.n_vocab:
                raise InputError(
                    f"config: the end or start token {quoted(token)} is outside the vocabulary of "
                    f"{self.n_vocab}"
                )

    @property
    def begin(self) -> int | None:
        """The id that a document begins after, None where there is none."""
        if self.start_token is not None:
            return self.start_token
        return self.end_tokens[0] if self.end_tokens else None

    @property
    def head_width(self) -> int:
        """D, the width of one head."""
        return self.n_embd // self.n_head

    @property
    def mlp_width(self) -> int:
        """The width of the MLP's hidden layer."""
        return self.n_inner if self.n_inner is not None else 4 * self.n_embd

    def attention_scale(self, layer: int) -> float:
        """What the attention scores of a layer are multiplied by."""
        scale = 1 / math.sqrt(self.head_width) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """The inverse of `to_dict`. Unknown keys are an error that lists them."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"config: unknown keys {few(map(quoted, unknown))}")
        return cls(**{**values, "end_tokens": tuple(values.get("end_tokens", ()))})


def parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, in the order of the forward pass; matrices are [in, out].

    The head is tied to `wte`. A checkpoint with a head of its own adds `lm_head.weight` [V, E].
    """
    E, F = config.n_embd, config.mlp_width
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (config.n_vocab, E)}
    shapes["wpe.weight"] = (config.n_ctx, E)
    for layer in range(config.n_layer):
        for name, shape in (
            ("ln_1.weight", (E,)),
            ("ln_1.bias", (E,)),
            ("attn.c_attn.weight", (E, 3 * E)),
            ("attn.c_attn.bias", (3 * E,)),
            ("attn.c_proj.weight", (E, E)),
            ("attn.c_proj.bias", (E,)),
            ("ln_2.weight", (E,)),
            ("ln_2.bias", (E,)),
            ("mlp.c_fc.weight", (E, F)),
            ("mlp.c_fc.bias", (F,)),
            ("mlp.c_proj.weight", (F, E)),
            ("mlp.c_proj.bias", (E,)),
        ):
            shapes[f"h.{layer}.{name}"] = shape
    shapes["ln_f.weight"] = (E,)
    shapes["ln_f.bias"] = (E,)
    return shapes


SIZES: dict[str, Config] = {
    "124M": Config(end_tokens=(50256,)),
    "355M": Config(n_embd=1024, n_head=16, n_layer=24, end_tokens=(50256,)),
    "774M": Config(n_embd=1280, n_head=20, n_layer=36, end_tokens=(50256,)),
    "1558M": Config(n_embd=1600, n_head=25, n_layer=48, end_tokens=(50256,)),
}
