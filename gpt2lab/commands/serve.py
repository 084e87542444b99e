"""`gpt2lab serve`: an HTTP server with OpenAI's API, and the editor page."""

from __future__ import annotations

import os
from typing import Any

import click

from gpt2lab.commands import headings
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import engine_options, load_model, model_options
from gpt2lab.errors import InputError, MissingExtraError

LIMITS = {
    "max_body": "body",
    "max_choices": "choices",
    "queue": "queue",
    "max_seconds": "seconds",
    "tokens_per_minute": "tokens_per_minute",
}


@click.command(
    cls=Headed,
    headings={
        **headings.MODEL,
        "Address and access": ("host", "port", "api_key", "allow_host", "cors", "page"),
        "Load": ("rows", "reuse", "queue", "max_choices", "max_body", "max_seconds",
                 "tokens_per_minute", "drain"),
    },
    epilog="""\b
Examples:
  gpt2lab serve
  gpt2lab serve --model 124M --dtype int8 --port 8080
  gpt2lab serve --model runs/poems,124M

Open http://127.0.0.1:8000/ for the editor. The API is that of OpenAI, at /v1; keys are read from
GPT2LAB_API_KEYS too, divided by commas. SIGTERM and Ctrl-C let running requests end.""",
)  # fmt: skip
@model_options
@click.option("--host", default="127.0.0.1", help="Address to listen on.  [127.0.0.1]")
@click.option("--port", default=8000, type=click.IntRange(0, 65535), help="Port; 0 is any.  [8000]")
@click.option("--api-key", multiple=True, help="Require this key. Can be repeated.")
@click.option(
    "--allow-host", multiple=True, metavar="NAME",
    help="Answer under this host name too; * is any. Can be repeated.  [localhost]",
)  # fmt: skip
@click.option("--cors", multiple=True, metavar="ORIGIN", help="Let pages of this origin call.")
@click.option("--page/--no-page", default=True, help="Serve the editor at /.  [--page]")
@click.option("--rows", default=32, type=click.IntRange(1, 1024), help="Rows at once.  [32]")
@click.option(
    "--reuse", default=None, type=click.IntRange(0), metavar="BYTES",
    help="Memory for prompts that begin alike; 0 is none.  [one row]",
)  # fmt: skip
@click.option(
    "--queue", default=256, type=click.IntRange(1), help="Rows that may wait or run.  [256]"
)
@click.option(
    "--max-choices", default=128, type=click.IntRange(1), help="Choices a request.  [128]"
)
@click.option(
    "--max-body", default=4 << 20, type=click.IntRange(1024), help="Bytes a body.  [4 MiB]"
)
@click.option(
    "--max-seconds", default=600.0, type=click.FloatRange(1), help="Seconds a request.  [600]"
)
@click.option(
    "--tokens-per-minute",
    default=0,
    type=click.IntRange(0),
    help="Tokens a key; 0 is no limit.  [0]",
)
@click.option(
    "--drain", default=30.0, type=click.FloatRange(0),
    help="Seconds for running requests after a stop signal.  [30]",
)  # fmt: skip
def command(**flags: Any) -> None:
    """Serve models over HTTP: OpenAI's API and an editor page."""
    try:
        from gpt2lab.server.limits import Limits
        from gpt2lab.server.serving import (
            ServeOptions,
            check_address,
            model_id,
            serve,
            served_models,
        )
    except ImportError as error:
        raise MissingExtraError("serve", error.name or "starlette", "serve") from None

    keys = [*flags["api_key"], *os.environ.get("GPT2LAB_API_KEYS", "").split(",")]
    keys = [key.strip() for key in keys if key.strip()]
    limits = Limits(**{own: flags[name] for name, own in LIMITS.items()})
    options = ServeOptions(
        host=flags["host"],
        port=flags["port"],
        keys=keys,
        hosts=_hosts(flags["host"], flags["allow_host"]),
        cors=flags["cors"],
        rows=flags["rows"],
        reuse=flags["reuse"],
        drain=flags["drain"],
        page=flags["page"],
        limits=limits,
    )
    check_address(options.host, options.port)
    sources = _sources(flags["model"])
    lms = [load_model(source, **engine_options(flags)) for source in sources]
    serve(served_models(lms, [model_id(source) for source in sources], options), options)


def _sources(given: str | None) -> list[str | None]:
    """The models: several are divided by commas."""
    if given is None:
        return [None]
    sources = [one.strip() for one in given.split(",")]
    if not all(sources):
        raise InputError(f"--model {given!r} has an empty name; divide models by single commas")
    return list(sources)


def _hosts(host: str, more: tuple[str, ...]) -> tuple[str, ...]:
    """The names that the header Host may have; () is any.

    A server that listens on other addresses than this machine's own answers under any name, unless
    names are given.
    """
    from gpt2lab.server.gate import LOOPBACK

    local = host in LOOPBACK
    if "*" in more or not (local or more):
        return ()
    return (*LOOPBACK, *(name.lower() for name in more))
