"""What a prepared set depends on: the texts, how they are read, the vocabulary, what is held out.

A document is held out by a number that is drawn from the seed and its text, so it stays on its side
whatever is prepared beside it, and the same text twice is never on both sides.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2lab.corpus.documents import DocumentPart, Reading, TextFile, document_parts
from gpt2lab.corpus.token_set import vocabulary_hash
from gpt2lab.errors import InputError
from gpt2lab.files.file_facts import known_sha256
from gpt2lab.text.learn import learn_from
from gpt2lab.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

LEARNED_FROM = 1 << 27  # characters that a vocabulary is learned from, at most about
DRAWN = "drawn"  # the split of a file whose documents are drawn one by one
RANGE = 1 << 64  # of the number that is drawn for a document
NO_TEXT = "no text in these files but white space; give files with some"


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


def holdout_limit(numbers: Iterable[int], share: float) -> int:
    """Return the number below which a document is held out.

    It is the share, unless that would leave one side empty: then the document with the lowest
    number is held out, or the one with the highest is kept. Of large sets the first few documents
    are enough to know.
    """
    limit, least, most, count = int(share * RANGE), RANGE, -1, 0
    for number in numbers:
        least, most, count = min(least, number), max(most, number), count + 1
        if least < limit <= most:
            return limit
    if not count:  # no text, which shows later
        return 0
    if least == most:
        alone = "there is one document only" if count == 1 else "all documents are the same text"
        log.warning("%s: nothing is held out; name texts to validate on with --val", alone)
        return 0
    return min(max(limit, least + 1), most)


@dataclass(frozen=True)
class Preparation:
    """All that the shards depend on, and the folder that they go to.

    files: each with its split, train, val or DRAWN. left_out: how many files of folders are not
    read, by extension. learn: how many tokens are learned; without it and without a tokenizer, the
    vocabulary is the characters of the texts.
    """

    out: Path
    files: list[tuple[str, TextFile]]
    left_out: Counter[str]
    reading: Reading
    held_out: float
    seed: int
    shard_tokens: int
    tokenizer: Tokenizer | None
    learn: int | None

    def settings(self) -> dict[str, Any]:
        """Return what makes other shards of the same texts."""
        vocabulary: dict[str, Any] = {"characters": True}
        if self.learn is not None:
            vocabulary = {"learn": self.learn}
        elif self.tokenizer is not None:
            vocabulary = {"sha256": vocabulary_hash(self.tokenizer)}
        return {
            **{name: getattr(self, name) for name in ("held_out", "seed", "shard_tokens")},
            **self.reading.settings(),
            "vocabulary": vocabulary,
        }

    def identities(self) -> list[list[Any]]:
        """Return every file by its name and content, where the vocabulary depends on them."""
        if self.tokenizer is not None:
            return []
        return [[split, f.name, f.size, known_sha256(f.path)] for split, f in self.files]

    def limit(self) -> int:
        """Return the number below which a document is held out."""
        return holdout_limit(self._numbers(), self.held_out) if self.held_out else 0

    def vocabulary(self) -> Tokenizer:
        """Return the vocabulary as given, or learned from the texts."""
        if self.tokenizer is not None:
            return self.tokenizer
        if self.learn is not None:
            return self._learned(self.learn)
        alphabet = set().union(*(part.text for part in self._parts("train", "val", DRAWN)))
        if not alphabet:
            raise InputError(NO_TEXT)
        return Tokenizer.characters(sorted(alphabet))

    def _parts(self, *splits: str) -> Iterator[DocumentPart]:
        for split, file in self.files:
            if split in splits:
                yield from document_parts(file, self.reading)

    def _numbers(self) -> Iterator[int]:
        number = DocumentNumber(self.seed)
        for part in self._parts(DRAWN):
            number.update(part.text)
            if part.last:
                yield number.value()
                number = DocumentNumber(self.seed)

    def _learned(self, n_vocab: int) -> Tokenizer:
        texts = self._sampled()
        if self.reading.allow_special:  # the names will be tokens, not made of learned ones
            names = re.compile("|".join(map(re.escape, self.reading.special)))
            texts = (piece for text in texts for piece in names.split(text))
        tokenizer = learn_from(texts, n_vocab)
        if tokenizer.n_vocab < n_vocab:
            log.warning("the texts give only %d of %d tokens", tokenizer.n_vocab, n_vocab)
        return tokenizer

    def _sampled(self) -> Iterator[str]:
        """Yield parts at even distances that hold about LEARNED_FROM characters."""
        size = sum(file.size for split, file in self.files if split != "val")
        share, due = min(1.0, LEARNED_FROM / max(size, 1)), 1.0
        for part in self._parts("train", DRAWN):
            due += share
            if due >= 1:
                due -= 1
                yield part.text
