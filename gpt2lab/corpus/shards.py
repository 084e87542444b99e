"""Token files: texts as ids on disk, addressable by token and by document, checked when opened.

A folder that `prepare` made holds the shards of its two splits, the vocabulary and `manifest.json`.
One shard is a header of 64 bytes, the ids as little-endian uint16 (uint32 above 65,536 tokens),
zeros up to a multiple of eight, and the end of every document as uint64, counted in tokens:

    magic "gpt2toks"  version u32  width u32  tokens u64  documents u64  sha256 of the vocabulary

No document stands in two shards. Read as they are: the `.bin` files of nanoGPT (and of llm.c), and
the `.npz` of gpt-2-simple. What a batch is, is `data`'s; how texts become ids, `prepare`'s.

Sources of the foreign formats: karpathy/nanoGPT `data/*/prepare.py`; karpathy/llm.c
`dev/data/data_common.py`; minimaxir/gpt-2-simple `load_dataset.py`.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt2lab.errors import InputError, quoted
from gpt2lab.files import file_facts
from gpt2lab.files.io import accessing, identity, is_file_name, let_go, map_bytes, read_head
from gpt2lab.files.json_files import checked, read_json
from gpt2lab.files.torchfile import read_plain
from gpt2lab.files.visible import reason, shown
from gpt2lab.text.tokenizer import Tokenizer, official
from gpt2lab.weights.tokenizer_files import has_files

MAGIC, VERSION = b"gpt2toks", 1
HEADER = struct.Struct("<8sIIQQ32s")
MANIFEST, FORMAT = "manifest.json", "gpt2lab token shards"
JOURNAL = "progress.jsonl"  # stands in a folder that is being made, beside no manifest
SPLITS = ("train", "val")
ENDED = np.dtype("<u8")
PART = 1 << 22  # tokens looked at in one go, when all of a file is

LLMC_MAGIC, LLMC_HEADER = 20240520, 1024


def width_of(n_vocab: int) -> int:
    """Bytes of one id of a vocabulary."""
    return 2 if n_vocab <= 1 << 16 else 4


@lru_cache(maxsize=8)
def vocabulary_hash(tokenizer: Tokenizer) -> str:
    """sha256 over what every id stands for, the same whatever files the vocabulary came from."""
    special = json.dumps(sorted(tokenizer.special_tokens.items()))
    digest = hashlib.sha256(f"{tokenizer.kind} {tokenizer.n_vocab} {special}".encode())
    for token in range(tokenizer.n_vocab):
        data = tokenizer.token_bytes(token)
        digest.update(len(data).to_bytes(4, "little") + data)
    return digest.hexdigest()


# --- many arrays as one ------------------------------------------------------------------------


class Tokens:
    """The ids of several arrays as one row; nothing is read before it is asked for."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = [part for part in parts if len(part)] or [np.zeros(0, np.uint16)]
        self._starts = np.cumsum([0, *map(len, self.parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, span: slice) -> np.ndarray:
        """The ids [start:stop], a view of the file where it does not cross into the next."""
        start, stop, step = span.indices(len(self))
        assert step == 1
        if len(self.parts) == 1:
            return self.parts[0][start:stop]
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        found = []
        for part, begin in zip(self.parts[first:], self._starts[first:-1], strict=True):
            if begin >= stop:
                break
            found.append(part[max(start - begin, 0) : stop - begin])
        return found[0] if len(found) == 1 else np.concatenate(found or [self.parts[0][:0]])

    def take(self, at: np.ndarray) -> np.ndarray:
        """The ids at the places `at` [n], in their order."""
        if len(self.parts) == 1:
            found: np.ndarray = self.parts[0][at]
            return found
        which = np.searchsorted(self._starts, at, "right") - 1
        ids = np.empty(len(at), self.parts[0].dtype)
        for number in np.unique(which):
            here = which == number
            ids[here] = self.parts[number][at[here] - self._starts[number]]
        return ids


def _map_at_random(path: Path) -> np.ndarray:
    """`map_bytes` for reading here and there: nothing around a place is read along with it.

    A batch of a set larger than memory took 90 ms of reading ahead for 12 rows of 64 tokens.
    """
    raw = map_bytes(path)
    memory: Any = getattr(raw.base, "base", None)
    if hasattr(mmap, "MADV_RANDOM") and isinstance(memory, mmap.mmap):
        with suppress(OSError, ValueError):
            memory.madvise(mmap.MADV_RANDOM)
    return raw


def _pieces(ids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(start, ids) of a mapped array, piece by piece, without keeping the file in memory."""
    for start in range(0, len(ids), PART):
        piece = ids[start : start + PART]
        yield start, piece
        let_go(piece)


def _check_highest(where: str, ids: np.ndarray, n_vocab: int) -> None:
    """Raise InputError at the first id that the vocabulary does not have."""
    for start, piece in _pieces(ids):
        wrong = piece >= n_vocab
        if wrong.any():
            at = int(np.argmax(wrong))
            raise InputError(
                f"{where}: the id {piece[at]} at token {start + at} is outside the vocabulary, "
                f"whose highest is {n_vocab - 1}; the file is damaged or of another vocabulary"
            )


def document_ends(ids: np.ndarray, end_token: int | None) -> np.ndarray:
    """Where documents end in a row of ids: after each end token, and at the end. int64."""
    found = [np.zeros(0, np.int64)]
    if end_token is not None:
        found += [np.flatnonzero(piece == end_token) + start + 1 for start, piece in _pieces(ids)]
    ends = np.concatenate(found)
    if len(ids) and (not len(ends) or ends[-1] != len(ids)):
        ends = np.append(ends, len(ids))
    return ends


# --- a set of tokens -----------------------------------------------------------------------------


class TokenSet:
    """One split of one source of ids.

    name: for people. tokens: the ids. n_tokens: how many. n_vocab: every id is below it.
    end_token: the id that ends a document, None where the vocabulary has none.
    tokenizer: for showing text; None when it is not known.
    fingerprint: changes exactly when ids, documents or vocabulary do.
    """

    def __init__(
        self,
        name: str,
        tokens: Tokens,
        ends: Callable[[], np.ndarray],
        n_vocab: int,
        end_token: int | None,
        tokenizer: Tokenizer | None,
        fingerprint: str,
        verify: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.tokens, self.n_tokens = name, tokens, len(tokens)
        self.n_vocab, self.end_token, self.tokenizer = n_vocab, end_token, tokenizer
        self.fingerprint = fingerprint
        self._ends, self._verify = ends, verify

    @classmethod
    def of(
        cls,
        name: str,
        ids: Sequence[int] | np.ndarray,
        ends: Sequence[int] | np.ndarray | None = None,
        *,
        n_vocab: int,
        end_token: int | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> TokenSet:
        """A set from memory. ends: where documents end; by default after every end token."""
        row = np.asarray(ids)
        if row.ndim != 1 or (row.size and (row.dtype.kind not in "ui" or row.min() < 0)):
            raise InputError(f"{name}: ids must be one row of integers >= 0")
        row = row.astype(np.uint32)
        _check_highest(name, row, n_vocab)
        found = document_ends(row, end_token) if ends is None else np.asarray(ends, np.int64)
        digest = hashlib.sha256(f"{n_vocab} {end_token} {len(row)}".encode())
        digest.update(row.tobytes() + found.tobytes())
        return cls(
            name, Tokens([row]), lambda: found, n_vocab, end_token, tokenizer, digest.hexdigest()
        )

    def __repr__(self) -> str:
        return f"TokenSet({self.name!r}, {self.n_tokens} tokens, n_vocab={self.n_vocab})"

    @cached_property
    def ends(self) -> np.ndarray:
        """Where each document ends: the index after its last token. int64 [documents]."""
        return self._ends()

    def verify(self) -> None:
        """Read every byte again and hold it against what is written down; else InputError."""
        self._verify()


# --- one shard ------------------------------------------------------------------------------------


class Header(NamedTuple):
    """What a shard says of itself; vocabulary is a sha256."""

    width: int
    tokens: int
    documents: int
    vocabulary: bytes

    @property
    def tail(self) -> int:
        """Where the ends of the documents stand: byte offset, a multiple of 8."""
        return (HEADER.size + self.tokens * self.width + 7) // 8 * 8

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.tail + self.documents * ENDED.itemsize

    def packed(self) -> bytes:
        """The 64 bytes."""
        return HEADER.pack(MAGIC, VERSION, self.width, self.tokens, self.documents, self.vocabulary)


def read_header(path: Path, raw: np.ndarray) -> Header:
    """The header of a shard whose bytes are mapped; InputError when they do not fit it."""
    if raw.size < HEADER.size or raw[:8].tobytes() != MAGIC:
        raise InputError(f"{path}: no token file; it is damaged or of another format")
    _, version, width, *rest = HEADER.unpack(raw[: HEADER.size].tobytes())
    if version != VERSION or width not in (2, 4):
        raise InputError(
            f"{path}: version {version} with {width} bytes a token, this package reads version "
            f"{VERSION} with 2 or 4; it is damaged or from a newer package"
        )
    header = Header(width, *rest)
    if header.size != raw.size:
        raise InputError(
            f"{path}: has {raw.size} bytes, its header says {header.size}; it is cut off or damaged"
        )
    return header


def ids_of(raw: np.ndarray, header: Header) -> np.ndarray:
    """The ids of a mapped shard."""
    stop = HEADER.size + header.tokens * header.width
    return raw[HEADER.size : stop].view(f"<u{header.width}")  # [tokens]


def ends_of(raw: np.ndarray, header: Header) -> np.ndarray:
    """The ends of its documents, counted from its first token. int64."""
    return raw[header.tail :].view(ENDED).astype(np.int64)  # [documents]


class Shard(NamedTuple):
    """One shard as the manifest describes it; highest is the largest id in it, -1 for none."""

    name: str
    bytes: int
    sha256: str
    tokens: int
    documents: int
    highest: int


def _hash_of(raw: np.ndarray) -> str:
    digest = hashlib.sha256()
    for _, piece in _pieces(raw):
        digest.update(piece.data)
    return digest.hexdigest()


def summary(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """One split for the manifest: its shards, and a sha256 of ids and ends however it is cut."""
    content, shards, ends, total = hashlib.sha256(), [], [], 0
    for name in names:
        raw = map_bytes(folder / name)
        header = read_header(folder / name, raw)
        highest = -1
        for _, piece in _pieces(ids_of(raw, header)):
            content.update(piece.data)
            highest = max(highest, int(piece.max()))
        sizes = header.tokens, header.documents
        shards.append(Shard(name, raw.size, _hash_of(raw), *sizes, highest)._asdict())
        ends.append(ends_of(raw, header) + total)
        total += header.tokens
    for part in ends:
        content.update(part.tobytes())
    return {
        "tokens": total,
        "documents": sum(map(len, ends)),
        "sha256": content.hexdigest(),
        "shards": shards,
    }


# --- writing --------------------------------------------------------------------------------------


class Mark(NamedTuple):
    """A place in a split that is being written: so much of it is safe on the disk."""

    shard: int = 0
    tokens: int = 0
    documents: int = 0


def shard_name(split: str, number: int) -> str:
    """The file name of a shard."""
    return f"{split}-{number:05d}.tokens"


class ShardWriter:
    """Writes one split, document by document, and can go on from any `Mark` that it gave.

    A shard is two growing `.part` files, ids and ends, until it has `shard_tokens`; then they
    become one file. Which bytes come out depends on the documents alone, not on how often the
    writing was broken off.
    """

    FLUSH = 1 << 18  # tokens kept in memory

    def __init__(
        self, folder: Path, split: str, n_vocab: int, vocabulary: str, shard_tokens: int, mark: Mark
    ) -> None:
        self._folder, self._split, self._most = folder, split, shard_tokens
        self._width, self._vocabulary = width_of(n_vocab), bytes.fromhex(vocabulary)
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0
        self._ends: list[int] = []
        self.shard, self.tokens, self.documents = mark
        self._begun = mark.tokens  # where the open document begins
        self._reopen()

    def _part(self, number: int, kind: str) -> Path:
        return self._folder / f"{shard_name(self._split, number)}.{kind}.part"

    def _reopen(self) -> None:
        """Two files that hold exactly what the mark says."""
        final = self._folder / shard_name(self._split, self.shard)
        ids, ends = (self._part(self.shard, kind) for kind in ("ids", "ends"))
        sizes = (HEADER.size + self.tokens * self._width, self.documents * ENDED.itemsize)
        with accessing(final, "written"):
            if final.exists():  # finished after the mark was given
                if self.documents:
                    self._take_apart(final, ids, ends)
                final.unlink()
            if not self.documents:
                ids.write_bytes(bytes(sizes[0]))
                ends.write_bytes(b"")
            self._files = [path.open("r+b", buffering=0) for path in (ids, ends)]
            for file, size in zip(self._files, sizes, strict=True):
                if file.seek(0, 2) < size:
                    raise InputError(f"{final}: its parts are cut off; start anew with --force")
                file.truncate(size)
                file.seek(size)

    def _take_apart(self, final: Path, ids: Path, ends: Path) -> None:
        """Make the two parts of a finished shard again."""
        raw = map_bytes(final)
        header = read_header(final, raw)
        ends.write_bytes(raw[header.tail :].tobytes())
        with ids.open("wb") as file:
            file.write(raw[: HEADER.size + header.tokens * header.width].data)

    def _write(self, which: int, data: np.ndarray) -> None:
        path = self._part(self.shard, "ids")
        view = data.view(np.uint8).data
        with accessing(path, "written"):
            while len(view):
                view = view[self._files[which].write(view) :]

    def _flush(self) -> None:
        if self._waiting:
            self._write(0, np.concatenate(self._waiting))
        if self._ends:
            self._write(1, np.array(self._ends, ENDED))
        self._waiting, self._n_waiting, self._ends = [], 0, []

    def add(self, ids: np.ndarray) -> None:
        """The next ids of the document that is open."""
        self._waiting.append(ids.astype(f"<u{self._width}"))
        self._n_waiting += len(ids)
        self.tokens += len(ids)
        if self._n_waiting >= self.FLUSH:
            self._flush()

    def end(self) -> None:
        """The open document is complete; a shard that is full with it is closed."""
        self.documents += 1
        self._begun = self.tokens
        self._ends.append(self.tokens)
        if self.tokens >= self._most:
            self._close_shard()
            self.shard, self.tokens, self.documents, self._begun = self.shard + 1, 0, 0, 0
            self._reopen()

    def take_back(self) -> Iterator[np.ndarray]:
        """Give the ids of the open document, piece by piece, and then forget them."""
        self._flush()
        path = self._part(self.shard, "ids")
        start = HEADER.size + self._begun * self._width
        with accessing(path, "written"):
            with path.open("rb") as file:
                file.seek(start)
                while data := file.read(self.FLUSH * self._width):
                    yield np.frombuffer(data, f"<u{self._width}")
            self._files[0].truncate(start)
            self._files[0].seek(start)
        self.tokens = self._begun

    @property
    def mark(self) -> Mark:
        """How far the split is written; safe on the disk after the next `sync`."""
        return Mark(self.shard, self.tokens, self.documents)

    def sync(self) -> None:
        """Bring everything to the disk. No document may be open."""
        assert self._begun == self.tokens
        self._flush()
        with accessing(self._part(self.shard, "ids"), "written"):
            for file in self._files:
                os.fsync(file.fileno())

    def _close_shard(self) -> None:
        """Make one file of the two parts and give it its name."""
        self._flush()
        ids, ends = (self._part(self.shard, kind) for kind in ("ids", "ends"))
        header = Header(self._width, self.tokens, self.documents, self._vocabulary)
        with accessing(ids, "written"):
            self._write(0, np.zeros(header.tail - self._files[0].tell(), np.uint8))
            for piece in np.array_split(map_bytes(ends), 1 + self.documents // PART):
                self._write(0, piece)
            self._files[0].seek(0)
            self._write(0, np.frombuffer(header.packed(), np.uint8))
            os.fsync(self._files[0].fileno())
            self.leave()
            ids.replace(self._folder / shard_name(self._split, self.shard))
            ends.unlink()

    def finish(self) -> list[str]:
        """Close the last shard and give the names of all; a split without documents has none."""
        if self.documents:
            self._close_shard()
            self.shard += 1
        else:
            self.leave()
            for kind in ("ids", "ends"):
                self._part(self.shard, kind).unlink(missing_ok=True)
        return [shard_name(self._split, number) for number in range(self.shard)]

    def leave(self) -> None:
        """Let the files go as they are."""
        for file in self._files:
            file.close()


# --- reading a folder of ours ---------------------------------------------------------------------


_SPLIT = {"shards": (list,), "sha256": (str,)}
_SHARD: dict[str, tuple[type, ...]] = {"name": (str,), "sha256": (str,)}
_SHARD |= dict.fromkeys(("bytes", "tokens", "documents", "highest"), (int,))


def _shards(entry: Any, where: str) -> list[Shard]:
    lines = [
        checked(line, f"{where}'s shard", _SHARD)
        for line in checked(entry, where, _SPLIT)["shards"]
    ]
    shards = [Shard(**{name: line[name] for name in Shard._fields}) for line in lines]
    for shard in shards:
        if not is_file_name(shard.name):
            raise InputError(
                f"{where}: the shard {shown(shard.name)} is no file name; it is damaged"
            )
    return shards


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that `prepare` made; InputError for one of another kind."""
    path = folder / MANIFEST
    manifest = read_json(path)
    if (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise InputError(
            f"{path}: format {quoted(manifest.get('format'))}, version "
            f"{quoted(manifest.get('version'))}; "
            f"expected {FORMAT!r}, {VERSION}; it is from a newer package or of another program"
        )
    return manifest


def _check_shard(path: Path, shard: Shard, raw: np.ndarray, n_vocab: int, known: str) -> None:
    """Hold a shard against the manifest; known: its sha256 from another time, or ""."""
    if raw.size != shard.bytes:
        raise InputError(
            f"{path}: has {raw.size} bytes, the manifest says {shard.bytes}; it is cut off or was "
            "replaced, copy it or prepare the texts again"
        )
    found = known or _hash_of(raw)
    if found != shard.sha256 or shard.highest >= n_vocab:
        _check_highest(str(path), ids_of(raw, read_header(path, raw)), n_vocab)
        raise InputError(
            f"{path}: its sha256 is {found}, the manifest says {shard.sha256}; it was changed or "
            "damaged, copy it or prepare the texts again"
        )


def _check_shards(folder: Path, shards: Sequence[Shard], n_vocab: int, again: bool) -> None:
    """Hold all shards of a split against the manifest; large ones are read once for all times."""
    files = [identity(folder / shard.name) for shard in shards]
    known = None if again else file_facts.recall(files, "sha256")
    if not isinstance(known, list) or len(known) != len(shards):
        known = [""] * len(shards)
    for shard, sha256 in zip(shards, known, strict=True):
        path = folder / shard.name
        _check_shard(path, shard, map_bytes(path), n_vocab, sha256)
    if not all(known):
        file_facts.remember(files, "sha256", [shard.sha256 for shard in shards])


def _check_counts(path: Path, header: Header, shard: Shard, vocabulary: str) -> None:
    if (header.tokens, header.documents) != (shard.tokens, shard.documents):
        raise InputError(
            f"{path}: holds {header.tokens} tokens in {header.documents} documents, the manifest "
            f"says {shard.tokens} in {shard.documents}; prepare the texts again"
        )
    if header.vocabulary.hex() != vocabulary:
        raise InputError(f"{path}: made with another vocabulary than its manifest says")


def _our_set(folder: Path, split: str, tokenizer: Tokenizer | None) -> TokenSet | None:
    manifest, where = read_manifest(folder), str(folder / MANIFEST)
    checked(manifest, where, {"splits": (dict,), "vocabulary": (dict,)})
    said = checked(manifest["vocabulary"], where, {"n_vocab": (int,), "sha256": (str,)})
    n_vocab, sha256 = said["n_vocab"], said["sha256"]
    entry = manifest["splits"].get(split)
    shards = _shards(entry, f"{where}: {split}")
    content = entry["sha256"]
    own = Tokenizer.load(folder)
    _check_vocabulary(folder, sha256, own, "the one beside it")
    if tokenizer is not None:
        _check_vocabulary(folder, sha256, tokenizer, "the one given")
    if not shards:
        return None
    _check_shards(folder, shards, n_vocab, again=False)
    mapped = [_map_at_random(folder / shard.name) for shard in shards]
    headers = [read_header(folder / s.name, raw) for s, raw in zip(shards, mapped, strict=True)]
    for shard, header in zip(shards, headers, strict=True):
        _check_counts(folder / shard.name, header, shard, sha256)
    starts = np.cumsum([0, *(header.tokens for header in headers)])

    def ends() -> np.ndarray:
        each = zip(mapped, headers, starts[:-1], strict=True)
        return np.concatenate([ends_of(raw, header) + start for raw, header, start in each])

    return TokenSet(
        _name(folder, split),
        Tokens([ids_of(raw, header) for raw, header in zip(mapped, headers, strict=True)]),
        ends,
        n_vocab,
        own.end_token,
        own,
        hashlib.sha256(f"{sha256} {content}".encode()).hexdigest(),
        lambda: _check_shards(folder, shards, n_vocab, again=True),
    )


def _check_vocabulary(where: Path, expected: str, tokenizer: Tokenizer, which: str) -> None:
    found = vocabulary_hash(tokenizer)
    if found != expected:
        raise InputError(
            f"{where}: tokens of another vocabulary (sha256 {expected[:16]}...) than {which} "
            f"({found[:16]}..., {tokenizer.n_vocab} tokens); prepare the texts with that one"
        )


# --- reading what others made ---------------------------------------------------------------------


def _name(path: Path, split: str) -> str:
    return str(path) if split == "train" else f"{path} ({split})"


def _characters(path: Path) -> tuple[int, Tokenizer | None]:
    """The vocabulary in nanoGPT's meta.pkl; its pickle may hold plain values and nothing else."""
    meta = read_plain(path)
    try:
        size, names = int(meta["vocab_size"]), meta.get("itos")
        if names is None:
            return size, None
        return size, Tokenizer.characters([names[token] for token in range(size)])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{path}: no vocabulary of nanoGPT ({reason(error)}); expected vocab_size and itos"
        ) from error


def _foreign_vocabulary(path: Path, tokenizer: Tokenizer | None) -> tuple[int, Tokenizer | None]:
    """(n_vocab, tokenizer) of a file that says nothing of its own.

    What lies beside it says it: nanoGPT's meta.pkl, or vocabulary files; else the one that is
    wanted, else GPT-2's.
    """
    meta, own = path.with_name("meta.pkl"), None
    if meta.is_file():
        n_vocab, own = _characters(meta)
    elif has_files(path.parent):
        own = Tokenizer.load(path.parent)
        n_vocab = own.n_vocab
    else:
        tokenizer = tokenizer or official()
        n_vocab = tokenizer.n_vocab
    if own is not None and tokenizer is not None:
        _check_vocabulary(path, vocabulary_hash(own), tokenizer, "the one given")
    return n_vocab, own or tokenizer


def _bin_ids(path: Path, raw: np.ndarray) -> np.ndarray:
    """The ids of nanoGPT's raw uint16, or of llm.c's, which has a header."""
    head = np.frombuffer(raw[:12].tobytes().ljust(12, b"\0"), "<i4")
    if head[0] == LLMC_MAGIC and head[1] == 1:
        raw = raw[LLMC_HEADER:]
        if raw.size != 2 * head[2]:
            raise InputError(
                f"{path}: has {raw.size // 2} tokens, its header says {head[2]}; it is cut off"
            )
    if raw.size % 2:
        raise InputError(f"{path}: has {raw.size} bytes, no whole number of uint16; it is cut off")
    if not raw.size:
        raise InputError(f"{path}: empty; there is nothing to learn from")
    return raw.view("<u2")


def _check_bin(path: Path, ids: np.ndarray, n_vocab: int, again: bool = False) -> str:
    """The sha256 of a file whose ids were looked at; of a large one both are remembered."""
    files, what = [identity(path)], f"ids below {n_vocab}, sha256"
    known = None if again else file_facts.recall(files, what)
    if not isinstance(known, str):
        _check_highest(str(path), ids, n_vocab)
        known = _hash_of(map_bytes(path))
        file_facts.remember(files, what, known)
    return known


def _bin_set(path: Path, name: str, tokenizer: Tokenizer | None) -> TokenSet:
    n_vocab, vocabulary = _foreign_vocabulary(path, tokenizer)
    ids, end_token = _bin_ids(path, map_bytes(path)), vocabulary.end_token if vocabulary else None
    sha256 = _check_bin(path, ids, n_vocab)
    return TokenSet(
        name,
        Tokens([_bin_ids(path, _map_at_random(path))]),
        lambda: document_ends(ids, end_token),
        n_vocab,
        end_token,
        vocabulary,
        hashlib.sha256(f"{sha256} {n_vocab} {end_token}".encode()).hexdigest(),
        lambda: _verify_bin(path, ids, n_vocab, sha256),
    )


def _verify_bin(path: Path, ids: np.ndarray, n_vocab: int, sha256: str) -> None:
    if (found := _check_bin(path, ids, n_vocab, again=True)) != sha256:
        raise InputError(f"{path}: its sha256 is {found}, it was {sha256} when it was opened")


def _npz_arrays(path: Path) -> list[np.ndarray]:
    """The arrays of an .npz in the order of their numbers; no pickle is read."""
    try:
        with accessing(path), path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            names = sorted(archive.files, key=lambda name: (len(name), name))
            arrays = [np.asarray(archive[name]) for name in names]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: not a whole .npz of numbers ({reason(error)}); it is damaged or no data set "
            "of gpt-2-simple"
        ) from error
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 1 or array.dtype.kind not in "ui":
            raise InputError(
                f"{path}: {shown(name)} is {array.dtype} {list(array.shape)}, expected one row of "
                "token ids; it is no data set of gpt-2-simple"
            )
    if not sum(map(len, arrays)):
        raise InputError(f"{path}: holds no tokens; there is nothing to learn from")
    return arrays


def _npz_set(path: Path, name: str, tokenizer: Tokenizer | None) -> TokenSet:
    """The chunks of gpt-2-simple: each is a document, unless end tokens part it into several."""
    n_vocab, vocabulary = _foreign_vocabulary(path, tokenizer)
    end_token = vocabulary.end_token if vocabulary else None
    arrays = _npz_arrays(path)
    row = np.concatenate(arrays)
    if row.min() < 0:
        at = int(np.argmax(row < 0))
        raise InputError(f"{path}: the id {row[at]} at token {at} is negative; it is damaged")
    _check_highest(str(path), row, n_vocab)
    starts = np.cumsum([0, *map(len, arrays)])
    parts = [
        document_ends(array, end_token) + start
        for array, start in zip(arrays, starts[:-1], strict=True)
    ]
    return TokenSet.of(
        name,
        row,
        np.concatenate(parts),
        n_vocab=n_vocab,
        end_token=end_token,
        tokenizer=vocabulary,
    )


# --- whatever it is -------------------------------------------------------------------------------


def _set_in_folder(path: Path, split: str, tokenizer: Tokenizer | None) -> TokenSet | None:
    if (path / MANIFEST).is_file():
        return _our_set(path, split, tokenizer)
    if (path / JOURNAL).is_file():
        raise InputError(
            f"{path}: not finished by gpt2lab prepare; run the same command again, it goes on"
        )
    if any(path.glob("*.tokens")):
        raise InputError(
            f"{path}: holds token files but no {MANIFEST}, without which they cannot be checked; "
            "copy the whole folder that gpt2lab prepare made, or prepare the texts again"
        )
    if (path / "train.bin").is_file():
        file = path / f"{split}.bin"
        return _bin_set(file, _name(path, split), tokenizer) if file.is_file() else None
    return None


def open_set(
    path: Path | str, split: str = "train", tokenizer: Tokenizer | None = None
) -> TokenSet | None:
    """The tokens at `path`, recognised by its content; None when it is no set of tokens.

    A folder of `prepare`, a folder of nanoGPT (`train.bin`, `val.bin`, `meta.pkl`), one `.bin` of
    nanoGPT or llm.c, one `.npz` of gpt-2-simple. None also when it has no such split; a single file
    is a train split. tokenizer: the vocabulary that is wanted; by default the one that lies beside
    the tokens, else GPT-2's. Everything is checked, and of large files once: sizes and hashes
    against the manifest, every id against the vocabulary. Raises InputError for what does not fit.
    """
    path = Path(path)
    if split not in SPLITS:
        raise InputError(f"split: {split!r} is unknown; known: {', '.join(SPLITS)}")
    with accessing(path):
        if path.is_dir():
            return _set_in_folder(path, split, tokenizer)
    head = read_head(path, 8)
    if head == MAGIC:
        raise InputError(f"{path}: one shard of a set; give its folder {path.parent}")
    if split != "train" or not path.is_file():
        return None
    # Raw ids have no mark of their own: here the name has to say it.
    if path.suffix == ".bin":
        return _bin_set(path, str(path), tokenizer)
    if head.startswith(b"PK") and path.suffix == ".npz":
        return _npz_set(path, str(path), tokenizer)
    return None
