"""Finding and listing models on this machine: no network, and only headers are read."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gpt2lab import weights
from gpt2lab.commands import models
from gpt2lab.commands.models import command, disk, short
from gpt2lab.config import SIZES, Config, parameter_shapes
from gpt2lab.engines.cpu import cpu_features
from gpt2lab.errors import InputError
from gpt2lab.files import safetensors_file, torchfile
from gpt2lab.text.bpe import byte_symbols
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.text.tokenizer_json import bpe_spec
from gpt2lab.weights import checksums, find, tensors
from gpt2lab.weights.checkpoint import Checkpoint
from gpt2lab.weights.formats import huggingface, llmc, tensorbundle
from tests.weights_helpers import torch_file

CONFIG = Config(n_vocab=61, n_ctx=16, n_embd=8, n_head=2, n_layer=2)
COUNT = 2376  # numbers in a model of that shape
END = "<|endoftext|>"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLACES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder and cache, and no network."""

    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked")

    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def checkpoint(config: Config = CONFIG) -> Checkpoint:
    random = np.random.default_rng(0)
    params = {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in parameter_shapes(config).items()
    }
    return Checkpoint(config, params, None, "huggingface")


def make(folder: Path | str) -> Path:
    """A small model folder."""
    huggingface.save(checkpoint(), Path(folder))
    return Path(folder)


def cached(repo: str, commit: str = COMMIT, ref: str = "main") -> Path:
    """A small model in the hub's cache, as its own library leaves it: links to blobs."""
    folder = find.repo_folder(repo)
    snapshot = make(folder / "snapshots" / commit)
    (folder / "blobs").mkdir(exist_ok=True)
    blob = folder / "blobs" / "abc"
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(blob, snapshot))
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / ref).write_text(commit)
    return snapshot


# --- find and resolve ---


def test_the_bundled_model() -> None:
    path = find.bundled()
    assert find.find() == find.find("fable") == find.resolve() == path
    assert (path / "config.json").is_file()


def test_paths_come_first() -> None:
    assert find.find("runs/best") is None
    make("runs/best")
    make("fable")
    assert find.find("runs/best") == Path("runs/best")
    assert find.resolve("runs/best/model.safetensors") == Path("runs/best/model.safetensors")
    assert find.find("fable") == Path("fable")
    assert find.resolve(Path("fable")) == Path("fable")


def test_the_home_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make(tmp_path / "model")
    assert find.find("~/model") == tmp_path / "model"


def test_the_folders_of_the_older_programs() -> None:
    weights.save(checkpoint(), Path("models/124M"), "openai")
    weights.save(checkpoint(), Path("checkpoint/run1"), "openai")
    (Path("checkpoint/run1") / "counter").write_text("1")
    assert find.find("124M") == Path("models/124M")
    assert find.find("run1") == Path("checkpoint/run1")


def test_a_folder_that_is_no_model_does_not_hide_one() -> None:
    """People who work in a clone of openai/gpt-2 have a folder gpt2 or 124M of something else."""
    path = cached("openai-community/gpt2")
    Path("gpt2").mkdir()
    assert find.find("gpt2") == path
    Path("other").mkdir()
    assert find.find("other") == Path("other")  # loading it then says what is wrong with it


def test_the_cache_of_the_hub() -> None:
    assert find.find("124M") is None
    path = cached("openai-community/gpt2")
    for name in ("124M", "gpt2", "openai-community/gpt2"):
        assert find.find(name) == find.resolve(name) == path
    assert find.find("355M") is None
    other = cached("me/tiny", "f" * 40, ref="v1")
    assert find.find("me/tiny") is None
    assert find.snapshot("me/tiny", "v1") == find.snapshot("me/tiny", "f" * 40) == other


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "blob", "ref"])
def test_an_incomplete_snapshot_is_not_found(missing: str) -> None:
    path = cached("me/tiny")
    repo = path.parent.parent
    broken = {"blob": repo / "blobs" / "abc", "ref": repo / "refs" / "main"}
    broken.get(missing, path / missing).unlink()
    assert find.find("me/tiny") is None


