"""Whether data that are named again, for a run that is there, are those it was made of.

They are compared by content, never by name: a text that was moved is the same, one that was edited
is another. A set of tokens has its fingerprint; texts are held against what `prepare` wrote down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt2lab import weights
from gpt2lab.corpus.manifest import MANIFEST, read_manifest
from gpt2lab.corpus.open import open_set
from gpt2lab.corpus.prepare import PreparedOtherwiseError, prepare
from gpt2lab.errors import Failure, InputError
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.train import checkpoint_files
from gpt2lab.train.data_sources import any_split
from gpt2lab.weights.hub import locate


def _vocabulary(settings: Mapping[str, Any], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The argument of `prepare` that names the vocabulary of a set."""
    made = settings.get("vocabulary", {})
    given = {name: made[name] for name in ("learn", "characters") if name in made}
    return given or {"tokenizer": tokenizer}


def _read_otherwise(path: Path, options: Mapping[str, Any]) -> str | None:
    """Which option of reading is not that of the set at `path`."""
    found = read_manifest(path)["settings"] if (path / MANIFEST).is_file() else {}
    for name, value in options.items():
        plain = list(value) if isinstance(value, tuple) else value
        if isinstance(found.get(name), list) and isinstance(plain, str):
            plain = [plain]
        if found.get(name) != plain:
            return f"{name} {found.get(name)!r} there, {plain!r} now"
    return None


def _made_otherwise(
    texts: Sequence[str], path: Path, run: Path, tokenizer: Tokenizer | None, options: Any
) -> str | None:
    """Why `prepare` would not make the set at `path` of these texts; None where it would.

    Data of the run that are gone are made again.
    """
    settings: dict[str, Any] = {}
    if (path / MANIFEST).is_file():
        settings = dict(read_manifest(path)["settings"])
    elif not path.resolve().is_relative_to(run.resolve()):
        return f"the data of the run, {path}, are not texts, or are gone"
    vocabulary = _vocabulary(settings, tokenizer)
    settings.pop("vocabulary", None)
    try:
        prepare(texts, path, **vocabulary, **{**settings, **options})
    except PreparedOtherwiseError as error:
        return str(error).partition("(")[2].rpartition(")")[0]
    return None


def differs(
    made: Mapping[str, Any],
    run: Path,
    data: Sequence[str],
    *,
    val: str | None = None,
    tokenizer: Tokenizer | None = None,
    **options: Any,
) -> str | None:
    """Return why what is named is not what the run was made of; None if it is, or nothing is named.

    made: its run.json. data, val, options: as given to `gather`. tokenizer: the run's, for texts.
    """
    places, known = made["sources"], made.get("data")
    if not places:  # known to another program, as `again` says
        return None
    paths = [run / path for path in places["paths"]]
    if val is not None:
        options.pop("held_out", None)
        if why := _val_differs(places, run, val, tokenizer, options):
            return f"to validate on: {why}"
    if not data:
        return next(filter(None, (_read_otherwise(path, options) for path in paths)), None)
    sets = [open_set(path) for path in data]
    if all(sets):
        now = [found.fingerprint for found in sets if found is not None]
        same = isinstance(known, list) and now == [held.get("fingerprint") for held in known]
        return None if same else "other tokens"
    if len(paths) > 1 and len(paths) != len(data):
        return f"{len(data)} sets of data, the run was started with {len(paths)}"
    groups = [list(data)] if len(paths) == 1 else [[text] for text in data]
    found = (
        _made_otherwise(texts, path, run, tokenizer, options)
        for texts, path in zip(groups, paths, strict=True)
    )
    return next(filter(None, found), None)


def _val_differs(
    places: Mapping[str, Any], run: Path, val: str, tokenizer: Tokenizer | None, options: Any
) -> str | None:
    if places["val"] is None:
        return "the run has no such text of its own"
    path, given = run / places["val"], any_split(val)
    if given is None:
        return _made_otherwise([val], path, run, tokenizer, options)
    old = any_split(path)
    return None if old is None or old.fingerprint == given.fingerprint else "other tokens"


def vocabulary_of(run: Path) -> Tokenizer | None:
    """Return the vocabulary of a run."""
    return weights.load(checkpoint_files.newest_whole(run)).tokenizer


def is_same_model(model: str | None, other: str | None) -> bool:
    """Return whether two names are the same model."""

    def place(name: str | None) -> Path | str | None:
        try:
            return locate(name, download=False).resolve()
        except (InputError, Failure):
            return name

    return model == other or place(model) == place(other)
