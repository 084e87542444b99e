"""Interventions: ablate, scale, patch and steer the inner values of a model.

An act is a plain value that says where and what. It changes nothing by itself: it is given to one
trace (`lm.trace(text, acts=[...])`) or to a model object beside the plain one (`lm.acting(...)`).
An act of no effect (factor 1, strength 0) hands every value on as it is, so the result is
bit-identical to the plain model's.

Positions count from the beginning of the window, those of cached tokens included, so an act means
the same place whether a text is read at once or token by token.

Shapes: B batch, T tokens of a call, H heads, E embedding, F width of the MLP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpt2lab.checks import number, one_of, whole
from gpt2lab.config import Config
from gpt2lab.engines.cpu.acting import LinearActs
from gpt2lab.errors import InputError, quoted
from gpt2lab.lens import hook_names
from gpt2lab.reference import Tap, untouched

Array = np.ndarray[Any, np.dtype[Any]]
Numbers = Iterable[int] | int | None

MOST = 1_000_000  # layers, units and positions
LARGEST = 1e30  # of factors and strengths; products with it are still finite in float32


@dataclass(frozen=True, eq=False)
class Act:
    """A change of one inner value.

    key: which (`lens.hook_names`). change: from the chosen part of the value, and the indices of
    the `positions` that it holds, to what replaces it; None changes nothing. about: what it does,
    in words that tell it from any other. units: heads where the value has heads [B, H, T, ...],
    else entries of its last axis; None is all. positions: from the window's beginning, None is all;
    below 0 from the end of a traced text. width: of the value, where the act depends on it. short:
    `title`, where there is a shorter one than `about`. factor, added: for an act that multiplies by
    a number, or adds a vector, and does no more.
    """

    key: str
    change: Callable[[Array, Array], Any] | None
    about: str
    units: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    width: int | None = None
    short: str = ""
    factor: float | None = None
    added: Array | None = None

    def __repr__(self) -> str:
        return f"<{self.about}>"

    @property
    def title(self) -> str:
        """What it does, for a headline: "head 5.1 silenced"."""
        return self.short or self.about

    def within(self, length: int) -> Act:
        """The same act for a text of `length` tokens: positions below 0 count from its end."""
        if self.positions is None:
            return self
        placed = tuple(p + length if p < 0 else p for p in self.positions)
        if min(placed) < 0 or max(placed) >= length or len(set(placed)) < len(placed):
            raise InputError(
                f"{self.about:.100}: positions {quoted(self.positions)} are outside of the text, "
                f"which has {length} tokens, or the same twice"
            )
        return replace(self, positions=placed)

    def __call__(self, value: Array, before: int) -> Array:
        """The value with the change made; `before` tokens come before it."""
        assert self.change is not None
        unit_axis, place_axis = hook_names.axes(self.key)
        places = rows = np.arange(value.shape[place_axis])
        if self.positions is not None:
            at = np.array(self.positions) - before
            rows = np.flatnonzero((at >= 0) & (at < value.shape[place_axis]))
            places = at[rows]
        if not len(places):
            return value
        units = np.arange(value.shape[unit_axis]) if self.units is None else np.array(self.units)
        index = hook_names.part(self.key, units, places)
        old, result = value[index], value.copy()  # [B, units, places, ...] or [B, places, units]
        result[index] = _fitted(self.change(old, rows), old, self.key)
        return result


def _fitted(new: Any, old: Array, key: str) -> Array:
    """`new` as it replaces `old`; axes of length 1 stretch."""
    new = np.asarray(new)
    if new.dtype.kind not in "fiub":
        raise InputError(f"what goes into {key} is {quoted(new)}; it must be an array of numbers")
    try:
        return np.broadcast_to(new, old.shape).astype(old.dtype)
    except ValueError:
        raise InputError(
            f"a patch of {key} has shape {list(new.shape)}, its place has {list(old.shape)}; give "
            "that shape, or axes of length 1"
        ) from None


# ---- What callers give, checked.


def _indices(what: str, given: Any, low: int = 0) -> tuple[int, ...] | None:
    """Different integers from `low` up as a tuple, one at least; None is all."""
    if given is None:
        return None
    found = tuple(whole(f"one of the {what}", one, low, MOST) for one in hook_names.as_list(given))
    if not found or len(set(found)) < len(found):
        raise InputError(
            f"{what}: {quoted(found)} is empty or holds a number twice; give different integers, "
            "or None for all"
        )
    return found


def _positions(given: Any) -> tuple[int, ...] | None:
    return _indices("positions", given, -MOST)


def _factor(what: str, value: Any) -> float:
    return float(number(what, value, -LARGEST, LARGEST))


def _key(name: str, layer: Any) -> str:
    return hook_names.key_of(name, whole("layer", layer, 0, MOST))


def _digest(array: Array) -> str:
    """What tells an array from any other."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def _listed(numbers: tuple[int, ...] | None) -> str:
    return "all" if numbers is None else ", ".join(map(str, numbers))


