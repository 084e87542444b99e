"""What was read, in a few lines for people: kinds, columns, line ends, marks, encoding, a sample.

Most ways in which a text is spoiled show here at a glance: the index column of a table, a first
text that was taken for a header, an end token that is only letters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gpt2lab.corpus.documents.finding import counted
from gpt2lab.corpus.documents.reading import SIGNS, Findings, Reading
from gpt2lab.errors import few
from gpt2lab.files.visible import shown

_KINDS = {"text": "text", "csv": "CSV", "jsonl": "JSON lines", "parquet": "parquet"}
_NAMES = {sign: name for name, sign in SIGNS.items()}


def _files(found: Sequence[Findings], documents: int, left: Counter[str]) -> str:
    kinds = Counter(_KINDS[each.kind] for each in found)
    each = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    line = f"read {len(found)} file{'s' * (len(found) != 1)} ({each}), documents: {documents:,}"
    if left:
        line += f"; left out for their names: {counted(left)} (name a file to have it read)"
    return line


def _where(each: Findings, reading: Reading) -> str:
    """Where the texts of a table, or of JSON lines, stand."""
    kind = "field" if each.kind == "jsonl" else "column"
    names = " and ".join(shown(repr(name[:40])) for name in each.columns)
    line = f"{kind}{'s' * (len(each.columns) > 1)} {names}"
    if len(each.columns) > 1:
        line += f", joined by {reading.separator!r}"
    if len(each.among) > 1:
        line += f", of {few(shown(repr(name[:40])) for name in each.among)}"
    if each.kind != "csv":
        return line
    line += f"; header in line {each.header}" if each.header else "; no header"
    line += f", delimiter {_NAMES.get(each.delimiter, each.delimiter)}" if each.delimiter else ""
    return line + (f"; {each.uncut} rows with delimiters taken whole" if each.uncut else "")


def _tables(found: Sequence[Findings], reading: Reading) -> list[str]:
    """One line for all tables; most are alike."""
    ways = Counter(_where(each, reading) for each in found if each.columns)
    if not ways:
        asked = reading.columns or reading.field
        return [f"no table and no JSON: {', '.join(asked)} is not looked for"] if asked else []
    [(most, number), *others] = ways.most_common()
    line = f"texts are in {most}" + (f", in {number} files" if others else "")
    if others:
        line += f"; in {sum(count for _, count in others)} more otherwise, as in {others[0][0]}"
    return [line]


def _line_ends(found: Sequence[Findings], reading: Reading) -> list[str]:
    windows, mac = sum(each.windows for each in found), sum(each.mac for each in found)
    kinds = [f"{windows:,} of Windows (\\r\\n)"] if windows else []
    kinds += [f"{mac:,} \\r alone"] if mac else []
    if not kinds:
        return []
    done = "are kept" if reading.keep_line_ends else "became \\n; --keep-line-ends leaves them"
    return [f"line ends: {' and '.join(kinds)} {done}"]


def _names(found: Sequence[Findings], reading: Reading) -> list[str]:
    """How often names of special tokens occur in texts, and what they are taken for."""
    counts: Counter[str] = Counter()
    for each in found:
        counts.update(each.names)
    if not counts:
        return []
    there = few(f"{name} {number:,} times" for name, number in counts.most_common())
    if reading.allow_special:
        return [f"in the texts stand {there}, each as its token"]
    ways = "--allow-special makes them tokens"
    if set(counts) & set(reading.ends):
        ways = f"--split-at-end-token ends a document at each end token, {ways}"
    return [f"in the texts stand {there}, as plain letters; {ways}"]


def _encodings(found: Sequence[Findings]) -> list[str]:
    names = Counter(each.encoding for each in found if each.kind != "parquet")
    repaired = sum(each.repaired for each in found)
    if set(names) <= {"utf-8"} and not repaired:
        return []
    more = f"; {repaired:,} characters could not be read and are \ufffd" if repaired else ""
    return [f"encoding: {', '.join(names)}{more}"]


def report(
    found: Sequence[Findings], documents: int, left: Counter[str], reading: Reading
) -> list[str]:
    """What was read, in at most six lines. left: files of folders that were not, by extension."""
    first = next((each.first for each in found if each.first), "")
    return [
        _files(found, documents, left),
        *_tables(found, reading),
        *_line_ends(found, reading),
        *_names(found, reading),
        *_encodings(found),
        f"the first document begins {shown(repr(first))}",
    ]
