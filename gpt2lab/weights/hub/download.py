"""Fetch a GPT-2 from the Hugging Face hub, or a mirror of it, into the cache all its tools share.

Only the files that a model needs are fetched. A mirror that gives no hash is noted, and the size is
checked; one that gives neither is refused. A single file is `cached_file`'s, the requests are
`transfer`'s. Where models lie on this machine is `find`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from gpt2lab.config import Config
from gpt2lab.errors import Failure, InputError, few
from gpt2lab.files.atomic import write_whole
from gpt2lab.files.visible import shown
from gpt2lab.weights import find, tensors, tokenizer_files
from gpt2lab.weights.formats import hf_config, huggingface
from gpt2lab.weights.hub import address, transfer
from gpt2lab.weights.hub.address import Hub
from gpt2lab.weights.hub.cached_file import Progress, fetch_checked, obtain, writing
from gpt2lab.weights.hub.transfer import Remote, look

log = logging.getLogger(__name__)

# Bytes that a file may have at most, of which a body without a stated size would know nothing.
CONFIG_LIMIT = 1 << 20  # of the two configurations, which have one or two thousand
TEXT_LIMIT = 1 << 26  # of vocabularies and indices; GPT-2's tokenizer.json has 1.4 million
PER_PARAMETER = 16  # of weights: twice float64, for heads and masks that lie beside them


def _described(hub: Hub) -> Remote:
    remote = look(hub, "config.json", CONFIG_LIMIT)
    if remote is None:
        raise InputError(
            f"there is no {hub.repo} with a config.json at {hub.endpoint}, revision "
            f"{hub.revision} (HTTP 404); check the spelling, and that it is for transformers"
        )
    return remote


def _checked_config(hub: Hub, remote: Remote) -> Config:
    """The configuration, by a passing copy of config.json: of what is no GPT-2 nothing is kept."""
    with TemporaryDirectory() as folder:
        fetch_checked(hub, remote, Path(folder) / remote.file, None)
        try:
            return hf_config.described(Path(folder))[1]
        except InputError as error:
            said = str(error).replace(folder, hub.repo)
            raise InputError(f"{said}; nothing was fetched") from error


def _weights(hub: Hub, limit: int) -> Remote:
    """The file that leads to the weights, safetensors first."""
    for whole, index in zip(huggingface.WEIGHTS, huggingface.SHARDED, strict=True):
        remote = look(hub, whole, limit) or look(hub, index, TEXT_LIMIT)
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


def _warn_of_unchecked(hub: Hub, remotes: list[Remote]) -> None:
    unchecked = [remote for remote in remotes if not remote.is_hashed]
    if unchecked:
        log.warning(
            "%s: checked by size alone, as the ETag that %s gives (%s) is no hash; a file that was "
            "changed on the way would not be noticed",
            few(shown(remote.file) for remote in unchecked),
            hub.endpoint,
            unchecked[0].etag[:40],
        )


def _snapshot(hub: Hub, force: bool, progress: Progress | None) -> Path:
    described = _described(hub)
    pinned = replace(hub, revision=described.commit)  # the branch may move while we fetch
    folder = hub.folder / "snapshots" / described.commit
    config = _checked_config(pinned, described)
    limit = PER_PARAMETER * tensors.count(config) + TEXT_LIMIT
    weights = _weights(pinned, limit)
    settings = look(pinned, "generation_config.json", CONFIG_LIMIT)
    vocabulary = [look(pinned, name, TEXT_LIMIT) for name in tokenizer_files.FILES]
    remotes = [found for found in (described, settings, *vocabulary, weights) if found]
    for remote in remotes:
        obtain(pinned, remote, force, progress)
    if weights.file in huggingface.SHARDED:
        for shard in _shards(pinned, folder / weights.file, limit):
            obtain(pinned, shard, force, progress)
            remotes.append(shard)
    if hub.revision != described.commit:  # so that a branch or tag is found without the network
        ref = hub.folder / "refs" / hub.revision
        with writing(hub):
            ref.parent.mkdir(parents=True, exist_ok=True)
            write_whole(ref, described.commit)
    _warn_of_unchecked(hub, remotes)
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
) -> Path:
    """Fetch a model, or what is missing of it, and return its folder in the hub's cache.

    name: an official size ("124M"), "owner/name", or an old bare name ("distilgpt2"). revision: a
    branch, tag or commit. endpoint, token: else the environment's and the hub's login. offline:
    take what is in the cache. force: fetch again what is there. Files that the server gives no hash
    for are named in a warning of the log. Raises InputError for what the caller can mend (no such
    model, not a GPT-2, no access, read-only cache) and Failure for external errors (network, full
    disk, corrupted transfer); either is one line.
    """
    repo = find.hub_name(name)
    if repo is None:
        raise InputError(
            f"{shown(name)!r} is no model of the hub; give an official size "
            f"({', '.join(find.OFFICIAL)}) or a hub name (owner/name)"
        )
    revision = address.revision_of(revision)
    kept = find.snapshot(repo, revision)
    if offline or address.is_offline():
        if force:
            raise InputError("force fetches again what is there, offline forbids it; give one")
        if kept is None:
            raise transfer.offline(repo)
        return kept
    where = address.endpoint_and_login(endpoint)
    hub = Hub(*where, repo, revision, address.token_of(token), find.repo_folder(repo))
    try:
        return _snapshot(hub, force, progress)
    except Failure as error:
        if kept is None:
            raise
        raise Failure(f"{error}. An earlier copy is whole: {kept} (--offline takes it)") from error
