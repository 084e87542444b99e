"""Learning vocabularies: the same as on the whole text, in bounded memory, twice the same."""

from __future__ import annotations

import builtins
import json
import random
import tracemalloc
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2lab.errors import InputError, MissingExtraError
from gpt2lab.text import learn as bpe
from gpt2lab.text.bpe import byte_symbols, pretokenize
from gpt2lab.text.tokenizer import Tokenizer

END = "<|endoftext|>"


def prose(n_bytes: int, seed: int = 0) -> str:
    """Made-up sentences of made-up words, with some of everything that cuts words."""
    draw = random.Random(seed)
    syllables = ["ba", "ko", "mi", "ré", "sha", "ing", "ed", "don't", "漢", "42", "--", "\t"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(400)]
    text = "".join(
        draw.choice(words) + draw.choice([" ", " ", ", ", ".\n", "\n\n  "])
        for _ in range(n_bytes // 6)
    )
    return text.encode()[:n_bytes].decode(errors="ignore")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(prose(200_000), encoding="utf-8", newline="")
    return path


def spec(tokenizer: Tokenizer) -> dict[str, Any]:
    _, (contents, *_) = tokenizer.__reduce__()
    return contents


def test_learned_ids_are_in_the_official_order(file: Path) -> None:
    tokenizer = bpe.learn([file], 400, special_tokens=(END, "<pad>"))
    assert (tokenizer.n_vocab, tokenizer.end_token, tokenizer.kind) == (400, 398, "bpe")
    assert tokenizer.special_tokens == {END: 398, "<pad>": 399}
    assert tokenizer.pieces([0, 1]) == ["!", '"']
    vocab = spec(tokenizer)["model"]["vocab"]
    assert list(vocab)[:256] == byte_symbols()
    assert [left + right for left, right in spec(tokenizer)["model"]["merges"]] == list(vocab)[
        256:-2
    ]
    text = prose(5000, seed=2)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.count(text) < len(text.encode()) / 1.5


def test_learning_from_chunks_is_learning_from_the_whole_text(file: Path) -> None:
    peer = tokenizers.Tokenizer(tokenizers.models.BPE())
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=499, min_frequency=2, initial_alphabet=byte_symbols(), show_progress=False
    )
    peer.train_from_iterator([file.read_text(encoding="utf-8")], trainer)
    ours = spec(bpe.learn(file, 500))["model"]
    theirs = json.loads(peer.to_str())["model"]
    assert [list(merge) for merge in ours["merges"]] == theirs["merges"]
    assert {name for name in ours["vocab"] if name != END} == set(theirs["vocab"])


def test_learning_twice_gives_the_same(file: Path) -> None:
    assert spec(bpe.learn([file], 450)) == spec(bpe.learn([file], 450))
    some = {"max_bytes": 30_000}
    assert spec(bpe.learn([file], 450, **some)) == spec(bpe.learn([file], 450, **some))


def test_several_files_are_one_text(tmp_path: Path) -> None:
    text = prose(60_000)
    half = text.index(" ", 30_000)
    names = {"whole": text, "a": text[:half], "b": text[half:], "empty": ""}
    for name, part in names.items():
        (tmp_path / name).write_text(part, encoding="utf-8", newline="")
    whole = bpe.learn([tmp_path / "whole"], 350)
    parts = bpe.learn([tmp_path / "a", tmp_path / "empty", str(tmp_path / "b")], 350)
    assert spec(whole) == spec(parts)


def test_a_small_text_gives_a_smaller_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "small").write_text("the the the")
    tokenizer = bpe.learn([tmp_path / "small"], 1000)
    assert tokenizer.n_vocab == len(spec(tokenizer)["model"]["vocab"]) < 265
    assert tokenizer.end_token == tokenizer.n_vocab - 1
    assert bpe.learn([tmp_path / "small"], 257).encode("the") == [83, 71, 68]
    assert bpe.learn([tmp_path / "small"], 256, special_tokens=()).end_token is None


def test_min_frequency(tmp_path: Path) -> None:
    (tmp_path / "small").write_text("abc abc abc xyz xyz")
    learned = [
        set(spec(bpe.learn([tmp_path / "small"], 1000, min_frequency=n))["model"]["vocab"])
        for n in (2, 3, 4)
    ]
    assert {"abc", "Ġxyz"} <= learned[0]
    assert "abc" in learned[1]
    assert not {"xy", "yz", "Ġx"} & learned[1]
    assert len(learned[2]) == 257


pieces = st.sampled_from(
    [
        "a",
        "bc",
        " ",
        "  ",
        "\n",
        "\n\n",
        "'",
        "'s",
        "'re",
        "é",
        "漢字",
        "😀",
        "1",
        "23",
        "!",
        "...",
        "\t",
        "_",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, min_size=2, max_size=30).map("".join), st.data())
