"""Files that no program of ours wrote: pipes, links, wrong types, endless lists; and checksums."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gpt2lab import weights
from gpt2lab.commands import group
from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.weights import checksums
from gpt2lab.weights.convert import convert
from tests.weights_helpers import (
    PLAIN,
    config_json,
    hf_bin,
    hf_safe,
    hf_sharded,
    llmc_file,
    openai_folder,
    safetensors_file,
    tiny,
)

WRONG = [None, [], {}, "", "x", 1, -1, 1.5, True, [[]], {"a": None}, 2**64, 1e308, float("nan")]


def refused(path: Path, load=weights.load) -> str:
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        load(path)
    assert time.monotonic() - began < 10
    assert len(str(caught.value)) < 2000
    assert "\n" not in str(caught.value)
    return str(caught.value)


def special(path: Path, kind: str) -> None:
    """Put something in the place of a file."""
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()


@pytest.mark.skipif(os.name == "nt", reason="there are no pipes to make")
@pytest.mark.parametrize("kind", ["pipe", "link to itself", "device", "folder"])
@pytest.mark.parametrize(
    ("write", "name"),
    [
        (hf_sharded, "model-00002-of-00002.safetensors"),
        (hf_sharded, "model.safetensors.index.json"),
        (hf_safe, "config.json"),
        (hf_safe, "model.safetensors"),
        (hf_bin, "pytorch_model.bin"),
        (openai_folder, "model.ckpt.index"),
        (openai_folder, "model.ckpt.data-00000-of-00001"),
        (openai_folder, "hparams.json"),
        (lambda folder: llmc_file(folder, 3), "gpt2_tiny.bin"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path, write, name, kind):
    """A shard that was a pipe was waited for for ever, one that links to itself was a traceback."""
    folder = write(tmp_path / "model")
    special(folder / name, kind)
    refused(folder)


# --- limits ---


def test_a_file_of_foreign_tensors_is_refused_at_once(tmp_path):
    """300,000 names were listed, in a line of megabytes after five seconds."""
    for count, said in ((3000, "2995 more"), (300_000, "header has")):
        config_json(tmp_path / "model")
        entries = {
            f"layer.{i}.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            for i in range(count)
        }
        text = json.dumps(entries).encode()
        path = tmp_path / "model" / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        assert said in refused(tmp_path / "model")


def test_an_empty_configuration_over_a_small_model(tmp_path):
    """Its defaults are the 124M model's; all 108 missing names were listed."""
    folder = hf_safe(tmp_path / "model")
    (folder / "config.json").write_text("{}")
    assert " missing: " in refused(folder)


@pytest.mark.parametrize(
    "epsilon", [0, -1, 1, 1e308, float("inf"), float("nan"), "1e-5", None, True]
)
def test_an_epsilon_that_makes_nonsense(tmp_path, epsilon):
    """1e308 and Infinity were taken, and the text was nonsense."""
    config_json(tmp_path / "model", layer_norm_epsilon=epsilon)
    safetensors_file(tmp_path / "model" / "model.safetensors", tiny())
    assert "layer_norm_epsilon" in refused(tmp_path / "model")


