"""The flags of openai/gpt-2's two sampling scripts and of gpt-2-simple, as ours.

`--top_k` and `--top-k` are the same everywhere. Where a name or a value differs, one note says
what it was taken for.
"""

from __future__ import annotations

from pathlib import Path

from gpt2lab.errors import InputError

#: Their name -> our flag, for values that mean the same.
RENAMED = {
    "--length": "--max-new-tokens",
    "--nsamples": "-n",
    "--prefix": "--prompt",
    "--sample-delim": "--delimiter",
    "--destination-path": "--out",
    "--model-name": "--model",
    "--num-return-sequences": "-n",
    "--max-tokens": "--max-new-tokens",
}
#: Flags of theirs that change nothing here, and why.
NEEDLESS = {
    "--multi-gpu": "there is one engine",
    "--return-as-list": "--json gives a list",
    "--nfiles": "use --out once for each file",
    "--models-dir": "a path may be given as --model",
    "--model-dir": "a path may be given as --model",
}
_SWITCHES = {"--include-prefix": "--include-prompt"}
_FALSE = ("false", "0", "no", "none")


def translate(args: list[str]) -> tuple[list[str], list[str]]:
    """Arguments as typed -> (arguments of ours, notes)."""
    out: list[str] = []
    notes: list[str] = []
    run = _Run()
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            out += [word, *rest]
            break
        if not word.startswith("--"):
            out.append(word)
            continue
        name, has_value, value = word.partition("=")
        name = name.replace("_", "-")
        if name not in _KNOWN:
            if value != "None":  # how python-fire writes "not given"
                out.append(name + has_value + value)
            continue
        if not has_value:
            value = _next_value(name, rest)
        out += _ours(name, value, notes, run)
    return out + run.model(), notes


class _Run:
    """gpt-2-simple's --run_name and --checkpoint_dir together name one folder."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.folder: str | None = None

    def model(self) -> list[str]:
        if self.name is None and self.folder is None:
            return []
        path = Path(self.folder or "checkpoint") / (self.name or "run1")
        return ["--model", str(path) if path.is_absolute() else f"./{path}"]


_KNOWN = {*RENAMED, *NEEDLESS, *_SWITCHES, "--run-name", "--checkpoint-dir"}


def _next_value(name: str, rest: list[str]) -> str:
    """The word after a flag. A switch may stand alone, as python-fire allows."""
    if name in _SWITCHES or name in NEEDLESS:
        return rest.pop(0) if rest and rest[0].lower() in ("true", *_FALSE) else "true"
    if not rest:
        raise InputError(f"{name} needs a value")
    return rest.pop(0)


def _ours(name: str, value: str, notes: list[str], run: _Run) -> list[str]:
    """One flag of theirs in our words."""
    if name in NEEDLESS:
        notes.append(f"{name} is not needed: {NEEDLESS[name]}")
        return []
    if name == "--run-name":
        run.name = value
        return []
    if name == "--checkpoint-dir":
        run.folder = value
        return []
    if name in _SWITCHES:
        notes.append(f"{name} is taken as {_SWITCHES[name]}")
        return [] if value.lower() in _FALSE else [_SWITCHES[name]]
    if value == "None":
        return []
    if name == "--nsamples" and value == "0":
        notes.append("--nsamples 0 is taken as --endless")
        return ["--endless"]
    notes.append(f"{name} is taken as {RENAMED[name]}")
    return [RENAMED[name], value]
