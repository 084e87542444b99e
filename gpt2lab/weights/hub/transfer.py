"""Requests to the Hugging Face hub, or a mirror of it: what it says of a file, and its bytes.

huggingface_hub brings the HTTP session, which follows redirects. Only
`/<owner>/<name>/resolve/<revision>/<file>` is asked for, so any mirror that serves files will do.
Whatever goes wrong between this machine and the hub is one line with a next step.

Source: huggingface_hub 2.4 `file_download.py` (the headers).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from gpt2lab.errors import Failure, InputError
from gpt2lab.files.visible import reason, shown
from gpt2lab.weights import find
from gpt2lab.weights.hub.address import Hub, library

T = TypeVar("T")
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try, while no byte arrives
COMMIT, ETAG, SIZE = "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size"


class Passing(Failure):
    """A failure that a further try may mend: a server's fault, a cut transfer."""


class NoConnection(Failure):
    """Nothing answers; worth a further try only where something has answered before."""


# --- what goes wrong ---


def offline(repo: str) -> InputError:
    return InputError(
        f"{repo} is not complete in {find.hub_cache()}, and offline is set; leave out --offline "
        "and unset HF_HUB_OFFLINE to fetch it"
    )


def _kinds(error: BaseException) -> set[str]:
    """The names of an exception's classes. httpx has been renamed once, its classes have not."""
    return {kind.__name__ for kind in type(error).__mro__}


def _is_http(error: BaseException) -> bool:
    return bool(_kinds(error) & {"HTTPError", "InvalidURL", "CookieConflict", "StreamError"})


def _cause(error: BaseException) -> str:
    """What the system said of a failed connection, else the HTTP library, without a password."""
    said, one = error, error.__cause__ or error.__context__
    while one is not None:
        said = one if isinstance(one, OSError) else said
        one = one.__cause__ or one.__context__
    return re.sub(r"//\S*@", "//", reason(said))


def _not_a_hub(hub: Hub, what: str) -> Failure:
    return Failure(
        f"{hub.endpoint} {what}; check the endpoint, and whether a proxy or a login page is in the "
        "way"
    )


def _unreachable(hub: Hub, file: str, error: BaseException) -> Failure:
    """No whole answer came."""
    kinds = _kinds(error)
    odd = {"TooManyRedirects", "InvalidURL", "UnsupportedProtocol", "UnicodeError"}
    if kinds & odd or "location header" in str(error):
        return _not_a_hub(hub, f"sends {file} in a circle, or to what is no address of the web")
    if kinds & {"ConnectError", "ConnectTimeout", "ProxyError"}:
        return NoConnection(
            f"{hub.endpoint} cannot be reached: {_cause(error)}; check the connection and "
            "HTTPS_PROXY, or name another address of the hub by --endpoint or HF_ENDPOINT"
        )
    kind = Passing if "TransportError" in kinds else Failure
    return kind(
        f"the connection to {hub.endpoint} broke off: {_cause(error)}; run the same command again, "
        "it resumes where it stopped"
    )


