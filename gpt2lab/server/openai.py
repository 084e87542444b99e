"""The shapes of OpenAI's answers: choices, their log-probabilities, usage, chunks of a stream."""

from __future__ import annotations

import codecs
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gpt2lab.server.scheduler import Drawn
from gpt2lab.server.served import ServedModel


class ChoiceToken(NamedTuple):
    """A token of an answer. start: the offset of its text. logprob: None without a context."""

    token: int
    start: int
    logprob: float | None
    top: Sequence[tuple[int, float]]


@dataclass
class GrowingChoice:
    """One text as it grows. places: its tokens, those that an end took away left out."""

    model: ServedModel
    offset: int = 0  # characters before it: the prompt's
    text: str = ""
    finish: str | None = None
    count: int = 0
    total: float = 0.0
    places: list[ChoiceToken] = field(default_factory=list)
    given: int = 0  # places that a stream has sent
    _size: int = 0  # characters of the tokens so far, also of those that are held back

    def __post_init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, drawn: Drawn) -> None:
        """Add a token."""
        self.count += drawn.token >= 0
        self.total += drawn.logprob
        if drawn.token >= 0:
            self.places.append(ChoiceToken(drawn.token, self._size, drawn.logprob, drawn.top))
            self._size += len(self._decoder.decode(self.model.raw(drawn.token)))
        self.text += drawn.text
        self.finish = drawn.finish or self.finish
        if self.finish == "stop":  # tokens behind the end of the text
            while self.places and self.places[-1].start >= len(self.text):
                self.places.pop()

    @property
    def mean(self) -> float:
        """The mean log-probability of its tokens, by which best_of ranks."""
        return self.total / max(1, self.count)

    def fresh(self) -> list[ChoiceToken]:
        """The places that a stream has not sent yet."""
        known = [place for place in self.places if self.finish or place.start < len(self.text)]
        new, self.given = known[self.given :], max(self.given, len(known))
        return new


def completion_logprobs(
    model: ServedModel, places: Sequence[ChoiceToken], offset: int = 0
) -> dict[str, Any]:
    """The `logprobs` of a completion; token and alternatives come from the same floats."""
    tops = [
        None if place.logprob is None else {model.name(i): value for i, value in _with_own(place)}
        for place in places
    ]
    return {
        "tokens": [model.name(place.token) for place in places],
        "token_logprobs": [place.logprob for place in places],
        "top_logprobs": tops,
        "text_offset": [offset + place.start for place in places],
    }


def _with_own(place: ChoiceToken) -> list[tuple[int, float]]:
    """The most probable tokens of a place, and its own where it is none of them."""
    own = [] if any(i == place.token for i, _ in place.top) else [(place.token, place.logprob)]
    return [*place.top, *own]  # type: ignore[list-item]


def chat_logprobs(model: ServedModel, places: Sequence[ChoiceToken], top: int) -> dict[str, Any]:
    """The `logprobs` of a chat's choice."""

    def told(token: int, logprob: float | None) -> dict[str, Any]:
        return {"token": model.name(token), "logprob": logprob, "bytes": list(model.raw(token))}

    return {
        "content": [
            {
                **told(place.token, place.logprob),
                "top_logprobs": [told(i, value) for i, value in place.top[:top]],
            }
            for place in places
        ],
        "refusal": None,
    }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """What a request took."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def head(model: ServedModel, kind: str, prefix: str) -> dict[str, Any]:
    """What an answer and all chunks of a stream begin with: one id, kind, time and model."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model.id,
        "system_fingerprint": model.fingerprint,
    }
