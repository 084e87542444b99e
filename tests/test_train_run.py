"""A run in its folder: to the same bits however often it is broken off, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import time

import numpy as np
import pytest

from gpt2lab.errors import Failure, InputError
from gpt2lab.files import safetensors_file
from gpt2lab.files.io import accessing

from .support import logged as listening

torch = pytest.importorskip("torch")

from gpt2lab import weights
from gpt2lab.train import checkpoint_files, run_folder
from gpt2lab.train import run as run_room
from gpt2lab.train import start as opening
from gpt2lab.train import step as loop
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.parallel.group import Group
from gpt2lab.weights.formats import huggingface

from . import train_helpers as helpers
from .train_helpers import digest, finished, resume, start


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def whole(request, tmp_path_factory):
    """(dtype, folder) of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp(request.param) / "whole"
    finished(start(folder, dtype=request.param, save_every=1, save_total_limit=0))
    return request.param, folder


@pytest.fixture(autouse=True)
def no_report(request, monkeypatch):
    """Drawing takes a second; only the test that looks at the report waits for it."""
    if "samples_come" not in request.node.name:
        monkeypatch.setattr(run_room.report, "write", lambda *args: None)


def steps(records):
    return [r["step"] for r in records if r["kind"] == "step"]


def logged(folder):
    """The log without what depends on the clock."""
    timed = ("seconds", "tokens_per_second", "mfu", "peak_memory")
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    kept = [r for r in rows if r["kind"] in ("step", "val", "skip")]
    return [{k: v for k, v in r.items() if k not in timed} for r in kept]


@pytest.mark.parametrize("at", range(12))
def test_stopped_after_any_step_and_resumed_it_is_the_same_run(whole, at, tmp_path):
    """Weights and optimiser to the bit, with dropout, and the log too."""
    dtype, reference = whole
    folder = tmp_path / "run"
    run = start(folder, dtype=dtype, save_every=100, val_every=4)
    records = finished(run, lambda: run.state.step >= at)
    assert records[-1] == {"kind": "stopped", "step": at}
    assert steps(records) == list(range(1, at + 1))
    finished(resume(folder))
    assert digest(folder, 12) == digest(reference, 12)
    assert logged(folder) == logged(reference)


def test_killed_at_random_moments_it_is_the_same_run(tmp_path):
    """kill -9 of real processes, as often as it takes, saves included."""
    for dtype in ("float32", "bfloat16"):
        plain, killed = tmp_path / f"plain-{dtype}", tmp_path / f"killed-{dtype}"
        helpers.slow_run(plain, dtype, 0)
        chance = random.Random(dtype)
        for _ in range(4):
            before = checkpoint_files.pointed(killed, "latest")
            process = helpers.SERVER.Process(target=helpers.slow_run, args=(killed, dtype, 0.02))
            process.start()
            limit = time.monotonic() + 60
            while checkpoint_files.pointed(killed, "latest") == before and time.monotonic() < limit:
                assert process.is_alive()
                time.sleep(0.01)
            time.sleep(chance.random() * 0.15)
            process.kill()
            process.join()
        helpers.slow_run(killed, dtype, 0)
        assert digest(killed, 40) == digest(plain, 40)
        assert logged(killed) == logged(plain)
        assert not list(killed.glob("*.tmp"))


def test_a_checkpoint_is_a_model_that_transformers_reads(whole):
    transformers = pytest.importorskip("transformers")
    _, folder = whole
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder / "step-00000012")
    ids = np.random.default_rng(0).integers(0, helpers.CONFIG.n_vocab, (2, 16))
    from gpt2lab import load

    ours = load(str(folder / "step-00000012"), engine="numpy")
    with torch.no_grad():
        expected = theirs(torch.as_tensor(ids)).logits.numpy()
    np.testing.assert_allclose(ours.logits(ids), expected, atol=1e-5)
    named = weights.load(folder)  # the run's own folder leads to its best checkpoint
    best = checkpoint_files.pointed(folder, "best")
    np.testing.assert_array_equal(
        named.params["wte.weight"], huggingface.load(folder / best).params["wte.weight"]
    )


