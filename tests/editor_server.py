"""A server of the bundled model for the tests of the editor: `gpt2lab serve` in a process."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager


class Calls:
    """What the server says of itself."""

    def __init__(self, base: str) -> None:
        self._base = base

    @property
    def running(self) -> int:
        """How many rows wait or run."""
        with urllib.request.urlopen(self._base + "metrics") as answer:
            text = answer.read().decode()
        return int(float(re.search(r'^gpt2lab_rows\{model="fable"\} (\S+)$', text, re.M)[1]))


@contextmanager
def serving() -> Iterator[tuple[str, Calls]]:
    """The address of the server, and what it says of itself."""
    command = [sys.executable, "-m", "gpt2lab", "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stderr.readline, "")
        told = next((line for line in lines if "listening on" in line), None)
        assert told, "the server did not begin to listen"
        threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()
        base = told.split()[-1]
        yield base, Calls(base)
    finally:
        process.terminate()
        process.wait(60)
        process.stderr.close()