def _refusal(hub: Hub, file: str, error: Exception, response: Any) -> Exception:
    """An answer of 400 and above."""
    status, headers, errors = response.status_code, response.headers, library().errors
    if isinstance(error, errors.GatedRepoError):
        return InputError(
            f"{hub.repo} is gated: accept its terms at {hub.endpoint}/{hub.repo}, then give your "
            "token by HF_TOKEN or --token"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(
            f"{hub.repo} has no revision {hub.revision!r} at {hub.endpoint}; "
            "give a branch, tag or full commit"
        )
    if status in (401, 403) and hub.token:
        return InputError(
            f"{hub.repo}: the hub refuses this token (HTTP {status}); check the name, and that "
            "the token may read it"
        )
    if status in (401, 403, 404):
        return InputError(
            f"{hub.repo} does not exist at {hub.endpoint} or is private (HTTP {status}); "
            "check the spelling, or give a token by HF_TOKEN or --token"
        )
    said = shown(" ".join(headers.get("X-Error-Message", "").split())[:200])
    message = f"{hub.endpoint} answers HTTP {status} for {file}{': ' + said if said else ''}"
    if status < 500 and status != 429:
        return InputError(f"{message}; check the name and the endpoint")
    wait = headers.get("Retry-After", "")
    when = f"in {wait} seconds" if re.fullmatch(r"[0-9]{1,6}", wait) else "later"
    fault = "it is asked too often" if status == 429 else "it has a fault"
    return Passing(f"{message}; {fault}, try again {when}")


@contextmanager
def network(hub: Hub, file: str) -> Iterator[None]:
    """Turn what huggingface_hub and the HTTP library raise into one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, library().errors.OfflineModeIsEnabled):
            raise offline(hub.repo) from error
        response = getattr(error, "response", None)
        if response is not None:
            raise _refusal(hub, file, error, response) from error
        if _is_http(error) or isinstance(error, UnicodeError):  # a host that cannot be encoded
            raise _unreachable(hub, file, error) from error
        raise


def patiently(
    attempt: Callable[[], T],
    waits: tuple[float, ...],
    passing: tuple[type[Failure], ...] = (Passing,),
    have: Callable[[], int] = int,
) -> T:
    """Try again what may pass; as long as there is more to `have`, it continues, if slowly."""
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


# --- requests ---


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


def _timeout() -> float:
    return float(library().constants.HF_HUB_DOWNLOAD_TIMEOUT)


def _session() -> Any:
    utils = library().utils
    try:
        return utils.get_session()
    except Exception as error:  # no such certificate file, a proxy that is no address
        if not isinstance(error, OSError | ValueError | ImportError) and not _is_http(error):
            raise
        why = "" if _is_http(error) else f" ({_cause(error)})"  # it repeats half a login
        raise InputError(
            f"the network settings of the environment cannot be used{why}; "
            "check HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
        ) from error


@contextmanager
def opened(hub: Hub, file: str, begin: int) -> Iterator[Any]:
    """The answer that sends a file, from byte `begin` if the server can."""
    headers = hub.headers() | ({"range": f"bytes={begin}-"} if begin else {})
    with _session().stream(
        "GET", hub.url(file), headers=headers, follow_redirects=True, timeout=_timeout()
    ) as answer:
        yield answer


def _described(hub: Hub, file: str) -> Any:
    """The first answer that describes a file, following redirects; None when there is no such file.

    The HTTP library sends the token only to the address that it was given for.
    """
    with network(hub, file):
        last = _session().request(
            "HEAD", hub.url(file), headers=hub.headers(), follow_redirects=True, timeout=_timeout()
        )
        answers = [*last.history, last]
        for names in ((COMMIT, ETAG), (COMMIT,)):
            for answer in answers:
                if all(name in answer.headers for name in names) and answer.status_code < 400:
                    return answer
        errors = library().errors
        try:
            library().utils.hf_raise_for_status(last)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            raise
        except errors.HfHubHTTPError:
            if last.status_code != 404:
                raise
            return None
        return last


def look(hub: Hub, file: str, limit: int) -> Remote | None:
    """What the hub says of a file; None when the model has no such file.

    Raises Failure where nothing could tell whether the file arrives whole.
    """
    answer = patiently(lambda: _described(hub, file), WAITS[:2])
    if answer is None:
        return None
    headers = answer.headers
    etag = (headers.get(ETAG) or headers.get("ETag", "")).removeprefix("W/").strip('"')
    commit = headers.get(COMMIT, "")  # like the etag, it becomes the name of a file
    if not re.fullmatch(r"[\w-]{1,64}", commit) or not re.fullmatch(r"[\w-]{1,128}", etag):
        raise _not_a_hub(hub, f"does not answer as the hub does (no {COMMIT} or ETag for {file})")
    length = "" if answer.has_redirect_location else headers.get("Content-Length", "")
    size = headers.get(SIZE, length)
    remote = Remote(
        file, commit, etag, int(size) if re.fullmatch(r"[0-9]{1,18}", size) else None, limit
    )
    if remote.size is None and not remote.is_hashed:
        raise Failure(
            f"{hub.endpoint} gives neither a hash nor a size for {file}, so nothing can tell "
            "whether it arrives whole; name another endpoint"
        )
    if (remote.size or 0) > limit:
        raise InputError(
            f"{hub.repo}: its {file} is too long to be one (at most {limit:,} bytes are taken); it "
            "is damaged or no file of a GPT-2"
        )
    return remote
