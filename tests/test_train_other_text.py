"""A run that goes on is given its text again, another one, or one that was moved."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest

torch = pytest.importorskip("torch")

import gpt2lab
from gpt2lab.errors import InputError
from gpt2lab.train import report, run_folder, start
from gpt2lab.train.finetune import finetune
from gpt2lab.train.launch import prepare_run

from .support import logged

CAT = "The cat sat on the mat and sang to the moon at night. " * 30
BIRD = "A bird in the hand is worth two in the bush, they say. " * 30
#: With the arithmetic given: a run keeps the one that it began with, and a new one measures again.
SMALL = {
    "block_size": 16, "batch_size": 2, "sample_every": 0, "threads": 1,
    "dtype": "float32", "attention": "products", "matmul": "onednn", "loss": "pieces",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(report, "write", lambda *args: None)


@pytest.fixture
def texts(tmp_path):
    for name, text in (("a.txt", CAT), ("b.txt", BIRD)):
        (tmp_path / name).write_text(text)
    return str(tmp_path / "a.txt"), str(tmp_path / "b.txt")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of two steps on CAT."""
    place = tmp_path_factory.mktemp("begun")
    (place / "a.txt").write_text(CAT)
    finetune(place / "a.txt", out=str(place / "run"), steps=2, held_out=0.0, **SMALL)
    return place / "run"


@pytest.fixture
def run(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


def go(texts, **given):
    """The records of a run, and what was said."""
    with logged() as said, prepare_run(texts, given) as run:
        return list(run.go()), said


def trained_on(folder, step):
    """The texts of a step."""
    made, values = run_folder.described(folder), run_folder.state_of(folder)
    from gpt2lab.train import data_sources
    from gpt2lab.train.config import TrainConfig

    sets = data_sources.again(made["sources"], folder).sets
    settings = TrainConfig.from_dict(values["settings"])
    batches = start.batches_of(sets, settings, run_folder.sizes_of(values))
    return " ".join(place.text for place in batches.where(step - 1))


def test_another_text_is_refused_on_resume_and_the_way_is_told(run, texts):
    """It was never opened, and the run went on with the first one."""
    a, b = texts
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    with pytest.raises(InputError) as refused:
        go([b], out=str(run), resume=True, steps=4, allow_changes=True)
    assert f"was trained on other data than {b}" in str(refused.value)
    assert f"gpt2lab finetune {b} --model {run} --out {run}-2" in str(refused.value)
    assert [(p, t) for p, t in before if p.is_file() and p.stat().st_mtime_ns != t] == []
    renamed = shutil.copy(a, run.parent / "renamed.txt")
    for same in ([], [a], [renamed]):
        records, _ = go(same, out=str(run), resume=True, steps=2)
        assert records[0]["kind"] == "note"  # it was over
    (run.parent / "a.txt").write_text(CAT + "One more line.")
    with pytest.raises(InputError, match="the texts have changed"):
        go([a], out=str(run), resume=True)


def test_in_gpt_2_simples_words_another_text_is_trained_on_from_the_last_weights(run, texts):
    """`finetune(dataset=b, run_name='r')` gave the old model back at once."""
    a, b = texts
    words = {"out": str(run), "resume": "if there", "steps": 3, "held_out": 0.0}
    records, said = go([b], **words)
    assert any("was trained on other texts" in line for line in said)
    assert [r["step"] for r in records if r["kind"] == "step"] == [3, 4, 5]
    assert records[-1]["kind"] == "end"
    assert "bird" in trained_on(run, 4)
    assert "cat" not in trained_on(run, 4)
    assert records[1]["epoch"] < 1
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in log if r["kind"] == "step"] == [1, 2, 3, 4, 5]
    records, _ = go([b], **words)  # the same again: it is over
    assert [record["kind"] for record in records] == ["note"]
    records, _ = go([b], **{**words, "steps": 4})  # of all on this text; it was once refused
    assert [r["step"] for r in records if r["kind"] == "step"] == [6]
    with pytest.raises(InputError, match="learning_rate"):
        go([b], **words, learning_rate=0.5)
    records, _ = go([a], **words)  # and back
    assert [r["step"] for r in records if r["kind"] == "step"] == [7, 8, 9]
    assert "cat" in trained_on(run, 8)


