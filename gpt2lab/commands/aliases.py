"""The flags of openai/gpt-2's two sampling scripts and of gpt-2-simple, as ours.

`--top_k` and `--top-k` are the same everywhere, and `None` is "not given", as python-fire writes
it. Where a name or a value differs, one note says what it was taken for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpt2lab import aliases
from gpt2lab.aliases import Alias, Settings
from gpt2lab.errors import InputError

_FALSE = ("false", "0", "no", "none")


def _include_prefix(value: str, ours: Settings) -> Settings:
    return {} if value.lower() in _FALSE else {"--include-prompt": ""}


def _nsamples(value: str, ours: Settings) -> Settings:
    return {"--endless": ""} if value == "0" else {"-n": value}


def _nfiles(value: str, ours: Settings) -> Settings:
    if value not in ("1", "None"):
        raise InputError(f"--nfiles {value} is not taken; write one file at a time with --out")
    return {}


#: Their flag -> what it means here. A switch of ours has the value "".
TABLE: dict[str, Alias] = {
    "--length": Alias("--max-new-tokens"),
    "--max-tokens": Alias("--max-new-tokens"),
    "--prefix": Alias("--prompt"),
    "--sample-delim": Alias("--delimiter"),
    "--destination-path": Alias("--out"),
    "--num-return-sequences": Alias("-n"),
    "--nsamples": Alias(convert=_nsamples),
    "--include-prefix": Alias(convert=_include_prefix),
    "--nfiles": Alias(convert=_nfiles),
    "--multi-gpu": Alias(note="there is one engine"),
    "--return-as-list": Alias(note="--json gives a list"),
    "--folder": Alias(note="--out names a file"),
    "--sample-dir": Alias(note="--out names a file"),
}
_SWITCHES = ("--include-prefix", "--multi-gpu", "--return-as-list")
_OUR_SWITCHES = ("--include-prompt", "--endless")

#: The flags that together name a model: (folder, name) and what they are when one is left out.
RUN = ("--checkpoint-dir", "--run-name")  # gpt-2-simple: checkpoint/run1
BASE = ("--models-dir", "--model-name")  # both: models/124M
_SAME = {"--model-dir": "--models-dir"}  # gpt-2-simple's spelling


def translate(args: list[str], own: Mapping[str, bool]) -> list[str]:
    """Arguments as typed -> arguments of ours.

    own: our flags, and whether each takes a value; values are never taken for flags.
    """
    out: list[str] = []
    places: dict[str, str] = {}
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*out, *_model(places), word, *rest]
        name, sign, value = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        name = _SAME.get(name, name)
        if own.get(name):
            out += _with_value(name, value if sign else rest.pop(0) if rest else None)
        elif name in own or name not in (*TABLE, *RUN, *BASE):
            out.append(name + sign + value if name in own else word)
        else:
            value = value if sign else _next_value(name, rest)
            if name in (*RUN, *BASE):
                places[name] = value
            else:
                out += _ours(name, value)
    return out + _model(places)


def _with_value(name: str, value: str | None) -> list[str]:
    """One of our flags and its value; `None` is not given."""
    if value is None:
        return [name]
    if value == "None":
        return []
    return [f"{name}={value}"] if name.startswith("--") else [name, value]


def _next_value(name: str, rest: list[str]) -> str:
    """The word after a flag. A switch may stand alone, as python-fire allows."""
    if name in _SWITCHES:
        return rest.pop(0) if rest and rest[0].lower() in ("true", *_FALSE) else "true"
    if not rest:
        raise InputError(f"{name} needs a value")
    return rest.pop(0)


def _ours(name: str, value: str) -> list[str]:
    """One flag of theirs in our words; `None` is not given."""
    if value == "None" and not TABLE[name].note:
        return []
    words: list[str] = []
    for flag, meant in aliases.translate({name: value}, TABLE).items():
        words += [flag] if flag in _OUR_SWITCHES else [flag, meant]
    return words


def _model(places: dict[str, str]) -> list[str]:
    """--model for what their flags name: a run's folder, or a base model's."""
    given = {name: value for name, value in places.items() if value != "None"}
    if not given:
        return []
    if set(given) & set(RUN):
        path = Path(given.get(RUN[0], "checkpoint"), given.get(RUN[1], "run1"))
        model = str(path) if path.is_absolute() else f"./{path}"
    elif BASE[0] in given and Path(given[BASE[0]], given.get(BASE[1], "124M")).exists():
        model = str(Path(given[BASE[0]], given.get(BASE[1], "124M")))
    else:
        model = given.get(BASE[1], "124M")
    names = " and ".join(given)
    aliases.note(names, f"{names} {'is' if len(given) == 1 else 'are'} taken as --model {model}")
    return ["--model", model]
