"""The names of the inner values, and whose hook in TransformerLens each of them is.

A value's key is its name with its place in front: `h.3.attn.pattern` is the pattern of layer 3. A
key of TransformerLens, `blocks.3.attn.hook_pattern`, is understood wherever a key is expected.

Shapes: B batch, T tokens of this call, S all tokens seen, H heads, D head width, E embedding, F
width of the MLP, V vocabulary.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from gpt2lab.checks import is_whole
from gpt2lab.config import Config
from gpt2lab.errors import InputError, quoted

Array = np.ndarray[Any, np.dtype[Any]]


class Name(NamedTuple):
    """One inner value: its key with {} for the layer, its shape, TransformerLens's hook, its sense.

    TransformerLens holds q, k, v and z as [B, T, H, D] where they are [B, H, T, D] here; its masked
    scores are minus infinity where the official code has -1e10.
    """

    key: str
    shape: str
    hook: str
    about: str


ENDS = ("embed", "pos_embed", "ln_f", "logits")
OF_HEADS = ("q", "k", "v", "scores", "pattern", "z")

_ROWS = {
    "embed": ("B T E", "hook_embed", "the rows of wte for the tokens"),
    "pos_embed": ("B T E", "hook_pos_embed", "the rows of wpe for the places"),
    "resid_pre": ("B T E", "hook_resid_pre", "the residual stream as it comes in"),
    "ln_1": ("B T E", "ln1.hook_normalized", "what attention reads: normalised"),
    "q": ("B H T D", "attn.hook_q", "queries: what a token looks for"),
    "k": ("B H T D", "attn.hook_k", "keys: what a token is found by"),
    "v": ("B H T D", "attn.hook_v", "values: what a token hands on"),
    "scores": (
        "B H T S",
        "attn.hook_attn_scores",
        "query times key, scaled, later tokens masked",
    ),
    "pattern": (
        "B H T S",
        "attn.hook_pattern",
        "the scores' softmax: who looks where, each row sums to 1",
    ),
    "z": ("B H T D", "attn.hook_z", "the values, mixed by pattern"),
    "attn_out": ("B T E", "hook_attn_out", "what attention adds to the stream"),
    "resid_mid": ("B T E", "hook_resid_mid", "the stream after attention"),
    "ln_2": ("B T E", "ln2.hook_normalized", "what the MLP reads: normalised"),
    "mlp_pre": ("B T F", "mlp.hook_pre", "the neurons before the activation"),
    "mlp_post": ("B T F", "mlp.hook_post", "the neurons after the activation"),
    "mlp_out": ("B T E", "hook_mlp_out", "what the MLP adds to the stream"),
    "resid_post": ("B T E", "hook_resid_post", "the residual stream after the layer"),
    "ln_f": ("B T E", "ln_final.hook_normalized", "what the head reads: normalised"),
    "logits": ("B T V", "", "the scores of the next token"),
}


def _named(name: str, shape: str, hook: str, about: str) -> Name:
    if name in ENDS:
        return Name(name, shape, hook, about)
    key = f"h.{{}}.attn.{name}" if name in OF_HEADS else f"h.{{}}.{name}"
    return Name(key, shape, f"blocks.{{}}.{hook}", about)


NAMES: dict[str, Name] = {name: _named(name, *row) for name, row in _ROWS.items()}
OF_A_LAYER = tuple(name for name in NAMES if name not in ENDS)
OF_THE_STREAM = tuple(name for name in OF_A_LAYER if NAMES[name].shape == "B T E")

_FORMS = {form: name for name, row in NAMES.items() for form in (row.key, row.hook) if form}
_FORMS |= {f"h.{{}}.{name}": name for name in OF_A_LAYER}
_LAYER = re.compile(r"(?<=\.)[0-9]{1,9}(?=\.)")


def keys(config: Config) -> list[str]:
    """Every key of a model, in the order of the forward pass."""
    layers = [key_of(name, i) for i in range(config.n_layer) for name in OF_A_LAYER]
    return [*ENDS[:2], *layers, *ENDS[2:]]


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


def parse(key: Any) -> tuple[str, int | None]:
    """A key, ours or TransformerLens's, as (name, layer); InputError with the closest ones."""
    if not isinstance(key, str):
        raise unknown(key)
    if key in OF_A_LAYER:
        raise InputError(f"{key} is in every layer; name one, as {key_of(key, 0)}")
    place = _LAYER.search(key)
    form = key if place is None else f"{key[: place.start()]}{{}}{key[place.end() :]}"
    name = _FORMS.get(form)
    if name is None or (name in ENDS) != (place is None):
        raise unknown(key)
    return name, None if place is None else int(place[0])


