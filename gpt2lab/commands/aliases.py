"""The flags of openai/gpt-2's two sampling scripts and of gpt-2-simple, as ours.

`--top_k` and `--top-k` are the same everywhere, and `None` is "not given", as python-fire writes
it. Where a name or a value differs, one note says what it was taken for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpt2lab.errors import InputError

#: Their name -> our flag, for values that mean the same.
RENAMED = {
    "--length": "--max-new-tokens",
    "--nsamples": "-n",
    "--prefix": "--prompt",
    "--sample-delim": "--delimiter",
    "--destination-path": "--out",
    "--num-return-sequences": "-n",
    "--max-tokens": "--max-new-tokens",
}
#: Flags of theirs that change nothing here, and why.
NEEDLESS = {
    "--multi-gpu": "there is one engine",
    "--return-as-list": "--json gives a list",
    "--nfiles": "--out names a file",
    "--folder": "--out names a file",
    "--sample-dir": "--out names a file",
}
SWITCHES = {"--include-prefix": "--include-prompt"}
#: The flags that together name a model: (folder, name) and what they are when one is left out.
RUN = ("--checkpoint-dir", "--run-name")  # gpt-2-simple: checkpoint/run1
BASE = ("--models-dir", "--model-name")  # both: models/124M
_SAME = {"--model-dir": "--models-dir"}  # gpt-2-simple's spelling
_FALSE = ("false", "0", "no", "none")


def translate(args: list[str], own: Mapping[str, bool]) -> tuple[list[str], list[str]]:
    """Arguments as typed -> (arguments of ours, notes).

    own: our flags, and whether each takes a value; values are never taken for flags.
    """
    out: list[str] = []
    notes: list[str] = []
    places: dict[str, str] = {}
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*out, *_model(places, notes), word, *rest], notes
        name, sign, value = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        name = _SAME.get(name, name)
        if own.get(name):
            out += _with_value(name, value if sign else rest.pop(0) if rest else None)
        elif name in own or name not in (*RENAMED, *NEEDLESS, *SWITCHES, *RUN, *BASE):
            out.append(name + sign + value if name in own else word)
        else:
            value = value if sign else _next_value(name, rest)
            if name in (*RUN, *BASE):
                places[name] = value
            else:
                out += _ours(name, value, notes)
    return out + _model(places, notes), notes


def _with_value(name: str, value: str | None) -> list[str]:
    """One of our flags and its value; `None` is not given."""
    if value is None:
        return [name]
    if value == "None":
        return []
    return [f"{name}={value}"] if name.startswith("--") else [name, value]


def _next_value(name: str, rest: list[str]) -> str:
    """The word after a flag. A switch may stand alone, as python-fire allows."""
    if name in SWITCHES or name in ("--multi-gpu", "--return-as-list"):
        return rest.pop(0) if rest and rest[0].lower() in ("true", *_FALSE) else "true"
    if not rest:
        raise InputError(f"{name} needs a value")
    return rest.pop(0)


def _ours(name: str, value: str, notes: list[str]) -> list[str]:
    """One flag of theirs in our words."""
    if name == "--nfiles" and value not in ("1", "None"):
        raise InputError(f"--nfiles {value} is not taken; write one file at a time with --out")
    if name in NEEDLESS:
        notes.append(f"{name} is not needed: {NEEDLESS[name]}")
        return []
    if name in SWITCHES:
        notes.append(f"{name} is taken as {SWITCHES[name]}")
        return [] if value.lower() in _FALSE else [SWITCHES[name]]
    if value == "None":
        return []
    if name == "--nsamples" and value == "0":
        notes.append("--nsamples 0 is taken as --endless")
        return ["--endless"]
    notes.append(f"{name} is taken as {RENAMED[name]}")
    return [RENAMED[name], value]


def _model(places: dict[str, str], notes: list[str]) -> list[str]:
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
    notes.append(
        f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} taken as --model {model}"
    )
    return ["--model", model]
