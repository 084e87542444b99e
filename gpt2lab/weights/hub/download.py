"""Fetch a GPT-2 from the Hugging Face hub, or a mirror of it, into the cache all its tools share.

Only the files that a model needs are fetched, each is checked against the hash that the hub gives,
and a transfer that was cut goes on where it stopped, also in a later call. A mirror that gives no
hash is noted, and the size is checked; one that gives neither is refused. huggingface_hub's own
`snapshot_download` is not used: it (2.4) throws a partial file away when a call ends, and it does
not check hashes.

The requests are `hub`'s. Where models lie on this machine is `find`'s.

Source: huggingface_hub 2.4 `file_download.py` (the cache's layout).
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpt2lab.config import Config
from gpt2lab.errors import Failure, InputError, few, quoted
from gpt2lab.files.atomic import write_whole
from gpt2lab.files.json_files import parse_json
from gpt2lab.files.visible import reason, shown
from gpt2lab.weights import find
from gpt2lab.weights.find import OFFICIAL
from gpt2lab.weights.formats import hf_config, huggingface
from gpt2lab.weights.hub import transfer as web
from gpt2lab.weights.hub.transfer import Hub, Remote, look

__all__ = ["OFFICIAL", "Progress", "download"]

#: Called while a file arrives with its name, the bytes that are there, and all of them (or None).
Progress = Callable[[str, int, int | None], None]
Say = Callable[[str], None]

EXTRAS = (  # recommended settings, and every file that a vocabulary may be read from
    "generation_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
WEIGHTS = (  # in the order of choice
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Bytes that a file may have at most, of which a body without a stated size would know nothing.
CONFIG_LIMIT = 1 << 20  # of the two configurations, which have one or two thousand
TEXT_LIMIT = 1 << 26  # of vocabularies and indices; GPT-2's tokenizer.json has 1.4 million
PER_PARAMETER = 16  # of weights: twice float64, for heads and masks that lie beside them

# --- one file ---


@contextmanager
def _writing(hub: Hub) -> Iterator[None]:
    """Turn what the disk refuses inside the block into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Failure(
                f"{hub.folder}: the disk is full ({reason(error)}); make room, the same command "
                "then goes on where it stopped; or set HF_HUB_CACHE to another disk"
            ) from error
        raise InputError(
            f"{hub.folder}: cannot be written ({reason(error)}); set HF_HUB_CACHE to a folder "
            "that you may write"
        ) from error


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _start(hub: Hub, remote: Remote, answer: Any, path: Path, have: int) -> int:
    """Where the bytes of an answer belong; 0 when the server sends the whole file."""
    if answer.status_code not in (206, 416):
        answer.raise_for_status()
        return 0
    if have and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        return have
    path.unlink(missing_ok=True)  # it understood something else; from the start, then
    raise web.Passing(f"{hub.endpoint} cannot go on with {remote.file}; run the command again")


def _receive(hub: Hub, remote: Remote, path: Path, progress: Progress | None) -> None:
    """One request for what is missing of a file; bytes are kept as they come.

    A body is left as soon as it is longer than the file may be; the check will say how.
    """
    most = remote.limit if remote.size is None else remote.size
    have = _length(path)
    with web.opened(hub, remote.file, have) as answer:
        have = _start(hub, remote, answer, path, have)
        with path.open("r+b" if have else "wb") as file:
            file.seek(have)
            for piece in answer.iter_bytes():
                file.write(piece)
                have += len(piece)
                if progress:
                    progress(remote.file, have, remote.size)
                if have > most:
                    break


def _fetch(hub: Hub, remote: Remote, path: Path, progress: Progress | None) -> None:
    """Fetch a file to `path`, going on with what lies there. Cut transfers are taken up again."""

    def attempt() -> None:
        if remote.size is not None and path.exists() and _length(path) >= remote.size:
            return
        with web.network(hub, remote.file):
            _receive(hub, remote, path, progress)
        if _length(path) < (remote.size or 0):
            raise web.Passing(f"{hub.endpoint} sent too little of {remote.file}; run it again")

    web.patiently(attempt, web.WAITS, (web.Passing, web.NoConnection), lambda: _length(path))


def _need_room(hub: Hub, remote: Remote, path: Path) -> None:
    missing, free = (remote.size or 0) - _length(path), shutil.disk_usage(path.parent).free
    if missing > free:
        raise Failure(
            f"{hub.folder}: {remote.file} needs {missing / 1e6:,.1f} MB more and the disk has "
            f"{free / 1e6:,.1f} MB free; make room, or set HF_HUB_CACHE to another disk"
        )


