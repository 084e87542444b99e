"""The fast engine and its peers side by side: speed, first token, memory, and ratios to our goals.

GPT-2 124M's shape with random weights, greedy, two threads. Each contender runs in a fresh process,
all of them in turn, several times over; medians. How fast memory can be read is measured beside
each of them. The model is made once and converted for each peer (about 4 GB, see --work).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.inference import model
from benchmarks.inference.cases import CASES
from benchmarks.inference.contenders import CONTENDERS, missing, module
from benchmarks.inference.goals import RATIOS, SHARES

ROOT = Path(__file__).parents[2]

INSTALLS = """\
Peers are optional; one that is not installed is left out, with a line. In the environment that runs
this (for torch take a CPU build):

  transformers   pip install torch transformers
  ctranslate2    pip install ctranslate2 transformers torch        (the last two for the conversion)
  onnxruntime    pip install onnxruntime onnx onnx-ir             (onnx-ir for int8)
  openvino       pip install openvino nncf                         (nncf for int8)
  llama.cpp      CMAKE_ARGS=-DGGML_NATIVE=ON pip install gguf llama-cpp-python \\
                     --no-binary llama-cpp-python

examples:
  python -m benchmarks.inference
  python -m benchmarks.inference --only gpt2lab openvino --cases decode32 batch8 --runs 1
  python -m benchmarks.inference --check          is it the same model that they all compute?
"""

Found = dict[str, list[dict[str, float]]]


def environment(threads: int) -> dict[str, str]:
    """Ours, without what this machine may tell OpenBLAS about itself."""
    env = {
        k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    }
    one = {"OPENBLAS_NUM_THREADS": "1"}  # NumPy's only; `bandwidth` brings threads of its own
    return {**env, **one, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


def child(options: argparse.Namespace, module: str, *arguments: str) -> Any:
    """The last line of a fresh process, as JSON; RuntimeError with its last words if it fails."""
    run = subprocess.run(
        [sys.executable, "-m", f"benchmarks.inference.{module}", *arguments],
        cwd=ROOT,
        env=environment(options.threads),
        capture_output=True,
        text=True,
    )
    if run.returncode:
        words = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
        raise RuntimeError(words[-1])
    return json.loads(run.stdout.strip().splitlines()[-1])


def warm(options: argparse.Namespace, name: str) -> None:
    """Read the contender's files, so that its first token does not wait for the disk."""
    place = module(name).place(options.work / "model", options.work, CONTENDERS[name].precision)
    for path in [place, *place.rglob("*")]:
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass


def one(options: argparse.Namespace, verb: str, name: str, cases: list[str]) -> Any:
    """One contender in a fresh process; "first" becomes seconds from the process's start."""
    where = [str(options.work / "model"), str(options.work)]
    start = time.time()
    result = child(options, "one", verb, name, *where, str(options.threads), *cases)
    return {**result, "first": result["first"] - start} if "first" in result else result


def ready(options: argparse.Namespace) -> list[str]:
    """The contenders asked for that are installed, each with its files made."""
    names = []
    for name in CONTENDERS:
        if options.only and not any(name.startswith(only) for only in options.only):
            continue
        if lacks := missing(name):
            print(f"{name}: left out, no {', '.join(lacks)}", flush=True)
            continue
        try:
            one(options, "prepare", name, [])
        except RuntimeError as error:
            print(f"{name}: left out, {error}", flush=True)
            continue
        names.append(name)
    return names


def compare(options: argparse.Namespace, names: list[str]) -> Found:
    """All runs of all contenders, in turn."""
    found: Found = {name: [] for name in names}
    for run in range(options.runs):
        for name in names:
            if len(found[name]) < run:
                continue  # it failed before
            if sys.stderr.isatty():
                print(f"\r{run + 1}/{options.runs} {name:24}", end="", file=sys.stderr, flush=True)
            warm(options, name)
            try:
                found[name].append(one(options, "measure", name, options.cases))
            except RuntimeError as error:
                print(f"\r{name}: left out, {error}", flush=True)
    if sys.stderr.isatty():
        print(f"\r{'':32}\r", end="", file=sys.stderr, flush=True)
    return {name: runs for name, runs in found.items() if runs}


