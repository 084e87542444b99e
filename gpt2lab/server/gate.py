"""Checks before every route: request ids, the host, keys, the access log and the metrics.

Plain ASGI, since a wrapper that reads the body or buffers the answer would hide that a client left.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpt2lab.server.calls import Receive, Scope, Send, send_json
from gpt2lab.server.meters import Meters
from gpt2lab.server.refusals import Refusal

log = logging.getLogger("gpt2lab.access")

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Door:
    """Who may come in. keys: of the API; none lets everybody in.

    hosts: names that the header Host may have, against a foreign name that leads to this machine;
    none allows all. open_paths: what needs no key.
    """

    keys: Sequence[str] = ()
    hosts: Sequence[str] = LOOPBACK
    open_paths: frozenset[str] = frozenset()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: Any, door: Door, meters: Meters, routes: frozenset[str]) -> None:
        self._app, self._door, self._meters, self._routes = app, door, meters, routes
        self._keys = [_digest(key.encode()) for key in door.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; a lifespan goes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["id"] = self._request_id(scope)
        begun, status = time.monotonic(), [0]

        async def tagged(message: Any) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", state["id"].encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, tagged)
        except Refusal as refusal:
            await send_json(tagged, refusal.status, refusal.body(), refusal.headers)
        finally:
            self._note(scope, status[0], time.monotonic() - begun)

    def _request_id(self, scope: Scope) -> str:
        """The caller's own id where it is plain, else a new one."""
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        return given if _PLAIN.fullmatch(given) else f"req-{secrets.token_hex(8)}"

    def _check(self, scope: Scope) -> None:
        names = [value for name, value in scope["headers"] if name == b"host"]
        host = names[0].decode("latin-1").lower() if len(names) == 1 else ""
        if self._door.hosts and re.sub(r":\d+$", "", host) not in self._door.hosts:
            raise Refusal(421, "this server does not answer under that host name (--allow-host)")
        if self._keys and scope["path"] not in self._door.open_paths:
            scope["state"]["key"] = self._key(scope)

    def _key(self, scope: Scope) -> str:
        """A name of the caller's key; 401 where it has none. All keys are compared."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, key = (given[0] if len(given) == 1 else b"").partition(b" ")
        own, found = _digest(key.strip()), ""
        for known in self._keys:
            if hmac.compare_digest(known, own):
                found = known.hex()[:16]
        if not found or scheme.lower() != b"bearer":
            raise Refusal(
                401,
                "the key is missing or wrong; send it as the header Authorization: Bearer KEY",
                code="invalid_api_key",
            )
        return found

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        """The access log and the metrics: route and status, neither query, body nor key."""
        route = scope["path"] if scope["path"] in self._routes else "other"
        gone = bool(scope["state"].get("gone"))
        self._meters.requests.labels(route, "gone" if gone else str(status)).inc()
        self._meters.seconds.labels(route).observe(seconds)
        if gone:
            self._meters.gone.inc()
        method = scope["method"] if _PLAIN.fullmatch(scope["method"]) else "?"
        told = "client left" if gone else status
        log.info(f"{scope['state']['id']} {method} {route} {told} {seconds * 1000:.0f} ms")
