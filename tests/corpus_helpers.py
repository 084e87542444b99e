"""Texts on disk, and the documents that are read from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gpt2lab.corpus import prepare as room
from gpt2lab.corpus.documents import DocumentPart, Reading, document_parts, text_files
from gpt2lab.corpus.prepare import Prepared
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.text.tokenizer_json import byte_symbols

MARK = "<|endoftext|>"
BYTES = Tokenizer.from_bpe({symbol: n for n, symbol in enumerate(byte_symbols())}, (), {MARK: 256})
END = 256


def write(path: Path, text: str | bytes, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def parts_of(*paths: Path | str, **reading) -> Iterator[DocumentPart]:
    for file in text_files(paths):
        yield from document_parts(file, Reading(**reading))


def texts_of(*paths: Path | str, **reading) -> list[str]:
    """Whole documents."""
    found, texts = [], []
    for part in parts_of(*paths, **reading):
        texts.append(part.text)
        if part.last:
            found.append("".join(texts))
            texts = []
    assert not texts
    return found


def prepare(texts: list, out: Path | str, **more) -> Prepared:
    """Prepare with a vocabulary of bytes: GPT-2's takes half a second to write and read back."""
    if not {"tokenizer", "learn", "characters"} & more.keys():
        more["tokenizer"] = BYTES
    return room.prepare(texts, out, **more)
