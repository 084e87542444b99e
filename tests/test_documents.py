"""Texts as people have them: tables, encodings, line ends, marks, and what is said of them."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpt2lab.commands.prepare import command
from gpt2lab.corpus.documents import Findings, Reading, decoding, encodings, plain, text_files
from gpt2lab.corpus.open import open_set
from gpt2lab.errors import InputError
from gpt2lab.text.bpe import byte_symbols
from gpt2lab.text.tokenizer import Tokenizer, official

from .corpus_helpers import BYTES, END, MARK, prepare, texts_of, write
from .support import ROOT

CASES = ROOT.parent / "shared" / "cases" / "texts"
JOKES = [f"Why did bear {n} cross the lake, and the road? To see the sea." for n in range(60)]


def told(path: Path | list[Path], out: Path, **more) -> str:
    """The report of preparing a text."""
    paths = path if isinstance(path, list) else [path]
    return "\n".join(prepare(paths, out, held_out=0, **more).read)


# --- tables ---------------------------------------------------------------------------------------

GOOD = {
    "pandas' index": (",text\n0,one\n1,two\n", {}),
    "pandas' index, read and written again": ("Unnamed: 0,joke\n0,one\n1,two\n", {}),
    "pandas' index twice": ("Unnamed: 0.1,Unnamed: 0,joke\n0,0,one\n1,1,two\n", {}),
    "pandas without names": (",0\n0,one\n1,two\n", {}),
    "pandas without names and index": ("0\none\ntwo\n", {}),
    "an empty column at the end": ("text,\none,\ntwo,\n", {}),
    "an empty column, not in each row": ("text,,\none,,\ntwo\n", {}),
    "text among others": ("id,text,label\n1,one,a\n2,two,b\n", {}),
    "Text with a capital": ("ID,Text\n1,one\n2,two\n", {}),
    "a pipe": ("id|text\n0|one\n1|two\n", {}),
    "a semicolon": ("id;text\n0;one\n1;two\n", {}),
    "a tab": ("id\ttext\n0\tone\n1\ttwo\n", {}),
    "Excel's first line": ("sep=;\r\nid;text\r\n0;one\r\n1;two\r\n", {}),
    "Excel's first line in quotes": ('"sep=|"\nid|text\n0|one\n1|two\n', {}),
    "Excel's first line and a tab": ("sep=\t\nid\ttext\n0\tone\n1\ttwo\n", {}),
    "a byte order mark": ("\ufeffid,text\n0,one\n1,two\n", {}),
    "a comma in a quoted name": ('"id, or number";text\n0;one\n1;two\n', {}),
    "a tab in a quoted name": ('"a\tb",text\n0,one\n1,two\n', {}),
    "a delimiter that is given": ("id~text\n0~one\n1~two\n", {"delimiter": "~"}),
    "a tab by its name": ("id\ttext\n0\tone\n1\ttwo\n", {"delimiter": "tab"}),
    "a column by its number": ("id,body\n0,one\n1,two\n", {"columns": ("2",)}),
    "a column by the other option": ("id,body\n0,one\n1,two\n", {"field": "body"}),
    "no header, by a switch": ("one\ntwo\n", {"header": False}),
    "no header and a number": ("0,one\n1,two\n", {"header": False, "columns": (2,)}),
    "a header that is a sentence": ("What do you say?\none\ntwo\n", {"header": True}),
    "blank lines": ("\n\ntext\n\none\n , \n\ntwo\n\n", {}),
    "line ends of old Macs": ("id,text\r0,one\r1,two\r", {}),
}


@pytest.mark.parametrize("name", GOOD)
def test_tables_as_programs_write_them(tmp_path, name):
    """The index that pandas writes was learned ("0", "1", "2"), `|` was no delimiter, a comma in a
    quoted name was one, and an empty column at the end was the text."""
    table, reading = GOOD[name]
    for ending, data in ((".csv", table.encode()), (".csv.gz", gzip.compress(table.encode()))):
        assert texts_of(write(tmp_path / f"a{ending}", data), **reading) == ["one", "two"]


def test_unquoted_commas_do_not_cut_a_text(tmp_path):
    """Of "To the lake, and back" the end was dropped without a word."""
    for head in ("joke\n", "text\n", ""):
        path = write(tmp_path / "a.csv", head + "\n".join(JOKES) + "\n")
        assert texts_of(path) == JOKES
    one = [
        joke.replace(", and", ", he said, and", 1) if n % 2 else joke
        for n, joke in enumerate(JOKES)
    ]
    assert texts_of(write(tmp_path / "b.csv", "\n".join(one))) == one
    path = write(
        tmp_path / "c.csv", "id,joke\n" + "".join(f"{n},{j}\n" for n, j in enumerate(JOKES))
    )
    with pytest.raises(
        InputError, match="line 2: 3 cells, the header has 2; mend or remove it; a t"
    ):
        texts_of(path, columns=("joke",))
    for row, count in (("1\n", 1), ("1,a,b\n", 3), ('1,a,"b, c"\n', 3)):
        with pytest.raises(InputError, match=f"line 3: {count} cells, the header has 2; mend"):
            texts_of(write(tmp_path / "d.csv", "id,text\n0,a\n" + row))
    with pytest.raises(InputError, match="line 2: 2 cells, the header has 1"):
        texts_of(write(tmp_path / "e.csv", 'text\n"1","hello"\n'))


def test_the_first_line_is_no_header_when_it_reads_like_a_text(tmp_path):
    """The first of 60 texts was taken for a header and not learned; nothing said so."""
    path = write(tmp_path / "a.csv", "\n".join(f"The miller hides a loaf {n}." for n in range(60)))
    assert len(texts_of(path)) == 60 and "no header" in told(path, tmp_path / "a")
    path = write(tmp_path / "b.csv", "Hello there\nand again\n")
    assert texts_of(path) == ["and again"]
    assert "column 'Hello there'; header in line 1" in told(path, tmp_path / "b")
    assert texts_of(path, header=False) == ["Hello there", "and again"]
    path = write(tmp_path / "c.csv", "1,The clerk sells it.\n2,The clerk hides it.\n")
    with pytest.raises(
        InputError, match=r"choose by number with --column; the first row has 1 1, 2"
    ):
        texts_of(path)
    assert len(texts_of(path, columns=("2",))) == 2
    path = write(tmp_path / "d.csv", 'When?,"What do you like best about it?"\n1,tea\n')
    assert texts_of(path, columns=("What do you like best about it?",)) == ["tea"]


def test_columns_that_cannot_be_told_apart_are_listed(tmp_path):
    for table in ("id,body\n1,x\n", ",a,b\n0,x,y\n", "text,text\nx,y\n"):
        with pytest.raises(InputError, match="which column\\? choose with --column; it has 1 "):
            texts_of(write(tmp_path / "a.csv", table))
    wide = ",".join(f"c{n}" * 40 for n in range(500))
    with pytest.raises(InputError, match="and 488 more") as error:
        texts_of(write(tmp_path / "a.csv", f"{wide}\n"))
    assert len(str(error.value)) < 2000
    for wrong in ("", "ab", '"', "\n"):
        with pytest.raises(
            InputError, match=r"delimiter: .* is not one character; give one, or tab"
        ):
            Reading(delimiter=wrong)


def test_cells_keep_what_quotes_hold(tmp_path):
    table = 'id,text\n1,"a ""b"", c\n\nd"\n2,"' + "x, " * 100_000 + '"\n'
    assert texts_of(write(tmp_path / "a.csv", table)) == ['a "b", c\n\nd', "x, " * 100_000]
    with pytest.raises(InputError, match="line 3: no CSV"):
        texts_of(write(tmp_path / "b.csv", 'id,text\n1,a\n2,"open\n3,b\n'))


# --- fields ---------------------------------------------------------------------------------------


def test_prompt_and_completion_are_one_text(tmp_path):
    """Neither is called text, so both kinds of file were refused."""
    lines = '{"prompt": "Q", "completion": "A"}\n{"completion": "B", "prompt": "P", "id": 1}\n'
    path = write(tmp_path / "a.jsonl", lines)
    assert texts_of(path) == ["Q\nA", "P\nB"] and texts_of(path, separator="") == ["QA", "PB"]
    assert "fields 'prompt' and 'completion', joined by '\\n'" in told(path, tmp_path / "out")
    assert texts_of(write(tmp_path / "a.csv", "id,completion,prompt\n1,A,Q\n")) == ["Q\nA"]
    alpaca = '{"instruction": "I", "input": "", "output": "O"}\n'
    assert texts_of(write(tmp_path / "b.jsonl", alpaca)) == ["I\nO"]
    assert texts_of(write(tmp_path / "c.jsonl", '{"joke": "J"}\n')) == ["J"]
    both = write(tmp_path / "d.jsonl", '{"a": "1", "b": "2", "c": "3"}\n')
    assert texts_of(both, field=("c", "a")) == ["3\n1"] == texts_of(both, columns=("c", "a"))
    with pytest.raises(
        InputError, match="line 1: no field 'text'; choose by --field among: a, b, c"
    ):
        texts_of(both)
    chat = '{"messages": [{"role": "user", "content": "x"}], "id": "1"}\n'
    with pytest.raises(InputError, match="holds a conversation, a list of messages; write each as"):
        texts_of(write(tmp_path / "e.jsonl", chat))


def test_parquet_chooses_like_the_others(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for columns, texts in (
        ({"completion": ["A"], "prompt": ["Q\r\n"]}, ["Q\n\nA"]),
        ({"joke": [f"a{MARK}b"], "__index_level_0__": [7]}, ["a", "b"]),
    ):
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        assert texts_of(tmp_path / "a.parquet", split_at_end_token=True) == texts


# --- marks ----------------------------------------------------------------------------------------

INLINE = {
    "a.txt": "one {m}\ntwo{m}\nthree {m}",
    "a.csv": 'text\n"one {m}\ntwo{m}"\nthree {m}\n',
    "a.jsonl": '{{"text": "one {m}\\ntwo{m}"}}\n{{"text": "three {m}"}}\n',
}


@pytest.mark.parametrize("name", INLINE)
def test_an_end_token_in_a_line_is_counted_and_may_end_documents(tmp_path, name):
    """It was learned letter by letter, and the tuned model printed it and never stopped."""
    path = write(tmp_path / name, INLINE[name].format(m=MARK))
    assert f"{MARK} 3 times, as plain letters; --split-at-end-token" in told(path, tmp_path / "a")
    split = told(path, tmp_path / "b", split_at_end_token=True)
    assert "documents: 3" in split and MARK not in split
    data = open_set(tmp_path / "b")
    assert data is not None and data.tokens[:].tolist().count(END) == 3
    decoded = BYTES.decode(data.tokens[:]).split(MARK)
    assert [text.strip() for text in decoded] == ["one", "two", "three", ""]
    assert "3 times, each as its token" in told(path, tmp_path / "c", allow_special=True)
    data = open_set(tmp_path / "c")
    assert data is not None and data.tokens[:].tolist().count(END) == 3 + len(data.ends)


def chatty() -> Tokenizer:
    names = {"<|user|>": 256, "<|end|>": 257}
    vocab = {symbol: n for n, symbol in enumerate(byte_symbols())}
    return Tokenizer.from_bpe(vocab, (), names)


@pytest.mark.parametrize("piece", [64, 1 << 18])
def test_a_models_own_tokens_are_never_divided(tmp_path, monkeypatch, piece):
    """A long text is cut in pieces; a cut inside a name would have made letters of a token."""
    monkeypatch.setattr(plain, "PIECE", piece)
    monkeypatch.setattr(decoding, "BLOCK", 50)
    tokenizer = chatty()
    text = "".join(f"<|user|> {'漢' * (n % 23)} !?<|end|>  hi <|end|>" for n in range(300))
    path = write(tmp_path / "a.txt", text)
    notes = told(path, tmp_path / "a", tokenizer=tokenizer, allow_special=True)
    assert "<|end|> 600 times, <|user|> 300 times, each as its token" in notes
    data, end = open_set(tmp_path / "a"), tokenizer.end_token
    assert data is not None
    ends = [] if end is None else [end]
    assert data.tokens[:].tolist() == tokenizer.encode(text, "all") + ends
    plainly = told(path, tmp_path / "b", tokenizer=tokenizer)
    assert "<|end|> 600 times, <|user|> 300 times, as plain letters" in plainly
    data = open_set(tmp_path / "b")
    assert data is not None and data.tokens[:].tolist() == tokenizer.encode(text) + ends


def test_split_at_the_end_token_of_the_vocabulary(tmp_path):
    path = write(
        tmp_path / "a.txt", "x" * 300_000 + MARK + "\r\n\r\n" + "y " * 300_000 + MARK + MARK
    )
    prepare([path], tmp_path / "a", split_at_end_token=True, held_out=0)
    data = open_set(tmp_path / "a")
    assert data is not None and len(data.ends) == 2
    texts = ["x" * 300_000, "y " * 300_000]
    assert BYTES.decode(data.tokens[:]) == MARK.join([*texts, ""])


def test_a_vocabulary_that_is_learned_leaves_the_names_out(tmp_path):
    pytest.importorskip("tokenizers")
    path = write(tmp_path / "a.txt", "\n".join(f"word {n}{MARK}" for n in range(500)))
    prepare([path], tmp_path / "a", learn=300, allow_special=True, held_out=0)
    data = open_set(tmp_path / "a")
    assert data is not None and data.tokenizer is not None
    assert not any(b"endo" in data.tokenizer.token_bytes(n) for n in range(299))
    assert data.tokens[:].tolist().count(299) == 501
    with pytest.raises(InputError, match="this vocabulary has no special tokens"):
        prepare([path], tmp_path / "b", characters=True, allow_special=True)


# --- encodings ------------------------------------------------------------------------------------

SAMPLES = {
    "gbk": "从前有一个小女孩，她住在海边的村子里。每天早上她都去沙滩上捡贝壳。",
    "big5": "從前有一個小女孩，她住在海邊的村子裡。每天早上她都去沙灘上撿貝殼。",
    "shift_jis": "昔々、あるところに小さな女の子がいました。毎朝、海辺で貝殻を拾って見せました。",
    "euc_jp": "昔々、あるところに小さな女の子がいました。毎朝、海辺で貝殻を拾って見せました。",
    "euc_kr": "옛날 옛적에 작은 소녀가 바닷가 마을에 살았습니다. 매일 아침 조개를 주웠어요.",
    "cp1251": "Жила-была маленькая девочка. Каждое утро она собирала ракушки на берегу моря.",
    "koi8-r": "Жила-была маленькая девочка. Каждое утро она собирала ракушки на берегу моря.",
    "cp866": "Жила-была маленькая девочка. Каждое утро она собирала ракушки на берегу моря.",
    "cp1252": "“Es war einmal” – ein kleines Mädchen, das lebte in einem Dörfchen am Meer.",
    "latin-1": "Había una vez una niña pequeña que vivía cerca del mar. ¿Qué hacía, señor?",
    "mac-roman": "Il était une fois une petite fille qui vivait près de la mer. C’était sa joie.",
    "cp1250": "Była sobie raz mała dziewczynka, która mieszkała nad morzem. Każdego ranka grała.",
    "cp1253": "Μια φορά κι έναν καιρό ήταν ένα μικρό κορίτσι που ζούσε κοντά στη θάλασσα.",
    "utf-16-le": "从前有一个小女孩，她住在海边的村子里。每天早上她都去沙滩上捡贝壳。",
    "utf-16-be": "Жила-была маленькая девочка. Каждое утро она собирала ракушки.",
    "utf-32-le": "Once there was a girl.",
}


@pytest.mark.parametrize("encoding", SAMPLES)
def test_several_encodings_are_offered_as_they_would_read(tmp_path, encoding):
    """Chinese, Russian and Japanese were said to be cp1252, and read as that without an error."""
    text = f"{SAMPLES[encoding]}\n" * 40
    for name, data in (
        ("a.txt", text.encode(encoding)),
        ("a.txt.gz", gzip.compress(text.encode(encoding))),
    ):
        with pytest.raises(InputError) as error:
            texts_of(write(tmp_path / name, data))
        line = str(error.value)
        start = line.find("may be ") if "may be " in line else line.find("as in ")
        offers = line[start:]
        first = offers.removeprefix("may be ").removeprefix("as in ").split("'")[1]
        assert first.rstrip("”") in " ".join(text.split()), line
        assert "latin-1" not in line and "damaged" not in line and len(line) < 600
        chosen = offers.removeprefix("may be ").removeprefix("as in ").split(" ")[0]
        assert texts_of(tmp_path / name, encoding=chosen) == [text]


@pytest.mark.parametrize("sample", ["gbk", "shift_jis", "euc_kr", "cp1251", "cp1252", "mac-roman"])
def test_a_stray_byte_does_not_make_another_encoding_of_utf8(tmp_path, monkeypatch, sample):
    """One bad byte in 60 good lines: the advice was to read all as latin-1."""
    monkeypatch.setattr(decoding, "BLOCK", 1000)
    lines = [SAMPLES[sample].encode()] * 60
    lines[40] = b"a\x92b " + lines[40]
    path = write(tmp_path / "a.txt", b"\n".join(lines))
    offset = len(b"\n".join(lines[:40])) + 2
    with pytest.raises(InputError, match="damaged UTF-8: byte 0x92 in line 41, at offset") as error:
        texts_of(path)
    assert f"offset {offset};" in str(error.value) and "latin-1" not in str(error.value)
    mended = b"\n".join(lines).decode("utf-8", "replace")
    assert texts_of(path, encoding="utf-8:replace") == [mended] and "a\ufffdb " in mended
    assert "a\ufffdb" not in "".join(texts_of(path, encoding="utf-8:ignore"))
    assert "1 characters could not be read" in told(
        path, tmp_path / "out", encoding="utf-8:replace"
    )


def test_a_byte_order_mark_is_obeyed(tmp_path):
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        path = write(tmp_path / encoding, "Ünïcode – text\n" * 9, encoding)
        assert texts_of(path) == ["Ünïcode – text\n" * 9]
    assert "encoding: utf-16" in told(tmp_path / "utf-16", tmp_path / "out")
    with pytest.raises(InputError, match="encoding: 'mend' after the colon is unknown; known are"):
        Reading(encoding="utf-8:mend")
    write(tmp_path / "a", "Über")
    with pytest.raises(InputError, match=r"not ascii: byte 0xc3 in line 1, .*; it may be utf-8"):
        texts_of(tmp_path / "a", encoding="ascii")


# --- line ends and lines --------------------------------------------------------------------------


@pytest.mark.parametrize("block", [3, 7, 1 << 20])
def test_line_ends_are_the_same_on_every_system(tmp_path, monkeypatch, block):
    r"""\r\n of Windows cost 11 % more tokens and came out of the model again."""
    monkeypatch.setattr(decoding, "BLOCK", block)
    mixed = "one\r\n\r\ntwo\rthree\n" + "é\r\n"
    path = write(tmp_path / "a.txt", mixed)
    assert texts_of(path) == ["one\n\ntwo\nthree\né\n"]
    assert texts_of(path, keep_line_ends=True) == [mixed]
    notes = told(path, tmp_path / "a")
    assert "line ends: 3 of Windows (\\r\\n) and 1 \\r alone became \\n; --keep-line-ends" in notes
    path = write(tmp_path / "b.csv", 'text\r\n"a\r\nb"\r\nc\r\n')
    assert texts_of(path) == ["a\nb", "c"]
    assert texts_of(path, keep_line_ends=True) == ["a\r\nb", "c"]
    path = write(tmp_path / "c.jsonl", '{"text": "a\\r\\nb"}\r\n{"text": "c"}\r\n')
    assert texts_of(path) == ["a\nb", "c"]
    assert texts_of(path, keep_line_ends=True) == ["a\r\nb", "c"]
    path = write(tmp_path / "d.txt", f"a\r\n{MARK}\r\nb\r{MARK}\rc")
    for keep in (False, True):
        assert texts_of(path, keep_line_ends=keep) == ["a", "b", "c"]


def test_every_line_may_be_a_document(tmp_path):
    path = write(tmp_path / "a.txt.gz", gzip.compress(f"one\r\n\ntwo\n{MARK}\nthree".encode()))
    assert texts_of(path, lines=True) == ["one", "two", MARK, "three"]
    assert texts_of(path, lines=True, split_at_end_token=True) == ["one", "two", "three"]


def test_a_folder_is_read_as_its_files_are_and_what_is_left_out_is_said(tmp_path):
    """A .tsv was read when it was named and passed over in a folder."""
    write(tmp_path / "in" / "a.txt", "one")
    write(tmp_path / "in" / "b.tsv", "id\ttext\n0\ttwo\n")
    for name in ("c.html", "d.html", "e.py", "f"):
        write(tmp_path / "in" / name, "x")
    assert texts_of(tmp_path / "in") == ["one", "two"]
    notes = told(tmp_path / "in", tmp_path / "out")
    assert "read 2 files (1 text, 1 CSV), documents: 2; left out for their names: 2 .html" in notes
    (tmp_path / "in" / "a.txt").unlink()
    (tmp_path / "in" / "b.tsv").unlink()
    with pytest.raises(InputError, match=r"no texts in this folder; .*; there are 2 .html"):
        texts_of(tmp_path / "in")


# --- the report, the settings ---------------------------------------------------------------------


def test_the_report_is_short_and_kept(tmp_path, caplog):
    paths = [write(tmp_path / f"{n}.csv", f",t{n}\r\n0,a{MARK}\r\n") for n in range(300)]
    paths.append(write(tmp_path / "x.txt", "x\r\n", "utf-16"))
    with caplog.at_level(logging.INFO, logger="gpt2lab.corpus.prepare"):
        done = prepare(paths, tmp_path / "out", held_out=0)
    assert list(done.read) == [record.getMessage() for record in caplog.records]
    assert len(done.read) == 6 and all(len(line) < 300 for line in done.read)
    assert done.read[0] == "read 301 files (300 CSV, 1 text), documents: 301"
    assert done.read[-1] == f"the first document begins {f'a{MARK}'!r}"
    again = prepare(paths, tmp_path / "out", held_out=0)
    assert again == done and not again.is_new and again.left_as_it_is().endswith(done.read[0])


def test_a_switch_that_changes_texts_makes_another_set(tmp_path):
    path = write(tmp_path / "a.txt", f"a\r\nb{MARK}")
    prepare([path], tmp_path / "out", held_out=0)
    for name in ("lines", "keep_line_ends", "split_at_end_token", "allow_special"):
        with pytest.raises(
            InputError, match=rf"prepared otherwise \({name} False there, True now\)"
        ):
            prepare([path], tmp_path / "out", held_out=0, **{name: True})
    with pytest.raises(InputError, match="unknown setting colum; known: columns, field"):
        prepare([path], tmp_path / "out", colum="a")


def test_a_column_that_nothing_asks_for_is_said(tmp_path):
    path = write(tmp_path / "a.txt", "x")
    assert "no table and no JSON: body is not looked for" in told(
        path, tmp_path / "o", columns=["body"]
    )


def test_the_flags(tmp_path):
    path = write(tmp_path / "a.csv", f"q~a\nQ~one{MARK}two\n")
    flags = ["--delimiter", "~", "--column", "q", "--column", "a", "--separator", "\\t",
             "--split-at-end-token", "--held-out", "0", "--header", "--json"]  # fmt: skip
    done = CliRunner().invoke(command, [str(path), "--out", str(tmp_path / "out"), *flags])
    assert done.exit_code == 0, done.output
    assert (
        "columns 'q' and 'a', joined by '\\t', of 'q', 'a'; header in line 1, delimiter ~"
        in json.loads(done.stdout)["read"][1]
    )
    data = open_set(tmp_path / "out")
    assert data is not None
    assert official().decode(data.tokens[:]) == f"Q\tone{MARK}two{MARK}"


def test_damage_is_told_apart_from_other_encodings():
    """Two bytes of GBK are often a good character of UTF-8; these are no common ones."""
    for encoding, text in SAMPLES.items():
        broken, sound, plausibility = encodings._damage(iter([text.encode(encoding)]))
        assert sound <= broken or plausibility < 0.4 or not broken, encoding


@pytest.mark.skipif(not CASES.exists(), reason="an extra comparison")
def test_texts_of_public_reports():
    for name in (
        "pandas_index.csv",
        "unquoted_commas.csv",
        "no_header.csv",
        "pipe.csv",
        "excel_sep.csv",
    ):
        assert len(texts_of(CASES / name)) == 60
    for name, words in (
        ("gbk.txt", "it may be gb18030 '从前有一个"),
        ("one_bad_byte.txt", "in line 61"),
    ):
        with pytest.raises(InputError, match=words):
            texts_of(CASES / name)
    found = Findings()
    assert "\r" not in "".join(decoding.clean_texts(*_source(CASES / "crlf.txt"), found))
    assert found.windows == 120


def _source(path: Path):
    return text_files([path])[0], Reading(), lambda done: None
