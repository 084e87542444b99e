"""Fetch a GPT-2 from the Hugging Face hub, or a mirror of it, into the cache all its tools share.

Only the files that a model needs are fetched, each is checked against the hash that the hub gives,
and a transfer that was cut goes on where it stopped, also in a later call. huggingface_hub brings
the HTTP session, the token, the locks and the settings (HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN,
HF_HUB_CACHE, HF_HUB_DOWNLOAD_TIMEOUT, proxies). Its own `snapshot_download` is not used: it (2.4)
throws a partial file away when a call ends, and it does not check hashes.

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
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urljoin, urlsplit

from gpt2lab import __version__
from gpt2lab.errors import Failure, InputError
from gpt2lab.files import parse_json, reason, shown
from gpt2lab.weights import huggingface, local
from gpt2lab.weights.local import OFFICIAL

__all__ = ["OFFICIAL", "Progress", "download"]

#: Called while a file arrives with its name, the bytes that are there, and all of them (or None).
Progress = Callable[[str, int, int | None], None]

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
CHUNK = 1 << 20
TRUE = ("1", "ON", "YES", "TRUE")  # what huggingface_hub takes for true

#: The HTTP library's errors before a connection stands.
NO_CONNECTION = {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"}
COMMIT, ETAG, SIZE, CODE = "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size", "X-Error-Code"


class _Passing(Failure):
    """A failure that a further try may mend: a server's fault, a cut transfer."""


@dataclass(frozen=True)
class _Hub:
    """One model at one address: everything a request needs."""

    endpoint: str
    repo: str
    revision: str
    token: str | None
    folder: Path  # models--owner--name in the cache

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
            import huggingface_hub.constants
            import huggingface_hub.utils
        except ValueError as error:  # HF_HUB_DOWNLOAD_TIMEOUT=soon
            raise InputError(f"a variable HF_... of the environment is wrong: {error}") from error
    return huggingface_hub


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
    try:
        token = _library().utils.get_token_to_send(given.strip() if given else None)
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


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _kinds(error: BaseException) -> set[str]:
    """The names of an exception's classes. httpx has been renamed once, its classes have not."""
    return {kind.__name__ for kind in type(error).__mro__}


def _cause(error: BaseException, host: str) -> str:
    """Why a connection failed, in words."""
    for one in _causes(error):
        if isinstance(one, socket.gaierror):
            return f"the name {host} cannot be looked up ({reason(one)})"
        if isinstance(one, ConnectionRefusedError):
            return "the connection was refused"
        if isinstance(one, ssl.SSLError):
            return f"the secure connection failed ({reason(one)})"
    kinds = _kinds(error)
    if "ProxyError" in kinds:
        return f"the proxy refused ({reason(error)}); check HTTPS_PROXY"
    if "TimeoutException" in kinds:
        return "no answer in time"
    return reason(error)


def _unreachable(hub: _Hub, error: BaseException) -> Failure:
    cause = _cause(error, urlsplit(hub.endpoint).hostname or hub.endpoint)
    if not _kinds(error) & NO_CONNECTION:
        return Failure(
            f"the connection to {hub.endpoint} broke off: {cause}; run the same command again, "
            "it goes on where it stopped"
        )
    return Failure(
        f"{hub.endpoint} cannot be reached: {cause}; check the connection, or name another "
        "address of the hub by --endpoint or HF_ENDPOINT"
    )


def _forbidden(hub: _Hub, response: Any) -> NoReturn:
    page = f"{hub.endpoint}/{hub.repo}"
    if response.headers.get(CODE) == "GatedRepo":
        raise InputError(
            f"{hub.repo} is gated: accept its terms at {page}, then give your token by HF_TOKEN "
            "or --token"
        )
    if hub.token:
        raise InputError(
            f"{hub.repo}: the hub refuses this token (HTTP {response.status_code}); check the "
            "name, and that the token may read it"
        )
    raise InputError(
        f"{hub.repo} does not exist at {hub.endpoint} or is private (HTTP {response.status_code}); "
        "check the spelling, or give a token by HF_TOKEN or --token"
    )


