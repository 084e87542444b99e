"""The files of benchmarks: found in a folder by their published names, counted and hashed."""

from __future__ import annotations

import bz2
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2lab.errors import InputError
from gpt2lab.files.io import accessing, check_regular, damaged, file_sha256


@dataclass(frozen=True)
class Published:
    """A file of a benchmark. names: that it goes by. sha256, count: as published, where known."""

    names: tuple[str, ...]
    sha256: str = ""
    count: int = 0


@dataclass(frozen=True)
class DataFile:
    """A file that was found, and how it differs from the published one, in words."""

    path: Path
    sha256: str
    differs: str = ""


def find(data: Path | None, published: Sequence[Published]) -> list[DataFile]:
    """The first of the published files that is in a folder, or in one below it; else none.

    data: the folder, or the file itself.
    """
    if data is None:
        return []
    if not data.exists():
        raise InputError(f"{data}: no such file or folder; give the folder of the data by --data")
    for kind in published:
        for name in kind.names:
            below = (
                [data] if data.is_file() else [*data.glob(name), *sorted(data.glob(f"*/{name}"))]
            )
            for path in below:
                if path.name == name and path.is_file():
                    return [_found(path, kind)]
    return []


def _found(path: Path, kind: Published) -> DataFile:
    digest = file_sha256(path)
    differs = kind.sha256 and digest != kind.sha256
    return DataFile(path, digest, f"{path.name} is not the published file" if differs else "")


def counted(found: DataFile, kinds: Sequence[Published], count: int) -> str:
    """How a file differs from the published one, the number of its items included."""
    [kind] = [kind for kind in kinds if found.path.name in kind.names]
    if kind.count and count != kind.count:
        return f"{found.path.name} has {count} items, the published file {kind.count}"
    return found.differs


def text_of(path: Path) -> str:
    """The text of a file, also of one compressed by bzip2; InputError for one that is not UTF-8."""
    with accessing(path):
        check_regular(path)
        data = path.read_bytes()
    try:
        data = bz2.decompress(data) if path.suffix == ".bz2" else data
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise damaged(path, f"is not a text in UTF-8 ({error})") from None


def records(path: Path, fields: Iterable[str]) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; InputError names the line that lacks a field."""
    found, fields = [], tuple(fields)
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise damaged(f"{path}, line {number}", "is no JSON object") from None
        missing = [f for f in fields if not isinstance(record, dict) or f not in record]
        if missing:
            raise damaged(f"{path}, line {number}", f"lacks {', '.join(missing)}")
        found.append(record)
    if not found:
        raise InputError(f"{path}: has no records; give the published file")
    return found
