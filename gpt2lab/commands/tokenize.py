"""`gpt2lab tokenize`: text to tokens and back, in colour, merge by merge."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import (
    allowed,
    echo_json,
    given_text,
    printable,
    special_option,
    token_ids,
)
from gpt2lab.errors import InputError

if TYPE_CHECKING:
    from gpt2lab.text.tokenizer import Tokenizer

#: Backgrounds that alternate, so that neighbours can be told apart, also without full colour.
_COLOURS = ("blue", "magenta", "cyan", "green", "yellow")


@click.command(
    cls=Headed,
    headings={
        "Text": ("model", "file", "decode", "allow_special", "allow"),
        "Output": ("pieces", "steps", "as_json"),
        "Learning a vocabulary": ("learn", "vocab_size", "characters"),
    },
    epilog="""\b
Examples:
  gpt2lab tokenize "Hello, world" --model 124M
  gpt2lab tokenize "unbelievable" --steps
  gpt2lab tokenize --decode "7454 2402 257 640" --model 124M
  gpt2lab tokenize --learn my-vocabulary --vocab-size 8000 texts/*.txt

The token ids go to stdout; the text of each token is shown too at a terminal or with --pieces.""",
)
@click.argument("text", nargs=-1)
@click.option(
    "-m", "--model", metavar="MODEL", help="Model or vocabulary to use.  [the bundled model]"
)
@click.option("--file", metavar="PATH", help="Read the text from this file; - is standard input.")
@click.option("--decode", is_flag=True, help="Decode TEXT, which is token ids, and print the text.")
@click.option("--steps", is_flag=True, help="Show each merge of byte-pair encoding.")
@click.option(
    "--pieces", is_flag=True, help="Show the text of each token, in colour at a terminal."
)
@special_option
@click.option(
    "--allow",
    multiple=True,
    metavar="NAME",
    help="Encode this special token as such. Can be repeated.",
)
@click.option(
    "--learn",
    metavar="DIR",
    help="Learn a vocabulary from the files TEXT and save it in this folder.",
)
@click.option("--vocab-size", type=int, default=8192, help="Number of tokens to learn.  [8192]")
@click.option("--characters", is_flag=True, help="Learn a character-level vocabulary instead.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print ids, texts and offsets of the tokens as JSON."
)
def command(text: tuple[str, ...], file: str | None, **flags: Any) -> None:
    """Turn TEXT into token ids, or ids into text."""
    if flags["learn"] is not None:
        _learn(flags["learn"], text, flags["vocab_size"], flags["characters"])
        return
    given = given_text(" ".join(text) if text else None, file, "text")
    from gpt2lab.weights.find import load_vocabulary

    tokenizer = load_vocabulary(flags["model"])
    if flags["decode"]:
        text_of = tokenizer.decode(token_ids(given))
        echo_json(text_of) if flags["as_json"] else click.echo(printable(text_of))
    elif flags["steps"]:
        _steps(tokenizer, given)
    else:
        _show(tokenizer, given, flags)


def _show(tokenizer: Tokenizer, text: str, flags: dict[str, Any]) -> None:
    names = allowed(flags) or flags["allow"]
    if flags["as_json"]:
        ids, offsets = tokenizer.encode_with_offsets(text, allowed_special=names)
        rows = {"ids": ids, "pieces": tokenizer.pieces(ids), "offsets": offsets}
        echo_json(rows)
        return
    ids = tokenizer.encode(text, allowed_special=names)
    if flags["pieces"] or sys.stdout.isatty():
        click.echo(_coloured(tokenizer.pieces(ids)))
    click.echo(" ".join(map(str, ids)))
    click.echo(f"{len(ids)} tokens, {len(text)} characters", err=True)


def _coloured(pieces: list[str]) -> str:
    """Each piece on its own background; without colour, with bars between."""
    pieces = [printable(piece.replace("\n", "\\n").replace("\t", "\\t")) for piece in pieces]
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return "|".join(pieces)
    return "".join(
        click.style(piece, fg="black", bg=_COLOURS[i % len(_COLOURS)])
        for i, piece in enumerate(pieces)
    )


def _steps(tokenizer: Tokenizer, text: str) -> None:
    """Every word from its bytes to its tokens, a line a merge."""
    for word in tokenizer.steps(text):
        click.echo(printable(repr(word.text)))
        for number, state in enumerate(word.states):
            shown = " ".join(_symbol(piece) for piece in state)
            click.echo(f"  {number:3d}  {shown}")
        click.echo(f"   ids {' '.join(map(str, word.ids))}")


def _symbol(piece: bytes) -> str:
    """A piece without white space of its own: spaces as a raised dot, broken bytes as numbers."""
    text = piece.decode("utf-8", "backslashreplace")
    return printable(text.replace(" ", "\u00b7").replace("\n", "\\n").replace("\t", "\\t"))


def _learn(folder: str, paths: tuple[str, ...], size: int, characters: bool) -> None:
    from pathlib import Path

    from gpt2lab.text import learn

    if not paths:
        raise InputError("--learn needs the files to learn from, as the last arguments")
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{folder} exists and is not empty; choose another folder")
    files = [Path(path) for path in paths]
    learned = learn.learn_characters(files) if characters else learn.learn(files, size)
    learned.save(target)
    click.echo(f"{learned.n_vocab} tokens, written to {folder}", err=True)
