"""Texts to token shards: read, hold documents out, encode, write, and go on where it was left.

The shards depend on the texts and the settings alone: not on the number of workers, and not on how
often the work was broken off. What is safe on the disk is written to a journal in the folder; the
same call goes on from there, after a crash too, and the manifest, which makes the folder a set, is
written last. Encoding runs in threads: the library that does it lets them run side by side, and
texts need not travel between processes.

Whether a document is held out is drawn from the seed and its text, so it stays on its side
whatever is prepared beside it, and the same text twice is never on both sides.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np

from gpt2lab.corpus.documents import (
    Found,
    Piece,
    Reading,
    Say,
    Source,
    pieces,
    read_by,
    report,
    sources,
)
from gpt2lab.corpus.shards import (
    FORMAT,
    JOURNAL,
    MANIFEST,
    SPLITS,
    VERSION,
    Mark,
    ShardWriter,
    read_manifest,
    summary,
    vocabulary_hash,
)
from gpt2lab.errors import InputError
from gpt2lab.files.atomic import write_whole
from gpt2lab.files.io import accessing, file_sha256
from gpt2lab.text import learn as bpe
from gpt2lab.text.tokenizer import Tokenizer, official

LOG = logging.getLogger(__name__)

CHUNK = 1 << 20  # characters that a worker takes at once
COMMIT = 2.0  # seconds after which what is done is made safe
LEARNED_FROM = 1 << 27  # characters that a vocabulary is learned from, at most about
LOCK = ".lock"
DRAWN = "drawn"
NO_TEXT = "no text in these files but white space; give files with some"
RANGE = 1 << 64  # of the number that is drawn for a document


class PreparedOtherwiseError(InputError):
    """The folder holds what other texts or settings made."""


class Progress(NamedTuple):
    """How far it is: bytes read of all, and what they became."""

    bytes: int
    total: int
    tokens: int
    documents: int


@dataclass(frozen=True)
class Prepared:
    """What a folder holds now.

    tokens and documents: by split. characters: of all texts. read: what was read, line by line.
    """

    folder: Path
    tokens: dict[str, int]
    documents: dict[str, int]
    characters: int
    n_vocab: int
    read: tuple[str, ...] = ()

    @property
    def characters_per_token(self) -> float:
        """How much text a token stands for, end tokens included."""
        return self.characters / max(1, sum(self.tokens.values()))


def _nothing(_: Any) -> None:
    """For whoever does not want to hear it."""


# --- which documents are held out -----------------------------------------------------------------


def _digest(seed: int) -> Any:
    return hashlib.sha256(f"{seed}\n".encode())


def _drawn(digest: Any) -> int:
    """The number of a document whose text the digest has seen: uniform below RANGE."""
    return int.from_bytes(digest.digest()[:8], "big")


def _numbers(texts: Iterable[Piece], seed: int) -> Iterator[int]:
    """The number of every document."""
    digest = _digest(seed)
    for piece in texts:
        digest.update(piece.text.encode())
        if piece.last:
            yield _drawn(digest)
            digest = _digest(seed)


def _limit(texts: Iterable[Piece], share: float, seed: int, say: Say) -> int:
    """Documents with a number below this are held out.

    It is the share, unless that would leave one side empty: then the document with the lowest
    number is held out, or that with the highest kept. Large sets are known after a few documents.
    """
    limit, least, most, count = int(share * RANGE), RANGE, -1, 0
    for number in _numbers(texts, seed) if share else ():
        least, most, count = min(least, number), max(most, number), count + 1
        if least < limit <= most:
            return limit
    if not count:  # nothing to hold out, or no text, which shows later
        return 0
    if least == most:
        alone = "there is one document only" if count == 1 else "all documents are the same text"
        say(f"{alone}: nothing is held out; name texts to validate on with --val")
        return 0
    return min(max(limit, least + 1), most)


# --- vocabulary -----------------------------------------------------------------------------------


def _sampled(texts: Iterable[Piece], size: int) -> Iterator[str]:
    """Pieces at even distances that hold about LEARNED_FROM of `size` characters; all of few."""
    share, due = min(1.0, LEARNED_FROM / max(size, 1)), 1.0
    for piece in texts:
        due += share
        if due >= 1:
            due -= 1
            yield piece.text


def _learned(job: _Job, n_vocab: int) -> Tokenizer:
    texts = _sampled(job.read(), sum(source.size for source in job.texts))
    if job.reading.allow_special:  # the names will be tokens, not made of learned ones
        names = re.compile("|".join(map(re.escape, job.reading.special)))
        texts = (part for text in texts for part in names.split(text))
    tokenizer, say = bpe.learn_from(texts, n_vocab), job.say
    if tokenizer.n_vocab < n_vocab:
        say(f"the texts give only {tokenizer.n_vocab} of {n_vocab} tokens")
    return tokenizer


def _characters(texts: Iterable[Piece]) -> Tokenizer:
    alphabet: set[str] = set()
    for piece in texts:
        alphabet.update(piece.text)
    if not alphabet:
        raise InputError(NO_TEXT)
    return Tokenizer.characters(sorted(alphabet))


# --- the settings of one call ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """All that the shards depend on, and who wants to hear of it."""

    out: Path
    texts: list[Source]
    val: list[Source]
    left: Counter[str]
    reading: Reading
    held_out: float
    seed: int
    shard_tokens: int
    tokenizer: Tokenizer | None
    learn: int | None
    workers: int
    say: Say
    progress: Callable[[Progress], None]

    @cached_property
    def all(self) -> list[tuple[str, Source]]:
        """Every source with the split it is for, DRAWN where each document's is drawn."""
        split = "train" if self.val else DRAWN
        return [(split, s) for s in self.texts] + [("val", s) for s in self.val]

    def settings(self) -> dict[str, Any]:
        """What makes other shards of the same texts."""
        vocabulary: dict[str, Any] = {"characters": True}
        if self.learn is not None:
            vocabulary = {"learn": self.learn}
        elif self.tokenizer is not None:
            vocabulary = {"sha256": vocabulary_hash(self.tokenizer)}
        return {
            **{name: getattr(self, name) for name in ("held_out", "seed", "shard_tokens")},
            **self.reading.settings(),
            "vocabulary": vocabulary,
        }

    def read(self) -> Iterator[Piece]:
        """The documents that are drawn from, or all to train on."""
        for source in self.texts:
            yield from pieces(source, self.reading)

    def read_all(self) -> Iterator[Piece]:
        """Those and the ones to validate on."""
        for _, source in self.all:
            yield from pieces(source, self.reading)

    def identities(self) -> list[list[Any]]:
        """Every file by its name and its content, where the vocabulary depends on them."""
        if self.tokenizer is not None:
            return []
        return [[split, s.name, s.size, file_sha256(s.path)] for split, s in self.all]

    def made_tokenizer(self) -> Tokenizer:
        """The vocabulary: as given, or learned from the texts."""
        if self.tokenizer is not None:
            return self.tokenizer
        if self.learn is None:
            return _characters(self.read_all())
        return _learned(self, self.learn)


