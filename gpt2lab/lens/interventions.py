"""Acting on a model: silence, scale, patch and steer its inner values.

An act is a plain value that says where and what. It changes nothing by itself: it is given to one
trace (`lm.trace(text, acts=[...])`) or to a model object beside the plain one (`lm.acting(...)`),
and when that is gone nothing is left of it. An act of no effect (factor 1, strength 0) hands every
value on as it is, so the result is the plain model's to the bit.

Positions count from the beginning of the window, those of cached tokens included, so an act means
the same place whether a text is read at once or token by token.

Shapes: B batch, T tokens of a call, H heads, E embedding, F width of the MLP.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.lens import hook_names
from gpt2lab.reference import Tap, untouched

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Act:
    """A change of one inner value.

    key: which (`lens.hook_names`). change: from the chosen part of the value to what replaces it
    instead, of the same shape. about: what it does, in words that tell it from any other.
    units: heads where the value has heads [B, H, T, ...], else entries of its last axis; None is
    all. positions: from the window's beginning, None is all; below 0 from the end of a traced text.
    source: instead of `change`, one row for each of `positions`, [1 or B, units, positions, ...].
    width: how wide the value has to be, where the act depends on it. short: `title`, where there is
    a shorter one than `about`.
    """

    key: str
    change: Callable[[Array], Array] | None
    about: str
    units: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    source: Array | None = None
    width: int | None = None
    short: str = ""

    def __repr__(self) -> str:
        return f"<{self.about}>"

    @property
    def title(self) -> str:
        """What it does, for a headline: "head 5.1 silenced"."""
        return self.short or self.about

    def within(self, length: int) -> Act:
        """The same act for a text of `length` tokens: positions below 0 count from its end."""
        if not any(position < 0 for position in self.positions or ()):
            return self
        placed = tuple(p + length if p < 0 else p for p in self.positions or ())
        if min(placed) < 0 or len(set(placed)) < len(placed):
            raise InputError(
                f"{self.about:.100}: positions {list(self.positions or ())} of a text of {length} "
                "tokens are outside it or the same twice"
            )
        return replace(self, positions=placed)

    def __call__(self, value: Array, before: int) -> Array:
        """The value with the change made; `before` tokens come before it."""
        by_head = hook_names.parse(self.key)[0] in hook_names.OF_HEADS
        length = value.shape[2 if by_head else 1]
        places, rows = self._places(before, length)
        if not len(places):
            return value
        units = np.arange(value.shape[1 if by_head else -1])
        if self.units is not None:
            units = units[list(self.units)]
        first = np.arange(len(value))[:, None, None]
        if by_head:
            index = (first, units[None, :, None], places)  # -> [B, units, places, ...]
        else:
            index = (first, places[None, :, None], units)  # -> [B, places, units]
        old = value[index]
        new = self._new(old, rows, by_head)
        result = value.copy()
        result[index] = new
        return result

    def _places(self, before: int, length: int) -> tuple[Array, Array]:
        """Which of the `length` tokens are meant, and which entries of `positions` those are."""
        if self.positions is None:
            return np.arange(length), np.arange(length)
        at = np.array(self.positions, np.intp) - before
        rows = np.flatnonzero((at >= 0) & (at < length))
        return at[rows], rows

    def _new(self, old: Array, rows: Array, by_head: bool) -> Array:
        """What replaces the chosen part `old`."""
        if self.source is None:
            assert self.change is not None
            return _same_shape(self.change(old), old, self.key)
        chosen = self.source
        if self.positions is not None and chosen.shape[2 if by_head else 1] > 1:
            chosen = chosen[:, :, rows] if by_head else chosen[:, rows]
        return _same_shape(chosen, old, self.key)


def _same_shape(new: Any, old: Array, key: str) -> Array:
    """`new` as it replaces `old`; axes of length 1 stretch."""
    new = np.asarray(new)
    if new.dtype.kind not in "fiub":
        raise InputError(f"what goes into {key} is {new!r:.60}; it has to be an array of numbers")
    try:
        return np.broadcast_to(new, old.shape).astype(old.dtype)
    except ValueError:
        raise InputError(
            f"a patch of {key} has shape {list(new.shape)}, the place that it goes to has "
            f"{list(old.shape)}; give that shape, or axes of length 1"
        ) from None


def _indices(what: str, given: Any) -> tuple[int, ...] | None:
    """Whole numbers from 0 up as a tuple."""
    if given is None:
        return None
    listed = hook_names.listed(what, given)
    for number in listed:
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not whole or (number < 0 and what != "positions"):
            raise InputError(f"{what} hold {number!r:.60}; give integers >= 0")
    if not listed:
        raise InputError(f"{what} are none at all; give at least one, or leave them out for all")
    if len(set(listed)) != len(listed):
        raise InputError(f"{what} hold a number twice: {listed!r:.60}")
    return tuple(int(number) for number in listed)


def _number(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InputError(f"{what} is {value!r:.60}; it must be a number")
    try:
        number = float(value)
    except OverflowError:  # a whole number that no float reaches
        number = math.inf
    if not abs(number) < 1e30:
        raise InputError(f"{what} is {value!r:.60}; it must be finite, and smaller than 1e30")
    return number


def _layer(layer: Any) -> int:
    found = _indices("layers", layer)
    if found is None or len(found) != 1:
        raise InputError(f"the layer is {layer!r:.60}; give one integer >= 0")
    return found[0]


def _digest(array: Array) -> str:
    """What tells an array from any other."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def _listed(numbers: tuple[int, ...] | None) -> str:
    return "all" if numbers is None else ", ".join(map(str, numbers))