def test_cuts_fall_between_pre_tokens(text: str, data: st.DataObject) -> None:
    """Wherever a chunk happens to end, its words are those of the whole text."""
    end = data.draw(st.integers(2, len(text))) if len(text) > 2 else len(text)
    cut = bpe.last_cut(text[:end])
    if cut < end:
        assert pretokenize(text[:cut]) + pretokenize(text[cut:]) == pretokenize(text)
    start = data.draw(st.integers(0, len(text) - 1))
    cut = start + bpe._first_cut(text[start:])
    if cut < len(text):
        assert pretokenize(text[:cut]) + pretokenize(text[cut:]) == pretokenize(text)


def test_chunks_are_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = file.read_text(encoding="utf-8")
    for size in (61, 1000, 1 << 16):
        monkeypatch.setattr(bpe, "CHUNK", size)
        found = list(bpe.chunks([file], 10**9))
        assert "".join(found) == text
        assert list(chain.from_iterable(map(pretokenize, found))) == pretokenize(text)


def test_a_run_without_a_cut_stays_bounded(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("漢" * 200_000, encoding="utf-8")
    found = list(bpe.chunks([path], 10**9))
    assert sum(map(len, found)) == 200_000
    assert max(map(len, found)) <= bpe.CHUNK


def test_a_sample_is_whole_words_of_the_text(tmp_path: Path) -> None:
    paths, text = [tmp_path / "a", tmp_path / "b"], prose(1_500_000)
    paths[0].write_text(text, encoding="utf-8", newline="")
    paths[1].write_text(prose(700_000, seed=9), encoding="utf-8", newline="")
    found = list(bpe.chunks(paths, 400_000))
    assert len(found) == 6
    size = sum(len(part.encode()) for part in found)
    assert 350_000 < size <= 400_000
    both = paths[0].read_text(encoding="utf-8") + paths[1].read_text(encoding="utf-8")
    at = 0
    for part in found:  # in order, each a piece of the files, no word cut
        at = both.index(part, at)
        words = pretokenize(both[max(0, at - 40) : at + len(part) + 40])
        inner = pretokenize(part)
        assert any(words[i : i + len(inner)] == inner for i in range(len(words)))
        at += len(part)
    assert at > 1_500_000  # the last one lies in the second file


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Sixteen times the file, the same peak: whole, and as a sample."""
    block, peaks = prose(100_000).encode(), []
    for number, times in enumerate((10, 160)):
        path = tmp_path / str(number)
        path.write_bytes(block * times)
        for max_bytes in (1 << 30, 1 << 19):
            tracemalloc.start()
            read = sum(len(part) for part in bpe.chunks([path], max_bytes))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert read <= max_bytes
    assert max(peaks) < 2_000_000
    assert max(peaks) < 1.2 * min(peaks[0], peaks[2])


def test_characters_of_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello\n", encoding="utf-8")
    (tmp_path / "b").write_text("wörld 漢", encoding="utf-8")
    tokenizer = bpe.learn_characters([tmp_path / "a", tmp_path / "b"], special_tokens=[END])
    assert tokenizer.pieces(range(tokenizer.n_vocab)) == [*"\n dehlorwö漢", END]
    assert (tokenizer.kind, tokenizer.end_token) == ("characters", 11)
    assert bpe.learn_characters(tmp_path / "a").end_token is None


def test_learned_vocabularies_are_saved_and_loaded(file: Path, tmp_path: Path) -> None:
    for tokenizer in (bpe.learn([file], 300), bpe.learn_characters([file])):
        tokenizer.save(tmp_path / tokenizer.kind)
        assert spec(Tokenizer.load(tmp_path / tokenizer.kind)) == spec(tokenizer)


@pytest.mark.parametrize("learn", [lambda paths: bpe.learn(paths, 300), bpe.learn_characters])
def test_bad_files_are_refused(learn: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "latin").write_bytes(b"a" * 100_000 + "é".encode("latin-1") + b"b" * 10)
    (tmp_path / "cut").write_bytes("abc é".encode()[:-1])
    cases = {
        "no files given": [],
        "nowhere: cannot be read": [tmp_path / "nowhere"],
        "is a folder": [tmp_path],
        "empty; there is nothing": [tmp_path / "empty"],
        "latin: byte 100000 is not UTF-8": [tmp_path / "latin"],
        "cut: byte 4 is not UTF-8": [tmp_path / "cut"],
    }
    for message, paths in cases.items():
        with pytest.raises(InputError, match=message):
            learn(paths)


@pytest.mark.parametrize(
    ("message", "n_vocab", "settings"),
    [
        ("is 256; it must be an integer from 257", 256, {}),
        ("is 255; it must be an integer from 256", 255, {"special_tokens": ()}),
        ("is 1000000000000; .* to 1048576", 10**12, {}),  # the library would abort
        ("max_bytes is 0", 300, {"max_bytes": 0}),
        ("min_frequency is 0", 300, {"min_frequency": 0}),
        ("'a' has the id", 300, {"special_tokens": ["a"]}),
        ("the name of a token is empty", 300, {"special_tokens": [""]}),
    ],
)
def test_bad_numbers_are_refused(
    message: str, n_vocab: int, settings: dict[str, Any], file: Path
) -> None:
    with pytest.raises(InputError, match=message):
        bpe.learn([file], n_vocab, **settings)


def test_without_the_library_the_extra_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"gpt2lab\[learn\]"):
        bpe.learn([file], 300)