@pytest.mark.parametrize("name", ["n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "n_inner"])
def test_every_number_of_a_configuration_is_bounded(name):
    for value in (0, -1, 2**31, 10**5000, 1.0, True, "1", float("nan"), []):
        with pytest.raises(InputError, match=name):
            Config(**{name: value})


def test_other_fields_of_a_configuration_are_checked():
    for fields in (
        {"scale_attn_weights": 1},
        {"scale_attn_by_inverse_layer_idx": None},
        {"end_tokens": (1.5,)},
        {"end_tokens": tuple(range(2000))},
        {"start_token": "a"},
        {"activation_function": "x" * 10**6},
    ):
        with pytest.raises(InputError) as caught:
            Config(**fields)
        assert len(str(caught.value)) < 300


ENDLESS = pytest.mark.parametrize(
    "text", ["[" * 10**6, '{"a":' * 10**5, "{" + "[]," * 2**21, " " * 2**26]
)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@ENDLESS
def test_json_is_bounded(tmp_path, name, text):
    """A config.json without end was read to its end."""
    folder = hf_safe(tmp_path / "model")
    (folder / name).write_text(text)
    refused(folder)


@ENDLESS
def test_a_vocabulary_is_bounded(tmp_path, text):
    """One that cannot be read leaves a model for ids, and a note of one line."""
    folder = hf_safe(tmp_path / "model")
    (folder / "tokenizer.json").write_text(text)
    began = time.monotonic()
    found = weights.load(folder)
    assert found.tokenizer is None and time.monotonic() - began < 10
    assert any("tokenizer.json" in note for note in found.notes)
    assert all(len(note) < 2000 and "\n" not in note for note in found.notes)


# --- runs and prepared sets ---


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("torch")
    from tests.train_helpers import finished, start

    folder = tmp_path_factory.mktemp("run") / "run"
    finished(start(folder, steps=4, val_every=2, save_every=2))
    return folder


@pytest.fixture
def copied(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def newest(run: Path) -> Path:
    return run / (run / "best").read_text().strip()


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        [],
        None,
        {"files": {}},
        {"files": None},
        {"files": {"model.safetensors": None}},
        {"files": {"../x": {"bytes": 1, "sha256": ""}}},
        {"files": {"config.json": {"bytes": 1, "sha256": "0"}}},
    ],
)
def test_a_manifest_that_checks_nothing_is_no_manifest(copied, manifest):
    """{} switched the check of a run's model off, null was a traceback."""
    from gpt2lab.train import checkpoint_files

    (newest(copied) / "manifest.json").write_text(json.dumps(manifest))
    assert "manifest" in refused(copied) or "bytes" in refused(copied)
    assert checkpoint_files.fault(newest(copied)) is not None


@pytest.mark.parametrize("name", ["generation_config.json", "config.json", "tokenizer.json"])
def test_every_file_of_a_runs_model_is_checked(copied, name):
    """generation_config.json stood in the manifest and was not looked at."""
    text = (newest(copied) / name).read_text()
    (newest(copied) / name).write_text(text + " ")
    assert f"{name} has" in refused(copied)
    (newest(copied) / name).write_text(text[:-1] + " ")
    assert "sha256 differs" in refused(newest(copied))


@pytest.mark.parametrize("name", ["vocab.txt", "chat_template.jinja"])
def test_a_file_of_the_vocabulary_that_the_manifest_does_not_list_is_refused(copied, name):
    """Neither was among the files of a model, so either could be put beside it or changed."""
    (newest(copied) / name).write_text("x")
    assert f"does not list {name}" in refused(copied)


def resumed(folder: Path) -> None:
    from gpt2lab.train import data_sources, run_folder

    made = run_folder.described(folder)
    run_folder.settings_of(folder)
    data_sources.again(made["sources"], folder)


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_run_json_of_wrong_types(copied, value):
    """Edited by hand, it was a KeyError or a TypeError."""
    made = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps(value))
    refused(copied, resumed)
    for key in ("settings", "config", "sources"):
        if value != {}:
            (copied / "run.json").write_text(json.dumps({**made, key: value}))
            refused(copied, resumed)
    for key in ("paths", "weights", "val"):
        places = {"paths": ["data"], "weights": [1.0], "val": None, key: value}
        (copied / "run.json").write_text(json.dumps({**made, "sources": places}))
        refused(copied, resumed)


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_state_of_wrong_types(copied, value):
    """With its hash in the manifest set right, a state of lists was a traceback."""
    from gpt2lab.train.run_folder import read_state, sizes_of

    folder = newest(copied)
    good = read_state(folder)
    for key, there in good.items():
        if type(value) is type(there) or key in ("format", "best") or there is None:
            continue
        if key == "seconds" and type(value) is int:
            continue
        (folder / "state.json").write_text(json.dumps({**good, key: value}))
        assert key in refused(folder, lambda folder: sizes_of(read_state(folder)))


def prepared(folder: Path) -> Path:
    from gpt2lab.corpus.prepare import prepare
    from tests.train_helpers import LETTERS, TEXT

    folder.parent.mkdir(exist_ok=True)
    (folder.parent / "text.txt").write_text(TEXT)
    prepare([str(folder.parent / "text.txt")], folder, tokenizer=LETTERS)
    return folder


def opened(folder: Path):
    from gpt2lab.corpus.open import open_set

    return open_set(folder)


