"""config.json of transformers as a `Config`, and a `Config` as config.json.

Code that a folder may bring (`auto_map`) is never looked at.

Source: transformers 5.23 `configuration_gpt2.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2lab.config import Config
from gpt2lab.errors import InputError, quoted
from gpt2lab.files.json_files import read_json
from gpt2lab.weights import tensors

_ALIASES = {  # attribute_map of GPT2Config
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
_ACTIVATIONS = {  # names of the same curve
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
}


def _refuse_foreign(values: dict[str, Any], where: Path) -> None:
    kind = values.get("model_type", "gpt2")
    if kind != "gpt2":
        raise InputError(f"{where}: model_type is {quoted(kind)}; only gpt2 can be loaded")
    made = values.get("architectures")
    name = made[0] if isinstance(made, list) and made else "GPT2"
    if "model_type" not in values and not str(name).startswith("GPT2"):
        raise InputError(f"{where}: architectures is {quoted(made)}; only GPT-2 can be loaded")
    for key in ("add_cross_attention", "quantization_config", "quantization"):
        if values.get(key):
            raise InputError(f"{where}: {key} is set, which this GPT-2 does not compute")


def _activation(name: Any, where: Path) -> str:
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise InputError(
            f"{where}: activation_function {quoted(name)} is not computed; "
            f"known: {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _typed(
    values: dict[str, Any], key: str, kinds: tuple[type, ...], default: Any, where: Path
) -> Any:
    value = values.get(key, default)
    if type(value) not in kinds:
        raise InputError(f"{where}: {key} is {quoted(value)}, expected a {kinds[0].__name__}")
    return value


def _end_tokens(values: dict[str, Any], generation: dict[str, Any], where: Path) -> tuple[int, ...]:
    """generation_config.json wins; a config.json that says nothing means 50256, the default."""
    ids = generation.get("eos_token_id")
    if ids is None:
        ids = values.get("eos_token_id", 50256)
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(type(token) is int for token in ids):
        raise InputError(f"{where}: eos_token_id is {quoted(ids)}, expected integers")
    return tuple(ids)


def _start_token(values: dict[str, Any], generation: dict[str, Any], ends: list[int]) -> int | None:
    """bos_token_id, where it is a token of the model and another than the first end token."""
    token, vocab = generation.get("bos_token_id"), values.get("vocab_size", 50257)
    token = values.get("bos_token_id") if token is None else token
    fits = type(token) is int and type(vocab) is int and 0 <= token < vocab
    return token if fits and [token] != ends[:1] else None


def _config(values: dict[str, Any], ends: list[int], start: int | None, where: Path) -> Config:
    """config.json's values as ours; what it leaves out has the default of GPT2Config."""
    _refuse_foreign(values, where)
    values = {**{ours: values[key] for key, ours in _ALIASES.items() if key in values}, **values}
    activation = _activation(values.get("activation_function", "gelu_new"), where)
    vocab = values.get("vocab_size", 50257)
    inverse = "scale_attn_by_inverse_layer_idx"
    return tensors.configured(
        str(where),
        n_vocab=vocab,
        n_ctx=values.get("n_positions", values.get("n_ctx", 1024)),
        n_embd=values.get("n_embd", 768),
        n_head=values.get("n_head", 12),
        n_layer=values.get("n_layer", 12),
        n_inner=values.get("n_inner"),
        activation_function=activation,
        layer_norm_epsilon=_typed(values, "layer_norm_epsilon", (float, int), 1e-5, where),
        scale_attn_weights=_typed(values, "scale_attn_weights", (bool,), True, where),
        scale_attn_by_inverse_layer_idx=_typed(values, inverse, (bool,), False, where),
        end_tokens=tuple(ends),
        start_token=start,
    )


def described(folder: Path) -> tuple[dict[str, Any], Config, tuple[str, ...]]:
    """The values of config.json, the configuration that they make, and notes."""
    values = read_json(folder / "config.json")
    path = folder / "generation_config.json"
    generation = read_json(path) if path.is_file() else {}
    ends, vocab = _end_tokens(values, generation, folder), values.get("vocab_size", 50257)
    known = [token for token in ends if type(vocab) is int and 0 <= token < vocab]
    start = _start_token(values, generation, known)
    config = _config(values, known, start, folder / "config.json")
    if len(known) == len(ends):
        return values, config, ()
    note = f"an end token of {quoted(list(ends))} is outside the vocabulary and is left out"
    return values, config, (note,)


def configuration(folder: Path) -> Config:
    """The configuration of a model by its config.json alone, where no weights lie yet."""
    return described(folder)[1]


def written(config: Config, tied: bool) -> dict[str, Any]:
    """config.json as transformers 5 reads it; every switch is written, also those at rest."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.n_vocab,
        "n_positions": config.n_ctx,
        "n_ctx": config.n_ctx,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_layer": config.n_layer,
        "n_inner": config.n_inner,
        "activation_function": config.activation_function,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "scale_attn_weights": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": config.begin,
        "eos_token_id": config.end_tokens[0] if config.end_tokens else None,
        "tie_word_embeddings": tied,
        "use_cache": True,
        "dtype": "float32",
    }
