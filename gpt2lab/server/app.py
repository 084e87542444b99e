"""The routes of the server: one table of calls, the page's files, health, metrics, description."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpt2lab.pages.editor import POLICY, PageFile, files
from gpt2lab.server import schema, views
from gpt2lab.server.calls import Answer, Endpoint
from gpt2lab.server.completions import completions
from gpt2lab.server.conversations import conversations
from gpt2lab.server.description import description
from gpt2lab.server.embedding import embeddings
from gpt2lab.server.gate import Door, Gate
from gpt2lab.server.limits import Budget, Limits
from gpt2lab.server.meters import Meters
from gpt2lab.server.refusals import Refusal
from gpt2lab.server.served import Served

#: GET routes that are no files: path -> what it gives.
GETS = {
    "/v1/models": "The models, each with its shape.",
    "/tokenizer_info": "The special tokens and the size of the first model's vocabulary.",
    "/healthz": "200 while the models' threads live.",
    "/readyz": "200 while requests are taken, 503 while the server loads or drains.",
    "/metrics": "Counters in Prometheus's text format.",
    "/openapi.json": "This description.",
}
OPEN = frozenset({"/healthz", "/readyz"})


def _posts(
    served: Served, limits: Limits
) -> dict[str, tuple[type[Any], Callable[[Any, str], Awaitable[Answer]]]]:
    """POST routes: path -> the Struct of the body, and what answers it."""
    budget = Budget(limits.tokens_per_minute)
    costly: dict[str, tuple[type[Any], Callable[..., Awaitable[Answer]]]] = {
        "/v1/completions": (schema.CompletionRequest, completions),
        "/v1/chat/completions": (schema.ChatRequest, conversations),
        "/v1/embeddings": (schema.EmbeddingRequest, embeddings),
        "/next": (schema.NextRequest, views.next_token_of),
        "/score": (schema.ScoreRequest, views.score_of),
        "/look": (schema.LookRequest, views.look_at),
    }
    found: dict[str, Any] = {
        path: (kind, partial(answer, served, limits, budget))
        for path, (kind, answer) in costly.items()
    }

    async def tokenize(asked: schema.TokenizeRequest, key: str) -> Answer:
        return await views.tokenize(served, limits, asked)

    async def detokenize(asked: schema.DetokenizeRequest, key: str) -> Answer:
        return await views.detokenize(served, asked)

    found["/tokenize"] = schema.TokenizeRequest, tokenize
    found["/detokenize"] = schema.DetokenizeRequest, detokenize
    return found


def _file(name: str, one: PageFile) -> Route:
    """A file of the page under its own name; `index.html` is the page itself."""
    tag = f'"{hashlib.sha256(one.content).hexdigest()[:32]}"'
    headers = {
        "etag": tag,
        "cache-control": "no-cache",
        "content-security-policy": POLICY,
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
    }

    async def answer(request: HttpRequest) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(one.content, media_type=one.kind, headers=headers)

    return Route("/" if name == "index.html" else f"/{name}", answer, methods=["GET"])


def _gets(served: Served, meters: Meters, about: dict[str, Any], ready: Callable[[], bool]) -> Any:
    """What answers each of `GETS`."""

    def health() -> Response:
        alive = all(model.scheduler.alive for model in served.models.values())
        return JSONResponse({"status": "ok" if alive else "dead"}, 200 if alive else 503)

    def readiness() -> Response:
        alive = ready() and all(model.scheduler.alive for model in served.models.values())
        return JSONResponse({"status": "ready" if alive else "not ready"}, 200 if alive else 503)

    def models() -> Response:
        listed = [model.about() for model in served.models.values()]
        return JSONResponse({"object": "list", "data": listed})

    return {
        "/v1/models": models,
        "/tokenizer_info": lambda: JSONResponse(views.tokenizer_info(served.get(None))),
        "/healthz": health,
        "/readyz": readiness,
        "/metrics": lambda: Response(meters.text(), media_type="text/plain; version=0.0.4"),
        "/openapi.json": lambda: JSONResponse(about),
    }


def _get(path: str, make: Callable[[], Response]) -> Route:
    async def answer(request: HttpRequest) -> Response:
        return make()

    return Route(path, answer, methods=["GET"])


async def _model(served: Served, request: HttpRequest) -> Response:
    return JSONResponse(served.get(request.path_params["name"]).about())


async def _http_error(request: HttpRequest, error: Exception) -> Response:
    """Starlette's own errors (no such path, wrong method) in OpenAI's shape."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:80]
    told = {404: f"no route {path!r}", 405: f"{request.method[:16]} is not for {path!r}"}
    refusal = Refusal(error.status_code, told.get(error.status_code, str(error.detail)))
    return JSONResponse(refusal.body(), error.status_code, headers=error.headers)


async def _refusal(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse(error.body(), error.status, headers=error.headers)


def application(
    served: Served,
    *,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
    cors: Sequence[str] = (),
    page: bool = True,
    ready: Callable[[], bool] = lambda: True,
) -> Any:
    """The whole server as an ASGI application.

    keys: of the API; none lets everybody in. hosts: names that the header Host may have; None is
    this machine's own. cors: origins of other pages that may call. page: whether the editor is
    served at /. ready: whether new requests are taken.
    """
    limits, meters = limits or Limits(), Meters(served)
    posts = _posts(served, limits)
    about = description({path: kind for path, (kind, _) in posts.items()}, GETS)
    shown = [_file(name, one) for name, one in files().items()] if page else []
    routes = [
        *(
            Route(path, Endpoint(kind, answer, limits), methods=["POST"])
            for path, (kind, answer) in posts.items()
        ),
        *(_get(path, make) for path, make in _gets(served, meters, about, ready).items()),
        Route("/v1/models/{name:path}", partial(_model, served), methods=["GET"]),
        *shown,
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        for model in served.models.values():
            model.scheduler.stop()

    handlers: Any = {HTTPException: _http_error, Refusal: _refusal}
    inner: Any = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    inner.router.redirect_slashes = False
    door = Door(
        keys,
        Door.hosts if hosts is None else hosts,
        OPEN | {route.path for route in shown},
    )
    gate: Any = Gate(inner, door, meters, frozenset(route.path for route in routes))
    if not cors:
        return gate
    headers = ["authorization", "content-type"]
    return CORSMiddleware(gate, allow_origins=cors, allow_methods=["*"], allow_headers=headers)