def _refuse(hub: _Hub, file: str, response: Any) -> NoReturn:
    """Turn an answer of 400 and above into one line."""
    status, code = response.status_code, response.headers.get(CODE, "")
    if status in (401, 403):
        _forbidden(hub, response)
    if code == "RevisionNotFound":
        raise InputError(
            f"{hub.repo} has no revision {hub.revision!r} at {hub.endpoint}; "
            "give a branch, tag or full commit"
        )
    if status == 404:
        raise InputError(
            f"there is no model {hub.repo} at {hub.endpoint} (HTTP 404); check the spelling"
        )
    if status == 429:
        wait = response.headers.get("Retry-After", "")
        when = f"in {wait} seconds" if wait.isdigit() else "later"
        raise _Passing(
            f"{hub.endpoint} is asked too often (HTTP 429); try again {when}, or give a token"
        )
    said = shown(" ".join(response.headers.get("X-Error-Message", "").split())[:200])
    message = f"{hub.endpoint} answers HTTP {status} for {file}{': ' + said if said else ''}"
    if status >= 500:
        raise _Passing(f"{message}; its server has a fault, try again later")
    raise InputError(f"{message}; check the name and the endpoint")


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


# --- requests ---


def _session() -> Any:
    try:
        return _library().utils.get_session()
    except (OSError, ValueError, ImportError) as error:  # no such certificate file, odd proxy
        raise InputError(
            f"the network settings of the environment cannot be used ({reason(error)}); "
            "check HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
        ) from error


def _timeout() -> float:
    return float(_library().constants.HF_HUB_DOWNLOAD_TIMEOUT)


def _is_passing(error: BaseException, connected: bool = False) -> bool:
    """Whether a further try may help; while nothing has answered, a failed connection is final."""
    kinds = _kinds(error)
    if "TransportError" in kinds:
        return connected or not kinds & NO_CONNECTION
    return isinstance(error, _Passing)


@contextmanager
def _network(hub: _Hub) -> Iterator[None]:
    """Turn what the HTTP library raises into one line."""
    try:
        yield
    except (InputError, Failure):
        raise
    except Exception as error:
        if isinstance(error, OSError) and "OfflineModeIsEnabled" in _kinds(error):
            raise _offline(hub.repo) from error
        if not _kinds(error) & {"HTTPError", "InvalidURL", "CookieConflict", "StreamError"}:
            raise
        raise _unreachable(hub, error) from error


def _ask(hub: _Hub, url: str, headers: dict[str, str]) -> Any:
    """The answer to one HEAD request; a server's fault and a cut connection are tried again."""
    for wait in (*WAITS[:2], None):
        try:
            response = _session().request(
                "HEAD", url, headers=headers, follow_redirects=False, timeout=_timeout()
            )
            if wait is None or (response.status_code < 500 and response.status_code != 429):
                return response
        except Exception as error:
            if wait is None or not _is_passing(error):
                raise
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _described(hub: _Hub, file: str) -> Any:
    """The first answer that describes the file, following redirects until then.

    The token goes only to the address that it was given for.
    """
    url, headers = hub.url(file), hub.headers()
    for _ in range(10):
        response = _ask(hub, url, headers)
        target = response.headers.get("Location")
        is_known = COMMIT in response.headers and ETAG in response.headers
        if not 300 <= response.status_code < 400 or not target or is_known:
            return response
        url, last = urljoin(url, target), url
        if _origin(url) != _origin(last):
            if COMMIT in response.headers:
                return response
            headers.pop("authorization", None)
    raise Failure(f"{hub.endpoint} sends {file} in a circle of redirects; check the endpoint")


def _header(response: Any, *names: str) -> str:
    return next((response.headers[name] for name in names if name in response.headers), "")


def _look(hub: _Hub, file: str) -> _Remote | None:
    """What the hub says of a file; None when the model has no such file."""
    with _network(hub):
        response = _described(hub, file)
    if response.status_code == 404 and response.headers.get(CODE) in (None, "EntryNotFound"):
        return None
    if response.status_code >= 400:
        _refuse(hub, file, response)
    commit = _header(response, COMMIT)
    etag = _header(response, ETAG, "ETag").removeprefix("W/").strip('"')
    # Both become names of files.
    if not re.fullmatch(r"[\w-]{1,64}", commit) or not re.fullmatch(r"[\w-]{1,128}", etag):
        raise Failure(
            f"{hub.endpoint} does not answer as the hub does (no {COMMIT} or ETag for {file}); "
            "check the endpoint, and whether a proxy or a login page stands before it"
        )
    is_redirect = response.status_code >= 300
    size = _header(response, SIZE, *(() if is_redirect else ("Content-Length",)))
    return _Remote(file, commit, etag, int(size) if size.isdigit() else None)


