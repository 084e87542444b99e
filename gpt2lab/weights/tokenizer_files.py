"""Which tokenizer belongs to a checkpoint: files beside the weights, else the official one.

Vocabulary files are read by `gpt2lab.text.tokenizer`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.files.io import accessing
from gpt2lab.text.tokenizer import Tokenizer, official

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
FOREIGN = ("vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")


def has_files(folder: Path) -> bool:
    """Whether a folder holds a vocabulary that `Tokenizer.load` reads."""
    sets = (("tokenizer.json",), *PAIRS, ("vocab.bpe",), ("vocab.txt",))
    return any(all((folder / name).is_file() for name in names) for names in sets)


def vocabulary_notes(tokenizer: Tokenizer, config: Config) -> tuple[str, ...]:
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
    end = tokenizer.end_token if tokenizer is not None else None
    if tokenizer is None or (tokenizer is official() and config.end_tokens):
        return config, ()
    notes: tuple[str, ...] = ()
    if end is not None and end < config.n_vocab and end not in config.end_tokens:
        start = tokenizer.named("bos_token") if not config.end_tokens else None
        if config.start_token is None and start not in (None, end) and start < config.n_vocab:
            config = replace(config, start_token=start)
        name = f"the vocabulary's {tokenizer.pieces([end])[0]!r} ({end})"
        others = ", ".join(map(str, config.end_tokens))
        also = (
            f"beside {others} of the model's configuration"
            if others
            else ("for its configuration names no end token that it has")
        )
        notes = (f"{name} ends a text, {also}",)
        config = replace(config, end_tokens=(*config.end_tokens, end))
    before = tokenizer.before[:1]
    if before and before != [config.begin] and before[0] < config.n_vocab:
        config = replace(config, start_token=before[0])
    return config, notes


def ended(config: Config, tokenizer: Tokenizer | None) -> Config:
    """The configuration, its texts ended by the vocabulary's end token where the model has it."""
    end = tokenizer.end_token if tokenizer is not None else None
    if end is None or end >= config.n_vocab:
        return config
    return replace(config, end_tokens=(end,))


def beside(folder: Path, config: Config) -> tuple[Tokenizer | None, tuple[str, ...]]:
    """Return the tokenizer of the checkpoint in a folder, and notes about it.

    None when there is no vocabulary, or none that can be read: then the model takes and gives ids
    only.
    """
    if has_files(folder):
        try:
            with accessing(folder):
                tokenizer = Tokenizer.load(folder)
        except InputError as error:
            return None, (f"{error}; without a tokenizer the model takes token ids, not text",)
        return tokenizer, vocabulary_notes(tokenizer, config)
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
