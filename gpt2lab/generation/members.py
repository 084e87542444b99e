"""What is in a batch: rows, the prompts that they begin from, beam searches, and tokens drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from gpt2lab.cache import Sequence, Slots
from gpt2lab.engines.wanted import Scores, Wanted, joined, nothing
from gpt2lab.errors import InputError
from gpt2lab.generation.beam import Search
from gpt2lab.generation.request import Request

Key = tuple[tuple[int, ...], int | None]  # a prompt, and how many most probable ids at each token


@dataclass(eq=False)
class PromptToRead(Sequence):
    """A prompt that rows begin from: read once, then forked; the last row takes its slot.

    waiting: how many rows have yet to begin. cached: how many of its tokens were in memory. top:
    how many of the most probable ids are wanted where each of its tokens stands, None where no
    scores are. Its scores come first, in portions; the step that gives logits reads the last token.
    """

    waiting: int = 0
    cached: int = 0
    top: int | None = None
    _scored: int = 0  # tokens that have been read for their scores
    _found: list[Scores] = field(default_factory=list)

    @property
    def scores(self) -> Scores | None:
        """Those of all tokens but the first, None where none were wanted."""
        if self.top is None:
            return None
        return joined([nothing(Wanted((), (), self.top)), *self._found])

    @property
    def unscored(self) -> bool:
        """Whether tokens have yet to be read for their scores."""
        return self.top is not None and self._scored < len(self.tokens) - 1

    def to_score(self, cache: Slots) -> list[int]:
        """The tokens to be read for their scores; a step that was interrupted is taken back."""
        if self.slot >= 0:
            cache.rewind(self.slot, self._scored)
        return self.tokens[self._scored : -1]

    def wanted(self, count: int) -> Wanted:
        """What to measure of the next `count` tokens."""
        following = self.tokens[self._scored + 1 : self._scored + 1 + count]
        return Wanted(range(count), following, self.top or 0)

    def take(self, count: int, scores: Scores) -> None:
        """Note the scores that `count` tokens gave."""
        self._found.append(scores)
        self._scored += count


@dataclass(eq=False, kw_only=True)
class Row(Sequence):
    """One sample of a request. Only its batch changes it.

    tokens: prompt and new ids. finish_reason: None while it waits or runs, then "stop" (an end
    token), "length", "cancelled", "error" (`error` says why) or "absent" (beam search found fewer
    texts than `index`). cached: how many tokens of the prompt were in memory when it began.
    top, scored: what was asked in `Batch.add`; prompt_scores: what was found.
    """

    request: Request
    index: int = 0
    top: int = 0
    scored: bool = False
    cached: int = 0
    prompt_scores: Scores | None = None
    finish_reason: str | None = None
    error: InputError | None = None

    @property
    def key(self) -> Key:
        """Rows of one key begin from the same prompt."""
        return self.request.prompt, self.top if self.scored else None

    @property
    def new_tokens(self) -> int:
        """How many tokens were drawn."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def rows(self) -> list[Row]:
        """Itself: what a beam search has several of."""
        return [self]

    @property
    def sequences(self) -> list[Sequence]:
        """Itself: what a beam search has several of."""
        return [self]


@dataclass(eq=False)
class BeamRows:
    """The rows of one beam search; they get its texts when it is done."""

    request: Request
    key: Key
    rows: list[Row]
    search: Search

    @property
    def sequences(self) -> list[Sequence]:
        """The hypotheses that go on."""
        return [*self.search.running]


class Token(NamedTuple):
    """One new token: its row, its id, and the model's own log-probability of it, before any setting
    changed it. finish_reason: on the last token of a row why it ended, else None. Where that is
    "error", there is no token: the id is -1. top: the most probable ids with their
    log-probabilities, as many as the row asked for."""

    row: Row
    id: int
    logprob: float
    finish_reason: str | None = None
    top: tuple[tuple[int, float], ...] = ()