# --- what is done, on disk ------------------------------------------------------------------------


class _Position(NamedTuple):
    """A place between two documents: source and documents done of it, and what is written."""

    source: int = 0
    documents: int = 0
    characters: int = 0
    train: Mark = Mark()
    val: Mark = Mark()

    @classmethod
    def of(cls, values: Sequence[Any]) -> _Position:
        source, documents, characters, train, val = values
        return cls(source, documents, characters, Mark(*train), Mark(*val))


def _modified(path: Path) -> int:
    with accessing(path):
        return path.stat().st_mtime_ns


@dataclass
class _Entry:
    """A source that was begun. start: where.

    documents, found: how many it has and what else was seen in it, once it is read.
    """

    name: str
    bytes: int
    modified: int
    sha256: str
    split: str
    start: _Position
    documents: int = 0
    found: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begun(cls, split: str, source: Source, start: _Position) -> _Entry:
        path = source.path
        return cls(source.name, source.size, _modified(path), file_sha256(path), split, start)

    def is_still(self, split: str, source: Source) -> bool:
        """Whether the file is the one that was read; where its time differs, its content says."""
        if (self.name, self.bytes, self.split) != (source.name, source.size, split):
            return False
        return self.modified == _modified(source.path) or self.sha256 == file_sha256(source.path)


