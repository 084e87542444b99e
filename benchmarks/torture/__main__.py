"""The campaign: `python -m benchmarks.torture`, with `--tries 30` a large one.

Prints a table of kinds and outcomes, names each forbidden outcome on stderr, and ends with exit
code 1 if there was one. The same seed makes the same cases. Servers are no part of it yet.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads of the parent would not be forked

import gpt2lab

from . import files, interface, jobs

KINDS = (
    "weights",
    "pickles",
    "headers",
    "training",
    "records",
    "pages",
    "API",
    "commands",
    "places",
)


def cases(home: Path, kinds: list[str], tries: int, seed: int) -> Iterator[jobs.Case]:
    """The cases of these kinds; what they need is written into `home`."""
    lm = gpt2lab.load(engine="numpy")
    makers = {
        "weights": lambda chance: files.weights_cases(home, tries, chance),
        "pickles": lambda chance: files.pickle_cases(tries, chance),
        "headers": lambda chance: files.header_cases(),
        "training": lambda chance: files.training_cases(home, tries, chance),
        "records": lambda chance: interface.record_cases(lm, chance),
        "pages": lambda chance: interface.page_cases(lm),
        "API": lambda chance: interface.api_cases(lm, tries, chance),
        "commands": lambda chance: interface.command_cases(tries, chance),
        "places": lambda chance: interface.place_cases(),
    }
    for kind in kinds:
        yield from makers[kind](random.Random(f"{seed} {kind}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, default=5, help="of each damage by chance")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--workers", type=int, default=2)
    flags = parser.parse_args()
    began, results = time.monotonic(), []
    with tempfile.TemporaryDirectory() as home:
        for result in jobs.run(
            cases(Path(home), flags.kinds, flags.tries, flags.seed), flags.workers
        ):
            results.append(result)
            if result.outcome in jobs.FORBIDDEN:
                case = result.case
                print(
                    f"{result.outcome}: {case.kind}: {case.name}\n  {result.told}", file=sys.stderr
                )
    lines, is_good = jobs.table(results)
    print("\n".join(lines))
    print(f"\nseed {flags.seed}, {flags.tries} tries, {time.monotonic() - began:.0f} s")
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
