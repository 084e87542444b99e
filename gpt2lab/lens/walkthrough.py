"""Read the source with the numbers in it: the reference runs, and each of its lines is shown.

`walk` runs `reference.model` on a text under Python's trace function and notes, for every function
of the reference that is called, its own lines as they are installed, what went in, what each line
made, and what came out. Nothing about the functions is written down here, so it cannot be out of
date.

Shapes are those of the arrays that were met.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import numpy as np

from gpt2lab import activations, reference
from gpt2lab.errors import InputError
from gpt2lab.lens import interventions as acting
from gpt2lab.lens.traces import MASKED, Array, TracedModel, batch_of, exact

ROWS, COLUMNS = 12, 40  # of a picture


@dataclass(frozen=True)
class Seen:
    """One value: its name in the source, and what it is.

    parameter: the checkpoint's name of it, if it is one. shape, low, high: of an array (low and
    high leave masked scores out; masked says that there were some). times: how often the line made
    it; the last one is shown. picture: up to ROWS x COLUMNS numbers, each the one of largest size
    in its part of the array, NaN where all is masked; of an array of more than two axes it is the
    first text's, first head's. text: a value that is no array.
    """

    name: str
    parameter: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    low: float = 0.0
    high: float = 0.0
    masked: bool = False
    times: int = 1
    picture: tuple[tuple[float, ...], ...] = ()
    text: str = ""


@dataclass
class Line:
    """A line of the source, its number in the file, and the values that its statement made."""

    number: int
    text: str
    seen: list[Seen] = field(default_factory=list)


@dataclass
class Call:
    """One call of a function of the reference.

    name: of the function. scope: whose parameters it takes ("h.0.attn.c_attn"), or the layer it is
    in ("h.0"), or "". depth: how deep in other calls, 0 for `model`. about: the first sentence of
    its docstring. lines: its source without the docstring, with values. inputs, outputs: in order.
    """

    name: str
    scope: str
    depth: int
    layer: int | None
    about: str
    lines: list[Line]
    inputs: list[Seen]
    outputs: list[Seen] = field(default_factory=list)


def walk(model: TracedModel, text: Any) -> list[Call]:
    """Run the reference on a text and tell every call in its order.

    text: a text or ids that fit the window. Interventions attached to the model are applied. Raises
    InputError where Python has the reference without its source, or where a text does not fit.
    """
    tokens = batch_of(model, text)[:1]
    teller = _Teller(exact(model).params)
    with teller.listening(), np.errstate(all="ignore"):
        reference.model(model.config, teller.params, tokens, at=acting.tap(model.acts, 0))
    return teller.calls


def seen(name: str, value: Any, parameter: str = "") -> Seen:
    """A value as it is shown."""
    if not isinstance(value, np.ndarray):
        return Seen(name, text=repr(value))
    numbers = value if value.dtype.kind in "fiu" else value.astype(np.float64)
    real = numbers[numbers > MASKED] if numbers.size and numbers.dtype.kind == "f" else numbers
    low, high = (float(real.min()), float(real.max())) if real.size else (0.0, 0.0)
    return Seen(
        name,
        parameter,
        value.shape,
        value.dtype.name,
        low,
        high,
        real.size < numbers.size,
        picture=picture(numbers),
    )


def picture(value: Array) -> tuple[tuple[float, ...], ...]:
    """A small picture of an array: of each part the number of largest size; see `Seen`."""
    while value.ndim > 2:
        value = value[0]
    value = np.atleast_2d(value)
    if not value.size:
        return ()
    value = np.where(value > MASKED, value, np.nan)
    ends = _reduced(np.fmin, value), _reduced(np.fmax, value)
    sizes = np.abs(ends)
    larger = np.where(sizes[0] > sizes[1], *ends)
    return tuple(tuple(float(x) for x in row) for row in larger)


def _reduced(function: Any, value: Array) -> Array:
    """A matrix brought to ROWS x COLUMNS parts at most, each reduced to one number."""
    for axis, limit in ((0, ROWS), (1, COLUMNS)):
        size = value.shape[axis]
        count = min(size, limit)
        value = function.reduceat(value, np.arange(count) * size // count, axis=axis)
    return value


# ---- The source, parsed once.


class _Source:
    """A file of the reference and its functions: docstrings, and where statements end."""

    def __init__(self, file: str) -> None:
        self.text = linecache.getlines(file)
        if not self.text:
            raise InputError(
                f"the source of the reference is not installed ({file}); install the package "
                "with its .py files"
            )
        self.functions: dict[tuple[str, int], ast.FunctionDef] = {}
        self.statements: dict[int, ast.stmt] = {}  # those without a body, by each of their lines
        for node in ast.walk(ast.parse("".join(self.text))):
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name, node.lineno] = node
            elif isinstance(node, ast.stmt) and not hasattr(node, "body"):
                self.statements |= dict.fromkeys(_lines_of(node), node)

    def lines(self, node: ast.FunctionDef) -> list[Line]:
        """The lines of a function without its docstring."""
        found = list(_lines_of(node))
        if ast.get_docstring(node) is not None:
            end = _lines_of(node.body[0]).stop
            blank = not self.text[end - 1].strip()
            found = [n for n in found if not node.body[0].lineno <= n < end + blank]
        block = inspect.cleandoc("\n" + "".join(self.text[n - 1] for n in found)).split("\n")
        return [Line(n, text) for n, text in zip(found, block, strict=False)]

    def returned(self, line: int, value: Any) -> list[tuple[str, Any]]:
        """What a return statement gave, each thing with a name."""
        if isinstance(value, dict):
            return list(value.items())
        if not isinstance(value, tuple):
            return [("output", value)]
        node = self.statements.get(line)
        whole = node.value if isinstance(node, ast.Return) else None
        parts = whole.elts if isinstance(whole, ast.Tuple) else [None] * len(value)
        names = [part.id if isinstance(part, ast.Name) else "output" for part in parts]
        return list(zip(names, value, strict=False))


def _lines_of(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _about(node: ast.FunctionDef) -> str:
    """The first sentence of a function's docstring."""
    words = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return words.partition(". ")[0].removesuffix(".") + "." if words else ""


