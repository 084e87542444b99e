"""Which tokenizer belongs to a checkpoint: files beside the weights, else the official one.

How vocabulary files are read is told in `gpt2lab.tokenizer`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.files import accessing
from gpt2lab.tokenizer import Tokenizer, official

OFFICIAL = 50257
PADDED = 50304  # the next multiple of 64 and of 128, to which trainers round it up
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
FOREIGN = ("vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")


def has_files(folder: Path) -> bool:
    """Whether a folder holds a vocabulary that `Tokenizer.load` reads."""
    sets = (("tokenizer.json",), *PAIRS, ("vocab.bpe",))
    return any(all((folder / name).is_file() for name in names) for names in sets)


def fitting(tokenizer: Tokenizer, config: Config, where: Path) -> Tokenizer:
    """The tokenizer, if the model knows every id of it; fewer ids are fine, the rest is padding."""
    if tokenizer.n_vocab > config.n_vocab:
        raise InputError(
            f"{where}: the vocabulary does not fit: it has {tokenizer.n_vocab} tokens, the model "
            f"{config.n_vocab}; put the model's own vocabulary beside its weights"
        )
    return tokenizer


def ended(config: Config, tokenizer: Tokenizer | None) -> Config:
    """The configuration, its texts ended by <|endoftext|> where the vocabulary has that token."""
    if tokenizer is None or tokenizer.end_token is None:
        return config
    return replace(config, end_tokens=(tokenizer.end_token,))


def beside(folder: Path, config: Config) -> tuple[Tokenizer | None, tuple[str, ...]]:
    """The tokenizer of the checkpoint in a folder, and what to say about it.

    None when there is no vocabulary: then the model takes and gives ids only.
    """
    if has_files(folder):
        with accessing(folder):
            return fitting(Tokenizer.load(folder), config, folder), ()
    strange = [name for name in FOREIGN if (folder / name).is_file()]
    if strange:
        return None, (
            f"{strange[0]} alone is no byte-level vocabulary; the model takes token ids, not text",
        )
    if OFFICIAL <= config.n_vocab <= PADDED:
        return official(), ("no vocabulary beside the weights; GPT-2's own is used",)
    return None, (
        f"no vocabulary of {config.n_vocab} tokens beside the weights; "
        "the model takes token ids, not text",
    )
