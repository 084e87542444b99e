"""Texts to shards: every kind of file, the same bytes however it is done, and clear refusals."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import logging
import os
import pickle
import random
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2lab.commands.prepare import command
from gpt2lab.corpus import encoding_pass, shard_file
from gpt2lab.corpus import prepare as room
from gpt2lab.corpus.batches import Batches
from gpt2lab.corpus.documents import Reading, decoding, document_parts, plain, text_files
from gpt2lab.corpus.manifest import MANIFEST, summary
from gpt2lab.corpus.open import open_set
from gpt2lab.corpus.preparation import RANGE, holdout_limit
from gpt2lab.corpus.prepare_log import PROGRESS
from gpt2lab.corpus.shard_file import Mark, ShardWriter, read_row, token_dtype
from gpt2lab.corpus.token_set import TokenSet
from gpt2lab.errors import Failure, InputError, MissingExtraError
from gpt2lab.text.tokenizer import Tokenizer, official

from .corpus_helpers import BYTES, END, MARK, parts_of, prepare, texts_of, write
from .support import ROOT

GPT2_END = 50256


def prose(words: int, seed: int = 0) -> str:
    """Made-up text with some of everything that cuts words."""
    draw = random.Random(seed)
    known = ["the", "Fox", "don't", "42", "résumé", "--", "漢字", "a", "houses", "'s", "x_y", "\t"]
    ends = [" ", " ", " ", ", ", ".\n", "\n\n  ", "! ", "\n\t"]
    return "".join(draw.choice(known) + draw.choice(ends) for _ in range(words))


def story(count: int, seed: int = 0, words: int = 40) -> str:
    """Documents parted by marker lines."""
    return f"\n{MARK}\n".join(prose(words, seed * 1000 + n).strip() for n in range(count))


def decoded(data: TokenSet | None) -> list[str]:
    """The documents of a set as text, without their end tokens."""
    assert data is not None and data.tokenizer is not None
    found, start = [], 0
    for end in data.ends.tolist():
        ids = data.tokens[start:end].tolist()
        if data.end_token is not None:
            assert ids[-1] == data.end_token
            ids = ids[:-1]
        found.append(data.tokenizer.decode(ids))
        start = end
    return found


def files_of(folder: Path) -> dict[str, str]:
    """sha256 of every file."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture
def notes(caplog):
    """A function: what was logged since it was last asked, but for the report of what was read."""
    caplog.set_level(logging.INFO, logger="gpt2lab")

    def take() -> list[str]:
        report = ("read ", "line ends: ", "the first ")
        found = [line for line in caplog.messages if not line.startswith(report)]
        caplog.clear()
        return found

    return take


def small(**more):
    """Settings under which a little text makes several shards and chunks."""
    return {"held_out": 0.1, "shard_tokens": 3000, "workers": 1, **more}


# --- documents ------------------------------------------------------------------------------------


def test_marker_lines_part_documents(tmp_path):
    text = (
        f"one\n{MARK}\n\ntwo\n\nstill two\r\n{MARK}  \r\n{MARK}\n \n{MARK}\nin {MARK} line\n{MARK}"
    )
    assert texts_of(write(tmp_path / "a.txt", text)) == [
        "one",
        "two\n\nstill two",
        f"in {MARK} line",
    ]
    assert texts_of(write(tmp_path / "b.md", "\ufeff# Title\n\nAll of it.\n")) == [
        "# Title\n\nAll of it.\n"
    ]


PARTS = st.lists(
    st.sampled_from(
        ["a", "bc ", " d", "\n", "\r\n", MARK, "<|endof", "text|>", "\n" + MARK + "\n"]
    ),
    max_size=25,
)


@given(PARTS, st.data())
@settings(max_examples=300, deadline=None)
def test_documents_do_not_depend_on_how_a_file_arrives(parts, data):
    text = "".join(parts)

    def cut(blocks) -> list[str]:
        cutter, found, open_ = plain.Cutter(Reading()), [], ""
        out = [piece for block in blocks for piece in cutter.push(block)] + list(cutter.flush())
        for piece, last in out:
            open_ += piece
            if last:
                found.append(open_)
                open_ = ""
        return found

    size = data.draw(st.integers(1, 20))
    assert cut(text[i : i + size] for i in range(0, len(text), size)) == cut([text])


