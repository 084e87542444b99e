"""Texts on disk, and the documents that are read from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gpt2lab.corpus.documents import DocumentPart, Reading, document_parts, text_files

MARK = "<|endoftext|>"


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
