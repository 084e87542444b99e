"""The names of the inner values, and whose hook in TransformerLens each of them is.

A value's key says where it stands: `h.3.attn.pattern` is the pattern of layer 3. Its name,
`pattern`, is the key without the layer. A key of TransformerLens, `blocks.3.attn.hook_pattern`, is
understood wherever a key is asked for.

Shapes: B batch, T tokens of this call, S all tokens seen, H heads, D head width, E embedding, F
width of the MLP, V vocabulary.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from gpt2lab.config import Config
from gpt2lab.errors import InputError


class Name(NamedTuple):
    """One inner value: its key with {} for the layer, its shape, TransformerLens's hook, its sense.

    TransformerLens holds q, k, v and z as [B, T, H, D] where they are [B, H, T, D] here; its masked
    scores are minus infinity where the official code has -1e10.
    """

    key: str
    shape: str
    hook: str
    about: str


NAMES: dict[str, Name] = {
    "embed": Name("embed", "B T E", "hook_embed", "the rows of wte for the tokens"),
    "pos_embed": Name("pos_embed", "B T E", "hook_pos_embed", "the rows of wpe for the places"),
    "resid_pre": Name(
        "h.{}.resid_pre", "B T E", "blocks.{}.hook_resid_pre", "the residual stream as it comes in"
    ),
    "ln_1": Name(
        "h.{}.ln_1", "B T E", "blocks.{}.ln1.hook_normalized", "what attention reads: normalised"
    ),
    "q": Name("h.{}.attn.q", "B H T D", "blocks.{}.attn.hook_q", "queries: what a token looks for"),
    "k": Name("h.{}.attn.k", "B H T D", "blocks.{}.attn.hook_k", "keys: what a token is found by"),
    "v": Name("h.{}.attn.v", "B H T D", "blocks.{}.attn.hook_v", "values: what a token hands on"),
    "scores": Name(
        "h.{}.attn.scores",
        "B H T S",
        "blocks.{}.attn.hook_attn_scores",
        "query times key, scaled, later tokens masked",
    ),
    "pattern": Name(
        "h.{}.attn.pattern",
        "B H T S",
        "blocks.{}.attn.hook_pattern",
        "the scores' softmax: who looks where, each row sums to 1",
    ),
    "z": Name("h.{}.attn.z", "B H T D", "blocks.{}.attn.hook_z", "the values, mixed by pattern"),
    "attn_out": Name(
        "h.{}.attn_out", "B T E", "blocks.{}.hook_attn_out", "what attention adds to the stream"
    ),
    "resid_mid": Name(
        "h.{}.resid_mid", "B T E", "blocks.{}.hook_resid_mid", "the stream after attention"
    ),
    "ln_2": Name(
        "h.{}.ln_2", "B T E", "blocks.{}.ln2.hook_normalized", "what the MLP reads: normalised"
    ),
    "mlp_pre": Name(
        "h.{}.mlp_pre", "B T F", "blocks.{}.mlp.hook_pre", "the neurons before the activation"
    ),
    "mlp_post": Name(
        "h.{}.mlp_post", "B T F", "blocks.{}.mlp.hook_post", "the neurons after the activation"
    ),
    "mlp_out": Name(
        "h.{}.mlp_out", "B T E", "blocks.{}.hook_mlp_out", "what the MLP adds to the stream"
    ),
    "resid_post": Name(
        "h.{}.resid_post",
        "B T E",
        "blocks.{}.hook_resid_post",
        "the residual stream after the layer",
    ),
    "ln_f": Name("ln_f", "B T E", "ln_final.hook_normalized", "what the head reads: normalised"),
    "logits": Name("logits", "B T V", "", "the scores of the next token"),
}

ENDS = tuple(name for name, row in NAMES.items() if "{}" not in row.key)
OF_A_LAYER = tuple(name for name in NAMES if name not in ENDS)
OF_HEADS = ("q", "k", "v", "scores", "pattern", "z")

_FIRST = ("embed", "pos_embed")


def keys(config: Config) -> list[str]:
    """Every key of a model, in the order of the forward pass."""
    layers = [NAMES[name].key.format(i) for i in range(config.n_layer) for name in OF_A_LAYER]
    return [*_FIRST, *layers, *(name for name in ENDS if name not in _FIRST)]


def key_of(name: str, layer: int | None = None) -> str:
    """The key of a name: ("pattern", 3) -> "h.3.attn.pattern"."""
    return NAMES[name].key.format(layer)


def hook_of(key: str) -> str:
    """TransformerLens's name of a key, "" for the logits, which are its result."""
    name, layer = parse(key)
    return NAMES[name].hook.format(layer)


