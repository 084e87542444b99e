"""What may go wrong between this machine and the hub, as one line with a next step."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from gpt2lab.errors import Failure, InputError
from gpt2lab.files.visible import reason, shown
from gpt2lab.weights import find
from gpt2lab.weights.hub.address import Hub, hidden, is_http, kinds, library

T = TypeVar("T")
#: The HTTP library's errors before a connection is made.
NO_CONNECTION = {"ConnectError", "ConnectTimeout", "ProxyError"}


class Passing(Failure):
    """A failure that a further try may mend: a server's fault, a cut transfer."""


class NoConnection(Failure):
    """Nothing answers; worth a further try only where something has answered before."""


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
    if "ProxyError" in kinds(error):
        return f"the proxy refused ({hidden(reason(error))}); check HTTPS_PROXY"
    return "no answer in time" if "TimeoutException" in kinds(error) else hidden(reason(error))


def _odd_address(hub: Hub, file: str) -> Failure:
    return Failure(
        f"{hub.endpoint} sends {file} to what is no address of http or https; check the endpoint, "
        "and whether a proxy or a login page is in the way"
    )


def _unreachable(hub: Hub, file: str, error: BaseException) -> Failure:
    if "TooManyRedirects" in kinds(error):
        return Failure(f"{hub.endpoint} sends {file} in a circle of redirects; check the endpoint")
    if kinds(error) & {"InvalidURL", "UnsupportedProtocol"} or "location header" in str(error):
        return _odd_address(hub, file)
    cause = _cause(error, urlsplit(hub.endpoint).hostname or hub.endpoint)
    if kinds(error) & NO_CONNECTION:
        return NoConnection(
            f"{hub.endpoint} cannot be reached: {cause}; check the connection, or name another "
            "address of the hub by --endpoint or HF_ENDPOINT"
        )
    kind = Passing if "TransportError" in kinds(error) else Failure
    return kind(
        f"the connection to {hub.endpoint} broke off: {cause}; run the same command again, "
        "it resumes where it stopped"
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
        if not is_http(error):
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
