"""Ask the Hugging Face hub, or a mirror of it, for a file: the address, the answers, the errors.

huggingface_hub brings the HTTP session, the token, the errors and the settings (HF_ENDPOINT,
HF_HUB_OFFLINE, HF_TOKEN, HF_HUB_DOWNLOAD_TIMEOUT, proxies). Whatever a server answers, a user sees
one line, and no line repeats a password. Keeping files is `download`'s.

Only `/<owner>/<name>/resolve/<revision>/<file>` is asked for, so any mirror that serves files will
do.

Source: huggingface_hub 2.4 `file_download.py` (the headers).
"""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

from gpt2lab import __version__
from gpt2lab.errors import Failure, InputError, quoted
from gpt2lab.files.visible import reason, shown
from gpt2lab.weights import find

T = TypeVar("T")

ENDPOINT = "https://huggingface.co"
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try, while no byte arrives
REDIRECTS = 10
TRUE = ("1", "ON", "YES", "TRUE")  # what huggingface_hub takes for true

#: The HTTP library's errors before a connection stands.
NO_CONNECTION = {"ConnectError", "ConnectTimeout", "ProxyError"}
WEB = ("http", "https")
HTTP_ERRORS = {"HTTPError", "InvalidURL", "CookieConflict", "StreamError"}
COMMIT, ETAG, SIZE = "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size"


class Passing(Failure):
    """A failure that a further try may mend: a server's fault, a cut transfer."""


class NoConnection(Failure):
    """Nothing answers; worth a further try only where something has answered before."""


@dataclass(frozen=True)
class Hub:
    """One model at one address: everything a request needs.

    endpoint: without a name and password, so that it may stand in messages. login: what it held of
    them, as the header that sends it; the token's place, as there is but one.
    """

    endpoint: str
    login: str | None
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
        if self.login or self.token:
            headers["authorization"] = self.login or f"Bearer {self.token}"
        return headers


