"""Fetch a GPT-2 from the Hugging Face hub, or a mirror of it, into the cache all its tools share.

Only the files that a model needs are fetched, each is checked against the hash that the hub gives,
and a transfer that was cut goes on where it stopped, also in a later call. huggingface_hub brings
the HTTP session, the token, the locks, the errors and the settings (HF_ENDPOINT, HF_HUB_OFFLINE,
HF_TOKEN, HF_HUB_CACHE, HF_HUB_DOWNLOAD_TIMEOUT, proxies). Its own `snapshot_download` is not used:
it (2.4) throws a partial file away when a call ends, and it does not check hashes.

Only `/<owner>/<name>/resolve/<revision>/<file>` is asked for, so any mirror that serves files will
do. Where models lie on this machine is `local`'s.

Source: huggingface_hub 2.4 `file_download.py` (the headers, the cache's layout).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from gpt2lab import __version__
from gpt2lab.errors import Failure, InputError
from gpt2lab.files import parse_json, reason, shown, write_whole
from gpt2lab.weights import huggingface, local
from gpt2lab.weights.local import OFFICIAL

__all__ = ["OFFICIAL", "Progress", "download"]

#: Called while a file arrives with its name, the bytes that are there, and all of them (or None).
Progress = Callable[[str, int, int | None], None]
T = TypeVar("T")

ENDPOINT = "https://huggingface.co"
EXTRAS = ("generation_config.json", "tokenizer.json", "vocab.json", "merges.txt")
WEIGHTS = (  # in the order of choice
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
CONFIG_LIMIT = 1 << 20  # bytes; a config.json has one or two thousand
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try, while no byte arrives
TRUE = ("1", "ON", "YES", "TRUE")  # what huggingface_hub takes for true

#: The HTTP library's errors before a connection stands.
NO_CONNECTION = {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"}
HTTP_ERRORS = {"HTTPError", "InvalidURL", "CookieConflict", "StreamError"}
COMMIT, ETAG, SIZE = "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size"


class _Passing(Failure):
    """A failure that a further try may mend: a server's fault, a cut transfer."""


class _NoConnection(Failure):
    """Nothing answers; worth a further try only where something has answered before."""


