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


_OPTIONS = (
    click.option(
        "--allow-special",
        is_flag=True,
        default=None,
        help="Encode the names of special tokens in the texts as these tokens, not as plain text.",
    ),
    click.option(
        "--split-at-end-token",
        is_flag=True,
        default=None,
        help="Start a new document after each <|endoftext|>, also within a line.",
    ),
    click.option(
        "--keep-line-ends",
        is_flag=True,
        default=None,
        help="Keep the line ends \\r\\n and \\r; by default both become \\n.",
    ),
    click.option(
        "--lines",
        is_flag=True,
        default=None,
        help="Take each line of a text file as a document.",
    ),
    click.option(
        "--header/--no-header",
        default=None,
        help="Whether the first row of a CSV file names the columns.  [detected]",
    ),
    click.option(
        "--delimiter",
        metavar="CHAR",
        help="Delimiter of CSV files, a character or tab.  [detected]",
    ),
    click.option(
        "--encoding",
        metavar="NAME",
        help="Encoding of the texts; utf-8:replace accepts invalid bytes.  [utf-8]",
    ),
    click.option(
        "--separator", metavar="TEXT", help="Text between several columns or fields.  [\\n]"
    ),
    click.option(
        "--field",
        multiple=True,
        metavar="NAME",
        help="Field of JSON lines with the text. Can be repeated.  [text, or prompt and "
        "completion]",
    ),
    click.option(
        "--column",
        "columns",
        multiple=True,
        metavar="NAME",
        help="Column of CSV and parquet files with the text, a name or a number from 1. "
        "Can be repeated.  [as for --field]",
    ),
)


def reading_options(function: Any) -> Any:
    """How texts of other kinds than plain UTF-8 are read."""
    for option in _OPTIONS:
        function = option(function)
    return function


def reading_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's flags that were given and are about reading texts."""
    given = {name: flags[name] for name in READING if flags[name] not in (None, ())}
    if "separator" in given:
        given["separator"] = unescape(given["separator"])
    return given