@dataclass
class _Journal:
    """What was done, a line of JSON each; a line cut off by a crash was not done.

    vocabulary: its sha256, what it was learned from, and the limit of what is held out.
    at: so far everything is safe on the disk.
    """

    path: Path
    settings: dict[str, Any]
    vocabulary: dict[str, Any] = field(default_factory=dict)
    entries: list[_Entry] = field(default_factory=list)
    at: _Position = field(default_factory=_Position)

    @classmethod
    def read(cls, path: Path, say: Say) -> _Journal:
        """What is there; an empty one, and a note, where it is damaged."""
        journal = cls(path, {})
        with accessing(path):
            lines = path.read_bytes().split(b"\n")[:-1]
        try:
            for line in lines:
                journal._take(json.loads(line))
            if len(journal.entries) < journal.at.source:
                raise ValueError("a source is missing")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            say(f"{path}: damaged; all begins anew")
            return cls(path, {})
        journal.entries = journal.entries[: journal.at.source + 1]
        return journal

    def _take(self, line: dict[str, Any]) -> None:
        ((kind, value),) = line.items()
        if kind == "source":
            self.entries.append(_Entry(**{**value, "start": _Position.of(value["start"])}))
        elif kind == "read":
            self.entries[-1].documents, self.entries[-1].found = value
        elif kind == "at":
            self.at = _Position.of(value)
        else:
            setattr(self, {"settings": kind, "vocabulary": kind}[kind], value)

    def rewrite(self) -> None:
        """Make the file say what is known here, and no more."""
        lines: list[dict[str, Any]] = [{"settings": self.settings}]
        lines += [{"vocabulary": self.vocabulary}] if self.vocabulary else []
        lines += [{"source": asdict(entry)} for entry in self.entries] + [{"at": self.at}]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def append(self, kind: str, value: Any, *, safe: bool = False) -> None:
        """One more line. safe: it is on the disk when this returns."""
        with accessing(self.path, "written"), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({kind: value}) + "\n")
            if safe:
                file.flush()
                os.fsync(file.fileno())


# --- going on with what is there ------------------------------------------------------------------


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The settings that differ, for people."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)!r} there, {new.get(name)!r} now" for name in names)


def _is_same(manifest: dict[str, Any], job: _Job) -> bool:
    """Whether a finished folder was made of these very files."""
    made = [(s["bytes"], s["sha256"], s["split"]) for s in manifest["sources"]]
    if [(size, split) for size, _, split in made] != [(s.size, split) for split, s in job.all]:
        return False
    return all(
        sha256 == file_sha256(source.path)
        for (_, sha256, _), (_, source) in zip(made, job.all, strict=True)
    )


def _reported(manifest: dict[str, Any], job: _Job) -> list[str]:
    """What the folder was made of, for people."""
    sources = manifest["sources"]
    found = [Found(**source.get("found", {})) for source in sources]
    return report(found, sum(source["documents"] for source in sources), job.left, job.reading)


def _prepared(out: Path, manifest: dict[str, Any], read: list[str]) -> Prepared:
    splits = manifest["splits"]
    return Prepared(
        out,
        {split: splits[split]["tokens"] for split in SPLITS},
        {split: splits[split]["documents"] for split in SPLITS},
        manifest["characters"],
        manifest["vocabulary"]["n_vocab"],
        tuple(read),
    )