def of_hook(name: Any) -> Any:
    """Our name of a value that TransformerLens calls `name` ("hook_z", "ln1.hook_normalized")."""
    for own, row in NAMES.items():
        if isinstance(name, str) and name and f".{row.hook}".endswith(f".{name}"):
            return own
    return name


def parse(key: str) -> tuple[str, int | None]:
    """A key, ours or TransformerLens's, as (name, layer); InputError with the closest ones."""
    if not isinstance(key, str):
        raise unknown(key)
    if key in OF_A_LAYER:
        raise InputError(f"{key} is in every layer; name one, as {key_of(key, 0)}")
    for name, row in NAMES.items():
        for template in (row.key, row.hook, f"h.{{}}.{name}"):
            if template and "{}" not in template and key == template:
                return name, None
            start, there, end = template.partition("{}")
            middle = key[len(start) : len(key) - len(end)]
            fits = there and key.startswith(start) and key.endswith(end)
            if fits and middle.isascii() and middle.isdigit() and name in OF_A_LAYER:
                return name, int(middle)
    raise unknown(key)


def unknown(key: object) -> InputError:
    """The error for a name that there is none of."""
    layer = next((part for part in str(key).split(".") if part.isdigit()), "0")
    forms = [form.format(layer) for row in NAMES.values() for form in (row.key, row.hook) if form]
    near = difflib.get_close_matches(str(key), [*NAMES, *forms], n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(NAMES)}"
    return InputError(f"no inner value is named {key!r:.60}; {hint}")


def listed(what: str, given: object) -> list[Any]:
    """One thing or several as a list; InputError for what is neither."""
    if isinstance(given, str) or not hasattr(given, "__iter__"):
        return [given]
    try:
        return list(given)
    except TypeError:  # an array without axes has a way to go through it, which fails
        raise InputError(f"{what} are {given!r:.60}; give one, or a list of them") from None


def check_layer(config: Config, layer: object) -> int:
    """A layer of the model as an int, negative ones from the end; InputError out of range."""
    return in_range("layer", layer, config.n_layer)


def check_head(config: Config, head: object) -> int:
    """A head of the model, as `check_layer`."""
    return check_unit(config, "H", head)


def check_unit(config: Config, letter: str, unit: object) -> int:
    """An entry of the axis that a shape letter names, as `check_layer`."""
    what, count = {
        "H": ("head", config.n_head),
        "F": ("neuron", config.mlp_width),
        "E": ("entry", config.n_embd),
        "V": ("token", config.n_vocab),
    }[letter]
    return in_range(what, unit, count)


def in_range(what: str, value: object, count: int) -> int:
    """A whole number from 0 to count - 1, negative ones from the end; InputError for another."""
    try:
        number = value.__index__()  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        number = None
    if number is None or isinstance(value, bool) or not -count <= number < count:
        raise InputError(f"{what} {value!r:.60} is not there; they go from 0 to {count - 1}")
    return int(number) % count


def select(
    config: Config,
    names: Iterable[str] | str | None = None,
    layers: Iterable[int] | int | None = None,
) -> list[str]:
    """The keys that are meant, in the order of the forward pass.

    names: of values ("pattern"), keys ("h.3.attn.pattern"), hooks of TransformerLens, or either of
    the latter with wildcards ("h.*.attn.*"); None is all. layers: which layers, None is all; what
    stands outside of the layers is not chosen by them.
    """
    every = keys(config)
    if names is None:
        chosen = set(every)
    else:
        wanted = listed("names", names)
        chosen = {key for one in wanted for key in _meant(config, one, every)}
    if layers is not None:
        allowed = {check_layer(config, layer) for layer in listed("layers", layers)}
        chosen = {key for key in chosen if (at := parse(key)[1]) is None or at in allowed}
    return [key for key in every if key in chosen]


def _meant(config: Config, wanted: str, every: list[str]) -> list[str]:
    """The keys that one name, key, hook or wildcard means; at least one."""
    if not isinstance(wanted, str):
        raise unknown(wanted)
    if wanted in OF_A_LAYER:
        return [key_of(wanted, layer) for layer in range(config.n_layer)]
    if any(sign in wanted for sign in "*?["):
        found = [k for k in every if fnmatchcase(k, wanted) or fnmatchcase(hook_of(k), wanted)]
        if not found:
            raise unknown(wanted)
        return found
    name, layer = parse(wanted)
    return [key_of(name, None if layer is None else check_layer(config, layer))]
