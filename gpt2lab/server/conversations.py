"""/v1/chat/completions: the script of two speakers of a base model, or a checkpoint's template."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, NamedTuple

from gpt2lab.chat import Chat
from gpt2lab.errors import InputError, MissingExtraError, quoted
from gpt2lab.server import openai
from gpt2lab.server.asked import CheckedPrompts, prepare, settings_of, whole_or_none
from gpt2lab.server.calls import Answer
from gpt2lab.server.limits import Budget, Limits
from gpt2lab.server.openai import GrowingChoice
from gpt2lab.server.refusals import Refusal, refused
from gpt2lab.server.schema import ChatMessage, ChatRequest
from gpt2lab.server.served import Served, ServedModel

ROLES = ("system", "developer", "user", "assistant")


class _Talk(NamedTuple):
    prepared: CheckedPrompts
    top: int | None
    usage_chunk: bool


def _content(message: ChatMessage) -> str:
    """The text of a message; parts of other kinds than text are refused."""
    if message.role not in ROLES:
        told = f"messages: role is {quoted(message.role)}; known: {', '.join(ROLES)}"
        raise Refusal(400, told, param="messages")
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    parts = [part.get("text") for part in message.content if part.get("type") == "text"]
    if len(parts) < len(message.content) or not all(isinstance(text, str) for text in parts):
        raise Refusal(400, "messages: content takes parts of type text alone", param="messages")
    return "".join(map(str, parts))


def _script(model: ServedModel, asked: ChatRequest, given: dict[str, Any]) -> Any:
    """The prompt of a base model; its stop strings join `given`."""
    told = [(message.role, _content(message)) for message in asked.messages]
    opening = "\n".join(text for role, text in told if role in ("system", "developer"))
    chat = Chat(model.lm, opening=opening, settings=dict(given))
    names = {"user": chat.you, "assistant": chat.them}
    chat.turns = [(names[role], text.strip()) for role, text in told if role in names]
    if not chat.turns:
        raise Refusal(400, "messages has no user message; give one", param="messages")
    prompt = chat.prompt()
    own = given.get("stop", ())
    given["stop"] = [*([own] if isinstance(own, str) else own), *chat.stops]
    return prompt


def _templated(model: ServedModel, asked: ChatRequest, template: str) -> list[int]:
    """The ids that a checkpoint's own chat template makes of the messages."""
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise MissingExtraError("the model's chat template", "jinja2", "serve") from None
    messages = [{"role": m.role, "content": _content(m)} for m in asked.messages]
    tokenizer = model.lm.tokenizer
    assert tokenizer is not None
    names = {f"{role}_token": _special(tokenizer, role) for role in ("bos", "eos", "unk", "pad")}
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    try:
        text = environment.from_string(template).render(
            messages=messages, add_generation_prompt=True, **names
        )
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        told = f"the model's chat template cannot take these messages: {str(error)[:300]}"
        raise Refusal(400, told, param="messages") from None
    return tokenizer.encode(text, "all", add_special_tokens=False)


def _special(tokenizer: Any, role: str) -> str:
    value = tokenizer.settings.get(f"{role}_token")
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else ""


def _prepared(model: ServedModel, asked: ChatRequest, limits: Limits) -> _Talk:
    if model.lm.tokenizer is None:
        raise Refusal(400, "this model comes without a tokenizer, so it cannot chat", param="model")
    if not asked.messages:
        raise Refusal(400, "messages is empty; give one message at least", param="messages")
    given, top = (
        settings_of(asked, limits),
        whole_or_none("top_logprobs", asked.top_logprobs, 0, 20),
    )
    template = model.lm.tokenizer.settings.get("chat_template")
    try:
        if isinstance(template, str):
            prompt: Any = _templated(model, asked, template)
        else:
            prompt = _script(model, asked, given)
    except InputError as error:
        raise refused(error, ChatRequest.__struct_fields__) from None
    n = 1 if asked.n is None else asked.n
    names = ("max_completion_tokens", "max_tokens", "max_new_tokens")
    name = next((one for one in names if getattr(asked, one) is not None), "max_tokens")
    prepared = prepare(model, [prompt], {**given, "n": n}, limits, each=max(1, n), name=name)
    wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
    return _Talk(prepared, (top or 0) if asked.logprobs else None, wants_usage)


async def conversations(
    served: Served, limits: Limits, budget: Budget, asked: ChatRequest, key: str
) -> Answer:
    """Answer a chat request."""
    model = served.get(asked.model)
    talk = await asyncio.to_thread(_prepared, model, asked, limits)
    budget.spend(key, talk.prepared.most)
    if asked.stream:
        return _streamed(talk, openai.head(model, "chat.completion.chunk", "chatcmpl"))
    choices = [GrowingChoice(model) for _ in talk.prepared.samples]
    drawing = model.scheduler.generate(talk.prepared.samples, talk.top or 0)
    async with aclosing(drawing):
        async for drawn in drawing:
            for one in drawn:
                choices[one.choice].take(one)
    heading = openai.head(model, "chat.completion", "chatcmpl")
    listed = [_whole(talk, i, choice) for i, choice in enumerate(choices)]
    return {**heading, "choices": listed, "usage": _usage(talk, choices)}


def _usage(talk: _Talk, choices: list[GrowingChoice]) -> dict[str, Any]:
    return openai.usage(talk.prepared.prompt_tokens, sum(choice.count for choice in choices))


def _whole(talk: _Talk, index: int, choice: GrowingChoice) -> dict[str, Any]:
    logprobs = None
    if talk.top is not None:
        logprobs = openai.chat_logprobs(choice.model, choice.places, talk.top)
    message = {"role": "assistant", "content": choice.text.strip(), "refusal": None}
    finish = choice.finish or "length"
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}


async def _streamed(talk: _Talk, heading: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a chat: the role first, then text, then how it ended."""
    null = {"usage": None} if talk.usage_chunk else {}
    choices = [GrowingChoice(talk.prepared.model) for _ in talk.prepared.samples]

    def chunk(index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        return {**heading, "choices": [choice], **null}

    for index in range(len(choices)):
        yield chunk(index, {"role": "assistant", "content": ""})
    drawing = talk.prepared.model.scheduler.generate(talk.prepared.samples, talk.top or 0)
    async with aclosing(drawing):
        async for drawn in drawing:
            for one in drawn:
                choice = choices[one.choice]
                begins = not choice.text.strip()
                choice.take(one)
                if one.text or one.finish:
                    text = one.text.lstrip() if begins else one.text
                    more: dict[str, Any] = {"finish_reason": choice.finish}
                    if talk.top is not None:
                        fresh = choice.fresh()
                        more["logprobs"] = openai.chat_logprobs(choice.model, fresh, talk.top)
                    yield chunk(one.choice, {"content": text}, **more)
    if talk.usage_chunk:
        yield {**heading, "choices": [], "usage": _usage(talk, choices)}
