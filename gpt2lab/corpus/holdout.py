"""Which documents are held out for validation.

It is drawn from the seed and the document's text, so a document stays on its side whatever is
prepared beside it, and the same text twice is never on both sides.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator

log = logging.getLogger(__name__)

RANGE = 1 << 64  # of the number that is drawn for a document


class DocumentNumber:
    """The number of a document, uniform below RANGE, from its text as it arrives."""

    def __init__(self, seed: int) -> None:
        self._digest = hashlib.sha256(f"{seed}\n".encode())

    def update(self, text: str) -> None:
        """Take in the next part of the document."""
        self._digest.update(text.encode())

    def value(self) -> int:
        """Return the number for the text so far."""
        return int.from_bytes(self._digest.digest()[:8], "big")


def numbers(parts: Iterable[tuple[str, bool]], seed: int) -> Iterator[int]:
    """Yield the number of every document of (text, is it the last part of its document)."""
    number = DocumentNumber(seed)
    for text, last in parts:
        number.update(text)
        if last:
            yield number.value()
            number = DocumentNumber(seed)


def holdout_limit(parts: Iterable[tuple[str, bool]], share: float, seed: int) -> int:
    """Return the number below which a document is held out.

    It is the share, unless that would leave one side empty: then the document with the lowest
    number is held out, or the one with the highest is kept. Of large sets the first few documents
    are enough to know.
    """
    limit, least, most, count = int(share * RANGE), RANGE, -1, 0
    for number in numbers(parts, seed) if share else ():
        least, most, count = min(least, number), max(most, number), count + 1
        if least < limit <= most:
            return limit
    if not count:  # nothing to hold out, or no text, which shows later
        return 0
    if least == most:
        alone = "there is one document only" if count == 1 else "all documents are the same text"
        log.warning("%s: nothing is held out; name texts to validate on with --val", alone)
        return 0
    return min(max(limit, least + 1), most)
