"""The way of a prompt through the package is as short, and as the README lists it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import gpt2lab

from .support import ROOT

PACKAGE = Path(gpt2lab.__file__).parent


def passed(call) -> list[str]:
    """The files of the package whose functions run in a call, in the order of first entry."""
    found: dict[str, None] = {}

    def enter(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            found[path.relative_to(PACKAGE).with_suffix("").as_posix()] = None

    before = sys.getprofile()
    sys.setprofile(enter)
    try:
        call()
    finally:
        sys.setprofile(before)
    return list(found)


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_one_token_passes_the_files_that_the_readme_lists(readme):
    """A token once passed 21 files. A first call fills the tables of the model, a first load keeps
    the vocabulary that the second reads."""
    gpt2lab.load(engine="numpy")
    lm = gpt2lab.load(engine="numpy")
    lm.generate("A", max_new_tokens=1)
    files = passed(lambda: lm.generate("Once upon a time", max_new_tokens=1))
    text = (ROOT / readme).read_text(encoding="utf-8")
    listed = re.findall(r"`([a-z_/]+)`", text[text.index("test_path.py") :].split("[bpe.py]")[0])
    assert files == listed
    assert len(files) <= 20
