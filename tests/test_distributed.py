"""Many processes, with gloo on this machine: the same run as on one, to rounding or to the bit.

The processes are forked from one that has imported torch (a start takes a moment then) and given
what torchrun gives; the test of dying jobs starts torchrun itself.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("torch without its distributed part", allow_module_level=True)

import torch.distributed as dist
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode

from gpt2lab.config import SIZES, Config, parameter_shapes
from gpt2lab.errors import Failure, InputError
from gpt2lab.train import checkpoint_files, optimizer_state, saving
from gpt2lab.train import dry_run as memory
from gpt2lab.train import run as run_room
from gpt2lab.train import start as opening
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.parallel import group as distributed
from gpt2lab.weights.formats import huggingface

from . import train_helpers as helpers
from .support import ROOT, logged

#: Of four processes the last holds nothing of a vector of 6.
UNEVEN = Config(
    n_vocab=helpers.CONFIG.n_vocab, n_ctx=16, n_embd=6, n_head=2, n_layer=2,
    end_tokens=helpers.CONFIG.end_tokens,
)  # fmt: skip
LIMIT = 300  # seconds: of what hangs, not of what is slow on a busy machine
PLAIN = {"batch_size": 8, "micro_batch": 1, "dropout": 0.0, "val_every": 6, "save_every": 6}


# ---- Processes.


def _one_of(world, rank, port, place, timeout, function, arguments):
    """What each process does: meet, call, write down the result, part."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    own |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in own.items()})
    torch.set_num_threads(1)
    hurry()
    result = place / f"result-{rank}"
    try:
        group = distributed.join("cpu", timeout)
        said = {"result": function(group, *arguments)}
        distributed.leave(group)
    except BaseException as error:
        said = {"error": type(error).__name__, "told": str(error), "at": traceback.format_exc()}
    result.with_suffix(".part").write_text(json.dumps(said))
    result.with_suffix(".part").rename(result)
    os._exit(0)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def begun(world, place, function, *arguments, timeout=30):
    """Processes that are under way."""
    place.mkdir(exist_ok=True)
    port = _free_port()
    given = (port, place, timeout, function, arguments)
    processes = [
        helpers.SERVER.Process(target=_one_of, args=(world, r, *given)) for r in range(world)
    ]
    for process in processes:
        process.start()
    return processes


def _tried(world, place, function, arguments, timeout):
    for process in begun(world, place, function, *arguments, timeout=timeout):
        process.join(LIMIT)
        if process.is_alive():
            process.kill()
    files = [place / f"result-{rank}" for rank in range(world)]
    return [json.loads(f.read_text()) if f.is_file() else {"error": "gone"} for f in files]


def together(world, place, function, *arguments, fails=False, timeout=30):
    """The results of function(group, *arguments) on so many processes; one retry for their port.

    fails: an error is a result.
    """
    place.mkdir(parents=True, exist_ok=True)
    for attempt in ("first", "second"):
        said = _tried(world, place / attempt, function, arguments, timeout)
        if not any("did not meet" in s.get("told", "") for s in said):
            break
    if fails:
        return said
    assert not any("error" in s for s in said), "\n".join(s.get("at", str(s)) for s in said)
    return [s["result"] for s in said]


# ---- Runs.


def begin(folder, group=distributed.ALONE, config=helpers.CONFIG, **given):
    held = helpers.token_set(helpers.TEXT[:200], "held", 1)
    settings = helpers.settings(**{**PLAIN, **given})
    return opening.start(
        folder, helpers.fresh(config=config), [(helpers.token_set(), 1.0)], settings, val=held,
        group=group,
    )  # fmt: skip


def go(run, until=10**9):
    """The losses of a run that is asked to stop after some step: (trained, validated)."""
    with run:
        records = list(run.go(lambda: run.state.step >= until))
    found = {"step": [], "val": []}
    for record in records:
        if record["kind"] in found:
            found[record["kind"]].append(record["loss"])
    return found


def hurry():
    """Leave out what takes time and is no part of the matter: a drawing, a probe."""
    run_room.report.write = lambda *args: None
    run_room.machine.matmul_speed = lambda *args: 1e9


