"""/v1/embeddings: the mean of the last residual stream over the tokens of each text."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from gpt2lab.errors import InputError, quoted
from gpt2lab.server import openai
from gpt2lab.server.asked import prompts_of
from gpt2lab.server.limits import Budget, Limits
from gpt2lab.server.refusals import Refusal
from gpt2lab.server.schema import EmbeddingRequest
from gpt2lab.server.served import Served, ServedModel
from gpt2lab.server.views import base64_floats

Array = np.ndarray[Any, np.dtype[Any]]


async def embeddings(
    served: Served, limits: Limits, budget: Budget, asked: EmbeddingRequest, key: str
) -> dict[str, Any]:
    """The mean of the last residual stream over the tokens of each text."""
    model, n_embd = served.get(asked.model), served.get(asked.model).lm.config.n_embd
    if asked.encoding_format not in (None, "float", "base64"):
        told = f"encoding_format is {quoted(asked.encoding_format)}; it must be float or base64"
        raise Refusal(400, told, param="encoding_format")
    if asked.dimensions not in (None, n_embd):
        told = f"dimensions is {asked.dimensions}; this model's embeddings have {n_embd}"
        raise Refusal(400, told, param="dimensions")
    prompts = prompts_of(asked.input, limits, "input")
    if None in prompts:
        raise Refusal(400, "input is empty; give some text", param="input")
    encoded = await asyncio.to_thread(lambda: [model.lm.encode(one) for one in prompts])
    total = sum(map(len, encoded))
    limits.within("input", total, limits.scored // 16, " tokens")
    budget.spend(key, total)
    vectors = await asyncio.to_thread(lambda: [_embedded(model, ids) for ids in encoded])
    packed = asked.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": i, "embedding": base64_floats(v) if packed else v.tolist()}
        for i, v in enumerate(vectors)
    ]
    used = openai.usage(total, 0)
    return {"object": "list", "model": model.id, "data": data, "usage": used}


def _embedded(model: ServedModel, ids: list[int]) -> Array:
    n_ctx, last = model.lm.config.n_ctx, model.lm.config.n_layer - 1
    if len(ids) > n_ctx:
        raise InputError(f"input has {len(ids)} tokens, the model sees {n_ctx}; shorten it")
    trace = model.lm.trace(ids, "resid_post", last)
    stream: Array = trace[f"h.{last}.resid_post"][0]  # [T, C]
    return stream.mean(0, dtype=np.float64).astype(np.float32)  # [C]
