"""The form that every vocabulary is brought to: the contents of a tokenizer.json, checked.

It is what the fast library takes and what `Tokenizer.save` writes. Every promise that the encoder
relies on is checked here; `vocabulary` reads the files.

Source: the Hugging Face tokenizers documentation (the fields of tokenizer.json).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

from gpt2lab.errors import InputError, quoted
from gpt2lab.files.io import damaged
from gpt2lab.text.bpe import byte_symbols
from gpt2lab.text.packed_vocabulary import Names, Ranks
from gpt2lab.text.tokenizer_config import FLAGS, Spec, added_token, parts_of

MAX_ID = 2**24 - 1  # no vocabulary comes near; a damaged id must not allocate gigabytes
CHARACTER_DECODER = {"type": "Fuse"}


def check_vocabulary_ids(vocab: Mapping[Any, Any], where: str) -> None:
    """Names are text, ids are integers in range, and no two names share one."""
    if "" in vocab or set(map(type, vocab)) - {str}:
        raise InputError(f"{where}: the name of a token is empty or no text; give it another one")
    ids = vocab.values()
    if set(map(type, ids)) - {int} or min(ids, default=0) < 0 or max(ids, default=0) > MAX_ID:
        good = [token for token in ids if type(token) is int and 0 <= token <= MAX_ID]
        wrong = next(token for token in ids if token not in good or token is True)
        raise damaged(where, f"the id {quoted(wrong)} is no integer from 0 to {MAX_ID}")
    if len(set(ids)) < len(vocab):
        raise damaged(where, f"two tokens have the id {Counter(ids).most_common(1)[0][0]}")


def check_merges(vocab: Mapping[str, int], merges: Sequence[Sequence[str]], where: str) -> None:
    """Every merge joins two known pieces into a known one."""
    pieces = chain(chain.from_iterable(merges), map("".join, merges))
    if set(map(len, merges)) - {2} or not all(map(vocab.__contains__, pieces)):
        known = vocab.keys()
        wrong = next(m for m in merges if len(m) != 2 or not {*m, "".join(m)} <= known)
        raise damaged(
            where, f"the merge {quoted(wrong)} does not join two tokens of the vocabulary into one"
        )


def bpe_spec(
    vocab: Mapping[str, int],
    merges: Iterable[Sequence[str]],
    special_tokens: Mapping[str, int],
) -> Spec:
    """GPT-2's pipeline as a tokenizer.json. The special tokens are in the vocabulary too."""
    by_id = sorted(special_tokens.items(), key=lambda item: item[1])
    flags = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    byte_level = {"type": "ByteLevel", **flags}
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
            "vocab": {**vocab, **special_tokens, **vocab},  # an id that differs is found later
            "merges": [list(pair) for pair in merges],
        },
    }


def characters_spec(alphabet: Sequence[str], special_tokens: Sequence[str]) -> Spec:
    """Characters are BPE without merges, and `Fuse` joins them without spaces between."""
    vocab = {name: token for token, name in enumerate([*alphabet, *special_tokens])}
    spec = bpe_spec(vocab, (), {name: vocab[name] for name in special_tokens})
    return {**spec, "pre_tokenizer": None, "post_processor": None, "decoder": CHARACTER_DECODER}


def _checked_bpe(model: dict[str, Any], added: Mapping[str, int], where: str) -> dict[str, Any]:
    """The model part of a BPE, merges as pairs; only what gives the same ids each time."""
    if model.get("dropout"):
        raise InputError(
            f"{where}: dropout is {model['dropout']}, so that ids would be random; set it to null"
        )
    vocab = model["vocab"]
    for name, token in added.items():
        if vocab.get(name, token) != token:
            raise InputError(
                f"{where}: {name!r} has the id {token} as an added token and {vocab[name]} in the "
                "vocabulary; make them the same, or choose another name"
            )
    whole = {**vocab, **added}
    if not whole:
        raise InputError(f"{where}: the vocabulary is empty")
    check_vocabulary_ids(whole, where)
    "".join(whole).encode()  # JSON can spell half a surrogate pair, which no text can hold
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    check_merges(vocab, merges, where)
    return {**model, "type": "BPE", "merges": merges}