# ---- Python's trace function.

_SILENT = ("untouched",)  # calls that would show nothing
_LEFT_OUT = ("params", "config", "at", "b", "n_state")  # arguments that are shown elsewhere


class _Teller:
    """What Python's trace function calls: it notes calls, lines and returns of the reference."""

    def __init__(self, params: dict[str, Array]) -> None:
        files = [f.__code__.co_filename for f in (reference.model, activations.relu)]
        self.sources = {file: _Source(file) for file in files}
        self.params = params
        self.names = {id(array): name for name, array in params.items()}
        self.calls: list[Call] = []
        self.open: list[Call] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen while this lasts; a debugger or a coverage tool that listened before continues."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, event: str, arg: Any) -> Any:
        """A function begins: who it is and what it was given."""
        code, source = frame.f_code, self.sources.get(frame.f_code.co_filename)
        if source is None or code.co_name in _SILENT:
            return None
        node = source.functions.get((code.co_name, code.co_firstlineno))
        if node is None:  # a lambda, a comprehension
            return None
        given = dict(frame.f_locals)
        order = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        inputs = [(name, given[name]) for name in order if name not in _LEFT_OUT]
        layer = given.get("layer", self.open[-1].layer if self.open else None)
        told = [seen(n, v, self.names.get(id(v), "")) for n, v in inputs if v is not None]
        owner = next((one.parameter for one in told if one.parameter), "").removesuffix(".weight")
        scope, depth = owner or ("" if layer is None else f"h.{layer}"), len(self.open)
        lines = source.lines(node)
        call = Call(code.co_name, scope, depth, layer, _about(node), lines, told)
        self.calls.append(call)
        self.open.append(call)
        return self._listener(source, call, given)

    def _listener(self, source: _Source, call: Call, before: dict[str, Any]) -> Any:
        """The trace function of one call: after each line, which names have new values."""
        line = 0

        def listen(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal before, line
            if event in ("line", "return"):
                now = dict(frame.f_locals)
                _note(source, call, line, before, now)
                before, line = now, frame.f_lineno
            if event == "return":
                call.outputs += [seen(*one) for one in source.returned(line, arg)]
                self.open.pop()
            return listen

        return listen


def _note(
    source: _Source, call: Call, number: int, before: dict[str, Any], now: dict[str, Any]
) -> None:
    """Note at the end of the statement that ran what it made."""
    made = [
        seen(name, value)
        for name, value in now.items()
        if isinstance(value, np.ndarray) and before.get(name) is not value
    ]
    statement = source.statements.get(number)
    end = number if statement is None else _lines_of(statement).stop - 1
    for line in call.lines:
        if line.number == end and made:
            times = {one.name: one.times for one in line.seen}
            line.seen = [replace(one, times=times.get(one.name, 0) + 1) for one in made]