@contextmanager
def _reading(hub: _Hub, remote: _Remote, more: dict[str, str]) -> Iterator[Any]:
    """The answer to a GET request, open for reading."""
    headers = {**hub.headers(), **more}
    # On the way to another host the HTTP library takes the token off.
    with _session().stream(
        "GET", hub.url(remote.file), headers=headers, follow_redirects=True, timeout=_timeout()
    ) as answer:
        yield answer


def _small(hub: _Hub, remote: _Remote) -> bytes:
    data = b""
    with _reading(hub, remote, {}) as answer:
        if answer.status_code >= 400:
            _refuse(hub, remote.file, answer)
        for piece in answer.iter_bytes():
            data += piece
            if len(data) > CONFIG_LIMIT:
                raise InputError(f"{hub.repo}: its {remote.file} is too long to be one")
    return data


def _read_small(hub: _Hub, remote: _Remote) -> bytes:
    """A small file's bytes, for looking before anything is written."""
    for wait in WAITS[:2]:
        try:
            return _small(hub, remote)
        except Exception as error:
            if not _is_passing(error):
                raise
        time.sleep(wait)
    return _small(hub, remote)


# --- one file ---


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _start(hub: _Hub, remote: _Remote, answer: Any, path: Path, have: int) -> int:
    """Where the bytes of an answer belong; 0 when the server sends the whole file."""
    if answer.status_code == 206:
        begin = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        if have and begin and int(begin[1]) == have:
            return have
    if answer.status_code in (206, 416):  # it understood something else; from the start, then
        with _writing(hub):
            path.unlink(missing_ok=True)
        raise _Passing(f"{hub.endpoint} cannot go on with {remote.file}; run the command again")
    if answer.status_code >= 400:
        _refuse(hub, remote.file, answer)
    return 0


def _receive(hub: _Hub, remote: _Remote, path: Path, progress: Progress | None) -> None:
    """One request for what is missing of a file; bytes are kept as they come."""
    have = _length(path)
    with _reading(hub, remote, {"range": f"bytes={have}-"} if have else {}) as answer:
        have = _start(hub, remote, answer, path, have)
        with _writing(hub):
            file = path.open("r+b" if have else "wb")
        with file:
            file.seek(have)
            for piece in answer.iter_bytes():
                with _writing(hub):
                    file.write(piece)
                have += len(piece)
                if progress:
                    progress(remote.file, have, remote.size)
                if remote.size is not None and have > remote.size:
                    break  # it can only be wrong, the check will say how
            with _writing(hub):
                file.flush()


def _is_whole(remote: _Remote, path: Path) -> bool:
    return path.exists() and remote.size is not None and path.stat().st_size >= remote.size


def _fetch(hub: _Hub, remote: _Remote, path: Path, progress: Progress | None) -> None:
    """Fetch a file to `path`, going on with what lies there. Cut transfers are taken up again."""
    waits = list(WAITS)
    while not _is_whole(remote, path):
        before = _length(path)
        try:
            _receive(hub, remote, path, progress)
            if remote.size is None or _is_whole(remote, path):
                return
            raise _Passing(f"{hub.endpoint} sent too little of {remote.file}; run it again")
        except Exception as error:
            if _length(path) > before:
                waits = list(WAITS)  # it goes on, if slowly
            if not waits or not _is_passing(error, connected=True):
                raise
            time.sleep(waits.pop(0))


def _need_room(hub: _Hub, remote: _Remote, path: Path) -> None:
    missing, free = (remote.size or 0) - _length(path), shutil.disk_usage(path.parent).free
    if missing > free:
        raise Failure(
            f"{hub.folder}: {remote.file} needs {missing / 1e6:,.1f} MB more and the disk has "
            f"{free / 1e6:,.1f} MB free; make room, or set HF_HUB_CACHE to another disk"
        )


