"""A run in Python is heard, and refused runs leave nothing."""

from __future__ import annotations

import logging
import warnings

import pytest

from gpt2lab import weights
from gpt2lab.errors import InputError
from gpt2lab.weights.hub import locate

torch = pytest.importorskip("torch")

from gpt2lab.corpus.open import open_set
from gpt2lab.corpus.prepare import prepare
from gpt2lab.train import progress, report
from gpt2lab.train import start as opening
from gpt2lab.train.aliases import translate
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.finetune import finetune

STORY = "Once upon a time there was a little fox who liked to sing at night. " * 40
SMALL = {"steps": 2, "batch_size": 2, "block_size": 8, "sample_every": 0, "dtype": "float32"}


@pytest.fixture(autouse=True)
def no_report(monkeypatch, tmp_path, usual_arithmetic):
    monkeypatch.setattr(report, "write", lambda *args: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text(STORY)


@pytest.fixture
def no_handlers(monkeypatch):
    """The logging of a program that has configured none: pytest puts its own on the root."""
    monkeypatch.setattr(progress, "_listens", lambda logger: False)


def test_a_run_in_python_is_heard_on_stderr(capsys, no_handlers):
    """finetune was silent for 160 seconds: a first-time user took it for hung."""
    finetune("story.txt", out="run", **SMALL)
    said = capsys.readouterr()
    assert said.out == "" and "step 1: loss" in said.err and "run: 2 steps" in said.err
    assert logging.getLogger("gpt2lab").handlers == []
    finetune("story.txt", out="run", resume=True)
    assert "the run is over" in capsys.readouterr().err


def test_a_silent_run_is_silent_and_calls_back(capsys, no_handlers):
    kinds = []
    finetune("story.txt", out="run", verbose=False, callback=kinds.append, **SMALL)
    assert capsys.readouterr().err == ""
    steps = [r for r in kinds if r["kind"] == "step"]
    assert [r["step"] for r in steps] == [1, 2] and all(r["loss"] > 0 for r in steps)


def test_a_program_with_handlers_of_its_own_gets_records(caplog, capsys):
    finetune("story.txt", out="run", **SMALL)
    told = [r.getMessage() for r in caplog.records if r.name.startswith("gpt2lab")]
    assert any(line.startswith("step 1: loss") for line in told)
    assert "step 1: loss" not in capsys.readouterr().err
    assert logging.getLogger("gpt2lab").level == logging.NOTSET


@pytest.mark.parametrize("handler", [logging.NullHandler(), logging.StreamHandler()])
def test_handlers_that_show_no_information_do_not_count(capsys, monkeypatch, handler):
    """A notebook's handler for warnings, or a library's empty one, made a run silent again."""
    handler.setLevel(logging.WARNING if isinstance(handler, logging.StreamHandler) else 0)
    logger = logging.getLogger("gpt2lab")
    monkeypatch.setattr(logger, "propagate", False)  # pytest has handlers above
    logger.addHandler(handler)
    try:
        with progress.shown(True):
            progress.log.info("step 1")
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().err == "step 1\n"


def test_lines_of_loss_come_now_and_then(caplog):
    steps = [{"kind": "step", "step": n, "loss": 1.0, "tokens_per_second": 1.0} for n in (1, 2, 3)]
    caplog.set_level(logging.INFO, "gpt2lab")
    assert list(progress.logged("run", steps)) == steps
    assert len(caplog.records) == 1
    assert list(progress.logged("run", steps, every=0.0)) == steps
    assert len(caplog.records) == 4


def test_validation_on_the_training_text_is_noted(caplog, tmp_path):
    """A validation loss that falls without end looks like a good model."""
    finetune("story.txt", val="story.txt", out="run", **SMALL)
    assert any("which is trained on" in r.getMessage() for r in caplog.records)
    caplog.clear()
    (tmp_path / "other.txt").write_text("Another story of a raven and a jug of water. " * 20)
    finetune("story.txt", val="other.txt", out="run2", **SMALL)
    assert not any("which is trained on" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize(
    "more",
    [
        {"block_size": 10_000}, {"val": "none.txt"}, {"prompts": ["x " * 5000]}, {"nonsense": 1},
        {"do_train": False}, {"warmup_ratio": 0.1}, {"batch_size": 3, "micro_batch": 2},
    ],
)  # fmt: skip
def test_a_refused_run_leaves_no_folder(tmp_path, more):
    given = {**SMALL, "out": "run", **more}
    text = "none.txt" if "val" in more else "story.txt"
    with warnings.catch_warnings(), pytest.raises(InputError):
        warnings.simplefilter("ignore")
        finetune(text, verbose=False, **given)
    left = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not (tmp_path / "run").exists() or any(".tokens." in p.name for p in left)


def test_a_refused_run_leaves_no_folder_above_and_none_of_the_users_is_removed(tmp_path):
    """An empty folder that the user had made for the run was removed with it."""
    (tmp_path / "mine" / "notes").mkdir(parents=True)
    for out in ("a/b/run", "mine", "mine/notes/run"):
        with pytest.raises(InputError):
            finetune("none.txt", out=out, verbose=False, **SMALL)
    assert (tmp_path / "mine" / "notes").is_dir()
    assert not (tmp_path / "a").exists() and not (tmp_path / "mine" / "notes" / "run").exists()


def test_a_refused_start_leaves_no_folder(tmp_path):
    """Of the API one floor below, too."""
    tokens, begin = tmp_path / "tokens", weights.load(locate(None))
    prepare(["story.txt"], tokens, tokenizer=begin.tokenizer, held_out=0.0)
    start = {"begin": begin, "sets": [(open_set(tokens), 1.0)]}
    settings = TrainConfig(**SMALL, prompts=("x " * 5000,))
    with pytest.raises(InputError, match="shorten"):
        opening.start(tmp_path / "run", settings=settings, **start)
    assert not (tmp_path / "run").exists()


def test_a_refused_run_keeps_what_was_in_the_folder(tmp_path):
    mine = tmp_path / "run" / "data" / "book.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InputError):
        finetune("none.txt", out="run", verbose=False, **SMALL)
    assert mine.read_text() == "mine"


def test_the_words_of_transformers_scripts(caplog):
    given = {"train_file": "a.txt", "validation_file": "b.txt", "model_name_or_path": "124M",
             "do_train": True, "do_eval": True, "output_dir": "out"}  # fmt: skip
    ours = translate(given)
    assert ours == {"text": "a.txt", "val": "b.txt", "model": "124M", "out": "out"}
    assert len(caplog.messages) >= len(given)


@pytest.mark.parametrize("at", [True, "out/step-00000500", "out", "out/latest"])
def test_resume_from_checkpoint(at):
    ours = translate({"resume_from_checkpoint": at, "output_dir": "out"})
    assert ours == {"out": "out", "resume": True}


def test_resume_from_another_runs_checkpoint_is_refused():
    with pytest.raises(InputError, match="resume_from_checkpoint"):
        translate({"resume_from_checkpoint": "other/step-00000001", "output_dir": "out"})
    assert translate({"resume_from_checkpoint": None}) == {}