def play(group, acts):
    """Runs one after the other: (folder, "start" or "resume", until, settings) of each."""
    found = []
    for folder, act, until, given in acts:
        config = UNEVEN if given.pop("uneven", False) else helpers.CONFIG
        if act == "start":
            run = begin(folder, group, config, **given)
        else:
            run = helpers.resume(folder, group=group)
        found.append(go(run, until))
    return found


def digest(folder):
    """Every bit of the weights and of the optimiser of a checkpoint.

    Of the tensors, not of the files: safetensors writes a header's notes in any order.
    """
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in sorted(load_file(path).items()):
            found.update(f"{path.name} {name}".encode() + tensor.numpy().tobytes())
    return found.hexdigest()


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(run_room.report, "write", lambda *args: None)
    monkeypatch.setattr(run_room.machine, "matmul_speed", lambda *args: 1e9)


def alone(tmp_path, **given):
    """The same run on one process."""
    return play(distributed.ALONE, [(tmp_path / "alone", "start", 10**9, given)])[0]


def assert_close(found, expected, within=1e-5):
    for kind in ("step", "val"):
        assert len(found[kind]) == len(expected[kind])
        np.testing.assert_allclose(found[kind], expected[kind], rtol=within)


# ---- The same curve.


@pytest.mark.parametrize("world", [2, 4])
def test_many_processes_have_the_curve_of_one(world, tmp_path):
    """At the same batch, shared and divided, in parts or not, all of it trained or the blocks."""
    cases = {
        "ddp": {"parallel": "ddp"},
        "fsdp": {"parallel": "fsdp"},
        "fsdp-at-once": {"parallel": "fsdp", "micro_batch": None, "recompute": True},
        "ddp-blocks": {"parallel": "ddp", "train_only": "blocks"},
        "fsdp-blocks": {"parallel": "fsdp", "train_only": "blocks"},
        "fsdp-uneven": {"parallel": "fsdp", "uneven": True},
    }
    if world == 4:  # four take their time on two cores
        cases = {name: cases[name] for name in ("ddp", "fsdp-uneven")}
    acts = [(tmp_path / name, "start", 10**9, dict(given)) for name, given in cases.items()]
    found = together(world, tmp_path / "said", play, acts)
    assert all(rank == found[0] for rank in found)  # of one mind about every loss
    for name, curve in zip(cases, found[0], strict=True):
        given = {k: v for k, v in cases[name].items() if k != "parallel"}
        expected = alone(tmp_path / f"one-{name}", **given)
        assert expected["step"][-1] < expected["step"][0] - 0.1
        assert_close(curve, expected)


def test_bfloat16_on_two_processes_is_near_that_of_one(tmp_path):
    given = {"dtype": "bfloat16"}
    acts = [(tmp_path / p, "start", 10**9, {**given, "parallel": p}) for p in ("ddp", "fsdp")]
    found, expected = together(2, tmp_path / "said", play, acts)[0], alone(tmp_path, **given)
    for curve in found:
        assert_close(curve, expected, within=5e-3)


# ---- The same bits.


@pytest.mark.parametrize("world", [2, 4])
def test_stopped_and_resumed_on_as_many_it_is_the_same_run(world, tmp_path):
    """To the bit, with dropout, shared and divided; of four, too.

    DDP lays out its buckets anew after its first pass, and with more than two processes the place
    in them decides in which order numbers are summed: a resumed run differed in the last bit.
    """
    acts = []
    for parallel, dtype in (("ddp", "float32"), ("fsdp", "bfloat16" if world == 2 else "float32")):
        given = {"parallel": parallel, "dtype": dtype, "dropout": 0.1}
        name = f"{parallel}-{dtype}"
        acts.append((tmp_path / f"whole-{name}", "start", 10**9, given))
        acts.append((tmp_path / name, "start", 5, given))
        acts.append((tmp_path / name, "resume", 10**9, {}))
    together(world, tmp_path / "said", play, acts)
    for folder, act, *_ in acts:
        if act == "resume":
            whole = digest(tmp_path / f"whole-{folder.name}" / "step-00000012")
            assert digest(folder / "step-00000012") == whole, folder.name


