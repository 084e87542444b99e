"""Pickles that mean to hang, to fill memory or to read what is not theirs: refused in one line."""

from __future__ import annotations

import io
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest

from gpt2lab.errors import InputError
from gpt2lab.files import pickles, torchfile
from gpt2lab.weights.formats import nanogpt, state_dict
from tests.weights_helpers import torch_file


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"


STORAGE = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu")
STORAGE += b"K\x04tQ"
REBUILD = named("torch._utils", "_rebuild_tensor_v2")
TENSOR = REBUILD + b"(" + STORAGE + b"K\0" + numbers(4) + numbers(1) + b"\x89NtR"
LISTS = b"(]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(40)) + b"1h("
TUPLES = b"()q\0" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(40)) + b"1h("
COLLIDING = b"".join(
    b"\x8a\x10" + (k * (2**61 - 1)).to_bytes(16, "little") + b"N" for k in range(9)
)


def placed(value: bytes) -> bytes:
    return b"}" + text("wte.weight") + value + b"s"


HOSTILE = {
    "a stride before the storage": placed(TENSOR + b"}" + text("stride") + numbers(-5) + b"sb"),
    "another storage": placed(TENSOR + b"}" + text("storage") + text("abcd") + b"sb"),
    "the slots of a tensor": placed(TENSOR + b"N}" + text("offset") + b"K\x09s\x86b"),
    "the CRC of a storage": b"0" + STORAGE + b"}" + text("crc") + b"Nsb" + placed(TENSOR),
    "70 dimensions": placed(REBUILD + b"(" + STORAGE + b"K\0" + numbers(*[1] * 70) * 2 + b"tR"),
    "a negative stride": placed(REBUILD + b"(" + STORAGE + b"K\0" + numbers(2) + numbers(-1) + b"t"
    + b"R"),
    "an offset that is text": placed(REBUILD + b"(" + STORAGE + text("0") + numbers(4) * 2 + b"tR"),
    "a shape of texts": placed(
        REBUILD + b"(" + STORAGE + b"K\0" + (b"(" + text("4") + b"t") * 2 + b"tR"),
    "a nested kind": b"(" + text("storage") + LISTS + text("0") + text("cpu") + b"K\x04tQ",
    "a nested key": b"(" + text("storage") + named("torch", "FloatStorage") + LISTS + b"NK\x04tQ",
    "a nested id": LISTS + b"Q",
    "a nested device": named("torch", "device") + LISTS + b"\x85R",
    "a nested size": named("torch", "Size") + TUPLES + b"\x85R",
    "a nested count": STORAGE[:-3] + LISTS + b"tQ",
    "nested lists": placed(LISTS),
    "nested tuples": placed(TUPLES),
    "nested tuples as a key": b"}" + TUPLES + b"K\1s",
    "keys of one hash": b"}(" + COLLIDING + b"u",
    "a list in itself": b"]q\0h\0a",
    "a dict in itself": b"}q\0K\1h\0s",
    "200 lists in each other": b"]" * 200 + b"a" * 199,
    "a call of a text": text("a") + b")R",
    "an OrderedDict of itself": named("collections", "OrderedDict") + LISTS + b"\x85R",
    "too many operations": b"]" + b"Na" * pickles.OPERATIONS,
    "the same list called again": b"](" + b"K\1" * 60_000 + b"eq\0"
    + (named("torch", "Size") + b"h\0\x85R0") * 40,
}  # fmt: skip


def refused(read, path) -> str:
    """The one line of the refusal, which must come at once."""
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        read(path)
    assert time.monotonic() - began < 10
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
    return str(caught.value)


def zipped(program: bytes, path, data: bytes = bytes(16)):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/data/0", data)
    return path


def streamed(program: bytes, path):
    """The layout before torch 1.6."""
    system = pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
    head = torchfile.STREAM_MAGIC + pickle.dumps(1001, 2) + system
    path.write_bytes(head + program + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16))
    return path


def wanted(path):
    value = torchfile.read(path)
    return state_dict.tensors_of(value, str(path))


@pytest.mark.parametrize("layout", [zipped, streamed])
@pytest.mark.parametrize("kind", HOSTILE)
def test_no_field_is_set_and_nothing_is_walked_without_limit(tmp_path, layout, kind):
    """A pickle's BUILD set the strides of our tensors, so that memory outside the file was read and
    could be written into a converted model; and 1.7 kB of lists that each hold the one before twice
    were hashed, printed or joined until memory was full."""
    refused(wanted, layout(b"\x80\x02" + HOSTILE[kind] + b".", tmp_path / "f"))


def test_the_same_pickle_without_harm_is_read(tmp_path):
    """The programs above are refused for their harm, not because they are badly made."""
    for layout in (zipped, streamed):
        value = wanted(layout(b"\x80\x02" + placed(TENSOR) + b".", tmp_path / "f"))
        assert value["wte.weight"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["nested lists", "nested tuples as a key", "a list in itself"])
