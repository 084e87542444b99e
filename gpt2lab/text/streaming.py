"""Ids to text one at a time, whole characters only."""

from __future__ import annotations

import codecs
from operator import index
from typing import SupportsIndex

from gpt2lab.text.tokenizer import Tokenizer


class StreamDecoder:
    """Decode ids one at a time, whole characters only.

    The pushes and the final flush together are `tokenizer.decode` of all the ids, for any ids:
    invalid bytes come out as U+FFFD as soon as it is sure that they are invalid.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ids: list[int] = []  # of a library's tokens, whose text depends on their neighbours
        self._given = 0

    def push(self, token: SupportsIndex) -> str:
        """The text that `token` completes, "" while a character is incomplete."""
        if self._tokenizer.kind != "library":
            return self._decoder.decode(self._tokenizer.token_bytes(token))
        self._ids.append(index(token))
        return self._new(whole=False)

    def _new(self, whole: bool) -> str:
        text, start = self._tokenizer.decode(self._ids), self._given
        until = len(text) if whole else self._tokenizer.stable(text, self._ids)
        self._given = max(start, until)
        return text[start:until]

    def flush(self) -> str:
        """What is left of an incomplete character, replaced; then the decoder is as new."""
        rest = self._decoder.decode(b"", final=True) + self._new(whole=True)
        self._decoder.reset()
        self._ids, self._given = [], 0
        return rest
