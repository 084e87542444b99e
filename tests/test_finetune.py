"""Other trainers' words are translated, and tuning on one's own text works in one call."""

from __future__ import annotations

import json

import pytest

from gpt2lab.errors import InputError

torch = pytest.importorskip("torch")

import gpt2lab
from gpt2lab.train import report
from gpt2lab.train.aliases import TABLE, translate
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.finetune import finetune

STORY = "Once upon a time there was a little fox who liked to sing at night. " * 40


@pytest.fixture(autouse=True)
def no_report(monkeypatch, usual_arithmetic):
    monkeypatch.setattr(report, "write", lambda *args: None)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            {"output_dir": "o", "num_train_epochs": 3, "per_device_train_batch_size": 4,
             "block_size": 128, "save_steps": 10, "save_total_limit": 2},
            {"out": "o", "epochs": 3, "micro_batch": 4, "batch_size": 4, "block_size": 128,
             "save_every": 10, "save_total_limit": 2},
        ),
        (
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8, "bf16": True},
            {"micro_batch": 4, "batch_size": 32, "dtype": "bfloat16"},
        ),
        (
            {"dataset": "t", "model_name": "124M", "steps": 100, "run_name": "r", "batch_size": 2,
             "accumulate_gradients": 5, "only_train_transformer_layers": True,
             "sample_every": 7, "sample_length": 9, "save_every": 8, "print_every": 2},
            {"text": "t", "model": "124M", "steps": 100, "out": "checkpoint/r", "micro_batch": 2,
             "batch_size": 10, "resume": "if there",
             "train_only": "blocks", "sample_every": 7, "sample_length": 9,
             "save_every": 8, "log_every": 2},
        ),
        ({"restore_from": "latest"}, {"resume": "if there"}),
        ({"restore_from": "fresh"}, {}),
        ({"restore_from": "path/to"}, {"model": "path/to"}),
        ({"run_name": "r", "overwrite": True}, {"out": "checkpoint/r", "resume": "if there"}),
        ({"run_name": "r", "restore_from": "fresh", "overwrite": True},
         {"out": "checkpoint/r", "overwrite": True}),
        ({"max_iters": 5, "min_lr": 1e-5, "grad_clip": 0.5},
         {"steps": 5, "final_learning_rate": 1e-5, "clip": 0.5}),
        ({"multi_gpu": True, "report_to": "none"}, {}),
        ({"optimizer": "adam"}, {}),
    ],
)  # fmt: skip
def test_words_are_translated_each_with_a_note(theirs, ours, caplog):
    assert translate(theirs) == ours
    for word in theirs:
        if word in TABLE and not TABLE[word].convert:
            assert any(note.startswith(word) for note in caplog.messages), word


def test_a_device_s_batch_counts_for_each_process():
    words = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    assert translate(words, world=3)["batch_size"] == 24
    assert translate({"per_device_train_batch_size": 4}, world=3)["batch_size"] == 12


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"steps": -1}, "steps -1 is endless in gpt-2-simple"),
        ({"optimizer": "sgd"}, "optimizer 'sgd' is not offered"),
        ({"max_steps": 5, "steps": 6}, "steps is given twice, once as max_steps"),
    ],
)
def test_what_cannot_be_is_told(theirs, message):
    with pytest.raises(InputError, match=message):
        translate(theirs)


def test_every_translated_word_leads_to_a_setting():
    from gpt2lab.train.launch import MORE

    known = {*TrainConfig.__dataclass_fields__, *MORE, "text"}
    assert {alias.own for alias in TABLE.values() if alias.own} <= known
    assert not set(TABLE) & known


def test_tuning_in_the_words_of_the_trainer(tmp_path, caplog):
    text = tmp_path / "story.txt"
    text.write_text(STORY)
    lm = finetune(
        text, output_dir=str(tmp_path / "out"), num_train_epochs=1, block_size=32,
        per_device_train_batch_size=4, save_steps=5, save_total_limit=1, learning_rate=1e-3,
        sample_every=0,
    )  # fmt: skip
    assert "num_train_epochs is taken as epochs" in caplog.messages
    assert isinstance(lm, gpt2lab.LM)
    before = gpt2lab.load().score(STORY[:200]).perplexity
    assert lm.score(STORY[:200]).perplexity < before
    made = json.loads((tmp_path / "out" / "run.json").read_text())
    assert made["settings"]["epochs"] == 1
    assert made["settings"]["micro_batch"] == 4


def test_the_public_word_goes_on_where_a_run_is(tmp_path):
    text = tmp_path / "story.txt"
    text.write_text(STORY)
    given = {"out": str(tmp_path / "run"), "block_size": 16, "batch_size": 2, "sample_every": 0}
    gpt2lab.finetune(text, steps=2, **given)
    with pytest.raises(InputError, match="holds a run already"):
        gpt2lab.finetune(text, steps=2, **given)
    gpt2lab.finetune(text, steps=2, resume=True, **given)
    with pytest.raises(InputError, match="steps 2 -> 4"):
        gpt2lab.finetune(text, steps=4, resume=True, **given)
    gpt2lab.finetune(text, steps=4, resume=True, allow_changes=True, **given)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in log if r["kind"] == "step"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "unknown setting epoch"),
        ({"resume": True}, "holds no run to resume"),
        ({"block_size": 600, "steps": 1}, "block_size 600 is more than the model's context"),
        ({"model": "nowhere/at/all", "steps": 1}, "no such file or folder"),
    ],
)
def test_wrong_words_are_one_line(given, message, tmp_path):
    text = tmp_path / "story.txt"
    text.write_text(STORY)
    with pytest.raises(InputError, match=message):
        finetune(text, out=str(tmp_path / "run"), **given)
