"""Ask the Hugging Face hub, or a mirror of it, for a file: what it says of it, and its bytes.

huggingface_hub brings the HTTP session, which follows redirects. Only
`/<owner>/<name>/resolve/<revision>/<file>` is asked for, so any mirror that serves files will do.
Keeping files is `download`'s.

Source: huggingface_hub 2.4 `file_download.py` (the headers).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gpt2lab.errors import Failure, InputError
from gpt2lab.files.visible import reason
from gpt2lab.weights.hub.address import Hub, hidden, is_http, library
from gpt2lab.weights.hub.failures import network, patiently

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try, while no byte arrives
COMMIT, ETAG, SIZE = "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size"


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


def _session() -> Any:
    utils = library().utils
    try:
        return utils.get_session()
    except Exception as error:  # no such certificate file, a proxy that is no address
        if not isinstance(error, OSError | ValueError | ImportError) and not is_http(error):
            raise
        why = "" if is_http(error) else f" ({hidden(reason(error))})"  # it repeats half a login
        raise InputError(
            f"the network settings of the environment cannot be used{why}; "
            "check HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
        ) from error


def _timeout() -> float:
    return float(library().constants.HF_HUB_DOWNLOAD_TIMEOUT)


def _described(hub: Hub, file: str) -> Any:
    """The first answer that describes the file, following redirects.

    The HTTP library sends the token only to the address that it was given for.
    """
    last = _session().request(
        "HEAD", hub.url(file), headers=hub.headers(), follow_redirects=True, timeout=_timeout()
    )
    answers = [*last.history, last]
    for names in ((COMMIT, ETAG), (COMMIT,)):
        for answer in answers:
            if all(name in answer.headers for name in names) and answer.status_code < 400:
                return answer
    library().utils.hf_raise_for_status(last)
    return last


@contextmanager
def opened(hub: Hub, file: str, begin: int) -> Iterator[Any]:
    """The answer that sends a file, from byte `begin` if the server can."""
    headers = hub.headers() | ({"range": f"bytes={begin}-"} if begin else {})
    with _session().stream(
        "GET", hub.url(file), headers=headers, follow_redirects=True, timeout=_timeout()
    ) as answer:
        yield answer


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
            "check the endpoint, and whether a proxy or a login page is in the way"
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
