"""`gpt2lab train` and `finetune` as people type them."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from .support import FABLE, ROOT

torch = pytest.importorskip("torch")

from gpt2lab.commands import main
from gpt2lab.train import checkpoint_files, report

TEXT = "The cat sat on the mat and sang to the moon. The dog ran after the red ball. " * 60
SHAPE = ["--layers", "1", "--heads", "2", "--width", "16", "--context", "16"]
SMALL = [*SHAPE, "--batch-size", "4", "--sample-every", "0", "--dtype", "float32"]


@pytest.fixture(scope="module", autouse=True)
def settings_of_torch():
    """The commands run in this process, and what they set must not reach other tests."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(autouse=True)
def no_report(run, monkeypatch, usual_arithmetic):
    """Drawing takes a second; the one run that all share has its report."""
    assert (run / "report.html").is_file()
    monkeypatch.setattr(report, "write", lambda *args: None)


def gpt2lab(*words, check=True):
    """Call the program in this process: its code, stdout and stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(map(str, words)))
        except SystemExit as end:
            code = int(end.code or 0)
    assert not check or code == 0, err.getvalue()
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "cat.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def run(text):
    """A finished run of six steps."""
    folder = text.parent / "run"
    gpt2lab(
        "train", text, "--out", folder, *SMALL, "--steps", 6, "--vocabulary", FABLE, "--val", text,
        "--val-every", 3, "--json",
    )  # fmt: skip
    return folder


def test_a_run_can_be_used_like_any_model(run):
    assert gpt2lab("generate", "The cat", "--model", run, "-l", 4).stdout
    shown = gpt2lab("score", "The cat sat", "--model", run)
    assert "of the run, its best" in shown.stderr


def test_json_tells_every_record(text, tmp_path):
    done = gpt2lab(
        "train", text, "--out", tmp_path / "run", *SMALL, "--steps", 3, "--vocabulary", FABLE,
        "--json",
    )  # fmt: skip
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["step"] for r in records if r["kind"] == "step"] == [1, 2, 3]
    assert records[0]["kind"] == "start"
    assert records[-1]["kind"] == "end"
    assert "nothing is held out" in done.stderr


def test_the_data_of_a_step_can_be_read(run):
    done = gpt2lab("train", "--resume", run, "--which-data", 2)
    assert done.stdout.count("--- row") == 4
    assert "the red ball" in done.stdout or "cat sat" in done.stdout
    again = gpt2lab("train", "--resume", run, "--which-data", 2)
    assert again.stdout == done.stdout
    as_json = gpt2lab("train", "--resume", run, "--which-data", 2, "--json").stdout
    assert [json.loads(line)["row"] for line in as_json.splitlines()] == [0, 1, 2, 3]


def test_a_finished_run_can_be_made_longer_when_told(run):
    refused = gpt2lab("train", "--resume", run, "--steps", 8, check=False)
    assert refused.returncode == 2
    assert "steps 6 -> 8" in refused.stderr
    assert "--allow-changes" in refused.stderr
    done = gpt2lab("train", "--resume", run, "--steps", 8, "--allow-changes", "--json")
    steps = [r["step"] for r in map(json.loads, done.stdout.splitlines()) if r["kind"] == "step"]
    assert steps == [7, 8]


def test_a_run_that_is_over_says_so(text, tmp_path):
    folder = tmp_path / "run"
    gpt2lab("train", text, "--out", folder, *SMALL, "--steps", 2, "--vocabulary", FABLE)
    done = gpt2lab("train", "--resume", folder)
    assert "the run is over" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_a_signal_saves_and_the_run_goes_on(text, tmp_path, number, code):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt2lab", "train", text, "--out", folder, *SMALL, "--minutes", "5",
         "--vocabulary", FABLE, "--save-every", "0"],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    limit = time.monotonic() + 60
    while time.monotonic() < limit and b'"step": 5' not in _log(folder):
        time.sleep(0.05)
    process.send_signal(number)
    started = time.monotonic()
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert time.monotonic() - started < 25
    assert f"gpt2lab train --resume {folder}" in told
    latest = checkpoint_files.pointed(folder, "latest")
    assert checkpoint_files.step_of(latest) >= 5
    assert checkpoint_files.fault(folder / latest) is None
    assert "Traceback" not in told


def _log(folder):
    path = folder / "log.jsonl"
    return path.read_bytes() if path.exists() else b""


def test_texts_with_weights_and_a_model_to_begin_with(text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("A bird in the hand is worth two in the bush. " * 50)
    gpt2lab(
        "train", text, other, "--weights", "0.75,0.25", "--out", tmp_path / "run", "--model", FABLE,
        "--steps", 2, "--block-size", 16, "--batch-size", 4, "--sample-every", 0, "--json",
    )  # fmt: skip
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert made["sources"]["weights"] == [0.75, 0.25]
    assert made["config"]["n_embd"] == 256


def test_a_wrong_overwrite_leaves_the_run_able_to_go_on(text, tmp_path):
    """The texts were once prepared over those of the old run before anything was checked."""
    other = tmp_path / "other.txt"
    other.write_text("A bird in the hand is worth two in the bush. " * 50)
    folder = tmp_path / "run"
    words = ["--out", folder, *SMALL, "--vocabulary", FABLE, "--steps"]
    gpt2lab("train", text, *words, 2)
    for wrong in (["--block-size", 99], ["--prompts", "x " * 99]):
        done = gpt2lab("train", other, *words, 2, "--overwrite", *wrong, check=False)
        assert done.returncode == 2
    gpt2lab("train", "--resume", folder, "--steps", 3, "--allow-changes")
    gpt2lab("train", other, *words, 2, "--overwrite")
    assert "bush" in gpt2lab("train", "--resume", folder, "--which-data", 1).stdout
    assert [path.name for path in folder.glob("data*")] == ["data-2"]


def test_texts_are_prepared_once_for_two_attempts(text, tmp_path):
    """And again when the second attempt wants them otherwise."""
    words = ["train", text, "--out", tmp_path / "run", *SMALL, "--steps", 2, "--vocabulary", FABLE]
    assert gpt2lab(*words, "--prompts", "x " * 99, check=False).returncode == 2
    made = (tmp_path / "run" / "data" / "train-00000.tokens.npy").stat().st_mtime_ns
    assert gpt2lab(*words, "--prompts", "x " * 99, check=False).returncode == 2
    assert (tmp_path / "run" / "data" / "train-00000.tokens.npy").stat().st_mtime_ns == made
    gpt2lab(*words, "--held-out", 0.5)
    assert (tmp_path / "run" / "data" / "train-00000.tokens.npy").stat().st_mtime_ns != made


def test_finetune_understands_other_trainers(text, tmp_path):
    folder = tmp_path / "out"
    done = gpt2lab(
        "finetune", text, "--output_dir", folder, "--max_steps", 2, "--block_size", 16,
        "--per_device_train_batch_size", 2, "--save-steps", 1, "--sample-every", 0,
    )  # fmt: skip
    assert "note: output_dir is taken as out" in done.stderr
    assert "2 steps, the budget is used up" in done.stdout
    simple = gpt2lab(
        "finetune", "--dataset", text, "--run_name", "r", "--checkpoint_dir", tmp_path / "ck",
        "--steps", 2, "--accumulate_gradients", 2, "--batch-size", 2, "--block-size", 16,
        "--restore_from", "latest", "--sample-every", 0,
    )  # fmt: skip
    assert "run_name" in simple.stderr or "together they make" in simple.stderr
    assert json.loads((tmp_path / "ck" / "r" / "run.json").read_text())["settings"][
        "batch_size"
    ] == 4  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["TEXT"], "give --out for a new run, or --resume"),
        (["TEXT", "--out", "OUT"], "no budget; give one of steps, epochs, tokens, minutes"),
        (["--out", "OUT", "--steps", "1"], "no data; name texts"),
        (["no.txt", "--out", "OUT", "--steps", "1"], "no.txt"),
        (["TEXT", "--out", "OUT", "--steps", "1", "--size", "12B"], "size '12B' is unknown"),
        (["TEXT", "--out", "OUT", "--steps", "1", "--model", "124Q"], "no model '124Q' here"),
        (["TEXT", "--out", "OUT", "--steps", "1", "--heads", "5"], "not a multiple of n_head 5"),
        (["TEXT", "--out", "OUT", "--steps", "1", "--init", "zero"], "scheme is 'zero'"),
        (["TEXT", "--out", "OUT", "--steps", "1", "--weights", "a"], "weights 'a' are no numbers"),
        (["TEXT", "--out", "OUT", "--steps", "1", "--weights", "1,2"], "2 weights for 1 sets"),
        (["TEXT", "--out", "OUT", "--steps", "1", "--block-size", "999"], "block_size 999 is more"),
        (["TEXT", "--out", "OUT", "--resume", "OUT"], "give one of them"),
        (["--resume", "OUT", "--heads", "2"], "--heads is for a new run"),
        (["TEXT", "--out", "OUT", "--steps", "1", "--model", "M", "--init", "hf"], "give one of"),
        (["--resume", "OUT"], "holds no run"),
        (["--which-data", "1"], "name it by --resume"),
        (["TEXT", "--out", "TEXT", "--steps", "1"], "is a file; choose another name"),
        (["BINARY", "--out", "OUT", "--steps", "1"], "binary"),
        (["LATIN", "--out", "OUT", "--steps", "1"], "not UTF-8: byte 0xe9 in line 1"),
        (["EMPTY", "--out", "OUT", "--steps", "1"], "empty"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_exit_code_2(words, message, text, tmp_path):
    (tmp_path / "binary.txt").write_bytes(b"abc\0\1\2" * 50)
    (tmp_path / "latin.txt").write_bytes("caf\xe9 au lait".encode("latin-1") * 30)
    (tmp_path / "empty.txt").write_bytes(b"")
    places = {
        "TEXT": text, "OUT": tmp_path / "run", "BINARY": tmp_path / "binary.txt",
        "LATIN": tmp_path / "latin.txt", "EMPTY": tmp_path / "empty.txt",
    }  # fmt: skip
    done = gpt2lab("train", *[places.get(word, word) for word in words], check=False)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("gpt2lab: ")]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()
