"""Token sets of any kind, recognised by their content."""

from __future__ import annotations

from pathlib import Path

from gpt2lab.corpus.foreign import bin_set, npz_set
from gpt2lab.corpus.manifest import MANIFEST, prepared_set, split_name
from gpt2lab.corpus.prepare_log import PROGRESS
from gpt2lab.corpus.token_set import SPLITS, TokenSet
from gpt2lab.errors import InputError
from gpt2lab.files.io import accessing, read_head
from gpt2lab.text.tokenizer import Tokenizer


def _set_in_folder(path: Path, split: str, tokenizer: Tokenizer | None) -> TokenSet | None:
    if (path / MANIFEST).is_file():
        return prepared_set(path, split, tokenizer)
    if (path / PROGRESS).is_file():
        raise InputError(
            f"{path}: not finished by gpt2lab prepare; run the same command again to continue it"
        )
    if any(path.glob("*.tokens*")):
        raise InputError(
            f"{path}: holds token files but no {MANIFEST}, without which they cannot be checked; "
            "copy the whole folder that gpt2lab prepare made, or prepare the texts again"
        )
    if (path / "train.bin").is_file():
        file = path / f"{split}.bin"
        return bin_set(file, split_name(path, split), tokenizer) if file.is_file() else None
    return None


def open_set(
    path: Path | str, split: str = "train", tokenizer: Tokenizer | None = None
) -> TokenSet | None:
    """Open the tokens at `path`, recognised by their content; None when it is no set of tokens.

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
    if path.suffix == ".npy" and (path.parent / MANIFEST).is_file():
        raise InputError(f"{path}: one shard of a set; give its folder {path.parent}")
    if split != "train" or not path.is_file():
        return None
    # Raw ids have no mark of their own: here the name has to say it.
    if path.suffix == ".bin":
        return bin_set(path, str(path), tokenizer)
    if path.suffix == ".npz" and read_head(path, 2) == b"PK":
        return npz_set(path, str(path), tokenizer)
    return None
