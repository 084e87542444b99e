"""A run whose batch size is changed on the way sees every text as often as any other."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gpt2lab.train import checkpoint_files, report, run_folder, start
from gpt2lab.train import step as loop

from . import train_helpers as helpers


@pytest.fixture
def seen(monkeypatch):
    """Every row that a step learned from, in order."""
    rows, real = [], loop.one_step
    monkeypatch.setattr(report, "write", lambda *args: None)

    def one_step(state, batch, *args, **named):
        rows.extend(row.tolist() for row in batch.tokens)
        return real(state, batch, *args, **named)

    monkeypatch.setattr(loop, "one_step", one_step)
    return rows


def stopped(run, step):
    """The run, stopped and saved after a step."""
    with run:
        for record in run.go():
            if record["kind"] == "step" and record["step"] == step:
                run.save()
                return


def changed(folder, **given):
    settings = replace(run_folder.settings_of(folder), **given)
    return helpers.resume(folder, settings=settings, allow_changes=True)


def forget_parts(folder):
    """Make the newest checkpoint one of before the batch sizes stood there."""
    newest = folder / checkpoint_files.pointed(folder, checkpoint_files.LATEST)
    values = json.loads((newest / "state.json").read_text())
    del values["parts"]
    (newest / "state.json").write_text(json.dumps(values))
    checkpoint_files.seal(newest)


@pytest.mark.parametrize("budget", ["epochs", "tokens"])
@pytest.mark.parametrize("old", [False, True], ids=["now", "of an older version"])
def test_with_another_batch_size_no_text_is_left_out_or_seen_twice(budget, old, seen, tmp_path):
    """The place in the data was counted in steps.

    From batches of 4 to 8 the second epoch was over before half of it, and texts were left out;
    from 4 to 2 others were seen twice.
    """
    batches = start.batches_of([(helpers.token_set(), 1.0)], helpers.settings(block_size=16))
    blocks = batches.blocks_per_epoch
    whole = [batches.rows(step).tokens for step in range(blocks)]
    expected = np.concatenate(whole)[: 2 * blocks].tolist()
    run = tmp_path / "run"
    value = 2 if budget == "epochs" else 2 * blocks * 16
    stopped(helpers.start(run, **{budget: value}, val_every=0, save_every=0), 5)
    del seen[20:]
    if old:
        forget_parts(run)
    stopped(changed(run, batch_size=8), 7)
    assert len(seen) == 20 + 16
    stopped(changed(run, batch_size=2, micro_batch=1), 10)
    records = helpers.finished(changed(run, batch_size=6, micro_batch=None))
    assert seen[: 2 * blocks] == expected
    assert 2 * blocks <= len(seen) < 2 * blocks + 6
    last = [record for record in records if record["kind"] == "step"][-1]
    assert last["epoch"] == pytest.approx(len(seen) / blocks, abs=1e-5)
    assert records[-1]["kind"] == "end"


def test_what_a_step_saw_can_be_asked_after_the_batch_size_was_changed(seen, tmp_path):
    run = tmp_path / "run"
    stopped(helpers.start(run, val_every=0), 3)
    helpers.finished(changed(run, batch_size=8, steps=6))
    values = run_folder.state_of(run)
    settings = run_folder.settings_of(run)
    batches = start.batches_of([(helpers.token_set(), 1.0)], settings, run_folder.sizes_of(values))
    assert [len(batches.where(step)) for step in range(6)] == [4, 4, 4, 8, 8, 8]
    told = [place.text for step in range(6) for place in batches.where(step)]
    assert len(told) == len(seen) == 36
    for text, row in zip(told, seen, strict=True):
        assert text.startswith(helpers.LETTERS.decode(row[:4]))


def test_a_change_that_does_not_touch_the_rows_leaves_the_run_as_it_is_to_the_bit(tmp_path, seen):
    one, other = tmp_path / "one", tmp_path / "other"
    helpers.finished(helpers.start(one, epochs=1))
    stopped(helpers.start(other, epochs=1), 4)
    forget_parts(other)
    helpers.finished(helpers.resume(other))
    last = run_folder.state_of(one)["step"]
    assert helpers.digest(one, last) == helpers.digest(other, last)


def test_blocks_of_another_length_take_up_the_same_share_of_an_epoch(tmp_path, seen):
    run = tmp_path / "run"
    stopped(helpers.start(run, epochs=2, val_every=0), 6)
    records = helpers.finished(changed(run, block_size=8))
    epochs = [record["epoch"] for record in records if record["kind"] == "step"]
    before = (
        6
        * 4
        / start.batches_of(
            [(helpers.token_set(), 1.0)], helpers.settings(block_size=16)
        ).blocks_per_epoch
    )
    assert before < epochs[0] < before + 0.1
    assert 2 <= epochs[-1] < 2.1
