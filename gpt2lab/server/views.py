"""The calls of the editor page, and what clients probe for: tokens, /next, /score, /look."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpt2lab import lens
from gpt2lab.engines.wanted import largest
from gpt2lab.generation.processors import History
from gpt2lab.generation.request import Prompt, Request
from gpt2lab.generation.sampler import explained, log_softmax
from gpt2lab.lens import page as look_page
from gpt2lab.score import Score, check_text, windows_of
from gpt2lab.server.asked import prompts_of, settings_of
from gpt2lab.server.limits import Budget, Limits
from gpt2lab.server.refusals import Refusal
from gpt2lab.server.schema import (
    DetokenizeRequest,
    LookRequest,
    NextRequest,
    ScoreRequest,
    TokenizeRequest,
)
from gpt2lab.server.scoring import ToScore, scoring
from gpt2lab.server.served import Served, ServedModel

Array = np.ndarray[Any, np.dtype[Any]]


# ---- Tokens.


async def tokenize(served: Served, limits: Limits, asked: TokenizeRequest) -> dict[str, Any]:
    """The ids of a text, and the bytes of each."""
    model = served.get(asked.model)
    text = asked.prompt if asked.prompt is not None else asked.content
    if text is None:
        raise Refusal(400, "give a text as prompt (or content)", param="prompt")
    ids: list[int] = []
    if text:
        special = asked.add_special_tokens
        encode = model.lm.encode
        ids = await asyncio.to_thread(lambda: encode(text, add_special_tokens=special))
    found = {
        "tokens": ids,
        "bytes": [list(model.raw(token)) for token in ids],
        "count": len(ids),
        "max_model_len": model.lm.config.n_ctx,
    }
    if asked.return_token_strs:
        found["token_strs"] = [model.name(token) for token in ids]
    return found


async def detokenize(served: Served, asked: DetokenizeRequest) -> dict[str, Any]:
    """The text of some ids."""
    model = served.get(asked.model)
    text = await asyncio.to_thread(model.lm.decode, asked.tokens) if asked.tokens else ""
    return {"prompt": text, "content": text}


def tokenizer_info(model: ServedModel) -> dict[str, Any]:
    """What programs ask about a vocabulary, by transformers' names."""
    tokenizer, config = model.lm.tokenizer, model.lm.config
    if tokenizer is None:
        raise Refusal(404, f"{model.id} comes without a tokenizer")
    end = model.name(config.end_tokens[0]) if config.end_tokens else None
    begin = None if config.begin is None else model.name(config.begin)
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": config.n_ctx,
        "vocab_size": tokenizer.n_vocab,
        "bos_token": begin,
        "eos_token": end,
        "eos_token_id": config.end_tokens[0] if config.end_tokens else None,
        "chat_template": tokenizer.settings.get("chat_template"),
    }


# ---- The next token.


async def next_token_of(
    served: Served, limits: Limits, budget: Budget, asked: NextRequest, key: str
) -> dict[str, Any]:
    """The distribution after each of some prompts, before and after the settings."""
    model = served.get(asked.model)
    limits.within("top", asked.top, limits.top * 10)
    if asked.top < 0:
        raise Refusal(400, f"top is {asked.top}; it must be 0 or more", param="top")
    given = asked.prompts if asked.prompts is not None else asked.prompt
    if isinstance(given, list) and not given and asked.prompts is not None:
        raise Refusal(400, "prompts is empty; give one at least", param="prompts")
    requests = await asyncio.to_thread(_next_requests, model, given, asked, limits)
    budget.spend(key, sum(len(request.prompt) for request in requests))
    logits: list[Array] = []
    await model.scheduler.run(_last_logits(model, requests, logits))
    about = [
        _distribution(model, request, row, asked)
        for request, row in zip(requests, logits, strict=True)
    ]
    return {"data": about}


def _next_requests(
    model: ServedModel, given: Any, asked: NextRequest, limits: Limits
) -> list[Request]:
    settings = settings_of(asked, limits)
    settings.setdefault("seed", 0)
    if isinstance(given, list) and asked.prompts is not None:
        limits.within("prompts", len(given), limits.logits, " prompts")
        listed: list[Prompt] = [one or None for one in given]
    else:
        listed = prompts_of(given, limits)
    return model.lm.requests(listed, "tail", settings)


def _last_logits(
    model: ServedModel, requests: Sequence[Request], found: list[Array]
) -> Iterator[None]:
    """The logits after each prompt, some prompts of about one chunk in a step."""
    engine = model.lm.engine
    cache: Any = engine.cache()
    waiting = list(requests)
    while waiting:
        part, total = [waiting.pop(0)], 0
        total = len(part[0].prompt)
        while waiting and total + len(waiting[0].prompt) <= 252:
            part.append(waiting.pop(0))
            total += len(part[-1].prompt)
        slots = [cache.new() for _ in part]
        logits = engine.step(cache, slots, [list(request.prompt) for request in part])
        found += [np.array(row, dtype=np.float32) for row in logits]
        for slot in slots:
            cache.free(slot)
        yield