def test_what_was_saved_on_two_goes_on_on_one_and_on_four_and_back(tmp_path):
    """Also where the last of four holds nothing of some parameters."""
    given = {"uneven": True}
    expected = alone(tmp_path, **given)
    acts = [
        (tmp_path / "two", "start", 5, {**given, "parallel": "fsdp"}),
        (tmp_path / "two-ddp", "start", 5, {**given, "parallel": "ddp"}),
    ]
    halves = together(2, tmp_path / "said2", play, acts)[0]
    for name in ("two", "two-ddp"):
        for copy in ("one", "four"):
            subprocess.run(["cp", "-r", tmp_path / name, tmp_path / f"{name}-{copy}"], check=True)
    on = [(tmp_path / f"{name}-four", "resume", 10**9, {}) for name in ("two", "two-ddp")]
    on.append((tmp_path / "four", "start", 7, {**given, "parallel": "fsdp"}))
    rests = together(4, tmp_path / "said4", play, on)[0]
    for half, rest in zip(halves, rests, strict=False):
        assert_close({k: half[k] + rest[k] for k in half}, expected)
    for half, name in zip(halves, ("two", "two-ddp"), strict=True):
        [rest] = play(distributed.ALONE, [(tmp_path / f"{name}-one", "resume", 10**9, {})])
        assert_close({k: half[k] + rest[k] for k in half}, expected)
    [rest] = play(distributed.ALONE, [(tmp_path / "four", "resume", 10**9, {})])
    assert_close({k: rests[2][k] + rest[k] for k in rest}, expected)


def test_a_divided_checkpoint_is_a_model_folder_without_a_pickle(tmp_path):
    """Every tool reads the model, the optimiser's parts are no pickles, a changed byte is found."""
    folder = tmp_path / "run"
    acts = [(folder, "start", 10**9, {"parallel": "fsdp"})]
    together(2, tmp_path / "said", play, acts)
    last = folder / "step-00000012"
    names = {path.name for path in last.iterdir()}
    assert {n for n in names if n.endswith(".safetensors")} == {
        "model.safetensors", "optimizer-00001-of-00002.safetensors",
        "optimizer-00002-of-00002.safetensors",
    }  # fmt: skip
    assert all(path.suffix in (".json", ".safetensors", ".md", ".txt") for path in last.iterdir())
    params = huggingface.load(last).params
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(last).transformer.state_dict()
    for name, array in params.items():
        np.testing.assert_array_equal(theirs[name].numpy(), array)

    part = last / "optimizer-00002-of-00002.safetensors"
    data = bytearray(part.read_bytes())
    data[-3] ^= 1
    part.write_bytes(data)
    with logged() as told, helpers.resume(folder) as run:
        assert run.state.step == 6
    assert part.name in told[0]


# ---- What goes wrong.


def _full(group, folder):
    """A disk that is full at one save, for the first process and then for another's part."""
    run, real = begin(folder, group, parallel="fsdp", save_every=3, val_every=0), os.fsync

    def write_json(path, values):
        if run.state.step == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real_json(path, values)

    def fsync(handle):
        if run.state.step == 6 and group.rank == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    real_json, saving.write_json, os.fsync = saving.write_json, write_json, fsync
    with run:
        return [r for r in run.go() if r["kind"] in ("not_saved", "save")]


def test_a_disk_that_is_full_for_one_is_full_for_all_and_the_run_goes_on(tmp_path):
    found = together(2, tmp_path / "said", _full, tmp_path / "run")
    assert found[0] == found[1]
    kinds = [(r["kind"], r["step"]) for r in found[0]]
    assert kinds[:3] == [("not_saved", 3), ("not_saved", 6), ("save", 9)]
    assert kinds[-1] == ("save", 12)
    assert "No space left" in found[0][0]["why"]
    assert "No space left" in found[0][1]["why"]
    assert not list((tmp_path / "run").glob("*.tmp"))


