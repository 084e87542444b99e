"""Vocabularies in files: GPT-2's own two, those of Hugging Face, and tokenizer.json.

GPT-2's encoder.json with vocab.bpe, vocab.json with merges.txt and tokenizer.json all become one
dict in the form of a tokenizer.json (`tokenizer_json`). Encoding and decoding are `tokenizer`.

Source: openai/gpt-2 `src/encoder.py` (the files).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gpt2lab.errors import InputError
from gpt2lab.files.io import read_text
from gpt2lab.files.json_files import parse_json, read_json
from gpt2lab.text import wordpiece
from gpt2lab.text.tokenizer_config import (
    END_OF_TEXT,
    Settings,
    completed,
    model_class,
    read,
    special_names,
)
from gpt2lab.text.tokenizer_json import Spec, bpe_spec, byte_symbols, check_ids, check_merges

Read = tuple[Spec, Settings, list[str]]  # with the files beside it, and notes


def _parse_merges(path: Path, text: str) -> tuple[list[tuple[str, str]], int]:
    """The merges in order, and the number of the line on which the first one stands."""
    lines = text.removeprefix("\ufeff").split("\n")
    first = 1 if lines[0].startswith("#version") else 0
    lines = [line.removesuffix("\r") for line in lines]
    while len(lines) > first and not lines[-1]:
        lines.pop()
    merges = []
    for number, line in enumerate(lines[first:], first + 1):
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise InputError(
                f"{path}: line {number} is {line[:40]!r}, a merge is two pieces with one space "
                "between; the file is cut off or damaged"
            )
        merges.append((left, right))
    return merges, first + 1


def _check_no_holes(vocab: Mapping[str, int], added: Mapping[str, int], where: str) -> None:
    """Every id up to the vocabulary's highest has an entry; an added token may fill a hole."""
    highest = max(vocab.values(), default=0)
    missing = sorted(set(range(highest + 1)) - {*vocab.values(), *added.values()})
    if missing:
        raise InputError(
            f"{where}: no entry has the id {missing[0]} ({len(vocab)} entries, highest id "
            f"{highest}); ids must run without holes, the file is cut off or damaged"
        )


def official_vocab(merges: Iterable[tuple[str, str]]) -> dict[str, int]:
    """OpenAI's encoder.json follows from the merges: byte symbols, merges in order, the end."""
    vocab = {symbol: token for token, symbol in enumerate(byte_symbols())}
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    vocab[END_OF_TEXT] = len(vocab)
    return vocab


def _leftover_specials(
    vocab: Mapping[str, int], merges: Iterable[tuple[str, str]], settings: Settings, where: str
) -> dict[str, int]:
    """The entries that no text can reach and that are special tokens.

    Where files beside the vocabulary name the special tokens, those are all, with <|endoftext|>.
    Where there are none, names in brackets are taken for special. Any other entry left over means
    that the list of merges was cut off, which would give other ids without a word.
    """
    reached = {*byte_symbols(), *(left + right for left, right in merges)}
    left_over = {name: token for name, token in vocab.items() if name not in reached}
    declared = special_names(settings) | {END_OF_TEXT}
    for name, token in left_over.items():
        if name not in declared and (name[0] + name[-1]) not in ("<>", "[]"):
            raise InputError(
                f"{where}: no merge makes {name!r} (id {token}); the merges are cut off, or it is "
                "a special token and special_tokens_map.json must name it"
            )
    return {n: token for n, token in left_over.items() if n in declared or not settings}


def _two_files_spec(vocab_path: Path, merges_path: Path) -> Read:
    """vocab.json or encoder.json with merges.txt or vocab.bpe, and the files beside them."""
    vocab, where = read_json(vocab_path), str(vocab_path)
    merges, first = _parse_merges(merges_path, read_text(merges_path))
    settings = read(vocab_path.parent)
    check_ids(vocab, where)
    check_merges(vocab, merges, f"{merges_path}: line", first)
    specials = _leftover_specials(vocab, merges, settings, str(merges_path))
    spec, notes = completed(bpe_spec(vocab, merges, specials), settings, where, whole=False)
    added = {entry["content"]: entry["id"] for entry in spec["added_tokens"]}
    check_ids({**vocab, **added}, where)
    _check_no_holes(vocab, added, where)
    return spec, settings, notes


def _merges_only_spec(path: Path, text: str) -> Read:
    """OpenAI's vocab.bpe on its own: its encoder.json can be derived."""
    merges, first = _parse_merges(path, text)
    if not merges:
        raise InputError(f"{path}: holds no merges; expected a vocabulary file")
    vocab = official_vocab(merges)
    check_merges(vocab, merges, f"{path}: line", first)
    return bpe_spec(vocab, merges, {END_OF_TEXT: vocab[END_OF_TEXT]}), {}, []


def _sibling(path: Path, names: Sequence[str]) -> Path:
    for name in names:
        if path.with_name(name).is_file():
            return path.with_name(name)
    raise InputError(f"{path}: needs {' or '.join(names)} beside it")


VOCAB_NAMES = ("vocab.json", "encoder.json")
MERGES_NAMES = ("merges.txt", "vocab.bpe")


def _whole_spec(path: Path, spec: Spec) -> Read:
    """A tokenizer.json, with what the files beside it say."""
    settings = {"tokenizer_class": model_class(path.parent)} | read(path.parent)
    spec, notes = completed(spec, settings, str(path), whole=True)
    return spec, settings, notes


def _file_spec(path: Path) -> Read:
    """One file, by its content: a tokenizer.json, a vocabulary, or a list of merges."""
    text = read_text(path)
    if text.lstrip("\ufeff \t\r\n").startswith("{"):
        value = parse_json(text, str(path))
        if "model" in value and not isinstance(value["model"], int):
            return _whole_spec(path, value)
        return _two_files_spec(path, _sibling(path, MERGES_NAMES))
    if path.name == "vocab.txt":
        return wordpiece.load(path, text)
    alone = not any(path.with_name(name).is_file() for name in VOCAB_NAMES)
    if alone and text.startswith("#version") and path.name != "merges.txt":
        return _merges_only_spec(path, text)  # under that other name the ids may be anything
    return _two_files_spec(_sibling(path, VOCAB_NAMES), path)


def _folder_spec(folder: Path) -> Read:
    if (folder / "tokenizer.json").is_file():
        return _whole_spec(folder / "tokenizer.json", read_json(folder / "tokenizer.json"))
    for name in VOCAB_NAMES:
        if (folder / name).is_file():
            return _two_files_spec(folder / name, _sibling(folder / name, MERGES_NAMES))
    for name in ("vocab.bpe", "vocab.txt"):
        if (folder / name).is_file():
            return _file_spec(folder / name)
    raise InputError(
        f"{folder}: holds no vocabulary; expected tokenizer.json, or vocab.json with merges.txt, "
        "or encoder.json with vocab.bpe"
    )


def load_spec(path: Path) -> Read:
    """A folder or a file as a tokenizer.json, the settings beside it, and what to say about them.

    The format is recognised by the content.
    """
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give a folder with a tokenizer.json")
        return _folder_spec(path) if path.is_dir() else _file_spec(path)
    except OSError as error:  # a folder that may not be entered, a name with a null character
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
