"""The OpenAPI description of the server, made from the Structs of `schema`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gpt2lab import __version__

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def description(posts: Mapping[str, type[Any]], gets: Mapping[str, str]) -> dict[str, Any]:
    """An OpenAPI 3.1 document. posts: path -> Struct of its body. gets: path -> what it gives."""
    _, parts = msgspec.json.schema_components(
        [*posts.values()], ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, Any] = {path: _post(kind) for path, kind in posts.items()}
    for path, about in gets.items():
        paths.setdefault(path, {})["get"] = {"summary": about, "responses": _responses()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "gpt2lab", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**parts, "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _post(kind: type[Any]) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{kind.__name__}"}
    body = {"required": True, "content": {"application/json": {"schema": reference}}}
    lines = (kind.__doc__ or "").strip().splitlines()
    about = "\n".join(line.strip() for line in lines)
    operation = {"summary": lines[0], "description": about, "requestBody": body}
    return {"post": {**operation, "responses": _responses()}}


def _responses() -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {"description": "The answer.", "content": {"application/json": {}}},
        "default": {"description": "An error, in OpenAI's shape.", "content": error},
    }