def _is_content(path: Path, etag: str) -> tuple[bool, str]:
    """Whether a file's hash is its etag, and the hash. An etag that is no hash proves nothing.

    The hub gives large files their sha256, small ones git's hash of the blob.
    """
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        digests = [hashlib.sha256()]
    elif re.fullmatch(r"[0-9a-f]{40}", etag):
        head = b"blob %d\0" % path.stat().st_size
        # A plain file server in the hub's place may name the bare content's hash.
        digests = [hashlib.sha1(start, usedforsecurity=False) for start in (head, b"")]
    else:
        return True, ""
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            for digest in digests:
                digest.update(piece)
    found = [digest.hexdigest() for digest in digests]
    return etag in found, found[0]


def _fault(remote: _Remote, path: Path) -> str | None:
    """What is wrong with a file that should be whole; None when it is as the hub says."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"it has {size} bytes, expected {remote.size}"
    is_right, found = _is_content(path, remote.etag)
    if is_right:
        return None
    kind = "sha256" if len(remote.etag) == 64 else "git hash"
    return f"its {kind} is {found}, expected {remote.etag}"


def _fetch_checked(hub: _Hub, remote: _Remote, path: Path, progress: Progress | None) -> None:
    """Fetch a file and check it. A wrong one is removed; what was resumed is fetched once afresh,
    as the part from an earlier call may have been the bad one."""
    fault = None
    for _ in range(2 if path.exists() else 1):
        _need_room(hub, remote, path)
        with _network(hub):
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


def _obtain(
    hub: _Hub, remote: _Remote, force: bool, progress: Progress | None, content: bytes | None = None
) -> None:
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
    if content is not None:
        partial.write_bytes(content)
    _fetch_checked(hub, remote, partial, progress)
    partial.replace(blob)
    _link(blob, pointer)


@contextmanager
def _alone(hub: _Hub, remote: _Remote) -> Iterator[None]:
    """Wait for other processes that fetch the same file."""
    locks = hub.folder.parent / ".locks" / hub.folder.name
    with _writing(hub):
        locks.mkdir(parents=True, exist_ok=True)
        (hub.folder / "blobs").mkdir(parents=True, exist_ok=True)
        lock = _library().utils.WeakFileLock(locks / f"{remote.etag}.lock")
    with lock:
        yield


def _get(
    hub: _Hub, remote: _Remote, force: bool, progress: Progress | None, content: bytes | None = None
) -> None:
    with _writing(hub), _alone(hub, remote):
        _obtain(hub, remote, force, progress, content)


# --- one model ---


def _check_kind(hub: _Hub, data: bytes) -> None:
    """Refuse what is no GPT-2 by its config.json, before its weights are fetched."""
    values = parse_json(data, f"{hub.repo}: config.json")
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


def _keep_ref(hub: _Hub, commit: str) -> None:
    """Note which commit a branch or tag was at, so that the model is found without the network."""
    if hub.revision == commit:
        return
    path = hub.folder / "refs" / hub.revision
    with _writing(hub):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.write_text(commit, encoding="ascii")
        temporary.replace(path)


def _snapshot(hub: _Hub, force: bool, progress: Progress | None) -> Path:
    config = _look(hub, "config.json")
    if config is None:
        raise InputError(
            f"there is no {hub.repo} with a config.json at {hub.endpoint}, revision "
            f"{hub.revision} (HTTP 404); check the spelling, and that it is for transformers"
        )
    pinned = replace(hub, revision=config.commit)  # the branch may move while we fetch
    with _network(hub):
        content = _read_small(pinned, config)
    _check_kind(hub, content)
    weights = _weights(pinned)
    _get(pinned, config, force, progress, content)
    for remote in filter(None, (_look(pinned, name) for name in EXTRAS)):
        _get(pinned, remote, force, progress)
    _get(pinned, weights, force, progress)
    folder = hub.folder / "snapshots" / config.commit
    if weights.file in huggingface.SHARDED:
        for path in huggingface.shards(folder / weights.file):
            shard = _look(pinned, path.name)
            if shard is None:
                raise InputError(f"{hub.repo}: {weights.file} names {path.name}, which is missing")
            _get(pinned, shard, force, progress)
    _keep_ref(hub, config.commit)
    return folder


def _offline(repo: str) -> InputError:
    return InputError(
        f"{repo} is not complete in {local.hub_cache()}, and offline is set; leave out --offline "
        "and unset HF_HUB_OFFLINE to fetch it"
    )


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
