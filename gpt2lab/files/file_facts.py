"""What an earlier process found out about large files, so that the next need not read them whole.

That all numbers of a model are finite, say, and its sha256. It is kept in a small JSON file in the
user's cache folder, under the identity of the files (`files.identity`): one that is changed,
replaced or moved is unknown again. The JSON may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt2lab import __version__
from gpt2lab.errors import Failure, InputError
from gpt2lab.files.atomic import write_whole
from gpt2lab.files.io import Identity, contents, file_sha256, identity
from gpt2lab.files.kept import cache_folder

WORTH = 32 << 20  # bytes; less is read faster than remembered
LARGEST = 1 << 20  # bytes of the JSON; another file is none of ours
ENTRIES = 64  # sets of files; the oldest goes
SETTLED = 2.0  # seconds; a younger file may change again within one tick of its clock


def _store() -> Path:
    return cache_folder("known") / "files.json"


def _entries() -> dict[str, Any]:
    """Everything that is known; nothing where the file is missing, damaged or out of reach."""
    try:
        values = json.loads(contents(_store(), LARGEST))
    except (Failure, OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _key(files: Sequence[Identity]) -> str:
    """One name for a set of files as they are, and for the code that looked at them."""
    return hashlib.sha256(json.dumps([__version__, sorted(files)]).encode()).hexdigest()


def _are_known(files: Sequence[Identity]) -> bool:
    """Whether the files are large enough, and still those that were looked at."""
    with suppress(InputError):  # one has gone
        same = all(identity(Path(file.path)) == file for file in files)
        return same and sum(file.size for file in files) >= WORTH
    return False


def recall(files: Sequence[Identity], what: str) -> Any:
    """What is known of these files under a name; None when nothing is."""
    entry = _entries().get(_key(files)) if _are_known(files) else None
    return entry.get(what) if isinstance(entry, dict) else None


def remember(files: Sequence[Identity], what: str, value: Any) -> None:
    """Keep a plain value for the next process. Where that is not possible, nothing happens.

    files: as they were before they were read; if they have changed since, nothing is kept.
    """
    with suppress(InputError, Failure, OSError):
        latest = max(max(file.mtime_ns, file.ctime_ns) for file in files)
        if latest > time.time_ns() - SETTLED * 1e9 or not _are_known(files):
            return
        entries, key = _entries(), _key(files)
        entry = entries.pop(key, {})
        entries[key] = {**(entry if isinstance(entry, dict) else {}), what: value}
        kept = dict(list(entries.items())[-ENTRIES:])
        write_whole(_store(), json.dumps(kept, indent=1) + os.linesep)


def known_sha256(path: Path) -> str:
    """Return the sha256 of a file, remembered for a large one as long as the file is the same."""
    files = (identity(path),)
    found = recall(files, "sha256")
    if not isinstance(found, str):
        found = file_sha256(path)
        remember(files, "sha256", found)
    return found
