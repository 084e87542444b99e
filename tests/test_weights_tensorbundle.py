"""TensorFlow's bundles: real ones, written ones, and everything that can be wrong with one."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from gpt2lab.errors import InputError
from gpt2lab.weights.formats import openai, tensorbundle
from gpt2lab.weights.formats.tensorbundle import (
    _closed,
    _crc,
    _entry_message,
    _masked,
    _message,
    _put_varints,
)
from tests.support import GOLDEN
from tests.weights_helpers import bits16


def test_crc_and_mask_have_their_published_values():
    assert _crc(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert _crc(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    crc = _crc(b"foo")
    turned = (_masked(crc) - 0xA282EAD8) & 0xFFFFFFFF
    assert (turned >> 17 | turned << 15) & 0xFFFFFFFF == crc


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_a_written_bundle_reads_the_same(tmp_path, shards):
    """So many tensors that the index has several blocks, and names that share beginnings."""
    random = np.random.default_rng(0)
    params = {
        f"model/h{i}/mlp/c_fc/w": random.standard_normal((1, 3, i % 7)).astype(np.float32)
        for i in range(900)
    }
    params |= {"scalar": np.array(2.5, np.float32), "ü": np.ones(3, np.float32)}
    tensorbundle.write(tmp_path / "model", params, shards)
    assert len(list(tmp_path.glob("model.data-*-of-*"))) == shards
    read = tensorbundle.read(tmp_path / "model")
    assert set(read) == set(params)
    for name, array in params.items():
        assert read[name].shape == array.shape
        assert np.array_equal(read[name], array)


def test_written_as_tensorflow_writes_it(tmp_path):
    """Rewritten, the golden checkpoint's data file is the same to the byte."""
    golden = GOLDEN / "openai_checkpoint" / "model.ckpt"
    params = tensorbundle.read(golden)
    tensorbundle.write(tmp_path / "model.ckpt", params)
    name = "model.ckpt.data-00000-of-00001"
    assert (tmp_path / name).read_bytes() == golden.with_name(name).read_bytes()
    assert all(openai.theirs(openai.ours(name)) == name for name in params)


# --- bundles made by hand ---


def bundle(folder, entries: dict[str, bytes], data: bytes = bytes(16), header=None, kind=0):
    """A bundle of one block from the bytes of its entries; `kind` is the block's compression."""
    header = _message((1, 1)) if header is None else header
    block = _closed(sorted([(b"", header), *((k.encode(), v) for k, v in entries.items())]))
    if kind:
        block = block[:-5] + bytes([kind])
        block += struct.pack("<I", _masked(_crc(block)))
    index = _closed([(b"~", _put_varints(0, len(block) - 5))])
    footer = _put_varints(0, 0, len(block), len(index) - 5)
    footer = footer.ljust(40, b"\0") + tensorbundle.MAGIC
    (folder / "m.index").write_bytes(block + index + footer)
    (folder / "m.data-00000-of-00001").write_bytes(data)
    return folder / "m"


DATA16 = np.arange(4, dtype=np.float32).tobytes()
GOOD = _entry_message((2, 2), 0, 0, DATA16)


def entry(dtype=1, shape=(2, 2), shard=0, offset=0, size=16, crc=None, more=b"") -> bytes:
    dims = b"".join(_message((2, _message((1, n)))) for n in shape)
    crc = _masked(_crc(DATA16)) if crc is None else crc
    fields = _message((1, dtype), (2, dims), (3, shard), (4, offset), (5, size))
    return fields + b"\x35" + struct.pack("<I", crc) + more


def test_by_hand(tmp_path):
    read = tensorbundle.read(bundle(tmp_path, {"t": GOOD}, DATA16))
    assert read["t"].tolist() == [[0, 1], [2, 3]]
    assert entry() == GOOD


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (entry(dtype=7), "not the tensor t .its dtype number 7 holds no weights"),
        (entry(more=_message((7, b"x"))), "partitioned variable"),
        (entry(shape=(2, 3)), r"16 bytes do not make \[2, 3\] float32"),
        (entry(shape=(2**40, 2**40)), "16 bytes do not make"),
        (entry(offset=1), "reaches past the end of its data file of 16 bytes"),
        (entry(offset=2**62), "reaches past the end"),
        (entry(crc=1), "does not match its CRC-32C"),
        (entry(shard=3), r"data-00003-of-00001: cannot be read"),
        (b"\x0b", "a field of unknown type 3"),
        (b"\x08" + b"\xff" * 9 + b"\x01", "a number does not end"),
        (b"\x08\xff", "a number does not end"),
        (b"\x12\x7f", "a field reaches past the end"),
        (b"\x35\x00", "a field reaches past the end"),
    ],
)
def test_faulty_entries(tmp_path, made, said):
    with pytest.raises(InputError, match=said) as caught:
        tensorbundle.read(bundle(tmp_path, {"t": made}, DATA16))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (_message((1, 1), (2, 1)), "big-endian"),
        (_message((1, 0)), r"data-00000-of-00000: cannot be read"),
        (_message((1, 10**9)), r"data-00000-of-1000000000: cannot be read"),
    ],
)
def test_faulty_headers(tmp_path, header, said):
    with pytest.raises(InputError, match=said):
        tensorbundle.read(bundle(tmp_path, {"t": GOOD}, DATA16, header))


def test_compressed_blocks_and_missing_data_files_are_said(tmp_path):
    with pytest.raises(InputError, match=r"compressed \(kind 1\)"):
        tensorbundle.read(bundle(tmp_path, {"t": GOOD}, DATA16, kind=1))
    prefix = bundle(tmp_path, {"t": GOOD}, DATA16, _message((1, 2)))
    with pytest.raises(InputError, match="data-00000-of-00002: cannot be read"):
        tensorbundle.read(prefix)


def test_blocks_with_impossible_insides(tmp_path):
    for block in (b"\x05\x01\x01ab", b"\x00\x09\x01ab", b"\x00\x01\xff\xff\xff\xff\x7fa"):
        body = block + struct.pack("<II", 0, 1) + b"\0"
        body += struct.pack("<I", _masked(_crc(body)))
        footer = _put_varints(0, 0, 0, len(body) - 5).ljust(40, b"\0")
        (tmp_path / "m.index").write_bytes(body + footer + tensorbundle.MAGIC)
        with pytest.raises(InputError, match="not an index of TensorFlow"):
            tensorbundle.read(tmp_path / "m")


def test_the_other_floating_point_types(tmp_path):
    array = np.array([1.5, -2.25, 3, 0.125])
    for number, data in (
        (2, array.astype("<f8").tobytes()),
        (19, array.astype("<f2").tobytes()),
        (14, bits16(array).tobytes()),
    ):
        made = entry(number, (4,), size=len(data), crc=_masked(_crc(data)))
        read = tensorbundle.read(bundle(tmp_path, {"t": made}, data))["t"]
        assert read.tolist() == array.tolist()
        assert read.dtype == (np.float64 if number == 2 else np.float32)


def test_a_name_of_any_bytes_does_no_harm(tmp_path):
    block = {"t\x1b[31m\n": entry(dtype=7)}
    with pytest.raises(InputError) as caught:
        tensorbundle.read(bundle(tmp_path, block, DATA16))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
