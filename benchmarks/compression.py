"""Sizes and times of compression with the bundled model: `python -m benchmarks.compression`.

The first bytes of several texts, with `gpt2lab compress`, xz and zstd; every file is decompressed
and compared. With `--files N`, N random files of 0 to 100 kB (noise, few symbols, runs, text with
broken bytes) are compressed by a small random model, stored ones not allowed, and must come back.
"""

from __future__ import annotations

import argparse
import lzma
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import gpt2lab
from gpt2lab.compression import compress, decompress
from gpt2lab.config import Config
from gpt2lab.init import initialise
from gpt2lab.lm import LM
from gpt2lab.text.bpe import byte_symbols
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.weights import Checkpoint

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
TEXTS = {
    "held-out stories": "corpus_en/tinystories/test.txt",
    "books for children": "corpus_en/books/test.txt",
    "WikiText-2, raw test set": "wikitext2/wiki.test.raw",
    "Wikipedia as XML (enwik8)": "wiki_xml/enwik5",
    "Chinese stories": "corpus_zh/storybooks.txt",
    "a zlib file": "",
}


def zstd(data: bytes) -> int | None:
    """The size by the program zstd, None where it is not installed."""
    try:
        done = subprocess.run(["zstd", "-19", "-c"], input=data, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return len(done.stdout)


def table(count: int, dtype: str | None) -> None:
    """A row a text."""
    lm = gpt2lab.load(engine="cpu", dtype=dtype)
    print("| text | gpt2lab, bytes | bits per byte | xz | zstd | compress, s | decompress, s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, path in TEXTS.items():
        story = (DATA / TEXTS["held-out stories"]).read_bytes()
        data = (DATA / path).read_bytes()[:count] if path else lzma.compress(story)[:count]
        start = time.perf_counter()
        coded = compress(lm, data)
        middle = time.perf_counter()
        assert decompress(lm, coded) == data, name
        end = time.perf_counter()
        best = len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
        print(
            f"| {name} | {len(coded):,} | {8 * len(coded) / len(data):.3f} | {best:,} "
            f"| {zstd(data) or '?':,} | {middle - start:.1f} | {end - middle:.1f} |",
            flush=True,
        )


def small_model() -> LM:
    """One layer over the 256 bytes, with random weights."""
    vocab = {name: i for i, name in enumerate(byte_symbols())}
    tokenizer = Tokenizer.from_bpe(vocab | {"<|endoftext|>": 256}, [], {"<|endoftext|>": 256})
    config = Config(n_vocab=257, n_ctx=64, n_embd=16, n_head=2, n_layer=1, end_tokens=(256,))
    checkpoint = Checkpoint(config, initialise(config, 0), tokenizer, "huggingface")
    return LM(checkpoint, engine="cpu", name="small")


def random_files(count: int, seed: int = 0) -> None:
    """Files that must come back."""
    lm, random = small_model(), np.random.default_rng(seed)
    text = (DATA / TEXTS["Chinese stories"]).read_bytes()
    total, start = 0, time.perf_counter()
    for i in range(count):
        size = int(random.integers(0, 100_001))
        begin = int(random.integers(len(text)))
        kinds = (
            random.bytes(size),
            bytes(random.choice([0, 97, 255], size).astype(np.uint8)),
            bytes([int(random.integers(256))]) * size,
            (text[begin:] + text)[:size],
        )
        data = kinds[i % 4]
        coded = compress(lm, data, streams=1024, may_store=False)
        assert decompress(lm, coded) == data, (i, size)
        total += size
        if i % 50 == 49:
            print(
                f"{i + 1} files, {total:,} bytes, {time.perf_counter() - start:.0f} s", flush=True
            )


def main() -> None:
    """Parse arguments and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description=__doc__)
    parser.add_argument("--bytes", type=int, default=20_000, help="of each text")
    parser.add_argument("--dtype", help="of the bundled model")
    parser.add_argument("--files", type=int, default=0, help="random files that must come back")
    args = parser.parse_args()
    if args.files:
        random_files(args.files)
    else:
        table(args.bytes, args.dtype)


if __name__ == "__main__":
    sys.exit(main())
