"""Token ids that a model learns from, addressable by token and by document.

A `TokenSet` is one split of one source, wherever its ids lie: in the shards of `prepare`, in files
of other programs, or in memory. `open` finds out which; `batches` makes batches of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gpt2lab.errors import InputError
from gpt2lab.files.io import in_parts
from gpt2lab.forks import cached_property
from gpt2lab.text.tokenizer import Tokenizer

SPLITS = ("train", "val")
PART = 1 << 22  # numbers looked at in one go, when all of a file is


@lru_cache(maxsize=8)
def vocabulary_hash(tokenizer: Tokenizer) -> str:
    """Return a sha256 over what every id stands for, the same for any files of one vocabulary."""
    special = json.dumps(sorted(tokenizer.special_tokens.items()))
    digest = hashlib.sha256(f"{tokenizer.kind} {tokenizer.n_vocab} {special}".encode())
    for token in range(tokenizer.n_vocab):
        data = tokenizer.token_bytes(token)
        digest.update(len(data).to_bytes(4, "little") + data)
    return digest.hexdigest()


def check_vocabulary(where: object, expected: str, tokenizer: Tokenizer, which: str) -> None:
    """Raise InputError where tokens were made with another vocabulary; expected: its sha256."""
    found = vocabulary_hash(tokenizer)
    if found != expected:
        raise InputError(
            f"{where}: tokens of another vocabulary (sha256 {expected[:16]}...) than {which} "
            f"({found[:16]}..., {tokenizer.n_vocab} tokens); prepare the texts with that one"
        )


class Tokens:
    """The ids of several arrays as one row; nothing is read before it is asked for."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = [part for part in parts if len(part)] or [np.zeros(0, np.uint16)]
        self._starts = np.cumsum([0, *map(len, self.parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, span: slice) -> np.ndarray:
        """Return the ids [start:stop], a view of the file where one file has them all."""
        if len(self.parts) == 1:
            return self.parts[0][span]
        return self.take(np.arange(*span.indices(len(self))))

    def take(self, at: np.ndarray) -> np.ndarray:
        """Return the ids at the positions `at` [n], in their order."""
        if len(self.parts) == 1:
            found: np.ndarray = self.parts[0][at]
            return found
        which = np.searchsorted(self._starts, at, "right") - 1
        ids = np.empty(len(at), self.parts[0].dtype)
        for number in np.unique(which):
            here = which == number
            ids[here] = self.parts[number][at[here] - self._starts[number]]
        return ids


def check_range(where: str, ids: np.ndarray, n_vocab: int) -> None:
    """Raise InputError at the first id that the vocabulary does not have."""
    for number, part in enumerate(in_parts(ids, PART)):
        wrong = (part >= n_vocab) | (part < 0 if part.dtype.kind == "i" else False)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise InputError(
                f"{where}: the id {part[at]} at token {number * PART + at} is outside the "
                f"vocabulary, whose highest is {n_vocab - 1}; the file is damaged or of another "
                "vocabulary"
            )


def document_ends(ids: np.ndarray, end_token: int | None) -> np.ndarray:
    """Return where documents end: after each end token, and at the end. int64 [documents]."""
    found = [np.zeros(0, np.int64)]
    if end_token is not None:
        found += [
            np.flatnonzero(part == end_token) + (number * PART + 1)
            for number, part in enumerate(in_parts(ids, PART))
        ]
    ends = np.concatenate(found)
    if len(ids) and (not len(ends) or ends[-1] != len(ids)):
        ends = np.append(ends, len(ids))
    return ends


@dataclass(eq=False, repr=False)
class TokenSet:
    """One split of one source of ids.

    name: for people. find_ends: gives `ends`, which not every use of a set needs. n_vocab: every id
    is below it. end_token: the id that ends a document, None where the vocabulary has none.
    tokenizer: for showing text; None when it is not known. fingerprint: changes exactly when ids,
    documents or vocabulary do.
    """

    name: str
    tokens: Tokens
    find_ends: Callable[[], np.ndarray]
    n_vocab: int
    end_token: int | None
    tokenizer: Tokenizer | None
    fingerprint: str

    @classmethod
    def of(
        cls,
        name: str,
        ids: Sequence[int] | np.ndarray,
        ends: Sequence[int] | np.ndarray | None = None,
        *,
        n_vocab: int,
        end_token: int | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> TokenSet:
        """Make a set from memory. ends: where documents end; by default after every end token."""
        row = np.asarray(ids)
        if row.ndim != 1 or (row.size and row.dtype.kind not in "ui"):
            raise InputError(f"{name}: ids must be one row of integers >= 0")
        check_range(name, row, n_vocab)
        row = row.astype(np.uint32)
        found = document_ends(row, end_token) if ends is None else np.asarray(ends, np.int64)
        digest = hashlib.sha256(f"{n_vocab} {end_token} {len(row)}".encode())
        digest.update(row.tobytes() + found.tobytes())
        return cls(
            name, Tokens([row]), lambda: found, n_vocab, end_token, tokenizer, digest.hexdigest()
        )

    def __repr__(self) -> str:
        return f"TokenSet({self.name!r}, {self.n_tokens} tokens, n_vocab={self.n_vocab})"

    @property
    def n_tokens(self) -> int:
        """How many ids it has."""
        return len(self.tokens)

    @cached_property
    def ends(self) -> np.ndarray:
        """Where each document ends: the index after its last token. int64 [documents]."""
        return self.find_ends()
