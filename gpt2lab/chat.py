"""Talking with a base model: the conversation is a script, and the model writes the next speaker.

A base GPT-2 is no assistant: it continues text. So the history is written as a play, the reply
ends where the next speaker would begin, and the oldest turns go when the window is full.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from gpt2lab.errors import InputError
from gpt2lab.generation.batch import Batch
from gpt2lab.generation.generate import Piece, pieces
from gpt2lab.generation.request import Request, requests
from gpt2lab.generation.sampling import Sampling
from gpt2lab.lm import LM, load
from gpt2lab.text.tokenizer import Allowed


@dataclass
class Chat:
    """A conversation in script form.

    you, them: the names of the two speakers. opening: text before the first line, never trimmed.
    settings: keyword arguments of `Sampling`. turns: (speaker, text), oldest first.
    dropped: how many of the turns the last prompt had to leave out. allowed_special: the special
    tokens that names and messages may spell, or "all". What the engine has read of the script stays
    in its KV cache (`Batch`, reuse), so that an answer begins as fast in a long talk as in a short.
    """

    lm: LM
    you: str = "You"
    them: str = "Friend"
    opening: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    turns: list[tuple[str, str]] = field(default_factory=list)
    dropped: int = 0
    allowed_special: Allowed = ()
    _batch: Batch | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def stops(self) -> tuple[str, str]:
        """The stop strings of a reply: where the next speaker would begin."""
        return f"\n{self.you}:", f"\n{self.them}:"

    def prompt(self) -> str:
        """The script so far, up to where the reply begins, cut by whole turns to fit the window."""
        return self._asked()[0]

    def _asked(self) -> tuple[str, Sampling]:
        """The prompt, and the settings of the reply."""
        assert self.lm.tokenizer is not None
        s, length, room, n_ctx = None, 0, 0, self.lm.config.n_ctx
        for dropped in range(max(1, len(self.turns))):
            self.dropped = dropped
            lines = [f"{speaker}: {text}" for speaker, text in self.turns[dropped:]]
            script = "\n".join([*([self.opening] if self.opening else []), *lines, f"{self.them}:"])
            length = len(self.lm.tokenizer.encode(script, self.allowed_special))
            s = s or self.lm.settings(length, **self.settings)
            room = n_ctx - min(s.max_new_tokens, n_ctx // 2)
            if length <= room:
                return script, s
        raise InputError(
            f"the last message makes a prompt of {length} tokens, and {room} fit beside the reply; "
            "write a shorter one"
        )

    def reply(self, message: str) -> Generator[Piece, None, None]:
        """Say something; the pieces of the answer come as they are written.

        An answer that is interrupted is kept as far as it came. A message that cannot be sent
        leaves no trace.
        """
        message, lm = message.strip(), self.lm
        if not message:
            raise InputError("the message is empty; say something")
        self.turns.append((self.you, message))
        try:
            script, s = self._asked()
        finally:
            self.turns.pop()  # it counts when the answer begins
        s = replace(s, stop=(*self.stops, *s.stop), n=1)
        asked = requests([lm.encode(script, self.allowed_special)], s, lm.config, lm.tokenizer)
        return self._keep(message, self._answer(asked))

    def _answer(self, asked: list[Request]) -> Generator[Piece, None, None]:
        """The pieces of an answer, in the batch of the last one where no other answer is in it."""
        engine = self.lm.engine
        if self._batch is None or self._batch.engine is not engine or len(self._batch):
            self._batch = Batch(engine)
        yield from pieces(engine, self.lm.tokenizer, asked, batch=self._batch)

    def _keep(
        self, message: str, answer: Generator[Piece, None, None]
    ) -> Generator[Piece, None, None]:
        said: list[str] = []
        try:
            for piece in answer:
                said.append(piece.text)
                yield piece
        finally:
            self.turns += [(self.you, message), (self.them, "".join(said).strip())]
            answer.close()

    def undo(self) -> bool:
        """Take the last exchange back; False when there is none."""
        if not self.turns:
            return False
        del self.turns[-2:]
        return True

    def reset(self) -> None:
        """Forget everything said."""
        self.turns.clear()
        self.dropped = 0


@cache
def _default() -> LM:
    return load()


def generate_response(
    prompt: str, length: int = 100, temperature: float = 0.7, *, lm: LM | None = None
) -> str:
    """Continue a prompt by up to `length` tokens: the one function of many a GPT-2 chatbot.

    lm: the model, the bundled one by default. Returns the new text without the prompt.
    """
    lm = lm or _default()
    text = lm.generate(prompt, max_new_tokens=length, temperature=temperature)
    assert isinstance(text, str)
    return text
