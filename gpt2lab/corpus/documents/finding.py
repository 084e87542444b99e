"""Which files: paths, folders and patterns as a list of files that hold text."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from gpt2lab.corpus.documents.reading import TextFile
from gpt2lab.errors import InputError
from gpt2lab.files.io import accessing

log = logging.getLogger(__name__)

#: What a name says of a text; all others are plain text.
KINDS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
#: What is taken of a folder; a file of another name has to be named.
IN_FOLDERS = (".txt", ".text", ".md", ".markdown", *KINDS, ".parquet")
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
_STRANGE = {  # first bytes -> what it is
    b"PK\x03\x04": "a zip file, as .docx, .odt and .epub are; unpack it, or save it as text",
    b"%PDF": "a PDF; save its text as .txt",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it, or compress it by gzip",
    b"BZh": "compressed by bzip2; unpack it, or compress it by gzip",
    b"\xfd7zXZ": "compressed by xz; unpack it, or compress it by gzip",
}


def _suffix(path: Path) -> str:
    """The extension, that of what is inside for name.ext.gz."""
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return inner.suffix.lower()


def _in_folder(folder: Path, leave_out: Path | None, left: Counter[str]) -> Iterator[Path]:
    """The texts in a folder and the folders in it, in the order of their names; none hidden."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (here / name).resolve() != leave_out
        )
        for name in sorted(files):
            if name.startswith("."):
                continue
            suffix = _suffix(Path(name))
            if suffix in IN_FOLDERS:
                yield here / name
            else:
                left[suffix or "without an extension"] += 1


def counted(left: Counter[str]) -> str:
    """Files that are left out, by their extensions: 3 .html, 1 .pdf."""
    first = left.most_common(5)
    some = [f"{count} {suffix}" for suffix, count in first]
    more = left.total() - sum(count for _, count in first)
    return ", ".join(some + [f"{more} others"] * (more > 0))


def _files(given: str, leave_out: Path | None, left: Counter[str]) -> Iterator[Path]:
    """The files that one word of the command line names."""
    path = Path(given)
    if path.is_dir():
        found = list(_in_folder(path, leave_out, left))
        if not found:
            there = f"; there are {counted(left)}" if left else ""
            looked = f"looked for {', '.join(IN_FOLDERS)}, also .gz"
            raise InputError(f"{given}: no texts in this folder; {looked}{there}")
        yield from found
    elif not os.path.lexists(path) and glob.has_magic(given):
        names = sorted(glob.glob(given, recursive=True))  # noqa: PTH207
        if not names:
            raise InputError(f"{given}: no file matches this pattern; check it and its folder")
        for each in map(Path, names):
            yield from _in_folder(each, leave_out, left) if each.is_dir() else [each]
    else:
        yield path


def _text_file(path: Path) -> TextFile:
    """What a file is; InputError for one that holds no text."""
    if not path.is_file():
        what = "is no ordinary file" if os.path.lexists(path) else "there is no such file"
        raise InputError(f"{path}: {what}; give text files, folders or patterns")
    with accessing(path), path.open("rb") as opened:
        head, size, suffix = opened.read(8), opened.seek(0, os.SEEK_END), _suffix(path)
    if head.startswith(PARQUET):
        return TextFile(path, str(path), "parquet", False, size)
    for mark, what in _STRANGE.items():
        if head.startswith(mark):
            raise InputError(f"{path}: no text but {what}")
    if suffix in (".json", ".parquet") and size:
        wanted = "JSON lines (.jsonl), one object a line" if suffix == ".json" else "a parquet file"
        raise InputError(f"{path}: its name says {suffix}; expected {wanted}")
    return TextFile(path, str(path), KINDS.get(suffix, "text"), head.startswith(GZIP), size)


def text_files(
    paths: Iterable[Path | str], leave_out: Path | None = None, left: Counter[str] | None = None
) -> list[TextFile]:
    """The files behind paths, folders and patterns, each once, in the order given.

    leave_out: a folder that is not looked into. Files without a byte are left out too, with a
    warning. left: counts the files of folders that are left out for their names, by extension.
    Raises InputError when nothing is left, for what is missing, and for files that are no text.
    """
    found: dict[Path, TextFile] = {}
    empty: list[str] = []
    left = Counter() if left is None else left
    leave_out = leave_out.resolve() if leave_out else None
    for given in paths:
        for path in _files(str(given), leave_out, left):
            file = _text_file(path)
            if not file.size:
                empty.append(file.name)
            elif path.resolve() in found:
                log.warning("%s is named twice; it is read once", path)
            else:
                found[path.resolve()] = file
    if not found:
        named = ", ".join(empty) or "no files"
        raise InputError(f"{named}: empty; give at least one file with text in it")
    for name in empty:
        log.warning("%s is empty; it is left out", name)
    return list(found.values())
