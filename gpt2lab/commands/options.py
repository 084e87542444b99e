"""What several verbs share: flags made from `Sampling`, choosing a model, reading text.

A default is defined once, in the dataclass; here it is only shown.
"""

from __future__ import annotations

import os
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gpt2lab.errors import InputError
from gpt2lab.files.atomic import write_whole
from gpt2lab.files.json_files import to_json
from gpt2lab.files.visible import visible
from gpt2lab.generation.sampling import WRITING, Sampling

if TYPE_CHECKING:
    from gpt2lab.lm import LM
    from gpt2lab.text.tokenizer import Allowed

#: What chooses the engine: keyword arguments of `engines.choose`.
ENGINE = ("engine", "dtype", "cache_dtype", "threads", "device")

F = TypeVar("F", bound=Callable[..., Any])

#: Settings that repeat: --stop A --stop B. The rest take one value.
_REPEATED = {
    "bad_words": str,
    "logit_bias": str,
    "stop": str,
    "stop_tokens": int,
    "prompts": str,
}
_SHORT = {"max_new_tokens": "-l", "temperature": "-t", "seed": "-s"}
_METAVAR = {
    "bad_words": "TEXT",
    "prompts": "TEXT",
    "logit_bias": "TOKEN=BIAS",
    "processors": "NAME,NAME",
    "early_stopping": "[true|false|never]",
}


def unescape(text: str) -> str:
    r"""\n, \t and \\ as a shell passes them, as the characters that they mean."""
    marks = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}
    out, rest = "", text
    while rest:
        out += marks.get(rest[:2], rest[0])
        rest = rest[2:] if rest[:2] in marks else rest[1:]
    return out


def _kind(annotation: Any) -> Any:
    """The click type of a field: int, float or text."""
    options = (
        typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    )
    return next((kind for kind in (float, int) if kind in options), str)


def _flags(name: str, kind: Any) -> list[str]:
    """How a field is spelt on the command line."""
    flag = f"--{name.replace('_', '-')}"
    if name == "n":
        return ["-n", "n"]
    if kind is bool:
        return [f"{flag}/--no-{flag[2:]}"]
    return [_SHORT[name], flag] if name in _SHORT else [flag]


def field_kinds(cls: Any) -> dict[str, Any]:
    """Name -> the kind of a field's value on the command line: int, float, bool or str."""
    hints = typing.get_type_hints(cls, include_extras=True)
    kinds = {name: typing.get_args(hint)[0] for name, hint in hints.items()}
    return {name: bool if kind is bool else _kind(kind) for name, kind in kinds.items()}


def dataclass_options(
    cls: Any, skip: tuple[str, ...] = (), defaults: Mapping[str, Any] | None = None
) -> Callable[[F], F]:
    """Flags for the fields of `Sampling` or `TrainConfig`; one that is not given is None or ().

    defaults: what is shown where it is not the field's own.
    """
    hints = typing.get_type_hints(cls, include_extras=True)

    def decorate(function: F) -> F:
        for item in reversed(fields(cls)):
            if item.name in skip:
                continue
            annotation, text = typing.get_args(hints[item.name])
            kind = bool if annotation is bool else _REPEATED.get(item.name, _kind(annotation))
            value = (defaults or {}).get(item.name, item.default)
            hidden = value in (MISSING, None, ()) or (kind is bool and not value)
            default = "" if hidden else f"  [{value}]"
            function = click.option(
                *_flags(item.name, kind),
                type=kind,
                default=None,
                multiple=item.name in _REPEATED,
                metavar=_METAVAR.get(item.name),
                help=text + default,
            )(function)
        return function

    return decorate


