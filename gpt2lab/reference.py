"""GPT-2 in NumPy, function by function in the order of the official model.py: the oracle.

Every function of openai/gpt-2 `src/model.py` stands here under its name, `shape_list` aside (NumPy
arrays know their shapes). TensorFlow's variable store becomes a dict of parameters under the names
of the checkpoints; everything follows the parameters' dtype, float32 or float64. It is written to
be read and to be right. Every test holds the other engines against it.

Shapes: B batch, T new tokens, P past tokens, S = P + T all tokens seen, H heads, D head width,
E embedding, F width of the MLP, L layers, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2lab.activations import gelu_exact, relu
from gpt2lab.config import Config

Array = np.ndarray[Any, np.dtype[Any]]
Params = dict[str, Array]
Tap = Callable[[str, Array], Array]


def untouched(name: str, value: Array) -> Array:
    """The plain `at`: every value passes as it is."""
    return value


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) / sum(exp(x)) along `axis`; the maximum is taken off first, so nothing overflows."""
    x = x - np.max(x, axis=axis, keepdims=True)
    ex = np.exp(x)
    return ex / np.sum(ex, axis=axis, keepdims=True)


def gelu(x: Array) -> Array:
    """GPT-2's GELU, the tanh form (Hendrycks & Gimpel 2016, section 2): "gelu_new" elsewhere."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_new": gelu,
    "gelu": gelu_exact,
    "relu": relu,
}


def norm(x: Array, g: Array, b: Array, *, axis: int = -1, epsilon: float = 1e-5) -> Array:
    """Normalise to mean 0 and standard deviation 1 along `axis`, then scale by g and add b."""
    u = np.mean(x, axis=axis, keepdims=True)
    s = np.mean(np.square(x - u), axis=axis, keepdims=True)
    x = (x - u) / np.sqrt(s + epsilon)
    return x * g + b


def split_states(x: Array, n: int) -> Array:
    """Reshape the last dimension of x into [n, x.shape[-1] / n]."""
    *start, m = x.shape
    return x.reshape(*start, n, m // n)  # [..., n, m / n]


def merge_states(x: Array) -> Array:
    """Smash the last two dimensions of x into one."""
    *start, a, b = x.shape
    return x.reshape(*start, a * b)  # [..., a * b]


def conv1d(x: Array, w: Array, b: Array) -> Array:
    """x @ w + b, with w [in, out]; a convolution of width 1 in the official code, hence its name.

    The official code flattens x to [B * T, in] first. Here the rows of a batch stay apart, so that
    the bits of a row never depend on how many others there are.
    """
    return x @ w + b  # [B, T, out]


def attention_mask(nd: int, ns: int, *, dtype: Any = np.float32) -> Array:
    """[nd, ns] of ones where a destination may look: the lower triangle, from the lower right.

    The nd destinations are the last of the ns sources, so destination i sees source j when
    j <= i + ns - nd.
    """
    i = np.arange(nd)[:, None]
    j = np.arange(ns)
    return (i >= j - ns + nd).astype(dtype)  # [nd, ns]


def attn(
    x: Array,
    params: Params,
    layer: int,
    n_state: int,
    *,
    past: Array | None,
    config: Config,
    at: Tap = untouched,
) -> tuple[Array, Array]:
    """Masked self-attention of x [B, T, E] over itself and `past` [B, 2, H, P, D] or None.

    Returns (output [B, T, n_state], present [B, 2, H, T, D]); present is the new keys and values.
    """

    def split_heads(x: Array) -> Array:
        """Give every head its own slice of the width, heads before tokens."""
        return np.swapaxes(split_states(x, config.n_head), 1, 2)  # [B, H, T, D]

    def merge_heads(x: Array) -> Array:
        """Lay the heads' results side by side again."""
        return merge_states(np.swapaxes(x, 1, 2))  # [B, T, E]

    def mask_attn_weights(w: Array) -> Array:
        """Put -1e10 where a token would look at a later one; softmax makes 0 of it."""
        nd, ns = w.shape[-2:]
        b = attention_mask(nd, ns, dtype=w.dtype)
        return w * b - w.dtype.type(1e10) * (1 - b)

    def multihead_attn(q: Array, k: Array, v: Array) -> Array:
        """Each token takes the values it looks at, weighted by how well query meets key."""
        w = q @ np.swapaxes(k, -1, -2)  # [B, H, T, S]
        w = at(f"{scope}.scores", mask_attn_weights(w * config.attention_scale(layer)))
        w = at(f"{scope}.pattern", softmax(w))
        return at(f"{scope}.z", w @ v)  # [B, H, T, D]

    scope = f"h.{layer}.attn"
    c = conv1d(x, params[f"{scope}.c_attn.weight"], params[f"{scope}.c_attn.bias"])  # [B, T, 3 E]
    q, k, v = map(split_heads, np.split(c, 3, axis=2))  # 3 x [B, H, T, D]
    q, k, v = at(f"{scope}.q", q), at(f"{scope}.k", k), at(f"{scope}.v", v)
    present = np.stack([k, v], axis=1)  # [B, 2, H, T, D]
    if past is not None:
        k = np.concatenate([past[:, 0], k], axis=-2)  # [B, H, S, D]
        v = np.concatenate([past[:, 1], v], axis=-2)  # [B, H, S, D]
    a = merge_heads(multihead_attn(q, k, v))  # [B, T, E]
    a = conv1d(a, params[f"{scope}.c_proj.weight"], params[f"{scope}.c_proj.bias"])
    return a, present


