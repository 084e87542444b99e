"""Documents to token ids, by several threads, in their order.

The library that encodes lets threads run side by side, so texts need not travel between processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from gpt2lab.corpus.documents import DocumentPart
from gpt2lab.errors import InputError
from gpt2lab.text.tokenizer import Tokenizer

CHUNK = 1 << 20  # characters that a worker takes at once


class Item(NamedTuple):
    """A part of a document in the file of that number; None: the file is at its end."""

    file: int
    part: DocumentPart | None


Encoded = list[tuple[Item, np.ndarray]]


def whole_documents(parts: Iterator[DocumentPart]) -> Iterator[DocumentPart]:
    """Join the parts of each document, for a vocabulary that sees where a text begins."""
    texts: list[str] = []
    for part in parts:
        texts.append(part.text)
        if part.last:
            yield part._replace(text="".join(texts))
            texts = []


def chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Yield items in lists of about CHUNK characters."""
    chunk, size = [], 0
    for item in items:
        chunk.append(item)
        size += len(item.part.text) if item.part else 1
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def encoded(tokenizer: Tokenizer, chunk: list[Item], special: tuple[str, ...]) -> Encoded:
    """Return every item with its ids. special: the names in texts that become tokens.

    Raises InputError that names the document.
    """
    texts = [item.part.text if item.part else "" for item in chunk]
    try:
        if special:
            ids = [tokenizer.encode_array(text, special) for text in texts]
        else:
            ids = tokenizer.encode_each(texts)
    except InputError:
        for part in filter(None, (item.part for item in chunk)):
            _check_part(tokenizer, part)
        raise
    return list(zip(chunk, ids, strict=True))


def _check_part(tokenizer: Tokenizer, part: DocumentPart) -> None:
    try:
        tokenizer.encode_array(part.text)
    except InputError as error:
        where = f"{part.file.name}: document {part.document + 1}"
        raise InputError(f"{where}: {error}") from None


def in_order(
    encode: Callable[[list[Item]], Encoded], parts: Iterator[list[Item]], workers: int
) -> Iterator[Encoded]:
    """Encode the chunks by `workers` threads and yield them in their order; few wait at a time."""
    if workers == 1:
        yield from map(encode, parts)
        return
    waiting: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for chunk in parts:
            waiting.append(pool.submit(encode, chunk))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