def checked_spec(spec: Spec, where: str) -> Spec:
    """A tokenizer.json that keeps its promises; settings for batches (truncation, padding) go.

    Raises InputError, and for a file of another form anything.
    """
    model = spec["model"]
    if isinstance(model.get("vocab"), Names):  # which was checked before it was kept
        return spec
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind not in ("BPE", "Unigram", "WordPiece", "WordLevel"):
        raise InputError(f"{where}: its model is {quoted(kind)}, which is unknown; pass token ids")
    listed = spec.get("added_tokens") or []
    ids = {entry["content"]: entry["id"] for entry in listed}
    check_vocabulary_ids(ids, f"{where}: added_tokens")
    model = _checked_bpe(model, ids, where) if kind == "BPE" else model
    empty = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    added = [{**added_token("", 0, False), **entry} for entry in listed]
    fixed = {"version": "1.0", "truncation": None, "padding": None}
    return {**empty, **spec, **fixed, "added_tokens": added, "model": model}


def _types(component: Any, key: str) -> list[Any]:
    return [part.get("type") for part in parts_of(component, key)]


def _is_gpt2_pipeline(spec: Spec) -> bool:
    """Whether the text goes through GPT-2's pattern and plain merges, nothing before or between."""
    model, pre = spec["model"], parts_of(spec["pre_tokenizer"], "pretokenizers")
    complete = all(symbol in model["vocab"] for symbol in byte_symbols())
    return (
        not any(model.get(key) for key in ("byte_fallback", "ignore_merges"))
        and (complete or not model.get("unk_token"))  # with all bytes nothing is unknown
        and not model.get("continuing_subword_prefix")
        and not parts_of(spec["normalizer"], "normalizers")
        and [part.get("type") for part in pre] == ["ByteLevel"]
        and not pre[0].get("add_prefix_space", True)
        and bool(pre[0].get("use_regex", True))
        and not any(t[flag] for t in spec["added_tokens"] if not t["special"] for flag in FLAGS)
    )


def _is_characters(spec: Spec) -> bool:
    added = {entry["content"] for entry in spec["added_tokens"]}
    return (
        spec["decoder"] == CHARACTER_DECODER
        and spec["normalizer"] is None
        and spec["pre_tokenizer"] is None
        and not spec["model"]["merges"]
        and all(len(name) == 1 for name in spec["model"]["vocab"] if name not in added)
    )


Kind = Literal["bpe", "characters", "other", "library"]


def kind_of(spec: Spec) -> Kind:
    """ "bpe" is GPT-2's own pipeline, "other" a byte-level BPE with another one around it, and
    "library" all that is no byte-level BPE."""
    if spec["model"].get("type") != "BPE":
        return "library"
    if _is_characters(spec):
        return "characters"
    decodes = _types(spec["decoder"], "decoders") in (["ByteLevel"], [])
    byte_level = decodes and "ByteLevel" in _types(spec["pre_tokenizer"], "pretokenizers")
    if not byte_level or spec["model"].get("end_of_word_suffix"):
        return "library"
    return "bpe" if _is_gpt2_pipeline(spec) else "other"


def added_ids(spec: Spec, special: bool = False) -> dict[str, int]:
    """name -> id of the added tokens, or of the special ones among them."""
    kept = [entry for entry in spec["added_tokens"] if entry["special"] or not special]
    return {entry["content"]: entry["id"] for entry in kept}


def ranks_of(spec: Spec) -> Mapping[tuple[str, str], int]:
    """The merges of a BPE, numbered in the order in which they were learned."""
    if isinstance(spec["model"]["merges"], Ranks):
        return spec["model"]["merges"]
    return {(left, right): rank for rank, (left, right) in enumerate(spec["model"]["merges"])}


def plain(spec: Spec) -> Spec:
    """The same as plain dicts and lists, where the vocabulary is a packed one."""
    model = spec["model"]
    if not isinstance(model["vocab"], Names):
        return spec
    vocab = {name: token for token, name in enumerate(model["vocab"])}
    return {**spec, "model": {**model, "vocab": vocab, "merges": list(map(list, model["merges"]))}}


def without_holes(vocab: Mapping[str, int]) -> dict[str, int]:
    """The fast library refuses holes among the ids; fill them with names that no text can reach."""
    holes = set(range(max(vocab.values(), default=-1) + 1)) - set(vocab.values())
    return {**vocab, **{f"\0{token}": token for token in holes}}