def _distribution(
    model: ServedModel, request: Request, logits: Array, asked: NextRequest
) -> dict[str, Any]:
    """One distribution as the answer has it."""
    length = len(request.prompt) if asked.prompt_length is None else asked.prompt_length
    seen = History(list(request.prompt), max(0, min(length, len(request.prompt))))
    before = log_softmax(logits)  # [V]
    left, removed = explained(logits, request.sampling, seen, request.limit)
    reasons = {int(i): name for name, ids in removed.items() for i in ids}
    with np.errstate(divide="ignore"):
        after = log_softmax(left) if left.max() > -np.inf else np.full_like(left, -np.inf)
    p = np.exp(before.astype(np.float64))
    total = float(logits.max()) + math.log(float(np.exp(logits - logits.max()).sum(dtype=float)))
    top = [
        {
            "id": int(i),
            "text": model.name(int(i)),
            "bytes": list(model.raw(int(i))),
            "logit": float(logits[i]),
            "logprob": float(before[i]),
            "logprob_after": float(after[i]) if after[i] > -np.inf else None,
            "reason": reasons.get(int(i)),
        }
        for i in largest(logits, asked.top)
    ]
    return {
        "tokens": list(request.prompt),
        "top": top,
        "logsumexp": total,
        "entropy": float(-np.sum(p * np.where(p > 0, before, 0))),
        "left": int(np.count_nonzero(left > -np.inf)),
        "logits": base64_floats(logits) if asked.logits else None,
    }


def base64_floats(values: Array) -> str:
    """Float32 numbers as base64, little-endian."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


# ---- Scores.


async def score_of(
    served: Served, limits: Limits, budget: Budget, asked: ScoreRequest, key: str
) -> dict[str, Any]:
    """How probable texts are, token by token."""
    model = served.get(asked.model)
    limits.within("top", asked.top, limits.top)
    if (asked.text is None) == (asked.texts is None) or asked.texts == []:
        raise Refusal(400, "give text, or a list of texts of one or more", param="texts")
    texts = [asked.text] if asked.texts is None else asked.texts
    limits.within("texts", len(texts), limits.prompts, " texts")
    encoded = await asyncio.to_thread(_texts, model, texts, asked.after_end)
    total = sum(map(len, encoded))
    limits.within("texts", total, limits.scored, " tokens")
    budget.spend(key, total)
    begin = model.lm.config.begin
    after_end = begin is not None if asked.after_end is None else asked.after_end
    start = [begin] if after_end and begin is not None else []
    jobs = [
        [
            ToScore(inputs, replace(wanted, top=asked.top, rank=True, entropy=True))
            for inputs, wanted in windows_of([*start, *ids], model.lm.config.n_ctx, asked.stride)
        ]
        for ids in encoded
    ]
    await model.scheduler.run(scoring(model.lm.engine, [one for job in jobs for one in job]))
    return {
        "data": [
            _scored(model, ids, job, bool(start), asked)
            for ids, job in zip(encoded, jobs, strict=True)
        ]
    }


def _texts(model: ServedModel, texts: Sequence[Any], after_end: bool | None) -> list[list[int]]:
    encoded = []
    for place, text in enumerate(texts, 1):
        if text == "" or text == []:
            raise Refusal(400, f"text {place} is empty; give some text to score", param="texts")
        ids = model.lm.encode(text, add_special_tokens=False)
        encoded.append(check_text(ids, model.lm.config, after_end))
    return encoded


def _scored(
    model: ServedModel, ids: list[int], job: Sequence[ToScore], after_end: bool, asked: ScoreRequest
) -> dict[str, Any]:
    first: list[Any] = [] if after_end else [None]
    found: dict[str, list[Any]] = {
        name: first + [value for one in job for value in getattr(one.scores, name).tolist()]
        for name in ("logprobs", "ranks", "entropies")
    }
    raw = [model.raw(token) for token in ids]
    used = asked.stride if asked.stride is not None else model.lm.config.n_ctx // 2
    score = Score(ids, found["logprobs"], after_end, used if len(job) > 1 else None)
    score.n_bytes = sum(map(len, raw if after_end else raw[1:]))
    numbers = {name: getattr(score, name) for name in ("total", "perplexity", "bits_per_byte")}
    return {
        "tokens": ids,
        "bytes": [list(one) for one in raw],
        **found,
        "top": first + [row for one in job for row in _tops(model, one)] if asked.top else None,
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        "n_bytes": score.n_bytes,
        "n_scored": score.n_scored,
        "stride": score.stride,
    }


def _tops(model: ServedModel, one: ToScore) -> list[list[dict[str, Any]]]:
    assert one.scores is not None
    ids, logprobs = one.scores.top_ids, one.scores.top_logprobs
    assert ids is not None and logprobs is not None
    return [
        [
            {"id": int(i), "bytes": list(model.raw(int(i))), "logprob": float(value)}
            for i, value in zip(row, values, strict=True)
        ]
        for row, values in zip(ids, logprobs, strict=True)
    ]


# ---- Inside.


async def look_at(
    served: Served, limits: Limits, budget: Budget, asked: LookRequest, key: str
) -> dict[str, Any]:
    """The data of the page of `look`. The reference in NumPy computes it, beside the batch."""
    model = served.get(asked.model)
    ids = await asyncio.to_thread(model.lm.encode, asked.prompt)
    limits.within("prompt", len(ids), min(limits.looked, model.lm.config.n_ctx), " tokens")
    limits.within("scale", len(asked.scale), 1024, " heads")
    budget.spend(key, len(ids))

    def gather() -> dict[str, Any]:
        look_page.check_size(model.lm.config, len(ids))
        acts = [lens.scale_heads(layer, head, factor) for layer, head, factor in asked.scale]
        lm = model.lm.acting(*acts) if acts else model.lm
        return look_page.gather(lm, ids, layer_scores=False)

    return await asyncio.to_thread(gather)
