"""Compression by a model: bytes come back to the bit, on the path that the file names."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from decimal import Decimal, localcontext

import numpy as np
import pytest

import gpt2lab
from gpt2lab import InputError
from gpt2lab.commands import compress as compress_command
from gpt2lab.compression import compress, container, decompress, needed, streams
from gpt2lab.compression.byte_tokens import encode_bytes
from gpt2lab.compression.frequencies import LARGEST_BITS, STEPS, frequencies, table
from gpt2lab.compression.range_coder import RangeDecoder, RangeEncoder
from gpt2lab.config import Config
from gpt2lab.lm import LM
from gpt2lab.text.bpe import byte_symbols
from gpt2lab.text.tokenizer import Tokenizer, official
from gpt2lab.weights import Checkpoint

from .support import FABLE, ROOT, tiny_params

STORY = "The cat sat on the mat. “Où est-il ?” said 他. ".encode() * 3
ENGLISH = b"Once upon a time, there was a little girl named Lily. She loved to play outside. " * 6
END = "<|endoftext|>"


def byte_tokenizer(end: bool = True) -> Tokenizer:
    """256 bytes and two merges."""
    names = [*byte_symbols(), "th", "the"]
    vocab = {name: i for i, name in enumerate(names)}
    special = {END: len(names)} if end else {}
    return Tokenizer.from_bpe(vocab | special, [("t", "h"), ("th", "e")], special)


def model(engine: str = "cpu", dtype: str | None = None, seed: int = 0, **more) -> LM:
    """A small model over all bytes, with a window of 24 tokens."""
    tokenizer = more.pop("tokenizer", None) or byte_tokenizer()
    end = tokenizer.end_token
    config = Config(
        n_vocab=tokenizer.n_vocab, n_ctx=24, n_embd=16, n_head=2, n_layer=1, end_tokens=(end,)
        if end is not None else (),
    )  # fmt: skip
    params = tiny_params(config, seed)
    held = Checkpoint(config, params, tokenizer, "huggingface")
    return LM(held, engine=engine, dtype=dtype, name="small", **more)


def files(count: int, largest: int = 400):
    """Random files: noise, few symbols, long runs, text with broken bytes."""
    random = np.random.default_rng(5)
    for i in range(count):
        size = int(random.integers(0, largest))
        kinds = (
            random.bytes(size),
            bytes(random.choice([0, 97, 255], size).astype(np.uint8)),
            bytes([int(random.integers(256))]) * size,
            (STORY * (1 + size // len(STORY)))[:size],  # may end inside a character
        )
        yield kinds[i % len(kinds)]


# ---- The parts.


def test_the_range_coder_is_its_own_inverse_and_near_the_entropy():
    random = np.random.default_rng(0)
    for _ in range(30):
        counts = random.integers(1, 1 << 20, 50) ** int(random.integers(1, 3))
        ends = counts.cumsum()
        total = int(ends[-1])
        symbols = random.choice(50, 400, p=counts / total)
        coder = RangeEncoder()
        for s in symbols:
            coder.encode(int(ends[s] - counts[s]), int(counts[s]), total)
        data, found = coder.finish(), []
        reader = RangeDecoder(data)
        for _ in symbols:
            s = int(ends.searchsorted(reader.target(total), "right"))
            reader.take(int(ends[s] - counts[s]), int(counts[s]))
            found.append(s)
        assert found == symbols.tolist()
        assert reader.overrun <= 8
        assert 8 * len(data) < -np.log2(counts[symbols] / total).sum() + 20


@pytest.mark.parametrize("symbol", [0, 1])
def test_carries_run_through_bytes_of_255(symbol):
    """The upper half of a range, again and again, is what makes a carry over many bytes."""
    total = (1 << 48) - 1
    coder, plan = RangeEncoder(), [1] * 40 + [symbol] + [1] * 3
    shares = [(0, total // 2), (total // 2, total - total // 2)]
    for s in plan:
        coder.encode(*shares[s], total)
    reader = RangeDecoder(coder.finish())
    for s in plan:
        assert (reader.target(total) >= total // 2) == s
        reader.take(*shares[s])


def test_the_table_is_the_exponential_to_the_last_integer():
    with localcontext() as context:
        context.prec = 60
        for step in (0, 1, 2, 255, 256, 1000, len(table()) - 2):
            exact = (Decimal(-step) / STEPS).exp() * (1 << LARGEST_BITS)
            assert table()[step] == int(exact)
    assert table()[-1] == 1 and (np.diff(table()) <= 0).all()


def test_frequencies_cost_next_to_nothing():
    """Rounded logits code as well as exact ones, and no token is impossible."""
    logits = np.random.default_rng(1).normal(0, 4, (20, 5000)).astype(np.float32)
    counts = frequencies(logits)
    assert counts.min() >= 1 and counts.sum(-1).max() < 1 << 48
    wide = logits.astype(np.float64)
    p = np.exp(wide - wide.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    extra = (p * np.log2(p / (counts / counts.sum(-1, keepdims=True)))).sum(-1)
    assert extra.max() < 1e-4
    with pytest.raises(InputError, match="NaN or infinity"):
        frequencies(np.array([[1.0, np.nan]], np.float32))


def test_any_bytes_are_tokens_and_text_has_the_tokens_of_text():
    tokenizer = official()
    for data in (*files(40), b"\xf0\x9f\x98", b"a\xffb\xed\xa0\x80", bytes(range(256))):
        assert tokenizer.decode_bytes(encode_bytes(tokenizer, data)) == data
    assert encode_bytes(tokenizer, STORY) == tokenizer.encode(STORY.decode())


# ---- Files.


@pytest.mark.parametrize("engine", ["cpu", "numpy", "torch"])
def test_random_files_come_back(engine):
    if engine == "torch":
        pytest.importorskip("torch")
    lm = model(engine)
    for i, data in enumerate(files({"cpu": 60, "numpy": 8, "torch": 4}[engine])):
        coded = compress(lm, data, streams=1 + i % 7, may_store=False)
        assert decompress(lm, coded) == data
        assert decompress(lm, compress(lm, data)) == data


def test_a_model_without_an_end_token():
    lm = model(tokenizer=byte_tokenizer(end=False))
    assert lm.config.begin is None
    for data in files(12):
        assert decompress(lm, compress(lm, data, may_store=False)) == data


def test_other_threads_and_another_process_give_the_same_bits():
    one, two = model(threads=1), model(threads=2)
    coded = compress(one, STORY, streams=3, may_store=False)
    assert compress(two, STORY, streams=3, may_store=False) == coded
    assert decompress(two, coded) == STORY


def test_the_size_is_the_score_of_the_text(tmp_path):
    """Bits per byte are proven by a file that comes back: 1.5 % for the start of each stream."""
    lm = gpt2lab.load(engine="cpu")
    text = (FABLE / "README.md").read_text(encoding="utf-8")
    coded = compress(lm, text.encode(), streams=1, may_store=False)
    assert decompress(lm, coded) == text.encode()
    bits = -lm.score(text).total / math.log(2)
    kept = needed(coded)
    assert 8 * len(kept.parts[0]) == pytest.approx(bits, rel=0.015)
    assert len(coded) - len(kept.parts[0]) < 130


def test_what_the_model_does_not_make_smaller_is_stored():
    lm, noise = model(), os.urandom(300)
    coded = compress(lm, noise)
    assert not needed(coded).coded and len(coded) == len(noise) + 20
    assert decompress(None, coded) == noise


def test_every_flipped_byte_is_found():
    lm = model()
    coded = compress(lm, STORY[:60], may_store=False)
    for at in range(len(coded)):
        for change in (1, 0x80, 0xFF):
            damaged = bytearray(coded)
            damaged[at] ^= change
            with pytest.raises(InputError, match=r"checksum|not a file of gpt2lab compress"):
                decompress(lm, bytes(damaged))
    for length in range(len(coded)):
        with pytest.raises(InputError):
            decompress(lm, coded[:length])


@pytest.mark.parametrize("at", range(0, 130, 5))
def test_a_wrong_header_with_a_right_checksum_is_refused(at):
    lm = model()
    coded = bytearray(compress(lm, STORY[:60], may_store=False))
    coded[at] ^= 0x55
    body = bytes(coded[:-4])
    forged = body + container.zlib.crc32(body).to_bytes(4, "little")
    with contextlib.suppress(InputError, gpt2lab.Failure):
        assert decompress(lm, forged) == STORY[:60]  # only the name for people differs


def test_another_path_is_refused_by_name():
    coded = compress(model(), STORY, may_store=False)
    with pytest.raises(InputError, match=r"the path 'cpu float32.*, this is 'cpu int8"):
        decompress(model(dtype="int8"), coded)
    with pytest.raises(InputError, match=r"the path 'cpu float32.*, this is 'numpy float32"):
        decompress(model("numpy"), coded)
    with pytest.raises(InputError, match=r"with the model 'small', sha256 [0-9a-f]{12}, and"):
        decompress(model(seed=1), coded)
    with pytest.raises(InputError, match="the model 'small' is needed"):
        decompress(None, coded)


def test_the_same_path_with_other_bits_is_refused(monkeypatch):
    """As an update of a library, or of this program, would make them."""
    lm = model("numpy")
    coded = compress(lm, STORY, may_store=False)
    first = next(iter(lm.engine.params))
    monkeypatch.setitem(lm.engine.params, first, np.nextafter(lm.engine.params[first], np.inf))
    with pytest.raises(InputError, match="computes other logits here"):
        decompress(lm, coded)


def test_vocabularies_that_cannot_spell_the_data_are_refused_in_a_line():
    lm = model(tokenizer=Tokenizer.characters("abc ", [END]))
    assert decompress(lm, compress(lm, b"a cab " * 30, may_store=False)) == b"a cab " * 30
    with pytest.raises(InputError, match="the byte 0xff, which this model's vocabulary has no"):
        compress(lm, b"abc\xff")
    lm.tokenizer = None
    with pytest.raises(InputError, match="comes without a tokenizer"):
        compress(lm, b"abc")


# ---- The commands.


def test_a_file_goes_and_comes_back(run, tmp_path):
    file = tmp_path / "story.txt"
    file.write_bytes(ENGLISH)
    code, out, err = run("compress", str(file), "--dtype", "int8", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["bytes"] == len(ENGLISH), err
    assert facts["compressed_bytes"] == (tmp_path / "story.txt.g2z").stat().st_size < len(ENGLISH)
    assert facts["path"].startswith("cpu int8, cache bfloat16, ")
    code, _, err = run("decompress", str(file) + ".g2z")
    assert code == 2 and "story.txt exists and is left as it is" in err
    file.unlink()
    code, out, _ = run("decompress", str(file) + ".g2z")  # takes the dtype from the file
    assert code == 0 and file.read_bytes() == ENGLISH
    code, _, err = run("decompress", str(file) + ".g2z", "--force", "--dtype", "float32")
    assert code == 2 and "cpu int8" in err and "cpu float32" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["story.txt", "story.txt.g2z"]


def test_pipes():
    def call(*words: str, data: bytes) -> bytes:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "gpt2lab", *words]
        done = subprocess.run(command, input=data, capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    coded = call("compress", "-", data=ENGLISH + b"\xff\x00")
    assert len(coded) < len(ENGLISH)
    assert call("decompress", "-", data=coded) == ENGLISH + b"\xff\x00"


def test_an_interrupt_and_bad_names_leave_nothing(run, tmp_path, monkeypatch):
    file = tmp_path / "story.txt"
    file.write_bytes(ENGLISH)
    for words, told in (
        (["compress", str(tmp_path / "none")], "none"),
        (["compress", str(file), "--out", str(tmp_path)], "is a folder"),
        (["compress", str(file), "--streams", "0"], "streams is 0"),
        (["decompress", str(file)], "does not end in .g2z"),
        (["decompress", str(file), "--out", "x"], "is not a file of gpt2lab compress"),
    ):
        code, _, err = run(*words)
        assert code == 2 and told in err and err.count("\n") == 1, err

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(streams, "frequencies", interrupt)
    code, _, _ = run("compress", str(file))
    assert code == 130 and list(tmp_path.iterdir()) == [file]
    assert compress_command.SUFFIX == ".g2z"
