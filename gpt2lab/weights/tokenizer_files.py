"""Which tokenizer belongs to a checkpoint: files beside the weights, else the official one.

Vocabulary files are read by `gpt2lab.text.tokenizer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.files.io import accessing
from gpt2lab.text.tokenizer import Tokenizer, is_official, official

OFFICIAL = 50257
PADDED = 50304  # the next multiple of 64 and of 128, to which trainers round it up
FILES = (  # every file that a vocabulary may be read from
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
IDS_ONLY = "the model takes token ids, not text"
FOREIGN = ("vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")


def has_files(folder: Path) -> bool:
    """Whether a folder holds a vocabulary that `Tokenizer.load` reads."""
    sets = (("tokenizer.json",), *PAIRS, ("vocab.bpe",), ("vocab.txt",))
    return any(all((folder / name).is_file() for name in names) for names in sets)


def _notes(tokenizer: Tokenizer, config: Config) -> tuple[str, ...]:
    """Return notes on a vocabulary with this model.

    Fewer ids than the model has are fine, the rest is padding; more of them are never generated,
    and a text that needs one is refused.
    """
    notes = list(tokenizer.notes)
    if tokenizer.n_vocab > config.n_vocab:
        notes.append(
            f"the vocabulary has {tokenizer.n_vocab} tokens, the model {config.n_vocab}; ids from "
            f"{config.n_vocab} on are never generated, and a text that needs one is refused"
        )
    if tokenizer.after:
        names = "".join(tokenizer.pieces(tokenizer.after))
        notes.append(f"the vocabulary puts {names!r} after every prompt, as in transformers")
    most = tokenizer.settings.get("model_max_length")
    if isinstance(most, int | float) and 0 < most < config.n_ctx:
        notes.append(
            f"tokenizer_config.json says model_max_length {most:g}, the model takes {config.n_ctx} "
            "tokens; transformers only warns, and no text is cut here"
        )
    return tuple(notes)


def marked(config: Config, tokenizer: Tokenizer | None) -> tuple[Config, tuple[str, ...]]:
    """The configuration, where documents begin and end also as the vocabulary has it.

    A config.json is often another model's: its end tokens may be no token here, or one that never
    comes, and then <|endoftext|> would be printed for ever. So the vocabulary's ends a text too.
    """
    if tokenizer is None or (is_official(tokenizer) and config.end_tokens):
        return config, ()
    end, ends, start = tokenizer.end_token, config.end_tokens, config.start_token
    notes: tuple[str, ...] = ()
    if end is not None and end < config.n_vocab and end not in ends:
        also = "for its configuration names no end token that it has"
        if ends:
            also = f"beside {', '.join(map(str, ends))} of the model's configuration"
        name = f"the vocabulary's {tokenizer.pieces([end])[0]!r} ({end})"
        notes = (f"{name} ends a text, {also}",)
        named = None if ends or start is not None else tokenizer.named("bos_token")
        start = start if named in (None, end) or named >= config.n_vocab else named
        config = replace(config, end_tokens=(*ends, end), start_token=start)
    before = tokenizer.before[:1]
    if before and before != [config.begin] and before[0] < config.n_vocab:
        config = replace(config, start_token=before[0])
    return config, notes


def noted(
    read: Callable[[Path], Tokenizer], path: Path, config: Config
) -> tuple[Tokenizer | None, tuple[str, ...]]:
    """Read a vocabulary, with notes about it; None for one that cannot be read."""
    try:
        with accessing(path):
            tokenizer = read(path)
    except InputError as error:
        return None, (f"{error}; without a tokenizer {IDS_ONLY}",)
    return tokenizer, _notes(tokenizer, config)


def beside(folder: Path, config: Config) -> tuple[Tokenizer | None, tuple[str, ...]]:
    """Return the tokenizer of the checkpoint in a folder, and notes about it.

    None when there is no vocabulary, or none that can be read: then the model takes and gives ids
    only.
    """
    if has_files(folder):
        return noted(Tokenizer.load, folder, config)
    strange = next((name for name in FOREIGN if (folder / name).is_file()), None)
    if strange:
        return None, (f"{strange} alone is no byte-level vocabulary; {IDS_ONLY}",)
    if OFFICIAL <= config.n_vocab <= PADDED:
        return official(), ("no vocabulary beside the weights; GPT-2's own is used",)
    return None, (f"no vocabulary of {config.n_vocab} tokens beside the weights; {IDS_ONLY}",)
