"""What the server refuses before it costs anything: sizes, counts, and tokens a minute."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from gpt2lab.server.refusals import Refusal


@dataclass(frozen=True)
class Limits:
    """The limits of each request; `queue` is of a model, `tokens_per_minute` of a key.

    body: bytes. choices: samples of one request, all prompts and beams together. prompts: of one
    request. stops: stop strings, each of stop_length characters at most. top: most probable tokens
    for each position. biases: entries of logit_bias or bad_words. logits: prompts of /next, each of
    which may give all logits. scored: tokens of one request that are scored or embedded. looked:
    tokens of /look. seconds: for the whole answer; patience: for a client that sends or reads
    nothing. tokens_per_minute: prompt and answer; 0 is no limit.
    """

    body: int = 4 << 20
    choices: int = 128
    prompts: int = 128
    queue: int = 256
    stops: int = 16
    stop_length: int = 1000
    top: int = 100
    biases: int = 1024
    logits: int = 256
    scored: int = 1 << 18
    looked: int = 512
    seconds: float = 600.0
    patience: float = 30.0
    tokens_per_minute: int = 0

    def within(self, name: str, value: int, limit: int, what: str = "") -> None:
        """Refuse a count above its limit."""
        if value > limit:
            raise Refusal(400, f"{name} asks for {value}{what}; the limit is {limit}", param=name)


class Budget:
    """Tokens a minute for each key, in a bucket that fills again evenly."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = per_minute / 60, clock
        self._most = float(per_minute)
        self._left: dict[str, tuple[float, float]] = {}  # key -> tokens, and when that was

    def spend(self, key: str, tokens: int) -> None:
        """Take tokens from a key's bucket; 429 with the time to wait where it holds too few."""
        if not self._most:
            return
        if tokens > self._most:
            raise Refusal(
                400,
                f"the request may take {tokens} tokens and a key has {self._most:.0f} a minute "
                "(--tokens-per-minute); ask for fewer",
                code="too_many_tokens",
            )
        now = self._clock()
        held, since = self._left.get(key, (self._most, now))
        held = min(self._most, held + (now - since) * self._rate)
        if tokens > held:
            wait = math.ceil((tokens - held) / self._rate)
            raise Refusal(
                429,
                f"the request may take {tokens} tokens, and this key has {held:.0f} of its "
                f"{self._most:.0f} a minute left; wait {wait} s",
                code="rate_limit_exceeded",
                retry=wait,
            )
        self._left[key] = held - tokens, now