def sampling_options(skip: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Flags for the fields of `Sampling`."""
    return dataclass_options(Sampling, skip, WRITING)


def given_of(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's parameters that are fields of `cls` and were given."""
    known = {item.name for item in fields(cls)}
    return {k: v for k, v in values.items() if k in known and v is not None and v != ()}


def sampling_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, as keyword arguments of `Sampling`."""
    given = given_of(Sampling, values)
    if "stop" in given:
        given["stop"] = tuple(unescape(text) for text in given["stop"])
    if "logit_bias" in given:
        given["logit_bias"] = dict(_bias(text) for text in given["logit_bias"])
    if "processors" in given:
        given["processors"] = tuple(filter(None, given["processors"].split(",")))
    if "early_stopping" in given:
        words = {"true": True, "false": False}
        value = given["early_stopping"].lower()
        given["early_stopping"] = words.get(value, value)
    return given


def _bias(text: str) -> tuple[int | str, float]:
    token, sign, bias = text.rpartition("=")
    try:
        number = float(bias)
    except ValueError:
        sign = ""
    if not sign or not token:
        raise InputError(f"logit-bias {text!r} is not TOKEN=BIAS, as in 198=-5 or ' cat'=2")
    return (int(token) if token.isascii() and token.isdigit() else token), number


def model_options(function: F) -> F:
    """--model and what computes it; the latter arrives as keyword arguments of `load_model`."""
    for option in (
        click.option(
            "--device", metavar="NAME", help="Device of the torch engine: cpu, cuda or mps."
        ),
        click.option(
            "--threads",
            type=int,
            metavar="N",
            help="Threads of the cpu engine; one per core by default.",
        ),
        click.option(
            "--cache-dtype",
            metavar="DTYPE",
            help="Precision of the KV cache: float32, bfloat16 or int8.",
        ),
        click.option(
            "--dtype",
            metavar="DTYPE",
            help="Precision of the weights: float32 (exact), bfloat16, int8 or int4 (quantized, "
            "the smaller the faster); float64 with numpy or torch.",
        ),
        click.option(
            "--engine", metavar="NAME", help="Inference engine: cpu (the default), numpy or torch."
        ),
        click.option(
            "-m",
            "--model",
            metavar="MODEL",
            help="A checkpoint of any format, an official size (124M) or a name on the Hugging "
            "Face hub; the bundled model by default.",
        ),
    ):
        function = option(function)
    return function


def special_option(function: F) -> F:
    """--allow-special, which arrives as `allow_special`; see `allowed`."""
    return click.option(
        "--allow-special",
        is_flag=True,
        help="Encode the names of special tokens in the text as these tokens, not as plain text.",
    )(function)


def allowed(values: Mapping[str, Any]) -> Allowed:
    """What --allow-special says, as `allowed_special`."""
    return "all" if values["allow_special"] else ()


def engine_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's parameters that choose what computes."""
    return {name: values[name] for name in ENGINE if values.get(name) is not None}


def load_model(model: str | None, download: bool = True, **engine: Any) -> LM:
    """Load what --model names, and show what its files have to say. engine: `engine_options`."""
    from gpt2lab.lm import load

    lm = load(model, download=download, **engine)
    for note in lm.checkpoint.notes:
        click.echo(f"note: {note}", err=True)
    return lm


def read_text(source: str) -> str:
    """The text of a file, or of standard input for "-"; UTF-8, or an error that says where not."""
    if source == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed; give the text as an argument or by --file")
        data, name = sys.stdin.buffer.read(), "standard input"
    else:
        if Path(source).is_dir():
            raise InputError(f"{source} is a folder; give a text file")
        if Path(source).is_char_device() or Path(source).is_block_device():
            raise InputError(f"{source} is a device; give a text file, or - for standard input")
        data, name = Path(source).read_bytes(), source
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 text: byte {data[error.start]:#04x} at offset {error.start}; "
            "convert it to UTF-8 first"
        ) from None
    if "\0" in text:
        raise InputError(
            f"{name} is not text: a zero byte at offset {text.index(chr(0))}; give a text file"
        )
    return text


def given_text(text: str | None, file: str | None, what: str) -> str:
    """One text from an argument, a file, or standard input when it is no terminal.

    A file is taken as it is. From standard input one line end at the end is left out: `echo`'s.
    """
    if text is not None and file is not None:
        raise InputError(f"{what} is given twice, as an argument and by --file; give one")
    if text is None and file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise InputError(f"no {what}; give it as an argument, by --file, or on standard input")
    if text is None:
        text = read_text(file) if file else read_text("-").removesuffix("\n")
    if not text:
        raise InputError(f"the {what} is empty; give some text")
    return text


def token_ids(text: str) -> list[int]:
    """Ids as people write them: 1 2 3, or 1, 2, 3, or [1, 2, 3]."""
    words = text.translate(str.maketrans(",[]", "   ")).split()
    wrong = [word for word in words if not (word.isascii() and word.isdigit() and len(word) < 19)]
    if wrong or not words:
        raise InputError(f"{(wrong or [text])[0]!r} is no token id; ids are integers")
    return [int(word) for word in words]


def ask(prompt: str) -> str:
    """A line from a person. Where stdout is a file, the question, no result, goes to stderr."""
    if sys.stdin is None:
        raise EOFError
    if sys.stdin.isatty() and not sys.stdout.isatty():
        click.echo(prompt, err=True, nl=False)
        prompt = ""
    return input(prompt if sys.stdin.isatty() else "")


def printable(text: str, stream: Any = None) -> str:
    """Text that is safe to show: at a terminal, control characters become signs, not commands."""
    return visible(text) if (stream or sys.stdout).isatty() else text


def echo_json(value: Any) -> None:
    """A value as a line of JSON; where the console is not UTF-8, in ASCII, so nothing is lost."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    click.echo(to_json(value, ensure_ascii=encoding != "utf8"))


def check_target(path: str, force: bool) -> Path:
    """A file that may be written, or an error that says why not. Links lead to their file."""
    if not path:
        raise InputError("the name of the file to write is empty; give one")
    target = Path(os.path.realpath(path))
    if len(os.fsencode(target.name)) > 255:
        raise InputError(f"{path:.40}...: the name is longer than 255 bytes; choose a shorter one")
    if path.endswith(("/", os.sep)) or target.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")
    if os.path.lexists(target) and not target.is_file():
        raise InputError(f"{path} is not an ordinary file and is left as it is; choose another")
    if target.exists() and not force:
        raise InputError(f"{path} exists and is left as it is; choose another name or add --force")
    if not target.parent.is_dir():
        raise InputError(f"{path}: the folder {target.parent} does not exist; create it first")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{path}: the folder {target.parent} cannot be written; choose another")
    return target


def write_new(path: str, text: str, force: bool) -> None:
    """Write a file whole or not at all; one that exists stays, unless `force`."""
    write_whole(check_target(path, force), text)
