"""A small fixed part of `benchmarks.torture`, and its judge, who must see what is forbidden."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from gpt2lab.errors import InputError

resource = pytest.importorskip("resource", reason="the limits of processes are those of Unix")
jobs = pytest.importorskip("benchmarks.torture.jobs")
files = pytest.importorskip("benchmarks.torture.files")


def _refuses(text: str):
    def act(folder: Path) -> str:
        raise InputError(text)

    return act


def _runs_code(folder: Path) -> str:
    (folder / jobs.MARKER).touch()
    return ""


def _fills_memory(folder: Path) -> str:
    return str(len(bytearray(300 << 20)))


def _dies(folder: Path) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def _exhausts(folder: Path) -> str:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    return str(len(bytearray(4 << 30)))


JUDGED = {
    "refused": (_refuses("no"), None, False),
    "same": (lambda folder: "a", "a", True),
    "different": (lambda folder: "a", "b", False),
    "silent": (lambda folder: "a", "b", True),
    "traceback": (lambda folder: str(1 // 0), None, False),
    "hang": (lambda folder: str(time.sleep(60)), None, False),
    "crash": (_dies, None, False),
    "memory": (_fills_memory, None, False),
    "long": (_refuses("x" * 3000), None, False),
    "code": (_runs_code, None, False),
}


@pytest.mark.parametrize("outcome", jobs.OUTCOMES)
def test_the_judge_sees_each_outcome(outcome):
    """A campaign that could not fail would promise nothing."""
    act, expected, checked = JUDGED[outcome]
    seconds = 0.5 if outcome == "hang" else 10
    case = jobs.Case("k", "n", lambda folder: None, act, expected, checked, seconds)
    results = list(jobs.run([case]))
    assert [result.outcome for result in results] == [outcome]
    lines, is_good = jobs.table(results)
    assert is_good == (outcome not in jobs.FORBIDDEN)
    assert len(lines) == 4


def _spins(folder: Path) -> str:
    while True:
        pass


def test_a_hang_is_seen_by_the_time_of_the_processor(monkeypatch):
    """By the clock alone, a case that was only slow beside other work was told as a hang."""
    monkeypatch.setattr(jobs, "PATIENCE", 100)  # the case itself may be slow beside other work
    (result,) = jobs.run([jobs.Case("k", "n", lambda folder: None, _spins, seconds=1)])
    assert (result.outcome, result.told) == ("hang", "over 1 s of a processor")


def test_memory_that_is_not_there_is_told():
    (result,) = jobs.run([jobs.Case("k", "n", lambda folder: None, _exhausts)])
    assert result.outcome == "memory"


def _some(cases, count: int, seed: int):
    """So many of the cases, spread over all."""
    listed = list(cases)
    return random.Random(seed).sample(listed, min(count, len(listed)))


@pytest.mark.parametrize("kind", ["weights", "pickles", "headers", "training"])
def test_nothing_forbidden_happens(tmp_path, kind):
    if kind == "training":
        pytest.importorskip("torch")
    chance = random.Random(1)
    cases = {
        "weights": lambda: files.weights_cases(tmp_path, 1, chance),
        "pickles": lambda: files.pickle_cases(1, chance),
        "headers": lambda: files.header_cases(),
        "training": lambda: files.training_cases(tmp_path, 1, chance),
    }[kind]()
    results = list(jobs.run(_some(cases, 30, 0)))
    assert results
    assert not [(r.case.name, r.told) for r in results if r.outcome in jobs.FORBIDDEN]