def _where(units: tuple[int, ...] | None, positions: tuple[int, ...] | None) -> str:
    return f"[{_listed(units)}] at positions {_listed(positions)}"


# ---- The acts.


def _scale(name: str, one: str, layer: int, units: Numbers, factor: float, positions: Any) -> Act:
    """Scale units, each called `one`, of a value of a layer."""
    key, chosen, places = _key(name, layer), _indices(f"{one}s", units), _positions(positions)
    factor = _factor("the factor", factor)

    def change(old: Array, rows: Array) -> Array:
        # A product with 0 would leave what is not finite, and the sign of zero.
        return np.zeros_like(old) if factor == 0 else old * old.dtype.type(factor)

    short = f"{one}s {_listed(chosen)} of layer {layer}"
    if chosen and len(chosen) == 1:
        short = f"{one} {layer}.{chosen[0]}"
    short += " silenced" if factor == 0 else f" times {factor:g}"
    short += "" if places is None else f" at positions {_listed(places)}"
    about = f"{key}{_where(chosen, places)} times {factor!r}"
    return Act(key, None if factor == 1 else change, about, chosen, places, None, short, factor)


def scale_heads(layer: int, heads: Numbers, factor: float, *, positions: Numbers = None) -> Act:
    """Scale what heads give (their z, before c_proj): 0 silences them, 1 is the plain model.

    layer: from 0. heads: numbers from 0, None is all of the layer. positions: of which tokens.
    """
    return _scale("z", "head", layer, heads, factor, positions)


def silence_heads(layer: int, heads: Numbers, *, positions: Numbers = None) -> Act:
    """`scale_heads` by 0: the heads add nothing to the stream (zero ablation)."""
    return scale_heads(layer, heads, 0, positions=positions)


def scale_neurons(layer: int, neurons: Numbers, factor: float, *, positions: Numbers = None) -> Act:
    """Scale neurons of a layer's MLP after the activation, as `scale_heads` does heads."""
    return _scale("mlp_post", "neuron", layer, neurons, factor, positions)


def silence_neurons(layer: int, neurons: Numbers, *, positions: Numbers = None) -> Act:
    """`scale_neurons` by 0."""
    return scale_neurons(layer, neurons, 0, positions=positions)


def patch(key: str, source: Any, *, units: Numbers = None, positions: Numbers = None) -> Act:
    """Put values in the place of the model's own: activation patching, or mean ablation.

    key: which value, ours or TransformerLens's name. source: a trace, whose value of that key
    is taken at the same heads and positions; or an array shaped like the part that it goes to,
    [B, units, positions, ...] for what has heads, else [B, positions, units], where axes of
    length 1 stretch. units: heads, or entries of the last axis; None is all. positions: None is
    those of the trace, or all of them for an array.
    """
    key = hook_names.key_of(*hook_names.parse(key))
    chosen, places = _indices("units", units), _positions(positions)
    if hasattr(source, "start") and hasattr(source, "tokens"):
        value, places = _taken(key, source, chosen, places)
    else:
        value = _array(key, source)
    _, place_axis = hook_names.axes(key)

    def change(old: Array, rows: Array) -> Array:
        every = places is None or value.shape[place_axis] == 1
        return value if every else np.take(value, rows, place_axis)

    about = f"{key}{_where(chosen, places)} set to {list(value.shape)} {_digest(value)}"
    return Act(key, change, about, chosen, places)


def _array(key: str, source: Any) -> Array:
    """An array to patch in, with as many axes as the value."""
    value, axes = np.asarray(source), len(hook_names.shape_of(key))
    if value.dtype.kind not in "fiu" or value.ndim > axes:
        raise InputError(
            f"the patch of {key} is {quoted(source)}; give a trace, or an array of numbers with at "
            f"most {axes} axes"
        )
    return value.reshape((1,) * (axes - value.ndim) + value.shape)


def _taken(
    key: str, trace: Any, units: tuple[int, ...] | None, positions: tuple[int, ...] | None
) -> tuple[Array, tuple[int, ...]]:
    """The part of a trace's value that is patched in, and at which positions."""
    value, start = trace[key], trace.start
    unit_axis, place_axis = hook_names.axes(key)
    end = start + value.shape[place_axis]
    if positions is None:
        positions = tuple(range(start, end))
    positions = tuple(p + end if p < 0 else p for p in positions)
    for position in positions:
        if not start <= position < end:
            raise InputError(
                f"position {position} is not in the trace that the patch comes from; it holds "
                f"{start} to {end - 1}"
            )
    limit = value.shape[unit_axis]
    chosen = [hook_names.in_range("unit", one, limit) for one in units or range(limit)]
    places = np.array(positions) - start
    return value[hook_names.part(key, np.array(chosen), places)], positions