def test_an_incomplete_set_of_shards_is_not_found() -> None:
    path = cached("me/tiny")
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").unlink()
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "one.safetensors").write_bytes(whole)
    assert find.find("me/tiny") is None
    (path / "two.safetensors").write_bytes(whole)
    assert find.find("me/tiny") == path


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answer as huggingface_hub gives, for every setting it reads."""
    settings = [
        {"HF_HUB_CACHE": "a/b", "HF_HOME": "c"},
        {"HUGGINGFACE_HUB_CACHE": "a/b", "HF_HOME": "c"},
        {"HF_HOME": "~/x"},
        {"HF_HOME": "$OTHER/x", "OTHER": "/o"},
        {"XDG_CACHE_HOME": "/xdg"},
        {},
    ]
    ask = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    for setting in settings:
        with monkeypatch.context() as changed:
            for name in PLACES:
                changed.delenv(name, raising=False)
            for name, value in setting.items():
                changed.setenv(name, value)
            said = subprocess.run(
                [sys.executable, "-c", ask], capture_output=True, text=True, check=True
            )
            assert str(find.hub_cache()) == said.stdout.strip()


@pytest.mark.parametrize(
    "name", ["./x", "../x", "~/x", "/x/y", "a/b/c", "a\\b", "C:\\x", "./" + "x" * 5000, "/a\0b"]
)
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find.resolve(name)
    with pytest.raises(InputError, match="no such file or folder"):
        find.resolve(Path(name))


@pytest.mark.parametrize("name", ["xyz", "125M", "", "a b", "x" * 5000, "a\0b", "gpt3", "owner/"])
def test_a_name_that_means_nothing(name: str) -> None:
    with pytest.raises(
        InputError, match=r"not an official size .*`gpt2lab models` lists"
    ) as caught:
        find.resolve(name)
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)


def test_nothing_is_downloaded_when_it_may_not_be() -> None:
    with pytest.raises(InputError, match="fetch it: gpt2lab download 355M"):
        find.resolve("355M")


def test_looking_does_not_import_the_hub() -> None:
    code = (
        "import sys; from gpt2lab.weights import find; find.listing(); find.find('124M');"
        "assert 'huggingface_hub' not in sys.modules and 'torch' not in sys.modules"
    )
    path = str(Path(find.__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


# --- listing ---


def test_count_is_that_of_the_shapes() -> None:
    assert tensors.count(CONFIG) == COUNT == sum(a.size for a in checkpoint().params.values())
    millions = [tensors.count(config) // 10**6 for config in SIZES.values()]
    assert millions == [124, 354, 774, 1557]


def test_all_the_usual_places() -> None:
    make("mine")
    weights.save(checkpoint(), Path("models/124M"), "openai")
    exact = Config(**{**CONFIG.to_dict(), "activation_function": "gelu"})
    weights.save(checkpoint(exact), "out", "nanogpt")
    weights.save(checkpoint(), Path("checkpoint/run1"), "openai")
    cached("me/tiny")
    older = cached("me/tiny", "f" * 40, ref="v1")
    listed = {found.name: found for found in find.listing()}
    assert list(listed) == ["fable", "mine", "out", "124M", "run1", "me/tiny", str(older)]
    assert [found.format for found in listed.values()] == [
        *("huggingface", "huggingface", "nanogpt", "openai", "openai"),
        *("huggingface", "huggingface"),
    ]
    assert {found.parameters for name, found in listed.items() if name != "fable"} == {COUNT}
    assert all(found.problem is None and found.size > 4 * COUNT for found in listed.values())
    assert all(find.find(name) == found.path for name, found in listed.items())
    places = [found.place for found in listed.values()]
    assert places == ["bundled", ".", ".", "models/", "checkpoint/", "hub cache", "hub cache"]


def test_what_is_no_model_is_not_listed() -> None:
    Path("web").mkdir()
    Path("web/config.json").write_text('{"port": 80}')
    Path("empty").mkdir()
    bert = find.repo_folder("google/bert") / "snapshots" / COMMIT
    bert.mkdir(parents=True)
    (bert / "config.json").write_text('{"model_type": "bert"}')
    (find.hub_cache() / "datasets--a--b" / "snapshots" / "c").mkdir(parents=True)
    assert [found.name for found in find.listing()] == ["fable"]


def test_unreadable_models_are_listed_with_the_reason() -> None:
    short_file = make("cut") / "model.safetensors"
    short_file.write_bytes(short_file.read_bytes()[:-8])
    (make("bare") / "model.safetensors").unlink()
    (make("json") / "config.json").write_text("{")
    bert = json.dumps({"model_type": "bert"})
    (make("bert") / "config.json").write_text(bert)
    huge = {"model_type": "gpt2", "n_layer": 10**9, "n_head": 0}
    (make("huge") / "config.json").write_text(json.dumps(huge))
    Path("lone").mkdir()
    Path("lone/model.safetensors").write_bytes(b"")
    (cached("me/tiny") / "model.safetensors").unlink()
    reasons = {found.name: found.problem or "" for found in find.listing()}
    assert reasons.pop("fable") == ""
    for name, said in (
        ("cut", "truncated or damaged"),
        ("bare", "no weights"),
        ("json", "not valid JSON"),
        ("bert", "model_type is 'bert'"),
        ("huge", "n_head"),
        ("lone", "not a checkpoint of a known format"),
        ("me/tiny", "no weights"),
    ):
        assert said in reasons.pop(name), name
    assert not reasons


def test_folders_that_are_named_are_searched_three_deep() -> None:
    make("runs/a/best")
    make("runs/a/last")
    make("runs/.hidden")
    make("runs/1/2/3/4")
    tensors = [found.name for found in find.listing(["runs"])]
    assert tensors == [str(Path("runs/a/best")), str(Path("runs/a/last"))]
    assert all(find.find(name) for name in tensors)
    file = Path("runs/a/best/model.safetensors")
    assert [found.path for found in find.listing([file])] == [file]
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        find.listing(["nowhere"])


def test_a_working_folder_that_is_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make("here"))
    assert [found.name for found in find.listing()] == ["fable", "."]


def test_a_head_of_its_own_is_counted() -> None:
    made = checkpoint()
    made.params["lm_head.weight"] = made.params["wte.weight"] + 1
    huggingface.save(made, Path("mine"))
    assert find.listing(["mine"])[0].parameters == COUNT + 61 * 8


def test_only_headers_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest official model has 6 GB; listing it may not take the time of reading it."""

    def refuse(*args: object) -> None:
        raise AssertionError("the numbers were read")

    for format in weights.writable():
        made = checkpoint()
        made.config = Config(**{**CONFIG.to_dict(), "activation_function": "gelu"})
        weights.save(made, format, format)
    torch_file(make("bin") / "pytorch_model.bin", checkpoint().params)
    Path("bin/model.safetensors").unlink()
    for module in (safetensors_file, tensorbundle, llmc, torchfile):
        monkeypatch.setattr(module, "floats", refuse)
    monkeypatch.setattr(checksums, "file_sha256", refuse)
    assert [found.problem for found in find.listing()] == [None] * 6


