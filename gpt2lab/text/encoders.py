"""From texts to ids: byte-pair encoding by a library or, once, by plain Python; and characters.

Each encoder has one method, `encode(texts, allowed)`: uint32 ids [T] of each text, in which the
names of `allowed` special tokens, and of added tokens that are not special, are tokens and not
text. It raises UnicodeEncodeError for half a surrogate pair.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpt2lab import forks
from gpt2lab.errors import InputError, quoted
from gpt2lab.files.visible import reason
from gpt2lab.text.bpe import BYTES, merge_steps, pretokenize
from gpt2lab.text.tokenizer_config import Spec
from gpt2lab.text.tokenizer_json import Kind, added_ids, plain, ranks_of, without_holes
from gpt2lab.text.tokenizers_library import Library

SHORT = 300  # characters of a text that plain Python may encode,
BUDGET = 3000  # and of all such texts together, before the fast library is made


def split_names(
    text: str, wanted: Collection[str], ignored: Collection[str] = ()
) -> Iterator[tuple[str, bool]]:
    """Cut `text` at the wanted names, leftmost and then longest first: (piece, is it a name).

    Ignored names are matched too, so that no wanted name is found inside one, but stay text.
    """
    longest_first = sorted({*wanted, *ignored}, key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first)) or r"(?!)"
    start = 0
    for match in re.finditer(pattern, text):
        if match[0] in wanted:
            if match.start() > start:
                yield text[start : match.start()], False
            yield match[0], True
            start = match.end()
    if start < len(text):
        yield text[start:], False


class CharacterEncoder:
    """One token per character."""

    kind: Kind = "characters"
    library = None

    def __init__(self, spec: Spec) -> None:
        self._special, self._added = added_ids(spec, True), added_ids(spec)
        self._vocab: dict[str, int] = spec["model"]["vocab"]

    def encode(self, texts: Sequence[str], allowed: Collection[str]) -> list[np.ndarray]:
        wanted = {*allowed, *(self._added.keys() - self._special.keys())}
        return [self._ids(text, wanted) for text in texts]

    def _ids(self, text: str, wanted: Collection[str]) -> np.ndarray:
        text.encode("utf-32-le")  # so that a surrogate's position counts in the whole text
        parts, start = [np.empty(0, np.uint32)], 0
        for piece, is_name in split_names(text, wanted, self._special):
            ids = [self._added[piece]] if is_name else self._character_ids(piece, start)
            parts.append(np.asarray(ids, np.uint32))
            start += len(piece)
        return np.concatenate(parts)  # [T]

    def _character_ids(self, text: str, start: int) -> np.ndarray:
        ids: np.ndarray = self._id_of_code[np.frombuffer(text.encode("utf-32-le"), "<u4")]  # [T]
        if (ids < 0).any():
            at = int(np.argmax(ids < 0))
            raise InputError(
                f"text: {text[at]!r} (U+{ord(text[at]):04X}) at position {start + at} is not among "
                f"the {len(self._vocab)} characters of this vocabulary; remove or replace it"
            )
        return ids

    @forks.cached_property
    def _id_of_code(self) -> np.ndarray:
        """Code point -> id, -1 where there is none."""
        known = {ord(c): token for c, token in self._vocab.items() if c not in self._added}
        table = np.full(sys.maxunicode + 1, -1, np.int32)  # [code points]
        table[list(known)] = list(known.values())
        return table


class PairEncoder:
    """Byte-pair encoding by fastokens, and what that does not read by the tokenizers library.

    kind: as given; "other" becomes "library" when fastokens turns out not to read it.
    library: the second of them, which decodes too.
    """

    def __init__(self, spec: Spec, kind: Kind, where: str, clean: bool) -> None:
        self.kind, self._spec, self._where, self._clean = kind, spec, where, clean
        self._special, self._added = added_ids(spec, True), added_ids(spec)
        self._lock, self._budget = threading.Lock(), BUDGET
        self._engines: dict[frozenset[str], Any] = {}
        if kind == "other":
            try:
                self._engine(frozenset())
            except InputError:
                self.kind = "library"
        self.library: Library | None = None
        if self.kind == "library":
            self.library = self._engine(frozenset())

    def encode(self, texts: Sequence[str], allowed: frozenset[str]) -> list[np.ndarray]:
        for text in texts if self._missing else ():
            self._check_bytes(text)
        if len(texts) == 1 and self._is_for_python(texts[0]):
            self._budget -= len(texts[0])
            return [np.array(self._encode_short(texts[0]), np.uint32)]
        with forks.whole():  # the library has locks of its own; lists of ids halve its speed
            ids, ends = self._engine(allowed).encode_batch_flat(
                texts, split_special_tokens=not allowed
            )
        return np.split(np.frombuffer(ids, "<u4"), np.frombuffer(ends, "<u8")[1:-1])

    def offsets(self, text: str, allowed: frozenset[str]) -> list[tuple[int, int]]:
        """The span in `text` of each of its tokens. Of the tokenizers library alone."""
        found: list[tuple[int, int]] = self._engine(allowed).offsets(text, not allowed)
        return found

    def _is_for_python(self, text: str) -> bool:
        """Whether the written-out encoder serves: to make the fast library takes 0.2 seconds.

        In ASCII the two cannot differ; names of added tokens need the library's rules.
        """
        if self._engines or self.kind != "bpe" or len(text) > min(SHORT, self._budget):
            return False
        return text.isascii() and not any(name in text for name in self._added)

    def _encode_short(self, text: str) -> list[int]:
        vocab = self._spec["model"]["vocab"]
        words = [merge_steps(word, self._ranks)[-1] for word in pretokenize(text)]
        return [vocab[piece] for word in words for piece in word]

    @forks.cached_property
    def _ranks(self) -> Mapping[tuple[str, str], int]:
        return ranks_of(self._spec)

    @forks.cached_property
    def _missing(self) -> frozenset[int]:
        """The bytes that the vocabulary cannot write; one of another kind knows what to do."""
        if self.kind == "library" or self._spec["model"].get("unk_token"):
            return frozenset()
        vocab = self._spec["model"]["vocab"]
        return frozenset(byte for symbol, byte in BYTES.items() if symbol not in vocab)

    def _check_bytes(self, text: str) -> None:
        """A vocabulary without all 256 byte symbols cannot write every text: drop nothing."""
        for position, char in enumerate(text):
            if missing := [byte for byte in char.encode() if byte in self._missing]:
                raise InputError(
                    f"text: {quoted(char)} at position {position} needs the byte "
                    f"0x{missing[0]:02X}, which this vocabulary does not have; learn one with "
                    "all 256 bytes"
                )

    def _engine(self, allowed: frozenset[str]) -> Any:
        """The library with this vocabulary, made once; a proper subset of the special tokens
        needs one of its own, because the library allows all of them or none."""
        allowed = frozenset() if len(allowed) == len(self._special) else allowed
        with forks.whole(), self._lock:
            if allowed not in self._engines:
                self._engines[allowed] = self._made(allowed or self._special)
            return self._engines[allowed]

    def _made(self, allowed: Collection[str]) -> Any:
        added = self._spec["added_tokens"]
        kept = [entry for entry in added if not entry["special"] or entry["content"] in allowed]
        spec = {**plain(self._spec), "added_tokens": kept}
        if self.kind == "library":
            return Library(spec, self._where, self._clean)
        import fastokens

        spec["model"] = {**spec["model"], "vocab": without_holes(spec["model"]["vocab"])}
        try:
            return fastokens.Tokenizer.from_json_str(json.dumps(spec))
        except ValueError as error:
            raise InputError(
                f"{self._where}: the fast encoder cannot take it: {reason(error)}; encode with the "
                "tokenizers library and pass the ids"
            ) from None
