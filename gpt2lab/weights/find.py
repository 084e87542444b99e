"""What models are on this machine, and where: `find` one by name, `listing` of all, `resolve`.

Nothing here reaches the network. Looked at are the bundled model, paths, the folders `models/` (of
OpenAI's scripts) and `checkpoint/` (of gpt-2-simple) under the working folder, and the cache that
all tools of the Hugging Face hub share; its layout is read directly, as importing the hub's library
takes longer than looking. Fetching what is missing is `download`'s.

The environment is read for the place of that cache: huggingface_hub defines HF_HUB_CACHE, HF_HOME
and the models behind them.

Source of the layout: huggingface_hub's guide "Understand caching".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gpt2lab.config import Config
from gpt2lab.errors import InputError, quoted
from gpt2lab.files.io import contents
from gpt2lab.files.json_files import read_json
from gpt2lab.files.visible import shown
from gpt2lab.text import tokenizer
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.weights import foreign, load, recognise
from gpt2lab.weights.formats import huggingface

BUNDLED = "fable"
#: Official size -> its name on the hub.
OFFICIAL = {
    "124M": "openai-community/gpt2",
    "355M": "openai-community/gpt2-medium",
    "774M": "openai-community/gpt2-large",
    "1558M": "openai-community/gpt2-xl",
}
#: Names without an owner from the hub's early days, which people still type.
BARE = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
#: Files by which a folder claims to be a model, even when it cannot be recognised.
CLAIMS = ("hparams.json", "ckpt.pt", *huggingface.WEIGHTS, *huggingface.SHARDED)
DEPTH = 3  # folders below one that the user names: runs/<name>/best
ENTRIES = 1000  # of one folder; more is a data set

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class Found:
    """A model on this machine, as its headers describe it; the numbers are not read.

    name: what `find` knows it by. place: "bundled", "hub cache", or the folder it was found in.
    config: None when it cannot be read; `problem` then says why. size: bytes on disk.
    parameters: numbers in the model; a tied head counts once.
    """

    name: str
    path: Path
    place: str
    format: str | None = None
    config: Config | None = None
    parameters: int | None = None
    size: int = 0
    problem: str | None = None


# --- names and places ---


def bundled() -> Path:
    """The folder of the model that comes with the package."""
    return Path(__file__).resolve().parent.parent / "assets" / BUNDLED


def hub_name(name: str) -> str | None:
    """The owner/name on the hub that an official size, an old bare name or itself means."""
    known = {**OFFICIAL, **BARE}
    if name in known:
        return known[name]
    plain = _HUB_NAME.fullmatch(name) and "--" not in name and ".." not in name
    return name if plain and not name.endswith((".", "-", ".git")) else None


def hub_cache() -> Path:
    """The folder in which the tools of the hub keep what they downloaded; it may not exist."""
    env = os.environ
    user = env.get("XDG_CACHE_HOME") or "~/.cache"
    home = env.get("HF_HOME") or str(Path(user) / "huggingface")
    cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or str(Path(home) / "hub")
    # Not Path.expanduser: it raises where there is no home, this leaves the ~ in place.
    return Path(os.path.expandvars(os.path.expanduser(cache)))  # noqa: PTH111


def repo_folder(repo: str) -> Path:
    """The folder of one hub model in the cache."""
    return hub_cache() / f"models--{repo.replace('/', '--')}"


def _is_pathlike(name: str) -> bool:
    return name.startswith((".", "~", "/")) or name.count("/") > 1 or "\\" in name


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, a NUL in it, no right to look
        return False


def _is_checkpoint(path: Path) -> bool:
    try:
        return bool(recognise(path))
    except InputError:
        return False


def _folders(path: Path) -> list[Path]:
    """The folders in a folder, sorted; none where one cannot look."""
    try:
        return [entry for entry in sorted(path.iterdir())[:ENTRIES] if entry.is_dir()]
    except OSError:
        return []


# --- the hub's cache ---


def is_complete(snapshot: Path) -> bool:
    """Whether a snapshot holds a whole model: its config.json and every file of its weights."""
    try:
        return all(
            file.is_file()
            for file in (snapshot / "config.json", *huggingface.weight_files(snapshot)[1])
        )
    except (InputError, OSError):
        return False


def commit_of(repo: str, revision: str = "main") -> str | None:
    """The commit that the cache last saw a branch or tag at; a commit is its own."""
    folder = repo_folder(repo)
    try:
        return contents(folder / "refs" / revision, 1000).decode("ascii").strip()
    except (OSError, ValueError):  # InputError is one of these
        is_name = re.fullmatch(r"[\w-]+", revision, re.ASCII)
        return revision if is_name and (folder / "snapshots" / revision).is_dir() else None


def snapshot(repo: str, revision: str = "main") -> Path | None:
    """The folder of a complete model in the hub's cache; None when there is none."""
    commit = commit_of(repo, revision)
    if not commit or not re.fullmatch(r"[\w-]+", commit, re.ASCII):
        return None
    path = repo_folder(repo) / "snapshots" / commit
    return path if is_complete(path) else None


