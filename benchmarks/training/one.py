"""One contender in a process of its own; `__main__` starts it and reads its last line, JSON.

`python -m benchmarks.training.one NAME CASE STEPS THREADS`
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise

from benchmarks.inference.one import peak
from benchmarks.training.cases import CASES
from benchmarks.training.contenders import CONTENDERS, module
from gpt2lab.train import machine


def main() -> None:
    name, case, steps, threads = sys.argv[1:]
    if CONTENDERS[name].kept and not machine.keep_memory():
        raise RuntimeError("this C library cannot be told to keep freed memory")
    train = module(name).train
    trained = train(CASES[case], int(steps), int(threads), **CONTENDERS[name].options)
    speeds = [CASES[case].tokens_a_step / (b - a) for a, b in pairwise(trained.times)]
    result = {"tokens_per_second": speeds, "peak": peak(), "losses": trained.losses}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