def _where(units: tuple[int, ...] | None, positions: tuple[int, ...] | None) -> str:
    return f"[{_listed(units)}] at positions {_listed(positions)}"


def _scale(
    key: str, what: str, units: Iterable[int] | int | None, factor: float, positions: Any
) -> Act:
    chosen, places = _indices(what, units), _indices("positions", positions)
    factor = _number("the factor", factor)
    about = f"{key}{_where(chosen, places)} times {factor!r}"

    def change(old: Array) -> Array:
        # A product with 0 would leave what is not finite, and the sign of zero.
        return np.zeros_like(old) if factor == 0 else old * old.dtype.type(factor)

    layer, one = hook_names.parse(key)[1], what.removesuffix("s")
    some = (
        f"{one} {layer}.{chosen[0]}"
        if chosen and len(chosen) == 1
        else (f"{what} {_listed(chosen)} of layer {layer}")
    )
    short = some + (" silenced" if factor == 0 else f" times {factor:g}")
    short += "" if places is None else f" at positions {_listed(places)}"
    return Act(key, None if factor == 1 else change, about, chosen, places, short=short)


def scale_heads(
    layer: int, heads: Iterable[int] | int | None, factor: float, *, positions: Any = None
) -> Act:
    """Scale what heads give (their z, before c_proj): 0 silences them, 1 is the plain model.

    layer: from 0. heads: numbers from 0, None is all of the layer. positions: of which tokens.
    """
    return _scale(hook_names.key_of("z", _layer(layer)), "heads", heads, factor, positions)


def silence_heads(layer: int, heads: Iterable[int] | int | None, *, positions: Any = None) -> Act:
    """`scale_heads` by 0: the heads add nothing to the stream (zero ablation)."""
    return scale_heads(layer, heads, 0, positions=positions)


def scale_neurons(
    layer: int, neurons: Iterable[int] | int | None, factor: float, *, positions: Any = None
) -> Act:
    """Scale neurons of a layer's MLP after the activation, as `scale_heads` does heads."""
    return _scale(
        hook_names.key_of("mlp_post", _layer(layer)), "neurons", neurons, factor, positions
    )


def silence_neurons(
    layer: int, neurons: Iterable[int] | int | None, *, positions: Any = None
) -> Act:
    """`scale_neurons` by 0."""
    return scale_neurons(layer, neurons, 0, positions=positions)


def patch(
    key: str,
    source: Any,
    *,
    units: Iterable[int] | int | None = None,
    positions: Iterable[int] | int | None = None,
) -> Act:
    """Put values in the place of the model's own: activation patching, or mean ablation.

    key: which value, ours or TransformerLens's name. source: a trace, whose value of that key
    is taken at the same heads and positions; or an array shaped like the part that it goes to,
    [B, units, positions, ...] for what has heads, else [B, positions, units], where axes of
    length 1 stretch. units: heads, or entries of the last axis; None is all. positions: None is
    those of the trace, or all of them for an array.
    """
    name, layer = hook_names.parse(key)
    key = hook_names.key_of(name, layer)
    chosen, places = _indices("units", units), _indices("positions", positions)
    if hasattr(source, "start") and hasattr(source, "tokens"):
        value, places = _taken(key, source, chosen, places)
    else:
        value = np.asarray(source)
        if value.dtype.kind not in "fiu":
            raise InputError(f"the patch of {key} is {source!r:.60}; give a trace or an array")
        axes = 4 if name in hook_names.OF_HEADS else 3
        value = value.reshape((1,) * (axes - value.ndim) + value.shape)
        if value.ndim != axes:
            raise InputError(f"the patch of {key} has {value.ndim} axes; the value has {axes}")
    digest = _digest(value)
    about = f"{key}{_where(chosen, places)} set to {list(value.shape)} {digest}"
    return Act(key, None, about, chosen, places, value)