def _holds_returns(path: Path) -> bool:
    with accessing(path), path.open("rb") as file:
        return any(b"\r" in block for block in iter(partial(file.read, 1 << 20), b""))


def _settings_there(manifest: dict[str, Any], job: _Job) -> dict[str, Any]:
    """The settings of a finished folder.

    What an older manifest does not name was as it is by default, but for line ends, which were
    kept: that makes no difference where a text has no other than ours.
    """
    there = {**Reading().settings(), **manifest.get("settings", {})}
    if "keep_line_ends" not in manifest.get("settings", {}):
        kept = any(_holds_returns(source.path) for _, source in job.all)
        there["keep_line_ends"] = kept or job.reading.keep_line_ends
    return there


def _finished(job: _Job) -> Prepared:
    """What a finished folder holds, if it was made by the same call; InputError otherwise."""
    manifest = read_manifest(job.out)
    other = _differences(_settings_there(manifest, job), job.settings())
    if not other and not _is_same(manifest, job):
        other = "other texts, or the texts have changed"
    if other:
        raise PreparedOtherwiseError(
            f"{job.out}: was prepared otherwise ({other}); choose another folder, or replace it "
            "with --force"
        )
    read = _reported(manifest, job)
    job.say(f"{job.out} was prepared from these texts already and is left as it is: {read[0]}")
    return _prepared(job.out, manifest, read)


def _clear(out: Path) -> None:
    """Remove what an earlier call made; other files are left alone."""
    for pattern in (MANIFEST, *(f"{split}-*.tokens*" for split in SPLITS), JOURNAL):
        for path in out.glob(pattern):
            path.unlink()


def _look(job: _Job, force: bool) -> Prepared | None:
    """See what the folder holds; what was prepared in it, when there is nothing left to do."""
    names = sorted(path.name for path in job.out.iterdir() if not path.name.startswith("."))
    if names and MANIFEST not in names and JOURNAL not in names:
        raise InputError(f"{job.out}: holds other files, as {names[0]}; choose another folder")
    if force:
        _clear(job.out)
    elif MANIFEST in names:
        return _finished(job)
    return None


def _roll_back(journal: _Journal, job: _Job) -> None:
    """Forget what was made of files that are not the same any more, and of those after them."""
    every = job.all
    for number, entry in enumerate(journal.entries):
        if number >= len(every) or not entry.is_still(*every[number]):
            job.say(f"{entry.name} has changed since; it and what follows it is read again")
            journal.at, journal.entries = entry.start, journal.entries[:number]
            return


def _left(job: _Job) -> _Journal | None:
    """The journal of unfinished work that can be gone on with, at the place to go on from."""
    if not (job.out / JOURNAL).is_file():
        return None
    journal = _Journal.read(job.out / JOURNAL, job.say)
    if not journal.vocabulary or not journal.at.characters:
        return None
    if other := _differences(journal.settings, job.settings()):
        raise PreparedOtherwiseError(
            f"{job.out}: unfinished work with other settings ({other}); choose another folder, or "
            "start anew with --force"
        )
    if journal.vocabulary["texts"] != job.identities():
        job.say("the texts that the vocabulary was learned from have changed; all begins anew")
        return None
    _roll_back(journal, job)
    return journal


def _begun(job: _Job) -> tuple[_Journal, Tokenizer]:
    """A journal and a vocabulary, of the work that is there or new ones."""
    journal = _left(job)
    if journal is not None:
        return journal, job.tokenizer or Tokenizer.load(job.out)
    _clear(job.out)
    journal = _Journal(job.out / JOURNAL, job.settings())
    journal.rewrite()
    texts = job.identities()
    tokenizer = job.made_tokenizer()
    tokenizer.save(job.out)
    journal.vocabulary = {"sha256": vocabulary_hash(tokenizer), "texts": texts}
    return journal, tokenizer


# --- from texts to shards -------------------------------------------------------------------------


class _Item(NamedTuple):
    """A piece of the source of that number; None: the source is at its end."""

    source: int
    piece: Piece | None