def _mistakes(group, folder):
    found = []
    for given in ({"batch_size": 3}, {"batch_size": 8, "micro_batch": 8}):
        with pytest.raises(InputError) as refused:
            begin(folder / "batch", group, **{**PLAIN, "micro_batch": None, **given})
        found.append(str(refused.value))
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "run.json").write_text("{}")
    with pytest.raises(InputError) as refused:
        begin(folder / "run", group)
    found.append(str(refused.value))
    asked = [group.any(group.rank == 1), group.any(False), group.sum([1.0, group.rank])]
    return [*found, asked, group.agree(lambda: group.rank)]


def test_a_mistake_that_one_finds_is_everyones_in_the_same_words(tmp_path):
    first, second = together(2, tmp_path / "said", _mistakes, tmp_path)
    assert first == second
    assert "batch_size 3 cannot be shared by 2 processes" in first[0]
    assert "with 8 at once; make it a multiple of 16" in first[1]
    assert "holds a run already" in first[2]
    assert first[3:] == [[True, False, [2.0, 1.0]], 0]


def _one_ends(group, folder):
    run = begin(folder, group)

    def stop():
        if run.state.step == 3 and group.rank == 1:
            os._exit(1)
        return False

    with run:
        list(run.go(stop))


def test_when_one_ends_the_others_are_told_at_once_and_do_not_wait(tmp_path):
    start = time.monotonic()
    said = together(2, tmp_path / "said", _one_ends, tmp_path / "run", fails=True)
    assert time.monotonic() - start < 25
    assert said[1] == {"error": "gone"}
    assert said[0]["error"] == "Failure"
    assert "another process of this run has ended" in said[0]["told"]
    assert "\n" not in said[0]["told"]


def _one_is_silent(group, folder):
    run = begin(folder, group)

    def stop():
        if run.state.step == 3 and group.rank == 1:
            time.sleep(6)
        return False

    with run:
        list(run.go(stop))


def test_when_one_is_silent_the_others_give_it_up_after_a_while(tmp_path):
    said = together(2, tmp_path / "said", _one_is_silent, tmp_path / "run", fails=True, timeout=3)
    assert said[0]["error"] == "Failure"
    assert "or does not answer" in said[0]["told"]
    assert "start all again with --resume" in said[0]["told"]


# ---- A job that dies, and is started again.


def step_of(folder):
    return checkpoint_files.step_of(checkpoint_files.pointed(folder, "latest") or "")


def wait_for(condition, is_alive):
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        assert is_alive()
        time.sleep(0.01)


def go_on(group, folder, parallel, pause=0.0):
    """A run of 30 steps, from its start or from where it is."""
    if (folder / "run.json").exists():
        run = helpers.resume(folder, group=group)
    else:
        run = begin(folder, group, dropout=0.1, steps=30, parallel=parallel, save_every=2)
    with run:
        for record in run.go():
            time.sleep(pause if record["kind"] == "step" else 0)


def test_killed_at_random_moments_a_divided_run_is_the_same_run(tmp_path):
    """kill -9 of all processes, some of them while they write their parts."""
    whole, folder, chance = tmp_path / "whole", tmp_path / "run", random.Random(4)
    together(2, tmp_path / "said", go_on, whole, "fsdp")
    for kill in range(3):
        before = step_of(folder)
        job = begun(2, tmp_path / f"kill-{kill}", go_on, folder, "fsdp", 0.02)
        wait_for(lambda: step_of(folder) > before, job[0].is_alive)  # noqa: B023
        time.sleep(chance.random() * 0.15)
        for process in job:
            process.kill()
            process.join()
        assert step_of(folder) < 30
    together(2, tmp_path / "rest", go_on, folder, "fsdp")
    assert digest(folder / "step-00000030") == digest(whole / "step-00000030")
    assert not list(folder.glob("*.tmp"))


