"""The README tells the truth: its commands are run, its transcript compared, its links followed."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys

import pytest

from .support import FABLE, ROOT

NAMES = ("README.md", "README.zh-CN.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
TEXT = TEXTS["README.md"]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [body for name, body in BLOCKS if name == kind]


def gpt2lab(command: str, **options) -> subprocess.CompletedProcess[str]:
    """Run a line that begins with gpt2lab, with this Python."""
    words = shlex.split(command)
    assert words[0] == "gpt2lab"
    return subprocess.run(
        [sys.executable, "-m", "gpt2lab", *words[1:]],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)},
        check=False,
        **options,
    )


def transcript() -> list[tuple[str, str]]:
    """(command, what it printed) of every console block."""
    found = []
    for body in blocks("console"):
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            found.append((command, printed.rstrip("\n")))
    return found


@pytest.mark.parametrize(("command", "printed"), transcript(), ids=lambda text: text[:40])
def test_the_transcript_is_real(command, printed, tmp_path):
    done = gpt2lab(command, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    words, numbers = split_numbers(done.stdout.rstrip("\n"))
    expected_words, expected = split_numbers(printed)
    assert words == expected_words
    assert numbers == pytest.approx(expected, rel=1e-4)  # another processor rounds otherwise


def split_numbers(text: str) -> tuple[str, list[float]]:
    """A text with its decimal fractions taken out, and these."""
    fractions = r"-?\d+\.\d+"
    return re.sub(fractions, "#", text), [float(x) for x in re.findall(fractions, text)]


def test_both_languages_show_the_same_code():
    """So that what is run for one page holds for the other."""
    [english, chinese] = [
        re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL) for text in TEXTS.values()
    ]
    assert chinese == english
    [english, chinese] = [re.findall(r"^#+ ", text, re.MULTILINE) for text in TEXTS.values()]
    assert chinese == english


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short_and_its_tree_exists(name):
    assert TEXTS[name].count("\n") < 210
    [tree] = re.findall(r"```\ngpt2lab/\n(.*?)```", TEXTS[name], re.DOTALL)
    parts = re.findall(r"(?<=  )[\w.]+(?:/|\.py)(?= )", tree)
    assert len(parts) == 12
    assert all((ROOT / "gpt2lab" / part).exists() for part in parts)


def test_the_first_command_prints_text():
    [line] = [
        line for body in blocks("sh") for line in body.splitlines() if "pip install . &&" in line
    ]
    done = gpt2lab(line.split("&&")[1].strip(), stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and len(done.stdout.split()) > 10 and done.stderr == ""


def test_the_test_command_is_a_target():
    assert "make test" in TEXT
    assert re.search(r"^test:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_commands_for_one_s_own_checkpoint_work(tmp_path):
    lines = [line for body in blocks("sh") for line in body.splitlines() if "path/to/it" in line]
    assert len(lines) == 2
    for line in lines:
        done = gpt2lab(
            line.replace("path/to/it", str(FABLE)), cwd=tmp_path, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, done.stderr


def test_the_python_runs():
    for body in blocks("python"):
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec(compile(body, "README.md", "exec"), {})
        assert shown.getvalue().count("\n") >= 3


def test_every_link_leads_somewhere():
    for name in (
        *NAMES,
        "CONTRIBUTING.md",
        *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
    ):
        text = (ROOT / name).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert ((ROOT / name).parent / link).exists(), f"{name}: {link}"


@pytest.mark.parametrize("name", NAMES)
def test_the_table_of_commands_is_the_program_s(name):
    from gpt2lab.commands import VERBS

    assert re.findall(r"^\| `gpt2lab (\w+)` \|", TEXTS[name], re.MULTILINE) == list(VERBS)
