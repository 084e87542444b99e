"""Special tokens and tokenizer_config.json: one reading of every way in which they are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpt2lab import weights
from gpt2lab.commands import group
from gpt2lab.config import Config
from gpt2lab.corpus.open import open_set
from gpt2lab.corpus.prepare import prepare
from gpt2lab.errors import InputError
from gpt2lab.generation.stopping import StreamDecoder
from gpt2lab.lm import LM, load
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.weights.checkpoint import Checkpoint

from .support import ROOT, tiny_params
from .test_tokenizer import END, NASTY, added, random_strings, small

NAMES = {"<|user|>": 269, "<|bot|>": 270}
TEXTS = ["the and<|user|> the<|bot|>", " <|bot|>", f"a{END}b", "", *NASTY[:6]]


def auto(folder: Path) -> Any:
    """What transformers makes of the folder."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return transformers.AutoTokenizer.from_pretrained(str(folder))


def write(folder: Path, **files: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        path = folder / f"{name}.json"
        (path if name != "merges" else folder / "merges.txt").write_text(text, encoding="utf-8")
    return folder


def two_files() -> dict[str, Any]:
    model = small()["model"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    return {"vocab": model["vocab"], "merges": "\n".join(lines) + "\n"}


def stored(folder: Path, way: str, **config: Any) -> Path:
    """One vocabulary of 268 entries and two special tokens, stored in one of three ways."""
    own = [added(name, token, True) for name, token in NAMES.items()]
    if way == "tokenizer.json":
        spec = small()
        spec["added_tokens"] += own
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
        return write(folder, tokenizer=spec, tokenizer_config=config)
    config = {"tokenizer_class": "GPT2Tokenizer", **config}
    if way == "special_tokens_map.json":
        roles = {"eos_token": END, "additional_special_tokens": list(NAMES)}
        more = {"added_tokens": NAMES, "special_tokens_map": roles}
        return write(folder, **two_files(), tokenizer_config=config, **more)
    entries = [small()["added_tokens"][0], *own]
    config["added_tokens_decoder"] = {str(entry.pop("id")): entry for entry in entries}
    return write(folder, **two_files(), tokenizer_config=config)


WAYS = ("tokenizer.json", "special_tokens_map.json", "added_tokens_decoder")


@pytest.mark.parametrize("way", WAYS)
def test_three_ways_of_storing_one_vocabulary_give_one_reading(tmp_path, way):
    """They gave three: with the names unknown, known but not special, and special."""
    tokenizer = Tokenizer.load(stored(tmp_path, way))
    assert tokenizer.special_tokens == {END: 268, **NAMES}
    peer = auto(tmp_path)
    for text in TEXTS:
        assert tokenizer.encode(text, "all") == peer(text)["input_ids"]
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    assert again.special_tokens == tokenizer.special_tokens
    assert again.encode(TEXTS[0], "all") == tokenizer.encode(TEXTS[0], "all")


def test_a_special_token_that_no_file_numbers_has_the_next_id(tmp_path):
    folder = stored(tmp_path, WAYS[1], pad_token="[PAD]")
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.special_tokens["[PAD]"] == 271
    assert tokenizer.encode("a[PAD]", "all") == auto(folder)("a[PAD]")["input_ids"]


def test_ids_with_gaps_are_obeyed_and_it_is_said(tmp_path):
    """transformers numbers added tokens without gaps, whatever the file says."""
    files = {**two_files(), "added_tokens": {"<x>": 300}}
    tokenizer = Tokenizer.load(write(tmp_path, **files))
    assert tokenizer.encode("<x>") == [300]
    assert "they are obeyed" in tokenizer.notes[0]


def template(*before: int) -> dict[str, Any]:
    marks = [{"SpecialToken": {"id": END, "type_id": 0}} for _ in before]
    single = [*marks, {"Sequence": {"id": "A", "type_id": 0}}]
    tokens = {END: {"id": END, "ids": [268], "tokens": [END]}}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": tokens,
    }


SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a prefix space": (WAYS[1], {"add_prefix_space": True}, {}),
    "a begin token": (WAYS[1], {"add_bos_token": True, "bos_token": "<|user|>"}, {}),
    "both ends": (WAYS[2], {"add_bos_token": True, "add_eos_token": True}, {}),
    "a template": (WAYS[0], {}, {"post_processor": template(268)}),
    "a prefix space in tokenizer.json": (
        WAYS[0],
        {},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}},
    ),
    "a begin token that tokenizer.json does not have": (WAYS[0], {"add_bos_token": True}, {}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_tokenizer_config_and_the_post_processor_are_obeyed(tmp_path, name):
    """Neither was read: add_prefix_space and add_bos_token gave other ids without a word."""
    way, config, changes = SETTINGS[name]
    folder = stored(tmp_path, way, **config)
    if changes:
        path = folder / "tokenizer.json"
        write(folder, tokenizer={**json.loads(path.read_text()), **changes})
    tokenizer, peer = Tokenizer.load(folder), auto(folder)
    tokenizer.save(tmp_path / "saved")
    again, saved = Tokenizer.load(tmp_path / "saved"), auto(tmp_path / "saved")
    for text in [text for text in TEXTS if text]:
        ids = peer(text)["input_ids"]
        assert tokenizer.encode(text, "all") == again.encode(text, "all") == ids
        assert saved(text)["input_ids"] == ids
        plain = tokenizer.encode(text, "all", add_special_tokens=False)
        assert plain == peer(text, add_special_tokens=False)["input_ids"]


CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "no file")
DIGITS = {"type": "Digits", "individual_digits": True}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("key", ["pre_tokenizer", "normalizer", "add_prefix_space"])
def test_a_pipeline_that_transformers_replaces_is_obeyed_with_a_note(tmp_path, name, key):
    """Digits that the file splits are one token in transformers 5, which was nowhere said."""
    spec = small()
    spec["model"]["vocab"]["12"] = 269
    spec["model"]["merges"].append(["1", "2"])
    level = {**spec["pre_tokenizer"], "add_prefix_space": key == "add_prefix_space"}
    parts = [DIGITS, level] if key == "pre_tokenizer" else [level]
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    spec["normalizer"] = {"type": "Lowercase"} if key == "normalizer" else None
    named = {"tokenizer_class": name} if name else {}
    config = {} if name == "no file" else {"tokenizer_config": {"eos_token": END, **named}}
    peer = auto(write(tmp_path, tokenizer=spec, **config))
    tokenizer = Tokenizer.load(tmp_path)
    same = peer("The 12")["input_ids"] == tokenizer.encode("The 12")
    assert same == (name == "PreTrainedTokenizerFast")
    assert ("transformers 5 replaces it" in " ".join(tokenizer.notes)) != same