def test_a_prepared_folder_without_its_manifest_is_no_text(tmp_path):
    """It was taken for texts, and `train` learned merges.txt by heart without a word."""
    folder = prepared(tmp_path / "set")
    assert opened(folder) is not None
    (folder / "manifest.json").unlink()
    assert "no manifest.json" in refused(folder, opened)


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_sets_manifest_of_wrong_types(tmp_path, value):
    """A shard's size of null was a traceback."""
    folder = prepared(tmp_path / "set")
    good = json.loads((folder / "manifest.json").read_text())

    def tried(change) -> None:
        bad = json.loads(json.dumps(good))
        change(bad)
        if bad != good:
            (folder / "manifest.json").write_text(json.dumps(bad))
            refused(folder, opened)

    (folder / "manifest.json").write_text(json.dumps(value))
    refused(folder, opened)
    tried(lambda m: m.update(splits=value))
    tried(lambda m: m.update(vocabulary=value))
    tried(lambda m: m["splits"].update(train=value))
    for key in ("shards", "sha256"):
        if (key, type(value)) not in (("shards", list), ("sha256", str)) or value == [[]]:
            tried(lambda m, key=key: m["splits"]["train"].update({key: value}))
    for key in ("tokens", "documents", "tokens_sha256", "ends_sha256"):
        tried(lambda m, key=key: m["splits"]["train"]["shards"][0].update({key: value}))


@pytest.mark.skipif(os.name == "nt", reason="there are no pipes to make")
@pytest.mark.parametrize("kind", ["pipe", "link to itself", "device"])
@pytest.mark.parametrize(
    "name", ["train-00000.tokens.npy", "train-00000.ends.npy", "manifest.json"]
)
def test_a_set_with_a_pipe_or_a_device(tmp_path, name, kind):
    folder = prepared(tmp_path / "set")
    special(folder / name, kind)
    refused(folder, opened)


# --- checksums beside the weights ---


@pytest.mark.parametrize("format", ["huggingface", "llmc"])
def test_convert_keeps_checksums_that_loading_compares(tmp_path, format):
    """safetensors and llm.c carry none, so a flipped bit computed something else in silence."""
    target = tmp_path / "target"
    convert(hf_safe(tmp_path / "source"), target, format)
    (line,) = checksums.report(target)
    assert (line.kind, line.fault) == ("verify.json", None)
    assert weights.load(target).config.n_layer == PLAIN.n_layer
    data = bytearray(line.file.read_bytes())
    data[-6] ^= 1
    line.file.write_bytes(data)
    assert "sha256 differs" in refused(target)
    (target / "verify.json").unlink()
    weights.load(target)


def test_models_check_tells_of_every_file(tmp_path):
    convert(hf_safe(tmp_path / "source"), tmp_path / "all" / "sure", "huggingface")
    hf_safe(tmp_path / "all" / "plain")
    openai_folder(tmp_path / "all" / "tf")
    hf_bin(tmp_path / "all" / "bin")
    arguments = ["models", str(tmp_path / "all"), "--check"]
    told = CliRunner().invoke(group, arguments)
    assert told.exit_code == 0
    for said in ("verify.json", "no checksum", "CRC-32C inside", "CRC-32 inside"):
        assert said in told.output
    path = tmp_path / "all" / "bin" / "pytorch_model.bin"
    data = bytearray(path.read_bytes())
    data[data.index(tiny()["wte.weight"].tobytes()) + 9] ^= 1
    path.write_bytes(data)
    told = CliRunner().invoke(group, [*arguments, "--json"])
    assert told.exit_code == 1
    listed = {found["name"]: found["files"] for found in json.loads(told.output)}
    assert {Path(k).name for k, v in listed.items() if v[0]["fault"]} == {"bin"}


def test_the_names_in_the_hubs_cache_are_compared(tmp_path):
    folder = (
        hf_safe(tmp_path / "snapshots" / "main") if (tmp_path / "snapshots").mkdir() is None else 0
    )
    path, blobs = folder / "model.safetensors", tmp_path / "blobs"
    blobs.mkdir()
    data = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    for name in (hashlib.sha256(data).hexdigest(), git):
        (blobs / name).write_bytes(data)
        path.unlink()
        path.symlink_to(blobs / name)
        (line,) = checksums.report(folder)
        assert (line.kind, line.fault) == ("hub cache", None)
        (blobs / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        (line,) = checksums.report(folder)
        assert line.fault is not None
    assert np.isfinite(weights.load(folder).params["wte.weight"]).all()