def _whole(texts: Iterator[Piece]) -> Iterator[Piece]:
    """Documents in one piece each, for a vocabulary that sees where a text begins."""
    parts: list[str] = []
    for piece in texts:
        parts.append(piece.text)
        if piece.last:
            yield piece._replace(text="".join(parts))
            parts = []


def _chunks(items: Iterator[_Item]) -> Iterator[list[_Item]]:
    """Items in lists of about CHUNK characters."""
    chunk, size = [], 0
    for item in items:
        chunk.append(item)
        size += len(item.piece.text) if item.piece else 1
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


Encoded = list[tuple[_Item, np.ndarray]]


def _encoded(tokenizer: Tokenizer, chunk: list[_Item], special: tuple[str, ...]) -> Encoded:
    """Every item with its ids; an error names the document. special: names that are tokens."""
    texts = [item.piece.text if item.piece else "" for item in chunk]
    try:
        if special:
            return [
                (item, tokenizer.encode_array(text, special))
                for item, text in zip(chunk, texts, strict=True)
            ]
        return list(zip(chunk, tokenizer.encode_each(texts), strict=True))
    except InputError:
        for piece in filter(None, (item.piece for item in chunk)):
            _check_piece(tokenizer, piece)
        raise


def _check_piece(tokenizer: Tokenizer, piece: Piece) -> None:
    try:
        tokenizer.encode_array(piece.text)
    except InputError as error:
        where = f"{piece.source.name}: document {piece.document + 1}"
        raise InputError(f"{where}: {error}") from None


