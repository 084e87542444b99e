"""What a first use costs: `python -m benchmarks.start`.

Seconds from nothing to the end of a text with the bundled model, milliseconds of `import gpt2lab`
beyond numpy, and the size of what is installed beside it. Each run is a fresh process.
"""

from __future__ import annotations

import importlib.metadata
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import gpt2lab

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
            if "extra ==" not in need:
                todo.append(need.split(";")[0].split("[")[0].strip(" ()<>=!~.0123456789,"))
    return sizes


def seconds(command: list[str], runs: int = 7) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    write = [sys.executable, "-m", "gpt2lab", "generate", "Once upon a time", "--seed", "1"]
    imports = [
        float(
            subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True).stdout
        )
        for _ in range(7)
    ]
    sizes = installed()
    rows = {
        "first text, 128 tokens, s": round(seconds(write), 2),
        "gpt2lab --help, s": round(seconds([*write[:3], "--help"]), 2),
        "import gpt2lab beyond numpy, ms": round(1000 * statistics.median(imports), 1),
        "core and its dependencies, MB": round(sum(sizes.values()) / 1e6, 1),
    }
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
