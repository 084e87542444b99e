"""The models of a server by name: each with its scheduler, and the names of its tokens."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gpt2lab.errors import InputError, few, quoted
from gpt2lab.lm import LM
from gpt2lab.server.refusals import Refusal
from gpt2lab.server.scheduler import Scheduler


@dataclass
class ServedModel:
    """A model under its name in the API."""

    id: str
    lm: LM
    scheduler: Scheduler
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def fingerprint(self) -> str:
        """What the bits of an answer depend on beside the request: the weights and the engine."""
        engine = self.lm.engine
        return f"{self.lm.hash[:12]}-{engine.name}-{engine.dtype}"

    def about(self) -> dict[str, Any]:
        """The model as /v1/models lists it."""
        c = self.lm.config
        shape = {"n_ctx": c.n_ctx, "n_vocab": c.n_vocab, "n_layer": c.n_layer, "n_head": c.n_head}
        head = {"id": self.id, "object": "model", "created": self.created, "owned_by": "gpt2lab"}
        return {**head, "max_model_len": c.n_ctx, "fingerprint": self.fingerprint, **shape}

    # ---- Tokens as text and bytes.

    def raw(self, token: int) -> bytes:
        """The bytes of a token; none for ids that only pad the vocabulary."""
        tokenizer = self.lm.tokenizer
        return b"" if tokenizer is None or token >= tokenizer.n_vocab else _raw(tokenizer, token)

    def name(self, token: int) -> str:
        r"""The text of a token, as OpenAI wrote it: "bytes:\xe2\x80" for a part of a character."""
        raw = self.raw(token)
        if not raw:
            return f"token:{token}"
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _raw(tokenizer: Any, token: int) -> bytes:
    found: bytes = tokenizer.token_bytes(token)
    return found


class Served:
    """Models by name; the first is the default. A name is looked up, never opened as a path."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self.models: dict[str, ServedModel] = {}
        for model in models:
            if model.id in self.models:
                raise InputError(f"two models have the name {quoted(model.id)}; rename a folder")
            self.models[model.id] = model

    def get(self, name: str | None) -> ServedModel:
        """The model of a name, the first for none; 404 for others."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Refusal(
                404,
                f"no model {quoted(name)} is served here; there is {few(self.models)}",
                param="model",
                code="model_not_found",
            )
        return self.models[name]