def _in_order(
    encode: Callable[[list[_Item]], Encoded], chunks: Iterator[list[_Item]], workers: int
) -> Iterator[Encoded]:
    """The chunks encoded, in their order, by so many threads; few wait at a time."""
    if workers == 1:
        yield from map(encode, chunks)
        return
    waiting: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for chunk in chunks:
            waiting.append(pool.submit(encode, chunk))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Work:
    """One pass over the texts, from where the journal stands to the end."""

    def __init__(self, job: _Job, journal: _Journal, tokenizer: Tokenizer, limit: int) -> None:
        self._job, self._journal, self._tokenizer, self._limit = job, journal, tokenizer, limit
        self._source, self._documents, self._characters, *marks = journal.at
        end = tokenizer.end_token
        self._end = np.array([] if end is None else [end], np.uint32)
        allowed = job.reading.special if job.reading.allow_special else ()
        self._special = tuple(name for name in allowed if name in tokenizer.special_tokens)
        self._found = [Found() for _ in job.all]
        self._digest = _digest(job.seed)
        self._open = 0  # characters of a document that is not complete
        self._committed = time.monotonic()
        self._seen = 0  # bytes read
        self._made = [0, 0]  # tokens and documents of this pass
        sha256 = str(journal.vocabulary["sha256"])
        self._train, self._val = (
            ShardWriter(job.out, split, tokenizer.n_vocab, sha256, job.shard_tokens, mark)
            for split, mark in zip(SPLITS, marks, strict=True)
        )

    def _read(self, number: int, skip: int) -> Iterator[_Item]:
        """The pieces of a source after `skip` documents, and its end."""
        source = self._job.all[number][1]
        before = sum(source.size for _, source in self._job.all[:number])

        def seen(done: int) -> None:
            self._seen = before + done

        texts = pieces(source, self._job.reading, seen, self._found[number])
        for piece in texts if self._tokenizer.is_local else _whole(texts):
            if piece.document >= skip:
                yield _Item(number, piece)
        yield _Item(number, None)

    def _items(self, first: int, skip: int) -> Iterator[_Item]:
        """All that is not done yet."""
        for number in range(first, len(self._job.all)):
            yield from self._read(number, skip if number == first else 0)

    def _position(self) -> _Position:
        marks = self._train.mark, self._val.mark
        return _Position(self._source, self._documents, self._characters, *marks)

    def _begin(self, number: int) -> None:
        """Note a source that is begun; one that was begun before stands there already."""
        if number < len(self._journal.entries):
            return
        entry = _Entry.begun(*self._job.all[number], self._position())
        self._journal.entries.append(entry)
        self._journal.append("source", asdict(entry))

    def _end_source(self, number: int) -> None:
        entry = self._journal.entries[number]
        split, source = self._job.all[number]
        if not entry.is_still(split, source) or source.path.stat().st_size != source.size:
            raise InputError(f"{source.name}: changed while it was read; run the same again")
        if not self._documents:
            self._job.say(f"{source.name} has no text in it")
        entry.documents, entry.found = self._documents, self._found[number].as_dict()
        self._journal.append("read", [entry.documents, entry.found])
        self._source, self._documents = number + 1, 0

    def _side(self, split: str, piece: Piece) -> ShardWriter:
        """Where the next ids of a document go: to train, until its whole text says otherwise."""
        if split != DRAWN:
            return self._val if split == "val" else self._train
        self._digest.update(piece.text.encode())
        if not piece.last:
            return self._train
        number, self._digest = _drawn(self._digest), _digest(self._job.seed)
        if number >= self._limit:
            return self._train
        if self._open:
            for ids in self._train.take_back():
                self._val.add(ids)
        return self._val

    def _add(self, piece: Piece, ids: np.ndarray) -> None:
        side = self._side(self._job.all[self._source][0], piece)
        side.add(ids)
        self._made[0] += len(ids)
        self._open += len(piece.text)
        if piece.last:
            side.add(self._end)
            side.end()
            self._characters, self._open = self._characters + self._open, 0
            self._documents += 1
            self._made[1] += 1

    def _take(self, item: _Item, ids: np.ndarray) -> None:
        self._begin(item.source)
        if item.piece is None:
            self._end_source(item.source)
        else:
            self._add(item.piece, ids)

    def _commit(self) -> None:
        """Make what is done safe, and say so in the journal."""
        for writer in (self._train, self._val):
            writer.sync()
        self._journal.append("at", self._position(), safe=True)
        self._committed = time.monotonic()

    def _all(self) -> None:
        total = sum(source.size for _, source in self._job.all)
        chunks = _chunks(self._items(self._source, self._documents))

        def encode(chunk: list[_Item]) -> Encoded:
            return _encoded(self._tokenizer, chunk, self._special)

        for done in _in_order(encode, chunks, self._job.workers):
            for item, ids in done:
                self._take(item, ids)
            if not self._open and time.monotonic() - self._committed >= COMMIT:
                self._commit()
            self._job.progress(Progress(self._seen, total, *self._made))
        self._commit()

    def run(self) -> dict[str, Any]:
        """Do it, and give the manifest."""
        try:
            self._all()
            if not self._characters:
                raise InputError(NO_TEXT)
            splits = {
                split: summary(self._job.out, writer.finish())
                for split, writer in zip(SPLITS, (self._train, self._val), strict=True)
            }
        finally:
            self._train.leave()
            self._val.leave()
        return self._manifest(splits)

    def _manifest(self, splits: dict[str, Any]) -> dict[str, Any]:
        names = ("name", "bytes", "sha256", "split", "documents", "found")
        tokenizer = self._tokenizer
        return {
            "format": FORMAT,
            "version": VERSION,
            "vocabulary": {
                "sha256": self._journal.vocabulary["sha256"],
                "n_vocab": tokenizer.n_vocab,
                "end_token": tokenizer.end_token,
            },
            "settings": self._job.settings(),
            "characters": self._characters,
            "splits": splits,
            "sources": [
                {name: getattr(entry, name) for name in names} for entry in self._journal.entries
            ],
        }


