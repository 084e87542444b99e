"""The recipes in runs/: whole shell files, run in small and offline, judged by what they leave."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

from .support import FABLE, ROOT

pytest.importorskip("torch")
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None or os.name == "nt", reason="the recipes need bash")

RUNS = ROOT / "runs"
RECIPES = sorted(path.name for path in RUNS.glob("*.sh") if path.name != "lib.sh")
STORY = "Once upon a time a little fox met the king. The king said: sit down, little fox. "
VERSE = "First Citizen:\nSpeak, speak.\n\nAll:\nResolved. " * 60


@pytest.fixture
def recipe(tmp_path, warm_command):
    """Run a recipe as a user does, with a `gpt2lab` on the path that is the one under test."""
    command = tmp_path / "bin" / "gpt2lab"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.join(warm_command)} gpt2lab "$@"\n')
    command.chmod(0o755)

    def run(name, *words, code=0, **more):
        path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **more}
        env["OMP_NUM_THREADS"] = "1"  # small steps wait longer for a second thread than they run
        done = subprocess.run(
            [BASH, str(RUNS / name), *map(str, words)],
            capture_output=True, text=True, encoding="utf-8", env=env, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    return run


def records(folder, kind):
    """What the log of a run tells of one kind."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def settings(folder):
    """The settings of a run, and the shape of its model."""
    made = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return made["settings"], made["config"]


@pytest.mark.parametrize("name", RECIPES)
def test_bash_can_read_it(name):
    done = subprocess.run([BASH, "-n", str(RUNS / name)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (RUNS / name).read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text


def test_the_table_names_every_recipe():
    table = (RUNS / "README.md").read_text(encoding="utf-8")
    assert not [name for name in RECIPES if f"]({name})" not in table]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shakespeare_char.sh", ["one", "two"]),
        ("shakespeare_char.sh", ["--fast"]),
        ("induction.sh", ["one", "two"]),
        ("induction.sh", ["--fast"]),
        ("fable.sh", ["out", "soon"]),
        ("finetune.sh", []),
        ("gpt2_124M.sh", ["out"]),
    ],
)
def test_wrong_arguments_are_told_in_a_line(recipe, name, words):
    done = recipe(name, *words, code=2)
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_text_is_told_with_where_to_get_it(recipe, tmp_path):
    done = recipe("shakespeare_char.sh", "out", code=2, TEXT="nowhere.txt")
    assert "nowhere.txt is missing" in done.stderr
    assert "char-rnn" in done.stderr
    assert "CORPUS" in recipe("fable.sh", "out", code=2, CORPUS="nowhere").stderr
    assert not (tmp_path / "out").exists()


def test_shakespeare_char(recipe, tmp_path):
    (tmp_path / "verse.txt").write_text(VERSE)
    recipe("shakespeare_char.sh", "out", TEXT="verse.txt", STEPS="3", SEED="5")
    made, shape = settings(tmp_path / "out/run")
    assert (shape["n_layer"], shape["n_embd"], shape["n_ctx"]) == (4, 128, 64)
    assert (made["steps"], made["seed"], made["batch_size"]) == (3, 5, 12)
    both = [(tmp_path / "out" / name).read_text() for name in ("train.txt", "val.txt")]
    assert "".join(both) == VERSE
    assert len(both[0]) == len(VERSE) * 9 // 10
    assert [r["step"] for r in records(tmp_path / "out/run", "step")] == [1, 2, 3]
    assert records(tmp_path / "out/run", "val")


def test_induction_refuses_a_number_of_steps_that_is_none(recipe, tmp_path):
    for name, value in (("STEPS", "many"), ("STEPS", "0"), ("SEED", "-1"), ("SEED", "007")):
        done = recipe("induction.sh", "out", code=2, **{name: value})
        assert f"{name} '{value}' is no whole number" in done.stderr
    assert not (tmp_path / "out").exists()


