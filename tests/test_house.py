"""The house: imports go down, nothing is too long, importing is cheap, no output, no parsing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from .support import ROOT

PACKAGE = ROOT / "gpt2lab"

#: Lowest floor first. A file imports only from lower floors, or from its own room.
FLOORS = [
    {"errors", "forks", "__version__"},
    {"checks", "aliases"},
    {"files"},
    {"config", "pages"},
    {"text"},
    {"activations", "cache", "init"},
    {"reference"},
    {"engines"},
    {"generation"},
    {"score", "weights"},
    {"corpus", "lens"},
    {"records"},
    {"lm"},
    {"chat", "compression", "evals", "train"},
    {"server"},
    {"commands"},
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}

FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).as_posix() not in ("__init__.py", "__main__.py")
}
ROOMS = sorted({name.split(".")[0] for name, path in FILES.items() if path.parent != PACKAGE})


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules(node: ast.AST) -> list[str]:
    """The modules of the package that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return []
    names = [name.removeprefix("gpt2lab.") for name in names if name.startswith("gpt2lab.")]
    return [name if name in FILES else name.rpartition(".")[0] or name for name in names]


@cache
def imports(name: str) -> frozenset[str]:
    """The modules of the package that a module imports, wherever the import stands."""
    return frozenset(other for node in ast.walk(tree(FILES[name])) for other in modules(node))


def room(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("name", FILES)
def test_imports_only_go_down(name):
    here = room(name)
    for other in {room(other) for other in imports(name)} - {here}:
        assert other in FLOOR, f"{name} imports {other}, which is on no floor"
        assert FLOOR[other] < FLOOR[here], f"{name} imports {other} from a floor that is not lower"


#: Files that import each other through a lazy import, with the reason.
CIRCLES: dict[str, str] = {}


@pytest.mark.parametrize("place", ROOMS)
def test_no_room_has_a_circle_inside(place):
    """Lazy imports count too: two of them once hid a circle in training and one in the lens."""
    files = {name for name in FILES if room(name) == place} - CIRCLES.keys()
    done: set[str] = set()
    while done < files:
        ready = {name for name in files - done if imports(name) & files - {name} <= done}
        assert ready, f"a circle among {sorted(files - done)}"
        done |= ready


#: Files of more than 400 lines, with the reason.
LONG_FILES: dict[str, str] = {}
#: Functions of more than 60 lines, with the reason.
LONG_FUNCTIONS: dict[str, str] = {}


@pytest.mark.parametrize("name", FILES)
def test_no_file_has_more_than_400_lines(name):
    length = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert (length > 400) == (name in LONG_FILES), f"{name} has {length} lines"


def test_no_function_has_more_than_60_lines():
    long = set()
    for name in FILES:
        for node in ast.walk(tree(FILES[name])):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                long.add(f"{name}.{node.name}")
    assert long == LONG_FUNCTIONS.keys()


@pytest.mark.parametrize("name", [name for name in FILES if room(name) != "commands"])
def test_the_library_neither_prints_nor_parses_arguments(name):
    for node in ast.walk(tree(FILES[name])):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input", "exit"), f"{name}:{node.lineno}"
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & PARSERS
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively"
            assert (node.module or "").split(".")[0] not in PARSERS


PARSERS = {"argparse", "click", "rich"}


def test_every_library_that_is_imported_is_declared():
    """filelock and tqdm once came only because another library required them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.match(r"[\w-]+", line)[0].replace("-", "_") for lines in lists for line in lines}
    imported = set()
    for path in FILES.values():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    foreign = imported - sys.stdlib_module_names - {"gpt2lab", "llvmlite"}  # llvmlite: Numba's own
    assert foreign <= declared


HEAVY = [
    "torch",
    "transformers",
    "tensorflow",
    "numba",
    "starlette",
    "uvicorn",
    "msgspec",
    "gradio",
    "jax",
]


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


def test_no_two_classes_have_one_name():
    """In one traceback a `Step` was a part of training, in the next a line of a page."""
    named: dict[str, str] = {}
    for file in FILES:
        for node in tree(FILES[file]).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert node.name not in named, f"{node.name} in {named[node.name]} and {file}"
                named[node.name] = file
