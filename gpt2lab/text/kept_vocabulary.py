"""Large vocabularies that were read and checked before, kept in the user's cache folder.

A tokenizer.json of 50,257 tokens takes 0.15 s to parse and check, more than all else of a start.
What is kept is packed (`packed_vocabulary`) and found by the identity of every file that was or
would have been read, and of the code that read them; a file that is damaged is made again.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt2lab import __version__
from gpt2lab.errors import Failure, InputError
from gpt2lab.files.file_facts import SETTLED
from gpt2lab.files.io import Identity, check_regular, identity
from gpt2lab.files.kept import cache_folder, keep
from gpt2lab.text.packed_vocabulary import Names, packed, unpacked
from gpt2lab.text.tokenizer_config import Settings, Spec

MOST = 64 << 20  # bytes of all; one of GPT-2's size has 1.3 million
LEAST = 1000  # tokens; smaller ones are read as fast
#: Every file in a folder that may decide what a vocabulary is.
BESIDE = (
    *("tokenizer.json", "vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "vocab.txt"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "config.json"),
)
_CODE = ("kept_vocabulary", "packed_vocabulary", "tokenizer_config", "tokenizer_json", "vocabulary")
_HEAD = struct.Struct("<32sI")  # sha256 of what follows, bytes of the JSON

Files = dict[str, Identity | None]


def files_of(path: Path) -> Files:
    """The files that the vocabulary at a path depends on, as they are now; None for a missing one.

    Empty where the system does not tell.
    """
    try:
        folder = path if path.is_dir() else path.parent
        names = BESIDE if path.is_dir() else (*BESIDE, path.name)
        files = {name: folder / name for name in names}
        return {name: identity(file) if file.exists() else None for name, file in files.items()}
    except (OSError, ValueError):  # InputError is one of these
        return {}


def _file(path: Path, files: Files) -> Path:
    digest = hashlib.sha256()
    for name in _CODE:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    asked = "" if path.is_dir() else path.name  # one of the files, or all that is in a folder
    digest.update(repr((__version__, sys.version, asked, sorted(files.items()))).encode())
    return cache_folder("vocabularies") / f"{digest.hexdigest()[:40]}.bin"


def recall(path: Path, files: Files) -> tuple[Spec, Settings, list[str]] | None:
    """The checked vocabulary at a path, with settings and notes; None where none is kept.

    files: `files_of` the path.
    """
    try:
        file = _file(path, files)
        if not _HEAD.size < check_regular(file) <= MOST:
            return None
        raw = file.read_bytes()
        digest, size = _HEAD.unpack_from(raw)
        if hashlib.sha256(raw[_HEAD.size :]).digest() != digest:
            return None
        spec, settings, notes = json.loads(raw[_HEAD.size : _HEAD.size + size])
        vocab, merges = unpacked(raw[_HEAD.size + size :])
    except (OSError, InputError, Failure):
        return None
    spec["model"] |= {"vocab": vocab, "merges": merges}
    return spec, settings, notes


def remember(path: Path, files: Files, spec: Spec, settings: Settings, notes: list[str]) -> None:
    """Keep a checked vocabulary for the next process. Where that is not possible, nothing happens.

    files: `files_of` the path from before it was read; one that has changed since, or might within
    a tick of its clock, is not kept.
    """
    model = spec["model"]
    if len(model["vocab"]) < LEAST or isinstance(model["vocab"], Names):
        return
    with suppress(OSError, InputError, Failure):
        times = [max(file.mtime_ns, file.ctime_ns) for file in files.values() if file]
        if not times or max(times) > time.time_ns() - SETTLED * 1e9 or files_of(path) != files:
            return
        rest: dict[str, Any] = {**spec, "model": {**model, "vocab": None, "merges": None}}
        text, data = json.dumps([rest, settings, notes]), packed(model["vocab"], model["merges"])
        if data is None or json.loads(text) != [rest, settings, notes]:
            return
        body = text.encode() + data
        keep(
            _file(path, files),
            _HEAD.pack(hashlib.sha256(body).digest(), len(text)),
            body,
            most=MOST,
        )
