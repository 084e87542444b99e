"""The commands as people start them under torchrun, and what is said when one process is amiss."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from .support import FABLE, ROOT

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("torch without its distributed part", allow_module_level=True)

import numpy as np

from gpt2lab.errors import Failure, InputError
from gpt2lab.train.parallel import sharding

from .test_distributed import LIMIT, begin, together

TEXT = "The cat sat on the mat and sang to the moon. The dog ran after the red ball. " * 40
SHAPE = ["--layers", "1", "--heads", "2", "--width", "16", "--context", "16"]
SMALL = ["--batch-size", "4", "--sample-every", "0", "--threads", "1"]
SMALL += ["--dtype", "float32", "--attention", "products", "--matmul", "onednn", "--loss", "pieces"]


def command(warm_command, *words, world=1):
    """What starts `gpt2lab` with these words on so many processes."""
    one = [*warm_command, "gpt2lab", *map(str, words)]
    torchrun = ["torch.distributed.run", "--standalone", "--no-python", "--nproc-per-node"]
    return one if world == 1 else [*warm_command, *torchrun, str(world), *one]


def done(words, code=0):
    """(stdout, stderr) of a command that ends with this code."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        encoding="utf-8", start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        raise AssertionError(f"it does not end: {err}") from None
    assert process.returncode == code, err
    return out, err


