"""Documents, help, messages and docstrings use the terms of the field and no private words."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import click
import pytest

from gpt2lab import commands

from .support import ROOT

#: A private word as a pattern -> what to say.
INSTEAD = {
    r"likeliest": "most probable",
    r"short numbers": "reduced precision, quantization",
    r"broken off": "interrupted",
    r"goes on|went on|going on": "continues, is resumed",
    r"anew": "again, from the beginning",
    r"who(?:so|s)?ever": "anyone, each user",
    r"nobody": "no one, no token, no user",
    r"befell": "happened to",
    r"(?:is|are|was|were) (?:told|heard)": "is reported, logged, described",
    r"told (?:in|by|of|as|for|once)": "described, reported",
    r"stands? (?:on|in|at|behind|beside|before|there|under)": "is, depends on",
    r"so many (?!that)": "this many, the number",
    r"optimis(?:er|ers|ed)": "optimizer",
    r"quantis(?:e|ed|ation)": "quantize",
    r"a tuning run|tuning on": "fine-tuning",
}
PRIVATE = re.compile(rf"\b(?:{'|'.join(INSTEAD)})\b", re.IGNORECASE)

#: Not the lab book, which keeps its own words.
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "notes.md"),
    ROOT / "gpt2lab" / "assets" / "fable" / "README.md",
    ROOT / "runs" / "README.md",
]


def private(text: str) -> list[str]:
    """The private words of a text, each with the words around it."""
    text = " ".join(text.split())
    return [text[max(0, m.start() - 30) : m.end() + 30] for m in PRIVATE.finditer(text)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_use_the_terms_of_the_field(path):
    assert not private(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("verb", commands.VERBS)
def test_help_uses_the_terms_of_the_field(verb):
    context = click.Context(commands.group)
    command = commands.group.get_command(context, verb)
    assert not private(command.get_help(click.Context(command, context, verb)))


def prose(path: Path) -> str:
    """The comments, docstrings and messages of a file."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", None)}
    lines = io.StringIO(path.read_text(encoding="utf-8")).readline
    return "\n".join(
        token.string.lstrip("#: ")
        for token in tokenize.generate_tokens(lines)
        if token.type in kinds
    )


def rooms() -> list[Path]:
    """The rooms of the package and the files beside them."""
    return [path for path in sorted((ROOT / "gpt2lab").iterdir()) if path.name[0] != "_"]


@pytest.mark.parametrize("room", rooms(), ids=lambda room: room.name)
def test_the_package_uses_the_terms_of_the_field(room):
    files = sorted(room.rglob("*.py")) if room.is_dir() else [room]
    found = [
        f"{file.relative_to(ROOT)}: {words}"
        for file in files
        if file.suffix == ".py"
        for words in private(prose(file))
    ]
    assert not found