def model(folder: Path, n_vocab: int = 280, **files: Any) -> Path:
    """A checkpoint of random weights with these vocabulary files."""
    config = Config(n_vocab=n_vocab, n_ctx=32, n_embd=16, n_head=2, n_layer=1, end_tokens=(268,))
    weights.save(Checkpoint(config, tiny_params(config), None, "huggingface"), folder)
    return write(folder, **files)


def test_names_in_a_prompt_are_plain_text_with_a_warning_unless_allowed(tmp_path, caplog):
    """Every chat-tuned GPT-2 got its marks as letters, with no way to allow them and no note."""
    lm = load(stored(model(tmp_path / "m"), WAYS[0]), engine="numpy")
    plain = lm.encode("<|user|> the")
    assert 269 not in plain and "'<|user|>' in the text is read as plain text" in caplog.text
    caplog.clear()
    assert lm.encode("<|user|> the", "all")[0] == 269
    [done] = lm.complete("<|user|>", allowed_special=["<|user|>"], max_new_tokens=2)
    assert done.prompt_tokens == [269]
    assert lm.trace("<|user|>", ["logits"], allowed_special="all").tokens.tolist() == [[269]]
    assert lm.score("<|user|> the", allowed_special="all").tokens[0] == 269
    assert not caplog.records


def test_a_begin_token_is_scored_after_once_and_stands_first_in_a_prompt(tmp_path):
    folder = stored(model(tmp_path / "m"), WAYS[1], add_bos_token=True, bos_token="<|user|>")
    lm = load(folder, engine="numpy")
    assert lm.encode("the")[0] == lm.config.begin == 269
    assert lm.score("the and").tokens == lm.encode("the and", add_special_tokens=False)


def test_a_token_beyond_the_model_is_refused_by_name(tmp_path):
    """[PAD] is often added to a tokenizer alone, and then the model could not be loaded."""
    spec = small()
    spec["added_tokens"].append(added("[PAD]", 269, True))
    lm = load(model(tmp_path / "m", n_vocab=269, tokenizer=spec), engine="numpy")
    assert "ids from 269 on are never generated" in " ".join(lm.checkpoint.notes)
    assert lm.generate("the", max_new_tokens=3, seed=0) is not None
    with pytest.raises(InputError, match=r"needs the token '\[PAD\]', id 269"):
        lm.generate("the[PAD]", allowed_special="all")


