"""The tokenizer against other encoders, against its written-out self, and against bad input."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import subprocess
import sys
import threading
import unicodedata
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
import tiktoken
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt2lab.errors import InputError
from gpt2lab.generation.stopping import StreamDecoder
from gpt2lab.text import encoders
from gpt2lab.text.bpe import byte_symbols, pretokenize, symbols_to_bytes
from gpt2lab.text.tokenizer import Tokenizer, is_official, official

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
FABLE = ROOT / "gpt2lab" / "assets" / "fable"
END = "<|endoftext|>"
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

NASTY = [
    "",
    " ",
    "  ",
    "\n",
    " \n ",
    "a  b   c    ",
    "   lead and trail   ",
    "tabs\t\tand\r\nlines\r\r\n\n\n x",
    "don't I'll we've they're I'm he'd it's 'sword 's's'S 'LL ''s ' s",
    "x'sy 'relic 'vex 'millet 'dust 'tis '1 'é",
    "<|endoftext|>",
    "<|endoftext|><|endoftext|> a<|endoftext|>b <|endoftext",
    "123 4567 89a a89 ½ Ⅷ ٣٤ 一二三 ² x²",
    "naïve café e\u0301 ÅÅ ﬀ ß İ ı ǅ",
    "漢字かな交じり文　全角\u3000空白",
    "สวัสดี ํา नमस्ते 안녕 \u1112\u1161\u11ab",
    "😀 👨‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽",
    "a\u00a0b\u00a0 c\u2009d\u2028e\u2029f\u0085g\x1ch\x1fi\u180ej\u200bk\ufeffl",
    "\x00\x01\x7f\x80\xad\xa0",
    "\ufffd\uffff\U0010ffff\ue000",
    "...!!!??? --- === ,,, (a) [b] {c} <d> \\ / | _x_ a_b",
    "if x == 'a':\n\treturn  {\n        1: 2}\n",
    "a" * 300 + " " * 300 + "\n" * 300 + "é" * 300 + "!" * 300,
    " the" * 200 + "\n the" * 50,
]

ATOMS = [
    *NASTY[1:8],
    "'s",
    "'",
    "'ll",
    " ",
    "  ",
    "\n",
    "a",
    "Z",
    "the",
    " the",
    "é",
    "漢",
    "😀",
    "9",
]
ATOMS += ["٣", "_", "!", END, "<|", "|>", "\u00a0", "\u3000", "\x85", "\x1c", "\u200b", "e\u0301"]


def is_settled(char: str) -> bool:
    """Whether every Unicode table since 3.2 puts the character into the same class.

    Python, regex, tiktoken and tokenizers carry different Unicode versions; characters that are
    too new for one of them prove nothing.
    """
    old = unicodedata.ucd_3_2_0.category(char)
    return old not in ("Cn", "Cs") and old[0] == unicodedata.category(char)[0]


def random_strings(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    points = [c for c in map(chr, [*range(0xD800), *range(0xE000, 0x20000)]) if is_settled(c)]
    texts = []
    for _ in range(count // 2):
        texts.append("".join(draw.choice(ATOMS) for _ in range(draw.randint(1, 12))))
        texts.append("".join(draw.choice(points) for _ in range(draw.randint(1, 12))))
    return texts


@lru_cache
def openai_encoder() -> tiktoken.Encoding:
    tokenizer = official()
    ranks = {tokenizer.token_bytes(i): i for i in range(50256)}
    return tiktoken.Encoding(
        "gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END: 50256}
    )


def hugging_face(spec: dict[str, Any]) -> tokenizers.Tokenizer:
    encoder = tokenizers.Tokenizer.from_str(json.dumps(spec))
    encoder.encode_special_tokens = True  # special names are ordinary text
    return encoder


@lru_cache
def hugging_face_official() -> tokenizers.Tokenizer:
    return hugging_face(saved_spec(official()))


def saved_spec(tokenizer: Tokenizer) -> dict[str, Any]:
    _, (spec, *_) = tokenizer.__reduce__()
    return spec


def written_out(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(chain.from_iterable(word.ids for word in tokenizer.steps(text)))


@lru_cache
def small_spec() -> str:
    """A byte-level BPE of 256 bytes, 12 merges and the end, as JSON."""
    lines = "t h\nth e\nĠ the\ni n\nin g\na n\nĠ a\nĠa n\nĠan d\nĊ Ċ\nĠ Ġ\nÃ ©"
    merges = [(left, right) for left, right in map(str.split, lines.splitlines())]
    vocab = {symbol: i for i, symbol in enumerate(byte_symbols())}
    for left, right in merges:
        vocab[left + right] = len(vocab)
    return json.dumps(saved_spec(Tokenizer.from_bpe(vocab, merges, {END: len(vocab)})))


def small(**changes: Any) -> dict[str, Any]:
    return {**json.loads(small_spec()), **changes}


def added(content: str, token: int, special: bool, **flags: bool) -> dict[str, Any]:
    none = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": content, "special": special, **none, **flags}


# --- the official vocabulary -----------------------------------------------------------------


def test_the_bundled_vocabulary_is_the_official_one() -> None:
    """encoder.json is derived from vocab.bpe; written as OpenAI wrote it, it is the same bytes."""
    file = ROOT / "gpt2lab" / "assets" / "gpt2" / "vocab.bpe"
    merges_sum = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    vocab_sum = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == merges_sum
    derived = json.dumps(saved_spec(official())["model"]["vocab"])
    assert hashlib.sha256(derived.encode()).hexdigest() == vocab_sum


def test_known_ids() -> None:
    tokenizer = official()
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert tokenizer.encode(END) == [27, 91, 437, 1659, 5239, 91, 29]
    assert tokenizer.encode(END, allowed_special="all") == [50256]
    assert tokenizer.encode(f"a{END}b", allowed_special={END}) == [64, 50256, 65]
    assert (tokenizer.n_vocab, tokenizer.end_token, tokenizer.kind) == (50257, 50256, "bpe")
    assert tokenizer.special_tokens == {END: 50256}
    assert repr(tokenizer) == "Tokenizer(bpe, n_vocab=50257, end_token=50256)"
    assert official() is tokenizer
    assert tokenizer.count("Hello world") == 2


def test_any_string_equals_every_encoder() -> None:
    find = regex.compile(PATTERN).findall
    for text in [*NASTY, *random_strings(3000, seed=1)]:
        ids = official().encode(text)
        assert ids == openai_encoder().encode_ordinary(text), ascii(text)
        assert ids == hugging_face_official().encode(text).ids, ascii(text)
        assert ids == written_out(official(), text), ascii(text)
        assert pretokenize(text) == find(text), ascii(text)
        assert official().decode(ids) == text
        assert official().decode_bytes(ids) == text.encode()


def test_every_settled_character_equals_tiktoken() -> None:
    """All of the Basic Multilingual Plane, where classes and white space could go wrong."""
    points = [c for c in map(chr, [*range(0xD800), *range(0xE000, 0x10000)]) if is_settled(c)]
    text = "".join(f"a{c}b {c}  1{c}\n{c}" for c in points)
    assert official().encode(text) == openai_encoder().encode_ordinary(text)
    assert pretokenize(text) == regex.findall(PATTERN, text)


settled_text = st.text(st.characters(exclude_categories=["Cs"]).filter(is_settled), max_size=40)
atom_text = st.lists(st.sampled_from(ATOMS), max_size=12).map("".join)


@lru_cache
def hugging_face_special() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(saved_spec(official())))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*ATOMS, END, END[:-1], "<", "|>"]), max_size=10).map("".join))
def test_allowed_special_tokens_equal_the_peers(text: str) -> None:
    assert official().encode(text, "all") == openai_encoder().encode(text, allowed_special="all")
    assert official().encode(text, "all") == hugging_face_special().encode(text).ids


corpora = [
    "corpus_en/storybooks/train.txt",
    "corpus_en/books/valid.txt",
    "corpus_zh/storybooks.txt",
    "corpus_zh/poems_valid.txt",
    "wiki_xml/enwik5",
    "tinyshakespeare/input.txt",
]


@pytest.mark.skipif(not DATA.exists(), reason="the shared corpora are not here")
@pytest.mark.parametrize("name", corpora)
def test_corpora_equal_tiktoken(name: str) -> None:
    text = (DATA / name).read_text(encoding="utf-8")[:1_000_000]
    ids = official().encode_array(text)
    assert ids.tolist() == openai_encoder().encode_ordinary(text)
    assert written_out(official(), text[:20_000]) == official().encode(text[:20_000])
    assert official().decode(ids) == text


def test_long_runs_are_no_trap() -> None:
    """Encoders that merge in quadratic time hang on a million equal letters."""
    for text in ("a" * 300_000, " " * 300_000, "ab" * 150_000, "\n" * 300_000):
        assert official().decode(official().encode_array(text)) == text


# --- encode ----------------------------------------------------------------------------------


def test_encode_array_is_uint32_and_the_callers_own() -> None:
    ids = official().encode_array("Hello world")
    assert ids.dtype == np.uint32
    ids[0] = 7
    assert official().encode("Hello world") == [15496, 995]
    assert official().encode_array("").shape == (0,)


@pytest.mark.parametrize("position", [0, 3])
def test_half_a_surrogate_pair_is_refused(position: int) -> None:
    text = "abc"[:position] + "\ud83d" + "abc"
    for tokenizer in (official(), Tokenizer.characters("abc", [END])):
        with pytest.raises(InputError, match=rf"position {position} holds U\+D83D"):
            tokenizer.encode(text)


def test_encode_refuses_what_is_not_text() -> None:
    with pytest.raises(InputError, match="expected str, this is bytes"):
        official().encode(b"abc")  # type: ignore[arg-type]


def test_an_unknown_special_token_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'<pad>' is no special token.*known: <\|endoftext\|>"):
        official().encode("a", allowed_special=["<pad>"])
    with pytest.raises(InputError, match="known: none"):
        Tokenizer.characters("ab").encode("a", allowed_special=["<pad>"])


ADDED = {
    "special beyond the vocabulary": [added("<pad>", 269, True)],
    "always matched": [added("<x>", 269, False), added("<pad>", 270, True)],
    "with flags": [
        added("<x>", 269, False, lstrip=True),
        added("<mask>", 270, True, lstrip=True, rstrip=True),
        added("<pad>", 271, True, single_word=True),
    ],
    "one inside the other": [
        added("<|", 269, False),
        added("the", 264, False),
        added("then", 270, False),
        added("<x>", 271, True),
    ],
    "normalized": [added("<x>", 269, False, normalized=True)],
}


@pytest.mark.parametrize("name", ADDED)
def test_added_tokens_equal_hugging_face(name: str) -> None:
    """Special ones only when allowed, the others always; the longest name wins."""
    spec = small()
    end = spec["added_tokens"][0]
    entries = [t for t in ADDED[name] if t["content"] != "the"]
    spec["added_tokens"] = [end, *({**t, "id": 269 + i} for i, t in enumerate(entries))]
    ours, peer = Tokenizer(spec), hugging_face(spec)
    draw = random.Random(3)
    atoms = [*ATOMS, "<x>", " <x> ", "<pad>", "<mask>", " <mask> ", "then", END]
    for _ in range(500):
        text = "".join(draw.choice(atoms) for _ in range(draw.randint(1, 8)))
        peer.encode_special_tokens = True
        assert ours.encode(text) == peer.encode(text).ids
        if ours.kind == "bpe":
            assert written_out(ours, text) == ours.encode(text)
        peer.encode_special_tokens = False
        assert ours.encode(text, "all") == peer.encode(text).ids


def test_a_subset_of_the_special_tokens() -> None:
    spec = small()
    spec["added_tokens"] += [added("<a>", 269, True), added("<b>", 270, True)]
    tokenizer = Tokenizer(spec)
    ids = tokenizer.encode("<a><b>", allowed_special=["<b>"])
    assert ids[-1] == 270
    assert ids[:-1] == tokenizer.encode("<a>")
    assert tokenizer.decode(ids) == "<a><b>"


def test_ids_in_any_order_and_with_holes_equal_hugging_face() -> None:
    """Some trainers put special tokens first, and files from the wild have holes."""
    spec = small()
    names = list(spec["model"]["vocab"])
    random.Random(5).shuffle(names)
    spec["model"]["vocab"] = {name: 3 * i for i, name in enumerate(names)}
    spec["added_tokens"][0]["id"] = spec["model"]["vocab"][END]
    ours, peer = Tokenizer(spec), hugging_face(spec)
    assert ours.n_vocab == 3 * (len(names) - 1) + 1
    for text in [*NASTY, *random_strings(200, seed=6)]:
        assert ours.encode(text) == peer.encode(text).ids == written_out(ours, text)
        assert ours.decode(ours.encode(text)) == text
    assert ours.decode([1]) == ""  # a hole


LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
OTHERS = {
    "prefix space": {"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True, "use_regex": True}},
    "no pattern": {"pre_tokenizer": {**BYTE_LEVEL, "use_regex": False}},
    "NFC": {"normalizer": {"type": "NFC"}},
    "another pattern": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": LLAMA},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {**BYTE_LEVEL, "use_regex": False},
            ],
        }
    },
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_pipelines_equal_hugging_face_and_have_no_steps(name: str) -> None:
    spec = small(**OTHERS[name])
    ours, peer = Tokenizer(spec), hugging_face(spec)
    assert ours.kind == "other"
    for text in [*NASTY, *random_strings(200, seed=7)]:
        assert ours.encode(text) == peer.encode(text).ids, ascii(text)
    with pytest.raises(InputError, match="not GPT-2's"):
        ours.steps("a")


def test_offsets_where_the_text_was_changed() -> None:
    """A space put before the text counts to its first character; otherwise there are no spans."""
    spec = small(**OTHERS["prefix space"])
    ours, peer = Tokenizer(spec), hugging_face(spec)
    for text in ("the and", " the", "éa", ""):
        assert ours.encode_with_offsets(text)[1] == peer.encode(text).offsets
    with pytest.raises(InputError, match="changes the text"):
        Tokenizer(small(**OTHERS["NFC"])).encode_with_offsets("e\u0301")


def test_a_vocabulary_without_all_bytes_drops_nothing_silently() -> None:
    """The Hugging Face library leaves such characters out of the ids without a word."""
    tokenizer = Tokenizer.from_bpe({"a": 0, "b": 1, "ab": 2}, [("a", "b")], {})
    assert tokenizer.encode("abba") == [2, 1, 0]
    with pytest.raises(InputError, match="'é' at position 2 needs the byte 0xC3"):
        tokenizer.encode("abé")


def test_many_threads_share_one_tokenizer() -> None:
    tokenizer = Tokenizer(small())
    texts = [*NASTY, *random_strings(100, seed=8)]
    expected = [Tokenizer(small()).encode(text) for text in texts]
    found: list[bool] = []

    def work() -> None:
        ids = [tokenizer.encode(text) for text in texts]
        found.append(ids == expected and [tokenizer.decode(i) for i in ids] == texts)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


def test_a_tokenizer_goes_to_other_processes() -> None:
    made = Tokenizer(saved_spec(official()), notes=["two files disagree"])
    copy = pickle.loads(pickle.dumps(made))
    assert copy.encode("Hello world") == [15496, 995]
    assert copy.notes == ("two files disagree",)


def test_importing_the_tokenizer_loads_no_encoder() -> None:
    code = "import sys, gpt2lab.text.tokenizer; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert not {"fastokens", "tokenizers", "torch"} & set(run.stdout.decode().split())


# --- decode ----------------------------------------------------------------------------------

any_ids = st.lists(st.integers(0, 50256) | st.integers(94, 255), max_size=30)


@settings(max_examples=300, deadline=None)
@given(any_ids)
def test_the_stream_is_the_whole_for_any_ids(ids: list[int]) -> None:
    """Ids 94 to 255 are bytes beyond ASCII, so that most of these lists are broken UTF-8."""
    stream = StreamDecoder(official())
    parts = [stream.push(token) for token in ids]
    whole = official().decode(ids)
    assert "".join(parts) + stream.flush() == whole
    assert whole == official().decode_bytes(ids).decode("utf-8", "replace")
    assert whole == b"".join(official().token_bytes(token) for token in ids).decode(
        errors="replace"
    )
    assert stream.flush() == ""


def test_the_stream_waits_for_the_whole_character() -> None:
    ids = official().encode("a😀b")
    stream = StreamDecoder(official())
    parts = [stream.push(token) for token in ids]
    assert "".join(parts) == "a😀b"
    assert all("\ufffd" not in part for part in parts)
    assert "" in parts
    assert stream.push(ids[1]) == ""
    assert stream.flush() == "\ufffd"
    assert stream.push(ids[0]) == "a"


@settings(max_examples=300, deadline=None)
@example([169, 94])  # 0xED 0xA1: Python holds the two back as if they were one character
@given(any_ids)
def test_offsets_cover_the_decoded_text(ids: list[int]) -> None:
    """Each span, decoded to bytes, holds the token's own bytes; the spans leave no gap."""
    text, spans = official().decode(ids), official().offsets(ids)
    assert len(spans) == len(ids)
    reach = 0
    for start, end in spans:
        assert reach - 1 <= start <= reach <= len(text)
        assert start < end
        reach = end
    assert reach == len(text)
    for token, (start, end) in zip(ids, spans, strict=True):
        if "\ufffd" not in text[start:end]:
            assert official().token_bytes(token) in text[start:end].encode()


