"""The form that every vocabulary is brought to: the contents of a tokenizer.json, checked.

It is what the fast library takes and what `Tokenizer.save` writes. Every promise that the encoder
relies on is checked here; `vocabulary` reads the files.

Sources: openai/gpt-2 `src/encoder.py` (the byte symbols); the Hugging Face tokenizers documentation
(the fields of tokenizer.json).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

from gpt2lab.errors import InputError
from gpt2lab.text.tokenizer_config import FLAGS, added_token

MAX_ID = 2**24 - 1  # no vocabulary comes near; a damaged id must not allocate gigabytes
CHARACTER_DECODER = {"type": "Fuse"}

Spec = dict[str, Any]  # the contents of a tokenizer.json


def byte_symbols() -> list[str]:
    """The 256 characters that stand for the bytes, in the order of the official vocabulary.

    Printable Latin-1 characters stand for themselves; the other 68 bytes get the characters from
    U+0100 up, so that no symbol is a space or a control character (`bytes_to_unicode`).
    """
    return list(symbol_of_byte().values())


@lru_cache(maxsize=1)
def symbol_of_byte() -> dict[int, str]:
    """The character that stands for each byte, in the order of `byte_symbols`."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable}
    symbols |= {byte: chr(256 + n) for n, byte in enumerate(rest)}
    return symbols


@lru_cache(maxsize=1)
def byte_of_symbol() -> dict[str, int]:
    return {symbol: byte for byte, symbol in symbol_of_byte().items()}


def symbols_to_bytes(name: str) -> bytes:
    """The bytes behind a byte-level token; a name outside the 256 symbols stands for itself."""
    byte_of = byte_of_symbol()
    try:
        return bytes([byte_of[symbol] for symbol in name])
    except KeyError:
        return name.encode("utf-8", "replace")


def check_merges(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], where: str, first: int
) -> None:
    """Every merge joins two known pieces into a known one; `first` is the number of the first."""
    if all(map(vocab.__contains__, chain(chain.from_iterable(merges), map("".join, merges)))):
        return  # 50,000 merges in a fifth of the loop's time, and the loop finds out which
    for number, (left, right) in enumerate(merges, first):
        for piece in (left, right, left + right):
            if piece not in vocab:
                raise InputError(
                    f"{where} {number} joins {left!r} and {right!r}, but {piece!r} is not in the "
                    "vocabulary; the two do not belong together or one is cut off"
                )


def _are_sound(vocab: Mapping[Any, Any]) -> bool:
    """Whether `check_ids` would find nothing, told without a loop over the entries."""
    ids = vocab.values()
    if "" in vocab or set(map(type, vocab)) != {str} or set(map(type, ids)) != {int}:
        return False
    return len(set(ids)) == len(vocab) and min(ids) >= 0 and max(ids) <= MAX_ID


def check_ids(vocab: Mapping[Any, Any], where: str) -> None:
    """Names are text, ids are whole numbers in range, and no two names share one."""
    if _are_sound(vocab):
        return
    names: dict[int, str] = {}
    for name, token in vocab.items():
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}: the entry {name!r} is not a name; names are non-empty text")
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token <= MAX_ID:
            raise InputError(
                f"{where}: {name!r} has the id {token!r}, ids are integers from 0 to {MAX_ID}"
            )
        if token in names:
            raise InputError(
                f"{where}: {names[token]!r} and {name!r} both have the id {token}; ids are unique"
            )
        names[token] = name


def _check_no_surrogates(vocab: Mapping[str, int], where: str) -> None:
    """JSON can spell half a surrogate pair, which no file and no text can hold."""
    try:
        "".join(vocab).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise InputError(
            f"{where}: an entry holds U+{code:04X}, half of a surrogate pair; the file is damaged"
        ) from None


def bpe_spec(
    vocab: Mapping[str, int],
    merges: Iterable[tuple[str, str]],
    special_tokens: Mapping[str, int],
) -> Spec:
    """GPT-2's pipeline as a tokenizer.json. The special tokens are in the vocabulary too."""
    for name, token in special_tokens.items():
        if vocab.get(name, token) != token:
            raise InputError(
                f"special_tokens: {name!r} has the id {token} and, in the vocabulary, "
                f"{vocab[name]}; choose another name"
            )
    by_id = sorted(special_tokens.items(), key=lambda item: item[1])
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    byte_level["use_regex"] = True
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(name, token, True) for name, token in by_id],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {**byte_level, "trim_offsets": False},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {**vocab, **special_tokens},
            "merges": [list(pair) for pair in merges],
        },
    }


def characters_spec(alphabet: Sequence[str], special_tokens: Sequence[str]) -> Spec:
    """Characters are BPE without merges, and `Fuse` joins them without spaces between."""
    vocab = {name: token for token, name in enumerate([*alphabet, *special_tokens])}
    spec = bpe_spec(vocab, (), {name: vocab[name] for name in special_tokens})
    return {**spec, "pre_tokenizer": None, "post_processor": None, "decoder": CHARACTER_DECODER}


def _checked_added(entry: Any, where: str) -> dict[str, Any]:
    """One entry of `added_tokens` with every field present, as the fast library wants it."""
    if not (isinstance(entry, dict) and isinstance(entry.get("content"), str) and "id" in entry):
        raise InputError(f"{where}: an added token needs content and id, this is {entry!r:.80}")
    return {**added_token("", 0, False), **entry}


def _checked_model(model: Any, where: str) -> dict[str, Any]:
    """The model part of a BPE, merges as pairs; only what gives the same ids each time."""
    if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise InputError(f"{where}: its BPE model lacks vocab or merges; the file is damaged")
    if model.get("dropout"):
        raise InputError(
            f"{where}: dropout is {model['dropout']}, so that ids would be random; set it to null"
        )
    return {**model, "type": "BPE", "merges": _pairs(model["merges"], where)}


