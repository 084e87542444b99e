"""Conversions: between all formats, proven, never overwriting, never half done."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpt2lab import weights
from gpt2lab.errors import Failure, InputError
from gpt2lab.weights import convert as module
from gpt2lab.weights.convert import compare, convert, fixed_tokens
from gpt2lab.weights.formats import huggingface
from tests.weights_helpers import EXACT, LAYOUTS, PLAIN, checkpoint, hf_safe, same, tiny


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", weights.writable())
def test_every_layout_to_every_format(tmp_path, layout, format):
    source_format, write = LAYOUTS[layout]
    source, target = write(tmp_path / "source"), tmp_path / "target"
    before = tree(source)
    report = convert(source, target, format, verify=True)
    assert (report.source_format, report.target_format) == (source_format, format)
    if format != "huggingface" and (source_format == "nanogpt") != (format == "nanogpt"):
        assert 0 < report.largest_difference < 1e-2  # the two forms of GELU, told in the note
        assert "GELU" in report.note and report.tokens == 24
    else:
        assert (report.largest_difference, report.top1_agreement, report.tokens) == (0.0, 1.0, 24)
        assert report.note == ""
    kept = json.loads((target / "verify.json").read_text())
    assert all((target / name).is_file() for name in kept.pop("files"))
    assert kept == report.to_dict()
    assert same(weights.load(target), tiny(EXACT if source_format == "nanogpt" else PLAIN))
    assert tree(source) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_without_verify_there_is_no_proof(tmp_path):
    report = convert(hf_safe(tmp_path / "a"), tmp_path / "b", "openai", verify=False)
    assert (report.tokens, report.top1_agreement, report.largest_difference) == (None, None, None)
    assert not (tmp_path / "b" / "verify.json").exists()


def test_a_run_keeps_its_stop_text(tmp_path):
    """Its documents end with <|endoftext|> written out, which no token says."""
    convert(LAYOUTS["gpt-2-simple"][1](tmp_path / "a"), tmp_path / "b", "huggingface")
    assert weights.load(tmp_path / "b").generation == {"stop": ("<|endoftext|>",)}


def test_variants_survive_to_huggingface(tmp_path):
    config = replace(
        PLAIN,
        activation_function="relu",
        n_inner=24,
        layer_norm_epsilon=1e-4,
        scale_attn_by_inverse_layer_idx=True,
    )
    weights.save(checkpoint(config), tmp_path / "a")
    assert convert(tmp_path / "a", tmp_path / "b", "huggingface").largest_difference == 0
    assert weights.load(tmp_path / "b").config == config


def test_float64_weights_come_out_as_float32_with_the_loss_told(tmp_path):
    from tests.weights_helpers import config_json, safetensors_file

    config_json(tmp_path / "a")
    doubles = {name: array * (1 + 1e-9) for name, array in _doubles().items()}
    safetensors_file(tmp_path / "a" / "model.safetensors", doubles, "F64")
    report = convert(tmp_path / "a", tmp_path / "b", "huggingface")
    assert report.largest_difference is not None
    assert 0 < report.largest_difference < 1e-3
    assert weights.load(tmp_path / "b").params["wte.weight"].dtype == np.float32


def _doubles():
    return {name: array.astype(np.float64) for name, array in tiny().items()}


def test_the_tokens_are_the_same_on_every_machine():
    assert fixed_tokens(50257, 1024).shape == (2, 64)
    assert fixed_tokens(50257, 1024)[0, :4].tolist() == FIRST_TOKENS
    assert fixed_tokens(61, 12).shape == (2, 12)


FIRST_TOKENS = [6816, 706, 47127, 12954]


# --- nothing is lost ---


def test_an_existing_target_is_kept_without_force(tmp_path):
    hf_safe(tmp_path / "a")
    hf_safe(tmp_path / "b")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"b: exists already; .*--force"):
        convert(tmp_path / "a", tmp_path / "b", "openai")
    assert tree(tmp_path) == before


def test_force_replaces_a_model_whole(tmp_path):
    hf_safe(tmp_path / "a")
    hf_safe(tmp_path / "b")
    (tmp_path / "b" / "more.txt").write_text("old")
    convert(tmp_path / "a", tmp_path / "b", "openai", force=True)
    assert weights.recognise(tmp_path / "b") == "openai"
    assert not (tmp_path / "b" / "more.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_force_leaves_a_folder_of_something_else_alone(tmp_path):
    hf_safe(tmp_path / "a")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("x")
    with pytest.raises(InputError, match="is no checkpoint, so --force leaves it alone"):
        convert(tmp_path / "a", tmp_path / "photos", "openai", force=True)
    assert (tmp_path / "photos" / "one.jpg").read_text() == "x"
    (tmp_path / "empty").mkdir()
    convert(tmp_path / "a", tmp_path / "empty", "openai", force=True)
    assert weights.recognise(tmp_path / "empty") == "openai"


@pytest.mark.parametrize("target", ["a", "a/inside", "a/x/y", ".", "b/../a"])
def test_a_target_that_overlaps_with_the_source(tmp_path, target):
    hf_safe(tmp_path / "a")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="overlaps with the source"):
        convert(tmp_path / "a", tmp_path / target, "openai", force=True)
    assert tree(tmp_path) == before


def fail(error):
    def save(checkpoint, folder):
        (folder / "half").write_text("done")
        raise error

    return save


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), Failure),
        (MemoryError(), MemoryError),
    ],
)
@pytest.mark.parametrize("force", [True, False])
def test_whatever_goes_wrong_leaves_no_trace(tmp_path, monkeypatch, error, raised, force):
    hf_safe(tmp_path / "a")
    target = tmp_path / "new" / "deep" / "b"
    if force:
        target = tmp_path / "b"
        hf_safe(target)
    before = tree(tmp_path)
    monkeypatch.setattr(huggingface, "save", fail(error))
    with pytest.raises(raised):
        convert(tmp_path / "a", target, "huggingface", force=force)
    assert tree(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == (["a", "b"] if force else ["a"])


def test_an_interrupt_between_the_two_renames_puts_the_old_back(tmp_path, monkeypatch):
    hf_safe(tmp_path / "a")
    hf_safe(tmp_path / "b")
    before = tree(tmp_path)
    rename = Path.rename

    def interrupted(self, target):
        if self.suffix == ".tmp":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "a", tmp_path / "b", "openai", force=True, verify=False)
    assert tree(tmp_path) == before


def test_a_result_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    hf_safe(tmp_path / "a")
    save = huggingface.save

    def wrong(checkpoint, folder):
        save(replace(checkpoint, params=tiny(seed=7)), folder)

    monkeypatch.setattr(huggingface, "save", wrong)
    with pytest.raises(InputError, match="computes other logits than the source"):
        convert(tmp_path / "a", tmp_path / "b", "huggingface")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_broken_source_makes_no_target(tmp_path):
    folder = hf_safe(tmp_path / "a")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        convert(folder, tmp_path / "b", "openai")
    with pytest.raises(InputError, match="no such file or folder"):
        convert(tmp_path / "gone", tmp_path / "b", "openai")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_target_that_cannot_be_written(tmp_path):
    hf_safe(tmp_path / "a")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written") as caught:
        convert(tmp_path / "a", tmp_path / "file" / "b", "openai")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "x"


def test_a_read_only_target(tmp_path):
    hf_safe(tmp_path / "a")
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(InputError, match="cannot be written"):
        convert(tmp_path / "a", tmp_path / "locked" / "b", "openai")


def test_unknown_formats_are_refused(tmp_path):
    with pytest.raises(InputError, match="'gpt2simple' cannot be written; known: huggingface"):
        convert(hf_safe(tmp_path / "a"), tmp_path / "b", "gpt2simple")


def test_compare_tells_differences():
    one = checkpoint()
    other = replace(one, params={**one.params, "ln_f.bias": one.params["ln_f.bias"] + 1e-6})
    difference, agreement, tokens = compare(one, other)
    assert 0 < difference < 1e-3
    assert 0.9 < agreement <= 1
    assert tokens == 24
    with pytest.raises(InputError, match="not one model"):
        compare(one, checkpoint(replace(PLAIN, n_vocab=62)))
    assert module.TOLERANCE == 1e-3
