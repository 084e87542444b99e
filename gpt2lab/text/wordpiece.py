"""vocab.txt: the WordPiece vocabulary of BERT, which many Chinese GPT-2 models come with.

It becomes a tokenizer.json, which `tokenizers_library` then reads.

Source: transformers 5 `models/bert/tokenization_bert.py` (the pipeline, the names, what is put
around a text).
"""

from __future__ import annotations

from pathlib import Path

from gpt2lab.errors import InputError
from gpt2lab.text.tokenizer_config import Settings, Spec, completed, model_class, name_of, read

NAMES = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "SEP", "PAD", "CLS", "MASK")}


def _spec(text: str, settings: Settings) -> Spec:
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


def load(path: Path, text: str) -> tuple[Spec, Settings, list[str]]:
    """The vocabulary as a tokenizer.json, the settings beside it, and notes."""
    own = {"tokenizer_class": model_class(path.parent)} | read(path.parent)
    notes = []
    if not str(own["tokenizer_class"]).startswith("BertTokenizer"):
        own["tokenizer_class"] = "BertTokenizer"
        notes = ["vocab.txt is read as transformers' BertTokenizer does, which no file names"]
    named = {key: value for key, value in own.items() if key not in NAMES or name_of(value)}
    settings = {**NAMES, **named}
    spec = _spec(text, settings)
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
