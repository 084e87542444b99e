"""torch files without torch: both layouts against torch itself, and pickles that mean harm."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import warnings
import zipfile

import numpy as np
import pytest

from gpt2lab.errors import InputError
from gpt2lab.files import torchfile

torch = pytest.importorskip("torch")

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"]


def save(value, path, zipped):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.fixture(params=[True, False], ids=["zip", "stream"])
def zipped(request):
    return request.param


@pytest.mark.parametrize("dtype", [*DTYPES, "bool"])
def test_every_dtype_of_torch(tmp_path, zipped, dtype):
    tensor = (torch.arange(24).reshape(2, 3, 4) - 9).to(getattr(torch, dtype))
    value = torchfile.read(save({"t": tensor}, tmp_path / "f", zipped))
    expected = tensor.float() if dtype in ("float16", "bfloat16") else tensor
    assert value["t"].dtype == dtype
    assert value["t"].shape == (2, 3, 4)
    assert np.array_equal(value["t"].array(), expected.numpy())
    assert value["t"].array().dtype == expected.numpy().dtype


def test_views_ties_and_odd_shapes(tmp_path, zipped):
    base = torch.arange(60.0).reshape(3, 4, 5)
    tensors = {
        "turned": base.permute(2, 0, 1),
        "part": base[1, :, 2:4],
        "later": base[2],
        "scalar": base[1, 2, 3],
        "empty": torch.zeros(0, 4),
        "a": base,
        "tied": base,
        "one": base[:, :1],
    }
    value = torchfile.read(save(tensors, tmp_path / "f", zipped))
    for name, tensor in tensors.items():
        assert np.array_equal(value[name].array(), tensor.numpy()), name
    assert value["a"].storage is value["tied"].storage


def test_plain_values_state_dicts_and_parameters(tmp_path, zipped):
    module = torch.nn.Linear(2, 3)
    rest = {"x": [1, 2.5, None, True, "ü"], "big": 2**70, "t": (1, (2,)), "size": torch.Size([3])}
    value = {"state": module.state_dict(), "p": module.weight, "kind": torch.bfloat16, **rest}
    read = torchfile.read(save(value, tmp_path / "f", zipped))
    assert {key: read[key] for key in rest} == {**rest, "size": (3,)}
    assert read["kind"] == "torch.bfloat16"
    assert list(read["state"]) == ["weight", "bias"]
    assert np.array_equal(read["p"].array(), module.weight.detach().numpy())


def test_an_optimizer_of_a_training_run_is_passed_over(tmp_path, zipped):
    module = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = save({"optimizer": optimizer.state_dict()}, tmp_path / "f", zipped)
    state = torchfile.read(path)["optimizer"]["state"]
    assert state[0]["exp_avg"].shape == (3, 2)


def test_storages_are_mapped_in_place(tmp_path):
    array = torchfile.read(save({"t": torch.ones(5)}, tmp_path / "f", True))["t"].array()
    assert array.base is not None
    assert array.ctypes.data % 64 == 0


# --- harm ---


class Harm:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def zip_of(program: bytes, path, **entries: bytes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program)
        for name, data in entries.items():
            archive.writestr(f"a/{name.replace('_', '/')}", data)
    return path


def test_a_hostile_pickle_is_refused_by_name_and_nothing_runs(tmp_path, zipped):
    path = save({"model": Harm(tmp_path / "made")}, tmp_path / "f", zipped)
    with pytest.raises(InputError, match=r"asks for \w+\.mkdir.*nothing was run"):
        torchfile.read(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n.",
        b"ctorch\nload\n.",
        b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
        b"\x80\x04\x8c\x0bcollections\x8c\x0fOrderedDict.pop\x93.",
        b"(i__main__\nX\n.",
        b"\x82\x01.",  # an extension code
    ],
)
def test_every_other_name_is_refused(tmp_path, program):
    with pytest.raises(InputError) as caught:
        torchfile.read(zip_of(program, tmp_path / "f"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b".",
        b"}",
        b"(((",
        b"\x80\x02}q\x00",
        b"0.",
        b"h\x05.",
        b"}(]]u.",  # an unhashable key
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n}b.",  # change the function itself
        b"ctorch\nFloatStorage\n}b.",
        b"X\xff\xff\xff\xffa.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a string of 2^63 bytes
        b"(lp0\n" + b"(l" * 1000,
        b"]Q.",
        b"P0\n.",
        b"I" + b"9" * 10_000 + b"\n.",
    ],
)
def test_broken_pickles_are_one_line(tmp_path, program):
    with pytest.raises(InputError) as caught:
        torchfile.read(zip_of(program, tmp_path / "f"))
    assert "\n" not in str(caught.value)


def test_attributes_hung_on_a_dict_do_not_stick(tmp_path):
    """A pickle may set attributes on an OrderedDict, and so replace its `items`."""
    program = b"ccollections\nOrderedDict\n)R}S'items'\nNsb."
    assert list(torchfile.read(zip_of(program, tmp_path / "f")).items()) == []


def tensor_program(count: bytes, shape: bytes, stride: bytes, offset: bytes = b"I0\n") -> bytes:
    pid = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\n" + count + b"tQ"
    body = pid + offset + b"(" + shape + b"t(" + stride + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + body + b"I00\n}tR."


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (tensor_program(b"I4\n", b"I5\n", b"I1\n"), "reaches past its 4 numbers"),
        (tensor_program(b"I4\n", b"I2\n", b"I4\n"), "reaches past its 4 numbers"),
        (tensor_program(b"I4\n", b"I4\n", b"I1\n", b"I1\n"), "reaches past its 4 numbers"),
        (tensor_program(b"I4\n", b"I1000000000000\n", b"I0\n"), "reaches past its 4 numbers"),
        (tensor_program(b"I4\n", b"I2\n", b"I-1\n"), "impossible shape"),
        (tensor_program(b"I4\n", b"I2\n", b""), "1 dimensions, 0 strides"),
        (tensor_program(b"I9\n", b"I2\n", b"I1\n"), "9 numbers are not all there"),
        (tensor_program(b"S'4'\n", b"I2\n", b"I1\n"), "impossible number"),
    ],
)
def test_tensors_that_reach_beyond_their_storage(tmp_path, program, said):
    path = zip_of(program, tmp_path / "f", data_0=bytes(16))
    with pytest.raises(InputError, match=said):
        torchfile.read(path).array()


def test_a_flipped_byte_is_found_by_its_crc(tmp_path):
    path = save({"t": torch.ones(1000)}, tmp_path / "f", True)
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<f", 1.0) * 10) + 7] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="storage 0: the CRC-32 is wrong"):
        torchfile.read(path)["t"].array()


def test_files_saved_without_crc_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = save({"t": torch.ones(3)}, tmp_path / "f", True)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torchfile.read(path)["t"].array().tolist() == [1, 1, 1]


def test_big_endian_and_compressed_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="big-endian"):
        torchfile.read(zip_of(b"}.", tmp_path / "f", byteorder=b"big"))
    with zipfile.ZipFile(tmp_path / "g", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"}.")
    with pytest.raises(InputError, match="is compressed or cut off"):
        torchfile.read(tmp_path / "g")


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "g", "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    with pytest.raises(InputError, match=r"holds no data\.pkl"):
        torchfile.read(tmp_path / "g")


def test_plain_pickles_have_no_names(tmp_path):
    (tmp_path / "a").write_bytes(pickle.dumps({"itos": {0: "a"}, "n": [1, None]}))
    assert torchfile.read_plain(tmp_path / "a") == {"itos": {0: "a"}, "n": [1, None]}
    for value in (collections.OrderedDict(), Harm(tmp_path / "made"), {1: io.BytesIO}):
        (tmp_path / "b").write_bytes(pickle.dumps(value))
        with pytest.raises(InputError, match="nothing was run"):
            torchfile.read_plain(tmp_path / "b")
    assert not (tmp_path / "made").exists()
