"""The arithmetic that was measured fastest, remembered on disk for the next run of the same shape.

One small JSON file in the user's cache folder for each processor, torch, shape of model and batch,
and set of open settings; `probe` measures. Without torch, so that `gpt2lab models` can list them.
"""

from __future__ import annotations

import hashlib
import json
import platform
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from gpt2lab.errors import Failure, InputError
from gpt2lab.files.io import contents
from gpt2lab.files.json_files import checked_keys, parse_json
from gpt2lab.files.kept import cache_folder, keep
from gpt2lab.train.config import ARITHMETIC, TrainConfig

MOST = 1 << 18  # bytes of all that is remembered

Choice = dict[str, str]  # a value for each name of ARITHMETIC


@cache
def processor() -> str:
    """The name of the processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def file_of(*key: object) -> Path | None:
    """Where the answer to this question is remembered; None where there is no place for it."""
    digest = hashlib.sha256(repr((processor(), *key)).encode()).hexdigest()
    with suppress(Failure):
        return cache_folder("training") / f"{digest[:40]}.json"
    return None


def _read(file: Path) -> tuple[Choice, dict[str, Any]]:
    """The choice in a file, and all of its values; InputError for a file that is none of ours."""
    values = parse_json(contents(file, MOST), str(file))
    checked_keys(values, str(file), dict.fromkeys(("processor", "shape", "why"), (str,)))
    chosen = checked_keys(values.get("chosen"), str(file), dict.fromkeys(ARITHMETIC, (str,)))
    if chosen.keys() != set(ARITHMETIC) or "auto" in chosen.values():
        raise InputError(f"{file} holds another choice than of {', '.join(ARITHMETIC)}")
    replace(TrainConfig(), **chosen)  # raises InputError for an unknown value
    return chosen, values


def recall(file: Path | None, settings: TrainConfig) -> tuple[Choice, str] | None:
    """What was chosen and why; None where it is missing, damaged or not what the settings allow."""
    with suppress(InputError):
        if file is not None:
            chosen, values = _read(file)
            if all(getattr(settings, name) in ("auto", chosen[name]) for name in ARITHMETIC):
                return chosen, values["why"]
    return None


def remember(file: Path | None, shape: str, chosen: Choice, why: str) -> None:
    """Keep a choice. shape: of model and batch, in words. Without a place nothing happens."""
    if file is not None:
        values = {"processor": processor(), "shape": shape, "chosen": chosen, "why": why}
        keep(file, json.dumps(values).encode(), most=MOST)


def listing() -> list[str]:
    """A line for each choice that is remembered for this processor, the latest first."""
    try:
        found = [(p.stat().st_mtime, p) for p in cache_folder("training").glob("*.json")]
    except (Failure, OSError):
        return []
    lines: dict[str, None] = {}
    for _, file in sorted(found, reverse=True):
        with suppress(InputError):
            chosen, values = _read(file)
            if values["processor"] == processor():
                lines[f"{values['shape']}: {in_words(chosen)}"] = None
    return list(lines)


def in_words(chosen: Choice) -> str:
    """A choice in one line; the float32 product matters in float32 alone."""
    product = f" by {chosen['matmul']}" if chosen["dtype"] == "float32" else ""
    return f"{chosen['dtype']}{product}, attention {chosen['attention']}, loss {chosen['loss']}"
