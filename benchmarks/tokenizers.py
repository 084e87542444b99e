"""Tokenizer speed against the peers: `python -m benchmarks.tokenizers [FILE]`.

Each measurement is the first pass over 6 MB of English in a fresh process on one core, so nothing
is warm but the loaded vocabulary; encoders take turns, and the median of the runs counts. All get
the same vocabulary, the bundled one; all ids must be equal. `--pieces 10000` hands the text over
in documents of that many characters, which some encoders like better than one long string.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZE = 6_000_000
ROOT = Path(__file__).parents[1]
CORPUS = ROOT.parent / "shared" / "data" / "corpus_en"
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

Encode = Callable[[str], Any]


def text_to_encode(file: str | None) -> bytes:
    """6 MB: the file given, else the English corpus, else the sentences of this repository."""
    if file:
        return Path(file).read_bytes()[:SIZE]
    files = sorted(CORPUS.glob("books/*.txt")) or sorted(ROOT.rglob("*.md"))
    files = files or sorted(ROOT.rglob("*.py"))
    data = b"\n".join(path.read_bytes() for path in files)
    return (data * (SIZE // len(data) + 1))[:SIZE]


def ours() -> Encode:
    from gpt2lab.text.tokenizer import official

    official().encode("a")  # the vocabulary is loaded at the first use
    return official().encode_array


def ours_list() -> Encode:
    from gpt2lab.text.tokenizer import official

    official().encode("a")
    return official().encode


def tiktoken() -> Encode:
    import tiktoken as peer

    from gpt2lab.text.tokenizer import official

    ranks = {official().token_bytes(token): token for token in range(50256)}
    encoding = peer.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    return encoding.encode_ordinary


def tokenizers() -> Encode:
    from tokenizers import Tokenizer

    from gpt2lab.text.tokenizer import official

    with tempfile.TemporaryDirectory() as folder:
        official().save(folder)
        peer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    peer.encode_special_tokens = True
    return lambda text: peer.encode(text).ids


def transformers() -> Encode:
    from transformers import AutoTokenizer

    from gpt2lab.text.tokenizer import official

    with tempfile.TemporaryDirectory() as folder:
        official().save(folder)
        peer = AutoTokenizer.from_pretrained(folder, model_max_length=1 << 40)
    return lambda text: peer(text, split_special_tokens=True)["input_ids"]


ENCODERS: dict[str, Callable[[], Encode]] = {
    "gpt2lab encode_array": ours,
    "gpt2lab encode": ours_list,
    "tiktoken": tiktoken,
    "tokenizers": tokenizers,
    "transformers": transformers,
}


def measure(name: str, file: str, size: int) -> dict[str, Any]:
    """One first pass in this process: seconds, and a checksum of the ids."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    text = Path(file).read_bytes().decode("utf-8", "ignore")
    pieces = [text[i : i + size] for i in range(0, len(text), size)] if size else [text]
    encode = ENCODERS[name]()
    start = time.perf_counter()
    found = [encode(piece) for piece in pieces]
    seconds = time.perf_counter() - start
    ids = [int(token) for piece in found for token in piece]
    checksum = zlib.crc32(",".join(map(str, ids)).encode())
    return {"seconds": seconds, "tokens": len(ids), "checksum": checksum}


def in_fresh_process(name: str, file: str, size: int) -> dict[str, Any]:
    """The measurement in a new interpreter. One thread for all, whatever the peers would take."""
    one = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "benchmarks.tokenizers", file, "--only", name]
    command += ["--pieces", str(size)]
    run = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **one}, capture_output=True, text=True, check=True
    )
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def compare(data: bytes, runs: int, size: int) -> list[dict[str, Any]]:
    """A row per encoder that is installed: median MB/s, all runs, ids equal to ours."""
    names = [n for n in ENCODERS if importlib.util.find_spec(n.split()[0]) is not None]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text"
        file.write_bytes(data)
        for _ in range(runs):
            for name in names:
                found[name].append(in_fresh_process(name, str(file), size))
    expected = found[names[0]][0]["checksum"]
    rows = []
    for name, results in found.items():
        speeds = [len(data) / 1e6 / result["seconds"] for result in results]
        rows.append(
            {
                "encoder": name,
                "MB/s": round(statistics.median(speeds), 2),
                "runs": [round(speed, 2) for speed in speeds],
                "tokens": results[0]["tokens"],
                "same ids": all(result["checksum"] == expected for result in results),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokenizers", description=__doc__)
    parser.add_argument("file", nargs="?", help="a UTF-8 text; its first 6 MB are used")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pieces", type=int, default=0, help="characters per call, 0 for all")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=ENCODERS, help="measure one encoder in this process")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.file, options.pieces)))
        return
    rows = compare(text_to_encode(options.file), max(1, options.runs), options.pieces)
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'encoder':22} {'MB/s':>8} {'tokens':>9}  same ids  runs")
    for row in rows:
        same = "yes" if row["same ids"] else "NO"
        print(f"{row['encoder']:22} {row['MB/s']:8} {row['tokens']:9}  {same:8}  {row['runs']}")


if __name__ == "__main__":
    main()
