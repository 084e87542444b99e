"""From a Struct of `schema` to checked requests: what is the same for completions and chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpt2lab.errors import InputError, quoted
from gpt2lab.generation.request import Prompt, Request
from gpt2lab.server.limits import Limits
from gpt2lab.server.refusals import Refusal, refused
from gpt2lab.server.schema import SamplingFields
from gpt2lab.server.served import ServedModel

#: Names of other systems -> ours.
RENAMED = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "stop_token_ids": "stop_tokens",
}


def settings_of(asked: SamplingFields, limits: Limits) -> dict[str, Any]:
    """The settings that a request gives, under our names."""
    found: dict[str, Any] = {}
    names = (*SamplingFields.__struct_fields__, "max_completion_tokens")
    for name in names:
        value = getattr(asked, name, None)
        if value is None:
            continue
        own = RENAMED.get(name, name)
        if own in found and found[own] != value:
            raise Refusal(400, f"{own} is given twice, once as {name}; give one", param=name)
        found[own] = value
    _check_sizes(found, limits)
    return found


def _check_sizes(given: dict[str, Any], limits: Limits) -> None:
    """What `Sampling` allows and a server does not: very many or very long entries."""
    stops = given.get("stop", ())
    stops = [stops] if isinstance(stops, str) else stops
    limits.within("stop", len(stops), limits.stops, " stop strings")
    longest = max(map(len, stops), default=0)
    limits.within("stop", longest, limits.stop_length, " characters in a string")
    limits.within("stop_tokens", len(given.get("stop_tokens", ())), limits.biases, " entries")
    limits.within("logit_bias", len(given.get("logit_bias", ())), limits.biases, " entries")
    words = given.get("bad_words", ())
    limits.within("bad_words", sum(map(len, words)), 4 * limits.biases, " characters or ids")
    limits.within("num_beams", given.get("num_beams", 1), limits.choices, " beams")


def prompts_of(given: Any, limits: Limits, field: str = "prompt") -> list[Prompt]:
    """One prompt or several as a list; "" and nothing are the beginning of a document."""
    if given is None or isinstance(given, str):
        return [given or None]
    if not given:
        raise Refusal(
            400, f"{field} is empty; give a text, token ids or a list of them", param=field
        )
    if all(isinstance(one, int) for one in given):
        return [given]
    wrong = next((one for one in given if isinstance(one, int)), None)
    if wrong is not None:
        message = f"{field} mixes prompts and the id {wrong}; give one list of ids for each prompt"
        raise Refusal(400, message, param=field)
    limits.within(field, len(given), limits.prompts, " prompts")
    return [one or None if isinstance(one, str) else one for one in given]


@dataclass
class CheckedPrompts:
    """Requests of one call. samples: (request, index) of each choice; prompt p has `each` of them.

    texts: the prompts as text, "" where they were ids and no tokenizer knows them.
    """

    model: ServedModel
    requests: list[Request]
    samples: list[tuple[Request, int]]
    each: int

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(request.prompt) for request in self.requests)

    @property
    def most(self) -> int:
        """How many tokens may be read and generated in all."""
        new = sum(request.sampling.max_new_tokens for request, _ in self.samples)
        return self.prompt_tokens + new


def prepare(
    model: ServedModel,
    prompts: Sequence[Prompt],
    given: dict[str, Any],
    limits: Limits,
    *,
    each: int,
    overflow: str = "refuse",
    name: str = "max_tokens",
) -> CheckedPrompts:
    """Checked requests for `each` samples of each prompt; errors as answers.

    name: what the caller calls max_new_tokens.
    """
    limits.within("n", each * len(prompts), limits.choices, " choices (with best_of and prompts)")
    try:
        requests = model.lm.requests(prompts, overflow, given)
    except InputError as error:
        known = (*SamplingFields.__struct_fields__, "prompt", "overflow")
        told = InputError(str(error).replace("max_new_tokens", name))
        raise refused(told, known) from None
    if overflow == "refuse":
        asked = "max_new_tokens" in given
        requests = [_fitting(request, model.lm.config.n_ctx, asked, name) for request in requests]
    samples = [(request, i) for request in requests for i in range(each)]
    return CheckedPrompts(model, requests, samples, each)


def _fitting(request: Request, n_ctx: int, asked: bool, name: str) -> Request:
    """A request whose text fits the window; a default length is shortened.

    The last token needs no position, as nothing is generated after it.
    """
    s, room = request.sampling, n_ctx - len(request.prompt) + 1
    if s.max_new_tokens <= room:
        return request
    if asked:
        raise Refusal(
            400,
            f"the prompt has {len(request.prompt)} tokens and {name} is {s.max_new_tokens}, and "
            f"the model's window is {n_ctx}; lower {name} to {room} or shorten the prompt, or let "
            "the window move (overflow 'tail')",
            param=name,
            code="context_length_exceeded",
        )
    least = min(s.min_new_tokens, room)
    return replace(request, sampling=replace(s, max_new_tokens=room, min_new_tokens=least))


def whole_or_none(name: str, value: int | None, low: int, high: int) -> int | None:
    """An optional integer in its range."""
    if value is not None and not low <= value <= high:
        message = f"{name} is {quoted(value)}; it must be an integer from {low} to {high}"
        raise Refusal(400, message, param=name)
    return value