@settings(max_examples=150, deadline=None)
@given(settled_text | atom_text)
def test_offsets_equal_hugging_face(text: str) -> None:
    ids, spans = official().encode_with_offsets(text)
    found = hugging_face_official().encode(text)
    assert found.ids == ids
    assert found.offsets == spans


def test_offsets_of_tokens_without_bytes() -> None:
    spec = small()
    spec["added_tokens"].append(added("<x>", 280, True))  # 269 to 279 are holes
    assert Tokenizer(spec).offsets([275, 0, 275, 280, 275]) == [
        (0, 0),
        (0, 1),
        (1, 1),
        (1, 4),
        (4, 4),
    ]
    assert Tokenizer(spec).offsets([275]) == [(0, 0)]
    assert Tokenizer(spec).offsets([]) == []


def test_decode_takes_arrays_and_says_what_is_wrong() -> None:
    tokenizer = official()
    assert tokenizer.decode(np.array([15496, 995])) == "Hello world"
    assert tokenizer.decode([np.uint32(15496), np.int64(995)]) == "Hello world"
    assert tokenizer.offsets(iter([15496, 995])) == [(0, 5), (5, 11)]
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([50256]) == END
    for wrong in (-1, 50257, 10**12):
        with pytest.raises(InputError, match=f"{wrong} is outside the vocabulary.*50256"):
            tokenizer.decode([15496, wrong])
    for bad in (np.array([[1, 2]]), np.array([1.5]), "abc", 5, None):
        with pytest.raises(InputError, match="flat list of integers"):
            tokenizer.decode(bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="outside the vocabulary"):
        tokenizer.token_bytes(-1)


