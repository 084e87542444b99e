"""One pass over the texts: documents are encoded by threads and written to the shards.

The library that encodes lets threads run side by side, so texts need not travel between processes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from gpt2lab.corpus.documents import DocumentPart, Findings, document_parts
from gpt2lab.corpus.preparation import DRAWN, NO_TEXT, DocumentNumber, Preparation
from gpt2lab.corpus.prepare_log import FileEntry, Position, PrepareLog
from gpt2lab.corpus.shard_file import ShardWriter
from gpt2lab.corpus.token_set import SPLITS
from gpt2lab.errors import InputError
from gpt2lab.files.file_facts import known_sha256
from gpt2lab.files.io import Identity, identity
from gpt2lab.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

CHUNK = 1 << 20  # characters that a worker takes at once
COMMIT = 2.0  # seconds after which what is done is made safe


class PrepareProgress(NamedTuple):
    """Bytes read of all, and the tokens and documents that they became."""

    bytes: int
    total: int
    tokens: int
    documents: int


class Item(NamedTuple):
    """A part of a document in the file of that number; None: the file is at its end."""

    file: int
    part: DocumentPart | None


_Encoded = list[tuple[Item, np.ndarray]]

# --- from texts to ids, in order ------------------------------------------------------------------


def _whole_documents(parts: Iterator[DocumentPart]) -> Iterator[DocumentPart]:
    """Join the parts of each document, for a vocabulary that sees where a text begins."""
    texts: list[str] = []
    for part in parts:
        texts.append(part.text)
        if part.last:
            yield part._replace(text="".join(texts))
            texts = []


def _chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
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


def _encoded(tokenizer: Tokenizer, chunk: list[Item], special: tuple[str, ...]) -> _Encoded:
    """Return every item with its ids; InputError names the document.

    special: the names in texts that become tokens.
    """
    try:
        ids = tokenizer.encode_each(
            [item.part.text if item.part else "" for item in chunk], special
        )
    except InputError:
        for part in (item.part for item in chunk if item.part):
            _check_part(tokenizer, part)
        raise
    return list(zip(chunk, ids, strict=True))


def _check_part(tokenizer: Tokenizer, part: DocumentPart) -> None:
    try:
        tokenizer.encode_array(part.text)
    except InputError as error:
        where = f"{part.file.name}: document {part.document + 1}"
        raise InputError(f"{where}: {error}") from None


def _in_order(
    encode: Callable[[list[Item]], _Encoded], chunks: Iterator[list[Item]], workers: int
) -> Iterator[_Encoded]:
    """Encode the chunks by `workers` threads and yield them in their order; few wait at a time."""
    waiting: deque[Future[_Encoded]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for chunk in chunks:
            waiting.append(pool.submit(encode, chunk))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# --- from ids to shards ---------------------------------------------------------------------------


class EncodingPass:
    """One pass over the texts, from where the log stands to the end."""

    def __init__(self, work: Preparation, done: PrepareLog, tokenizer: Tokenizer) -> None:
        self._work, self._log, self._tokenizer = work, done, tokenizer
        self._file, self._documents, self._characters, *marks = done.at
        end = tokenizer.end_token
        self._end = np.array([] if end is None else [end], np.uint32)
        allowed = work.reading.special if work.reading.allow_special else ()
        self._special = tuple(name for name in allowed if name in tokenizer.special_tokens)
        self._found = [Findings() for _ in work.files]
        self._identities: dict[int, Identity] = {}
        self._number = DocumentNumber(work.seed)
        self._open = 0  # characters of a document that is not complete
        self._committed = time.monotonic()
        self._read = 0  # bytes
        self._made = [0, 0]  # tokens and documents of this pass
        self._train, self._val = self._writers = [
            ShardWriter(work.out, split, tokenizer.n_vocab, work.shard_tokens, mark)
            for split, mark in zip(SPLITS, marks, strict=True)
        ]

    def _items(self) -> Iterator[Item]:
        """Yield all that is not done yet."""
        before, skip = 0, self._documents
        for number, (_, file) in enumerate(self._work.files):
            if number >= self._file:
                self._identities[number] = identity(file.path)
                yield from self._items_of(number, before, skip)
                yield Item(number, None)
                skip = 0
            before += file.size

    def _items_of(self, number: int, before: int, skip: int) -> Iterator[Item]:
        """Yield the parts of a file after `skip` documents. before: bytes of the files before."""

        def on_read(done: int) -> None:
            self._read = before + done

        file = self._work.files[number][1]
        parts = document_parts(file, self._work.reading, on_read, self._found[number])
        for part in parts if self._tokenizer.is_local else _whole_documents(parts):
            if part.document >= skip:
                yield Item(number, part)

    def _position(self) -> Position:
        marks = (writer.mark for writer in self._writers)
        return Position(self._file, self._documents, self._characters, *marks)

    def _end_file(self, number: int) -> None:
        entry, file = self._log.entries[number], self._work.files[number][1]
        now = identity(file.path)
        if now != self._identities.pop(number) or now.size != file.size:
            raise InputError(f"{file.name}: changed while it was read; run the same again")
        if not self._documents:
            log.warning("%s has no text in it", file.name)
        entry.documents, entry.found = self._documents, self._found[number].as_dict()
        self._file, self._documents = number + 1, 0

    def _side(self, part: DocumentPart) -> ShardWriter:
        """Return where ids of a document go: to train, until its whole text says otherwise."""
        split = self._work.files[self._file][0]
        if split != DRAWN:
            return self._val if split == "val" else self._train
        self._number.update(part.text)
        if not part.last:
            return self._train
        number, self._number = self._number.value(), DocumentNumber(self._work.seed)
        if number >= self._log.vocabulary["limit"]:
            return self._train
        if self._open:
            for ids in self._train.take_back():
                self._val.add(ids)
        return self._val

    def _add(self, part: DocumentPart, ids: np.ndarray) -> None:
        side = self._side(part)
        side.add(ids)
        self._made[0] += len(ids)
        self._open += len(part.text)
        if part.last:
            side.add(self._end)
            side.end()
            self._characters, self._open = self._characters + self._open, 0
            self._documents += 1
            self._made[1] += 1

    def _take(self, item: Item, ids: np.ndarray) -> None:
        if item.file == len(self._log.entries):
            split, file = self._work.files[item.file]
            sha256, start = known_sha256(file.path), self._position()
            entry = FileEntry(file.name, file.size, sha256, split, start=start)
            self._log.entries.append(entry)
        if item.part is None:
            self._end_file(item.file)
        else:
            self._add(item.part, ids)

    def _commit(self) -> None:
        """Make what is done safe, and note it in the log."""
        for writer in self._writers:
            writer.sync()
        self._log.at = self._position()
        self._log.save()
        self._committed = time.monotonic()

    def _encode(self, chunk: list[Item]) -> _Encoded:
        return _encoded(self._tokenizer, chunk, self._special)

    def _take_all(self, workers: int, progress: Callable[[PrepareProgress], None] | None) -> None:
        total = sum(file.size for _, file in self._work.files)
        for chunk in _in_order(self._encode, _chunks(self._items()), workers):
            for item, ids in chunk:
                self._take(item, ids)
            if not self._open and time.monotonic() - self._committed >= COMMIT:
                self._commit()
            if progress is not None:
                progress(PrepareProgress(self._read, total, *self._made))

    def run(self, workers: int, progress: Callable[[PrepareProgress], None] | None) -> list[int]:
        """Prepare the rest of the texts and return the number of shards of each split."""
        try:
            self._take_all(workers, progress)
            self._commit()
            if not self._characters:
                raise InputError(NO_TEXT)
            return [writer.finish() for writer in self._writers]
        finally:
            for writer in self._writers:
                writer.leave()
