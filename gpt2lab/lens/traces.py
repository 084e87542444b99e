"""A trace: the inner values of one reading, under their names.

It runs the reference with an `at` that keeps what was asked for. The values are those that were
computed anyway and nothing is copied, so a trace costs the memory of what it keeps. The weights are
the checkpoint's, whatever the engine that writes made of them (int8, say).

Shapes: B batch, T tokens of this call, L layers, E embedding, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from html import escape
from typing import Any, Protocol

import numpy as np

from gpt2lab import forks, reference
from gpt2lab.checks import check_ids
from gpt2lab.config import Config
from gpt2lab.engines.numpy_engine import NumpyEngine
from gpt2lab.errors import InputError
from gpt2lab.generation.generate import Piece, pieces
from gpt2lab.generation.request import Request
from gpt2lab.generation.sampler import log_softmax
from gpt2lab.lens import hook_names as naming
from gpt2lab.lens import interventions as acting
from gpt2lab.lens.interventions import Act
from gpt2lab.pages import fragments as view
from gpt2lab.text.tokenizer import Tokenizer

Array = np.ndarray[Any, np.dtype[Any]]
Names = Iterable[str] | str | None
Layers = Iterable[int] | int | None

MASKED = -1e9  # scores below this value were set by the mask


class TracedModel(Protocol):
    """What a look inside needs of a model object (`gpt2lab.LM` is one)."""

    config: Config
    params: dict[str, Array]
    tokenizer: Tokenizer | None
    engine: Any
    acts: tuple[Act, ...]

    def encode(self, prompt: Any) -> list[int]: ...


def exact(model: TracedModel) -> NumpyEngine:
    """The reference over a model's weights, in float64 where the model's engine is."""
    engine = model.engine
    if isinstance(engine, NumpyEngine):
        return engine
    return NumpyEngine(model.config, model.params)


class Trace(dict[str, Array]):
    """The inner values of one reading: `trace["h.3.attn.pattern"]` is an array [B, H, T, S].

    Also `trace["pattern", 3]`, and TransformerLens's `trace["blocks.3.attn.hook_pattern"]`; the
    keys are in the order of the forward pass. config, params, tokenizer: of the model. tokens: ids
    [B, T]. start: how many tokens are before them, in the cache. acts: what was changed.
    """

    def __init__(
        self,
        model: TracedModel,
        params: dict[str, Array],
        tokens: Array,
        values: dict[str, Array],
        start: int,
        acts: Sequence[Act],
    ) -> None:
        super().__init__(values)
        self.config, self.tokenizer, self.params = model.config, model.tokenizer, params
        self.tokens, self.start, self.acts = tokens, start, tuple(acts)

    def __getitem__(self, key: str | tuple[str, int]) -> Array:
        if isinstance(key, tuple) and len(key) == 2:
            key = naming.key_of(naming.of_a_layer(key[0]), naming.check_layer(self.config, key[1]))
        name, layer = naming.parse(key)
        if layer is not None:
            naming.check_layer(self.config, layer)
        found = naming.key_of(name, layer)
        if found not in self:
            raise InputError(
                f"{found} was not traced; trace with names={[name]!r} or without names for all"
            )
        return super().__getitem__(found)

    def stack(self, name: str) -> Array:
        """A value of all layers in one array: [L, B, ...]."""
        return np.stack([self[name, layer] for layer in range(self.config.n_layer)])

    def as_transformer_lens(self) -> dict[str, Array]:
        """The values under TransformerLens's hooks, what has heads of width D as [B, T, H, D]."""
        found = {}
        for key, value in self.items():
            name, hook = naming.parse(key)[0], naming.hook_of(key)
            if hook:
                found[hook] = np.swapaxes(value, 1, 2) if name in ("q", "k", "v", "z") else value
        return found

    def row(self, row: object) -> int:
        """Which of the texts is meant, as an int; InputError for another number."""
        return naming.in_range("text", row, len(self.tokens))

    @forks.cached_property
    def pieces(self) -> list[str]:
        """The first text's tokens as text; ids in brackets where there is no tokenizer."""
        return pieces_of(self.tokenizer, self.tokens[0].tolist())

    def __repr__(self) -> str:
        batch, length = self.tokens.shape
        size = sum(value.nbytes for value in self.values()) / 2**20
        return f"Trace({len(self)} values of {batch} x {length} tokens, {size:.1f} MiB)"

    def _repr_html_(self) -> str:
        """The values of one layer and of the ends, with shape, range and hook."""
        layers = sorted({layer for key in self if (layer := naming.parse(key)[1]) is not None})
        chosen = [key for key in self if naming.parse(key)[1] in (None, *layers[:1])]
        left_out = ""
        if len(layers) > 1:
            left_out = f"Of {len(layers)} layers, {layers[0]} to {layers[-1]}, layer {layers[0]} "
            left_out += "is shown."
        acts = "; ".join(act.about for act in self.acts)
        batch, length = self.tokens.shape
        head = "".join(view.label(name, "", "left") for name in _COLUMNS)
        return view.fragment(
            f"Trace of {batch} x {length} tokens: {len(self)} values",
            view.table([head, *(_row(key, self[key]) for key in chosen)]),
            view.notes(left_out, "Ranges exclude masked scores.", acts and f"Changed: {acts}."),
        )


_COLUMNS = ("name", "shape", "least", "mean", "largest", "what it is", "TransformerLens")