@dataclass(frozen=True)
class _Hub:
    """One model at one address: everything a request needs."""

    endpoint: str
    repo: str
    revision: str
    token: str | None
    folder: Path  # models--owner--name in the cache

    @property
    def locks(self) -> Path:
        return self.folder.parent / ".locks" / self.folder.name

    def url(self, file: str) -> str:
        revision = quote(self.revision, safe="")
        return f"{self.endpoint}/{self.repo}/resolve/{revision}/{quote(file)}"

    def headers(self) -> dict[str, str]:
        # Compressed bytes would make neither ranges nor sizes meaningful.
        headers = {"user-agent": f"gpt2lab/{__version__}", "accept-encoding": "identity"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        return headers


@dataclass(frozen=True)
class _Remote:
    """One file at one commit, as the hub describes it."""

    file: str
    commit: str
    etag: str  # sha256 of a large file, git's blob hash of a small one
    size: int | None


# --- settings ---


def _library() -> Any:
    """huggingface_hub, imported when the network is wanted, without its remarks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import huggingface_hub.errors
            import huggingface_hub.utils
        except ValueError as error:  # HF_HUB_DOWNLOAD_TIMEOUT=soon
            raise InputError(f"a variable HF_... of the environment is wrong: {error}") from error
    return huggingface_hub


def _session() -> Any:
    utils = _library().utils
    try:
        return utils.get_session()
    except (OSError, ValueError, ImportError) as error:  # no such certificate file, odd proxy
        raise InputError(
            f"the network settings of the environment cannot be used ({reason(error)}); "
            "check HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
        ) from error


def _timeout() -> float:
    return float(_library().constants.HF_HUB_DOWNLOAD_TIMEOUT)


def is_offline() -> bool:
    """Whether the environment forbids the network, in huggingface_hub's or transformers' words."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in TRUE


def _endpoint(given: str | None) -> str:
    endpoint = (given or os.environ.get("HF_ENDPOINT") or ENDPOINT).strip().rstrip("/")
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable or not endpoint.isprintable() or " " in endpoint:
        raise InputError(
            f"endpoint {endpoint!r} is no address; give one such as {ENDPOINT} by --endpoint or "
            "HF_ENDPOINT"
        )
    return endpoint


def _token(given: str | None) -> str | None:
    """The token given, else the one that the hub's own login left; its words are not repeated."""
    utils = _library().utils
    try:
        token = utils.get_token_to_send(given.strip() if given else None)
    except Exception as error:  # a broken login may raise anything; the token is optional
        raise InputError(
            f"the stored hub token cannot be read ({reason(error)}); give one by HF_TOKEN"
        ) from error
    if token and not re.fullmatch(r"[!-~]+", token):
        raise InputError("the hub token holds characters that no token has; copy it again")
    return str(token) if token else None


def _revision(given: str | None) -> str:
    revision = given or "main"
    if not re.fullmatch(r"\w[\w./-]*", revision, re.ASCII) or ".." in revision:
        raise InputError(
            f"revision {shown(revision)!r} is no branch, tag or commit; leave it out for main"
        )
    return revision


# --- what may go wrong ---


def _offline(repo: str) -> InputError:
    return InputError(
        f"{repo} is not complete in {local.hub_cache()}, and offline is set; leave out --offline "
        "and unset HF_HUB_OFFLINE to fetch it"
    )


def _kinds(error: BaseException) -> set[str]:
    """The names of an exception's classes. httpx has been renamed once, its classes have not."""
    return {kind.__name__ for kind in type(error).__mro__}


def _cause(error: BaseException, host: str) -> str:
    """Why a connection failed, in words."""
    one: BaseException | None = error
    while one is not None:
        if isinstance(one, socket.gaierror):
            return f"the name {host} cannot be looked up ({reason(one)})"
        if isinstance(one, ConnectionRefusedError):
            return "the connection was refused"
        if isinstance(one, ssl.SSLError):
            return f"the secure connection failed ({reason(one)})"
        one = one.__cause__ or one.__context__
    if "ProxyError" in _kinds(error):
        return f"the proxy refused ({reason(error)}); check HTTPS_PROXY"
    return "no answer in time" if "TimeoutException" in _kinds(error) else reason(error)


def _unreachable(hub: _Hub, error: BaseException) -> Failure:
    cause = _cause(error, urlsplit(hub.endpoint).hostname or hub.endpoint)
    if _kinds(error) & NO_CONNECTION:
        return _NoConnection(
            f"{hub.endpoint} cannot be reached: {cause}; check the connection, or name another "
            "address of the hub by --endpoint or HF_ENDPOINT"
        )
    kind = _Passing if "TransportError" in _kinds(error) else Failure
    return kind(
        f"the connection to {hub.endpoint} broke off: {cause}; run the same command again, "
        "it goes on where it stopped"
    )


def _forbidden(hub: _Hub, error: Exception, status: int) -> InputError:
    if isinstance(error, _library().errors.GatedRepoError):
        return InputError(
            f"{hub.repo} is gated: accept its terms at {hub.endpoint}/{hub.repo}, then give your "
            "token by HF_TOKEN or --token"
        )
    if hub.token:
        return InputError(
            f"{hub.repo}: the hub refuses this token (HTTP {status}); check the name, and that "
            "the token may read it"
        )
    return InputError(
        f"{hub.repo} does not exist at {hub.endpoint} or is private (HTTP {status}); "
        "check the spelling, or give a token by HF_TOKEN or --token"
    )


def _refusal(hub: _Hub, file: str, error: Exception, response: Any) -> Exception:
    """An answer of 400 and above in one line."""
    status, headers = response.status_code, response.headers
    if status in (401, 403):
        return _forbidden(hub, error, status)
    if isinstance(error, _library().errors.RevisionNotFoundError):
        return InputError(
            f"{hub.repo} has no revision {hub.revision!r} at {hub.endpoint}; "
            "give a branch, tag or full commit"
        )
    if status == 404:
        return InputError(
            f"there is no model {hub.repo} at {hub.endpoint} (HTTP 404); check the spelling"
        )
    if status == 429:
        wait = headers.get("Retry-After", "")
        when = f"in {wait} seconds" if wait.isdigit() else "later"
        return _Passing(
            f"{hub.endpoint} is asked too often (HTTP 429); try again {when}, or give a token"
        )
    said = shown(" ".join(headers.get("X-Error-Message", "").split())[:200])
    message = f"{hub.endpoint} answers HTTP {status} for {file}{': ' + said if said else ''}"
    if status >= 500:
        return _Passing(f"{message}; its server has a fault, try again later")
    return InputError(f"{message}; check the name and the endpoint")


@contextmanager
def _network(hub: _Hub, file: str) -> Iterator[None]:
    """Turn what huggingface_hub and the HTTP library raise into one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, _library().errors.OfflineModeIsEnabled):
            raise _offline(hub.repo) from error
        if not _kinds(error) & HTTP_ERRORS:
            raise
        response = getattr(error, "response", None)
        if response is None:
            raise _unreachable(hub, error) from error
        raise _refusal(hub, file, error, response) from error


@contextmanager
def _writing(hub: _Hub) -> Iterator[None]:
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


def _patiently(
    attempt: Callable[[], T],
    waits: tuple[float, ...],
    passing: tuple[type[Failure], ...] = (_Passing,),
    have: Callable[[], int] = int,
) -> T:
    """Try again what may pass; as long as there is more to `have`, it goes on, if slowly."""
    left, before = list(waits), have()
    while True:
        try:
            return attempt()
        except passing:
            if have() > before:
                left, before = list(waits), have()
            if not left:
                raise
        time.sleep(left.pop(0))


# --- what the hub says of a file ---


def _described(hub: _Hub, file: str) -> Any:
    """The first answer that describes the file, following redirects until then.

    The token goes only to the address that it was given for. The library's get_hf_file_metadata
    would pass by the answer of a mirror that redirects to itself, and 1.0 may go in circles.
    """
    url, headers = hub.url(file), hub.headers()
    for _ in range(10):
        answer = _session().request(
            "HEAD", url, headers=headers, follow_redirects=False, timeout=_timeout()
        )
        _library().utils.hf_raise_for_status(answer)
        if not answer.has_redirect_location or (
            COMMIT in answer.headers and ETAG in answer.headers
        ):
            return answer
        url, last = urljoin(url, answer.headers["Location"]), url
        if urlsplit(url)[:2] != urlsplit(last)[:2]:
            if COMMIT in answer.headers:
                return answer
            headers.pop("authorization", None)
    raise Failure(f"{hub.endpoint} sends {file} in a circle of redirects; check the endpoint")


def _ask(hub: _Hub, file: str) -> Any:
    """The answer that describes a file; None when the model has no such file."""
    errors = _library().errors
    with _network(hub, file):
        try:
            return _described(hub, file)
        except errors.HfHubHTTPError as error:
            known = isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError)
            if error.response.status_code == 404 and not known:
                return None
            raise


def _look(hub: _Hub, file: str) -> _Remote | None:
    """What the hub says of a file; None when the model has no such file."""
    answer = _patiently(lambda: _ask(hub, file), WAITS[:2])
    if answer is None:
        return None
    headers = answer.headers
    etag = (headers.get(ETAG) or headers.get("ETag", "")).removeprefix("W/").strip('"')
    commit = headers.get(COMMIT, "")  # like the etag, it becomes the name of a file
    if not re.fullmatch(r"[\w-]{1,64}", commit) or not re.fullmatch(r"[\w-]{1,128}", etag):
        raise Failure(
            f"{hub.endpoint} does not answer as the hub does (no {COMMIT} or ETag for {file}); "
            "check the endpoint, and whether a proxy or a login page stands before it"
        )
    length = "" if answer.has_redirect_location else headers.get("Content-Length", "")
    size = headers.get(SIZE, length)
    return _Remote(file, commit, etag, int(size) if size.isdigit() else None)


# --- one file ---


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _start(hub: _Hub, remote: _Remote, answer: Any, path: Path, have: int) -> int:
    """Where the bytes of an answer belong; 0 when the server sends the whole file."""
    if answer.status_code not in (206, 416):
        answer.raise_for_status()
        return 0
    begin = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    if have and begin and int(begin[1]) == have:
        return have
    path.unlink(missing_ok=True)  # it understood something else; from the start, then
    raise _Passing(f"{hub.endpoint} cannot go on with {remote.file}; run the command again")


def _receive(hub: _Hub, remote: _Remote, path: Path, progress: Progress | None) -> None:
    """One request for what is missing of a file; bytes are kept as they come."""
    have, headers = _length(path), hub.headers()
    if have:
        headers["range"] = f"bytes={have}-"
    # On the way to another host the HTTP library takes the token off.
    with _session().stream(
        "GET", hub.url(remote.file), headers=headers, follow_redirects=True, timeout=_timeout()
    ) as answer:
        have = _start(hub, remote, answer, path, have)
        with path.open("r+b" if have else "wb") as file:
            file.seek(have)
            for piece in answer.iter_bytes():
                file.write(piece)
                have += len(piece)
                if progress:
                    progress(remote.file, have, remote.size)
                if remote.size is not None and have > remote.size:
                    break  # it can only be wrong, the check will say how


def _fetch(hub: _Hub, remote: _Remote, path: Path, progress: Progress | None) -> None:
    """Fetch a file to `path`, going on with what lies there. Cut transfers are taken up again."""

    def attempt() -> None:
        if remote.size is not None and path.exists() and _length(path) >= remote.size:
            return
        with _network(hub, remote.file):
            _receive(hub, remote, path, progress)
        if _length(path) < (remote.size or 0):
            raise _Passing(f"{hub.endpoint} sent too little of {remote.file}; run it again")

    _patiently(attempt, WAITS, (_Passing, _NoConnection), lambda: _length(path))


def _need_room(hub: _Hub, remote: _Remote, path: Path) -> None:
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


def _fault(remote: _Remote, path: Path) -> str | None:
    """What is wrong with a file that should be whole; None when it is as the hub says."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"it has {size} bytes, expected {remote.size}"
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", remote.etag):
        return None  # an etag that is no hash proves nothing
    found = _hashes(path, remote.etag)
    if remote.etag in found:
        return None
    kind = "sha256" if len(found) == 1 else "git hash"
    return f"its {kind} is {found[0]}, expected {remote.etag}"


def _fetch_checked(hub: _Hub, remote: _Remote, path: Path, progress: Progress | None) -> None:
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


def _obtain(hub: _Hub, remote: _Remote, force: bool, progress: Progress | None) -> None:
    """Have a checked file in the snapshot: the one that is there, else a fetched one."""
    blob = hub.folder / "blobs" / remote.etag
    pointer = hub.folder / "snapshots" / remote.commit / remote.file
    partial = blob.with_name(f"{remote.etag}.incomplete")  # older versions of the hub go on with it
    there = next((path for path in (blob, pointer) if path.is_file()), None)
    if there and not force and _fault(remote, there) is None:
        if there == blob and not (pointer.is_symlink() and pointer.exists()):
            _link(blob, pointer)
        return
    if force:
        partial.unlink(missing_ok=True)
    _fetch_checked(hub, remote, partial, progress)
    partial.replace(blob)
    _link(blob, pointer)


def _get(hub: _Hub, remote: _Remote, force: bool, progress: Progress | None) -> None:
    """Have a file, after other processes that fetch the same one."""
    with _writing(hub):
        for folder in (hub.locks, hub.folder / "blobs"):
            folder.mkdir(parents=True, exist_ok=True)
        with _library().utils.WeakFileLock(hub.locks / f"{remote.etag}.lock"):
            _obtain(hub, remote, force, progress)


# --- one model ---


def _config(hub: _Hub) -> _Remote:
    config = _look(hub, "config.json")
    if config is None:
        raise InputError(
            f"there is no {hub.repo} with a config.json at {hub.endpoint}, revision "
            f"{hub.revision} (HTTP 404); check the spelling, and that it is for transformers"
        )
    if config.size and config.size > CONFIG_LIMIT:
        raise InputError(f"{hub.repo}: its config.json is too long to be one")
    return config


def _check_kind(hub: _Hub, config: _Remote) -> None:
    """Refuse what is no GPT-2, by a passing copy of its config.json: nothing of it is kept."""
    with _writing(hub):
        hub.locks.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=hub.locks) as folder:
            path = Path(folder) / config.file
            _fetch_checked(hub, config, path, None)
            values = parse_json(path.read_bytes(), f"{hub.repo}: config.json")
    named = values.get("architectures") or []
    named = [str(one) for one in named] if isinstance(named, list) else [str(named)]
    kind = values.get("model_type", "gpt2")
    if kind != "gpt2" or (named and not any(one.startswith("GPT2") for one in named)):
        what = shown(named[0] if kind == "gpt2" else str(kind))
        raise InputError(f"{hub.repo} is a {what}, not a GPT-2; nothing was fetched")


