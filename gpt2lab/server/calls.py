"""From an HTTP request to a Struct, and from an answer to bytes: JSON, or server-sent events.

A call is a function from a Struct to a dict or to an async iterator of dicts. Here its body is
read and validated, its errors become OpenAI's, and a client that leaves ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

import msgspec

from gpt2lab.errors import InputError, quoted
from gpt2lab.server.limits import Limits
from gpt2lab.server.refusals import Refusal, refused

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Answer = dict[str, Any] | AsyncIterator[dict[str, Any]]
T = TypeVar("T")

PING = 15.0  # seconds of silence in a stream after which a comment is sent
_JSON = [(b"content-type", b"application/json")]


class _ClientGone(Exception):
    """The client has left."""


# ---- Bodies.


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """The body of a request; 408, 413 or 415 where it is too slow, too long or of another kind."""
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    if kind != b"application/json" or headers.get(b"content-encoding", b"identity") != b"identity":
        raise Refusal(415, "the body must be JSON, sent as application/json and not compressed")
    declared = headers.get(b"content-length", b"0")
    too_long = f"the body has more than {limits.body} bytes (--max-body); send less"
    if declared.isdigit() and (len(declared) > 15 or int(declared) > limits.body):
        raise Refusal(413, too_long)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.patience):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientGone
                body += message.get("body", b"")
                if len(body) > limits.body:
                    raise Refusal(413, too_long)
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise Refusal(408, f"the body took longer than {limits.patience:g} s") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of some pairs; two with one name would silently lose the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal(400, f"the body holds {quoted(twice)} twice; give it once", param=twice[:80])
    return found


def decode(body: bytes, kind: type[T]) -> T:
    """A body as its Struct; 400 with the field and the reason for every other."""
    try:
        text = body.decode()
        asked = msgspec.json.decode(body, type=kind)
        json.loads(text, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        wrong = f"byte {body[error.start]:#04x} at offset {error.start}"
        raise Refusal(400, f"the body is not UTF-8: {wrong}; send JSON in UTF-8") from None
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        field = path.strip("`.").split(".")[0].split("[")[0] or None
        if field is None and "`" in message:
            field = message.split("`")[1]
        where = f"{field}: " if field else ""
        raise Refusal(400, f"{where}{message[:400]}", param=field and field[:80]) from None
    except (msgspec.DecodeError, ValueError) as error:
        raise Refusal(400, f"the body is not JSON: {str(error)[:300]}") from None
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply; send a flat object") from None
    return asked


# ---- Answers.


async def send_json(send: Send, status: int, value: Any, headers: dict[str, str]) -> None:
    """A whole answer as JSON."""
    body = msgspec.json.encode(value)
    more = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    length = [(b"content-length", str(len(body)).encode())]
    start = {"type": "http.response.start", "status": status, "headers": _JSON + length + more}
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Sending:
    """`send` that knows whether the answer is complete: a server then reports a disconnect too."""

    def __init__(self, send: Send) -> None:
        self._send, self.complete = send, False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Send a message."""
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.complete = True
        await self._send(message)


async def _while_connected(receive: Receive, send: _Sending, work: Coroutine[Any, Any, T]) -> T:
    """Do some work unless the client leaves before it is answered, which cancels the work."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and not send.complete:
            raise _ClientGone
        return await task
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class _Events:
    """A stream of server-sent events that has begun with its first one."""

    def __init__(self, send: Send, patience: float) -> None:
        self._send, self._patience, self.begun = send, patience, False

    async def put(self, data: bytes, *, more: bool = True) -> None:
        """Send some bytes; a client that does not read them for too long has gone."""
        if not self.begun:
            self.begun = True
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
            start = {"type": "http.response.start", "status": 200, "headers": headers}
            await self._send(start)
        part = {"type": "http.response.body", "body": data, "more_body": more}
        try:
            await asyncio.wait_for(self._send(part), self._patience)
        except TimeoutError:
            raise _ClientGone from None

    async def all(self, events: AsyncIterator[dict[str, Any]]) -> None:
        """Send each event as it comes, and a comment where none comes for long."""
        following = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                await asyncio.wait({following}, timeout=PING)
                if not following.done():
                    await self.put(b": waiting\n\n")
                    continue
                event = following.result()
                if event is None:
                    return await self.put(b"data: [DONE]\n\n", more=False)
                await self.put(b"data: " + msgspec.json.encode(event) + b"\n\n")
                following = asyncio.ensure_future(anext(events, None))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await events.aclose()  # type: ignore[attr-defined]


class Endpoint:
    """An endpoint: a Struct and the function that answers it, as an ASGI application.

    answer: from the Struct and the name of the caller's key to a dict or an iterator of events.
    """

    def __init__(
        self, kind: type[Any], answer: Callable[[Any, str], Awaitable[Answer]], limits: Limits
    ) -> None:
        self.kind, self._answer, self._limits = kind, answer, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        send = _Sending(send)
        events = _Events(send, self._limits.patience)
        try:
            asked = decode(await read_body(scope, receive, self._limits), self.kind)
            key = scope.get("state", {}).get("key", "")
            await _while_connected(receive, send, self._work(asked, key, events, send))
        except _ClientGone:
            scope.setdefault("state", {})["gone"] = True
        except Exception as error:
            await self._fail(self._refusal(error), events, send)

    async def _work(self, asked: Any, key: str, events: _Events, send: Send) -> None:
        async with asyncio.timeout(self._limits.seconds):
            answer = await self._answer(asked, key)
            if isinstance(answer, dict):
                await self._whole(answer, send)
            else:
                await events.all(answer)

    async def _whole(self, answer: dict[str, Any], send: Send) -> None:
        try:
            await asyncio.wait_for(send_json(send, 200, answer, {}), self._limits.patience)
        except TimeoutError:
            raise _ClientGone from None

    def _refusal(self, error: Exception) -> Refusal:
        """An error as an answer; an unexpected one is logged whole."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, InputError):
            return refused(error, self.kind.__struct_fields__)
        if isinstance(error, TimeoutError):
            limit = f"{self._limits.seconds:g} s (--max-seconds)"
            return Refusal(504, f"the answer took longer than {limit}; ask for less")
        if isinstance(error, MemoryError):
            return Refusal(503, "there is not enough memory for this request; ask for less")
        log.error("a request failed by an error of the server", exc_info=error)
        return Refusal(500, "the server failed at this request; its log says why")

    async def _fail(self, refusal: Refusal, events: _Events, send: Send) -> None:
        if not events.begun:
            await send_json(send, refusal.status, refusal.body(), refusal.headers)
            return
        with contextlib.suppress(_ClientGone):
            await events.put(b"data: " + msgspec.json.encode(refusal.body()) + b"\n\n", more=False)