def test_there_is_no_pickle_in_a_checkpoint(whole):
    for path in (whole[1] / "step-00000012").iterdir():
        assert path.suffix in (".json", ".safetensors", ".md", ".txt"), path.name


def test_the_same_bits_twice_but_not_with_another_seed(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        finished(start(tmp_path / name, seed=seed))
    assert digest(tmp_path / "a", 12) == digest(tmp_path / "b", 12) != digest(tmp_path / "c", 12)


def test_a_flipped_byte_is_found_and_the_one_before_is_used(tmp_path):
    folder = tmp_path / "run"
    finished(start(folder))
    good = digest(folder, 12)
    latest = folder / "step-00000012"
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        data = bytearray((latest / name).read_bytes())
        data[len(data) // 2] ^= 1
        (latest / name).write_bytes(data)
        with listening() as told:
            run = resume(folder)
        assert run.state.step == 9
        assert "step-00000012 is damaged and passed over" in told[0]
        assert name in told[0]
        finished(run)
        assert digest(folder, 12) == good


def test_without_a_whole_checkpoint_nothing_starts_over(tmp_path):
    folder = tmp_path / "run"
    finished(start(folder))
    for path in folder.glob("step-*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Failure, match="no whole checkpoint to resume from"):
        resume(folder)
    resume_again = pytest.raises(Failure)
    with resume_again:
        resume(folder)  # and the folder is not left locked


def test_old_checkpoints_go_the_best_stays(tmp_path, monkeypatch):
    losses = iter([1.0, 0.5, 2.0, 3.0, 4.0, 5.0])
    monkeypatch.setattr(loop, "evaluate", lambda *a, **k: next(losses))
    folder = tmp_path / "run"
    finished(start(folder, val_every=2, save_every=1, save_total_limit=2))
    assert [path.name for path in checkpoint_files.all_of(folder)] == [
        "step-00000004", "step-00000011", "step-00000012",
    ]  # fmt: skip
    assert checkpoint_files.pointed(folder, "best") == "step-00000004"
    assert checkpoint_files.pointed(folder, "latest") == "step-00000012"


def test_the_only_good_checkpoint_is_never_deleted(tmp_path):
    folder = tmp_path / "run"
    finished(start(folder, save_total_limit=0, val_every=0))
    (folder / "step-00000012" / "state.json").write_text("{}")
    before = checkpoint_files.all_of(folder)
    checkpoint_files.prune(folder, 1, None)
    assert checkpoint_files.all_of(folder) == before


def test_training_stops_early_when_validation_no_longer_gets_better(tmp_path, monkeypatch):
    losses = iter([1.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(loop, "evaluate", lambda *a, **k: next(losses))
    records = finished(start(tmp_path / "run", val_every=2, patience=2, steps=100))
    assert records[-1]["why"] == "no better validation"
    assert (steps(records)[-1], records[-1]["best"]) == (6, {"step": 2, "loss": 1.0})


def test_a_full_disk_loses_nothing_and_the_run_goes_on(tmp_path, monkeypatch):
    folder, real = tmp_path / "run", safetensors_file.write
    fails = iter([False, True, True])

    def full(path, arrays):
        real(path, arrays)
        if path.name == "optimizer.safetensors" and next(fails, False):
            with accessing(path, "written"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(safetensors_file, "write", full)
    records = finished(start(folder, val_every=0))
    failed = [r for r in records if r["kind"] == "not_saved"]
    assert [r["step"] for r in failed] == [3, 6]
    assert "No space left" in failed[0]["why"]
    assert "free some space" in failed[0]["why"]
    assert steps(records) == list(range(1, 13))
    assert checkpoint_files.fault(folder / "step-00000012") is None
    assert not list(folder.glob("*.tmp"))


def test_a_full_disk_at_the_end_is_a_failure_and_the_last_checkpoint_is_whole(
    tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    run, real = start(folder, val_every=0, save_every=5), safetensors_file.write

    def full(path, arrays):
        real(path, arrays)
        if run.state.step == 12:
            with accessing(path, "written"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(safetensors_file, "write", full)
    with pytest.raises(Failure, match="No space left"):
        finished(run)
    assert checkpoint_files.pointed(folder, "latest") == "step-00000010"
    monkeypatch.undo()
    finished(resume(folder))
    assert checkpoint_files.pointed(folder, "latest") == "step-00000012"


def test_a_disk_that_is_really_full_is_told_in_a_line(tmp_path):
    """A limit on the size of files is the full disk that a test can make by itself. The library
    that wrote the optimiser before raised an error of its own for it, which ended the run."""
    resource = pytest.importorskip("resource")
    folder = tmp_path / "run"
    run = start(folder, val_every=0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = (folder / "step-00000000" / "model.safetensors").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole // 2, before[1]))
    try:
        with pytest.raises((Failure, InputError), match=r"model.safetensors: cannot be written"):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finished(run)
    assert checkpoint_files.fault(folder / "step-00000012") is None


def test_a_best_that_could_not_be_saved_does_not_cost_the_best_there_is(tmp_path, monkeypatch):
    """The pointer once named the checkpoint that was not there, and the true best was deleted."""
    losses = iter([1.0, 0.5, 2.0, 3.0])
    monkeypatch.setattr(loop, "evaluate", lambda *a, **k: next(losses))
    folder = tmp_path / "run"
    run = start(folder, val_every=3, save_every=1, save_total_limit=1)
    real = checkpoint_files.publish

    def publish(run_folder, step):
        if step == 6:
            raise Failure("no room")
        return real(run_folder, step)

    monkeypatch.setattr(checkpoint_files, "publish", publish)
    records = finished(run)
    assert [r["step"] for r in records if r["kind"] == "not_saved"] == [6, 6]
    assert checkpoint_files.pointed(folder, "best") == "step-00000003"
    assert huggingface.load(folder / "step-00000003")


def test_a_run_that_ended_stays_ended(tmp_path, monkeypatch):
    """Early stopping was once only asked after a step, so every resume trained one more."""
    monkeypatch.setattr(loop, "evaluate", lambda *a, **k: 1.0)
    for name, given in (("early", {"patience": 1, "steps": 50}), ("spent", {})):
        folder = tmp_path / name
        finished(start(folder, val_every=2, **given))
        log = (folder / "log.jsonl").read_text()
        [record] = finished(resume(folder))
        assert record["kind"] == "note"
        assert (folder / "log.jsonl").read_text() == log


def test_changed_settings_hold_from_then_on(tmp_path):
    folder = tmp_path / "run"
    finished(start(folder, steps=3))
    finished(resume(folder, settings=helpers.settings(steps=5), allow_changes=True))
    assert run_folder.settings_of(folder).steps == 5
    assert finished(resume(folder, settings=helpers.settings(steps=5)))[-1]["kind"] == "note"


def test_what_is_trained_can_change_on_the_way_and_still_be_resumed_to_the_bit(tmp_path):
    """AdamW counts the updates of each parameter; one count for all made other weights."""
    for name in ("whole", "broken"):
        finished(start(tmp_path / name, steps=4, train_only="blocks", val_every=0))
    later = helpers.settings(steps=12, train_only="all", val_every=0, save_every=1)
    finished(resume(tmp_path / "whole", settings=later, allow_changes=True))
    run = resume(tmp_path / "broken", settings=later, allow_changes=True)
    finished(run, lambda: run.state.step >= 7)
    finished(resume(tmp_path / "broken"))
    assert digest(tmp_path / "broken", 12) == digest(tmp_path / "whole", 12)


def test_a_run_that_ended_while_it_was_made_leaves_no_run_and_begins_again(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(opening, "describe", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        start(folder)
    monkeypatch.undo()
    finished(start(folder, steps=2))


def test_a_mistake_leaves_the_run_that_was_to_be_replaced_as_it_was(tmp_path):
    folder = tmp_path / "run"
    finished(start(folder))
    before = sorted(path.name for path in folder.rglob("*"))
    for given in ({"block_size": 99}, {"batch_size": 4, "group": Group(0, 3)}):
        with pytest.raises(InputError):
            start(folder, overwrite=True, **given)
        assert sorted(path.name for path in folder.rglob("*")) == before


def test_a_model_that_the_disk_changed_is_not_used(tmp_path):
    folder = tmp_path / "run"
    finished(start(folder))
    path = folder / checkpoint_files.pointed(folder, "best") / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="is not what was written"):
        weights.load(folder)


def test_prompts_that_cannot_begin_a_sample_are_told_before_the_first_step(tmp_path):
    for prompt, message in (("\u20ac", "U\\+20AC|\u20ac"), ("the " * 9, "36 tokens, .* is 16")):
        with pytest.raises(InputError, match=message):
            start(tmp_path / "run", prompts=(prompt,))


# ---- Spikes.


class Poison:
    """The batches of a run, one of them poisoned."""

    def __init__(self, run, at):
        self.at, self.run, self.real = at, run, run.state.objective.forward
        run.state.objective.forward = self.forward

    def forward(self, tokens, targets, scale):
        loss = self.real(tokens, targets, scale)
        return loss * (float("nan") if self.run.state.step in self.at else 1.0)


def test_a_step_that_is_not_finite_never_reaches_the_weights(tmp_path):
    run = start(tmp_path / "run", save_every=1, save_total_limit=0, val_every=0)
    Poison(run, {4})
    records = finished(run)
    [skip] = [r for r in records if r["kind"] == "skip"]
    assert skip["step"] == 5
    assert skip["why"] == "loss nan is not finite"
    assert skip["rows"][0][0] == "text"
    assert digest(tmp_path / "run", 5) == digest(tmp_path / "run", 4)
    assert digest(tmp_path / "run", 6) != digest(tmp_path / "run", 5)
    assert steps(records) == list(range(1, 13))


def test_told_to_stop_a_run_stops_at_a_spike_and_names_it(tmp_path):
    run = start(tmp_path / "run", on_spike="stop")
    Poison(run, {4})
    with pytest.raises(Failure, match=r"step 5: loss nan is not finite; .* --which-data 5"):
        finished(run)


def test_told_to_go_back_a_run_takes_the_last_checkpoint_and_goes_on_behind_the_batch(tmp_path):
    folder = tmp_path / "run"
    run = start(folder, on_spike="back", save_every=1, save_total_limit=0, val_every=0)
    run.settings = TrainConfig(**{**run.settings.to_dict(), "save_every": 3})
    Poison(run, {4})
    records = finished(run)
    assert [(r["step"], r["to"]) for r in records if r["kind"] == "back"] == [(5, 3)]
    assert steps(records) == list(range(1, 13))


def test_a_run_of_nothing_but_spikes_is_given_up(tmp_path):
    run = start(tmp_path / "run", steps=50)
    Poison(run, set(range(3, 50)))
    with pytest.raises(Failure, match="10th step in a row"):
        finished(run)
    assert run.state.step == 13


# ---- What is refused.


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path):
    finished(start(tmp_path / "run"))
    before = digest(tmp_path / "run", 12)
    with pytest.raises(InputError, match=r"holds a run already; go on with --resume"):
        start(tmp_path / "run", seed=5)
    assert digest(tmp_path / "run", 12) == before
    finished(start(tmp_path / "run", seed=5, overwrite=True))
    assert digest(tmp_path / "run", 12) != before


def test_a_run_in_use_is_locked(tmp_path):
    with (
        start(tmp_path / "run"),
        pytest.raises(InputError, match="in use by another process"),
    ):
        resume(tmp_path / "run")


def test_other_data_are_refused(tmp_path):
    finished(start(tmp_path / "run", steps=3))
    with pytest.raises(InputError, match="trained on other data"):
        resume(tmp_path / "run", text=helpers.TEXT + "x".replace("x", "a"))


def test_changed_settings_are_listed_and_refused_unless_told(tmp_path):
    folder = tmp_path / "run"
    finished(start(folder, steps=3))
    other = helpers.settings(steps=5, learning_rate=0.5, save_every=7)
    with pytest.raises(InputError) as refused:
        resume(folder, settings=other)
    assert "steps 3 -> 5; learning_rate 0.01 -> 0.5" in str(refused.value)
    assert "save_every" not in str(refused.value)
    records = finished(resume(folder, settings=other, allow_changes=True))
    assert steps(records) == [4, 5]


def test_no_run_no_resume(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        resume(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"block_size": 17}, "block_size 17 is more than the model's context n_ctx 16"),
        ({"batch_size": 6, "micro_batch": 4}, "batch_size 6 is not a multiple of micro_batch 4"),
        ({"steps": 0}, "steps is 0; it must be an integer >= 1"),
        ({"epochs": 1.0, "minutes": 1.0}, "epochs and minutes are given"),
        ({"learning_rate": 1e-4, "final_learning_rate": 1e-3}, "is above learning_rate"),
        ({"order": "shuffled"}, "order is 'shuffled'; it must be one of packed, windows"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
    ],
)
def test_settings_that_cannot_be_are_one_line(given, message, tmp_path):
    with pytest.raises(InputError, match=re.escape(message)):
        start(tmp_path / "run", **given)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_needs_a_budget():
    with pytest.raises(InputError, match="no budget; give one of steps, epochs, tokens, minutes"):
        opening.check_early(TrainConfig(), helpers.CONFIG, Group())


def test_another_vocabulary_is_refused(tmp_path):
    tokens = helpers.token_set()
    small = helpers.fresh(
        config=helpers.Config(n_vocab=5, n_ctx=16, n_embd=16, n_head=2, n_layer=1)
    )
    with pytest.raises(InputError, match=r"its vocabulary has \d+ tokens, the model's 5"):
        opening.start(tmp_path / "a", small, [(tokens, 1.0)], helpers.settings())
    small.tokenizer = helpers.Tokenizer.characters("abcdefghijklmnopqrst"[: tokens.n_vocab])
    with pytest.raises(InputError, match="it is the model's own: take the added tokens out"):
        opening.start(tmp_path / "a", small, [(tokens, 1.0)], helpers.settings())
    begin = helpers.fresh()
    begin.tokenizer = helpers.Tokenizer.characters("abcdefghijklmnopqrst"[: tokens.n_vocab])
    with pytest.raises(InputError, match="made with another vocabulary than the model's"):
        opening.start(tmp_path / "b", begin, [(tokens, 1.0)], helpers.settings())


# ---- Budgets.


def test_every_budget_ends_a_run(tmp_path):
    one = loop.total_steps(helpers.settings(epochs=1), helpers.start(tmp_path / "x").batches)
    for budget, value, expected in (
        ("epochs", 2, 2 * one), ("tokens", 4 * 16 * 5, 5), ("tokens", 4 * 16 * 5 + 1, 6),
    ):  # fmt: skip
        records = finished(start(tmp_path / f"{budget}{value}", **{budget: value}))
        assert abs(steps(records)[-1] - expected) <= (budget == "epochs")
    records = finished(start(tmp_path / "minutes", minutes=0.01))
    last = [r for r in records if r["kind"] == "step"][-1]
    assert 0.6 <= last["seconds"] < 5


def test_samples_come_at_fixed_prompts_and_are_the_same_for_the_same_weights(tmp_path):
    for name in ("a", "b"):
        finished(start(tmp_path / name, sample_every=6, prompts=("the ",), sample_length=8))
    found = [
        [r for r in map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
         if r["kind"] == "sample"] for name in ("a", "b")
    ]  # fmt: skip
    assert [r["step"] for r in found[0]] == [6, 12]
    assert found[0] == found[1]
    assert found[0][0]["prompt"] == "the "
    assert (tmp_path / "a" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert "<html" in (tmp_path / "a" / "report.html").read_text()


def test_a_run_can_be_moved(tmp_path):
    finished(start(tmp_path / "here", steps=3))
    shutil.move(tmp_path / "here", tmp_path / "there")
    finished(resume(tmp_path / "there"))
