"""How far the preparing of a folder is, so that the same call continues after any interruption.

What is safe on the disk is described in `progress.json`, which is replaced whole. A file of texts
that has changed since it was read takes everything back to where it began.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gpt2lab.corpus.documents import TextFile
from gpt2lab.corpus.manifest import VERSION
from gpt2lab.corpus.shard_file import Mark
from gpt2lab.errors import InputError
from gpt2lab.files.atomic import sync, write_whole
from gpt2lab.files.file_facts import known_sha256
from gpt2lab.files.io import accessing
from gpt2lab.files.json_files import checked_keys, read_json

log = logging.getLogger(__name__)

PROGRESS = "progress.json"  # in a folder that is being prepared, beside no manifest


class Position(NamedTuple):
    """A place between two documents: file and documents done of it, and what is written."""

    file: int = 0
    documents: int = 0
    characters: int = 0
    train: Mark = Mark()
    val: Mark = Mark()

    @classmethod
    def of(cls, values: Sequence[Any]) -> Position:
        """Restore a position from JSON."""
        file, documents, characters, train, val = values
        return cls(file, documents, characters, Mark(*train), Mark(*val))


@dataclass
class FileEntry:
    """A file of texts that was begun. start: where everything stood then.

    documents, found: how many it has and what else was seen in it, once it is read.
    """

    name: str
    bytes: int
    sha256: str
    split: str
    documents: int = 0
    found: dict[str, Any] = field(default_factory=dict)
    start: Position = field(default_factory=Position)

    def is_still(self, split: str, file: TextFile) -> bool:
        """Whether the file is the one that was read."""
        if (self.name, self.bytes, self.split) != (file.name, file.size, split):
            return False
        return self.sha256 == known_sha256(file.path)


@dataclass
class PrepareLog:
    """What is done. settings: what the shards depend on besides the texts.

    vocabulary: its sha256, what it was learned from, and the limit of what is held out.
    at: up to here everything is safe on the disk.
    """

    folder: Path
    settings: dict[str, Any]
    vocabulary: dict[str, Any] = field(default_factory=dict)
    entries: list[FileEntry] = field(default_factory=list)
    at: Position = field(default_factory=Position)

    @classmethod
    def read(cls, folder: Path) -> PrepareLog | None:
        """Read the log of a folder; None, with a warning, where it is damaged."""
        path = folder / PROGRESS
        kinds = {"settings": (dict,), "vocabulary": (dict,), "entries": (list,), "at": (list,)}
        try:
            values = checked_keys(read_json(path), str(path), {**kinds, "version": (int,)})
            at = Position.of(values["at"])
            entries = [
                FileEntry(**{**entry, "start": Position.of(entry["start"])})
                for entry in values["entries"]
            ]
            if values["version"] != VERSION or len(entries) < at.file:
                raise InputError("of another version, or a file is missing")
        except (InputError, ValueError, KeyError, TypeError):
            log.warning("%s: damaged; everything is prepared from the beginning", path)
            return None
        return cls(folder, values["settings"], values["vocabulary"], entries[: at.file + 1], at)

    def save(self) -> None:
        """Write the log; it is safe on the disk when this returns."""
        path = self.folder / PROGRESS
        values = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_whole(path, json.dumps({"version": VERSION, **values}) + "\n")
        with accessing(path, "written"):
            sync(path)

    def take_back(self, files: Sequence[tuple[str, TextFile]]) -> None:
        """Forget what was made of files that have changed, and of those after them."""
        for number, entry in enumerate(self.entries):
            if number >= len(files) or not entry.is_still(*files[number]):
                log.warning(
                    "%s has changed since; it and what follows it is read again", entry.name
                )
                self.at, self.entries = entry.start, self.entries[:number]
                return

    def restart(self) -> None:
        """Forget everything that was made of the texts."""
        self.entries, self.at = [], Position()
