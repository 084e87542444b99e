"""Models to a listening server: loading, uvicorn, and an orderly end at a stop signal."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from gpt2lab.errors import Failure, InputError
from gpt2lab.files.visible import reason
from gpt2lab.lm import LM
from gpt2lab.server.app import application
from gpt2lab.server.limits import Limits
from gpt2lab.server.scheduler import DEAD, Scheduler
from gpt2lab.server.served import Served, ServedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    keys, hosts, cors: as in `application`. rows: of a model that run at once. drain: seconds that
    requests have to end after a stop signal. reuse: bytes of ended rows that each model keeps for
    prompts that begin alike; with several keys nothing is kept, since the time of an answer would
    tell one what another sent.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Sequence[str] = ()
    hosts: Sequence[str] | None = None
    cors: Sequence[str] = ()
    rows: int = 32
    reuse: float | None = None
    drain: float = 30.0
    page: bool = True
    limits: Limits = field(default_factory=Limits)


def model_id(source: str | None) -> str:
    """The name of a model in the API: as it was asked for, of a path its last part alone."""
    if source is None:
        return "fable"
    return Path(source).resolve().name if Path(source).exists() else source


def check_address(host: str, port: int) -> None:
    """Refuse an address on which nothing can listen, before models are loaded for it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        socket.create_server(found[0][4][:2], family=found[0][0]).close()
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"cannot listen on {host} port {port} ({reason(error)}); give another --host or --port"
        ) from None


def served_models(lms: Sequence[LM], names: Sequence[str], options: ServeOptions) -> Served:
    """Models with their schedulers, begun."""
    reuse = 0 if len(options.keys) > 1 else options.reuse
    found = []
    for lm, name in zip(lms, names, strict=True):
        log.info(f"{name}: sha256 {lm.hash[:12]}, {lm.engine.name} {lm.engine.dtype}")
        scheduler = Scheduler(
            lm.engine, lm.tokenizer, rows=options.rows, most=options.limits.queue, reuse=reuse
        )
        found.append(ServedModel(name, lm, scheduler))
    served = Served(found)
    for model in found:
        model.scheduler.start()
    return served


class _Uvicorn(uvicorn.Server):
    """uvicorn that says when it listens; `failed` is whether a model's thread ended by an error."""

    failed = False

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            for server in self.servers:
                for one in server.sockets:
                    host, port = one.getsockname()[:2]
                    log.info(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}/")


def serve(served: Served, options: ServeOptions) -> None:
    """Serve until a stop signal; Failure where a model's thread ends by an error."""
    server: _Uvicorn
    app = application(
        served,
        limits=options.limits,
        keys=options.keys,
        hosts=options.hosts,
        cors=options.cors,
        page=options.page,
        ready=lambda: not server.should_exit,
    )
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=64 << 10,
        limit_concurrency=1024,
        timeout_graceful_shutdown=max(1, round(options.drain)),
    )
    server = _Uvicorn(config)

    def failed() -> None:
        server.failed = server.should_exit = True

    for model in served.models.values():
        model.scheduler.on_failure(failed)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises the signal again at its end
    with suppress(SystemExit):  # uvicorn's way to say that it cannot listen
        server.run()
    if server.failed:
        raise Failure(DEAD)
    if not server.started:
        raise Failure(f"cannot listen on {options.host} port {options.port}; choose another --port")
