"""How texts are read: the flags that `prepare`, `train` and `finetune` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gpt2lab.commands import headings
from gpt2lab.commands.options import unescape

#: What the flags say, by the names of `prepare`'s arguments.
READING = headings.READING["Reading texts"]

#: Switch -> help.
_SWITCHES = {
    "--lines": "Take each line of a text file as a document.",
    "--keep-line-ends": "Keep the line ends \\r\\n and \\r; by default both become \\n.",
    "--split-at-end-token": "Start a new document after each <|endoftext|>, also within a line.",
    "--allow-special": "Encode the names of special tokens in the texts as these tokens, not as "
    "plain text.",
}
#: Flag -> placeholder of its value, help.
_VALUES = {
    "--separator": ("TEXT", "Text between several columns or fields.  [\\n]"),
    "--encoding": ("NAME", "Encoding of the texts; utf-8:replace accepts invalid bytes.  [utf-8]"),
    "--delimiter": ("CHAR", "Delimiter of CSV files, a character or tab.  [detected]"),
}
_COLUMN = (
    "Column of CSV and parquet files with the text, a name or a number from 1. Can be repeated.  "
    "[as for --field]"
)
_FIELD = "Field of JSON lines with the text. Can be repeated.  [text, or prompt and completion]"
_HEADER = "Whether the first row of a CSV file names the columns.  [detected]"


def reading_options(function: Any) -> Any:
    """How texts of other kinds than plain UTF-8 are read."""
    options = [
        click.option("--column", "columns", multiple=True, metavar="NAME", help=_COLUMN),
        click.option("--field", multiple=True, metavar="NAME", help=_FIELD),
        click.option("--header/--no-header", default=None, help=_HEADER),
        *(click.option(flag, metavar=what, help=text) for flag, (what, text) in _VALUES.items()),
        *(click.option(flag, is_flag=True, default=None, help=h) for flag, h in _SWITCHES.items()),
    ]
    for option in options:
        function = option(function)
    return function


def reading_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's flags that were given and are about reading texts."""
    given = {name: flags[name] for name in READING if flags[name] not in (None, ())}
    if "separator" in given:
        given["separator"] = unescape(given["separator"])
    return given
