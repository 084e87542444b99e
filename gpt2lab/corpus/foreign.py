"""Token files of other programs: nanoGPT, llm.c and gpt-2-simple.

They carry no vocabulary and no hash, so every id is compared with the vocabulary beside them.

Sources: karpathy/nanoGPT `data/*/prepare.py`; karpathy/llm.c `dev/data/data_common.py`;
minimaxir/gpt-2-simple `load_dataset.py`.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from gpt2lab.corpus.manifest import advise_random
from gpt2lab.corpus.token_set import (
    Tokens,
    TokenSet,
    check_range,
    check_vocabulary,
    document_ends,
    vocabulary_hash,
)
from gpt2lab.errors import InputError
from gpt2lab.files import file_facts
from gpt2lab.files.io import accessing, file_sha256, identity, map_bytes, parsing
from gpt2lab.files.torchfile import read_plain
from gpt2lab.files.visible import reason
from gpt2lab.text.tokenizer import Tokenizer, official
from gpt2lab.weights.tokenizer_files import has_files

LLMC_MAGIC, LLMC_HEADER = 20240520, 1024


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
    meta = path.with_name("meta.pkl")
    if meta.is_file():
        n_vocab, own = _characters(meta)
    elif has_files(path.parent):
        own = Tokenizer.load(path.parent)
        n_vocab = own.n_vocab
    else:
        tokenizer = tokenizer or official()
        return tokenizer.n_vocab, tokenizer
    if own is not None and tokenizer is not None:
        check_vocabulary(path, vocabulary_hash(own), tokenizer, "the one given")
    return n_vocab, own or tokenizer


def _bin_ids(path: Path) -> np.ndarray:
    """Map the ids of nanoGPT's raw uint16, or of llm.c's, which has a header."""
    raw = map_bytes(path)
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


def _checked_sha256(path: Path, ids: np.ndarray, n_vocab: int) -> str:
    """Check the ids of a file and return its sha256; of a large one both are remembered."""
    files, what = [identity(path)], f"ids below {n_vocab}, sha256"
    known = file_facts.recall(files, what)
    if not isinstance(known, str):
        check_range(str(path), ids, n_vocab)
        known = file_sha256(path)
        file_facts.remember(files, what, known)
    return known


def bin_set(path: Path, name: str, tokenizer: Tokenizer | None) -> TokenSet:
    """Open a .bin of nanoGPT or llm.c. tokenizer: the vocabulary that is wanted."""
    n_vocab, vocabulary = _foreign_vocabulary(path, tokenizer)
    end_token = vocabulary.end_token if vocabulary else None
    ids, tokens = _bin_ids(path), Tokens([advise_random(_bin_ids(path))])
    made = f"{_checked_sha256(path, ids, n_vocab)} {n_vocab} {end_token}"
    fingerprint = hashlib.sha256(made.encode()).hexdigest()
    ends = partial(document_ends, ids, end_token)
    return TokenSet(name, tokens, ends, n_vocab, end_token, vocabulary, fingerprint)


def _npz_arrays(path: Path) -> list[np.ndarray]:
    """The arrays of an .npz in the order of their numbers; no pickle is read."""
    what = "a whole .npz of numbers, as gpt-2-simple makes it"
    with accessing(path), parsing(path, what), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        names = sorted(archive.files, key=lambda name: (len(name), name))
        arrays = [np.asarray(archive[name]) for name in names]
        for name, array in zip(names, arrays, strict=True):
            if array.ndim != 1 or array.dtype.kind not in "ui":
                kind = f"{array.dtype} {list(array.shape)}"
                raise ValueError(f"{name} is {kind}, expected one row of token ids")
        if not sum(map(len, arrays)):
            raise ValueError("it holds no tokens")
    return arrays


def npz_set(path: Path, name: str, tokenizer: Tokenizer | None) -> TokenSet:
    """The chunks of gpt-2-simple: each is a document, unless end tokens part it into several."""
    n_vocab, vocabulary = _foreign_vocabulary(path, tokenizer)
    end_token = vocabulary.end_token if vocabulary else None
    arrays = _npz_arrays(path)
    starts = np.cumsum([0, *map(len, arrays)])[:-1]
    ends = [document_ends(a, end_token) + start for a, start in zip(arrays, starts, strict=True)]
    return TokenSet.of(
        name, np.concatenate(arrays), np.concatenate(ends), n_vocab=n_vocab, end_token=end_token,
        tokenizer=vocabulary,
    )  # fmt: skip