def test_decode_errors() -> None:
    half = official().encode("é😀")[:-1]
    assert official().decode(half) == "é\ufffd"
    assert official().decode(half, errors="ignore") == "é"
    with pytest.raises(InputError, match="begin or end inside a character"):
        official().decode(half, errors="strict")
    with pytest.raises(InputError, match="errors is 'nonsense'; it must be one of replace"):
        official().decode(half, errors="nonsense")


def test_pieces_show_broken_bytes() -> None:
    ids = official().encode(" 漢\n")
    assert official().pieces(ids) == [" \\xe6", "\\xbc", "\\xa2", "\n"]
    assert official().pieces([50256]) == [END]


# --- the steps -------------------------------------------------------------------------------


def test_steps_show_each_merge() -> None:
    hello, world = official().steps("the and")
    assert hello.states == [[b"t", b"h", b"e"], [b"t", b"he"], [b"the"]]
    assert world.text == " and"
    assert world.states[-1] == [b" and"]
    assert world.ids == [290]
    assert official().steps("") == []


def test_steps_of_characters_and_added_tokens() -> None:
    words = Tokenizer.characters("ab").steps("ba")
    assert [(word.text, word.states, word.ids) for word in words] == [
        ("b", [[b"b"]], [1]),
        ("a", [[b"a"]], [0]),
    ]
    spec = small()
    spec["added_tokens"].append(added("<x>", 269, False))
    assert [word.ids for word in Tokenizer(spec).steps("a<x>")] == [[64], [269]]