def test_a_vocabulary_that_cannot_be_read_leaves_the_ids(tmp_path):
    """It refused the whole model, and advised to pass ids, which nothing then took."""
    lm = load(model(tmp_path / "m", tokenizer={"model": {"type": "Magic"}}), engine="numpy")
    assert lm.tokenizer is None
    assert "the model takes token ids" in lm.checkpoint.notes[-1]
    assert len(lm.complete([5, 9], max_new_tokens=3, stop_tokens=())[0].tokens) == 3
    assert len(lm.score([5, 9, 7]).tokens) == 3


ENDS: list[tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]] = [
    ({"eos_token_id": 50256, "bos_token_id": 50256}, {}, (268,)),
    ({"eos_token_id": [50256, 50257]}, {}, (268,)),
    ({"eos_token_id": None}, {}, (268,)),
    ({"eos_token_id": None}, {"eos_token": "<|bot|>"}, (270,)),
    ({"eos_token_id": 5}, {}, (5, 268)),
    ({"eos_token_id": 268}, {}, (268,)),
    ({"eos_token_id": [268, 270]}, {"eos_token": "<|bot|>"}, (268, 270)),
]


@pytest.mark.parametrize(("values", "roles", "ends"), ENDS)
def test_an_end_token_that_config_json_has_wrong_is_the_vocabularys(tmp_path, values, roles, ends):
    """A config.json copied from another model disabled all ends: <|endoftext|> came for ever."""
    folder = stored(model(tmp_path / "m"), WAYS[0], **roles)
    config = json.loads((folder / "config.json").read_text())
    (folder / "generation_config.json").unlink()
    write(folder, config={**config, **values})
    checkpoint = weights.load(folder)
    assert checkpoint.config.end_tokens == ends
    given = values["eos_token_id"]
    told = "ends a text" in " ".join(checkpoint.notes)
    assert told == (ends[-1] not in (given if isinstance(given, list) else [given]))


def test_the_vocabularys_end_token_ends_a_text(tmp_path):
    spec = stored(model(tmp_path / "m"), WAYS[0])
    config = json.loads((spec / "config.json").read_text())
    (spec / "generation_config.json").unlink()
    write(spec, config={**config, "eos_token_id": 50256})
    checkpoint = weights.load(spec)
    params = {name: value * 0 for name, value in checkpoint.params.items()}
    params["wte.weight"][268] = 1
    params["ln_f.bias"] += 1
    checkpoint.params = params
    [done] = LM(checkpoint, engine="numpy").complete("the", max_new_tokens=5, temperature=0)
    assert (done.finish_reason, done.text) == ("stop", "")


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
LIBRARY: dict[str, dict[str, Any]] = {
    "metaspace": {
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": METASPACE,
        "decoder": METASPACE,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "vocab": {"<unk>": 0, "a": 1, "▁": 2, "▁a": 3, "t": 4, "h": 5, "e": 6, "th": 7},
            "merges": [["▁", "a"], ["t", "h"]],
        },
    },
    "unigram": {
        "pre_tokenizer": METASPACE,
        "decoder": METASPACE,
        "model": {
            "type": "Unigram",
            "unk_id": 0,
            "vocab": [["<unk>", 0.0], ["▁the", -1.0], ["▁", -2.0], ["a", -3.0], ["n", -3.0]],
        },
    },
    "wordpiece": {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {"[UNK]": 0, "the": 1, "a": 2, "##n": 3, ".": 4, "'": 5, "s": 6, "漢": 7},
        },
    },
    "byte fallback": {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "unk_token": "<unk>",
            "vocab": {
                "<unk>": 0,
                **{f"<0x{i:02X}>": i + 1 for i in range(256)},
                "a": 257,
                "▁": 258,
            },
            "merges": [],
        },
    },
    "clean-up": {},
}
LIBRARY["clean-up"] = LIBRARY["wordpiece"]


@pytest.mark.parametrize("name", LIBRARY)
def test_vocabularies_of_the_tokenizers_library_have_transformers_ids(tmp_path, name):
    """SentencePiece's and WordPiece's kinds refused the whole model."""
    top = len(LIBRARY[name]["model"]["vocab"])
    spec = {**dict.fromkeys(("normalizer", "pre_tokenizer", "decoder", "post_processor"))}
    spec |= {"version": "1.0", "truncation": None, "padding": None, **LIBRARY[name]}
    spec["added_tokens"] = [added("</s>", top, True), added("<x>", top + 1, False)]
    clean = name == "clean-up"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    config["clean_up_tokenization_spaces"] = clean
    write(tmp_path, tokenizer=spec, tokenizer_config=config)
    ours, peer = Tokenizer.load(tmp_path), auto(tmp_path)
    assert (ours.kind, ours.end_token) == ("library", top)
    for text in [*NASTY, *random_strings(100, seed=3), "the an a. the's 漢", "a</s> the<x>a"]:
        ids = ours.encode(text, "all")
        assert ids == peer(text)["input_ids"] == ours.encode_array(text, "all").tolist()
        assert ours.decode(ids) == peer.decode(ids)
        stream = StreamDecoder(ours)
        assert "".join(map(stream.push, ids)) + stream.flush() == ours.decode(ids)
        assert (
            ours.encode_with_offsets(text, "all")[1]
            == peer(text, return_offsets_mapping=True)["offset_mapping"]
        )
        spans, whole = ours.offsets(ids), ours.decode(ids)
        assert "".join(whole[start:end] for start, end in spans) == whole
    assert top not in ours.encode("a</s>")
    ours.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").encode("the a") == ours.encode("the a")


