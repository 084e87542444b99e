"""Training from scratch in one call: the same weights as the command, exactly resumable."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import gpt2lab
from gpt2lab.commands import train as command
from gpt2lab.errors import InputError
from gpt2lab.train import report, run_folder
from gpt2lab.train.aliases import translate

from .support import FABLE, logged
from .train_helpers import digest

TEXT = "The cat sat on the mat and sang to the moon. The dog ran after the red ball. " * 20
SHAPE = {"layers": 1, "heads": 2, "width": 16, "context": 16}
GIVEN = {
    **SHAPE, "vocabulary": str(FABLE), "batch_size": 2, "sample_every": 0, "dtype": "float32",
    "threads": 1, "seed": 3, "dropout": 0.1, "init": "openai",
}  # fmt: skip


@pytest.fixture(autouse=True)
def text(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "write", lambda *args: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.txt").write_text(TEXT)


def test_it_gives_a_model_and_the_weights_of_the_command(tmp_path):
    lm = gpt2lab.pretrain("cat.txt", out="one", steps=3, verbose=False, **GIVEN)
    assert isinstance(lm, gpt2lab.LM)
    assert (lm.config.n_layer, lm.config.n_embd, lm.config.n_ctx) == (1, 16, 16)
    flags = [w for k, v in GIVEN.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    command.command.main(["cat.txt", "--out", "two", "--steps", "3", *flags], standalone_mode=False)
    assert digest(tmp_path / "one", 3) == digest(tmp_path / "two", 3)


def test_resumed_by_the_same_call_it_is_the_same_run(tmp_path):
    gpt2lab.pretrain("cat.txt", out="whole", steps=4, **GIVEN)
    calls = []

    def stops(record):
        calls.append(record)
        if record["kind"] == "step" and record["step"] == 2:
            raise KeyboardInterrupt

    given = {**GIVEN, "steps": 4, "save_every": 1, "out": "broken"}
    with pytest.raises(KeyboardInterrupt):
        gpt2lab.pretrain("cat.txt", callback=stops, **given)
    gpt2lab.pretrain("cat.txt", resume=True, **given, allow_changes=True)
    assert run_folder.state_of(tmp_path / "broken")["step"] == 4
    assert digest(tmp_path / "broken", 4) == digest(tmp_path / "whole", 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": 2}, "trains a model of n_layer 1, not 2"),
        ({"layers": None, "size": "124M"}, "n_layer 1, not 12"),
        ({"vocabulary": gpt2lab.Tokenizer.characters(["a"])}, "another vocabulary"),
        ({"weights": [2.0]}, "trained with weights"),
        ({"seed": 4}, "seed 3 -> 4"),
        ({"epoch": 3}, "unknown setting epoch"),
    ],
)
def test_what_is_given_again_is_compared_with_the_run(given, message):
    gpt2lab.pretrain("cat.txt", out="run", steps=1, **GIVEN)
    with pytest.raises(InputError, match=message):
        gpt2lab.pretrain("cat.txt", out="run", resume=True, **{**GIVEN, "steps": 1, **given})


def test_a_model_and_a_shape_are_refused():
    with pytest.raises(InputError, match="layers is for a new model"):
        gpt2lab.pretrain("cat.txt", model=str(FABLE), layers=2, steps=1)


@pytest.mark.parametrize("word", ["evaluation_strategy", "eval_strategy"])
def test_a_strategy_of_no_switches_validation_off(word):
    """It was left out with a note, and the run validated and held texts out all the same."""
    assert translate({word: "no"}) == {"validate": False}
    assert translate({word: "steps"}) == {}
    assert translate({"do_eval": False}) == {"validate": False}
    assert translate({"save_strategy": "no"}) == {"save_every": 0}


def test_without_validation_nothing_is_held_out(tmp_path):
    records = []
    (tmp_path / "many").mkdir()
    for name, story in (("a", TEXT), ("b", TEXT[::-1]), ("c", TEXT * 2)):
        (tmp_path / "many" / f"{name}.txt").write_text(story)
    given = {**GIVEN, "out": "run", "steps": 2, "val_every": 1, "callback": records.append}
    with logged() as said:
        gpt2lab.pretrain("many", val="cat.txt", eval_strategy="no", **given)
    assert not [record for record in records if record["kind"] == "val"]
    assert any("validation is switched off" in line for line in said)
    assert not list((tmp_path / "run" / "data").glob("*val*"))


def test_the_command_understands_other_trainers():
    words = ["--output_dir", "run", "--max_steps", "1", "--per_device_train_batch_size", "2"]
    shape = [w for k, v in SHAPE.items() for w in (f"--{k}", str(v))]
    with logged() as said:
        command.command.main(
            ["cat.txt", *words, *shape, "--vocabulary", str(FABLE), "--sample-every", "0"],
            standalone_mode=False,
        )
    assert "output_dir is taken as out" in said
    assert run_folder.settings_of(run_folder.Path("run")).batch_size == 2