def losses(folder):
    records = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return {r["step"]: r["loss"] for r in records if r["kind"] == "step"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "cat.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(("verb", "world", "how"), [("train", 2, "ddp"), ("finetune", 4, "fsdp")])
def test_a_new_run_on_several_processes_is_that_of_one_and_goes_on(
    verb, world, how, text, warm_command, tmp_path
):
    """Every new run once hung: the processes without the lock took themselves for unclaimed.

    They stood in a second `claim` while the first was in DistributedDataParallel.
    """
    shape = [*SHAPE, "--vocabulary", FABLE] if verb == "train" else ["--block-size", "16"]
    words = [verb, text, "--val", text, "--val-tokens", "64", *shape, *SMALL]
    words += ["--parallel", how, "--log-every", "1", "--out"]

    def told(*words, world=world):
        return done(command(warm_command, *words, world=world))

    told(*words, tmp_path / "one", "--steps", 4, world=1)
    out, err = told(*words, tmp_path / "many", "--steps", 2)
    assert out.count("2 steps, the budget is used up") == 1, err
    more = ["--steps", 4, "--allow-changes"]
    if verb == "train":
        told("train", "--resume", tmp_path / "many", *more)
    else:
        told(*words, tmp_path / "many", "--resume", *more)
    one, many = losses(tmp_path / "one"), losses(tmp_path / "many")
    assert list(many) == [1, 2, 3, 4]
    np.testing.assert_allclose([many[1], many[2]], [one[1], one[2]], rtol=1e-5)
    assert (tmp_path / "many" / "step-00000004" / "model.safetensors").is_file()


def test_a_mistake_under_torchrun_is_told_once(text, tmp_path):
    """Each process once printed the same line. Here torchrun starts the program itself."""
    words = ["train", text, *SHAPE, "--vocabulary", FABLE, "--steps", 2, "--batch-size", 3]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", "-m", "gpt2lab"]
    _, err = done([*torchrun, *map(str, words), "--out", str(tmp_path / "run")], code=1)
    assert err.count("gpt2lab: batch_size 3 cannot be shared by 2 processes") == 1
    assert "exitcode  : 2" in err
    assert "exitcode  : 1" not in err
    assert not (tmp_path / "run" / "run.json").exists()


def _one_refuses(group, folder):
    """Process 1 finds a mistake while the other already waits for it."""
    if group.rank == 1:
        time.sleep(1)
        raise group.refuse(InputError("no such model on this machine"))
    try:
        group.barrier()
    except (InputError, Failure):
        raise group.refuse(Failure("another reason")) from None


def test_when_one_process_refuses_all_do_in_its_words(tmp_path):
    """The others once waited until a limit, and told something else."""
    for said in together(2, tmp_path / "said", _one_refuses, tmp_path, fails=True, timeout=LIMIT):
        assert (said["error"], said["told"]) == ("InputError", "no such model on this machine")


def _one_does_not_come(group, folder):
    group.at("reading the model" if group.rank else "claiming the run's folder")
    if group.rank == 1:
        time.sleep(5)
        raise Failure("late")
    group.any(False)


def test_the_start_has_a_limit_and_says_where_each_process_is(tmp_path):
    said, _ = together(
        2, tmp_path / "said", _one_does_not_come, tmp_path, fails=True, timeout=2
    )  # fmt: skip
    assert said["error"] == "Failure"
    where = "process 0: waits at: claiming the run's folder, process 1: reading the model"
    assert "does not answer" in said["told"]  # by our clock or gloo's, which has the same limit
    assert where in said["told"]


def _until(path):
    """Wait for a file of another process."""
    limit = time.monotonic() + LIMIT
    while not path.exists() and time.monotonic() < limit:
        time.sleep(0.05)


def _hears(group, folder):
    """What a signal does to a process that waits for one that does not come."""
    if group.rank == 1:
        _until(folder / "signalled")
        group.any(False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        group.agree(lambda: None)
    finally:
        (folder / "signalled").touch()


def test_ctrl_c_is_heard_while_a_process_waits(tmp_path):
    """torch's calls wait where Python runs no handler: Ctrl-C was heard after ten minutes."""
    said = together(2, tmp_path / "said", _hears, tmp_path, fails=True, timeout=LIMIT)
    assert said[0]["error"] == "KeyboardInterrupt"


def _ends(group, folder):
    """SIGTERM, before a run has begun, to a process that waits; the other comes afterwards."""
    if group.rank == 1:
        _until(folder / "waits")
        time.sleep(1)
        os.kill(int((folder / "waits").read_text()), signal.SIGTERM)
    else:
        (folder / "part").write_text(str(os.getpid()))
        (folder / "part").rename(folder / "waits")
    group.agree(lambda: None)


def test_sigterm_ends_a_process_that_waits_and_the_other_soon_knows(tmp_path):
    """No limit of the wait is over by then, however long it is."""
    ended, other = together(2, tmp_path / "said", _ends, tmp_path, fails=True, timeout=LIMIT)
    assert ended["error"] == "gone"
    assert other["error"] == "Failure"
    assert "another process of this run has ended" in other["told"]


def _one_stops_inside(group, folder, parallel):
    """Process 1 comes to `wrap`, and no further."""
    if group.rank == 1:
        name = "shard" if parallel == "fsdp" else "replicate"
        setattr(sharding, name, lambda *_: _until(folder / "told"))
    try:
        run = begin(folder / "run", group, parallel=parallel)
        list(run.go())
    finally:
        (folder / "told").touch()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_wait_inside_torchs_own_constructor_has_a_limit_too(parallel, tmp_path):
    """There C++ waits, without our clock: gloo's ends it, and each process's stage is told."""
    said = together(
        2, tmp_path / "said", _one_stops_inside, tmp_path, parallel, fails=True, timeout=3
    )[0]  # fmt: skip
    assert said["error"] == "Failure"
    assert "does not answer" in said["told"]
    assert "process 1: building the model" in said["told"]


def _elsewhere(group, folder):
    group.at(f"stage {group.rank}")
    group.agree(lambda: None)


def test_processes_that_do_different_things_do_not_take_each_others_answers(tmp_path):
    """As where one of them does not see the prepared data and begins to prepare them."""
    said = together(2, tmp_path / "said", _elsewhere, tmp_path, fails=True)
    assert "process 1 is at stage 1 while process 0 is at stage 0" in said[1]["told"]