BERT = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "a",
    "##n",
    ".",
    "漢",
    "字",
    "##字",
    "ü",
]


@pytest.mark.parametrize("config", [{}, {"do_lower_case": False}, {"eos_token": "</s>"}])
@pytest.mark.parametrize("lines", [BERT, [name for name in BERT if name != "[MASK]"]])
def test_a_vocab_txt_has_the_ids_of_bert_tokenizer(tmp_path, config, lines):
    """Chinese GPT-2 models come with it, and took ids only."""
    folder = model(tmp_path / "m")
    (folder / "tokenizer.json").unlink(missing_ok=True)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write(folder, tokenizer_config={"tokenizer_class": "BertTokenizer", **config})
    ours, peer = weights.load(folder).tokenizer, auto(folder)
    assert ours is not None
    for text in ["The an a. 漢字", "Ü[SEP]x[MASK]</s>", *NASTY, *random_strings(50, seed=4)]:
        ids = peer(text)["input_ids"]
        assert (ours.encode(text, "all"), ours.decode(ids)) == (ids, peer.decode(ids))
    write(folder, tokenizer_config={"cls_token": 3, **config})
    assert "no file names" in Tokenizer.load(folder / "vocab.txt").notes[0]
    (folder / "vocab.txt").write_text("the\n")
    with pytest.raises(InputError, match="no WordPiece vocabulary"):
        Tokenizer.load(folder)


def test_the_commands_allow_special_tokens_and_take_ids(tmp_path):
    """The advice to pass ids led nowhere in `score` and `look`."""
    config = {"chat_template": "{{ messages }}"}
    folder = str(stored(model(tmp_path / "m"), WAYS[0], **config))
    run = CliRunner().invoke
    shown = run(group, ["tokenize", "<|user|>", "-m", folder, "--allow-special"])
    assert shown.stdout.split() == ["269"]
    for verb in ("score", "look"):
        text = run(group, [verb, "<|user|> the", "-m", folder, "--allow-special", "--json"])
        ids = " ".join(map(str, json.loads(text.stdout)["tokens"]))
        assert ids.startswith("269 ")
        assert run(group, [verb, "--ids", ids, "-m", folder, "--json"]).stdout == text.stdout
        assert run(group, [verb, "the", "--ids", ids, "-m", folder]).exception is not None
    made = ["generate", "<|bot|>", "-m", folder, "--allow-special", "--json", "-l", "2"]
    assert json.loads(run(group, made).stdout)["prompt_tokens"] == [270]
    talk = run(group, ["chat", "-m", folder, "--allow-special"], input="<|user|> a\n/quit\n")
    assert "chat_template is not applied" in talk.stderr


def test_texts_and_prompts_read_the_names_alike(tmp_path):
    """A conversation that a model is tuned on must have the ids that its prompts have."""
    folder = stored(model(tmp_path / "m"), WAYS[0])
    text = tmp_path / "talk.txt"
    text.write_text("<|user|> the and<|bot|> the\n" * 40)
    lm = load(folder, engine="numpy")
    for flag in (False, True):
        out = tmp_path / f"set-{flag}"
        prepare([text], out, tokenizer=lm.tokenizer, allow_special=flag)
        ids = lm.tokenizer.encode(text.read_text().strip("\n"), "all" if flag else ())
        assert open_set(out).tokens[0 : len(ids)].tolist() == ids


CASES = ROOT.parent / "shared" / "cases"


def test_files_as_people_have_them():
    """Files made after public reports, with transformers' ids beside them."""
    if not CASES.is_dir():
        return  # the same kinds are built above
    expected = json.loads((CASES / "expected.json").read_text())["encode"]
    for case, texts in expected.items():
        tokenizer = Tokenizer.load(CASES / case)
        assert {text: tokenizer.encode(text, "all") for text in texts} == texts
