"""What lies beside a vocabulary: tokenizer_config.json, special_tokens_map.json, added_tokens.json.

The same special tokens, and what is put before and after a text, are stored in several ways. Here
they all become one: the fields of a tokenizer.json, with the ids of transformers' AutoTokenizer.
Where its reading contradicts a file, the file is obeyed and a note says so.

Sources: transformers 5 `tokenization_utils_base.py` (`_from_pretrained`: which file wins),
`tokenization_utils_tokenizers.py`, `models/gpt2/tokenization_gpt2.py`; the tokenizers
documentation (post-processors).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2lab.errors import InputError
from gpt2lab.files.io import read_text
from gpt2lab.files.json_files import read_json

END_OF_TEXT = "<|endoftext|>"
FLAGS = ("single_word", "lstrip", "rstrip")  # how an added token may swallow its surroundings
#: The tokens with a role, in transformers' order.
NAMED = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
#: What stays in a tokenizer_config.json of its own; the rest becomes part of the tokenizer.json.
KEPT = (*NAMED, "clean_up_tokenization_spaces", "model_max_length", "chat_template")
_REBUILT = ("GPT2", "CodeGen", "GPTNeoX", "Roberta")  # their classes take parts of tokenizer.json

Spec = dict[str, Any]  # the contents of a tokenizer.json
Settings = dict[str, Any]  # the contents of the three files, one dict


def added_token(content: str, token: int, special: bool) -> dict[str, Any]:
    """An entry of `added_tokens` in a tokenizer.json."""
    flags = dict.fromkeys((*FLAGS, "normalized"), False)
    return {"id": token, "content": content, **flags, "special": special}


def _object(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def model_class(folder: Path) -> Any:
    """The class that AutoTokenizer finds by config.json where tokenizer_config.json names none."""
    try:
        config = _object(folder / "config.json")
    except InputError:  # loading the model reports it; a vocabulary can do without
        return None
    own = "GPT2Tokenizer" if config.get("model_type") == "gpt2" else None
    return config.get("tokenizer_class") or own


def read(folder: Path) -> Settings:
    """The three files and chat_template.jinja as one dict; {} where there are none.

    As in transformers, added_tokens_decoder makes the two older files count for nothing.
    """
    settings = _object(folder / "tokenizer_config.json")
    older = settings.pop("additional_special_tokens", None)  # the name until transformers 5
    settings["extra_special_tokens"] = settings.get("extra_special_tokens") or older
    if "added_tokens_decoder" not in settings:
        settings |= _object(folder / "special_tokens_map.json")
        settings["added_tokens"] = _object(folder / "added_tokens.json")
    if (folder / "chat_template.jinja").is_file():
        settings["chat_template"] = read_text(folder / "chat_template.jinja")
    return {key: value for key, value in settings.items() if value not in (None, {})}


def name_of(value: Any) -> str | None:
    """The name of a token that stands as a text or as an object with its flags."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) and value else None


def _roles(settings: Settings) -> Iterator[Any]:
    """The special tokens that the files name, in the order in which transformers adds them."""
    yield from (settings.get(key) for key in NAMED)
    own = [key for key in settings if key.endswith("_token") and key not in NAMED]
    yield from (settings[key] for key in own if isinstance(settings[key], str | dict))
    for key in ("extra_special_tokens", "additional_special_tokens"):
        more = settings.get(key)
        yield from more.values() if isinstance(more, dict) else ()
        yield from more if isinstance(more, list) else ()


def special_names(settings: Settings) -> set[str]:
    """The names of the special tokens that the files name."""
    return {name for name in map(name_of, _roles(settings)) if name is not None}


def _stated(settings: Settings) -> list[tuple[Any, int]]:
    """(token, id) of every added token whose id the files state, by id."""
    found = [(value, int(key)) for key, value in settings.get("added_tokens_decoder", {}).items()]
    found += settings.get("added_tokens", {}).items()
    return sorted(found, key=lambda item: item[1])


def _entry(value: Any, token: int, special: bool) -> dict[str, Any]:
    given = value if isinstance(value, dict) else {}
    flags = {key: bool(given[key]) for key in (*FLAGS, "normalized") if key in given}
    entry = added_token(name_of(value) or "", token, special or bool(given.get("special")))
    return {**entry, **flags}


def _with_added_tokens(spec: Spec, settings: Settings) -> Spec:
    """The tokenizer.json with the added tokens of the other files after its own.

    An entry that comes first wins, and a special token that no file numbers has the next id.
    """
    vocab, special = spec["model"].get("vocab"), special_names(settings)
    known = vocab if isinstance(vocab, dict) else {}  # a Unigram has a list
    entries = {entry["content"]: dict(entry) for entry in spec.get("added_tokens") or []}
    for name in special & set(entries):
        entries[name]["special"] = True
    following = 1 + max([-1, *known.values(), *(entry["id"] for entry in entries.values())])
    for value, token in (*_stated(settings), *((role, None) for role in _roles(settings))):
        content = name_of(value)
        if content is None or content in entries:
            continue
        token = known.get(content, following) if token is None else token
        following = max(following, 1 + token)
        entries[content] = _entry(value, token, content in special)
    return {**spec, "added_tokens": list(entries.values())}