def _without(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in params.items() if name != "h.1.ln_2.bias"}


def _narrow(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**params, "h.0.mlp.c_fc.weight": params["h.0.mlp.c_fc.weight"][:, :-1]}


@pytest.mark.parametrize("format", weights.writable())
@pytest.mark.parametrize(
    "change, said", [(_without, "1 missing: h.1.ln_2.bias"), (_narrow, "c_fc")]
)
def test_tensors_that_do_not_fit_the_configuration_are_told(
    change: Callable[..., Any], said: str, format: str
) -> None:
    """A model was listed as good whose tensors were not those of its config.json."""
    made = checkpoint()
    made.config = Config(**{**CONFIG.to_dict(), "activation_function": "gelu"})
    if format == "llmc":  # has no names: the size of the file is that of the header
        weights.save(made, "m", format)
        whole = Path("m/model.bin").read_bytes()
        Path("m/model.bin").write_bytes(whole[:-4])
        said = f"has {len(whole) - 4} bytes, its header asks for {len(whole)}"
    elif format == "nanogpt":
        weights.save(made, "m", format)
        value = torchfile.read(Path("m/ckpt.pt"))
        arrays = tensors.transposed(change(made.params))
        state = {f"transformer.{name}": array for name, array in arrays.items()}
        torch_file(Path("m/ckpt.pt"), {"model": state, "model_args": value["model_args"]})
    else:
        weights.save(made, "good", format)
        made.params = change(made.params)
        Path("m").mkdir()
        weights.FORMATS[format].save(made, Path("m"))
    [found] = find.listing(["m"])
    assert said in (found.problem or "")
    with pytest.raises(InputError, match=re.escape(said)):
        weights.load("m")


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("adapter_config.json", b'{"base_model_name_or_path": "gpt2"}', "adapter of peft"),
        ("gpt2.Q8_0.gguf", b"GGUF\x03\x00\x00\x00", "GGUF file of llama.cpp"),
        ("weights.bin", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("model.bin", b"\x06\x00\x00\x00\x0f\x00DecoderModelSpec\x00", "CTranslate2"),
        ("model.onnx", b"\x08\x07\x12\x07pytorch", "ONNX"),
        ("pytorch_model.bin", b"<!DOCTYPE html><html>", "web page"),
    ],
)
def test_what_people_take_for_a_model_is_listed_with_the_reason(
    name: str, content: bytes, said: str
) -> None:
    """A folder with only an adapter or a GGUF was passed over, as if it were not there."""
    Path("mine").mkdir()
    Path("mine", name).write_bytes(content)
    [_, found] = find.listing()
    assert (found.name, found.format) == ("mine", None)
    assert said in (found.problem or "")
    Path("texts").mkdir()  # what is no model stays unlisted
    for other in ("page.html", "train.bin", "a.zip"):
        Path("texts", other).write_bytes(b"<html>" if other == "page.html" else b"")
    assert len(find.listing()) == 2


FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("name", [*FILES, "special_tokens_map.json", "vocab.json", "merges.txt"])
def test_a_pointer_of_git_lfs_is_recognised_in_place_of_any_file(name: str) -> None:
    """Of a clone without `git lfs`, a pointer for tokenizer.json was "not valid JSON; it is
    damaged, copy it again"."""
    made = checkpoint(Config(n_vocab=257, n_ctx=16, n_embd=8, n_head=2, n_layer=2))
    made.tokenizer = Tokenizer(
        bpe_spec({s: i for i, s in enumerate(byte_symbols())}, [], {END: 256})
    )
    weights.save(made, "mine")
    Path("mine/special_tokens_map.json").write_text("{}")
    if name in ("vocab.json", "merges.txt"):
        Path("mine/tokenizer.json").unlink()
    assert weights.load("mine").tokenizer is not None
    Path("mine", name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    if name in FILES[:2]:
        assert "git lfs pull" in (find.listing(["mine"])[0].problem or "")
        with pytest.raises(InputError, match="git lfs pull"):
            weights.load("mine")
        return
    loaded = weights.load("mine")  # token ids are still of use
    assert loaded.tokenizer is None
    [said] = loaded.notes
    assert f"{name}: is a Git LFS pointer" in said and "token ids" in said


# --- the command ---


def test_the_table() -> None:
    make("mine")
    done = CliRunner().invoke(command, [])
    title, fable, mine = done.stdout.splitlines()
    assert title.split()[:3] == ["name", "format", "parameters"]
    assert fable.split()[0] == "fable" and "5.9M" in fable
    assert mine.split()[:3] == ["mine", "huggingface", "2.4k"]
    assert len({line.index("huggingface") for line in (fable, mine)}) == 1
    assert "not here: 124M, 355M, 774M, 1558M; fetch one: gpt2lab download 124M" in done.stderr
    shown = CliRunner().invoke(command, ["--verbose"]).stdout
    assert str(Path("mine").absolute()) in shown


@pytest.mark.skipif(bool(cpu_features.why_not()), reason=cpu_features.why_not())
def test_verbose_names_the_processor_the_reasons_and_the_caches(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, file, content in (
        ("kernels", "run-x.o", "x" * 1500),
        ("weights", "y.bin", "yy"),
    ):
        (tmp_path / "gpt2lab" / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        (tmp_path / "gpt2lab" / name / file).write_text(content)
    done = CliRunner().invoke(command, ["--verbose"])
    assert done.exit_code == 0
    told = r"processor: [\w.-]+; bfloat16 so because .+; int8 and int4 because it .+"
    assert re.search(told, done.stderr)
    assert "kernels, also of other versions: 1 file, 1.5 kB, in " in done.stderr
    assert "packed weights: 1 file, 2 B, in " in done.stderr
    assert "vocabularies: 0 files, 0 B" in done.stderr


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ("avx512bf16 avx512vnni", "because Intel's AVX512-BF16 is slower than float32; "),
        ("avx512bf16 clzero avx512vnni", "because this AMD has AVX512-BF16; int8 and int4 "),
        ("avx512vnni", "products of bfloat16 pairs here; int8 and int4 because it has avx512vnni"),
        ("", "int8 and int4 because it multiplies no int8 by int8"),
    ],
)
def test_reasons_of_the_products(features: str, said: str) -> None:
    every = frozenset(("avx2 fma avx512f avx512bw avx512vl avx512dq " + features).split())
    assert said in models._reasons(cpu_features.target_of("x86_64", every))


def test_json() -> None:
    make("mine")
    (make("cut") / "model.safetensors").write_bytes(b"123")
    cut, mine = json.loads(CliRunner().invoke(command, [".", "--json"]).stdout)
    assert mine == {
        "name": "mine",
        "path": str(Path("mine").absolute()),
        "place": ".",
        "format": "huggingface",
        "parameters": COUNT,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 8,
        "n_ctx": 16,
        "n_vocab": 61,
        "bytes": mine["bytes"],
        "problem": None,
    }
    assert cut["n_layer"] is None and "truncated" in cut["problem"]


def test_a_damaged_model_and_an_empty_folder() -> None:
    (make("runs/cut") / "model.safetensors").write_bytes(b"123")
    done = CliRunner().invoke(command, ["runs"])
    name = str(Path("runs/cut"))
    assert done.exit_code == 0 and done.stdout.startswith(f"{name}: cannot be read: ")
    assert done.stdout.count(name) == 2 and "Traceback" not in done.output
    Path("nothing").mkdir()
    done = CliRunner().invoke(command, ["nothing"])
    assert done.stdout == "" and "no model in nothing" in done.stderr


def test_help_has_an_example() -> None:
    assert "Example: gpt2lab models runs/" in CliRunner().invoke(command, ["--help"]).output


def test_numbers_for_people() -> None:
    assert [short(n) for n in (7, 999, 5_918_720, 1_557_611_200)] == ["7", "999", "5.9M", "1.6G"]
    assert [disk(n) for n in (0, 999_960, 548_105_171)] == ["0 B", "1.0 MB", "548.1 MB"]
