"""The manifest of a prepared set: what each shard holds, and the set that its shards make.

A folder that `prepare` made holds the shards of its two splits, the vocabulary and `manifest.json`,
which is written last and makes the folder a set. Sizes and hashes are compared when it is opened.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.corpus.shard_file import ENDS, KINDS, read_row, shard_path, token_dtype
from gpt2lab.corpus.token_set import PART, Tokens, TokenSet, check_vocabulary
from gpt2lab.errors import InputError, quoted
from gpt2lab.files import file_facts
from gpt2lab.files.io import file_sha256, identity, in_parts
from gpt2lab.files.json_files import checked_keys, read_json
from gpt2lab.text.tokenizer import Tokenizer

MANIFEST, FORMAT, VERSION = "manifest.json", "gpt2lab token shards", 2
#: What the manifest says of a shard; highest is the largest id in it, -1 for none.
_SHARD: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("tokens", "documents", "highest"), (int,)),
    **dict.fromkeys(("tokens_sha256", "ends_sha256"), (str,)),
}


def summary(folder: Path, split: str, count: int, n_vocab: int) -> dict[str, Any]:
    """Describe a split of `count` shards, with a sha256 of ids and ends that no cut changes."""
    content, shards, ends, total = hashlib.sha256(), [], [], 0
    for number in range(count):
        paths = [shard_path(folder, split, number, kind) for kind in KINDS]
        ids, last = read_row(paths[0], token_dtype(n_vocab)), read_row(paths[1], ENDS)
        highest = -1
        for part in in_parts(ids, PART):
            content.update(part.data)
            highest = max(highest, int(part.max()))
        values = (len(ids), len(last), highest, *map(file_sha256, paths))
        shards.append(dict(zip(_SHARD, values, strict=True)))
        ends.append(last + total)
        total += len(ids)
    for row in ends:
        content.update(row.tobytes())
    return {
        "tokens": total,
        "documents": sum(map(len, ends)),
        "sha256": content.hexdigest(),
        "shards": shards,
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder that `prepare` made; InputError for one of another kind."""
    path = folder / MANIFEST
    manifest = read_json(path)
    made = manifest.get("format"), manifest.get("version")
    if made == (FORMAT, 1):
        raise InputError(
            f"{folder}: was prepared by an earlier version of gpt2lab, whose token files are not "
            f"read any more; prepare the texts again: gpt2lab prepare TEXT --out {folder} --force"
        )
    if made != (FORMAT, VERSION):
        raise InputError(
            f"{path}: format {quoted(made[0])}, version {quoted(made[1])}; expected {FORMAT!r}, "
            f"{VERSION}; it is from a newer package or of another program"
        )
    return manifest


def _check_hashes(wanted: Mapping[Path, str]) -> None:
    """Compare files with the manifest's sha256; that of large files is remembered."""
    files, hashes = [identity(path) for path in wanted], list(wanted.values())
    if file_facts.recall(files, "sha256") == hashes:
        return
    for path, sha256 in wanted.items():
        if (found := file_sha256(path)) != sha256:
            raise InputError(
                f"{path}: its sha256 is {found}, the manifest says {sha256}; it was changed or "
                "damaged, copy it or prepare the texts again"
            )
    file_facts.remember(files, "sha256", hashes)


def advise_random(array: np.ndarray) -> np.ndarray:
    """Prepare a mapped array for reading here and there, without reading ahead.

    A batch of a set larger than memory took 90 ms of reading ahead for 12 rows of 64 tokens.
    """
    memory: Any = array
    while isinstance(memory, np.ndarray):
        memory = memory.base
    if hasattr(mmap, "MADV_RANDOM") and isinstance(memory, mmap.mmap):
        with suppress(OSError, ValueError):
            memory.madvise(mmap.MADV_RANDOM)
    return array


def split_name(path: Path, split: str) -> str:
    """Name a split of a source for people."""
    return str(path) if split == "train" else f"{path} ({split})"


def _open_shards(
    folder: Path, split: str, shards: Sequence[dict[str, Any]], n_vocab: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Map the ids and the ends of all shards, after comparing them with the manifest."""
    files: dict[Path, str] = {}
    ids, ends = [], []
    for number, shard in enumerate(shards):
        tokens_path, ends_path = (shard_path(folder, split, number, kind) for kind in KINDS)
        ids.append(advise_random(read_row(tokens_path, token_dtype(n_vocab), shard["tokens"])))
        ends.append(read_row(ends_path, ENDS, shard["documents"]))
        if shard["highest"] >= n_vocab:
            raise InputError(
                f"{tokens_path}: its highest id is {shard['highest']}, that of the vocabulary "
                f"{n_vocab - 1}; prepare the texts again"
            )
        files |= {tokens_path: shard["tokens_sha256"], ends_path: shard["ends_sha256"]}
    _check_hashes(files)
    return ids, ends


def prepared_set(folder: Path, split: str, tokenizer: Tokenizer | None) -> TokenSet | None:
    """Open a split of a prepared set; None where it has no documents.

    tokenizer: the vocabulary that is wanted. Raises InputError for another vocabulary and for
    files that are not what the manifest says.
    """
    manifest, where = read_manifest(folder), str(folder / MANIFEST)
    checked_keys(manifest, where, {"splits": (dict,), "vocabulary": (dict,)})
    stated = checked_keys(manifest["vocabulary"], where, {"n_vocab": (int,), "sha256": (str,)})
    n_vocab, vocabulary = stated["n_vocab"], stated["sha256"]
    entry = manifest["splits"].get(split)
    kinds = {"shards": (list,), "sha256": (str,)}
    shards = checked_keys(entry, f"{where}: {split}", kinds)["shards"]
    for shard in shards:
        checked_keys(shard, f"{where}: {split}'s shard", _SHARD)
    own = Tokenizer.load(folder)
    check_vocabulary(folder, vocabulary, own, "the one beside it")
    if tokenizer is not None:
        check_vocabulary(folder, vocabulary, tokenizer, "the one given")
    if not shards:
        return None
    ids, ends = _open_shards(folder, split, shards, n_vocab)

    def all_ends() -> np.ndarray:
        starts = np.cumsum([0, *map(len, ids)])[:-1]
        return np.concatenate([row + start for row, start in zip(ends, starts, strict=True)])

    fingerprint = hashlib.sha256(f"{vocabulary} {entry['sha256']}".encode()).hexdigest()
    name = split_name(folder, split)
    return TokenSet(name, Tokens(ids), all_ends, n_vocab, own.end_token, own, fingerprint)