def parts_of(component: Any, key: str) -> list[dict[str, Any]]:
    """The members of a Sequence, a lone component as a list of one, nothing as an empty list."""
    if component is None:
        return []
    members: list[dict[str, Any]] = component.get(key, [component])
    return members


def _is_gpt2(spec: Spec, prefix_space: Any) -> bool:
    """Whether the pre-tokenizer is what transformers' GPT2Tokenizer has in its place."""
    part = spec.get("pre_tokenizer") or {}
    flags = part.get("add_prefix_space", True), part.get("use_regex", True)
    return part.get("type") == "ByteLevel" and flags == (prefix_space is True, True)


def _pipeline(spec: Spec, settings: Settings) -> list[str]:
    """Let add_prefix_space count where transformers lets it; say what else it would replace.

    Its GPT2Tokenizer takes the vocabulary, the merges and the post-processor of a tokenizer.json,
    and makes the rest as GPT-2 has it. Until transformers 5 the file was obeyed, as it is here.
    """
    if str(settings.get("tokenizer_class")).partition("Tokenizer")[0] not in _REBUILT:
        return []
    wanted = settings.get("add_prefix_space")
    for part in parts_of(spec.get("pre_tokenizer"), "pretokenizers"):
        if part.get("type") == "ByteLevel" and isinstance(wanted, bool):
            part["add_prefix_space"] = wanted
    own = ["normalizer"] if spec.get("normalizer") is not None else []
    own += [] if _is_gpt2(spec, wanted) else ["pre_tokenizer"]
    own += ["model"] if spec["model"].get("type", "BPE") != "BPE" else []
    if not own:
        return []
    return [
        f"tokenizer.json has a {' and a '.join(own)} of its own, which is obeyed; transformers 5 "
        "replaces it by GPT-2's; tokenizer_class PreTrainedTokenizerFast in tokenizer_config.json "
        "makes both obey it"
    ]


def _template(part: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The ids that a post-processor puts before and after a text."""
    kind = part.get("type")
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [part["cls"][1]], [part["sep"][1]]
    if kind != "TemplateProcessing":  # ByteLevel, which moves offsets alone
        return [], []
    sides: list[list[int]] = [[]]
    for piece in part["single"]:
        if "Sequence" in piece:
            sides.append([])
        else:
            sides[-1] += part["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    before, after = sides
    return before, after


def template(spec: Spec) -> tuple[list[int], list[int]]:
    """The ids that the post-processors of a tokenizer.json put before and after a text."""
    before: list[int] = []
    after: list[int] = []
    for part in parts_of(spec.get("post_processor"), "processors"):
        left, right = _template(part)
        before, after = [*left, *before], [*after, *right]
    return before, after


def _marks(spec: Spec, settings: Settings, whole: bool) -> list[str]:
    """add_bos_token and add_eos_token as the post-processor of a tokenizer.json.

    whole: there is a tokenizer.json; then transformers 5 obeys its post-processor alone.
    """
    wanted = [key for key in ("add_bos_token", "add_eos_token") if settings.get(key) is True]
    if not wanted:
        return []
    if whole:
        if template(spec) != ([], []):
            return []
        return [
            f"tokenizer_config.json says {wanted[0]}, tokenizer.json's post-processor adds "
            "nothing; the latter is obeyed, as by transformers 5"
        ]
    ids = {entry["content"]: entry["id"] for entry in spec["added_tokens"]}
    marks = {key: name_of(settings.get(key[4:])) or END_OF_TEXT for key in wanted}
    missing = [name for name in marks.values() if name not in ids]
    if missing:
        return [f"{wanted[0]} is passed over: {missing[0]!r} is no token of the vocabulary"]
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    for key, name in marks.items():
        at = 0 if key == "add_bos_token" else len(single)
        single.insert(at, {"SpecialToken": {"id": name, "type_id": 0}})
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {n: {"id": n, "ids": [ids[n]], "tokens": [n]} for n in marks.values()},
    }
    return []


def _gaps(spec: Spec) -> list[str]:
    """What to say where added tokens leave ids out: transformers numbers them without gaps."""
    top = 1 + max(spec["model"]["vocab"].values(), default=-1)
    beyond = sorted(entry["id"] for entry in spec["added_tokens"] if entry["id"] >= top)
    if beyond == list(range(top, top + len(beyond))):
        return []
    return [
        f"the added tokens have the ids {', '.join(map(str, beyond[:5]))}, after a vocabulary of "
        f"{top}; they are obeyed, transformers 5 would number them from {top}"
    ]


def completed(spec: Spec, settings: Settings, whole: bool) -> tuple[Spec, list[str]]:
    """A tokenizer.json with all that the files beside it say, and notes on what contradicts.

    whole: the tokenizer.json was read, not made of vocab.json and merges.txt. What is damaged may
    raise anything.
    """
    spec = _with_added_tokens(spec, settings)
    notes = _pipeline(spec, settings) + _marks(spec, settings, whole)
    return spec, notes + ([] if whole else _gaps(spec))
