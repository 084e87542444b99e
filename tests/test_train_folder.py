"""A run's folder that is renamed or removed while the run trains."""

from __future__ import annotations

import shutil

import pytest

torch = pytest.importorskip("torch")

from gpt2lab.errors import Failure
from gpt2lab.train import checkpoint_files, report

from . import train_helpers as helpers


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(report, "write", lambda *args: None)


def until(run, step, act):
    """The records of a run in which `act` happens after a step."""
    found = []
    with run:
        for record in run.go():
            found.append(record)
            if record["kind"] == "step" and record["step"] == step:
                act()
    return found


@pytest.mark.parametrize("new", ["other", "deep/er/run"])
def test_a_run_that_is_renamed_goes_on_where_it_is(new, tmp_path):
    """Its checkpoints once went into a folder of the old name, which was no run."""
    plain, old, now = tmp_path / "plain", tmp_path / "run", tmp_path / new
    helpers.finished(helpers.start(plain))
    now.parent.mkdir(parents=True, exist_ok=True)

    def rename():
        old.rename(now)
        old.mkdir()  # something else that came to the name

    run = helpers.start(old)
    records = until(run, 5, rename)
    assert run.folder == now
    assert not any(old.iterdir())
    notes = [record["text"] for record in records if record["kind"] == "note"]
    assert len(notes) == 1
    assert f"{old} is {now} now" in notes[0]
    assert helpers.digest(now, 12) == helpers.digest(plain, 12)
    assert (now / "log.jsonl").read_bytes().count(b'"kind": "step"') == 12
    helpers.resume(now).close()  # the lock went along, and is let go


def test_a_rename_in_the_middle_of_a_save_does_not_lose_it(tmp_path, monkeypatch):
    old, now, real = tmp_path / "run", tmp_path / "now", checkpoint_files.seal
    run = helpers.start(old)

    def seal(folder):
        if run.state.step == 6 and old.exists():
            old.rename(now)
        real(folder)

    monkeypatch.setattr(checkpoint_files, "seal", seal)
    helpers.finished(run)
    assert not old.exists()
    assert checkpoint_files.fault(now / "step-00000012") is None
    assert not list(now.glob("*.tmp"))


@pytest.mark.parametrize("taken", [False, True])
def test_a_run_whose_folder_is_removed_is_saved_in_a_new_one_and_stops(taken, tmp_path):
    """It once trained to its end into a folder that nothing could resume."""
    plain, folder = tmp_path / "plain", tmp_path / "run"
    helpers.finished(helpers.start(plain))

    def remove():
        shutil.rmtree(folder)
        if taken:
            folder.mkdir()

    new = tmp_path / "run-2" if taken else folder
    with pytest.raises(Failure, match="was removed while it was trained; step 6 is saved in") as e:
        until(helpers.start(folder, val_every=0), 4, remove)
    assert f"gpt2lab train --resume {new}" in str(e.value)
    helpers.finished(helpers.resume(new))
    assert (new / "step-00000012").is_dir()