# --- one model by its name ---


def _named_folder(name: str) -> Path | None:
    for place in ("models", "checkpoint"):
        if _is_checkpoint(Path(place, name)):
            return Path(place, name)
    return None


def find(name: str | None = None) -> Path | None:
    """Where a model lies on this machine; None when it does not.

    In this order: an existing path; None or "fable", the bundled model; `models/<name>`;
    `checkpoint/<name>`; an official size or a hub name, complete in the hub's cache. A folder that
    is no checkpoint does not hide a model of the same name behind it.
    """
    if name is None:
        return bundled()
    if not name:
        return None
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - see hub_cache
    if _is_checkpoint(path) or (_is_pathlike(name) and _exists(path)):
        return path
    if name == BUNDLED:
        return bundled()
    repo = hub_name(name)
    other = None if _is_pathlike(name) else _named_folder(name)
    other = other or (snapshot(repo) if repo else None)
    return other or (path if _exists(path) and name not in {**OFFICIAL, **BARE} else None)


def resolve(source: str | Path | None = None) -> Path:
    """The path of a model by any name, on this machine.

    source: as `find`; a `Path` means a path only. Raises InputError when it is not here; what can
    be fetched is then named with the command that fetches it.
    """
    if not (source is None or isinstance(source, str | os.PathLike)):
        raise InputError(f"the model is {quoted(source)}; it is named by a text or a path")
    name = source if source is None else str(source)
    if isinstance(source, Path):
        found = source if _exists(source) or _is_checkpoint(source) else None
    else:
        found = find(name)
    if found is not None:
        return found
    assert name is not None, "the bundled model is always there"
    if isinstance(source, Path) or _is_pathlike(name):
        raise InputError(f"{shown(name)}: no such file or folder; check the path")
    if can_be_fetched(name):
        raise InputError(f"{name} is not on this machine; fetch it: gpt2lab download {name}")
    raise InputError(
        f"no model '{shown(name)}' here: not a path, not an official size "
        f"({', '.join(OFFICIAL)}), not a hub name (owner/name); "
        "`gpt2lab models` lists what there is"
    )


def can_be_fetched(name: str) -> bool:
    """Whether a name that is not here could be the hub's: a size, or owner/name.

    Where a folder of the owner's name exists here, a path was meant and is wrong.
    """
    if _is_pathlike(name) or hub_name(name) is None:
        return False
    return name in {**OFFICIAL, **BARE} or not _exists(Path(name.split("/")[0]))


# --- all models ---


def _size(path: Path) -> int:
    """Bytes on disk of a file, or of the files right in a folder; links count what they lead to."""
    try:
        files = path.iterdir() if path.is_dir() else iter([path])
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:
        return 0