@pytest.mark.parametrize("name", ["texts.txt", "texts.txt.gz"])
def test_pieces_have_the_tokens_of_the_whole(tmp_path, monkeypatch, name):
    monkeypatch.setattr(plain, "PIECE", 64)
    monkeypatch.setattr(decoding, "BLOCK", 100)
    text = prose(3000)
    data = text.encode()
    path = write(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
    found = list(document_parts(text_files([path])[0], Reading()))
    assert "".join(piece.text for piece in found) == text
    assert [piece.last for piece in found] == [False] * (len(found) - 1) + [True]
    assert all(len(piece.text) <= 128 for piece in found) and len(found) > 100
    tokens = [id_ for piece in found for id_ in official().encode(piece.text)]
    assert tokens == official().encode(text)


def test_a_long_text_needs_little_memory(tmp_path):
    """30 MB, without a marker, with and without white space."""
    for name, unit in (("spaces.txt", "word " * 2000), ("none.txt", "漢字，" * 1000)):
        path = write(tmp_path / name, unit * (30_000_000 // len(unit.encode())))
        tracemalloc.start()
        count = sum(len(piece.text) for piece in parts_of(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count > 9_000_000 and peak < 20 << 20


def test_tables(tmp_path):
    table = 'title,body,n\nA,"one, ""two""\nthree",1\n\nB,,2\n,,3\n'
    path = write(tmp_path / "t.csv", table)
    assert texts_of(path, columns=("body",)) == ['one, "two"\nthree']
    assert texts_of(path, columns=("title", "2")) == ['A\none, "two"\nthree', "B"]
    assert texts_of(write(tmp_path / "one.csv", "text\nx\n\ny")) == ["x", "y"]
    assert texts_of(write(tmp_path / "s.csv", "a;b\n1,5;x\n"), columns=("a",)) == ["1,5"]
    assert texts_of(write(tmp_path / "t.tsv", "a\tb\n1\t2\n"), columns=("b",)) == ["2"]
    assert texts_of(write(tmp_path / "g.csv.gz", gzip.compress(b"text\nx\n"))) == ["x"]
    long = "x " * 200_000
    assert texts_of(write(tmp_path / "l.csv", f'a\n"{long}"\n')) == [long]


def test_json_lines(tmp_path):
    lines = '{"text": "one\\ntwo", "n": 1}\n\n{"text": null}\n{"text": "\\u00e9 \u2028 x"}'
    assert texts_of(write(tmp_path / "t.jsonl", lines)) == ["one\ntwo", "é \u2028 x"]
    assert texts_of(write(tmp_path / "g.jsonl.gz", gzip.compress(b'{"text": "g"}'))) == ["g"]
    assert texts_of(write(tmp_path / "b.jsonl", '{"body": "b"}'), field="body") == ["b"]


def test_parquet(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"text": ["one", None, "two"] * 5, "more": ["x"] * 15})
    pq.write_table(table, tmp_path / "named.anything", row_group_size=4)
    path = tmp_path / "named.anything"
    assert texts_of(path) == ["one", "two"] * 5
    assert texts_of(path, columns=("text", "2")) == ["one\nx", "x", "two\nx"] * 5
    with pytest.raises(InputError, match="no column 'none'; choose among 1 text, 2 more"):
        texts_of(path, columns=("none",))
    broken = write(tmp_path / "broken.parquet", path.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a whole parquet file"):
        texts_of(broken)
    numbers = tmp_path / "n.parquet"
    pq.write_table(pa.table({"text": [1, 2]}), numbers)
    with pytest.raises(InputError, match="column text holds a int, expected text"):
        texts_of(numbers)


def test_parquet_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = write(tmp_path / "a.parquet", b"PAR1....PAR1")
    with pytest.raises(MissingExtraError, match=r"pip install 'gpt2lab\[parquet\]'"):
        texts_of(path)


def test_folders_and_patterns(tmp_path, notes):
    for name in ("b.txt", "a/z.md", "a/y.txt.gz", "a/.hidden.txt", ".git/x.txt", "c.py", "d.tsv"):
        data = name.encode()
        write(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
    assert texts_of(tmp_path) == ["b.txt", "a/y.txt.gz", "a/z.md"]
    assert texts_of(str(tmp_path / "**" / "*.md"), tmp_path / "c.py") == ["a/z.md", "c.py"]
    found = text_files([tmp_path / "b.txt", str(tmp_path / "*.txt")])
    assert len(found) == 1 and "b.txt is named twice; it is read once" in notes()[0]
    write(tmp_path / "odd [1].txt", "odd")
    assert texts_of(tmp_path / "odd [1].txt") == ["odd"]


def test_other_encodings(tmp_path):
    for encoding in ("utf-16", "cp1252", "utf-8", "shift_jis"):
        text = "テキスト\n" * 9 if encoding == "shift_jis" else "Ünïcode – text\n" * 9
        path = write(tmp_path / encoding, text, encoding)
        assert texts_of(path, encoding=encoding) == [text]


BAD = {
    "empty.txt": (b"", "empty; give at least one file with text in it"),
    "zero.txt": (b"ab\n\0cd", "no text: a zero byte at offset 3; give text files"),
    "latin.txt": (b"un caf\xe9 !", "0xe9 in line 1, at offset 6; it may be cp1252 'café !'"),
    "western.txt": (b"say \x93hi\x94", "0x93 in line 1, at offset 4; it may be cp1252 '“hi”'"),
    "wide.txt": ("text\n".encode("utf-16-le"), "a zero byte at offset 1, as in utf-16-le 'text'"),
    "cut.txt": (b"abc\xe2\x82", "damaged UTF-8: byte 0xe2 in line 1, at offset 3: the file ends"),
    "a.docx": (b"PK\x03\x04....", "no text but a zip file, as .docx"),
    "a.pdf": (b"%PDF-1.7\n", "no text but a PDF"),
    "a.json": (b'{"text": "a"}', "its name says .json; expected JSON lines"),
    "a.csv": (b"id,body\n1,x\n", "which column\\? choose with --column; it has 1 id, 2 body"),
    "b.csv": (b'text\n"open\n', "line 2: no CSV \\(unexpected end of data\\); a quote may be"),
    "a.jsonl": (
        b'{"text": "a"}\n{"body": 1}\n',
        "line 2: no field 'text'; choose by --field among",
    ),
    "b.jsonl": (b'{"text": "a"}\nnot json\n', "line 2: not valid JSON"),
    "c.jsonl": (b'["a"]\n', "line 1: a list, expected an object with 'text'"),
    "d.jsonl": (b'{"text": "\\ud800"}\n', "line 1: field 'text' holds half a surrogate pair"),
    "cut.gz": (gzip.compress(b"text" * 99)[:-9], "a damaged gzip"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(tmp_path, name):
    data, message = BAD[name]
    path = write(tmp_path / name, data)
    with pytest.raises(InputError, match=message) as error:
        texts_of(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_bad_words_are_named(tmp_path):
    path = write(tmp_path / "a.csv", "id,body\n1,x\n2\n")
    with pytest.raises(InputError, match="no column 'title'; choose among 1 id, 2 body"):
        texts_of(path, columns=("title",))
    with pytest.raises(InputError, match="line 3: 1 cells, the header has 2"):
        texts_of(path, columns=("body",))
    with pytest.raises(InputError, match="no file matches this pattern"):
        texts_of(str(tmp_path / "*.nothing"))
    with pytest.raises(InputError, match="there is no such file"):
        texts_of(tmp_path / "missing.txt")
    with pytest.raises(InputError, match=r"no texts in this folder; looked for \.txt"):
        (tmp_path / "bare").mkdir()
        texts_of(tmp_path / "bare")
    with pytest.raises(InputError, match="encoding: 'klingon' is unknown"):
        Reading(encoding="klingon")


def test_the_offset_of_a_wrong_byte_counts_in_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "BLOCK", 10)
    path = write(tmp_path / "a.txt", "é".encode() * 52 + b"\xff" + b"x" * 50)
    with pytest.raises(InputError, match="damaged UTF-8: byte 0xff in line 1, at offset 104"):
        texts_of(path)


def test_an_empty_file_among_others_is_left_out(tmp_path, notes):
    paths = [write(tmp_path / "a.txt", "text"), write(tmp_path / "b.txt", "")]
    assert len(text_files(paths)) == 1
    assert notes() == [f"{paths[1]} is empty; it is left out"]


# --- shards ---------------------------------------------------------------------------------------


def test_documents_end_with_the_end_token(tmp_path):
    text = story(60)
    prepare([write(tmp_path / "a.txt", text)], tmp_path / "out", **small())
    train, val = open_set(tmp_path / "out"), open_set(tmp_path / "out", "val")
    assert train and val and train.end_token == END and train.n_vocab == 257
    kept, held = decoded(train), decoded(val)
    assert sorted(kept + held) == sorted(text.split(f"\n{MARK}\n"))
    assert [t for t in text.split(f"\n{MARK}\n") if t in kept] == kept
    assert kept and held
    ids = [id_ for part in kept for id_ in [*BYTES.encode(part), END]]
    assert train.tokens[:].tolist() == ids
    assert len(list((tmp_path / "out").glob("train-*.tokens.npy"))) > 1
    assert not list((tmp_path / "out").glob("*.part")) and not (tmp_path / "out/.lock").exists()


def test_the_manifest_tells_all(tmp_path):
    path = write(tmp_path / "a.txt", story(30))
    done = prepare([path], tmp_path / "out", **small())
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["sources"] == [
        {
            "name": str(path),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "split": "drawn",
            "documents": 30,
            "found": {
                "kind": "text",
                "encoding": "utf-8",
                "first": path.read_text().lstrip()[:60],
            },
        }
    ]
    for split in ("train", "val"):
        entry = manifest["splits"][split]
        assert entry["tokens"] == done.tokens[split] == sum(s["tokens"] for s in entry["shards"])
        assert entry["documents"] == done.documents[split]
        for number, shard in enumerate(entry["shards"]):
            for kind in ("tokens", "ends"):
                data = (tmp_path / "out" / f"{split}-{number:05d}.{kind}.npy").read_bytes()
                assert hashlib.sha256(data).hexdigest() == shard[f"{kind}_sha256"]
            assert shard["highest"] == END
    assert manifest["settings"]["seed"] == 0 and manifest["vocabulary"]["n_vocab"] == 257
    assert done.characters == sum(map(len, texts_of(path)))


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_change_no_byte(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(encoding_pass, "CHUNK", 500)
    paths = [write(tmp_path / f"{n}.txt", story(40, n)) for n in range(3)]
    prepare(paths, tmp_path / "one", **small())
    prepare(paths, tmp_path / "many", **small(workers=workers))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "many")


def test_shards_do_not_change_the_fingerprint(tmp_path):
    path = write(tmp_path / "a.txt", story(40))
    found = []
    for number, size in enumerate((100, 3000, 10**6)):
        prepare([path], tmp_path / str(number), held_out=0.1, shard_tokens=size)
        data = open_set(tmp_path / str(number))
        assert data is not None
        found.append((data.fingerprint, data.tokens[:].tolist(), data.ends.tolist()))
    assert found[0] == found[1] == found[2]
    prepare([path], tmp_path / "other", held_out=0.2)
    other = open_set(tmp_path / "other")
    assert other is not None and other.fingerprint != found[0][0]


def test_long_documents_are_moved_whole_when_held_out(tmp_path, monkeypatch):
    """Which side one falls on shows at its end; until then it stands among those kept."""
    monkeypatch.setattr(plain, "PIECE", 200)
    monkeypatch.setattr(decoding, "BLOCK", 200)
    monkeypatch.setattr(encoding_pass, "CHUNK", 300)
    monkeypatch.setattr(shard_file, "BUFFER", 50)
    path = write(tmp_path / "a.txt", story(30, words=300))
    prepare([path], tmp_path / "pieces", **small(held_out=0.3))
    monkeypatch.undo()
    prepare([path], tmp_path / "whole", **small(held_out=0.3))
    assert files_of(tmp_path / "pieces") == files_of(tmp_path / "whole")
    assert len(decoded(open_set(tmp_path / "whole", "val"))) > 3


def test_characters_have_no_end_token(tmp_path):
    path = write(tmp_path / "a.txt", f"hello\n{MARK}\nworld")
    done = prepare([path], tmp_path / "out", characters=True, held_out=0)
    data = open_set(tmp_path / "out")
    assert data is not None and data.end_token is None and data.n_vocab == done.n_vocab == 7
    assert decoded(data) == ["hello", "world"] and done.characters_per_token == 1
    assert open_set(tmp_path / "out", "val") is None


def test_a_vocabulary_is_learned_first(tmp_path):
    pytest.importorskip("tokenizers")
    path = write(tmp_path / "a.txt", story(40))
    done = prepare([path], tmp_path / "out", learn=300)
    data = open_set(tmp_path / "out")
    assert data is not None and data.tokenizer is not None
    assert done.n_vocab == data.n_vocab == 300 and data.end_token == 299
    assert MARK not in "".join(decoded(data))
    with pytest.raises(InputError, match=r"tokens of another vocabulary .* than the one given"):
        open_set(tmp_path / "out", tokenizer=official())


def test_a_vocabulary_that_sees_where_a_text_begins(tmp_path, monkeypatch):
    """Its documents are encoded whole, as their pieces would each get a space put before them."""
    tokenizers = pytest.importorskip("tokenizers")
    prepare([write(tmp_path / "v.txt", story(9))], tmp_path / "v", learn=290, held_out=0)
    made = tokenizers.Tokenizer.from_file(str(tmp_path / "v" / "tokenizer.json"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.save(str(tmp_path / "tokenizer.json"))
    other = Tokenizer.load(tmp_path / "tokenizer.json")
    assert other.kind == "other" and not other.is_local and official().is_local
    monkeypatch.setattr(plain, "PIECE", 100)
    monkeypatch.setattr(decoding, "BLOCK", 100)
    text = prose(500).strip()
    prepare([write(tmp_path / "a.txt", text)], tmp_path / "out", tokenizer=other, held_out=0)
    data = open_set(tmp_path / "out")
    assert data is not None
    assert data.tokens[:].tolist() == [*other.encode(text), other.end_token]


# --- held out -------------------------------------------------------------------------------------


def sides(path: Path, out: Path, **more) -> tuple[list[str], list[str]]:
    prepare([path], out, force=True, **more)
    val = open_set(out, "val")
    return decoded(open_set(out)), decoded(val) if val else []


def test_a_document_stays_on_its_side(tmp_path):
    """It is drawn by its text: other documents, their order and doubles change nothing."""
    parts = story(80).split(f"\n{MARK}\n")
    path, out = tmp_path / "a.txt", tmp_path / "out"
    write(path, f"\n{MARK}\n".join(parts))
    _, held = sides(path, out, held_out=0.2)
    assert 5 < len(held) < 30
    write(path, f"\n{MARK}\n".join(reversed(parts[:60] + parts[:60])))
    kept, again = sides(path, out, held_out=0.2)
    assert set(again) == set(held) & set(parts[:60]) and not set(kept) & set(again)
    assert len(again) == 2 * len(set(again))
    assert set(sides(path, out, held_out=0.2, seed=1)[1]) != set(again)


@given(
    st.lists(st.integers(0, RANGE - 1), min_size=2, max_size=6, unique=True),
    st.sampled_from([1e-9, 0.01, 0.5, 0.99999]),
)
@settings(max_examples=60, deadline=None)
def test_there_is_one_on_each_side(numbers, share):
    assert min(numbers) < holdout_limit(numbers, share) <= max(numbers)


def test_a_single_document_is_kept_and_said(tmp_path, notes):
    path = write(tmp_path / "a.txt", prose(200))
    done = prepare([path], tmp_path / "out")
    assert done.documents == {"train": 1, "val": 0}
    assert "there is one document only: nothing is held out; name texts" in notes()[0]
    path = write(tmp_path / "b.txt", f"same\n{MARK}\nsame")
    done = prepare([path], tmp_path / "same")
    assert done.documents == {"train": 2, "val": 0} and "the same text" in notes()[0]


def test_named_texts_are_held_out_alone(tmp_path):
    train, val = write(tmp_path / "a.txt", story(50)), write(tmp_path / "b.txt", "held\nout\n")
    done = prepare([train], tmp_path / "out", val=[val], held_out=0.5)
    assert done.documents == {"train": 50, "val": 1}
    assert decoded(open_set(tmp_path / "out", "val")) == ["held\nout\n"]


# --- broken off -----------------------------------------------------------------------------------

SLOW = """
import sys, time
from gpt2lab.corpus import encoding_pass
from tests.corpus_helpers import prepare
encoding_pass.COMMIT, encoding_pass.CHUNK = 0.0, 2000
def wait(progress): time.sleep(0.004)
prepare(sys.argv[2:], sys.argv[1], held_out=0.1, shard_tokens=3000, workers=2, progress=wait)
"""


def inode(path: Path) -> int:
    """Which file this is: every commit writes a new one."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def broken_off(arguments: list[str], out: Path, draw: random.Random) -> bool:
    """Start the work in a process and kill it after some commits; whether that came in time."""
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(out), *arguments], cwd=ROOT)
    left, last = draw.randint(3, 30), inode(out / PROGRESS)
    while process.poll() is None and left:
        if (found := inode(out / PROGRESS)) != last:
            left, last = left - 1, found
        time.sleep(0.0005)
    process.kill()
    assert process.wait() in (0, -9)
    return not (out / MANIFEST).exists()


def test_killed_at_any_time_it_gives_the_same_bytes(tmp_path):
    """kill -9, again and again, while shards are written, closed and moved between splits."""
    paths = [write(tmp_path / f"{n}.txt", story(60, n, words=300)) for n in range(4)]
    paths.append(write(tmp_path / "long.txt.gz", gzip.compress(prose(4000).encode())))
    arguments, out, draw = list(map(str, paths)), tmp_path / "out", random.Random(1)
    kills = 0
    for _ in range(5):
        kills += broken_off(arguments, out, draw)
    assert kills >= 3
    with pytest.raises(InputError, match="not finished by gpt2lab prepare; run the same command"):
        open_set(out)
    prepare(arguments, out, **small())
    prepare(arguments, tmp_path / "whole", **small())
    assert files_of(out) == files_of(tmp_path / "whole")


def stopping_after(count: int):
    """A progress that presses Ctrl-C at its so-manieth call."""
    calls = iter(range(10**6))

    def stop(*_):
        if next(calls) == count:
            raise KeyboardInterrupt

    return stop


def half_done(paths: list[Path], out: Path, monkeypatch, chunks: int = 20, **more) -> None:
    monkeypatch.setattr(encoding_pass, "COMMIT", 0.0)
    monkeypatch.setattr(encoding_pass, "CHUNK", 500)
    with pytest.raises(KeyboardInterrupt):
        prepare(paths, out, progress=stopping_after(chunks), **small(**more))
    assert (out / PROGRESS).exists()


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_text_changed_in_between_is_read_again(tmp_path, monkeypatch, notes, changed):
    paths = [write(tmp_path / f"{n}.txt", story(30, n)) for n in range(3)]
    half_done(paths, tmp_path / "out", monkeypatch, chunks=18)
    # Of the same size: the time or the content has to show it.
    data = paths[changed].read_bytes()
    write(paths[changed], data[:-5] + b"other")
    prepare(paths, tmp_path / "out", **small())
    begun = {0: True, 1: True, 2: False}[changed]
    said = [f"{paths[changed]} has changed since; it and what follows it is read again"]
    assert notes() == (said if begun else [])
    prepare(paths, tmp_path / "new", **small())
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")


def test_a_text_touched_in_between_is_not_read_again(tmp_path, monkeypatch, notes):
    paths = [write(tmp_path / f"{n}.txt", story(30, n)) for n in range(3)]
    half_done(paths, tmp_path / "out", monkeypatch)
    for path in paths:
        os.utime(path, (1, 1))
    prepare(paths, tmp_path / "out", **small())
    assert not notes()
    prepare(paths, tmp_path / "new", **small())
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")


@pytest.mark.parametrize("more", [{"characters": True}, {"learn": 300}])
def test_a_learned_vocabulary_stays_with_its_texts(tmp_path, monkeypatch, notes, more):
    paths = [write(tmp_path / f"{n}.txt", story(30, n)) for n in range(2)]
    half_done(paths, tmp_path / "out", monkeypatch, **more)
    prepare(paths, tmp_path / "out", **small(**more))
    assert not notes()
    prepare(paths, tmp_path / "new", **small(**more))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")
    half_done(paths, tmp_path / "again", monkeypatch, **more)
    write(paths[1], story(30, 7))
    prepare(paths, tmp_path / "again", **small(**more))
    assert "the texts that the vocabulary was learned from have changed" in notes()[0]
    prepare(paths, tmp_path / "changed", **small(**more))
    assert files_of(tmp_path / "again") == files_of(tmp_path / "changed")


def test_other_settings_do_not_go_on(tmp_path, monkeypatch):
    paths = [write(tmp_path / "a.txt", story(40))]
    half_done(paths, tmp_path / "out", monkeypatch, chunks=10)
    with pytest.raises(InputError, match=r"unfinished work with other settings .*seed 0 there, 5"):
        prepare(paths, tmp_path / "out", **small(seed=5))
    prepare(paths, tmp_path / "out", force=True, **small(seed=5))
    prepare(paths, tmp_path / "new", **small(seed=5))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")


@pytest.mark.parametrize("damage", [b'"at', b'"to"'])
def test_a_damaged_log_is_not_continued(tmp_path, monkeypatch, notes, damage):
    paths = [write(tmp_path / "a.txt", story(40))]
    half_done(paths, tmp_path / "out", monkeypatch, chunks=10)
    journal = tmp_path / "out" / PROGRESS
    journal.write_bytes(journal.read_bytes().replace(b'"at"', damage, 1))
    prepare(paths, tmp_path / "out", **small())
    assert "damaged; everything is prepared from the beginning" in notes()[0]
    prepare(paths, tmp_path / "new", **small())
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, notes):
    paths = [write(tmp_path / "a.txt", story(60))]
    monkeypatch.setattr(encoding_pass, "COMMIT", 0.0)
    monkeypatch.setattr(encoding_pass, "CHUNK", 500)
    sync, calls = ShardWriter.sync, iter(range(1000))

    def full(writer):
        if next(calls) == 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(writer)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "sync", full)
        with pytest.raises(Failure, match="No space left on device; free some space"):
            prepare(paths, tmp_path / "out", **small())
    prepare(paths, tmp_path / "out", **small())
    assert not notes()
    prepare(paths, tmp_path / "new", **small())
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")


def test_a_wrong_setting_is_mended_at_once(tmp_path):
    """An error before anything was safe leaves nothing that would be in the way."""
    path = write(tmp_path / "a.txt", "caf\xe9\n", "cp1252")
    with pytest.raises(InputError, match="it may be cp1252 'café'"):
        prepare([path], tmp_path / "out")
    prepare([path], tmp_path / "out", encoding="cp1252", held_out=0)
    assert decoded(open_set(tmp_path / "out")) == ["café\n"]


def test_done_again_it_does_nothing(tmp_path):
    path, out = write(tmp_path / "a.txt", story(20)), tmp_path / "out"
    first = prepare([path], out, **small())
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    again = prepare([path], out, **small(workers=3))
    assert again == first and (first.is_new, again.is_new) == (True, False)
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == before
    with pytest.raises(InputError, match=r"was prepared otherwise \(seed 0 there, 1 now\)"):
        prepare([path], out, **small(seed=1))
    write(path, story(20, 3))
    with pytest.raises(InputError, match="other texts, or the texts have changed"):
        prepare([path], out, **small())
    prepare([path], out, force=True, **small())
    assert decoded(open_set(out)) != []


def test_other_folders_are_left_alone(tmp_path):
    path = write(tmp_path / "a.txt", story(5))
    write(tmp_path / "model" / "tokenizer.json", "{}")
    for force in (False, True):
        with pytest.raises(InputError, match=r"holds other files, as tokenizer.json; choose"):
            prepare([path], tmp_path / "model", force=force)
    with pytest.raises(InputError, match="cannot be written"):
        prepare([path], path)


def test_two_at_once_are_refused(tmp_path):
    import filelock

    path = write(tmp_path / "a.txt", story(5))
    (tmp_path / "out").mkdir()
    with (
        filelock.FileLock(tmp_path / "out" / room.LOCK),
        pytest.raises(InputError, match="another process is preparing texts there"),
    ):
        prepare([path], tmp_path / "out")


def test_what_is_made_is_not_read(tmp_path):
    """The folder that is written may lie in the one that is read; merges.txt is no text."""
    write(tmp_path / "a.txt", story(20))
    first = prepare([tmp_path], tmp_path / "out")
    assert prepare([tmp_path], tmp_path / "out") == first


def test_texts_of_white_space_are_refused(tmp_path):
    path = write(tmp_path / "a.txt", f" \n{MARK}\n\n")
    for more in ({}, {"characters": True}):
        with pytest.raises(InputError, match="no text in these files but white space"):
            prepare([path], tmp_path / "out", **more)


def test_a_character_that_is_missing_is_named(tmp_path):
    tokenizer = Tokenizer.characters("abc ")
    path = write(tmp_path / "a.txt", f"abc\n{MARK}\nab é")
    with pytest.raises(InputError, match=r"a.txt: document 2: text: 'é' .* at position 3 is not"):
        prepare([path], tmp_path / "out", tokenizer=tokenizer)


# --- checked when read ----------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path) -> Path:
    prepare([write(tmp_path / "a.txt", story(30))], tmp_path / "out", **small())
    return tmp_path / "out"


def test_a_changed_byte_is_found(out):
    path = out / "train-00000.tokens.npy"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    found, wanted = (
        hashlib.sha256(data).hexdigest(),
        json.loads((out / "manifest.json").read_text()),
    )
    said = wanted["splits"]["train"]["shards"][0]["tokens_sha256"]
    with pytest.raises(InputError, match=f"its sha256 is {found}, the manifest says {said}"):
        open_set(out)
    assert open_set(out, "val") is not None


def test_a_shard_of_another_size_is_found(out):
    path = out / "train-00000.tokens.npy"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=f"{size - 136} bytes of numbers, its header says"):
        open_set(out)
    path.unlink()
    with pytest.raises(InputError, match=r"train-00000.tokens.npy: cannot be read"):
        open_set(out)


def test_an_id_above_the_vocabulary_is_found(out):
    path = out / "manifest.json"
    path.write_text(path.read_text().replace('"highest": 256', '"highest": 600'))
    with pytest.raises(InputError, match="its highest id is 600, that of the vocabulary 256"):
        open_set(out)


def test_a_set_of_an_earlier_version_is_refused_and_can_be_replaced(out, tmp_path):
    path = out / "manifest.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    (out / "train-00000.tokens").write_bytes(b"gpt2toks")
    again = f"prepare the texts again: gpt2lab prepare TEXT --out {out} --force"
    for call in (lambda: open_set(out), lambda: prepare([tmp_path / "a.txt"], out, **small())):
        with pytest.raises(InputError, match=f"an earlier version of gpt2lab, .*{again}"):
            call()
    prepare([tmp_path / "a.txt"], out, force=True, **small())
    assert open_set(out) is not None and not (out / "train-00000.tokens").exists()


def test_another_vocabulary_in_the_folder_is_found(out, tmp_path):
    Tokenizer.characters("abc").save(out)
    for name in ("vocab.json", "merges.txt"):
        (out / name).unlink()
    with pytest.raises(InputError, match=r"tokens of another vocabulary .* than the one beside it"):
        open_set(out)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": 2', '"version": 3', "version 3; expected 'gpt2lab token shards', 2"),
        ('"highest": ', '"lowest": ', "damaged"),
        ('"splits"', '"parts"', "damaged"),
        ("{", "[", "not valid JSON"),
    ],
)
def test_a_manifest_that_makes_no_sense(out, old, new, message):
    path = out / "manifest.json"
    path.write_text(path.read_text().replace(old, new, 1 if old == "{" else -1))
    with pytest.raises(InputError, match=message):
        open_set(out)


def test_a_shard_alone_leads_to_its_folder(out):
    with pytest.raises(InputError, match="one shard of a set; give its folder"):
        open_set(out / "train-00000.tokens.npy")


def test_wide_ids(tmp_path):
    """Above 65,536 tokens an id takes four bytes."""
    writer = ShardWriter(tmp_path, "train", 70_000, 100, Mark())
    writer.add(np.array([1, 69_999, 3]))
    writer.end()
    assert writer.finish() == 1 and token_dtype(70_000) == np.uint32
    assert np.load(tmp_path / "train-00000.tokens.npy").tolist() == [1, 69_999, 3]
    assert np.load(tmp_path / "train-00000.ends.npy").tolist() == [3]
    assert summary(tmp_path, "train", 1, 70_000)["shards"][0]["highest"] == 69_999


def flipped(data: bytes, random: np.random.Generator) -> bytes:
    """A file with a few characters of its .npy header replaced."""
    signs, changed = b"()[]{},:'\"\\ \n0129LTF<u#\xff\x00", bytearray(data)
    start = data.index(b"{'descr'")
    for place in random.integers(start, start + 62, random.integers(1, 6)):
        changed[place] = signs[random.integers(len(signs))]
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")  # NumPy's and Python's, of odd literals
def test_whatever_stands_in_an_npy_header_is_refused_in_a_line(tmp_path):
    """NumPy lets the errors of Python's tokenizer pass: an open bracket was a traceback."""
    shard, chunks, random = tmp_path / "a.npy", tmp_path / "a.npz", np.random.default_rng(0)
    row = np.arange(300, dtype=np.uint16)
    np.save(shard, row)
    np.savez(chunks, row)
    whole, archive, refused = shard.read_bytes(), chunks.read_bytes(), 0
    for _ in range(300):
        shard.write_bytes(flipped(whole, random))
        chunks.write_bytes(flipped(archive, random))
        for read in (lambda: read_row(shard, row.dtype), lambda: open_set(chunks)):
            try:
                read()
            except InputError as error:
                refused += 1
                assert len(str(error).splitlines()) == 1
    assert refused > 500


HOSTILE = {
    "an object": np.array([{"a": 1}], object),
    "another type": np.arange(9, dtype=np.int16),
    "two dimensions": np.zeros((3, 3), np.uint16),
    "big-endian": np.arange(9, dtype=">u2"),
}


@pytest.mark.parametrize("kind", [*HOSTILE, "cut off", "longer", "empty", "huge", "text"])
def test_a_shard_that_is_another_npy_is_refused_by_its_header(tmp_path, kind):
    path = tmp_path / "a.npy"
    np.save(path, HOSTILE.get(kind, np.arange(9, dtype=np.uint16)), allow_pickle=True)
    data = path.read_bytes()
    data = {
        "cut off": data[:-3],
        "longer": data + b"ab",
        "empty": b"",
        "huge": data.replace(b"(9,), }          ", b"(9000000000000,), }"[:19].ljust(17)),
        "text": b"\x93NUMPY\x01\x00" + b"(" * 200,
    }.get(kind, data)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"not an .npy file|its header says"):
        read_row(path, token_dtype(50257))
    with pytest.raises(InputError, match="has 9 numbers, the manifest says 8"):
        np.save(path, np.arange(9, dtype=np.uint16))
        read_row(path, token_dtype(50257), 8)


# --- what others made -----------------------------------------------------------------------------


def nanogpt(folder: Path, meta: object = None) -> Path:
    """As data/shakespeare_char/prepare.py of nanoGPT writes it."""
    folder.mkdir()
    text = "hello world, hello all"
    chars = sorted(set(text))
    stoi = {c: i for i, c in enumerate(chars)}
    ids = np.array([stoi[c] for c in text], np.uint16)
    ids[:15].tofile(folder / "train.bin")
    ids[15:].tofile(folder / "val.bin")
    itos = dict(enumerate(chars))
    meta = meta or {"vocab_size": len(chars), "itos": itos, "stoi": stoi}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return folder


def test_nanogpts_characters(tmp_path):
    folder = nanogpt(tmp_path / "char")
    train, val = open_set(folder), open_set(folder, "val")
    assert train and val and train.tokenizer and train.fingerprint != val.fingerprint
    assert train.tokenizer.decode(train.tokens[:]) == "hello world, he"
    assert train.tokenizer.decode(val.tokens[:]) == "llo all"
    assert (train.n_vocab, train.end_token, train.ends.tolist()) == (10, None, [15])
    batch = Batches([(train, 1.0)], block=4, batch=2, order="windows", seed=0).rows(0)
    assert batch.tokens.shape == (2, 4)
    with pytest.raises(InputError, match="tokens of another vocabulary"):
        open_set(folder, tokenizer=official())


def test_nanogpts_bpe(tmp_path):
    text = [*official().encode("Hello there"), GPT2_END, *official().encode("And more")]
    (tmp_path / "owt").mkdir()
    for name in ("owt/train.bin", "alone.bin"):
        np.array(text, np.uint16).tofile(tmp_path / name)
        data = open_set(tmp_path / Path(name).parts[0])
        assert data is not None and data.end_token == GPT2_END
        assert data.tokens[:].tolist() == text and data.ends.tolist() == [3, 5]
    assert (
        open_set(tmp_path / "owt", "val") is None
        and open_set(tmp_path / "alone.bin", "val") is None
    )


def test_llmcs_bin(tmp_path):
    head = np.zeros(256, np.int32)
    head[:3] = 20240520, 1, 4
    ids = np.array([GPT2_END, 5, 6, 7], np.uint16)
    write(tmp_path / "a.bin", head.tobytes() + ids.tobytes())
    data = open_set(tmp_path / "a.bin")
    assert data is not None and data.tokens[:].tolist() == [GPT2_END, 5, 6, 7]
    assert data.ends.tolist() == [1, 4]
    write(tmp_path / "a.bin", head.tobytes() + ids.tobytes()[:-2])
    with pytest.raises(InputError, match="has 3 tokens, its header says 4"):
        open_set(tmp_path / "a.bin")


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (Evil(), "asks for posix.system, which|asks for nt.system, which"),
        ({"itos": {}}, "no vocabulary of nanoGPT"),
        ({"vocab_size": 3, "itos": {0: "a", 1: "b"}}, "no vocabulary of nanoGPT"),
        ([1], "no vocabulary of nanoGPT"),
    ],
)
def test_a_bad_meta_is_refused(tmp_path, meta, message):
    folder = nanogpt(tmp_path / "char", meta)
    with pytest.raises(InputError, match=message):
        open_set(folder)
    assert not Path("evil").exists()


def test_bad_bins_are_named(tmp_path):
    with pytest.raises(InputError, match="has 3 bytes, no whole number of uint16"):
        open_set(write(tmp_path / "a.bin", b"abc"))
    with pytest.raises(InputError, match="empty; there is nothing to learn from"):
        open_set(write(tmp_path / "a.bin", b""))
    ids = np.array([1, 2, 50257], np.uint16).tobytes()
    with pytest.raises(InputError, match="the id 50257 at token 2 is outside the vocabulary"):
        open_set(write(tmp_path / "a.bin", ids))


def test_gpt2simples_npz(tmp_path):
    """Each array of np.savez_compressed is a chunk; end tokens in it part it further."""
    np.savez_compressed(tmp_path / "a.npz", *[np.arange(n, n + 3) for n in range(12)])
    data = open_set(tmp_path / "a.npz")
    assert data is not None and data.n_tokens == 36 and data.end_token == GPT2_END
    assert data.tokens[30:33].tolist() == [10, 11, 12] and data.ends.tolist() == list(
        range(3, 39, 3)
    )
    np.savez_compressed(
        tmp_path / "b.npz", np.array([1, GPT2_END, 2]), np.array([GPT2_END, GPT2_END])
    )
    data = open_set(tmp_path / "b.npz")
    assert data is not None and data.ends.tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1, 50257]), "the id 50257 at token 1 is outside the vocabulary"),
        (np.array([3, -1]), "the id -1 at token 1 is outside the vocabulary"),
        (np.array([1.5]), "arr_0 is float64 \\[1\\], expected one row of token ids"),
        (np.array([[1, 2]]), "arr_0 is int64 \\[1, 2\\], expected one row of token ids"),
        (np.array([], np.int64), "holds no tokens"),
        (np.array([{}], object), "not a whole .npz of numbers"),
    ],
)
def test_bad_npz_are_named(tmp_path, array, message):
    np.savez_compressed(tmp_path / "a.npz", array)
    with pytest.raises(InputError, match=message):
        open_set(tmp_path / "a.npz")


def test_a_damaged_npz_is_named(tmp_path):
    held = io.BytesIO()
    np.savez_compressed(held, np.arange(1000))
    data = bytearray(held.getvalue())
    data[80] ^= 255
    for number, damaged in enumerate((bytes(data), held.getvalue()[:-30])):
        path = write(tmp_path / f"{number}.npz", damaged)
        with pytest.raises(InputError, match=r"not a whole .npz of numbers"):
            open_set(path)
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(InputError):
        open_set(tmp_path / "other.npz")


def test_what_is_no_set_is_none(tmp_path):
    write(tmp_path / "texts" / "a.txt", "text")
    assert open_set(tmp_path / "texts") is None and open_set(tmp_path / "texts" / "a.txt") is None
    assert open_set(tmp_path / "missing") is None
    with pytest.raises(InputError, match="split: 'test' is unknown; known: train, val"):
        open_set(tmp_path, "test")


# --- the command ----------------------------------------------------------------------------------


def test_the_command(tmp_path):
    path, out = write(tmp_path / "a.txt", story(20)), tmp_path / "out"
    arguments = [str(path), "--out", str(out), "--held-out", "0.2", "--workers", "1"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    train, val = open_set(out), open_set(out, "val")
    assert train and val and done.exit_code == 0
    per = sum(map(len, texts_of(path))) / (train.n_tokens + val.n_tokens)
    assert done.stdout == (
        f"{out}: train {train.n_tokens:,} tokens in {len(train.ends)} documents, "
        f"val {val.n_tokens:,} tokens in {len(val.ends)} documents; "
        f"{per:.2f} characters a token\n"
    )
    again = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["tokens"] == {"train": train.n_tokens, "val": val.n_tokens}
    assert "note: " in again.stderr and "already" in again.stderr


def test_the_command_takes_the_vocabulary_of_a_model(tmp_path):
    path = write(tmp_path / "a.txt", "word")
    arguments = [str(path), "--out", str(tmp_path / "out"), "--model", "fable"]
    assert CliRunner().invoke(command, arguments, catch_exceptions=False).exit_code == 0
    data = open_set(tmp_path / "out")
    assert data is not None and data.n_vocab == 4096 and data.end_token == 4095


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        (b"", [], "empty; give at least one file with text in it"),
        (b"caf\xe9", [], "byte 0xe9 in line 1, at offset 3"),
        (b"a\0b", [], "a zero byte at offset 1"),
        (b"text", ["--held-out", "1"], "held_out: 1.0 is no share"),
        (b"text", ["--learn", "300", "--characters"], "give one of them"),
        (b"text", ["--learn", "10"], "is 10; it must be an integer from 257"),
        (b"text", ["--workers", "0"], "workers is 0; it must be an integer >= 1"),
    ],
)
def test_the_users_mistakes_are_one_line_and_exit_code_2(tmp_path, run, data, more, message):
    path = write(tmp_path / "a.txt", data)
    code, out, err = run("prepare", str(path), "--out", str(tmp_path / "out"), *more)
    assert code == 2 and message in err and not out and err.count("\n") == 1


PRESSED = """
import os, signal, sys
from gpt2lab import commands
from gpt2lab.corpus import encoding_pass as room
room.COMMIT, room.CHUNK, commit = 0.0, 500, room.EncodingPass._commit
def pressed(work):
    commit(work)
    os.kill(os.getpid(), signal.SIGINT)
room.EncodingPass._commit = pressed
commands.main(["prepare", sys.argv[1], "--out", sys.argv[2], "--workers", "2"])
"""


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal there")
def test_ctrl_c_says_how_to_go_on(tmp_path):
    path, out = write(tmp_path / "a.txt", story(60)), tmp_path / "out"
    call = [sys.executable, "-c", PRESSED, str(path), str(out)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 130 and not done.stdout
    said = f"stopped; finished parts stay in {out}, the same command resumes"
    assert done.stderr.strip() == said
    assert (out / PROGRESS).exists() and not (out / MANIFEST).exists()
    prepare([path], out, tokenizer=official())
    prepare([path], tmp_path / "new", tokenizer=official())
    assert files_of(out) == files_of(tmp_path / "new")
