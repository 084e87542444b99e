"""docs/inside.md tells the truth: its table is the table of names, its Python runs."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

from gpt2lab.lens import NAMES

from .support import ROOT

TEXT = (ROOT / "docs" / "inside.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_names():
    rows = re.findall(
        r"^\| `(\w+)` \| `(.+?)` \| ([A-Z ]+) \| (.+?) \| (.+) \|$", TEXT, re.MULTILINE
    )
    told = [
        (name, key.replace("{i}", "{}"), shape, hook.strip("`").replace("{i}", "{}"), about)
        for name, key, shape, hook, about in rows
    ]
    assert told == [
        (name, row.key, row.shape, row.hook or "its result", row.about)
        for name, row in NAMES.items()
    ]


@pytest.mark.parametrize("body", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_the_python_runs(body):
    if "gpt2lab.train" in body:
        pytest.importorskip("torch")
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(compile(body, "inside.md", "exec"), {})
    assert shown.getvalue()
