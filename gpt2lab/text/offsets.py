"""Where tokens are in the text that they make, counted in characters."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import numpy as np

Span = tuple[int, int]


def _character_of_each_byte(data: bytes) -> np.ndarray:
    """For every byte, the index of its character in `data.decode("utf-8", "replace")`."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return _character_of_each_broken_byte(data)
    is_first = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    character: np.ndarray = np.cumsum(is_first) - 1
    return character


def _character_of_each_broken_byte(data: bytes) -> np.ndarray:
    """The same where some bytes are invalid: ask the decoder byte by byte what there is so far."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    character, done = np.empty(len(data), np.int64), 0
    for at in range(len(data)):
        done += len(decoder.decode(data[at : at + 1]))
        held_back = decoder.getstate()[0].decode("utf-8", "replace")
        character[at] = done + len(held_back) - 1
    return character


def spans_of(tokens: Sequence[bytes]) -> list[Span]:
    """Return the span (start, end) of each token in the text of them all.

    A character that is split over several tokens belongs to each of them; a token without bytes has
    an empty span.
    """
    lengths = np.array([len(data) for data in tokens], np.int64)  # [T]
    ends = np.cumsum(lengths)
    character = _character_of_each_byte(b"".join(tokens))  # [bytes]
    total = int(character[-1]) + 1 if len(character) else 0
    character = np.append(character, total)
    first = character[ends - lengths]  # [T]
    last = np.where(lengths == 0, first, character[ends - 1] + 1)  # [T]
    return list(zip(first.tolist(), last.tolist(), strict=True))
