"""`python -m benchmarks` runs all of them, one after the other."""

from __future__ import annotations

import runpy
import sys

NAMES = (
    "start",
    "inference",
    "sampling",
    "scoring",
    "compression",
    "training",
    "looking",
    "quality",
    "tokenizers",
)

for name in NAMES:
    print(f"\n== {name}", flush=True)
    sys.argv = [f"benchmarks.{name}"]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
