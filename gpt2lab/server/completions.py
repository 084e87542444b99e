"""/v1/completions: plain and streamed, with echo, best_of, and a suffix by sampling and ranking."""

from __future__ import annotations

import asyncio
import codecs
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from gpt2lab.engines.wanted import Wanted
from gpt2lab.errors import InputError
from gpt2lab.generation.request import Request
from gpt2lab.server import openai
from gpt2lab.server.asked import CheckedPrompts, prepare, prompts_of, settings_of, whole_or_none
from gpt2lab.server.calls import Answer
from gpt2lab.server.limits import Budget, Limits
from gpt2lab.server.openai import ChoiceToken, GrowingChoice
from gpt2lab.server.refusals import Refusal
from gpt2lab.server.scheduler import Drawn
from gpt2lab.server.schema import CompletionRequest
from gpt2lab.server.scoring import ToScore, scoring
from gpt2lab.server.served import Served, ServedModel

MIDDLES = 32  # that are sampled where a suffix is given


@dataclass
class _Plan:
    """A completion request, checked. top: alternatives a token, None for no log-probabilities.

    keep: how many choices of each prompt are returned. generates: False where only the prompt is
    wanted. suffix: ids of the text that shall follow.
    """

    prepared: CheckedPrompts
    top: int | None
    keep: int
    generates: bool
    texts: list[str]
    suffix: list[int]
    usage_chunk: bool


def _counts(asked: CompletionRequest, streams: bool) -> tuple[int, int]:
    """How many choices of a prompt are returned, and how many are generated for that."""
    n = 1 if asked.n is None else asked.n
    best_of = n if asked.best_of is None else asked.best_of
    if n < 1 or best_of < n:
        raise Refusal(
            400,
            f"n is {n} and best_of {best_of}; n must be 1 or more and best_of at least n",
            param="best_of" if n >= 1 else "n",
        )
    if asked.suffix:
        if streams:
            raise Refusal(400, "suffix ranks whole texts; ask without stream", param="suffix")
        return n, max(MIDDLES, best_of)
    if best_of > n and streams:
        raise Refusal(400, "best_of ranks whole texts; ask without stream", param="best_of")
    return n, best_of


def _plan(model: ServedModel, asked: CompletionRequest, limits: Limits) -> _Plan:
    """A request with everything checked and tokenized."""
    given, streams = settings_of(asked, limits), bool(asked.stream)
    top = whole_or_none("logprobs", asked.logprobs, 0, limits.top)
    keep, each = _counts(asked, streams)
    if top and given.get("num_beams", 1) > 1:
        told = "logprobs above 0 need samples; a beam search gives no other tokens than its own"
        raise Refusal(400, told, param="logprobs")
    generates = given.get("max_new_tokens") != 0 or not asked.echo
    if not generates:
        given["max_new_tokens"] = 1  # Sampling's least; nothing is generated
    prompts = prompts_of(asked.prompt, limits)
    name = "max_tokens" if asked.max_tokens is not None else "max_new_tokens"
    prepared = prepare(
        model,
        prompts,
        {**given, "n": each},
        limits,
        each=each if generates else keep,
        overflow=asked.overflow or "refuse",
        name=name,
    )
    texts = [
        _text(model, prompt, request)
        for prompt, request in zip(prompts, prepared.requests, strict=True)
    ]
    suffix = _suffix(model, asked.suffix) if asked.suffix else []
    wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
    return _Plan(prepared, top, keep, generates, texts, suffix, wants_usage)


def _text(model: ServedModel, prompt: Any, request: Request) -> str:
    """A prompt as text, for `echo` and offsets."""
    if isinstance(prompt, str):
        return prompt
    known = [i for i in request.prompt if prompt is not None and model.raw(i)]
    return "" if model.lm.tokenizer is None else model.lm.decode(known)


def _suffix(model: ServedModel, text: str) -> list[int]:
    try:
        return model.lm.encode(text, add_special_tokens=False)
    except InputError as error:
        raise Refusal(400, f"suffix: {error}", param="suffix") from None