def _weights(hub: _Hub) -> _Remote:
    """The file that leads to the weights, safetensors first."""
    for name in WEIGHTS:
        remote = _look(hub, name)
        if remote:
            return remote
    raise InputError(
        f"{hub.repo} holds no weights that can be read ({', '.join(huggingface.WEIGHTS)}, whole "
        "or in shards); choose another model"
    )


def _shards(hub: _Hub, index: Path) -> Iterator[_Remote]:
    for path in huggingface.shards(index):
        shard = _look(hub, path.name)
        if shard is None:
            raise InputError(f"{hub.repo}: {index.name} names {path.name}, which is missing")
        yield shard


def _snapshot(hub: _Hub, force: bool, progress: Progress | None) -> Path:
    config = _config(hub)
    pinned = replace(hub, revision=config.commit)  # the branch may move while we fetch
    folder = hub.folder / "snapshots" / config.commit
    _check_kind(pinned, config)
    weights = _weights(pinned)
    extras = [remote for name in EXTRAS if (remote := _look(pinned, name))]
    for remote in (config, *extras, weights):
        _get(pinned, remote, force, progress)
    if weights.file in huggingface.SHARDED:
        for shard in _shards(pinned, folder / weights.file):
            _get(pinned, shard, force, progress)
    if hub.revision != config.commit:  # so that a branch or tag is found without the network
        ref = hub.folder / "refs" / hub.revision
        with _writing(hub):
            ref.parent.mkdir(parents=True, exist_ok=True)
            write_whole(ref, config.commit)
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
    take what is in the cache. force: fetch again what is there. Raises InputError for what the
    caller can mend (no such model, not a GPT-2, no access, read-only cache) and Failure for what
    befell it (network, full disk, a damaged transfer); either is one line.
    """
    repo = local.hub_name(name)
    if repo is None:
        raise InputError(
            f"{shown(name)!r} is no model of the hub; give an official size "
            f"({', '.join(OFFICIAL)}) or a hub name (owner/name)"
        )
    revision = _revision(revision)
    kept = local.snapshot(repo, revision)
    if offline or is_offline():
        if force:
            raise InputError("force fetches again what is there, offline forbids it; give one")
        if kept is None:
            raise _offline(repo)
        return kept
    hub = _Hub(_endpoint(endpoint), repo, revision, _token(token), local.repo_folder(repo))
    try:
        return _snapshot(hub, force, progress)
    except Failure as error:
        if kept is None:
            raise
        raise Failure(f"{error}. An earlier copy is whole: {kept} (--offline takes it)") from error