def _pairs(merges: list[Any], where: str) -> list[list[str]]:
    """Merges, each two pieces or a text with one space between them, as pairs."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    are_pairs = set(map(type, pairs)) <= {list} and set(map(len, pairs)) <= {2}
    if are_pairs and set(map(type, chain.from_iterable(pairs))) <= {str}:
        return pairs
    for number, (merge, pair) in enumerate(zip(merges, pairs, strict=True), 1):
        if not (isinstance(pair, list) and [type(piece) for piece in pair] == [str, str]):
            raise InputError(f"{where}: merge {number} is {merge!r:.60}, expected two pieces")
    return pairs


def model_kind(spec: Spec, where: str) -> str:
    """The type of the model part: BPE, or one that the tokenizers library alone reads."""
    model = spec.get("model")
    if not isinstance(model, dict):
        raise InputError(f"{where}: its model is {model!r:.40}, expected an object")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind not in ("BPE", "Unigram", "WordPiece", "WordLevel"):
        raise InputError(f"{where}: its model is {kind!r:.40}, which is unknown; pass token ids")
    return str(kind)


def checked_spec(spec: Spec, where: str) -> Spec:
    """A tokenizer.json that keeps its promises; settings for batches (truncation, padding) go."""
    kind = model_kind(spec, where)
    entries = spec.get("added_tokens") or []
    if not isinstance(entries, list):
        raise InputError(f"{where}: added_tokens is {entries!r:.40}, expected a list")
    added = [_checked_added(entry, where) for entry in entries]
    check_ids({entry["content"]: entry["id"] for entry in added}, f"{where}: added_tokens")
    model = _checked_model(spec["model"], where) if kind == "BPE" else spec["model"]
    if kind == "BPE":
        _check_vocabulary(model, added, where)
    empty = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    fixed = {"version": "1.0", "truncation": None, "padding": None}
    return {**empty, **spec, **fixed, "added_tokens": added, "model": model}


def _check_vocabulary(model: dict[str, Any], added: list[dict[str, Any]], where: str) -> None:
    """The entries of a BPE and its added tokens, one by one and together."""
    for entry in added:
        if model["vocab"].get(entry["content"], entry["id"]) != entry["id"]:
            raise InputError(
                f"{where}: {entry['content']!r} has the id {entry['id']} as an added token and "
                f"{model['vocab'][entry['content']]} in the vocabulary; make them the same"
            )
    whole = {**model["vocab"], **{entry["content"]: entry["id"] for entry in added}}
    if not whole:
        raise InputError(f"{where}: the vocabulary is empty")
    check_ids(whole, where)
    _check_no_surrogates(whole, where)
    check_merges(model["vocab"], model["merges"], f"{where}: merge", 1)


def _parts(component: Any, key: str) -> list[dict[str, Any]]:
    """The members of a Sequence, a lone component as a list of one, nothing as an empty list."""
    if component is None:
        return []
    if isinstance(component, dict) and component.get("type") == "Sequence":
        parts = component.get(key)
        return [p for p in parts if isinstance(p, dict)] if isinstance(parts, list) else []
    return [component] if isinstance(component, dict) else [{"type": f"{component!r:.40}"}]


def _is_gpt2_pipeline(spec: Spec) -> bool:
    """Whether the text goes through GPT-2's pattern and plain merges, nothing before or between."""
    model, pre = spec["model"], _parts(spec["pre_tokenizer"], "pretokenizers")
    complete = all(symbol in model["vocab"] for symbol in byte_symbols())
    return (
        not any(model.get(key) for key in ("byte_fallback", "ignore_merges"))
        and (complete or not model.get("unk_token"))  # with all bytes nothing is unknown
        and not model.get("continuing_subword_prefix")
        and not _parts(spec["normalizer"], "normalizers")
        and [part.get("type") for part in pre] == ["ByteLevel"]
        and not pre[0].get("add_prefix_space", True)
        and bool(pre[0].get("use_regex", True))
        and not any(t[flag] for t in spec["added_tokens"] if not t["special"] for flag in FLAGS)
    )


def _is_characters(spec: Spec) -> bool:
    added = {entry["content"] for entry in spec["added_tokens"]}
    names = [name for name in spec["model"]["vocab"] if name not in added]
    return (
        spec["decoder"] == CHARACTER_DECODER
        and spec["normalizer"] is None
        and spec["pre_tokenizer"] is None
        and not spec["model"]["merges"]
        and all(len(name) == 1 for name in names)
    )


Kind = Literal["bpe", "characters", "other", "library"]


def kind_of(spec: Spec) -> Kind:
    """ "bpe" is GPT-2's own pipeline, "other" a byte-level BPE with another one around it, and
    "library" all that is no byte-level BPE."""
    if spec["model"].get("type") != "BPE":
        return "library"
    if _is_characters(spec):
        return "characters"
    decoders = [part.get("type") for part in _parts(spec["decoder"], "decoders")]
    pre = [part.get("type") for part in _parts(spec["pre_tokenizer"], "pretokenizers")]
    byte_level = "ByteLevel" in pre and decoders in (["ByteLevel"], [])
    if not byte_level or spec["model"].get("end_of_word_suffix"):
        return "library"
    return "bpe" if _is_gpt2_pipeline(spec) else "other"


def without_holes(vocab: Mapping[str, int]) -> dict[str, int]:
    """The fast library refuses holes among the ids; fill them with names that no text can reach."""
    holes = set(range(max(vocab.values(), default=-1) + 1)) - set(vocab.values())
    return {**vocab, **{f"\0{token}": token for token in holes}}
