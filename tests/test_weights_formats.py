"""Every layout is recognised by its content, and every reader gives the same model."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from gpt2lab import reference, weights
from gpt2lab.errors import InputError
from gpt2lab.weights import Checkpoint, tensors
from gpt2lab.weights.formats import state_dict
from tests.support import DATA, GOLDEN, ROOT
from tests.weights_helpers import (
    EXACT,
    LAYOUTS,
    PLAIN,
    checkpoint,
    hf_safe,
    logits,
    same,
    tiny,
)

needs_data = pytest.mark.skipif(not DATA.exists(), reason="the shared data is not there")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_model(tmp_path, layout):
    format, write = LAYOUTS[layout]
    folder = write(tmp_path / "model")
    config = EXACT if format == "nanogpt" else PLAIN
    loaded = weights.load(folder)
    assert weights.recognise(folder) == loaded.format == format
    assert loaded.config == config
    assert same(loaded, tiny(config))
    expected = logits(Checkpoint(config, tiny(config), None, "huggingface"))
    assert np.array_equal(logits(loaded), expected)


@pytest.mark.parametrize(
    ("layout", "file"),
    [
        ("safetensors", "model.safetensors"),
        ("safetensors", "config.json"),
        ("safetensors sharded", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin"),
        ("openai", "model.ckpt"),
        ("openai", "model.ckpt.index"),
        ("openai", "model.ckpt.data-00000-of-00001"),
        ("gpt-2-simple", "model-100"),
        ("nanogpt", "ckpt.pt"),
        ("llm.c 3", "gpt2_tiny.bin"),
    ],
)
def test_a_file_of_a_checkpoint_will_do(tmp_path, layout, file):
    format, write = LAYOUTS[layout]
    loaded = weights.load(str(write(tmp_path / "model") / file))
    assert loaded.format == format
    assert same(loaded, tiny(loaded.config))


@pytest.mark.parametrize("format", weights.writable())
def test_what_is_saved_loads_the_same(tmp_path, format):
    config = EXACT if format == "nanogpt" else PLAIN
    weights.save(checkpoint(config), tmp_path / "out", format)
    loaded = weights.load(tmp_path / "out")
    assert loaded.format == format
    assert loaded.config == config
    assert same(loaded, tiny(config))


def test_mapped_arrays_cannot_be_written_to_and_copies_can(tmp_path):
    """They were copy-on-write once; now what is known of a file must stay true of its arrays."""
    folder = hf_safe(tmp_path / "model")
    before = (folder / "model.safetensors").read_bytes()
    wte = weights.load(folder).params["wte.weight"]
    with pytest.raises(ValueError, match="read-only"):
        wte[:] = 0
    changed = wte.copy()
    changed[:] = 0
    assert (folder / "model.safetensors").read_bytes() == before


def test_unpacks_as_three(tmp_path):
    config, params, tokenizer = weights.load(hf_safe(tmp_path / "model"))
    assert (config, len(params), tokenizer) == (PLAIN, 28, None)


def test_one_report_lists_every_missing_extra_misshaped_and_broken_tensor():
    params = tiny()
    del params["h.0.ln_1.bias"], params["ln_f.weight"]
    params["h.7.ln_1.bias"] = params["wpe.weight"]
    params["score.weight"] = params["wpe.weight"]
    params["h.1.mlp.c_fc.weight"] = np.zeros((64, 16), np.float32)
    params["lm_head.weight"] = np.zeros((60, 16), np.float32)
    params["h.1.ln_2.bias"] = np.full(16, np.nan, np.float32)
    params["h.1.ln_2.weight"] = np.full(16, np.inf, np.float32)
    with pytest.raises(InputError) as caught:
        tensors.check(params, PLAIN, "here")
    assert str(caught.value) == (
        "here: the tensors are not the GPT-2 of the configuration; "
        "2 missing: h.0.ln_1.bias, ln_f.weight; "
        "2 unexpected: h.7.ln_1.bias, score.weight; "
        "2 wrong shape: h.1.mlp.c_fc.weight is [64, 16], expected [16, 64], "
        "lm_head.weight is [60, 16], expected [61, 16]; "
        "2 holding NaN or infinity: h.1.ln_2.weight, h.1.ln_2.bias"
    )


def test_dtype_is_float32_unless_all_is_float64():
    doubles = {name: array.astype(np.float64) for name, array in tiny().items()}
    kept = tensors.check(doubles, PLAIN, "here")
    assert {array.dtype for array in kept.values()} == {np.dtype(np.float64)}
    mixed = tensors.check({**doubles, "ln_f.bias": tiny()["ln_f.bias"]}, PLAIN, "here")
    assert {array.dtype for array in mixed.values()} == {np.dtype(np.float32)}


def test_a_float64_number_too_large_for_float32_is_named():
    params = {**tiny(), "ln_f.bias": np.full(16, 1e300)}
    with pytest.raises(InputError, match=r"1 holding NaN or infinity: ln_f\.bias"):
        tensors.check(params, PLAIN, "here")


def test_a_million_layers_are_refused_before_they_are_listed(tmp_path):
    folder = hf_safe(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_layer": 10**9}))
    with pytest.raises(InputError, match="n_layer 1000000000, but there are only 28 tensors"):
        weights.load(folder)


@pytest.mark.parametrize("content", [None, b"x", b"PK\x01\x02", b"{}" * 500, bytes(2000)])
def test_foreign_files_are_named(tmp_path, content):
    path = tmp_path / "thing"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match="not a checkpoint of a known format"):
        weights.load(path)


@pytest.mark.parametrize("path", ["no/such/place", "a\0b", "x" * 5000])
def test_paths_that_are_none(path):
    with pytest.raises(InputError) as caught:
        weights.load(path)
    assert "\n" not in str(caught.value)


def test_the_way_on_is_shown(tmp_path):
    hf_safe(tmp_path / "a model")
    with pytest.raises(InputError, match=r"there is one in it; load .*a model"):
        weights.load(tmp_path)


def test_save_refuses_an_unknown_format_and_an_existing_folder(tmp_path):
    with pytest.raises(InputError, match="'gguf' cannot be written; known: huggingface"):
        weights.save(checkpoint(), tmp_path / "out", "gguf")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        weights.save(checkpoint(), tmp_path / "out")


def test_the_page_on_formats_lists_them_all():
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    written = {row[1]: row[3].startswith("yes") for row in rows if len(row) == 5}
    written = {name: yes for name, yes in written.items() if name in weights.FORMATS}
    assert written == {name: name in weights.writable() for name in weights.FORMATS}
    assert all(f"`{holder}`" in text for holder in state_dict.HOLDERS)


def test_no_heavy_import():
    """torch, transformers and even safetensors are not imported before they are needed."""
    code = (
        "import sys, gpt2lab.weights\n"
        "bad = {'torch', 'tensorflow', 'transformers', 'safetensors'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_golden_openai_checkpoint_of_real_tensorflow():
    loaded = weights.load(GOLDEN / "openai_checkpoint")
    golden = np.load(GOLDEN / "openai_checkpoint" / "expected.npz")
    config = loaded.config
    assert (config.n_vocab, config.n_ctx, config.n_embd, config.n_head) == (1000, 64, 48, 4)
    assert config.end_tokens == (999,)
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.n_vocab == 1000
    ours = reference.model(config, loaded.params, golden["tokens_b2t7"])["logits"]
    assert np.max(np.abs(ours - golden["logits_b2t7"])) < 2e-6


def test_golden_nanogpt_checkpoint():
    loaded = weights.load(GOLDEN / "nanogpt_checkpoint")
    golden = np.load(GOLDEN / "nanogpt_checkpoint" / "expected.npz")
    assert loaded.config.activation_function == "gelu"
    tokens = golden["b2t9_idx"]
    ours = reference.model(loaded.config, loaded.params, tokens)["logits"]
    assert np.max(np.abs(ours - golden["b2t9_logits"])) < 1e-4


@needs_data
def test_golden_pytorch_model_bin_of_a_real_model():
    folder = DATA / "model_mgm_gpt2"
    loaded = weights.load(folder)
    assert loaded.config.end_tokens == (3,)
    assert loaded.tokenizer is None
    assert loaded.notes == (
        "vocab.json alone is no byte-level vocabulary; the model takes token ids, not text",
    )
    assert "lm_head.weight" not in loaded.params
    assert sum(array.size for array in loaded.params.values()) == 8_924_928
    golden = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    for case in golden["cases"][:3]:
        ids = np.array([case["input_ids"]])
        last = reference.model(loaded.config, loaded.params, ids)["logits"][0, -1]
        assert np.argsort(-last)[:5].tolist() == case["top5_ids"]
        assert np.allclose(last[:8], case["last_logits_first8"], atol=1e-4)


@pytest.mark.parametrize("format", ["huggingface", "openai"])
def test_float32_tensors_are_mapped_and_not_copied(tmp_path, format):
    weights.save(checkpoint(), tmp_path / "out", format)
    for name, array in weights.load(tmp_path / "out").params.items():
        assert array.flags.aligned, name
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap), name
