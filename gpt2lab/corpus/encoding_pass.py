"""One pass over the texts: documents are encoded and written to the shards of their side."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpt2lab.corpus import encode
from gpt2lab.corpus.documents import DocumentPart, Findings, TextFile, document_parts
from gpt2lab.corpus.encode import Encoded, Item
from gpt2lab.corpus.holdout import DocumentNumber
from gpt2lab.corpus.manifest import FORMAT, VERSION, summary
from gpt2lab.corpus.preparation import DRAWN, NO_TEXT, Preparation
from gpt2lab.corpus.prepare_log import FileEntry, Position, PrepareLog
from gpt2lab.corpus.shard_file import ShardWriter
from gpt2lab.corpus.token_set import SPLITS
from gpt2lab.errors import InputError
from gpt2lab.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

COMMIT = 2.0  # seconds after which what is done is made safe


class PrepareProgress(NamedTuple):
    """Bytes read of all, and the tokens and documents that they became."""

    bytes: int
    total: int
    tokens: int
    documents: int


class EncodingPass:
    """One pass over the texts, from where the log stands to the end."""

    def __init__(self, work: Preparation, done: PrepareLog, tokenizer: Tokenizer) -> None:
        self._work, self._log, self._tokenizer = work, done, tokenizer
        self._limit = done.vocabulary["limit"]
        self._file, self._documents, self._characters, *marks = done.at
        end = tokenizer.end_token
        self._end = np.array([] if end is None else [end], np.uint32)
        allowed = work.reading.special if work.reading.allow_special else ()
        self._special = tuple(name for name in allowed if name in tokenizer.special_tokens)
        self._found = [Findings() for _ in work.all]
        self._number = DocumentNumber(work.seed)
        self._open = 0  # characters of a document that is not complete
        self._committed = time.monotonic()
        self._read = 0  # bytes
        self._made = [0, 0]  # tokens and documents of this pass
        self._train, self._val = (
            ShardWriter(work.out, split, tokenizer.n_vocab, work.shard_tokens, mark)
            for split, mark in zip(SPLITS, marks, strict=True)
        )

    def _items(self) -> Iterator[Item]:
        """Yield all that is not done yet."""
        before = sum(file.size for _, file in self._work.all[: self._file])
        skip = self._documents
        for number, (_, file) in enumerate(self._work.all[self._file :], self._file):
            yield from self._items_of(number, file, before, skip)
            yield Item(number, None)
            before, skip = before + file.size, 0

    def _items_of(self, number: int, file: TextFile, before: int, skip: int) -> Iterator[Item]:
        """Yield the parts of a file after `skip` documents. before: bytes of the files before."""

        def on_read(done: int) -> None:
            self._read = before + done

        parts = document_parts(file, self._work.reading, on_read, self._found[number])
        for part in parts if self._tokenizer.is_local else encode.whole_documents(parts):
            if part.document >= skip:
                yield Item(number, part)

    def _position(self) -> Position:
        marks = self._train.mark, self._val.mark
        return Position(self._file, self._documents, self._characters, *marks)

    def _end_file(self, number: int) -> None:
        entry = self._log.entries[number]
        split, file = self._work.all[number]
        if not entry.is_still(split, file) or file.path.stat().st_size != file.size:
            raise InputError(f"{file.name}: changed while it was read; run the same again")
        if not self._documents:
            log.warning("%s has no text in it", file.name)
        entry.documents, entry.found = self._documents, self._found[number].as_dict()
        self._file, self._documents = number + 1, 0

    def _side(self, part: DocumentPart) -> ShardWriter:
        """Return where ids of a document go: to train, until its whole text says otherwise."""
        split = self._work.all[self._file][0]
        if split != DRAWN:
            return self._val if split == "val" else self._train
        self._number.update(part.text)
        if not part.last:
            return self._train
        number, self._number = self._number.value(), DocumentNumber(self._work.seed)
        if number >= self._limit:
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
            entry = FileEntry.begun(*self._work.all[item.file], self._position())
            self._log.entries.append(entry)
        if item.part is None:
            self._end_file(item.file)
        else:
            self._add(item.part, ids)

    def _commit(self) -> None:
        """Make what is done safe, and note it in the log."""
        for writer in (self._train, self._val):
            writer.sync()
        self._log.at = self._position()
        self._log.save()
        self._committed = time.monotonic()

    def _encode(self, chunk: list[Item]) -> Encoded:
        return encode.encoded(self._tokenizer, chunk, self._special)

    def _all(self, workers: int, progress: Callable[[PrepareProgress], None] | None) -> None:
        total = self._work.size
        for done in encode.in_order(self._encode, encode.chunks(self._items()), workers):
            for item, ids in done:
                self._take(item, ids)
            if not self._open and time.monotonic() - self._committed >= COMMIT:
                self._commit()
            if progress is not None:
                progress(PrepareProgress(self._read, total, *self._made))
        self._commit()

    def run(
        self, workers: int, progress: Callable[[PrepareProgress], None] | None
    ) -> dict[str, Any]:
        """Prepare the rest of the texts and return the manifest."""
        try:
            self._all(workers, progress)
            if not self._characters:
                raise InputError(NO_TEXT)
            counts = [writer.finish() for writer in (self._train, self._val)]
        finally:
            self._train.leave()
            self._val.leave()
        return self._manifest(dict(zip(SPLITS, counts, strict=True)))

    def _manifest(self, counts: dict[str, int]) -> dict[str, Any]:
        names = ("name", "bytes", "sha256", "split", "documents", "found")
        tokenizer, out = self._tokenizer, self._work.out
        return {
            "format": FORMAT,
            "version": VERSION,
            "vocabulary": {
                "sha256": self._log.vocabulary["sha256"],
                "n_vocab": tokenizer.n_vocab,
                "end_token": tokenizer.end_token,
            },
            "settings": self._work.settings(),
            "characters": self._characters,
            "splits": {
                split: summary(out, split, count, tokenizer.n_vocab)
                for split, count in counts.items()
            },
            "sources": [{name: getattr(e, name) for name in names} for e in self._log.entries],
        }