async def completions(
    served: Served, limits: Limits, budget: Budget, asked: CompletionRequest, key: str
) -> Answer:
    """Answer a completion request."""
    model = served.get(asked.model)
    plan = await asyncio.to_thread(_plan, model, asked, limits)
    budget.spend(key, plan.prepared.most)
    heading = openai.head(model, "text_completion", "cmpl")
    if asked.stream:
        return _streamed(plan, bool(asked.echo), heading)
    return await _whole(plan, bool(asked.echo), heading)


# ---- The prompt's own log-probabilities.


async def _prompt_places(plan: _Plan) -> list[list[ChoiceToken]]:
    """The tokens of each prompt with the log-probabilities that the model gave them."""
    model, asked = plan.prepared.model, list[ToScore]()
    for request in plan.prepared.requests:
        ids = request.prompt
        wanted = Wanted(range(len(ids) - 1), ids[1:], top=plan.top or 0)
        asked.append(ToScore(ids[:-1], wanted))
    await model.scheduler.run(scoring(model.lm.engine, [one for one in asked if len(one.tokens)]))
    return [
        _places(model, request, one)
        for request, one in zip(plan.prepared.requests, asked, strict=True)
    ]


def _places(model: ServedModel, request: Request, scored: ToScore) -> list[ChoiceToken]:
    """A prompt's tokens as places; the first has no log-probability."""
    found, start = list[ChoiceToken](), 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    scores = scored.scores
    for i, token in enumerate(request.prompt):
        logprob: float | None = None
        top: Sequence[tuple[int, float]] = ()
        if i and scores is not None and scores.logprobs is not None:
            logprob = float(scores.logprobs[i - 1])
            if scores.top_ids is not None and scores.top_logprobs is not None:
                pairs = zip(scores.top_ids[i - 1], scores.top_logprobs[i - 1], strict=True)
                top = [(int(one), float(value)) for one, value in pairs]
        found.append(ChoiceToken(token, start, logprob, top))
        start += len(decoder.decode(model.raw(token)))
    return found


# ---- A whole answer.


