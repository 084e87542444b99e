"""What `compress` and `decompress` share: bytes from a file or a pipe and to one, and a bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2lab.commands.options import check_target
from gpt2lab.compression.streams import Watch
from gpt2lab.errors import InputError
from gpt2lab.files.atomic import write_whole
from gpt2lab.files.io import accessing, check_regular

SUFFIX = ".g2z"


def read_bytes(source: str) -> bytes:
    """The bytes of a file, or of standard input for "-"."""
    if source == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("standard input is a terminal or closed; give a file, or pipe one in")
        return sys.stdin.buffer.read()
    path = Path(source)
    with accessing(path):
        check_regular(path)
        return path.read_bytes()


def check_output(target: str, force: bool) -> None:
    """InputError for a place that bytes cannot be written to, before hours of work."""
    if target != "-":
        check_target(target, force)
    elif sys.stdout.isatty():
        raise InputError("compressed data are no text for a terminal; name a file by --out")


def write_bytes(target: str, data: bytes, force: bool) -> None:
    """Write a file whole or not at all; "-" is standard output."""
    if target == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_whole(check_target(target, force), data)


@contextmanager
def token_bar(what: str) -> Iterator[Watch]:
    """A bar on stderr at a terminal, for a number of tokens that grows."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit=" tokens", unit_scale=True, leave=False) as bar:

        def watch(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield watch
