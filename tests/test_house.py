"""The house: imports go down, importing is cheap, the library neither prints nor parses."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from .support import ROOT

PACKAGE = ROOT / "gpt2lab"

#: Lowest floor first. A file imports only from lower floors, or from its own room.
FLOORS = [
    {"errors", "forks", "__version__"},
    {"files"},
    {"tokenizer_config"},
    {"wordpiece"},
    {"config", "vocabulary", "merges"},
    {"checks", "library"},
    {"tokenizer"},
    {"reference", "cache", "bpe"},
    {"engines"},
    {"generation"},
    {"score", "weights"},
    {"lens"},
    {"lm"},
    {"chat", "train", "evals"},
    {"server"},
    {"commands"},
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def room(path: Path) -> str:
    """The room that a file stands in: its module, or the package it is part of."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms that a file imports from, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "gpt2lab":
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "gpt2lab" and len(parts) > 1:
                    found.add(parts[1])
    return found


FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).as_posix() not in ("__init__.py", "__main__.py")
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_only_go_down(path):
    here = room(path)
    for other in imports(path) - {here}:
        assert other in FLOOR, f"{path.name} imports {other}, which stands on no floor"
        assert FLOOR[other] < FLOOR[here], (
            f"{path.name} imports {other} from a floor that is not lower"
        )


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if room(path) != "commands"],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_the_library_neither_prints_nor_parses_arguments(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input", "exit"), f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & PARSERS
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            assert (node.module or "").split(".")[0] not in PARSERS


PARSERS = {"argparse", "click", "rich"}


def test_weights_have_no_circles():
    """Within the largest room too, imports at the top of files go one way."""
    arrows = {}
    for path in sorted((PACKAGE / "weights").glob("*.py")):
        names = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module == "gpt2lab.weights":
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= set(node.module.removeprefix("gpt2lab.weights.").split(".")[:1])
        arrows[path.stem] = names
    done: set[str] = set()
    while len(done) < len(arrows):
        ready = {name for name, to in arrows.items() if to & set(arrows) <= done} - done
        assert ready, f"a circle among {sorted(set(arrows) - done)}"
        done |= ready


HEAVY = ["torch", "transformers", "tensorflow", "numba", "starlette", "uvicorn", "gradio", "jax"]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_gpt2lab_imports_nothing_heavy():
    code = f"import sys, gpt2lab; print([m for m in {[*HEAVY, 'fastokens']} if m in sys.modules])"
    assert run(code) == "[]"


def test_writing_a_text_imports_no_framework():
    code = (
        "import sys, gpt2lab; gpt2lab.load().generate('Once', max_new_tokens=2, seed=0);"
        f"print([m for m in {[*HEAVY, 'tokenizers', 'huggingface_hub']} if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_every_public_word_can_be_fetched():
    import gpt2lab

    for name in gpt2lab.__all__:
        assert getattr(gpt2lab, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        gpt2lab.lod  # noqa: B018
