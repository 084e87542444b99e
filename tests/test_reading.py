"""The lesson on GPT-2's source tells the truth: all that both pages show is run again."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys

import pytest

from gpt2lab import reference

from . import lesson
from .support import ROOT

TEXTS = {page.name: page.read_text(encoding="utf-8") for page in lesson.PAGES}
ENGLISH, CHINESE = TEXTS.values()
PARTS = lesson.parts(ENGLISH)

#: The functions of the official model.py in their order; its shape_list is an array's own shape.
OFFICIAL = [
    "softmax gelu norm split_states merge_states conv1d attention_mask",
    "attn.split_heads attn.merge_heads attn.mask_attn_weights attn.multihead_attn attn",
    "mlp block past_shape expand_tile positions_for model",
]


@pytest.fixture(scope="module")
def found() -> list[str]:
    """What the parts give now."""
    return lesson.run(PARTS)


@pytest.mark.parametrize("name", TEXTS)
def test_all_that_a_page_shows_is_what_running_gives(name, found):
    assert not lesson.differences(TEXTS[name], found), "make docs writes them anew"


def test_both_pages_hold_the_same_parts_in_the_same_order():
    assert lesson.codes(CHINESE) == lesson.codes(ENGLISH)
    for fence in ("sh", "text"):
        assert len(fenced(ENGLISH, fence)) == len(fenced(CHINESE, fence))
    assert fenced(ENGLISH, "sh") == fenced(CHINESE, "sh")
    assert levels(ENGLISH) == levels(CHINESE)


def test_there_is_enough_of_each_kind():
    """A page whose marks are misspelt would have nothing to be wrong."""
    kinds = [part.kind for part in PARTS]
    assert kinds.count("session") == ENGLISH.count("```pycon") > 20
    assert kinds.count("source") == ENGLISH.count("<!-- source:") == ENGLISH.count("```python") > 15
    assert kinds.count("value") == ENGLISH.count("<!-- =") > 30
    assert kinds.count("claim") == ENGLISH.count("<!-- holds:") > 10
    assert ENGLISH.count("<!--") == sum(kind != "session" for kind in kinds)


@pytest.mark.parametrize("name", TEXTS)
def test_no_number_stands_in_a_sentence_by_itself(name):
    assert lesson.loose_digits(TEXTS[name]) == []


def test_every_function_of_the_official_file_is_quoted_in_its_order():
    quoted = [part.code.removesuffix(" less inner") for part in PARTS if part.kind == "source"]
    assert quoted == " ".join(OFFICIAL).split()
    everything = inspect.getsource(reference)
    for part in PARTS:
        if part.kind == "source":
            lines = {line.strip() for line in part.shown.splitlines() if "# here: " not in line}
            assert lines <= {line.strip() for line in everything.splitlines()}
            ast.parse(part.shown)


# ---- The checker itself.


def doctored(shown: str) -> list[str]:
    """What is shown, with the first digit of each of its numbers changed in its turn."""
    return [
        shown[: m.start()] + str((int(m[0]) + 1) % 10) + shown[m.start() + 1 :]
        for m in re.finditer(r"(?<![\d.,])\d", shown)
    ]


def test_every_changed_number_is_found(found):
    tried = 0
    for part, now in zip(PARTS, found, strict=True):
        if part.kind == "session":
            code = {f"{mark} {line}" for line in part.code.splitlines() for mark in (">>>", "...")}
            lines = part.shown.splitlines()
            places = [i for i, line in enumerate(lines) if line not in code]
        else:
            lines, places = [part.shown], [0]
        for i in places:
            for changed in doctored(lines[i]):
                tried += 1
                text = "\n".join([*lines[:i], changed, *lines[i + 1 :]])
                text += "\n" if part.kind == "session" else ""
                assert not lesson.same(text, now), (part.line, changed)
    assert tried > 500


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("There are 10<!--", "There are 11<!--"),
        ("return ex / np.sum(ex,", "return ex / np.max(ex,"),
        ("`' Max'`<!--", "`' Tom'`<!--"),
        ("' cat', ' dogs'", "' cow', ' dogs'"),
    ],
)
def test_a_doctored_page_is_found_and_mended(old, new, found):
    page = ENGLISH.replace(old, new, 1)
    assert page != ENGLISH
    [difference] = lesson.differences(page, found)
    line = page[: page.index(new)].count("\n") + 1
    assert difference.startswith(f"line {line}: ")
    assert lesson.filled(page, found) == ENGLISH


def test_what_another_processor_rounds_otherwise_is_the_same():
    assert lesson.same("a 0.3912 of 10", "a 0.3913 of 10")
    assert not lesson.same("a 0.391 of 10", "a 0.392 of 10")
    assert not lesson.same("10 and 1,725", "10 and 1,726")
    assert not lesson.same("0.5", "-0.5")


def test_a_false_claim_is_found():
    page = lesson.parts("Two is more than three<!-- holds: 2 > 3 -->.")
    assert [part.kind for part in page] == ["claim"]
    assert lesson.run(page) == ["False"]
    assert lesson.differences("so<!-- holds: 2 > 3 -->", ["False"]) == [
        "line 1: 2 > 3 is 'False', the page shows 'True'"
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "It has 6 layers.",
        "有 6 层。",
        "a share of `0.25` here",
        "see `[1, 10]`",
        "10x",
        "- 7 heads",
    ],
)
def test_a_number_that_nothing_makes_is_found(sentence):
    assert len(lesson.loose_digits(sentence)) >= 1


@pytest.mark.parametrize(
    "sentence",
    [
        "6<!-- = {c.n_layer} --> layers",
        "`ln_1` and conv1d of GPT-2 (Olsson et al. 2022)",
        "## 3. gelu",
        "2. a list",
        "[a paper](https://arxiv.org/abs/1706.03762)",
        "```text\n10\n```\n",
    ],
)
def test_a_number_that_is_made_or_names_something_is_free(sentence):
    assert lesson.loose_digits(sentence) == []


# ---- Links and commands.


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_somewhere(name):
    links = re.findall(r"\]\(([^)]+)\)", TEXTS[name])
    assert len(links) > 10
    for link in links:
        file, _, anchor = link.partition("#")
        if file.startswith("https://"):
            continue
        assert not file or (lesson.DOCS / file).exists(), link
        if anchor:
            assert anchor in anchors(TEXTS[file or name]), link


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", plain, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def fenced(text: str, kind: str) -> list[str]:
    """The bodies of the fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def levels(text: str) -> list[str]:
    """The headings without their words."""
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^(#+ (?:\d+\.)?)", plain, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "command", [line for body in fenced(ENGLISH, "sh") for line in body.splitlines()]
)
def test_the_commands_run(command, tmp_path):
    words = shlex.split(command)
    assert words[0] == "gpt2lab"
    done = subprocess.run(
        [sys.executable, "-m", "gpt2lab", *words[1:]],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 20


def test_make_docs_is_a_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^docs:.*\n\t.*-m tests\.lesson$", makefile, re.MULTILINE)
