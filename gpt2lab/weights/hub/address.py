"""The address of a model on the Hugging Face hub, and the settings with which it is asked.

huggingface_hub brings the stored token and the settings of the environment (HF_ENDPOINT,
HF_HUB_OFFLINE, HF_TOKEN, HF_HUB_DOWNLOAD_TIMEOUT, proxies). No message repeats a password.
"""

from __future__ import annotations

import base64
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from gpt2lab import __version__
from gpt2lab.errors import InputError, quoted
from gpt2lab.files.visible import reason, shown

ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True)
class Hub:
    """One model at one address: everything a request needs.

    endpoint: without a name and password, so that messages may show it. login: the header that
    sends these; it takes the token's place, as there is but one.
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


def is_offline() -> bool:
    """Whether the environment forbids the network, in huggingface_hub's or transformers' words."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def endpoint_and_login(given: str | None) -> tuple[str, str | None]:
    """The address of the hub, and the name and password in it as the header that sends them."""
    endpoint = (given or os.environ.get("HF_ENDPOINT") or ENDPOINT).strip().rstrip("/")
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
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
    """The token given, else the one that the hub's own login left; no message repeats it."""
    try:
        token = library().utils.get_token_to_send(given.strip() if given else None)
    except Exception as error:  # a broken login may raise anything
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
