"""A server in this process for the tests: its application, and calls of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gpt2lab
from gpt2lab.server.app import application
from gpt2lab.server.limits import Limits
from gpt2lab.server.scheduler import Scheduler
from gpt2lab.server.served import Served, ServedModel

BASE = "http://127.0.0.1"


@contextmanager
def served(**options: Any) -> Iterator[Served]:
    """The bundled model with its thread; options: of `Scheduler`."""
    lm = gpt2lab.load()
    scheduler = Scheduler(lm.engine, lm.tokenizer, **options)
    scheduler.start()
    try:
        yield Served([ServedModel("fable", lm, scheduler)])
    finally:
        scheduler.stop()


class Caller:
    """Calls of an application, each in an event loop of its own, without a socket."""

    def __init__(self, found: Served, **options: Any) -> None:
        self.served, self.app = found, application(found, **options)

    def __call__(
        self, method: str, path: str, body: Any = None, headers: Any = (), raw: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and bytes of one answer."""
        return asyncio.run(self.ask(method, path, body, headers, raw))

    async def ask(
        self, method: str, path: str, body: Any = None, headers: Any = (), raw: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """The same inside a running loop."""
        sent = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        found: list[Any] = []
        ended = asyncio.Event()
        messages = [{"type": "http.request", "body": sent, "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            found.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                ended.set()

        await self.app(scope_of(method, path, headers), receive, send)
        start = found[0]
        names = {k.decode(): v.decode() for k, v in start["headers"]}
        return start["status"], names, b"".join(part.get("body", b"") for part in found[1:])

    def post(self, path: str, status: int = 200, **body: Any) -> Any:
        """The JSON of an answer with the expected status."""
        code, _, content = self("POST", path, body)
        assert code == status, content
        return json.loads(content)

    def events(self, path: str, **body: Any) -> list[Any]:
        """The events of a stream."""
        code, headers, content = self("POST", path, {**body, "stream": True})
        assert code == 200 and headers["content-type"] == "text/event-stream", content
        lines = [line[6:] for line in content.decode().split("\n\n") if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]


def scope_of(method: str, path: str, headers: Any = ()) -> dict[str, Any]:
    """The scope of a request as a server makes it."""
    names = dict([("host", "127.0.0.1"), ("content-type", "application/json"), *headers])
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in names.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }


__all__ = ["Caller", "Limits", "scope_of", "served"]