@pytest.fixture
def torchrun(warm_command):
    """A real torchrun of this file, in a process group of its own."""

    def begin_job(folder, pause="0"):
        command = [*warm_command, "torch.distributed.run", "--standalone", "--no-python"]
        command += ["--nproc-per-node", "2", *warm_command, "tests.test_distributed"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [*command, folder, "ddp", pause], cwd=ROOT, env=environment, start_new_session=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    return begin_job


def test_a_job_that_dies_and_is_started_again_is_the_same_run(torchrun, tmp_path):
    """kill -9 of one process, then of torchrun and all; then SIGTERM, which saves first."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    together(2, tmp_path / "said", go_on, whole, "ddp")

    def after_another_save():
        """A job that has got further than the ones before it."""
        before, job = step_of(folder), torchrun(folder, "0.05")
        wait_for(lambda: step_of(folder) > max(before, 0), lambda: job.poll() is None)
        return job

    job = after_another_save()
    os.kill(int((folder / "pid-1").read_text()), signal.SIGKILL)
    job.wait(LIMIT)  # torchrun ends the other one
    assert step_of(folder) < 30

    job = after_another_save()
    os.killpg(job.pid, signal.SIGKILL)  # torchrun
    for rank in (0, 1):  # its processes have groups of their own
        with suppress(ProcessLookupError):
            os.kill(int((folder / f"pid-{rank}").read_text()), signal.SIGKILL)
    job.wait(LIMIT)
    time.sleep(0.3)

    job = after_another_save()
    began = time.monotonic()
    job.send_signal(signal.SIGTERM)
    job.wait(LIMIT)
    assert time.monotonic() - began < 25  # torchrun kills after 30
    assert (folder / "stopped").is_file()
    assert step_of(folder) < 30

    for _ in range(3):  # torchrun's code says little, the files say it
        if step_of(folder) < 30:
            torchrun(folder).wait(LIMIT)
    assert digest(folder / "step-00000030") == digest(whole / "step-00000030")
    assert not list(folder.glob("*.tmp"))


# ---- The dry run.


def test_a_dry_run_of_128_processes_tells_the_bytes_of_one():
    """A 128th of each block (rounded up), of what gradients and moments take as well."""
    config = dataclasses.replace(SIZES["124M"], n_layer=3)
    given = {"steps": 1, "batch_size": 128, "block_size": 256, "dtype": "bfloat16"}
    found = memory.dry_run(config, TrainConfig(parallel="fsdp", **given), 128)
    shapes = parameter_shapes(config).values()
    part = sum(4 * -(-shape[0] // 128) * int(np.prod(shape[1:])) for shape in shapes)
    assert found["parameters_bytes"] == found["gradients_bytes"] == part
    assert found["optimizer_bytes"] == 2 * part
    assert found["texts_at_once"] == 1
    whole = 4 * sum(int(np.prod(shape)) for shape in shapes)
    shared = memory.dry_run(config, TrainConfig(parallel="ddp", **given), 128)
    assert shared["parameters_bytes"] == shared["gradients_bytes"] == whole
    assert shared["optimizer_bytes"] == 2 * whole
    assert 0 < found["activations_bytes"] < shared["activations_bytes"]
    assert found["total_bytes"] < 0.6 * shared["total_bytes"]  # the embeddings are gathered in it
    assert not dist.is_initialized()


def test_a_dry_run_of_a_part_of_the_model_has_no_moments_of_the_rest():
    given = {"steps": 1, "batch_size": 2, "dtype": "float32", "parallel": "fsdp"}
    found = memory.dry_run(UNEVEN, TrainConfig(train_only="blocks", **given), 2)
    assert found["gradients_bytes"] < found["parameters_bytes"]
    assert found["optimizer_bytes"] == 2 * found["gradients_bytes"]


def test_what_has_no_contents_holds_as_much_as_what_has():
    """The same steps with real tensors, on one process: the same bytes, moment by moment."""
    settings = helpers.settings(micro_batch=2, block_size=16)
    found = []
    for real in (False, True):
        group, meter = distributed.Group(), memory._Meter()
        mode = nullcontext() if real else FakeTensorMode(allow_non_fake_inputs=True)
        with mode, meter:
            made = memory._rehearsal(helpers.CONFIG, settings, None)
            found.append((memory._measured(made, settings, group, meter), meter.most))
    assert found[0] == found[1]


def _held(group, folder):
    """The bytes of a process that trains in earnest."""
    run = begin(folder, group, parallel="fsdp", steps=1, val_every=0)
    with run:
        list(run.go())
    _, kept = optimizer_state.moments(run.state)
    return [memory._bytes(run.state.model.parameters()), memory._bytes(kept.values())]


def test_a_dry_run_tells_what_a_process_then_holds(tmp_path):
    held = together(2, tmp_path / "said", _held, tmp_path / "run")
    settings = helpers.settings(**{**PLAIN, "parallel": "fsdp"})
    told = memory.dry_run(helpers.CONFIG, settings, 2)
    assert held[0] == [told["parameters_bytes"], told["optimizer_bytes"]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 100}, "batch_size 100 cannot be shared by 128 processes"),
        ({"batch_size": 128, "block_size": 17}, "block_size 17 is more than the model's context"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would(given, message):
    with pytest.raises(InputError, match=message):
        memory.dry_run(helpers.CONFIG, TrainConfig(steps=1, **given), 128)


# ---- Alone.


def _fail():
    raise Failure("no")


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    group = distributed.join()
    assert group is distributed.ALONE
    distributed.leave(group)
    with pytest.raises(Failure):
        group.agree(_fail)


def test_one_gpu_for_all_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(InputError, match="'cuda:0' is one GPU for all"):
        distributed.join("cuda:0")


# ---- The recipe.


RECIPE = str(ROOT / "runs" / "gpt2_1558M.sh")


def recipe(*arguments, **environment):
    return subprocess.run(
        ["bash", RECIPE, *arguments],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **environment},
    )


@pytest.mark.parametrize(
    ("given", "arguments", "message"),
    [
        ({}, (), "0 arguments, expected 2; usage"),
        ({}, ("out", "tokens", "more"), "3 arguments, expected 2; usage"),
        ({}, ("--fast",), "unknown flag --fast; usage"),
        ({}, ("out", "/no/such/place"), "holds no prepared tokens"),
        ({"NODES": "3"}, ("out", "tokens"), "24 GPUs with 4 at once cannot share equally"),
        ({"GPUS": "eight"}, ("out", "tokens"), "GPUS 'eight' is no whole number from 1"),
        ({"MFU": "0"}, ("out", "tokens"), "MFU '0' is no share above 0"),
    ],
)
def test_the_recipe_checks_what_it_is_given(given, arguments, message):
    done = recipe(*arguments, **given)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_the_recipe_needs_a_place_to_meet(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    assert "RENDEZVOUS '' is no host:port" in recipe("out", str(tmp_path)).stderr


def test_the_recipe_plans_by_its_formulas():
    """16 bytes a parameter, divided, and so on; 6 N and 12 L E T operations a token."""
    told = recipe(PLAN="1", NODES="16", MICRO="1", RECOMPUTE="1").stderr
    assert subprocess.run(["bash", "-n", RECIPE]).returncode == 0
    assert "31.5 billion tokens, 4.3e+20 operations: 8 hours on 128 GPUs" in told
    assert "2.7 GB on a GPU: 0.2 divided, 1.4 put together, 1.0 for the 1024 tokens" in told
    n = sum(int(np.prod(shape)) for shape in parameter_shapes(SIZES["1558M"]).values())
    assert f"N = {n};" in Path(RECIPE).read_text()


def _stopped_by_sigterm():
    """As the command does it."""
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    return lambda: bool(asked)


if __name__ == "__main__":  # one process of torchrun's: a run that is started, or goes on
    where, how, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    asked_to_stop = _stopped_by_sigterm()
    mine = distributed.join("cpu", timeout=30)
    where.mkdir(exist_ok=True)
    (where / f"pid-{mine.rank}").write_text(str(os.getpid()))
    hurry()
    if (where / "run.json").exists():
        training = helpers.resume(where, group=mine)
    else:
        training = begin(where, mine, dropout=0.1, steps=30, parallel=how, save_every=2)
    with training:
        for told in training.go(asked_to_stop):
            if told["kind"] == "step":
                time.sleep(pause)
            if told["kind"] == "stopped" and mine.first:
                (where / "stopped").write_text(str(told["step"]))
    distributed.leave(mine)
    os._exit(0)
