"""Cut-off and damaged files of every format: one line, never anything else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gpt2lab import weights
from gpt2lab.errors import InputError
from tests.weights_helpers import EXACT, LAYOUTS, PLAIN, same, tiny

FILES = {
    "safetensors": "model.safetensors",
    "pytorch_model.bin": "pytorch_model.bin",
    "openai": "model.ckpt.index",
    "openai in three files": "model.ckpt.data-00001-of-00003",
    "gpt-2-simple": "model-100.index",
    "nanogpt": "ckpt.pt",
    "nanogpt stream": "ckpt.pt",
    "llm.c 3": "gpt2_tiny.bin",
    "llm.c 5": "gpt2_tiny.bin",
}


def write(layout: str, folder: Path) -> Path:
    """The folder of a layout; the old torch stream is torch's own to write."""
    if layout != "nanogpt stream":
        return LAYOUTS[layout][1](folder)
    torch = pytest.importorskip("torch")
    from tests.weights_helpers import nanogpt_value

    value = nanogpt_value(tiny(EXACT))
    value["model"] = {name: torch.from_numpy(a) for name, a in value["model"].items()}
    value["best_val_loss"] = torch.tensor(1.5)
    folder.mkdir()
    torch.save(value, folder / "ckpt.pt", _use_new_zipfile_serialization=False)
    return folder


def outcome(folder: Path) -> weights.Checkpoint | None:
    """The checkpoint, or None when it was refused in one printable line."""
    try:
        return weights.load(folder)
    except InputError as error:
        assert "\n" not in str(error)
        assert str(error).isprintable()
        return None


@pytest.mark.parametrize("layout", FILES)
def test_a_file_cut_off_anywhere_is_refused(tmp_path, layout):
    folder = write(layout, tmp_path / "model")
    path = folder / FILES[layout]
    data = path.read_bytes()
    config = EXACT if "nanogpt" in layout else PLAIN
    assert same(weights.load(folder), tiny(config))
    random = np.random.default_rng(0)
    cuts = {0, 1, 4, 8, 9, 20, 100, 1023, 1024, len(data) // 2, len(data) - 1, len(data) - 20}
    for cut in sorted(cuts | set(random.integers(0, len(data), 25).tolist())):
        if cut < len(data):
            path.write_bytes(data[:cut])
            assert outcome(folder) is None, cut


@pytest.mark.parametrize("layout", FILES)
def test_a_damaged_file_is_refused_or_read_never_anything_else(tmp_path, layout):
    """Bytes changed all over the file, most of them where the structure is."""
    folder = write(layout, tmp_path / "model")
    path = folder / FILES[layout]
    data = path.read_bytes()
    random = np.random.default_rng(1)
    edges = np.concatenate([np.arange(60), len(data) - 1 - np.arange(60)])
    middle = random.integers(0, len(data), 100)
    checked = layout.startswith(("openai", "gpt-2", "nanogpt")) and layout != "nanogpt stream"
    for place in np.concatenate([edges, middle]).tolist():
        broken = bytearray(data)
        broken[place % len(data)] ^= int(random.integers(1, 256))
        path.write_bytes(broken)
        loaded = outcome(folder)
        if checked and loaded is not None:  # a checksum stands over every number
            assert same(loaded, tiny(EXACT if "nanogpt" in layout else PLAIN)), place


@pytest.mark.parametrize("layout", FILES)
def test_bytes_put_in_or_taken_out(tmp_path, layout):
    folder = write(layout, tmp_path / "model")
    path = folder / FILES[layout]
    data = path.read_bytes()
    for place in np.random.default_rng(2).integers(0, len(data), 15).tolist():
        path.write_bytes(data[:place] + b"\0" + data[place:])
        outcome(folder)
        path.write_bytes(data[:place] + data[place + 1 :])
        outcome(folder)


@pytest.mark.parametrize("layout", ["safetensors", "openai", "nanogpt", "llm.c 3"])
def test_a_file_that_may_not_be_read(tmp_path, layout):
    folder = write(layout, tmp_path / "model")
    (folder / FILES[layout]).chmod(0)
    if os.access(folder / FILES[layout], os.R_OK):
        pytest.skip("this user may read everything")
    assert outcome(folder) is None


@pytest.mark.parametrize("layout", ["safetensors", "openai", "nanogpt", "llm.c 3"])
def test_a_folder_in_place_of_the_file(tmp_path, layout):
    folder = write(layout, tmp_path / "model")
    (folder / FILES[layout]).unlink()
    (folder / FILES[layout]).mkdir()
    assert outcome(folder) is None