def _taken(
    key: str, trace: Any, units: tuple[int, ...] | None, positions: tuple[int, ...] | None
) -> tuple[Array, tuple[int, ...]]:
    """The part of a trace's value that is patched in, and at which positions."""
    value = trace[key]
    by_head = hook_names.parse(key)[0] in hook_names.OF_HEADS
    length = value.shape[2 if by_head else 1]
    if positions is None:
        positions = tuple(range(trace.start, trace.start + length))
    positions = tuple(p + trace.start + length if p < 0 else p for p in positions)
    wrong = [p for p in positions if not trace.start <= p < trace.start + length]
    if wrong:
        raise InputError(
            f"position {wrong[0]} is not in the trace that the patch comes from; it holds "
            f"{trace.start} to {trace.start + length - 1}"
        )
    rows = [p - trace.start for p in positions]
    value = value[:, :, rows] if by_head else value[:, rows]
    if units is not None:
        limit = value.shape[1 if by_head else -1]
        if max(units) >= limit:
            raise InputError(f"unit {max(units)} of {key} is not there; they go to {limit - 1}")
        value = value[:, list(units)] if by_head else value[..., list(units)]
    return value, positions


def steer(
    layer: int,
    direction: Any,
    strength: float = 1.0,
    *,
    name: str = "resid_post",
    positions: Iterable[int] | int | None = None,
) -> Act:
    """Add a direction [E] to the residual stream after a layer (activation addition).

    direction: as `direction` finds it. strength: what it is multiplied by; 0 is the plain model.
    name: another value of width E. positions: of which tokens, None is all.
    Turner et al. 2023, "Steering language models with activation engineering".
    """
    wide = [n for n in hook_names.OF_A_LAYER if hook_names.NAMES[n].shape == "B T E"]
    if not isinstance(name, str) or name not in wide:
        raise InputError(f"no direction is added to {name!r}; choose one of {', '.join(wide)}")
    key, places = hook_names.key_of(name, _layer(layer)), _indices("positions", positions)
    strength, vector = _number("the strength", strength), np.asarray(direction)
    if vector.ndim != 1 or vector.dtype.kind not in "fiu" or not np.isfinite(vector).all():
        raise InputError(
            f"the direction is {type(direction).__name__} of shape {list(vector.shape)}; "
            "give one row of finite numbers, as wide as the model"
        )
    digest = _digest(vector)
    about = f"{key}{_where(None, places)} plus {strength!r} times {list(vector.shape)} {digest}"

    def change(old: Array) -> Array:
        return old + (strength * vector).astype(old.dtype)

    return Act(
        key, change if strength and vector.any() else None, about, None, places, width=len(vector)
    )


def custom(key: str, change: Callable[[Array], Array], about: str) -> Act:
    """Any change: a function from the whole value to another of its shape. about: its name."""
    if not callable(change):
        raise InputError(f"the change is {change!r:.60}; give a function of one array")
    name, layer = hook_names.parse(key)
    return Act(hook_names.key_of(name, layer), change, about)


# ---- Given to a model.


def checked(acts: Iterable[Act], config: Config) -> list[Act]:
    """The acts for a model, each unit in range, or an error that names what is not there."""
    return [_checked(act, config) for act in hook_names.listed("acts", acts)]


def lasting(acts: Iterable[Act]) -> tuple[Act, ...]:
    """The acts of a model that generates; InputError for positions from a text's end."""
    made = tuple(acts)
    if any(position < 0 for act in made for position in act.positions or ()):
        raise InputError(
            "positions below 0 count from the end of a traced text, and a text that is being "
            "generated has no end yet; give positions from 0 up"
        )
    return made


def _checked(act: Any, config: Config) -> Act:
    if not isinstance(act, Act):
        raise InputError(f"{act!r:.60} is no act; make one, with lens.silence_heads, say")
    name, layer = hook_names.parse(act.key)
    if layer is not None:
        hook_names.check_layer(config, layer)
    if act.width not in (None, config.n_embd):
        raise InputError(
            f"the direction has {act.width} entries, this model is {config.n_embd} wide; take one "
            "from this model"
        )
    letter = hook_names.NAMES[name].shape.split()[1 if name in hook_names.OF_HEADS else -1]
    for unit in act.units or ():
        hook_names.check_unit(config, letter, unit)
    for position in act.positions or ():
        if not -config.n_ctx <= position < config.n_ctx:
            raise InputError(
                f"position {position} is not there; this model's go from 0 to {config.n_ctx - 1}"
            )
    return act


def tap(acts: Sequence[Act], before: int, then: Tap = untouched) -> Tap:
    """The `at` of one call of the reference: every act in its turn, then `then`."""
    by_key = _by_key(acts)
    if not by_key:
        return then

    def at(key: str, value: Array) -> Array:
        for act in by_key.get(key, ()):
            value = act(value, before)
        return then(key, value)

    return at


def _by_key(acts: Sequence[Act]) -> dict[str, list[Act]]:
    """The acts that change anything, by the key of what they change."""
    found: dict[str, list[Act]] = {}
    for act in acts:
        if act.change is not None or act.source is not None:
            found.setdefault(act.key, []).append(act)
    return found
