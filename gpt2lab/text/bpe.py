"""Byte-level BPE written out, to be read and watched: cut a text into words, merge their bytes.

`tokenizer` encodes with a library, because a corpus has billions of words; this is the same
algorithm in plain Python, behind `Tokenizer.steps` and for a first short prompt, and tests hold the
two equal. Vocabularies spell bytes as 256 characters that can be seen; so do the functions here.

Source: openai/gpt-2 `src/encoder.py` (the symbols, the pattern, the merges).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

# Unicode White_Space, which is what the official pattern's \s means. str.isspace would add the
# separators U+001C to U+001F.
WHITE_SPACE = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
    + "".join(map(chr, range(0x2000, 0x200B)))
)
_SEEN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_UNSEEN = [byte for byte in range(256) if byte not in _SEEN]
#: byte -> the character that stands for it, in the order of the official vocabulary: printable
#: Latin-1 for itself, the other 68 as characters from U+0100 up (`bytes_to_unicode`).
SYMBOLS = {byte: chr(byte) for byte in _SEEN} | {
    byte: chr(256 + n) for n, byte in enumerate(_UNSEEN)
}
BYTES = {symbol: byte for byte, symbol in SYMBOLS.items()}

CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def byte_symbols() -> list[str]:
    """The 256 characters that stand for the bytes, in the order of the official vocabulary."""
    return list(SYMBOLS.values())


def symbols_to_bytes(name: str) -> bytes:
    """The bytes behind a byte-level token; a name outside the 256 symbols stands for itself."""
    try:
        return bytes([BYTES[symbol] for symbol in name])
    except KeyError:
        return name.encode("utf-8", "replace")


def char_class(char: str) -> str:
    """The classes of GPT-2's pattern: " " white space, "L" letter, "N" number, "P" the rest."""
    if char in WHITE_SPACE:
        return " "
    major = unicodedata.category(char)[0]
    return major if major in "LN" else "P"


def _run_end(text: str, start: int) -> int:
    """The end of the run of one class that begins at `start`."""
    kind, end = char_class(text[start]), start + 1
    while end < len(text) and char_class(text[end]) == kind:
        end += 1
    return end


def _word_end(text: str, start: int) -> int:
    """The end of the pre-token that begins at `start`, asked in the order of the pattern."""
    for contraction in CONTRACTIONS:
        if text.startswith(contraction, start):
            return start + len(contraction)
    body = start + 1 if text[start] == " " else start
    if body < len(text) and char_class(text[body]) != " ":
        return _run_end(text, body)
    end = _run_end(text, start)
    # A run of spaces leaves its last one to the word that follows, if there is one to leave.
    return end - 1 if end < len(text) and end - start > 1 else end


def pretokenize(text: str) -> list[str]:
    r"""Cut `text` where no merge may cross: words with the space before them, numbers, the rest.

    Written out from GPT-2's pattern
    `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`. Letters and
    numbers are those of this Python's Unicode version: characters that are newer than Python
    count as neither here, while the fast library may know them.
    """
    words, start = [], 0
    while start < len(text):
        end = _word_end(text, start)
        words.append(text[start:end])
        start = end
    return words


def _merge_all(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every occurrence of `pair`, from left to right."""
    merged: list[str] = []
    at = 0
    while at < len(pieces):
        hit = at + 1 < len(pieces) and (pieces[at], pieces[at + 1]) == pair
        merged.append(pieces[at] + pieces[at + 1] if hit else pieces[at])
        at += 2 if hit else 1
    return merged


def merge_steps(word: str, ranks: Mapping[tuple[str, str], int]) -> list[list[str]]:
    """The states of byte-pair encoding on one pre-token, from single bytes to the final tokens.

    Each step joins the pair that was learned first (the lowest rank), everywhere in the word. The
    cost grows with the square of the word's length: meant for words, not for corpora. Bytes are
    spelled as their symbols.
    """
    states = [[SYMBOLS[byte] for byte in word.encode()]]
    while True:
        pieces = states[-1]
        known = [pair for pair in pairwise(pieces) if pair in ranks]
        if not known:
            return states
        states.append(_merge_all(pieces, min(known, key=lambda pair: ranks[pair])))


class Word(NamedTuple):
    """One pre-token on its way to tokens: `states[0]` its bytes, `states[-1]` its tokens `ids`."""

    text: str
    states: list[list[bytes]]
    ids: list[int]


def word_steps(word: str, vocab: Mapping[str, int], ranks: Mapping[tuple[str, str], int]) -> Word:
    """`merge_steps` of one pre-token, its pieces as bytes, and the ids."""
    states = merge_steps(word, ranks)
    as_bytes = [[symbols_to_bytes(piece) for piece in pieces] for pieces in states]
    return Word(word, as_bytes, [vocab[piece] for piece in states[-1]])