async def _whole(plan: _Plan, echo: bool, heading: dict[str, Any]) -> dict[str, Any]:
    prompts = await _prompt_places(plan) if echo and plan.top is not None else []
    choices = await _generated(plan)
    if plan.suffix:
        scores = await _ranked(plan, choices)
    else:
        scores = [choice.mean for choice in choices]
    kept = _best(plan, scores)
    tokens = sum(choice.count for choice in choices)
    listed = [
        _choice(plan, place, choices[i], i // plan.prepared.each, echo, prompts)
        for place, i in enumerate(kept)
    ]
    more: dict[str, Any] = {}
    if plan.suffix:
        more = {"method": "sample-and-rank", "sampled": len(choices)}
        for one, i in zip(listed, kept, strict=True):
            one["suffix_logprob"] = scores[i]
    used = openai.usage(plan.prepared.prompt_tokens, tokens)
    return {**heading, "choices": listed, "usage": used, **more}


async def _drawn(plan: _Plan) -> AsyncGenerator[Drawn, None]:
    """The tokens of all choices, as they come."""
    prepared = plan.prepared
    if plan.generates:
        drawing = prepared.model.scheduler.generate(prepared.samples, plan.top or 0)
        async with aclosing(drawing):
            async for drawn in drawing:
                for one in drawn:
                    yield one


async def _generated(plan: _Plan) -> list[GrowingChoice]:
    prepared, offsets = plan.prepared, [len(text) for text in plan.texts]
    choices = [
        GrowingChoice(prepared.model, offsets[i // prepared.each])
        for i in range(len(prepared.samples))
    ]
    if not plan.generates:
        for choice in choices:
            choice.finish = "length"
        return choices
    async with aclosing(_drawn(plan)) as drawing:
        async for one in drawing:
            choices[one.choice].take(one)
    return choices


def _best(plan: _Plan, scores: Sequence[float]) -> list[int]:
    """The choices that are returned: of each prompt those of the highest scores, best first."""
    each, kept = plan.prepared.each, list[int]()
    for first in range(0, len(scores), each):
        order = list(range(first, first + each))
        if each > plan.keep:
            order.sort(key=lambda i: -scores[i])
        kept += order[: plan.keep]
    return kept


async def _ranked(plan: _Plan, choices: Sequence[GrowingChoice]) -> list[float]:
    """log p(suffix | prompt and middle) of each choice."""
    model, asked, n_ctx = plan.prepared.model, list[ToScore](), plan.prepared.model.lm.config.n_ctx
    for choice, (request, _) in zip(choices, plan.prepared.samples, strict=True):
        middle = [place.token for place in choice.places]
        ids = [*request.prompt, *middle, *plan.suffix][-n_ctx:]
        first = len(ids) - len(plan.suffix)
        if first < 1:
            raise Refusal(400, f"suffix has {len(plan.suffix)} tokens, the window {n_ctx}")
        asked.append(ToScore(ids[:-1], Wanted(range(first - 1, len(ids) - 1), plan.suffix)))
    await model.scheduler.run(scoring(model.lm.engine, asked))
    return [
        math.fsum(float(value) for value in one.scores.logprobs)
        if one.scores is not None and one.scores.logprobs is not None
        else -math.inf
        for one in asked
    ]


def _choice(
    plan: _Plan,
    place: int,
    choice: GrowingChoice,
    prompt: int,
    echo: bool,
    prompts: list[list[ChoiceToken]],
) -> dict[str, Any]:
    """A choice of an answer."""
    logprobs = None
    if plan.top is not None:
        offset = 0 if echo else choice.offset
        places = list(choice.places)
        if echo:
            moved = [one._replace(start=one.start + choice.offset) for one in places]
            places = [*prompts[prompt], *moved]
        logprobs = openai.completion_logprobs(plan.prepared.model, places, offset)
    text = plan.texts[prompt] + choice.text if echo else choice.text
    finish = choice.finish or "length"
    return {"index": place, "text": text, "logprobs": logprobs, "finish_reason": finish}


# ---- A stream.


async def _streamed(
    plan: _Plan, echo: bool, heading: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a stream; each holds whole characters of one choice."""
    prepared, null = plan.prepared, {"usage": None} if plan.usage_chunk else {}
    choices = [
        GrowingChoice(prepared.model, len(plan.texts[i // prepared.each]))
        for i in range(len(prepared.samples))
    ]
    if echo:
        prompts = await _prompt_places(plan) if plan.top is not None else []
        for i in range(len(choices)):
            yield {**heading, "choices": [_echoed(plan, i, prompts)], **null}
    async with aclosing(_drawn(plan)) as drawing:
        async for one in drawing:
            choices[one.choice].take(one)
            if one.text or one.finish:
                part = _part(plan, choices[one.choice], one.choice, one.text)
                yield {**heading, "choices": [part], **null}
    if plan.usage_chunk:
        tokens = sum(choice.count for choice in choices)
        used = openai.usage(prepared.prompt_tokens, tokens)
        yield {**heading, "choices": [], "usage": used}


def _echoed(plan: _Plan, i: int, prompts: list[list[ChoiceToken]]) -> dict[str, Any]:
    prompt, model = i // plan.prepared.each, plan.prepared.model
    logprobs = openai.completion_logprobs(model, prompts[prompt]) if prompts else None
    finish = None if plan.generates else "length"
    text = plan.texts[prompt]
    return {"index": i, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _part(plan: _Plan, choice: GrowingChoice, index: int, text: str) -> dict[str, Any]:
    logprobs, fresh = None, choice.fresh()
    if plan.top is not None:
        logprobs = openai.completion_logprobs(plan.prepared.model, fresh, choice.offset)
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": choice.finish}