def shape_of(key: str) -> list[str]:
    """The letters of a value's axes."""
    return NAMES[parse(key)[0]].shape.split()


def axes(key: str) -> tuple[int, int]:
    """Which axis holds the units (heads, else entries of the last axis), and which the tokens."""
    return (1, 2) if shape_of(key)[1] == "H" else (2, 1)


def part(key: str, units: Array, places: Array) -> tuple[Any, ...]:
    """The index of some units at some tokens: [B, units, places, ...] or [B, places, units]."""
    return (slice(None), *(np.ix_(units, places) if axes(key) == (1, 2) else np.ix_(places, units)))


def unknown(key: object) -> InputError:
    """The error for a name that does not exist."""
    layer = next((part for part in str(key).split(".") if part.isdigit()), "0")
    forms = [form.format(layer) for form in _FORMS]
    near = difflib.get_close_matches(str(key), [*NAMES, *forms], n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(NAMES)}"
    return InputError(f"no inner value is named {quoted(key)}; {hint}")


def as_list(given: Any) -> list[Any]:
    """One thing or several as a list."""
    return [given] if isinstance(given, str) or not np.iterable(given) else list(given)


def of_a_layer(name: Any) -> str:
    """A name of the values of every layer; InputError for another."""
    if not isinstance(name, str) or name not in OF_A_LAYER:
        raise unknown(name)
    return name


def in_range(what: str, value: Any, count: int) -> int:
    """An integer from 0 to count - 1, negative ones from the end; InputError for another."""
    if not is_whole(value) or not -count <= value < count:
        raise InputError(f"{what} {quoted(value)} does not exist; they go from 0 to {count - 1}")
    return int(value) % count


def check_unit(config: Config, letter: str, unit: object) -> int:
    """An entry of the axis that a shape letter names, as `in_range`."""
    what, count = {
        "H": ("head", config.n_head),
        "F": ("neuron", config.mlp_width),
        "E": ("entry", config.n_embd),
        "V": ("token", config.n_vocab),
    }[letter]
    return in_range(what, unit, count)


def check_layer(config: Config, layer: object) -> int:
    """A layer of the model as an int, negative ones from the end; InputError out of range."""
    return in_range("layer", layer, config.n_layer)


def select(
    config: Config,
    names: Iterable[str] | str | None = None,
    layers: Iterable[int] | int | None = None,
) -> list[str]:
    """The keys that are meant, in the order of the forward pass.

    names: of values ("pattern"), keys ("h.3.attn.pattern"), hooks of TransformerLens, or either of
    the latter with wildcards ("h.*.attn.*"); None is all. layers: which layers, None is all; values
    outside of the layers are not restricted by them.
    """
    every = keys(config)
    chosen = set(every)
    if names is not None:
        chosen = {key for one in as_list(names) for key in _meant(config, one, every)}
    if layers is not None:
        allowed = {None, *(check_layer(config, layer) for layer in as_list(layers))}
        chosen = {key for key in chosen if parse(key)[1] in allowed}
    return [key for key in every if key in chosen]


def _meant(config: Config, wanted: Any, every: list[str]) -> list[str]:
    """The keys that one name, key, hook or wildcard means; at least one."""
    if isinstance(wanted, str) and wanted in OF_A_LAYER:
        return [key_of(wanted, layer) for layer in range(config.n_layer)]
    if isinstance(wanted, str) and any(sign in wanted for sign in "*?["):
        found = [k for k in every if fnmatchcase(k, wanted) or fnmatchcase(hook_of(k), wanted)]
        if not found:
            raise unknown(wanted)
        return found
    name, layer = parse(wanted)
    return [key_of(name, None if layer is None else check_layer(config, layer))]