def steer(
    layer: int,
    direction: Any,
    strength: float = 1.0,
    *,
    name: str = "resid_post",
    positions: Numbers = None,
) -> Act:
    """Add a direction [E] to the residual stream after a layer (activation addition).

    direction: as `direction` finds it. strength: what it is multiplied by; 0 is the plain model.
    name: another value of width E. positions: of which tokens, None is all.
    Turner et al. 2023, "Steering language models with activation engineering".
    """
    key = _key(one_of("name", name, hook_names.OF_THE_STREAM), layer)
    places, strength = _positions(positions), _factor("the strength", strength)
    vector = np.asarray(direction)
    if vector.ndim != 1 or vector.dtype.kind not in "fiu" or not np.isfinite(vector).all():
        raise InputError(
            f"the direction is {quoted(direction)} of shape {list(vector.shape)}; give one row of "
            "finite numbers, as wide as the model"
        )

    def change(old: Array, rows: Array) -> Array:
        return old + (strength * vector).astype(old.dtype)

    about = f"{key}{_where(None, places)} plus {strength!r} times {list(vector.shape)} "
    some = change if strength and vector.any() else None
    about, added = about + _digest(vector), strength * vector
    return Act(key, some, about, None, places, len(vector), added=added)


def custom(key: str, change: Callable[[Array], Array], about: str) -> Act:
    """Any change: a function from the whole value to another of its shape. about: its name."""
    if not callable(change):
        raise InputError(f"the change is {quoted(change)}; give a function of one array")
    name, layer = hook_names.parse(key)
    return Act(hook_names.key_of(name, layer), lambda old, rows: change(old), about)


# ---- Given to a model.


def checked(acts: Iterable[Act], config: Config) -> list[Act]:
    """The acts for a model, each unit in range, or an error that names what does not exist."""
    return [_checked(act, config) for act in hook_names.as_list(acts)]


def lasting(acts: Iterable[Act]) -> tuple[Act, ...]:
    """The acts of a model that generates; InputError for positions from a text's end."""
    made = tuple(acts)
    if any(position < 0 for act in made for position in act.positions or ()):
        raise InputError(
            "positions below 0 count from the end of a traced text, and a text that is being "
            "generated has no end yet; give positions from 0 up"
        )
    return made


_PLACE = {"resid_pre": 0, "attn_out": 1, "resid_mid": 1, "mlp_out": 2, "resid_post": 2}


def linear(acts: Sequence[Act], config: Config) -> LinearActs | None:
    """The acts as the cpu engine computes them; None where one of them is of another kind.

    These are: scaled heads and neurons, and directions added to the residual stream, everywhere.
    """
    found = LinearActs([act.about for act in acts], {}, {}, {})
    for act in acts:
        name, layer = hook_names.parse(act.key)
        if act.change is None:
            continue
        if layer is None or act.positions is not None:
            return None
        if act.factor is not None:
            _multiply(act.factor, act.units, name, layer, found, config)
        elif act.added is not None and name in _PLACE:
            place = 2 * layer + _PLACE[name]
            found.stream[place] = found.stream.get(place, 0) + act.added
        else:
            return None
    for vectors in (found.heads, found.neurons, found.stream):
        for key, vector in vectors.items():
            if np.abs(vector).max() > LARGEST:
                return None  # near the end of float32, sums and products depend on their order
            vectors[key] = vector.astype(np.float32)
    return found


def _multiply(
    factor: float,
    units: tuple[int, ...] | None,
    name: str,
    layer: int,
    found: LinearActs,
    config: Config,
) -> None:
    """Multiply the factors of some heads or neurons of a layer."""
    chosen = slice(None) if units is None else list(units)
    if name == "z":
        factors = found.heads.setdefault(layer, np.ones(config.n_embd))
        factors.reshape(config.n_head, -1)[chosen] *= factor  # [H, D]
    else:
        found.neurons.setdefault(layer, np.ones(config.mlp_width))[chosen] *= factor


def _checked(act: Any, config: Config) -> Act:
    if not isinstance(act, Act):
        raise InputError(f"{quoted(act)} is no act; make one, with lens.silence_heads, say")
    layer = hook_names.parse(act.key)[1]
    if layer is not None:
        hook_names.check_layer(config, layer)
    if act.width not in (None, config.n_embd):
        raise InputError(
            f"the direction has {act.width} entries, this model is {config.n_embd} wide; take one "
            "from this model"
        )
    unit_axis, _ = hook_names.axes(act.key)
    for unit in act.units or ():
        hook_names.check_unit(config, hook_names.shape_of(act.key)[unit_axis], unit)
    for position in act.positions or ():
        hook_names.in_range("position", position, config.n_ctx)
    return act


def tap(acts: Sequence[Act], before: int, then: Tap = untouched) -> Tap:
    """The `at` of one call of the reference: every act in its turn, then `then`."""
    working = [act for act in acts if act.change is not None]
    if not working:
        return then

    def at(key: str, value: Array) -> Array:
        for act in working:
            if act.key == key:
                value = act(value, before)
        return then(key, value)

    return at