def _hashes(path: Path, etag: str) -> list[str]:
    """The hashes of a file of which its etag should be one."""
    with path.open("rb") as file:
        if len(etag) == 64:
            return [hashlib.file_digest(file, "sha256").hexdigest()]
        head = b"blob %d\0" % path.stat().st_size
        git = hashlib.file_digest(file, lambda: hashlib.sha1(head, usedforsecurity=False))
        file.seek(0)
        # A plain file server in the hub's place may name the bare content's hash.
        bare = hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False))
    return [git.hexdigest(), bare.hexdigest()]


def _fault(remote: Remote, path: Path) -> str | None:
    """What is wrong with a file that should be whole; None when it is as the hub says."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"it has {size} bytes, expected {remote.size}"
    if size > remote.limit:
        return f"it has more than {remote.limit:,} bytes, which it may have at most"
    if not remote.is_hashed:
        return None
    found = _hashes(path, remote.etag)
    if remote.etag in found:
        return None
    kind = "sha256" if len(found) == 1 else "git hash"
    return f"its {kind} is {found[0]}, expected {remote.etag}"


def _fetch_checked(hub: Hub, remote: Remote, path: Path, progress: Progress | None) -> None:
    """Fetch a file and check it. A wrong one is removed; what was resumed is fetched once afresh,
    as the part from an earlier call may have been the bad one."""
    fault = None
    for _ in range(2 if path.exists() else 1):
        _need_room(hub, remote, path)
        _fetch(hub, remote, path, progress)
        fault = _fault(remote, path)
        if fault is None:
            return
        path.unlink()
    raise Failure(
        f"{remote.file} of {hub.repo} arrived damaged: {fault}; it was removed, "
        f"run the command again, or name another endpoint than {hub.endpoint}"
    )


def _link(blob: Path, pointer: Path) -> None:
    """Give a blob its name in the snapshot; where links cannot be made, as on Windows, move it."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except (OSError, NotImplementedError):
        blob.replace(pointer)


def _only_a_file(path: Path) -> None:
    """Remove what is not a plain file where one is to be written: a link would lead elsewhere."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.unlink()


def _blob_name(remote: Remote) -> str:
    """The name of a file's bytes in the cache. An etag that is no hash may be that of all files."""
    if remote.is_hashed:
        return remote.etag
    what = "\n".join((remote.commit, remote.file, remote.etag))
    return hashlib.sha256(what.encode()).hexdigest()


def _obtain(hub: Hub, remote: Remote, force: bool, progress: Progress | None) -> None:
    """Have a checked file in the snapshot: the one that is there, else a fetched one."""
    blob = hub.folder / "blobs" / _blob_name(remote)
    pointer = hub.folder / "snapshots" / remote.commit / remote.file
    partial = blob.with_name(f"{blob.name}.incomplete")  # older versions of the hub go on with it
    there = next((path for path in (blob, pointer) if path.is_file()), None)
    if there and not force and _fault(remote, there) is None:
        if there == blob and not (pointer.is_symlink() and pointer.exists()):
            _link(blob, pointer)
        return
    _only_a_file(partial)
    if force or not remote.is_hashed:  # a part of an earlier call could not be checked
        partial.unlink(missing_ok=True)
    _fetch_checked(hub, remote, partial, progress)
    partial.replace(blob)
    _link(blob, pointer)


def _get(hub: Hub, remote: Remote, force: bool, progress: Progress | None) -> None:
    """Have a file, after other processes that fetch the same one."""
    with _writing(hub):
        for folder in (hub.locks, hub.folder / "blobs"):
            folder.mkdir(parents=True, exist_ok=True)
        lock = hub.locks / f"{_blob_name(remote)}.lock"
        _only_a_file(lock)
        with web.library().utils.WeakFileLock(lock):
            _obtain(hub, remote, force, progress)


# --- one model ---


def _config(hub: Hub) -> Remote:
    config = look(hub, "config.json", CONFIG_LIMIT)
    if config is None:
        raise InputError(
            f"there is no {hub.repo} with a config.json at {hub.endpoint}, revision "
            f"{hub.revision} (HTTP 404); check the spelling, and that it is for transformers"
        )
    return config


def _is_text(value: Any, begin: str) -> bool:
    return isinstance(value, str) and value.startswith(begin)


def _check_kind(hub: Hub, values: dict[str, Any]) -> None:
    """Refuse what is no GPT-2 by its config.json."""
    named = values.get("architectures") or []
    named = named if isinstance(named, list) else [named]
    kind = values.get("model_type", "gpt2")
    if kind != "gpt2" or (named and not any(_is_text(one, "GPT2") for one in named)):
        what = named[0] if kind == "gpt2" else kind
        said = shown(what) if isinstance(what, str) else quoted(what)
        raise InputError(f"{hub.repo} is a {said}, not a GPT-2; nothing was fetched")


