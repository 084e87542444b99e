"""Any bytes as tokens whose bytes, one after the other, are these.

Valid UTF-8 is encoded as text. A byte that belongs to no character is a token of its own, which
byte-level vocabularies have for all 256 bytes.
"""

from __future__ import annotations

import re

from gpt2lab.errors import InputError
from gpt2lab.text.tokenizer import Tokenizer

_BROKEN = re.compile("([\udc80-\udcff]+)")  # bytes that are no character, by surrogateescape


class ByteTokens:
    """The tokens of a vocabulary that are single bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        singles = [(tokenizer.token_bytes(token), token) for token in range(tokenizer.n_vocab)]
        self._of = {data[0]: token for data, token in reversed(singles) if len(data) == 1}

    def each(self, data: bytes) -> list[int]:
        """One token for each byte; InputError for a byte that the vocabulary has no token for."""
        for byte in set(data) - self._of.keys():
            raise InputError(
                f"the data hold the byte {byte:#04x}, which this model's vocabulary has no token "
                "for; choose a model with a byte-level vocabulary, as GPT-2's"
            )
        return [self._of[byte] for byte in data]


def encode_bytes(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """The tokens of any bytes. InputError where the vocabulary cannot spell them."""
    if tokenizer.kind == "library":
        raise InputError(
            "this model's vocabulary has no bytes of its tokens; choose a model with a byte-level "
            "vocabulary, as GPT-2's"
        )
    parts = _BROKEN.split(data.decode("utf-8", "surrogateescape"))
    texts, broken = [part for part in parts[::2] if part], parts[1::2]
    singles = ByteTokens(tokenizer) if broken else None
    try:
        encoded = iter([ids.tolist() for ids in tokenizer.encode_each(texts)])
    except InputError:  # a character that the vocabulary lacks; its bytes may still be there
        return ByteTokens(tokenizer).each(data)
    ids = list[int]()
    for i, part in enumerate(parts):
        if part and i % 2:
            assert singles is not None
            ids += singles.each(part.encode("utf-8", "surrogateescape"))
        elif part:
            ids += next(encoded)
    if tokenizer.decode_bytes(ids) != data:  # a normalizer has changed the text
        return ByteTokens(tokenizer).each(data)
    return ids
