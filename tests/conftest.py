"""For all tests: the program to call, and a cache folder with the kernels compiled into it."""

from __future__ import annotations

import io
import os
import sys

import pytest
from filelock import FileLock

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER:  # the processes share the cores, so each computes with one thread, and its children too
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

from gpt2lab import aliases
from gpt2lab.commands import main
from gpt2lab.engines.cpu import cpu_features

from . import warm

DTYPES = ("float32", "bfloat16", "int8", "int4")

#: Files that take longest come first, so that no process waits for another at the end.
SLOW = (
    "distributed",
    "train_run",
    "torchrun",
    "train_commands",
    "cpu_engine",
    "recipes",
    "lens_page",
)


def pytest_collection_modifyitems(items):
    names = [f"test_{name}.py" for name in SLOW]
    order = {name: place for place, name in enumerate(names)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session", autouse=True)
def kernels(tmp_path_factory):
    """Also for the commands that tests start: they inherit the environment.

    All processes of a test run share the folder, so each kernel is compiled once.
    """
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if WORKER else base  # of this run alone: another need not wait for it
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        if not cpu_features.why_not():
            from gpt2lab.engines.cpu import compile_cache

            with FileLock(folder / "cache.lock"):
                compile_cache.library("crew", cpu_features.here())
                compile_cache.library("run", cpu_features.here(), "float32", "float32")
                compile_cache.library("draw", cpu_features.here())
        yield


@pytest.fixture(scope="session")
def warm_command(tmp_path_factory):
    """The words that begin `python -m ...` in a process with torch imported (tests/warm.py)."""
    process, words = warm.server(tmp_path_factory.mktemp("w"))
    yield words
    process.stdin.close()
    process.wait()
    process.stdout.close()


@pytest.fixture
def run(capsys, monkeypatch):
    """Call the program in this process: (exit code, stdout, stderr)."""

    def call(*args: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        code = 0
        try:
            main(list(args))
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(autouse=True)
def names_not_yet_explained():
    """A foreign name is explained once in a process; each test is one."""
    aliases.explained.clear()


@pytest.fixture
def usual_arithmetic(monkeypatch):
    """Runs in this process do not measure how to compute; `test_probe.py` is for that."""
    from gpt2lab.train import probe

    monkeypatch.setattr(probe, "choose", lambda config, settings, rows: (probe.plain(settings), ""))