def test_plain_pickles_have_the_same_limits(tmp_path, kind):
    """meta.pkl hung at its keys as well."""
    (tmp_path / "meta.pkl").write_bytes(b"\x80\x02" + HOSTILE[kind] + b".")
    refused(torchfile.read_plain, tmp_path / "meta.pkl")


@pytest.mark.parametrize("key", ["bias", "n_layer", "vocab_size", "block_size", "other"])
@pytest.mark.parametrize("value", [LISTS, b"](" + text("x" * 5000) * 100 + b"e"])
def test_model_args_are_not_repeated_whole(tmp_path, key, value):
    """nanoGPT's settings stood in the message as they were, however long."""
    arguments = b"}" + text(key) + value + b"s"
    body = b"}" + text("model_args") + arguments + b"s" + text("model") + b"}s"
    refused(nanogpt.load, zipped(b"\x80\x02" + body + b".", tmp_path / "ckpt.pt"))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_out_as_pickle_reads_them(protocol):
    shared = ["a", 1.5]
    value = {
        "x": [1, -(2**40), 2**70, True, None],
        "t": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    }
    value |= {"again": [shared, shared], 7: "ü\n", (1, "a"): {}, None: -1e-300}
    program = pickle.dumps(value, protocol)
    assert pickles.read(io.BytesIO(program), "f") == pickle.loads(program)


def test_random_programs_never_do_anything_else(tmp_path):
    """Valid pickles with bytes changed: a value or an error, never a crash, never a name called."""
    random = np.random.default_rng(0)
    program = b"\x80\x02" + placed(TENSOR) + b"."
    for _ in range(800):
        broken = bytearray(program)
        for place in random.integers(0, len(program), random.integers(1, 4)):
            broken[place] = random.integers(0, 256)
        try:
            wanted(zipped(bytes(broken), tmp_path / "f"))
        except InputError as error:
            assert "\n" not in str(error)


# --- zip files ---


def entries(path, changed) -> None:
    """A written file, its bytes changed by a function."""
    torch_file(path, {"a": np.arange(4, dtype="f4"), "b": np.arange(4, 8, dtype="f4")})
    data = bytearray(path.read_bytes())
    changed(data)
    path.write_bytes(data)


def directory(data: bytearray, name: bytes) -> int:
    """Where the directory's entry of a name begins."""
    return data.rindex(name) - 46


def test_a_crc_left_out_of_the_directory_alone(tmp_path):
    """torch can leave out all CRCs; one 0 among others let a flipped bit through."""

    def changed(data):
        at = directory(data, b"archive/data/0")
        data[at + 16 : at + 20] = bytes(4)
        data[data.index(np.arange(4, dtype="f4").tobytes()) + 5] ^= 1

    entries(tmp_path / "f", changed)
    assert "damaged" in refused(wanted, tmp_path / "f")


def test_storages_that_were_exchanged_in_the_directory(tmp_path):
    """Offsets exchanged together with their CRCs gave each tensor the other's numbers."""

    def changed(data):
        one, two = (directory(data, b"archive/data/%d" % i) for i in range(2))
        for place in (slice(16, 20), slice(42, 46)):
            a, b = (slice(at + place.start, at + place.stop) for at in (one, two))
            data[a], data[b] = data[b], data[a]

    entries(tmp_path / "f", changed)
    assert "damaged" in refused(torchfile.read, tmp_path / "f")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_doubled_and_overlapping_entries(tmp_path):
    with zipfile.ZipFile(tmp_path / "f", "w") as archive:
        for name in ("a/data.pkl", "a/data/0", "b/data/0"):
            archive.writestr(name, b"}.")
    assert "comes twice" in refused(torchfile.read, tmp_path / "f")

    def changed(data):
        at = directory(data, b"archive/data/0")
        data[at + 20 : at + 28] = struct.pack("<II", 200, 200)

    entries(tmp_path / "g", changed)
    refused(torchfile.read, tmp_path / "g")


def test_a_zip_directory_without_end(tmp_path):
    """65,535 entries are read in time; a directory of megabytes is refused before it is read."""
    for count, name in ((65_535, "f"), (3000, "g")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for number in range(count):
                archive.writestr(f"a/{number}" + "x" * (3000 if name == "g" else 0), b"")
    assert refused(torchfile.read, tmp_path / "f")
    assert "directory" in refused(torchfile.read, tmp_path / "g")


def test_storages_that_are_used_again_and_again(tmp_path):
    """1,000 turned tensors over one storage would be 1,000 copies of it."""
    turned = REBUILD + b"(" + STORAGE + b"K\0" + numbers(2, 2) + numbers(1, 2) + b"\x89NtR"
    body = b"}(" + b"".join(text(f"x{i}") + turned for i in range(1000)) + b"u."
    assert "share" in refused(wanted, zipped(b"\x80\x02" + body, tmp_path / "f"))