# --- characters ------------------------------------------------------------------------------


def test_characters() -> None:
    tokenizer = Tokenizer.characters("\n abé漢😀", special_tokens=[END])
    text = "é ab\n漢😀"
    assert tokenizer.kind == "characters"
    assert tokenizer.encode(text) == [4, 1, 2, 3, 0, 5, 6]
    assert tokenizer.encode(f"a{END}b", "all") == [2, 7, 3]
    assert (tokenizer.n_vocab, tokenizer.end_token) == (8, 7)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.offsets([4, 5, 7]) == [(0, 1), (1, 2), (2, 15)]
    assert tokenizer.encode("") == []


def test_a_character_outside_the_alphabet_is_named() -> None:
    tokenizer = Tokenizer.characters("ab", special_tokens=[END])
    with pytest.raises(InputError, match=r"'z' \(U\+007A\) at position 2"):
        tokenizer.encode("abz")
    with pytest.raises(InputError, match=r"'漢' .* at position 14"):
        tokenizer.encode(f"a{END}漢", "all")
    with pytest.raises(InputError, match=r"'<' .* at position 1"):
        tokenizer.encode(f"a{END}")


@pytest.mark.parametrize(
    ("alphabet", "message"),
    [
        (["a", "bc"], "'bc' is not one character"),
        (["a", ""], "'' is not one character"),
        (["a", "b", "a"], "'a' occurs twice"),
        (["\ud800"], "is not one character"),
        ([], "empty"),
    ],
)
def test_bad_alphabets(alphabet: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tokenizer.characters(alphabet)


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["official", "fable", "characters", "more tokens"])
def test_saved_folders_load_everywhere(source: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    spec = small()
    spec["added_tokens"] += [added("PAD", 269, True), added("<x>", 270, False)]
    tokenizer = {
        "official": official,
        "fable": lambda: Tokenizer.load(FABLE),
        "characters": lambda: Tokenizer.characters("\n abtheéx漢.!?'s", [END]),
        "more tokens": lambda: Tokenizer(spec),
    }[source]()
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert saved_spec(again) == saved_spec(tokenizer)
    auto = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    peer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ["a  b  at\n the . ! ?", "thé 漢 's\n\n", f"a{END}b"]:
        ids = tokenizer.encode(text, allowed_special="all")
        assert ids == again.encode(text, allowed_special="all")
        assert ids == auto.encode(text) == peer.encode(text).ids
        assert auto.decode(ids) == peer.decode(ids, skip_special_tokens=False) == text
    assert auto.eos_token_id == tokenizer.end_token
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("source", ["official", "fable", "more tokens"])
def test_the_two_files_alone_say_the_same(source: str, tmp_path: Path) -> None:
    spec = small()
    spec["added_tokens"] += [added("PAD", 269, True), added("<x>", 270, False)]
    makers = {"official": official, "fable": lambda: Tokenizer.load(FABLE)}
    tokenizer = makers.get(source, lambda: Tokenizer(spec))()
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    again = Tokenizer.load(tmp_path)
    assert again.special_tokens == tokenizer.special_tokens
    for text in [*NASTY, "<x>PAD"]:
        assert again.encode(text) == tokenizer.encode(text)
        assert again.encode(text, "all") == tokenizer.encode(text, "all")


def test_openais_own_layout(tmp_path: Path) -> None:
    Tokenizer(small()).save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    expected = saved_spec(Tokenizer(small()))
    whole = (tmp_path / "encoder.json").read_bytes()
    (tmp_path / "encoder.json").write_bytes(b"\xef\xbb\xbf" + whole)  # as some editors save it
    for path in (tmp_path, tmp_path / "encoder.json", tmp_path / "vocab.bpe"):
        assert saved_spec(Tokenizer.load(path)) == expected
    (tmp_path / "encoder.json").unlink()  # it can be derived
    assert saved_spec(Tokenizer.load(tmp_path)) == expected


def test_openais_checkpoint_folder() -> None:
    tokenizer = Tokenizer.load(ROOT / "tests" / "data" / "openai_checkpoint")
    assert (tokenizer.n_vocab, tokenizer.end_token) == (1000, 999)
    for text in NASTY:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_windows_line_ends_and_a_tokenizer_json_of_gpt2s_days(tmp_path: Path) -> None:
    """The hub's first GPT-2 file has no model type, no use_regex, and merges as plain strings."""
    spec = small()
    del spec["model"]["type"], spec["pre_tokenizer"]["use_regex"]
    spec["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    spec["model"]["merges"] = [" ".join(pair) for pair in spec["model"]["merges"]]
    spec["added_tokens"][0]["normalized"] = True
    spec["truncation"] = {
        "max_length": 2,
        "stride": 0,
        "strategy": "LongestFirst",
        "direction": "Right",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer, plain = Tokenizer.load(tmp_path), Tokenizer(small())
    assert tokenizer.kind == "bpe"
    plain.save(tmp_path / "two")
    (tmp_path / "two" / "tokenizer.json").unlink()
    merges = tmp_path / "two" / "merges.txt"
    merges.write_bytes(merges.read_bytes().replace(b"\n", b"\r\n"))
    windows = Tokenizer.load(tmp_path / "two")
    for text in NASTY:
        assert tokenizer.encode(text) == plain.encode(text) == windows.encode(text)


def two_files(folder: Path) -> tuple[Path, Path]:
    Tokenizer(small()).save(folder)
    (folder / "tokenizer.json").unlink()
    return folder / "vocab.json", folder / "merges.txt"


def test_every_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    """A file that ends early must never give other ids without a word."""
    vocab, merges = two_files(tmp_path / "two")
    whole = tmp_path / "one" / "tokenizer.json"
    whole.parent.mkdir()
    whole.write_text(json.dumps(small()))
    for path, step in ((vocab, 7), (merges, 1), (whole, 11)):
        data = path.read_bytes()
        for end in range(0, len(data) - 2, step):
            path.write_bytes(data[:end])
            with pytest.raises(InputError) as caught:
                Tokenizer.load(path.parent)
            assert str(tmp_path) in str(caught.value)
            assert "\n" not in str(caught.value)
        path.write_bytes(data)
        assert Tokenizer.load(path.parent).n_vocab == 269


def test_damaged_two_files(tmp_path: Path) -> None:
    vocab, merges = two_files(tmp_path)
    names, lines = json.loads(vocab.read_text()), merges.read_text().split("\n")

    def refused(message: str, **files: Any) -> None:
        vocab.write_text(json.dumps(files.get("vocab", names)))
        merges.write_text("\n".join(files.get("lines", lines)), encoding="utf-8")
        with pytest.raises(InputError, match=message):
            Tokenizer.load(tmp_path)

    refused("no entry has the id 5", vocab={k: v for k, v in names.items() if v != 5})
    refused("two tokens have the id 7", vocab={**names, "<two>": 7})
    refused("the id '64' is no integer", vocab={**names, "a": "64"})
    refused("the id -1 is no integer", vocab={**names, "<x>": -1})
    refused("the id 99999999999 is no integer", vocab={**names, "<x>": 99999999999})
    refused("the id True is no integer", vocab={**names, "<x>": True})
    refused(r"merge \['q', 'z'\] does not join", lines=[*lines[:2], "q z", *lines[2:]])
    refused(r"merge \['a', 'b', 'c'\] does not join", lines=[*lines[:2], "a b c", *lines[2:]])
    refused("no merge makes 'ing'", lines=[line for line in lines if line != "in g"])
    vocab.write_text("[1, 2]")
    with pytest.raises(InputError, match=r"vocab\.json"):
        Tokenizer.load(tmp_path)
    merges.write_bytes(b"#version: 0.2\n\xff\xfe a\n")
    with pytest.raises(InputError, match="byte 14 is not UTF-8"):
        Tokenizer.load(merges)
    vocab.unlink()
    with pytest.raises(InputError, match=r"holds no vocabulary|needs vocab\.json"):
        Tokenizer.load(tmp_path)


DAMAGE: list[tuple[str, Any]] = [
    ("library refuses it: missing field", {"type": "WordPiece", "vocab": {"a": 0}}),
    ("library refuses it", {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}),
    ("its model is None, which is unknown", {}),
    ("not a whole tokenizer.json", {"type": "BPE", "vocab": {"a": 0}}),
    ("vocabulary is empty", {"type": "BPE", "vocab": {}, "merges": []}),
    ("dropout is 0.1", {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1}),
    (r"the merge \['ab'\] does not", {"type": "BPE", "vocab": {"a": 0}, "merges": ["ab"]}),
    ("not a whole tokenizer.json", {"type": "BPE", "vocab": {"a": 0}, "merges": [7]}),
    ("does not join two tokens", {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}),
    ("two tokens have the id 0", {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}),
    ("surrogates not allowed", {"type": "BPE", "vocab": {"a\ud800": 0}, "merges": []}),
]


@pytest.mark.parametrize(("message", "model"), DAMAGE, ids=[message for message, _ in DAMAGE])
def test_damaged_tokenizer_json(message: str, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**small(added_tokens=[]), "model": model}))
    with pytest.raises(InputError, match=message):
        Tokenizer.load(path)


def test_tokenizer_json_that_is_not_byte_level(tmp_path: Path) -> None:
    """What is no byte-level BPE is read by the tokenizers library; damage is damage for it too."""
    for changes in (
        {"pre_tokenizer": None},
        {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}},
        {"normalizer": {"type": "NFKC"}},
    ):
        assert Tokenizer(small(**changes)).kind == "library"
    for changes in (
        {"decoder": "?", "pre_tokenizer": 5},
        {"added_tokens": 5},
        {"added_tokens": [{"id": 1}]},
        {"added_tokens": [added("t", 5000, False)]},
        {"added_tokens": [added("<x>", 0, False)]},
    ):
        with pytest.raises(InputError):
            Tokenizer(small(**changes))