@dataclass(frozen=True)
class Remote:
    """One file at one commit, as the hub describes it. limit: bytes that it may have at most."""

    file: str
    commit: str
    etag: str  # sha256 of a large file, git's blob hash of a small one
    size: int | None
    limit: int

    @property
    def is_hashed(self) -> bool:
        """Whether the etag is a hash; any other proves nothing of the bytes."""
        return bool(re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", self.etag))

    def too_long(self, repo: str) -> InputError:
        return InputError(
            f"{repo}: its {self.file} is too long to be one (at most {self.limit:,} bytes are "
            "taken); it is damaged or no file of a GPT-2"
        )


# --- settings ---


def _hidden(text: str) -> str:
    """A text without the name and password of an address in it."""
    return re.sub(r"//\S*@", "//", text)


def library() -> Any:
    """huggingface_hub, imported when the network is wanted, without its remarks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import huggingface_hub.errors
            import huggingface_hub.utils
        except ValueError as error:  # HF_HUB_DOWNLOAD_TIMEOUT=soon
            raise InputError(f"a variable HF_... of the environment is wrong: {error}") from error
    return huggingface_hub


def _kinds(error: BaseException) -> set[str]:
    """The names of an exception's classes. httpx has been renamed once, its classes have not."""
    return {kind.__name__ for kind in type(error).__mro__}


def _is_http(error: BaseException) -> bool:
    return bool(_kinds(error) & HTTP_ERRORS)


def _session() -> Any:
    utils = library().utils
    try:
        return utils.get_session()
    except Exception as error:  # no such certificate file, a proxy that is no address
        if not isinstance(error, OSError | ValueError | ImportError) and not _is_http(error):
            raise
        why = "" if _is_http(error) else f" ({_hidden(reason(error))})"  # it repeats half a login
        raise InputError(
            f"the network settings of the environment cannot be used{why}; "
            "check HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
        ) from error


def _timeout() -> float:
    return float(library().constants.HF_HUB_DOWNLOAD_TIMEOUT)


def is_offline() -> bool:
    """Whether the environment forbids the network, in huggingface_hub's or transformers' words."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in TRUE


def endpoint_and_login(given: str | None) -> tuple[str, str | None]:
    """The address of the hub, and the name and password in it as the header that sends them."""
    endpoint = (given or os.environ.get("HF_ENDPOINT") or ENDPOINT).strip().rstrip("/")
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in WEB and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable or not endpoint.isprintable() or " " in endpoint:
        said = re.sub(r"^(\w+://)?.*@", r"\1", endpoint, flags=re.DOTALL)
        raise InputError(
            f"endpoint {quoted(said)} is no address; give one such as {ENDPOINT} by --endpoint or "
            "HF_ENDPOINT"
        )
    login, at, host = parts.netloc.rpartition("@")
    code = base64.b64encode(unquote(login).encode()).decode()
    return parts._replace(netloc=host).geturl(), f"Basic {code}" if at else None


def token_of(given: str | None) -> str | None:
    """The token given, else the one that the hub's own login left; its words are not repeated."""
    utils = library().utils
    try:
        token = utils.get_token_to_send(given.strip() if given else None)
    except Exception as error:  # a broken login may raise anything; the token is optional
        raise InputError(
            f"the stored hub token cannot be read ({reason(error)}); give one by HF_TOKEN"
        ) from error
    if token and not re.fullmatch(r"[!-~]+", token):
        raise InputError("the hub token holds characters that no token has; copy it again")
    return str(token) if token else None


def revision_of(given: str | None) -> str:
    revision = given or "main"
    if not re.fullmatch(r"\w[\w./-]*", revision, re.ASCII) or ".." in revision:
        raise InputError(
            f"revision {shown(revision)!r} is no branch, tag or commit; leave it out for main"
        )
    return revision


# --- what may go wrong ---


def offline(repo: str) -> InputError:
    return InputError(
        f"{repo} is not complete in {find.hub_cache()}, and offline is set; leave out --offline "
        "and unset HF_HUB_OFFLINE to fetch it"
    )


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
        return f"the proxy refused ({_hidden(reason(error))}); check HTTPS_PROXY"
    return "no answer in time" if "TimeoutException" in _kinds(error) else _hidden(reason(error))


def _odd_address(hub: Hub, file: str) -> Failure:
    return Failure(
        f"{hub.endpoint} sends {file} to what is no address of http or https; check the endpoint, "
        "and whether a proxy or a login page stands before it"
    )


def _unreachable(hub: Hub, file: str, error: BaseException) -> Failure:
    if _kinds(error) & {"InvalidURL", "UnsupportedProtocol"}:
        return _odd_address(hub, file)
    cause = _cause(error, urlsplit(hub.endpoint).hostname or hub.endpoint)
    if _kinds(error) & NO_CONNECTION:
        return NoConnection(
            f"{hub.endpoint} cannot be reached: {cause}; check the connection, or name another "
            "address of the hub by --endpoint or HF_ENDPOINT"
        )
    kind = Passing if "TransportError" in _kinds(error) else Failure
    return kind(
        f"the connection to {hub.endpoint} broke off: {cause}; run the same command again, "
        "it goes on where it stopped"
    )


def _forbidden(hub: Hub, error: Exception, status: int) -> InputError:
    if isinstance(error, library().errors.GatedRepoError):
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


def _refusal(hub: Hub, file: str, error: Exception, response: Any) -> Exception:
    """An answer of 400 and above in one line."""
    status, headers = response.status_code, response.headers
    if status in (401, 403):
        return _forbidden(hub, error, status)
    if isinstance(error, library().errors.RevisionNotFoundError):
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
        when = f"in {wait} seconds" if re.fullmatch(r"[0-9]{1,6}", wait) else "later"
        return Passing(
            f"{hub.endpoint} is asked too often (HTTP 429); try again {when}, or give a token"
        )
    said = shown(" ".join(headers.get("X-Error-Message", "").split())[:200])
    message = f"{hub.endpoint} answers HTTP {status} for {file}{': ' + said if said else ''}"
    if status >= 500:
        return Passing(f"{message}; its server has a fault, try again later")
    return InputError(f"{message}; check the name and the endpoint")


@contextmanager
def network(hub: Hub, file: str) -> Iterator[None]:
    """Turn what huggingface_hub and the HTTP library raise into one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, library().errors.OfflineModeIsEnabled):
            raise offline(hub.repo) from error
        if isinstance(error, UnicodeError):  # a host name that cannot be encoded
            raise _odd_address(hub, file) from error
        if not _is_http(error):
            raise
        response = getattr(error, "response", None)
        if response is None:
            raise _unreachable(hub, file, error) from error
        raise _refusal(hub, file, error, response) from error


def patiently(
    attempt: Callable[[], T],
    waits: tuple[float, ...],
    passing: tuple[type[Failure], ...] = (Passing,),
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


def _next(hub: Hub, file: str, url: str, answer: Any, headers: dict[str, str]) -> str:
    """Where an answer sends us. What opens the hub's door is not shown at another's."""
    try:
        there = urljoin(url, answer.headers["Location"])
        parts = urlsplit(there)
        is_web = parts.scheme in WEB and parts.hostname and re.fullmatch(r"[!-~]+", parts.netloc)
        is_web = is_web and parts.port != 0
    except ValueError:  # brackets, a port that is no number
        is_web = False
    if not is_web:
        raise _odd_address(hub, file)
    if parts[:2] != urlsplit(url)[:2]:
        headers.pop("authorization", None)
    return there


def _in_circles(hub: Hub, file: str) -> Failure:
    return Failure(f"{hub.endpoint} sends {file} in a circle of redirects; check the endpoint")


def _described(hub: Hub, file: str) -> Any:
    """The first answer that describes the file, following redirects until then.

    The token goes only to the address that it was given for. The library's get_hf_file_metadata
    would pass by the answer of a mirror that redirects to itself, and 1.0 may go in circles.
    """
    url, headers = hub.url(file), hub.headers()
    for _ in range(REDIRECTS):
        answer = _session().request(
            "HEAD", url, headers=headers, follow_redirects=False, timeout=_timeout()
        )
        library().utils.hf_raise_for_status(answer)
        has_all = COMMIT in answer.headers and ETAG in answer.headers
        if not answer.has_redirect_location or has_all:
            return answer
        url, last = _next(hub, file, url, answer, headers), url
        if urlsplit(url)[:2] != urlsplit(last)[:2] and COMMIT in answer.headers:
            return answer
    raise _in_circles(hub, file)


@contextmanager
def opened(hub: Hub, file: str, begin: int) -> Iterator[Any]:
    """The answer that sends a file, from byte `begin` if the server can."""
    url, headers = hub.url(file), hub.headers()
    if begin:
        headers["range"] = f"bytes={begin}-"
    for _ in range(REDIRECTS):
        with _session().stream(
            "GET", url, headers=headers, follow_redirects=False, timeout=_timeout()
        ) as answer:
            if not answer.has_redirect_location:
                yield answer
                return
            url = _next(hub, file, url, answer, headers)
    raise _in_circles(hub, file)


def _ask(hub: Hub, file: str) -> Any:
    """The answer that describes a file; None when the model has no such file."""
    errors = library().errors
    with network(hub, file):
        try:
            return _described(hub, file)
        except errors.HfHubHTTPError as error:
            known = isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError)
            if error.response.status_code == 404 and not known:
                return None
            raise


def look(hub: Hub, file: str, limit: int) -> Remote | None:
    """What the hub says of a file; None when the model has no such file.

    Raises Failure where nothing could tell whether the file arrives whole.
    """
    answer = patiently(lambda: _ask(hub, file), WAITS[:2])
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
    known = int(size) if re.fullmatch(r"[0-9]{1,18}", size) else None
    remote = Remote(file, commit, etag, known, limit)
    if known is None and not remote.is_hashed:
        raise Failure(
            f"{hub.endpoint} gives neither a hash nor a size for {file}, so nothing can tell "
            "whether it arrives whole; name another endpoint"
        )
    if known is not None and known > limit:
        raise remote.too_long(hub.repo)
    return remote