def test_induction(recipe, tmp_path):
    """Every document is a stretch and its copy, every checkpoint stays, and the end tells what
    to look at; the text is that of the seed."""
    done = recipe("induction.sh", "out", STEPS="2", SEED="5")
    assert done.stderr.rstrip().endswith("gpt2lab look --run out/run")
    made, shape = settings(tmp_path / "out/run")
    assert (shape["n_layer"], shape["n_head"], shape["n_vocab"]) == (2, 2, 128)
    assert (made["steps"], made["seed"], made["save_total_limit"]) == (2, 5, 0)
    assert made["val_every"] % made["save_every"] == 0  # the best is none that is not saved anyway
    kept = sorted(path.name for path in (tmp_path / "out/run").glob("step-*"))
    assert kept == ["step-00000000", "step-00000002"]

    text = (tmp_path / "out/text.txt").read_text(encoding="utf-8")
    documents = text.split("\n<|endoftext|>\n")[:-1]
    assert all(document == document[: len(document) // 2] * 2 for document in documents)
    assert {len(document) // 2 for document in documents} == set(range(8, 51))

    again = recipe("induction.sh", "out", STEPS="2", SEED="5")
    assert "the run is over" in again.stderr
    assert "look --run out/run" in again.stderr
    recipe("induction.sh", "other", STEPS="2", SEED="6")
    assert (tmp_path / "other/text.txt").read_text(encoding="utf-8") != text


TALK = (
    '"Hello, my little fox!" said he.\n\n"Good day, my king," said the fox. "May I sit down?"\n\n'
)
TEXTS = (
    "tinystories/train", "tinystories/train_recased", "tinystories/valid", "storybooks/train",
    "storybooks/valid", "more/train", "more/valid", "books/train_simple", "books/train_classic",
    "books/valid",
)  # fmt: skip


@pytest.fixture
def corpus(tmp_path):
    """A folder of texts as fable.sh reads it; in every story two talk."""
    for name in TEXTS:
        path = tmp_path / "texts" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        stories = (f"{STORY * (4 + n)}\n\n{TALK}{n} foxes.\n<|endoftext|>\n" for n in range(8))
        path.write_text("".join(stories))
    return tmp_path / "texts"


def test_fable(recipe, tmp_path, corpus):
    """Three sets under one vocabulary, two phases; a second call goes on with the run."""
    small = {"CORPUS": corpus.name, "STEPS": "1", "VOCABULARY": "300", "LAST": "1", "THREADS": "1"}
    recipe("fable.sh", "out", **small)
    made, shape = settings(tmp_path / "out/run")
    assert (shape["n_layer"], shape["n_head"], shape["n_embd"], shape["n_ctx"]) == (6, 4, 256, 512)
    assert made["steps"] == 1
    last, same_shape = settings(tmp_path / "out/last")
    assert same_shape == shape and (last["steps"], last["final_learning_rate"]) == (1, 0)
    manifests = [
        json.loads((tmp_path / "out" / name / "manifest.json").read_text())
        for name in ("all", "stories", "books", "dialogues")
    ]
    assert len({manifest["vocabulary"]["sha256"] for manifest in manifests}) == 1
    assert manifests[1]["splits"]["val"]["documents"] == 24
    begun = [record["prompt"] for record in records(tmp_path / "out/run", "sample")]
    assert begun[0] == "Once upon a time"
    assert recipe("fable.sh", "out", **small).stderr.count("the run is over") == 2


def test_fable_from_a_model_has_the_last_phase_alone(recipe, tmp_path, corpus):
    recipe("fable.sh", "out", CORPUS=corpus.name, START=str(FABLE), LAST="1", THREADS="1")
    _, shape = settings(tmp_path / "out/last")
    assert shape["n_vocab"] == 4096
    assert not (tmp_path / "out/run").exists()


def test_dialogues_are_what_two_say_in_turn(tmp_path):
    """Narration between is left out, and a story in which one speaks gives nothing."""
    one = 'The fox said, "I am alone in the wood."\n\nIt went home.\n<|endoftext|>\n'
    (tmp_path / "in.txt").write_text(f"A day.\n\n{TALK}They sat.\n<|endoftext|>\n{one}")
    words = [sys.executable, str(RUNS / "dialogues.py"), "in.txt", "--out", "out.txt"]
    subprocess.run(words, cwd=tmp_path, check=True)
    assert (tmp_path / "out.txt").read_text() == (
        "You: Hello, my little fox!\nFriend: Good day, my king. May I sit down?\n<|endoftext|>\n"
    )


def test_finetune(recipe, tmp_path):
    (tmp_path / "mine.txt").write_text(STORY * 40)
    small = {"MODEL": str(FABLE), "STEPS": "2"}
    done = recipe("finetune.sh", "mine.txt", "out", VAL="mine.txt", **small)
    assert "gpt2lab generate --model out" in done.stderr
    made, _ = settings(tmp_path / "out")
    assert made["block_size"] == 128
    assert records(tmp_path / "out", "val")


def test_gpt2_124m_in_small_and_its_plan(recipe, tmp_path):
    plan = recipe("gpt2_124M.sh", PLAN="1").stderr
    assert "294.9 billion tokens" in plan
    assert "71 hours on 8 GPUs" in plan
    rows = [json.dumps({"text": f"{number} {STORY}"}) for number in range(60)]
    (tmp_path / "web.jsonl").write_text("\n".join(rows))
    recipe("gpt2_124M.sh", "out", "web.jsonl", SMOKE="1", STEPS="2", HELD_OUT="0.1")
    made, shape = settings(tmp_path / "out/run")
    assert shape["n_vocab"] == 50257
    assert made["final_learning_rate"] == 6e-5
    assert records(tmp_path / "out/run", "val")