def mlp(
    x: Array, params: Params, layer: int, n_state: int, *, config: Config, at: Tap = untouched
) -> Array:
    """Out to width n_state, through the activation, and back: [B, T, E] -> [B, T, E]."""
    scope = f"h.{layer}.mlp"
    act = ACTIVATIONS[config.activation_function]
    h = conv1d(x, params[f"{scope}.c_fc.weight"], params[f"{scope}.c_fc.bias"])  # [B, T, F]
    h = at(f"h.{layer}.mlp_post", act(at(f"h.{layer}.mlp_pre", h)))
    return conv1d(h, params[f"{scope}.c_proj.weight"], params[f"{scope}.c_proj.bias"])  # [B, T, E]


def block(
    x: Array,
    params: Params,
    layer: int,
    *,
    past: Array | None,
    config: Config,
    at: Tap = untouched,
) -> tuple[Array, Array]:
    """One layer: attention and MLP, each normalised before and added to the residual stream.

    x [B, T, E], past [B, 2, H, P, D] or None -> (x [B, T, E], present [B, 2, H, T, D]).
    """
    nx, eps = x.shape[-1], config.layer_norm_epsilon
    scope = f"h.{layer}"
    x = at(f"{scope}.resid_pre", x)
    n = norm(x, params[f"{scope}.ln_1.weight"], params[f"{scope}.ln_1.bias"], epsilon=eps)
    n = at(f"{scope}.ln_1", n)
    a, present = attn(n, params, layer, nx, past=past, config=config, at=at)
    x = at(f"{scope}.resid_mid", x + at(f"{scope}.attn_out", a))
    n = norm(x, params[f"{scope}.ln_2.weight"], params[f"{scope}.ln_2.bias"], epsilon=eps)
    n = at(f"{scope}.ln_2", n)
    m = mlp(n, params, layer, config.mlp_width, config=config, at=at)
    return at(f"{scope}.resid_post", x + at(f"{scope}.mlp_out", m)), present


def past_shape(
    *, config: Config, batch_size: int | None = None, sequence: int | None = None
) -> list[int | None]:
    """[B, L, 2, H, P, D]: the shape of `past` and of `present`."""
    return [batch_size, config.n_layer, 2, config.n_head, sequence, config.head_width]


def expand_tile(value: Any, size: int) -> Array:
    """Add a new axis of the given size in front: [...] -> [size, ...]."""
    value = np.asarray(value)
    return np.tile(value[None], [size] + [1] * value.ndim)  # [size, ...]


def positions_for(tokens: Array, past_length: int) -> Array:
    """The position of each of the tokens [B, T] after `past_length` others: [B, T]."""
    batch_size, nsteps = tokens.shape
    return expand_tile(past_length + np.arange(nsteps), batch_size)  # [B, T]


def model(
    config: Config,
    params: Params,
    tokens: Any,
    past: Array | None = None,
    *,
    last: bool = False,
    at: Tap = untouched,
) -> dict[str, Array]:
    """The whole of GPT-2: tokens [B, T] after a past [B, L, 2, H, P, D] or none.

    Returns {"logits": [B, T, V], "present": [B, L, 2, H, T, D]} in the parameters' dtype. The next
    call's past is this past and this present joined along P. With `last`, the logits of the last
    token only, [B, 1, V]: the head is a third of the work of 124M and the rest is rarely wanted.
    Nothing is checked here: ids in the vocabulary and a place for each are the caller's to see to.
    """
    tokens, past_length = np.asarray(tokens), 0 if past is None else past.shape[-2]
    assert tokens.ndim == 2 and past_length + tokens.shape[1] <= config.n_ctx
    wpe, wte = params["wpe.weight"], params["wte.weight"]
    positions = positions_for(tokens, past_length)  # [B, T]
    h = at("embed", wte[tokens]) + at("pos_embed", wpe[positions])  # [B, T, E]

    presents = []
    for layer in range(config.n_layer):
        layer_past = None if past is None else past[:, layer]  # [B, 2, H, P, D]
        h, present = block(h, params, layer, past=layer_past, config=config, at=at)
        presents.append(present)

    h = norm(h, params["ln_f.weight"], params["ln_f.bias"], epsilon=config.layer_norm_epsilon)
    h = at("ln_f", h)
    if last:
        h = h[:, -1:]  # [B, 1, E]
    logits = at("logits", h @ params.get("lm_head.weight", wte).T)  # [B, T, V]
    return {"logits": logits, "present": np.stack(presents, axis=1)}  # [B, L, 2, H, T, D]