def test_a_second_text_begins_with_the_weights_of_the_first_and_its_own_rate(run, texts, tmp_path):
    """As a new run that begins with that model does."""
    b = texts[1]
    given = {"steps": 3, "held_out": 0.0, **SMALL}
    fresh, _ = go([b], out=str(tmp_path / "fresh"), model=str(run / "step-00000002"), **given)
    on, _ = go([b], out=str(run), resume="if there", **given)
    key = ("loss", "lr", "tokens")
    told = [
        [[r[k] for k in key] for r in records if r["kind"] == "step"] for records in (fresh, on)
    ]
    assert told[0] == told[1]


def test_a_second_text_that_was_broken_off_before_its_first_save_begins_again(run, texts):
    b = texts[1]
    given = {"out": str(run), "resume": "if there", "steps": 3, "held_out": 0.0}
    prepare_run([b], given).close()
    assert run_folder.described(run)["before"]
    records, _ = go([b], **given)
    assert [r["step"] for r in records if r["kind"] == "step"] == [3, 4, 5]
    assert (run / "step-00000005").is_dir()


def test_the_public_words(run, texts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        words = {"checkpoint_dir": str(run.parent), "run_name": "run", "steps": 1}
        finetune(dataset=texts[1], **words)
        with pytest.raises(InputError, match="the text is given twice"):
            finetune(texts[0], dataset=texts[1], **words)
    assert run_folder.state_of(run)["step"] == 3
    assert "bird" in trained_on(run, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"held_out": 0.2}, "held_out 0.0 there, 0.2 now"),
        ({"encoding": "cp1252"}, "encoding None there, 'cp1252' now"),
        ({"columns": ("body",)}, r"columns \[\] there, \['body'\] now"),
        ({"val": "B"}, "the run has no such text of its own"),
        ({"model": "nowhere"}, "began with the model that is bundled, not nowhere"),
    ],
)
def test_what_is_said_of_reading_texts_is_compared_on_resume(given, message, run, texts):
    """Each was taken without a word, and not used."""
    given = {name: texts[1] if value == "B" else value for name, value in given.items()}
    for named in ([], [texts[0]]):
        with pytest.raises(InputError, match=message):
            go(named, out=str(run), resume=True, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"held_out": 0.1, "val": "B"}, "held_out and val are given"),
        ({"allow_changes": True}, "allow_changes is for a run that is resumed"),
        ({"resume": True, "overwrite": True}, "give one of them"),
        ({"tokens_of": "A", "held_out": 0.1}, "held_out is about reading texts"),
        ({"tokens_of": "A", "encoding": "cp1252"}, "encoding is about reading texts"),
    ],
)
def test_what_would_not_be_used_in_a_new_run_is_refused(given, message, tmp_path, texts):
    from gpt2lab.corpus.prepare import prepare

    given = {name: texts[1] if value == "B" else value for name, value in given.items()}
    data = texts[0]
    if given.pop("tokens_of", None):
        data = str(tmp_path / "tokens")
        prepare([texts[0]], data, tokenizer=gpt2lab.load().tokenizer, held_out=0.0)
    with pytest.raises(InputError, match=message):
        go([data], out=str(tmp_path / "new"), steps=1, **SMALL, **given)
    assert not (tmp_path / "new" / "run.json").exists()


def test_data_that_were_moved_are_found_once_told(tmp_path, texts):
    """By content, and from then on without being told."""
    from gpt2lab.corpus.prepare import prepare

    out, tokens = tmp_path / "run", tmp_path / "tokens"
    tokenizer = gpt2lab.load().tokenizer
    for name, text in (("tokens", texts[0]), ("others", texts[1])):
        prepare([text], tmp_path / name, tokenizer=tokenizer, held_out=0.0)
    go([str(tokens)], out=str(out), steps=2, **SMALL)
    moved = tokens.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="name the prepared folder where it has moved"):
        go([], out=str(out), resume=True)
    with pytest.raises(InputError, match="was trained on other data"):
        go([str(tmp_path / "others")], out=str(out), resume=True)
    go([str(moved)], out=str(out), resume=True)
    go([], out=str(out), resume=True)
    assert run_folder.described(out)["sources"]["paths"] == [str(moved)]


def test_a_run_whose_prepared_texts_are_gone_makes_them_again(run, texts):
    """As after a run's folder was removed while it trained, and saved elsewhere."""
    shutil.rmtree(run / "data")
    with pytest.raises(InputError, match="other data"):
        go([texts[1]], out=str(run), resume=True, steps=4, allow_changes=True, held_out=0.0)
    shutil.rmtree(run / "data", ignore_errors=True)
    records, _ = go([texts[0]], out=str(run), resume=True, steps=4, allow_changes=True)
    assert [r["step"] for r in records if r["kind"] == "step"] == [3, 4]
