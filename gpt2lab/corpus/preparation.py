"""The settings of one call of `prepare`: which texts, how they are read, and the vocabulary."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpt2lab.corpus.documents import DocumentPart, Reading, TextFile, document_parts
from gpt2lab.corpus.holdout import holdout_limit
from gpt2lab.corpus.token_set import vocabulary_hash
from gpt2lab.errors import InputError
from gpt2lab.files.io import file_sha256
from gpt2lab.text.learn import learn_from
from gpt2lab.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

LEARNED_FROM = 1 << 27  # characters that a vocabulary is learned from, at most about
DRAWN = "drawn"
NO_TEXT = "no text in these files but white space; give files with some"


@dataclass(frozen=True)
class Preparation:
    """All that the shards depend on."""

    out: Path
    texts: list[TextFile]
    val: list[TextFile]
    left: Counter[str]
    reading: Reading
    held_out: float
    seed: int
    shard_tokens: int
    tokenizer: Tokenizer | None
    learn: int | None

    @cached_property
    def all(self) -> list[tuple[str, TextFile]]:
        """Every file with the split it is for, DRAWN where each document's is drawn."""
        split = "train" if self.val else DRAWN
        return [(split, file) for file in self.texts] + [("val", file) for file in self.val]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for _, file in self.all)

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

    def read(self, files: Iterable[TextFile]) -> Iterator[DocumentPart]:
        """Yield the documents of files."""
        for file in files:
            yield from document_parts(file, self.reading)

    def identities(self) -> list[list[Any]]:
        """Return every file by its name and content, where the vocabulary depends on them."""
        if self.tokenizer is not None:
            return []
        return [[split, file.name, file.size, file_sha256(file.path)] for split, file in self.all]

    def limit(self) -> int:
        """Return the number below which a document is held out."""
        parts = ((part.text, part.last) for part in self.read(self.texts))
        return 0 if self.val else holdout_limit(parts, self.held_out, self.seed)


def _sampled(texts: Iterable[DocumentPart], size: int) -> Iterator[str]:
    """Yield parts at even distances that hold about LEARNED_FROM of `size` characters."""
    share, due = min(1.0, LEARNED_FROM / max(size, 1)), 1.0
    for part in texts:
        due += share
        if due >= 1:
            due -= 1
            yield part.text


def _learned(work: Preparation, n_vocab: int) -> Tokenizer:
    texts = _sampled(work.read(work.texts), sum(file.size for file in work.texts))
    if work.reading.allow_special:  # the names will be tokens, not made of learned ones
        names = re.compile("|".join(map(re.escape, work.reading.special)))
        texts = (piece for text in texts for piece in names.split(text))
    tokenizer = learn_from(texts, n_vocab)
    if tokenizer.n_vocab < n_vocab:
        log.warning("the texts give only %d of %d tokens", tokenizer.n_vocab, n_vocab)
    return tokenizer


def _characters(texts: Iterable[DocumentPart]) -> Tokenizer:
    alphabet = set().union(*(part.text for part in texts))
    if not alphabet:
        raise InputError(NO_TEXT)
    return Tokenizer.characters(sorted(alphabet))


def vocabulary(work: Preparation) -> Tokenizer:
    """Return the vocabulary as given, or learned from the texts."""
    if work.tokenizer is not None:
        return work.tokenizer
    if work.learn is None:
        return _characters(work.read(file for _, file in work.all))
    return _learned(work, work.learn)
