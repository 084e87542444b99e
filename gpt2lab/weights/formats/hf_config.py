"""config.json of transformers as a `Config`, and a `Config` as config.json.

Code that a folder may bring (`auto_map`) is never looked at.

Source: transformers 5.23 `configuration_gpt2.py`, whose defaults are those of `Config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2lab.config import Config
from gpt2lab.errors import InputError, quoted
from gpt2lab.files.json_files import read_json
from gpt2lab.weights import tensors

NAMES = {  # theirs -> ours; of two with one meaning the later counts
    "hidden_size": "n_embd",  # this and three more: attribute_map of GPT2Config
    "max_position_embeddings": "n_ctx",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "vocab_size": "n_vocab",
    "n_ctx": "n_ctx",
    "n_positions": "n_ctx",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
    "n_inner": "n_inner",
    "activation_function": "activation_function",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "scale_attn_weights": "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx": "scale_attn_by_inverse_layer_idx",
}
ACTIVATIONS = {  # further names of the same curves
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_python": "gelu",
}


def _refuse_foreign(values: dict[str, Any], where: Path) -> None:
    kind, made = values.get("model_type", "gpt2"), values.get("architectures")
    if kind != "gpt2":
        raise InputError(f"{where}: model_type is {quoted(kind)}; only gpt2 can be loaded")
    name = made[0] if isinstance(made, list) and made else "GPT2"
    if "model_type" not in values and not str(name).startswith("GPT2"):
        raise InputError(f"{where}: architectures is {quoted(made)}; only GPT-2 can be loaded")
    for key in ("add_cross_attention", "quantization_config", "quantization"):
        if values.get(key):
            raise InputError(f"{where}: {key} is set, which this GPT-2 does not compute")


def _tokens(values: dict[str, Any], folder: Path) -> tuple[list[int], Any]:
    """The tokens that end a text, and the one that begins it, as the files say.

    generation_config.json wins; a config.json that says nothing of an end means 50256, the default.
    """
    said, path = {"eos_token_id": 50256, **values}, folder / "generation_config.json"
    if path.is_file():
        said |= {key: value for key, value in read_json(path).items() if value is not None}
    end = said["eos_token_id"]
    ends = end if isinstance(end, list) else [] if end is None else [end]
    if not all(type(token) is int for token in ends):
        raise InputError(f"{folder}: eos_token_id is {quoted(ends)}, expected integers")
    return ends, said.get("bos_token_id")


def described(folder: Path) -> tuple[dict[str, Any], Config, tuple[str, ...]]:
    """The values of config.json, the configuration that they make, and notes."""
    where = folder / "config.json"
    values = read_json(where)
    _refuse_foreign(values, where)
    fields = {ours: values[theirs] for theirs, ours in NAMES.items() if theirs in values}
    curve = fields.get("activation_function")
    if isinstance(curve, str):
        fields["activation_function"] = ACTIVATIONS.get(curve, curve)
    n_vocab = tensors.configured(str(where), **fields).n_vocab
    ends, start = _tokens(values, folder)
    known = [token for token in ends if 0 <= token < n_vocab]
    if type(start) is not int or not 0 <= start < n_vocab or [start] == known[:1]:
        start = None
    config = tensors.configured(str(where), **fields, end_tokens=tuple(known), start_token=start)
    note = f"an end token of {quoted(ends)} is outside the vocabulary and is left out"
    return values, config, () if known == ends else (note,)


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