def median(found: Found, name: str, key: str) -> float:
    """The median over the runs."""
    return statistics.median(run[key] for run in found[name])


def show(options: argparse.Namespace, found: Found) -> None:
    """Tokens a second, and what else was measured of each contender."""
    limits = [run["GB/s"] for runs in found.values() for run in runs if "GB/s" in run]
    if limits:
        low, middle, high = min(limits), statistics.median(limits), max(limits)
        print(f"\nmemory was read at {middle:.0f} GB/s by {options.threads} threads", end=" ")
        print(f"({low:.0f} to {high:.0f} beside one or the other)")
    print("\ntokens a second:\n")
    heads = [CASES[case].title for case in options.cases]
    print(f"{'':22}" + "".join(f"{h:>17}" for h in heads) + "  of limit  first, s  peak, MB")
    for name in found:
        speeds = "".join(f"{median(found, name, case):17.1f}" for case in options.cases)
        text = f"{median(found, name, 'share'):10.0%}" if limits else f"{'':10}"
        first, most = median(found, name, "first"), median(found, name, "peak")
        print(f"{name:22}{speeds}{text}{first:10.2f}{most:10.0f}")


def judge(options: argparse.Namespace, found: Found) -> list[dict[str, Any]]:
    """A row for each goal whose two sides were measured: by the medians, and by the best runs."""
    rows: list[dict[str, Any]] = []
    for precision, case, peer, wanted in RATIOS:
        ours = f"gpt2lab {precision}"
        if case in options.cases and ours in found and peer in found:
            top = [max(run[case] for run in found[name]) for name in (ours, peer)]
            row: dict[str, Any] = {"goal": f"{precision} {CASES[case].title} / {peer}"}
            row |= {"wanted": wanted, "best": top[0] / top[1]}
            row["measured"] = median(found, ours, case) / median(found, peer, case)
            rows.append(row)
    for precision, wanted in SHARES.items():
        ours = f"gpt2lab {precision}"
        if "decode32" in options.cases and ours in found:
            best = max(run["share"] for run in found[ours])
            row = {"goal": f"{precision} {CASES['decode32'].title}, share of the memory's limit"}
            row |= {"wanted": wanted, "measured": median(found, ours, "share"), "best": best}
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference",
        description=__doc__,
        epilog=INSTALLS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=3, help="processes of each contender; 3")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"names or beginnings of: {', '.join(CONTENDERS)}"
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=CASES,
        default=list(CASES),
        metavar="CASE",
        help=f"some of {', '.join(CASES)}",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--work",
        type=Path,
        default=model.default_folder(),
        metavar="DIR",
        help="where the models are kept; a folder in the user's cache",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to a file")
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare each one's logits with the reference's instead of the speed",
    )
    options = parser.parse_args()
    options.work = options.work.resolve()
    if not (options.work / "model").exists():
        print("making the model", flush=True)
    model.prepare(options.work)
    names = ready(options)
    if options.check:
        print("logits after a prompt: distance from the reference in standard deviations")
        for name in names:
            try:
                far = one(options, "check", name, [])
            except RuntimeError as error:
                print(f"{name:22} {error}")
                continue
            print(f"{name:22} usual {far['usual']:.5f}, largest {far['largest']:.5f}")
        return
    found = compare(options, names)
    if not found:
        return
    show(options, found)
    rows = judge(options, found)
    if rows:
        print(f"\n{'goal':56} wanted  measured  best runs")
    for row in rows:
        reached = "reached" if row["measured"] >= row["wanted"] else ""
        numbers = f"{row['wanted']:6.2f} {row['measured']:9.2f} {row['best']:10.2f}"
        print(f"{row['goal']:56} {numbers}  {reached}")
    if options.json:
        result = {"runs": found, "goals": rows}
        options.json.write_text(json.dumps(result, indent=1), "utf-8")


if __name__ == "__main__":
    main()
