"""Make conversations of the speech in stories, as scripts of two speakers that `chat` continues.

    python runs/dialogues.py STORIES... --out dialogues.txt

STORIES: texts whose documents end with a line `<|endoftext|>`. Where paragraphs in a row are mostly
speech, what is said in each becomes a line, by You and by Friend in turn; who speaks and what they
do meanwhile is left out.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

END = "<|endoftext|>"
SPEAKERS = ("You", "Friend")
SPEECH = re.compile(r'"([^"\n]+)"')
SHARE = 0.5  # of a paragraph's letters that are speech, so that little of the sense is outside it
LONGEST = 300  # characters of a line
FEWEST = 2  # lines of a conversation


def line_of(paragraph: str) -> str | None:
    """What is said in a paragraph, as one line; None if it is mostly no speech."""
    line = ""
    for part in SPEECH.findall(paragraph):
        if line.endswith(",") and part[:1].isupper():
            line = line[:-1] + "."  # where "said she" stood
        line = f"{line} {part.strip()}".strip()
    if len(line) < SHARE * len(paragraph) or len(line) > LONGEST or paragraph.count('"') % 2:
        return None
    if not line[:1].isupper():
        return None
    return line[:-1] + "." if line.endswith(",") else line


def conversations(document: str) -> Iterator[list[str]]:
    """The rows of at least FEWEST paragraphs with speech."""
    row: list[str] = []
    for paragraph in [*document.split("\n\n"), ""]:
        line = line_of(" ".join(paragraph.split()))
        if line is not None:
            row.append(line)
            continue
        if len(row) >= FEWEST:
            yield row
        row = []


def script(lines: list[str]) -> str:
    """The lines by the speakers in turn."""
    return "\n".join(f"{SPEAKERS[i % 2]}: {line}" for i, line in enumerate(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stories", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found = [
        script(row)
        for path in given.stories
        for document in path.read_text("utf-8").split(END)
        for row in conversations(document)
    ]
    given.out.write_text("".join(f"{text}\n{END}\n" for text in found), "utf-8")
    print(f"{given.out}: {len(found):,} conversations")


if __name__ == "__main__":
    main()