def describe(path: Path, name: str, place: str) -> Found:
    """What is known of the model at a path; `problem` says why it cannot be read."""
    found = Found(name, path, place, size=_size(path))
    try:
        found = replace(found, format=recognise(path))
        made = load(path, headers=True)
        parameters = sum(array.size for array in made.params.values())
        return replace(found, config=made.config, parameters=parameters)
    except (InputError, OSError) as error:
        said = str(error).removeprefix(f"{path}: ")
        return replace(found, problem=shown(" ".join(said.split())))


def _is_gpt2(folder: Path) -> bool:
    """Whether a folder's config.json says gpt2."""
    try:
        return read_json(folder / "config.json").get("model_type") == "gpt2"
    except InputError:
        return False


def _claims(folder: Path) -> bool:
    """Whether a folder holds a model, or what its owner will take for one.

    A config.json alone says nothing: many programs have one.
    """
    try:
        if any((folder / name).is_file() for name in CLAIMS) or foreign.claims(folder):
            return True
        if (folder / "config.json").is_file():
            return _is_gpt2(folder)
        return _is_checkpoint(folder)
    except OSError:
        return False


def _under(folder: Path, depth: int) -> Iterator[Path]:
    """Folders that hold a model, the upper one first; hidden folders are left alone."""
    if _claims(folder):
        yield folder
    if depth:
        for entry in _folders(folder):
            if not entry.name.startswith((".", "_")) and not entry.is_symlink():
                yield from _under(entry, depth - 1)


def _in_folder(folder: Path) -> list[Found]:
    if not _exists(folder):
        raise InputError(f"{shown(str(folder))}: no such file or folder; check the path")
    paths = list(_under(folder, DEPTH)) if folder.is_dir() else [folder]
    return [describe(path, str(path), str(folder)) for path in paths]


def _here() -> list[Found]:
    """What lies right in the working folder, under models/ and under checkpoint/."""
    found = [describe(Path(), ".", ".")] if _claims(Path()) else []
    for place in (".", "models", "checkpoint"):
        for path in _folders(Path(place)):
            if _claims(path) and not (place == "." and path.name in ("models", "checkpoint")):
                found.append(describe(path, path.name, "." if place == "." else f"{place}/"))
    return found


def _cached() -> list[Found]:
    """Every GPT-2 in the hub's cache; its other models are none of our business.

    The snapshot of the main branch has the name of the model, others only their path.
    """
    found = []
    for folder in _folders(hub_cache()):
        kind, _, repo = folder.name.partition("--")
        repo = repo.replace("--", "/")
        main = commit_of(repo) if kind == "models" else None
        for path in _folders(folder / "snapshots") if kind == "models" else []:
            if _is_gpt2(path):
                name = repo if path.name == main else str(path)
                found.append(describe(path, name, "hub cache"))
    return found


def listing(folders: Iterable[Path | str] = ()) -> list[Found]:
    """The models in some folders (three levels deep), or without any, in all the usual places.

    Only headers are read. What claims to be a model and cannot be read is listed with the reason.
    Raises InputError for a folder that does not exist.
    """
    paths = [Path(folder) for folder in folders]
    if paths:
        return [found for path in paths for found in _in_folder(path)]
    return [describe(bundled(), BUNDLED, "bundled"), *_here(), *_cached()]


def load_vocabulary(name: str | None) -> Tokenizer:
    """Load the vocabulary of a model by its name; an official size needs no weights for it."""
    if hub_name(name or "") in OFFICIAL.values() and not find(name):
        return tokenizer.official()
    path = resolve(name)
    if not (path.is_dir() or path.is_file()):
        raise InputError(f"{path} is no file and no folder; give a model or a vocabulary")
    try:
        return Tokenizer.load(path)
    except InputError:
        found = load(path).tokenizer
    if found is None:
        raise InputError(f"{name} comes without a tokenizer")
    return found