def _checked_config(hub: Hub, config: Remote) -> Config:
    """The configuration, by a passing copy of config.json: of what is no GPT-2 nothing is kept."""
    with _writing(hub):
        hub.locks.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=hub.locks) as folder:
            path = Path(folder) / config.file
            _fetch_checked(hub, config, path, None)
            _check_kind(hub, parse_json(path.read_bytes(), f"{hub.repo}: config.json"))
            try:
                return hf_config.configuration(Path(folder))
            except InputError as error:
                raise InputError(str(error).replace(folder, hub.repo)) from error


def _weights_limit(config: Config) -> int:
    return PER_PARAMETER * find.count(config, tied=False) + TEXT_LIMIT


def _weights(hub: Hub, limit: int) -> Remote:
    """The file that leads to the weights, safetensors first."""
    for name in WEIGHTS:
        remote = look(hub, name, TEXT_LIMIT if name in huggingface.SHARDED else limit)
        if remote:
            return remote
    raise InputError(
        f"{hub.repo} holds no weights that can be read ({', '.join(huggingface.WEIGHTS)}, whole "
        "or in shards); choose another model"
    )


def _shards(hub: Hub, index: Path, limit: int) -> Iterator[Remote]:
    for path in huggingface.shards(index):
        shard = look(hub, path.name, limit)
        if shard is None:
            raise InputError(f"{hub.repo}: {index.name} names {path.name}, which is missing")
        yield shard


def _extras(hub: Hub) -> Iterator[Remote]:
    """What lies beside the weights: recommended settings and the vocabulary."""
    for name in EXTRAS:
        is_small = name == "generation_config.json"
        remote = look(hub, name, CONFIG_LIMIT if is_small else TEXT_LIMIT)
        if remote:
            yield remote


def _name_commit(hub: Hub, commit: str) -> None:
    """So that a branch or tag is found without the network."""
    ref = hub.folder / "refs" / hub.revision
    with _writing(hub):
        ref.parent.mkdir(parents=True, exist_ok=True)
        write_whole(ref, commit)


def _tell_unchecked(hub: Hub, remotes: list[Remote], say: Say) -> None:
    unchecked = [remote for remote in remotes if not remote.is_hashed]
    if unchecked:
        say(
            f"{few(shown(remote.file) for remote in unchecked)}: checked by size alone, as the "
            f"ETag that {hub.endpoint} gives ({unchecked[0].etag[:40]}) is no hash; a file that "
            "was changed on the way would not be noticed"
        )


def _snapshot(hub: Hub, force: bool, progress: Progress | None, say: Say) -> Path:
    config = _config(hub)
    pinned = replace(hub, revision=config.commit)  # the branch may move while we fetch
    folder = hub.folder / "snapshots" / config.commit
    limit = _weights_limit(_checked_config(pinned, config))
    weights = _weights(pinned, limit)
    remotes = [config, *_extras(pinned), weights]
    for remote in remotes:
        _get(pinned, remote, force, progress)
    if weights.file in huggingface.SHARDED:
        for shard in _shards(pinned, folder / weights.file, limit):
            _get(pinned, shard, force, progress)
            remotes.append(shard)
    if hub.revision != config.commit:
        _name_commit(hub, config.commit)
    _tell_unchecked(hub, remotes, say)
    return folder


def download(
    name: str,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    offline: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    say: Say = warnings.warn,
) -> Path:
    """Fetch a model, or what is missing of it, and return its folder in the hub's cache.

    name: an official size ("124M"), "owner/name", or an old bare name ("distilgpt2"). revision: a
    branch, tag or commit. endpoint, token: else the environment's and the hub's login. offline:
    take what is in the cache. force: fetch again what is there. say: is told which files no hash
    was given for. Raises InputError for what the caller can mend (no such model, not a GPT-2, no
    access, read-only cache) and Failure for what befell it (network, full disk, a damaged
    transfer); either is one line.
    """
    repo = find.hub_name(name)
    if repo is None:
        raise InputError(
            f"{shown(name)!r} is no model of the hub; give an official size "
            f"({', '.join(OFFICIAL)}) or a hub name (owner/name)"
        )
    revision = web.revision_of(revision)
    kept = find.snapshot(repo, revision)
    if offline or web.is_offline():
        if force:
            raise InputError("force fetches again what is there, offline forbids it; give one")
        if kept is None:
            raise web.offline(repo)
        return kept
    where = web.endpoint_and_login(endpoint)
    hub = Hub(*where, repo, revision, web.token_of(token), find.repo_folder(repo))
    try:
        return _snapshot(hub, force, progress, say)
    except Failure as error:
        if kept is None:
            raise
        raise Failure(f"{error}. An earlier copy is whole: {kept} (--offline takes it)") from error
