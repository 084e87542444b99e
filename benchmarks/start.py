"""What a first use costs: `python -m benchmarks.start`.

Seconds from nothing to the end of a text with the bundled model, the first compilation on a
machine, the first token of the bundled model and of 124M (random weights, made in the folder of
`benchmarks.inference`) with the peak of memory, `import gpt2lab` beyond numpy, and the size of what
is installed beside it. Each run is a fresh process; the slowest start, a machine's first, is run in
a cache folder of its own.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gpt2lab

from .inference.model import default_folder, prepare

UNUSUAL = ("OPENBLAS_", "PYTHONDONTWRITEBYTECODE")  # settings that no user has, and that cost time
NAME = re.compile(r"[A-Za-z0-9._-]*[A-Za-z0-9]")  # what a requirement begins with
IMPORT = """
import time, numpy
start = time.perf_counter()
import gpt2lab
print(time.perf_counter() - start)
"""


def installed(root: str = "gpt2lab") -> dict[str, int]:
    """Bytes of each distribution that the core needs, by its own list of files."""
    sizes: dict[str, int] = {}
    todo = [root]
    while todo:
        name = todo.pop()
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system
        if found.name in sizes:
            continue
        paths = [Path(str(file.locate())) for file in found.files or []]
        if name == root:  # an editable install lists none of its files
            paths = list(Path(gpt2lab.__file__).parent.rglob("*"))
        sizes[found.name] = sum(path.stat().st_size for path in paths if path.is_file())
        for need in found.requires or []:
            if "extra ==" not in need and (named := NAME.match(need)):
                todo.append(named[0])
    return sizes


def usual(**more: str) -> dict[str, str]:
    """The environment of a process, as users have it."""
    return {k: v for k, v in os.environ.items() if not k.startswith(UNUSUAL)} | more


def seconds(command: list[str], runs: int = 7) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(
            command, check=True, capture_output=True, stdin=subprocess.DEVNULL, env=usual()
        )
        times.append(time.perf_counter() - start)
    return statistics.median(times)


FIRST = """
import sys, time
import gpt2lab
lm = gpt2lab.load(sys.argv[1] if sys.argv[1] else None, engine="cpu", dtype=sys.argv[2])
next(lm.stream("Once upon a time", max_new_tokens=2, temperature=0))
took = time.time() - float(sys.argv[3])
from benchmarks.inference.one import peak
print(took, peak())
"""


def first_token(model: str, dtype: str, runs: int = 5, **more: str) -> tuple[float, float]:
    """Seconds from nothing to the first token, and the peak of memory in MB; medians."""
    found = []
    for _ in range(runs):
        command = [sys.executable, "-c", FIRST, model, dtype, str(time.time())]
        run = subprocess.run(command, check=True, capture_output=True, text=True, env=usual(**more))
        found.append([float(word) for word in run.stdout.split()])
    return statistics.median(row[0] for row in found), statistics.median(row[1] for row in found)


def starts() -> dict[str, float]:
    """The first token on a new machine and on a warm one."""
    rows = {}
    with tempfile.TemporaryDirectory() as fresh:
        rows["first ever start with the cpu engine, s"] = first_token(
            "", "float32", 1, XDG_CACHE_HOME=fresh
        )[0]
    folder = default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in (("fable", ""), ("124M", str(prepare(folder)))):
        for dtype in ("float32", "bfloat16", "int8", "int4"):
            first_token(model, dtype, 1)  # compiles and packs
            seconds, peak = first_token(model, dtype)
            rows[f"{name} {dtype}: first token, s"] = seconds
            rows[f"{name} {dtype}: peak memory, MB"] = peak
    return {name: round(value, 2 if value < 100 else 0) for name, value in rows.items()}


def main() -> None:
    write = [sys.executable, "-m", "gpt2lab", "generate", "Once upon a time", "--seed", "1"]
    imports = [
        float(
            subprocess.run(
                [sys.executable, "-c", IMPORT], check=True, capture_output=True, env=usual()
            ).stdout
        )
        for _ in range(7)
    ]
    sizes = installed()
    compiler = sum(size for name, size in sizes.items() if name in ("numba", "llvmlite"))
    rows = {
        "first text, 128 tokens, s": round(seconds(write), 2),
        "gpt2lab --help, s": round(seconds([*write[:3], "--help"]), 2),
        "import gpt2lab beyond numpy, ms": round(1000 * statistics.median(imports), 1),
        "core and its dependencies, MB": round(sum(sizes.values()) / 1e6, 1),
        "of which numba and llvmlite, MB": round(compiler / 1e6, 1),
        **starts(),
    }
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
