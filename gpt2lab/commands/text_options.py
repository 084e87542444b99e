"""How texts are read: the flags that `prepare`, `train` and `finetune` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gpt2lab.commands.options import unescape

#: What the flags say, by the names of `prepare`'s arguments.
READING = (
    "columns", "field", "separator", "encoding", "delimiter", "header", "lines", "keep_line_ends",
    "split_at_end_token", "allow_special",
)  # fmt: skip


def reading_options(function: Any) -> Any:
    """How texts of other kinds than plain UTF-8 are read."""
    for option in (
        click.option(
            "--allow-special",
            is_flag=True,
            default=None,
            help="Names of special tokens in the texts are these tokens, not letters.",
        ),
        click.option(
            "--split-at-end-token",
            is_flag=True,
            default=None,
            help="A document ends at each <|endoftext|>, in a line too.",
        ),
        click.option(
            "--keep-line-ends",
            is_flag=True,
            default=None,
            help="Keep \\r\\n and \\r; by default both become \\n.",
        ),
        click.option(
            "--lines", is_flag=True, default=None, help="Each line of a text file is a document."
        ),
        click.option(
            "--header/--no-header",
            default=None,
            help="Whether the first row of a CSV names its columns.  [by its looks]",
        ),
        click.option(
            "--delimiter", metavar="SIGN", help="Of a CSV: one character, or tab.  [found]"
        ),
        click.option(
            "--encoding",
            metavar="NAME",
            help="Of the texts; utf-8:replace mends damaged ones.  [utf-8]",
        ),
        click.option(
            "--separator", metavar="TEXT", help="Between several columns or fields.  [\\n]"
        ),
        click.option(
            "--field",
            multiple=True,
            metavar="NAME",
            help="Of JSON lines: what is the text.  [text, or prompt and completion]",
        ),
        click.option(
            "--column",
            "columns",
            multiple=True,
            metavar="NAME",
            help="Of tables: what is the text, by name or number from 1.  [as for --field]",
        ),
    ):
        function = option(function)
    return function


def reading_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's flags that were given and are about reading texts."""
    given = {name: flags[name] for name in READING if flags[name] not in (None, ())}
    if "separator" in given:
        given["separator"] = unescape(given["separator"])
    return given
