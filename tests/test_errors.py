"""What a message repeats of a value: short, on one line, and made in no time."""

from __future__ import annotations

import os
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from gpt2lab.engines.cpu import compile_cache
from gpt2lab.errors import few, quoted
from gpt2lab.files.kept import cache_folder
from gpt2lab.files.visible import shown


class Rude:
    """An argument whose own spelling fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def nested(depth: int) -> list:
    """A list in a list, so deep that `repr` gives up."""
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


def doubling(depth: int) -> list:
    """A small list whose `repr` would have 2 ** depth entries."""
    found: list = []
    for _ in range(depth):
        found = [found, found]
    return found


def test_a_message_repeats_small_values_as_python_spells_them():
    said = {quoted(v): v for v in ("a b", 3, -1.5, None, True, [1, "a"], (2, 3), {"a": 1}, b"x")}
    assert list(said) == [repr(value) for value in said.values()]
    assert quoted(np.float32(0.5)) == "0.5" and quoted(np.int64(7)) == "7"
    assert quoted(Path("a") / "b") == repr(str(Path("a") / "b"))
    assert quoted([1, 2, 3, 4, 5, 6]) == "[1, 2, 3, 4, ... 6 in all]"


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        "\n\x1b\udc80" * 10**5,
        b"\0" * 10**6,
        10**100_000,
        Fraction(10**1000),
        nested(5_000),
        doubling(200),
        list(range(10**6)),
        dict.fromkeys(range(1000), "x" * 1000),
        range(10**12),
        np.zeros((1000, 1000)),
        Rude(),
        [Rude()],
        type("X" * 1000, (), {})(),
    ],
    ids=lambda value: type(value).__name__[:20],
)
def test_a_message_never_walks_through_a_value(value):
    """An argument of 1 MB came back whole in the error, a nested list ended in a RecursionError,
    and one that refers to itself 200 times over would have had 2 ** 200 entries."""
    start = time.perf_counter()
    said = quoted(value)
    assert time.perf_counter() - start < 0.2
    assert 0 < len(said) <= 80 and said.isprintable()


def test_names_in_a_row_end_in_a_count():
    """A file with 300,000 foreign tensors was refused with all of their names."""
    assert few(["a", "b"]) == "a, b"
    assert few(str(i) for i in range(7)) == "0, 1, 2, 3, 4 and 2 more"
    assert len(shown("x" * 10**6)) <= 300 and len(shown("\0" * 10**6)) <= 300


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes, and links need rights")
def test_a_cache_is_a_plain_place(tmp_path, monkeypatch):
    """A pipe in place of a kernel was waited for, and a folder was made behind a planted link."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert compile_cache._read(tmp_path / "pipe") is None
    assert compile_cache._read(tmp_path / "zero") is None
    (tmp_path / "else").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "gpt2lab").symlink_to(tmp_path / "else")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache_folder("kernels")
    assert not list((tmp_path / "else").iterdir())
