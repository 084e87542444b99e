"""Training and its peers side by side: tokens a second, memory, and ratios to our goals.

Random tokens, models from scratch, two threads. Each contender runs in a fresh process, all of them
in turn, several rounds; the speed of a round is the median of its steps after the first few, that
of a contender the median of its rounds. nanoGPT is written anew in plain torch; `+kept` is a peer
whose C library was told to keep freed memory, as gpt2lab tells its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.training.cases import CASES
from benchmarks.training.contenders import CONTENDERS, USUAL, missing
from benchmarks.training.goals import MEMORY, OURS, RATIOS

ROOT = Path(__file__).parents[2]
WARM = 4  # steps that are not counted: the first ones compile, and ask for memory

INSTALLS = """\
Peers are optional; one that is not installed is left out, with a line:

  pip install torch transformers accelerate      (for torch take a CPU build)

torch.compile needs a C++ compiler. All of it takes about an hour on two cores.

examples:
  python -m benchmarks.training
  python -m benchmarks.training --cases e --rounds 5 --contenders gpt2lab nanogpt
"""

Found = dict[str, dict[str, list[dict[str, Any]]]]  # case -> contender -> rounds


def environment(threads: int) -> dict[str, str]:
    """Ours, without what this machine may tell OpenBLAS about itself."""
    unwanted = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    env = {key: value for key, value in os.environ.items() if key not in unwanted}
    return {**env, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


def child(options: argparse.Namespace, case: str, name: str) -> dict[str, Any]:
    """One round of a contender; RuntimeError with its last words if it fails."""
    steps = str(WARM + 1 + (options.steps or CASES[case].steps))
    arguments = [name, case, steps, str(options.threads)]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.training.one", *arguments],
        cwd=ROOT,
        env=environment(options.threads),
        capture_output=True,
        text=True,
    )
    if run.returncode:
        words = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
        raise RuntimeError(words[-1])
    found: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return {**found, "speed": statistics.median(found["tokens_per_second"][WARM:])}


def ready(options: argparse.Namespace) -> list[str]:
    """The contenders asked for that are installed."""
    names = []
    for name in options.contenders:
        if lacks := missing(name):
            print(f"{name}: left out, no {', '.join(lacks)}", flush=True)
        else:
            names.append(name)
    return names


def compare(options: argparse.Namespace, case: str, names: list[str]) -> dict[str, Any]:
    """All rounds of all contenders of a case, in turn."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names:
            if len(found[name]) < number:
                continue  # it failed before
            if sys.stderr.isatty():
                text = f"{case} {number + 1}/{options.rounds} {name}"
                print(f"\r{text:40}", end="", file=sys.stderr, flush=True)
            try:
                found[name].append(child(options, case, name))
            except RuntimeError as error:
                print(f"{name}: left out, {error}", flush=True)
    if sys.stderr.isatty():
        print(f"\r{'':40}\r", end="", file=sys.stderr, flush=True)
    return {name: rounds for name, rounds in found.items() if rounds}


def speed(rounds: list[dict[str, Any]]) -> float:
    """Tokens a second: the median over the rounds."""
    return float(statistics.median(found["speed"] for found in rounds))


def peak(rounds: list[dict[str, Any]]) -> float:
    """The most memory, MB: the median over the rounds."""
    return float(statistics.median(found["peak"] for found in rounds))


def show(case: str, found: dict[str, Any]) -> None:
    """A line for each contender of a case."""
    print(f"\n{case}: {CASES[case].title}\n")
    print(f"{'':24} tokens/s   slowest to fastest round  peak, MB     loss   gpt2lab is x")
    for name, rounds in found.items():
        speeds = [one["speed"] for one in rounds]
        line = f"{name:24}{speed(rounds):9,.0f}{min(speeds):14,.0f} to{max(speeds):9,.0f}"
        line += f"{peak(rounds):10,.0f}{rounds[0]['losses'][-1]:9.3f}"
        ratio = f"{speed(found[OURS]) / speed(rounds):15.2f}" if OURS in found else ""
        print(line + ratio, flush=True)


def judge(found: Found) -> list[dict[str, Any]]:
    """A row for each goal whose sides were measured."""
    rows: list[dict[str, Any]] = []
    for case, of_case in found.items():
        if OURS not in of_case:
            continue
        ours = of_case[OURS]
        for peer, wanted in RATIOS[case].items():
            if peer in of_case:
                measured = speed(ours) / speed(of_case[peer])
                row = {"goal": f"{case}: times {peer}", "wanted": wanted, "measured": measured}
                rows.append({**row, "met": measured >= wanted})
        if case in MEMORY:
            row = {"goal": f"{case}: MB at most", "wanted": MEMORY[case], "measured": peak(ours)}
            rows.append({**row, "met": peak(ours) <= MEMORY[case]})
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        epilog=INSTALLS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes of each contender; 3")
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=CASES,
        default=list(CASES),
        metavar="CASE",
        help="; ".join(f"{name}: {case.title}" for name, case in CASES.items()),
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=USUAL,
        metavar="NAME",
        help=f"some of {', '.join(CONTENDERS)}",
    )
    parser.add_argument("--steps", type=int, help="steps that are timed; by default the case's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round to a file")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    names = ready(options)
    found: Found = {}
    for case in options.cases:
        found[case] = compare(options, case, names)
        show(case, found[case])
    rows = judge(found)
    if rows:
        print(f"\n{'goal':40} wanted  measured")
    for row in rows:
        met = "met" if row["met"] else "not met"
        print(f"{row['goal']:40}{row['wanted']:7,.2f}{row['measured']:10,.2f}  {met}")
    if options.json:
        result = {"cases": found, "goals": rows}
        options.json.write_text(json.dumps(result, indent=1), "utf-8")


if __name__ == "__main__":
    main()
