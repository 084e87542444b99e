"""One text as it grows: whole characters only, and nothing past its end.

Where a text ends is decided here when it is the text that says so: a stop string, the end of a
sentence or of a paragraph. Ends by token or by length are `generate`'s.
"""

from __future__ import annotations

import codecs
import re
from operator import index
from typing import SupportsIndex

from gpt2lab.generation.batch import Token
from gpt2lab.generation.sampling import Sampling
from gpt2lab.text.tokenizer import Tokenizer

# Patterns are texts, compiled by `re.compile` when they are first used and remembered there: that
# takes 4 ms, and few starts need them.
_CLOSING = "\"'\u201d\u2019)\\]»"
_SENTENCE = rf"[.!?\u2026]+[{_CLOSING}]*(?=\s)|[。！？]+[」』”’）]*(?=[\s\S])"
_ABBREVIATION = r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|[A-Z])\.$"
_PARAGRAPH = r"\n[^\S\n]*\n"
_BLANK_LINE_MAYBE = r"\n[^\S\n]*$"


def _sentence_end(text: str, start: int) -> int | None:
    """Where the first sentence that ends at or after `start` ends, or None.

    A mark counts when white space follows it, so 3.14 and an ellipsis in the making do not; some
    abbreviations and initials are left out.
    """
    abbreviation = re.compile(_ABBREVIATION)
    for match in re.compile(_SENTENCE).finditer(text, max(0, start - 8)):
        if match.end() >= max(start, 1) and not abbreviation.search(text, 0, match.start() + 1):
            return match.end()
    return None


def _paragraph_end(text: str, start: int) -> int | None:
    """Where the first paragraph, a run of text before a blank line, ends; or None."""
    begun = re.search(r"\S", text)
    if begun is None:
        return None
    match = re.compile(_PARAGRAPH).search(text, max(begun.start(), start))
    return match.start() if match else None


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


class Writer:
    """One row's text as it grows: whole characters only, and nothing past its end.

    count: tokens so far. finish_reason: "stop" or "length" once the text has ended.
    Text that might be the beginning of a stop string is held back until it is known.
    """

    def __init__(self, tokenizer: Tokenizer | None, s: Sampling) -> None:
        self.text = ""
        self.count = 0
        self.finish_reason: str | None = None
        self._decoder = StreamDecoder(tokenizer) if tokenizer is not None else None
        self._settings, self._may_end = s, bool(s.stop or s.end_on)
        self._shown = 0
        self._floor = 0  # no end counts before it: the text of the first min_new_tokens

    def push(self, token: Token) -> tuple[str, str | None]:
        """Take a token: the text that is now certain, and `finish_reason`."""
        self.count += 1
        self.finish_reason = token.finish_reason
        if self._decoder is not None and self.finish_reason != "stop":
            self.text += self._decoder.push(token.id)
        if self.finish_reason and self._decoder is not None:
            self.text += self._decoder.flush()
        if self.count <= self._settings.min_new_tokens:
            self._floor = len(self.text)
        cut = self._end() if self._may_end else None
        if cut is not None:
            self.finish_reason = "stop"
            self.text = self.text[:cut]
        held = self._held() if self._may_end and not self.finish_reason else 0
        return self._show(len(self.text) - held), self.finish_reason

    def _show(self, until: int) -> str:
        new = self.text[self._shown : until]
        self._shown += len(new)
        return new

    def _end(self) -> int | None:
        """Where the text ends by a stop string, a sentence or a paragraph."""
        s, start = self._settings, max(self._shown, self._floor)
        ends = [self.text.find(stop, start) for stop in s.stop]
        if s.end_on == "sentence":
            ends.append(_sentence_end(self.text, start) or -1)
        if s.end_on == "paragraph":
            ends.append(_paragraph_end(self.text, start) or -1)
        found = [end for end in ends if end >= 0]
        return min(found) if found else None

    def _held(self) -> int:
        """How many characters at the end may turn out to begin a stop string or a blank line."""
        held = 0
        if self._settings.end_on == "paragraph":
            line = re.compile(_BLANK_LINE_MAYBE).search(self.text, self._shown)
            held = len(self.text) - line.start() if line else 0
        most = max((len(stop) - 1 for stop in self._settings.stop), default=0)
        for size in range(min(most, len(self.text) - self._shown), held, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self._settings.stop):
                return size
        return held
