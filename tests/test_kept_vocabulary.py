"""Large vocabularies kept from one process to the next: the same in everything, and never stale."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from pathlib import Path

import pytest

from gpt2lab.errors import InputError
from gpt2lab.text import kept_vocabulary, tokenizer
from gpt2lab.text.packed_vocabulary import Names, packed, unpacked
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.text.tokenizer_json import ranks_of

FABLE = Path(__file__).parents[1] / "gpt2lab" / "assets" / "fable"
TEXTS = ("Once upon a time", "", "  two\n\n", "naïve 中文 \U0001f600", "<|endoftext|> x", "'ll 123")


def aged(folder: Path, seconds: float = 100) -> None:
    """Files that have lain there for a while; younger ones are not kept."""
    for file in folder.iterdir():
        os.utime(file, (time.time() - seconds,) * 2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a vocabulary, whose files are old enough, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_vocabulary, "SETTLED", -1.0)
    made = tmp_path / "model"
    made.mkdir()
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(FABLE / name, made)
    aged(made)
    return made


def is_packed(found: Tokenizer) -> bool:
    return isinstance(found._spec["model"]["vocab"], Names)


def both(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """The vocabulary as read, and as kept."""
    read, kept = Tokenizer.load(folder), Tokenizer.load(folder)
    assert not is_packed(read) and is_packed(kept)
    return read, kept


def test_a_kept_vocabulary_is_the_same_in_everything(folder, tmp_path):
    read, kept = both(folder)
    for name in ("n_vocab", "special_tokens", "end_token", "before", "after", "settings", "notes"):
        assert getattr(read, name) == getattr(kept, name), name
    assert (read.kind, repr(read)) == (kept.kind, repr(kept))
    for text in TEXTS:
        ids = read.encode(text)
        assert kept.encode(text) == ids and kept.decode(ids) == text
        assert read.steps(text) == kept.steps(text)
        assert read.encode(text, "all") == kept.encode(text, "all")
    every = range(read.n_vocab)
    assert read._bytes_of_each(every) == kept._bytes_of_each(every)
    assert list(ranks_of(kept._spec).items()) == list(ranks_of(read._spec).items())
    assert dict(kept._vocab.items()) == read._vocab
    for made in (kept, pickle.loads(pickle.dumps(kept))):
        made.save(tmp_path / "saved")
        read.save(tmp_path / "other")
        for file in (tmp_path / "other").iterdir():
            assert (tmp_path / "saved" / file.name).read_bytes() == file.read_bytes()


def test_short_prompts_of_a_kept_vocabulary_need_no_library(folder, monkeypatch):
    _, kept = both(folder)
    monkeypatch.setattr(kept._encoder, "_engine", None)
    assert kept.decode(kept.encode("Once upon a time, in the forest")).startswith("Once upon")


def test_a_file_that_changes_or_comes_is_read(folder):
    """Also one that was not there when the vocabulary was kept."""
    both(folder)
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<pad>"}))
    found = Tokenizer.load(folder)
    assert not is_packed(found) and "<pad>" in found.special_tokens
    spec = json.loads((folder / "tokenizer.json").read_text())
    first = next(iter(spec["model"]["vocab"]))
    spec["model"]["vocab"]["!!changed!!"] = spec["model"]["vocab"].pop(first)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(InputError):  # a merge needs what has gone, or a byte is missing
        Tokenizer.load(folder).encode("!")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="holds no vocabulary"):
        Tokenizer.load(folder)


def test_a_young_file_is_not_kept(folder, monkeypatch):
    """It may change again within one tick of its clock."""
    monkeypatch.setattr(kept_vocabulary, "SETTLED", 3600.0)
    assert not any(is_packed(Tokenizer.load(folder)) for _ in range(2))


def test_a_damaged_kept_vocabulary_is_made_again(folder, tmp_path):
    both(folder)
    [file] = (tmp_path / "cache" / "gpt2lab" / "vocabularies").iterdir()
    good = file.read_bytes()
    for bad in (b"", good[:20], good[:-1], good[:500] + b"x" + good[501:], good + b"x"):
        file.write_bytes(bad)
        assert not is_packed(Tokenizer.load(folder))
        assert file.read_bytes() == good


def test_no_cache_folder_is_no_matter(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(kept_vocabulary, "cache_folder", lambda name: tmp_path / "file" / name)
    assert not any(is_packed(Tokenizer.load(folder)) for _ in range(2))


@pytest.mark.parametrize(
    ("vocab", "merges"),
    [
        ({"a": 0, "b": 2}, []),  # a hole
        ({"b": 1, "a": 0}, []),  # another order
        ({"a": 0, "b": 1, "aa": 2, "ab": 3, "aab": 4}, [("aa", "b"), ("a", "ab")]),  # made twice
    ],
)
def test_what_cannot_be_packed_exactly_is_not_kept(vocab, merges):
    assert packed(vocab, merges) is None


def test_names_and_ranks_are_those_of_the_dicts():
    vocab = {name: i for i, name in enumerate(["b", "é", "a", "ab", "中a", "abb", "éa"])}
    merges = [("a", "b"), ("ab", "b"), ("é", "a")]
    names, ranks = unpacked(packed(vocab, merges))
    assert dict(names.items()) == vocab and len(names) == 7
    assert [names.get(name) for name in ("", "c", "zz", "\udc80", "abbb")] == [None] * 5
    assert list(ranks.items()) == [(pair, rank) for rank, pair in enumerate(merges)]
    assert [("a", "bb") in ranks, ("ab", "") in ranks, ("a", "a") in ranks] == [False] * 3


def test_the_official_vocabulary_is_kept_too(folder, monkeypatch):
    del folder
    read = tokenizer.official.__wrapped__()
    kept = tokenizer.official.__wrapped__()
    assert is_packed(kept) and not is_packed(read)
    assert kept.encode(" long" * 700) == read.encode(" long" * 700)
    assert read._bytes_of_each(range(50257)) == kept._bytes_of_each(range(50257))
