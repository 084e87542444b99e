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
from gpt2lab.corpus.token_set import SPLITS, TokenSet
from gpt2lab.errors import Failure, InputError
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.train import checkpoint_files
from gpt2lab.train.parallel.group import Group
from gpt2lab.weights.locate import locate

#: What `prepare` depends on besides the texts and the vocabulary, and writes down.
_VOCABULARY = "vocabulary"


def _any_split(path: str | Path) -> TokenSet | None:
    return next(filter(None, (open_set(path, split) for split in SPLITS)), None)


def _vocabulary(settings: Mapping[str, Any], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The argument of `prepare` that names the vocabulary of a set."""
    made = settings.get(_VOCABULARY, {})
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
    settings.pop(_VOCABULARY, None)
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
    """Why what is named is not what the run was made of; None where it is, or nothing is named.

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
    sets = [open_set(path) for path in data]
    if data and all(sets):
        now = [found.fingerprint for found in sets if found is not None]
        same = isinstance(known, list) and now == [held.get("fingerprint") for held in known]
        return None if same else "other tokens"
    if not data:
        return next(filter(None, (_read_otherwise(path, options) for path in paths)), None)
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
    path, given = run / places["val"], _any_split(val)
    if given is None:
        return _made_otherwise([val], path, run, tokenizer, options)
    old = _any_split(path)
    return None if old is None or old.fingerprint == given.fingerprint else "other tokens"


def different(
    made: Mapping[str, Any], run: Path, data: Sequence[str], group: Group, **named: Any
) -> str | None:
    """What `differs` says, found by the first of several processes."""
    group.at("comparing the data")
    return group.agree(lambda: differs(made, run, data, tokenizer=vocabulary_of(run), **named))


def vocabulary_of(run: Path) -> Tokenizer | None:
    """The vocabulary of a run."""
    newest = checkpoint_files.newest_whole(run)
    return weights.load(newest).tokenizer


def refuse_other(why: str | None, verb: str, data: Sequence[str], run: Path) -> None:
    """Raise InputError where a run is to go on with other data, with the way to do it."""
    if why is None:
        return
    if not data:
        raise InputError(f"{run} was made otherwise ({why}); leave it out to go on with the run")
    named = " ".join(map(str, data))
    raise InputError(
        f"{run} was trained on other data than {named} ({why}); leave them out to go on with its "
        f"own, or train its weights on them: gpt2lab {verb} {named} --model {run} --out {run}-2"
    )


def _place(model: str | None) -> Path | str | None:
    """What tells whether two names are the same model."""
    try:
        return locate(model, download=False).resolve()
    except (InputError, Failure):
        return model


def check_same_model(made: Mapping[str, Any], model: str | None, run: Path) -> None:
    """Raise InputError where a resumed run is given another initial model."""
    old = made.get("model")
    if model is not None and model != old and _place(model) != _place(old):
        raise InputError(
            f"{run} began with the model {old or 'that is bundled'}, not {model}; leave the model "
            "out to go on, or choose another folder for a new run"
        )
