"""Vocabularies in files: GPT-2's own two, those of Hugging Face, and tokenizer.json.

GPT-2's encoder.json with vocab.bpe, vocab.json with merges.txt and tokenizer.json all become one
dict in the form of a tokenizer.json, which `tokenizer_json` checks, and are written from it.

Sources: openai/gpt-2 `src/encoder.py` (the files); transformers 5
`models/bert/tokenization_bert.py` (vocab.txt: the pipeline, the names, what is put around a text).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt2lab.errors import InputError
from gpt2lab.files.io import accessing, damaged, parsing, read_text
from gpt2lab.files.json_files import parse_json, read_json
from gpt2lab.text.bpe import byte_symbols
from gpt2lab.text.tokenizer_config import (
    END_OF_TEXT,
    NAMED,
    Settings,
    Spec,
    completed,
    model_class,
    name_of,
    read,
    special_names,
)
from gpt2lab.text.tokenizer_json import bpe_spec, check_vocabulary_ids

BERT = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "SEP", "PAD", "CLS", "MASK")}

Read = tuple[Spec, Settings, list[str]]  # with the files beside it, and notes


def _merges(text: str) -> list[list[str]]:
    """The merges of a merges.txt or vocab.bpe in order, each as its pieces."""
    lines = text.replace("\r\n", "\n").split("\n")
    lines = lines[1:] if lines[0].startswith("#version") else lines
    return [line.split(" ") for line in lines if line]


def _official_vocab(merges: Iterable[Sequence[str]]) -> dict[str, int]:
    """OpenAI's encoder.json follows from the merges: byte symbols, merges in order, the end."""
    vocab = {symbol: token for token, symbol in enumerate(byte_symbols())}
    for merge in merges:
        vocab.setdefault("".join(merge), len(vocab))
    return {**vocab, END_OF_TEXT: len(vocab)}


def _leftover_specials(
    vocab: Mapping[str, int], merges: Iterable[Sequence[str]], settings: Settings, where: str
) -> dict[str, int]:
    """The entries that no text can reach and that are special tokens.

    Where files beside the vocabulary name the special tokens, those are all, with <|endoftext|>.
    Where there are none, names in brackets are taken for special. Any other entry left over means
    that the list of merges was cut off, which would give other ids without a word.
    """
    reached = {*byte_symbols(), *map("".join, merges)}
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
    merges, settings = _merges(read_text(merges_path)), read(vocab_path.parent)
    check_vocabulary_ids(vocab, where)
    specials = _leftover_specials(vocab, merges, settings, str(merges_path))
    spec, notes = completed(bpe_spec(vocab, merges, specials), settings, whole=False)
    added = {entry["id"] for entry in spec["added_tokens"]}  # one of them may fill a hole
    if missing := set(range(max(vocab.values(), default=0))) - {*vocab.values(), *added}:
        raise damaged(where, f"no entry has the id {min(missing)}")
    return spec, settings, notes


def _merges_only_spec(text: str) -> Read:
    """OpenAI's vocab.bpe on its own: its encoder.json can be derived."""
    merges = _merges(text)
    vocab = _official_vocab(merges)
    return bpe_spec(vocab, merges, {END_OF_TEXT: vocab[END_OF_TEXT]}), {}, []


def _bert_spec(text: str, settings: Settings) -> Spec:
    """The pipeline of BertTokenizer; one token a line, whose number from 0 is its id."""
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": settings.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": name_of(settings["unk_token"]),
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {line: token for token, line in enumerate(lines)},
        },
    }


def _wordpiece_spec(path: Path, text: str) -> Read:
    """vocab.txt, which many Chinese GPT-2 models come with; `tokenizers_library` reads it."""
    own = {"tokenizer_class": model_class(path.parent)} | read(path.parent)
    notes = []
    if not str(own["tokenizer_class"]).startswith("BertTokenizer"):
        own["tokenizer_class"] = "BertTokenizer"
        notes = ["vocab.txt is read as transformers' BertTokenizer does, which no file names"]
    named = {key: value for key, value in own.items() if key not in BERT or name_of(value)}
    settings = {**BERT, **named}
    spec = _bert_spec(text, settings)
    if spec["model"]["unk_token"] not in spec["model"]["vocab"]:
        raise InputError(
            f"{path}: no line is {spec['model']['unk_token']!r}, so it is no WordPiece vocabulary; "
            "pass token ids"
        )
    spec, more = completed(spec, settings, whole=False)
    ids = {entry["content"]: entry["id"] for entry in spec["added_tokens"]}
    around = {key: name_of(settings[f"{key}_token"]) or "" for key in ("sep", "cls")}
    around_ids = {key: [name, ids[name]] for key, name in around.items()}
    spec["post_processor"] = {"type": "BertProcessing", **around_ids}
    return spec, settings, notes + more


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
    spec, notes = completed(spec, settings, whole=True)
    return spec, settings, notes


def _file_spec(path: Path) -> Read:
    """One file, by its content: a tokenizer.json, a vocabulary, or a list of merges."""
    text = read_text(path)
    if text.lstrip().startswith("{"):
        value = parse_json(text, str(path))
        if "model" in value and not isinstance(value["model"], int):
            return _whole_spec(path, value)
        return _two_files_spec(path, _sibling(path, MERGES_NAMES))
    if path.name == "vocab.txt":
        return _wordpiece_spec(path, text)
    alone = not any(path.with_name(name).is_file() for name in VOCAB_NAMES)
    if alone and text.startswith("#version") and path.name != "merges.txt":
        return _merges_only_spec(text)  # under that other name the ids may be anything
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
    with accessing(path), parsing(path, "a whole vocabulary"):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give a folder with a tokenizer.json")
        return _folder_spec(path) if path.is_dir() else _file_spec(path)


# --- to disk ---


def _older_files(spec: Spec, settings: Settings) -> dict[str, Any]:
    """The JSON files that say the same as tokenizer.json, for readers that want them."""
    vocab, added = spec["model"]["vocab"], spec["added_tokens"]
    special = {entry["content"]: entry["id"] for entry in added if entry["special"]}
    named = {key: settings[key] for key in NAMED if key in settings}
    known = {END_OF_TEXT, *map(name_of, named.values())}
    others = [name for name in special if name not in known]
    more = {"additional_special_tokens": others} if others else {}
    own = [entry for entry in added if not entry["special"] and entry["content"] not in vocab]
    files = {
        "vocab.json": {**vocab, **special},
        "special_tokens_map.json": {**named, **more},
        "added_tokens.json": {entry["content"]: entry["id"] for entry in own},
    }
    return {name: value for name, value in files.items() if value}


def _config(settings: Settings, has_end: bool) -> dict[str, Any]:
    """What transformers needs to read tokenizer.json and change nothing about it."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    if has_end and "eos_token" not in settings:
        config |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    return {**config, **settings}


def texts_of(spec: Spec, settings: Settings, *, byte_level: bool, has_end: bool) -> dict[str, str]:
    """The Hugging Face layout of a vocabulary, by file name.

    byte_level: the older files are among them, for the same is in them. has_end: one of its special
    tokens ends a text.
    """
    files = {"tokenizer.json": spec, "tokenizer_config.json": _config(settings, has_end)}
    files |= _older_files(spec, settings) if byte_level else {}
    texts = {name: json.dumps(value, ensure_ascii=False) + "\n" for name, value in files.items()}
    if byte_level:
        lines = ["#version: 0.2", *map(" ".join, spec["model"]["merges"])]
        texts["merges.txt"] = "\n".join(lines) + "\n"
    return texts
