"""Texts to token shards: read, hold documents out, encode, write.

The shards depend on the texts and the settings alone: not on the number of workers, and not on how
often the work was interrupted. The manifest, which makes the folder a set, is written last; until
then `prepare_log` says how far it is, and the same call continues from there.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock

from gpt2lab import checks
from gpt2lab.corpus.documents import Findings, read_by, report, text_files
from gpt2lab.corpus.encoding_pass import EncodingPass, PrepareProgress
from gpt2lab.corpus.manifest import FORMAT, MANIFEST, VERSION, read_manifest, summary
from gpt2lab.corpus.preparation import DRAWN, Preparation
from gpt2lab.corpus.prepare_log import PROGRESS, PrepareLog
from gpt2lab.corpus.shard_file import KINDS, shard_path
from gpt2lab.corpus.token_set import SPLITS, vocabulary_hash
from gpt2lab.errors import InputError
from gpt2lab.files.atomic import write_whole
from gpt2lab.files.file_facts import known_sha256
from gpt2lab.files.io import accessing
from gpt2lab.text.tokenizer import Tokenizer, official

log = logging.getLogger(__name__)

LOCK = ".lock"
MAX_SEED = 2**63 - 1


class PreparedOtherwiseError(InputError):
    """The folder holds what other texts or settings made."""


@dataclass(frozen=True)
class Prepared:
    """What a folder holds now.

    tokens and documents: by split. characters: of all texts. read: what was read, line by line.
    is_new: whether this call prepared it.
    """

    folder: Path
    tokens: dict[str, int]
    documents: dict[str, int]
    characters: int
    n_vocab: int
    read: tuple[str, ...] = ()
    is_new: bool = field(default=True, compare=False)

    @property
    def characters_per_token(self) -> float:
        """The mean number of characters of a token, end tokens included."""
        return self.characters / max(1, sum(self.tokens.values()))

    def left_as_it_is(self) -> str:
        """Return the note for a folder that held all of this before."""
        return (
            f"{self.folder} was prepared from these texts already and is left as it is: "
            f"{self.read[0]}"
        )


def _read(work: Preparation, manifest: dict[str, Any]) -> tuple[str, ...]:
    """Describe what was read, for people."""
    files = manifest["sources"]
    found = [Findings(**file["found"]) for file in files]
    documents = sum(file["documents"] for file in files)
    return tuple(report(found, documents, work.left_out, work.reading))


def _prepared(work: Preparation, manifest: dict[str, Any], is_new: bool) -> Prepared:
    splits = manifest["splits"]
    tokens, documents = (
        {split: splits[split][what] for split in SPLITS} for what in ("tokens", "documents")
    )
    n_vocab, read = manifest["vocabulary"]["n_vocab"], _read(work, manifest)
    return Prepared(work.out, tokens, documents, manifest["characters"], n_vocab, read, is_new)


def _clear(out: Path, kept: Iterable[Path] = ()) -> None:
    """Remove what an earlier call made, but for what is kept; other files are left alone."""
    shards = (f"{split}-*.{kind}*" for split in SPLITS for kind in KINDS)
    found = {path for name in (MANIFEST, PROGRESS, *shards) for path in out.glob(name)}
    for path in found - set(kept):
        path.unlink()


# --- a folder that was prepared before ------------------------------------------------------------


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Describe the settings that differ."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)!r} there, {new.get(name)!r} now" for name in names)


def _is_same(manifest: dict[str, Any], work: Preparation) -> bool:
    """Whether a finished folder was made of these very files."""
    made = [(s["split"], s["bytes"], s["sha256"]) for s in manifest["sources"]]
    return made == [(split, f.size, known_sha256(f.path)) for split, f in work.files]


def _finished(work: Preparation) -> Prepared:
    """Return what a finished folder holds; InputError where another call made it."""
    manifest = read_manifest(work.out)
    other = _differences(manifest["settings"], work.settings())
    if not other and not _is_same(manifest, work):
        other = "other texts, or the texts have changed"
    if other:
        raise PreparedOtherwiseError(
            f"{work.out}: was prepared otherwise ({other}); choose another folder, or replace it "
            "with --force"
        )
    return _prepared(work, manifest, is_new=False)


def _look(work: Preparation, force: bool) -> Prepared | None:
    """Return what was prepared in the folder, when there is nothing left to do."""
    names = sorted(path.name for path in work.out.iterdir() if not path.name.startswith("."))
    if names and MANIFEST not in names and PROGRESS not in names:
        raise InputError(f"{work.out}: holds other files, as {names[0]}; choose another folder")
    if force:
        _clear(work.out)
    elif MANIFEST in names:
        return _finished(work)
    return None


def _unfinished(work: Preparation) -> PrepareLog | None:
    """Return the log of unfinished work that can be continued, at the place to continue from."""
    done = PrepareLog.read(work.out) if (work.out / PROGRESS).is_file() else None
    if done is None or not done.vocabulary or not done.at.characters:
        return None
    if other := _differences(done.settings, work.settings()):
        raise PreparedOtherwiseError(
            f"{work.out}: unfinished work with other settings ({other}); choose another folder, or "
            "start from the beginning with --force"
        )
    if done.vocabulary["texts"] != work.identities():
        log.warning(
            "the texts that the vocabulary was learned from have changed; everything is prepared "
            "from the beginning"
        )
        return None
    done.take_back(work.files)
    return done


# --- preparing ------------------------------------------------------------------------------------


def _begun(work: Preparation) -> tuple[PrepareLog, Tokenizer]:
    """Return a log and a vocabulary, of the work that is there or new ones."""
    done = _unfinished(work)
    if done is not None:
        return done, work.tokenizer or Tokenizer.load(work.out)
    _clear(work.out)
    done = PrepareLog(work.out, work.settings())
    done.save()
    texts, tokenizer = work.identities(), work.vocabulary()
    tokenizer.save(work.out)
    done.vocabulary = {"sha256": vocabulary_hash(tokenizer), "texts": texts}
    return done, tokenizer


def _limited(work: Preparation, done: PrepareLog) -> None:
    """Note which documents are held out; where these are others now, all is read again."""
    limit = work.limit()
    if done.vocabulary.setdefault("limit", limit) != limit:
        log.warning(
            "with the texts as they are now, other documents are held out; all is read again"
        )
        done.vocabulary["limit"] = limit
        done.restart()
    done.save()


def _manifest(
    work: Preparation, done: PrepareLog, tokenizer: Tokenizer, counts: list[int]
) -> dict[str, Any]:
    """Describe a set of `counts` shards in each split."""
    sources = [asdict(entry) for entry in done.entries]
    for source in sources:
        del source["start"]
    return {
        "format": FORMAT,
        "version": VERSION,
        "vocabulary": {
            "sha256": done.vocabulary["sha256"],
            "n_vocab": tokenizer.n_vocab,
            "end_token": tokenizer.end_token,
        },
        "settings": work.settings(),
        "characters": done.at.characters,
        "splits": {
            split: summary(work.out, split, count, tokenizer.n_vocab)
            for split, count in zip(SPLITS, counts, strict=True)
        },
        "sources": sources,
    }


def _finish(out: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, which makes the folder a set, and remove what is not part of it."""
    made = {
        shard_path(out, split, number, kind)
        for split in SPLITS
        for number in range(len(manifest["splits"][split]["shards"]))
        for kind in KINDS
    }
    _clear(out, {out / PROGRESS, *made})
    write_whole(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    (out / PROGRESS).unlink()


def _run(
    work: Preparation, workers: int, progress: Callable[[PrepareProgress], None] | None
) -> Prepared:
    done, tokenizer = _begun(work)
    _limited(work, done)
    with accessing(work.out, "written"):
        counts = EncodingPass(work, done, tokenizer).run(workers, progress)
        manifest = _manifest(work, done, tokenizer, counts)
        _finish(work.out, manifest)
    prepared = _prepared(work, manifest, is_new=True)
    for line in prepared.read:
        log.info(line)
    return prepared


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
    checks.whole("seed", seed, 0, MAX_SEED)
    checks.whole("shard_tokens", shard_tokens, 1)
    checks.whole("workers", workers, 1)


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
    progress: Callable[[PrepareProgress], None] | None = None,
    **reading: Any,
) -> Prepared:
    """Make the folder `out` a set of token shards of texts: files, folders, patterns.

    tokenizer: GPT-2's by default. learn: learn one of this many tokens from `texts` first.
    characters: one token for each character of `texts` and `val`. held_out: the share of documents
    to validate on, drawn by their text and the seed; of two or more there is at least one on each
    side. val: texts to validate on; then nothing else is held out. shard_tokens: a shard ends with
    the document that reaches so many. workers: threads, one a core by default; they change
    nothing in what is written. force: replace what was prepared in `out` before. progress: called
    after each chunk of texts. reading: how files are read, the fields of `documents.Reading`.

    The log says what was read. Called again after an interruption, it continues; after it was done,
    it does nothing. Raises InputError for what cannot be read or does not fit, and Failure when the
    disk is full; what is done then stays for the next call.
    """
    if (tokenizer is not None) + (learn is not None) + characters > 1:
        raise InputError("tokenizer, learn, characters: give one of them; each names a vocabulary")
    workers = workers if workers is not None else os.cpu_count() or 1
    _check(held_out, seed, shard_tokens, workers)
    if tokenizer is None and learn is None and not characters:
        tokenizer = official()
    out, how, left_out = Path(out), read_by(tokenizer, characters, reading), Counter[str]()
    train = text_files(texts, leave_out=out, left=left_out)
    held = text_files(val, leave_out=out, left=left_out) if (val := list(val)) else []
    files = [("train" if held else DRAWN, file) for file in train] + [("val", f) for f in held]
    share = 0.0 if held else held_out
    work = Preparation(out, files, left_out, how, share, seed, shard_tokens, tokenizer, learn)
    with _alone(out):
        return _look(work, force) or _run(work, workers, progress)