def _finish(job: _Job, manifest: dict[str, Any]) -> None:
    """Write the manifest, which makes the folder a set, and remove what is not part of it."""
    made = {s["name"] for split in SPLITS for s in manifest["splits"][split]["shards"]}
    for split in SPLITS:
        for path in job.out.glob(f"{split}-*.tokens*"):
            if path.name not in made:
                path.unlink()
    write_whole(job.out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    (job.out / JOURNAL).unlink()


def _run(job: _Job) -> Prepared:
    journal, tokenizer = _begun(job)
    limit = 0 if job.val else _limit(job.read(), job.held_out, job.seed, job.say)
    if journal.vocabulary.setdefault("limit", limit) != limit:
        job.say("with the texts as they are now, other documents are held out; all is read again")
        journal.vocabulary["limit"], journal.entries, journal.at = limit, [], _Position()
    journal.rewrite()
    manifest = _Work(job, journal, tokenizer, limit).run()
    read = _reported(manifest, job)
    with accessing(job.out, "written"):
        _finish(job, manifest)
    for line in read:
        job.say(line)
    return _prepared(job.out, manifest, read)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep others from writing into the folder, which is made where it is missing."""
    with accessing(out, "written"):
        out.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(out / LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(f"{out}: another process is preparing texts there; wait") from None
    try:
        yield
    finally:
        with suppress(OSError):  # where it is held, Windows keeps it
            (out / LOCK).unlink()
        lock.release()


def _check(held_out: float, seed: int, shard_tokens: int, workers: int) -> None:
    if not 0 <= held_out < 1:
        raise InputError(f"held_out: {held_out} is no share; give 0 or more and less than 1")
    if not 0 <= seed < 1 << 63:
        raise InputError(f"seed: {seed} is outside 0 to 2**63 - 1")
    if shard_tokens < 1 or workers < 1:
        raise InputError(f"shard_tokens {shard_tokens}, workers {workers}: both must be at least 1")


def prepare(
    texts: Iterable[Path | str],
    out: Path | str,
    *,
    tokenizer: Tokenizer | None = None,
    learn: int | None = None,
    characters: bool = False,
    held_out: float = 0.01,
    val: Iterable[Path | str] = (),
    seed: int = 0,
    shard_tokens: int = 1 << 26,
    workers: int | None = None,
    force: bool = False,
    say: Say = LOG.info,
    progress: Callable[[Progress], None] = _nothing,
    **reading: Any,
) -> Prepared:
    """Make the folder `out` a set of token shards of texts: files, folders, patterns.

    tokenizer: GPT-2's by default. learn: learn one of so many tokens from `texts` first.
    characters: one token for each character of `texts` and `val`. held_out: the share of documents
    to validate on, drawn by their text and the seed; of two or more there is at least one on each
    side. val: texts to validate on; then nothing else is held out. shard_tokens: a shard ends with
    the document that reaches so many. workers: threads, one a core by default; they change
    nothing in what is written. force: replace what was prepared in `out` before. say: told what is
    worth knowing and, at the end, what was read, a line at a time; by default the logger hears it.
    reading: how files are read, the fields of `documents.Reading`.

    Called again after it was broken off, it goes on; after it was done, it does nothing. Raises
    InputError for what cannot be read or does not fit, and Failure when the disk is full; what is
    done then stays for the next call.
    """
    if (tokenizer is not None) + (learn is not None) + characters > 1:
        raise InputError("tokenizer, learn, characters: give one of them; each names a vocabulary")
    workers = workers if workers is not None else os.cpu_count() or 1
    _check(held_out, seed, shard_tokens, workers)
    if tokenizer is None and learn is None and not characters:
        tokenizer = official()
    out, how = Path(out), read_by(tokenizer, characters, reading)
    left: Counter[str] = Counter()
    train = sources(texts, leave_out=out, left=left, say=say)
    held = sources(val, leave_out=out, left=left, say=say) if (val := list(val)) else []
    share = 0.0 if held else held_out
    job = _Job(
        out,
        train,
        held,
        left,
        how,
        share,
        seed,
        shard_tokens,
        tokenizer,
        learn,
        workers,
        say,
        progress,
    )
    with _alone(out):
        return _look(job, force) or _run(job)