def _row(key: str, value: Array) -> str:
    """The row of one value in a trace's table."""
    real = value[value > MASKED]
    ends = [f"{f(real):.4g}" for f in (np.min, np.mean, np.max)] if real.size else ["-"] * 3
    name = naming.NAMES[naming.parse(key)[0]]
    return (
        view.label(escape(key), f"axes {name.shape}", "left")
        + view.label(f"{list(value.shape)}", f"axes {name.shape}", "left")
        + "".join(view.words(end, "right") for end in ends)
        + view.words(name.about)
        + view.label(escape(naming.hook_of(key) or "(its result)"), "", "left")
    )


def plain_fields(result: Any) -> dict[str, Any]:
    """The fields of a result as plain values, for JSON."""
    found = {field.name: getattr(result, field.name) for field in fields(result)}
    return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in found.items()}


def pieces_of(tokenizer: Tokenizer | None, ids: Sequence[int]) -> list[str]:
    """Each id as text; [id] where there is no tokenizer, or none for this id."""
    if tokenizer is None:
        return [f"[{token}]" for token in ids]
    known = tokenizer.n_vocab
    return [tokenizer.pieces([token])[0] if token < known else f"[{token}]" for token in ids]


def batch_of(model: TracedModel, texts: Any, what: str = "text") -> Array:
    """A text, ids, or a list of either of one length as ids [B, T] that fit the window."""
    config = model.config
    listed = naming.as_list(texts)
    flat = not isinstance(texts, str) and bool(listed) and not isinstance(listed[0], str | Iterable)
    rows = [model.encode(row) for row in ([listed] if flat else listed)]
    rows = [check_ids(row, config.n_vocab, what) for row in rows or [[]]]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise InputError(
            f"the texts have {', '.join(map(str, lengths))} tokens; those that are read at once "
            "must have one length, so read these one by one"
        )
    if lengths[0] > config.n_ctx:
        raise InputError(
            f"the {what} has {lengths[0]} tokens, the model sees {config.n_ctx}; shorten it"
        )
    return np.array(rows)  # [B, T]


def trace(
    model: TracedModel,
    texts: Any,
    names: Names = None,
    layers: Layers = None,
    acts: Iterable[Act] = (),
) -> Trace:
    """Read a text and keep its inner values.

    texts: a text, ids, or several of one length. names, layers: what to keep (`names.select`);
    None is everything. acts: what to change on the way (`lens.interventions`).
    """
    config, tokens = model.config, batch_of(model, texts)
    wanted = naming.select(config, names, layers)
    every = [*model.acts, *acting.checked(acts, config)]
    made = [act.within(tokens.shape[1]) for act in every]
    values: dict[str, Array] = {}
    at = acting.tap(made, 0, keeper(frozenset(wanted), values))
    params = exact(model).params
    quiet = np.errstate(divide="ignore", over="ignore", invalid="ignore")  # see numpy_engine
    with forks.whole(), quiet:
        reference.model(config, params, tokens, at=at)
    return Trace(model, params, tokens, values, 0, made)


def without_acts(model: TracedModel) -> TracedModel:
    """The same model without its acts."""
    plain = copy.copy(model)
    plain.acts = ()
    return plain


def probabilities(model: TracedModel, tokens: list[int]) -> Array:
    """What the model expects after each of the tokens [T]: probabilities [T, V]."""
    found: Array = np.exp(log_softmax(trace(model, [tokens], ["logits"])["logits"][0]))
    return found


def keeper(wanted: Collection[str], values: dict[str, Array]) -> reference.Tap:
    """An `at` that puts what is wanted into `values`."""

    def at(key: str, value: Array) -> Array:
        if key in wanted:
            values[key] = value
        return value

    return at


def watch(
    model: TracedModel,
    request: Request,
    names: Names = None,
    layers: Layers = None,
    acts: Iterable[Act] = (),
) -> Iterator[tuple[Piece, Trace]]:
    """Write, and give with each piece the trace of the step that it was drawn from.

    The first trace is of the whole prompt, each further one of one token after the cache
    (`trace.start` tokens): k and v are the new ones alone, scores and pattern go over all S.
    request: for one text without beams.
    """
    s = request.sampling
    if s.n != 1 or s.num_beams != 1:
        raise InputError(
            f"n is {s.n} and num_beams {s.num_beams}; one text at a time is watched, without beams"
        )
    config, start, length = model.config, 0, 0
    wanted = frozenset(naming.select(config, names, layers))
    made = [*model.acts, *acting.lasting(acting.checked(acts, config))]
    values: dict[str, Array] = {}

    def tap(before: int) -> reference.Tap:
        """The `at` of a step after `before` tokens; what it keeps takes the place of the last."""
        nonlocal values, start
        values, start = {}, before
        keep = keeper(wanted, values)

        def then(key: str, value: Array) -> Array:
            nonlocal length
            length = value.shape[1] if key == "embed" else length
            return keep(key, value)

        return acting.tap(made, before, then)

    base = exact(model)
    engine = NumpyEngine(config, base.params, base.dtype, tap=tap)
    tokens = list(request.prompt)
    for piece in pieces(engine, model.tokenizer, [request]):
        read = np.array([tokens[-length:]])  # [1, T]
        yield piece, Trace(model, engine.params, read, values, start, made)
        tokens.append(piece.token)
