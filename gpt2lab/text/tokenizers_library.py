"""Vocabularies that the tokenizers library alone reads: Unigram, WordPiece, Metaspace and more.

An optional dependency (`gpt2lab[learn]`). It decodes too, since such tokens are no bytes to be
joined: a space may depend on the neighbours.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import Any

import numpy as np

from gpt2lab import forks
from gpt2lab.errors import InputError
from gpt2lab.files.visible import reason
from gpt2lab.text.bpe import symbols_to_bytes
from gpt2lab.text.tokenizer_config import Spec

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a token of `byte_fallback`
_SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
_LONGEST = max(map(len, _SPACED))


def _made(spec: Spec, where: str) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            f"{where}: this vocabulary ({spec['model'].get('type')}) is read by the tokenizers "
            "library alone; install gpt2lab[learn], or pass token ids"
        ) from None
    with _refusing(where):
        return tokenizers.Tokenizer.from_str(json.dumps(spec))


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    """What the library raises as an InputError; its panics at damage are no Exception."""
    try:
        yield
    except (UnicodeEncodeError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise InputError(
            f"{where}: the tokenizers library refuses it: {reason(error):.200}; pass token ids"
        ) from None


def cleaned(text: str) -> str:
    """Text without the spaces before marks and contractions, as transformers cleans WordPiece."""
    for spaced in _SPACED:
        text = text.replace(spaced, spaced.strip())
    return text


class Library:
    """One vocabulary in the library, asked as the fast encoder is, and able to decode."""

    def __init__(self, spec: Spec, where: str, clean: bool = False) -> None:
        self._tokenizer, self._lock, self._where = _made(spec, where), threading.Lock(), where
        self._clean = clean and spec["model"].get("type") != "BPE"  # as transformers 5
        self._decoders = json.dumps(spec.get("decoder") or {})
        self.vocab: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        if not self.vocab:
            raise InputError(f"{where}: the vocabulary is empty")

    def _encoded(self, texts: Sequence[str], split: bool) -> list[Any]:
        # Whether special names are text is a state of the library's object.
        with forks.whole(), self._lock, _refusing(self._where):
            self._tokenizer.encode_special_tokens = split
            found: list[Any] = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return found

    def encode_batch_flat(
        self, texts: Sequence[str], split_special_tokens: bool
    ) -> tuple[bytes, bytes]:
        """The ids of all texts and where each begins, as raw memory like the fast encoder's."""
        ids = [encoding.ids for encoding in self._encoded(texts, split_special_tokens)]
        ends = np.cumsum([0, *map(len, ids)]).astype("<u8")
        return np.array([*chain.from_iterable(ids)], "<u4").tobytes(), ends.tobytes()

    def offsets(self, text: str, split_special_tokens: bool) -> list[tuple[int, int]]:
        """The span in `text` of each of its tokens."""
        [encoding] = self._encoded([text], split_special_tokens)
        return list(encoding.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        with _refusing(self._where):
            text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return cleaned(text) if self._clean else text

    def is_byte(self, token: int) -> bool:
        """Whether a token is a lone byte, so that its text depends on the bytes after it."""
        name = self._tokenizer.id_to_token(token) or ""
        return "ByteFallback" in self._decoders and _BYTE.fullmatch(name) is not None

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token in the middle of a text."""
        name = self._tokenizer.id_to_token(token)
        if name is None:
            return b""
        if self.is_byte(token):
            return bytes([int(name[3:5], 16)])
        if "ByteLevel" in self._decoders:
            return symbols_to_bytes(name)
        alone = self._tokenizer.decode([token], skip_special_tokens=False)
        twice = self._tokenizer.decode([token, token], skip_special_tokens=False)
        return (twice[len(alone) :] if twice.startswith(alone) else alone).encode()

    def stable(self, text: str, ids: Sequence[int]) -> int:
        """How much of the text of ids no further token changes."""
        bytes_at_end = 0
        while bytes_at_end < len(ids) and self.is_byte(ids[-1 - bytes_at_end]):
            bytes_at_end += 1
        if bytes_at_end:
            text = self.decode(ids[:-bytes_at_end])
        until = len(text.rstrip("\ufffd"))
        return max(0, until - _LONGEST) if self._clean else until

    def spans(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """The span of each token in `decode(ids)`: what it adds to the text of those before it."""
        ends = [0]
        for end in range(1, len(ids) + 1):
            text = self.decode(ids[:end])
            until = len(text) if end == len(ids) else self.stable(text, ids[:end])
            ends.append(max(ends[-1], until))
        return list(pairwise(ends))