def mutated(value: Any, draw: random.Random) -> Any:
    """The same JSON with one value somewhere replaced by something that does not belong there."""
    junk: list[Any] = [None, -1, 7, 1.5, "", "x", [], {}, [[]], [{}], {"type": "x"}, True, 10**30]
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        return {**value, key: mutated(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        return [*value[:at], mutated(value[at], draw), *value[at + 1 :]]
    return draw.choice(junk)


def test_damage_of_any_kind_is_an_input_error(tmp_path: Path) -> None:
    """A file from elsewhere must never end in the traceback of an inner line."""
    draw, path = random.Random(11), tmp_path / "tokenizer.json"
    spec = small()
    for _ in range(1500):
        path.write_text(json.dumps(mutated(mutated(spec, draw), draw)))
        try:
            tokenizer = Tokenizer.load(path)
            tokenizer.decode(tokenizer.encode("the and", "all"))
        except InputError as error:
            assert "\n" not in str(error)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no vocabulary"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").mkdir()
    (tmp_path / "tokenizer.json").write_text("{" * 100_000)
    with pytest.raises(InputError, match="not valid JSON"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"a":' * 200_000)
    with pytest.raises(InputError, match="not valid JSON"):
        Tokenizer.load(tmp_path)


def test_special_tokens_must_not_shadow_the_vocabulary() -> None:
    with pytest.raises(InputError, match="'a' has the id 2 as an added token and 0 in the"):
        Tokenizer.from_bpe({"a": 0, "b": 1}, [], {"a": 2})


def test_save_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        official().save(tmp_path / "file")
    (tmp_path / "folder" / "tokenizer.json").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be written"):
        official().save(tmp_path / "folder")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["tokenizer.json"]


def test_byte_symbols_are_hugging_faces_alphabet() -> None:
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    assert sorted(byte_symbols()) == sorted(alphabet)
    assert [symbols_to_bytes(symbol) for symbol in "AĠĊ"] == [b"A", b" ", b"\n"]


@pytest.mark.skipif(unicodedata.unidata_version >= "15", reason="the character is known here")
def test_steps_never_show_other_ids_than_encode() -> None:
    """U+1E5D0 is a letter since Unicode 16; older tables cut after it."""
    text = "\U0001e5d0's"
    assert len(official().encode(text)) == 5
    with pytest.raises(InputError, match="newer than Python's tables"):
        official().steps(text)


# --- the first short text ---------------------------------------------------------------------


def has_engine(tokenizer: Tokenizer) -> bool:
    return bool(tokenizer._encoder._engines)


def test_a_first_short_text_is_encoded_by_the_written_out_encoder_and_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To make the fast library takes 0.2 seconds, which a prompt of four words need not wait."""
    monkeypatch.setattr(encoders, "BUDGET", 10**9)
    path = ROOT / "gpt2lab" / "assets" / "gpt2" / "vocab.bpe"
    made = (lambda: Tokenizer(small()), lambda: Tokenizer.load(path))
    plain, fast = [make() for make in made], [make() for make in made]
    draw = random.Random(4)
    for library in fast:
        library.encode("é")
    for _ in range(1500):
        likely = " \n'the and ing said's 42, don't\t"
        alphabet = likely if draw.random() < 0.5 else "".join(map(chr, range(128)))
        text = "".join(draw.choices(alphabet, k=draw.randrange(1, 60)))
        for ours, library in zip(plain, fast, strict=True):
            assert ours.encode(text) == library.encode(text), ascii(text)
    assert not any(map(has_engine, plain)) and all(map(has_engine, fast))


def test_the_library_is_made_for_what_plain_python_does_not_settle() -> None:
    for text in ("é", "a" * 301, f"a{END}"):
        tokenizer = Tokenizer(small())
        assert tokenizer.encode("the a") and not has_engine(tokenizer)
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert has_engine(tokenizer)
    tokenizer = Tokenizer(small())
    for _ in range(20):
        tokenizer.encode("the and " * 30)
    assert has_engine(tokenizer)


def test_gpt2s_own_vocabulary_is_not_read_beside_another(tmp_path):
    """Each load of a model with another vocabulary read this one too, to compare the objects."""
    official.cache_clear()
    other = Tokenizer.characters("abc", ["<|endoftext|>"])
    assert not is_official(other)
    assert official.cache_info().currsize == 0
    assert is_official(official())
