"""`gpt2lab score`: how likely a text is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands import headings
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import (
    allowed,
    echo_json,
    engine_options,
    given_text,
    load_model,
    model_options,
    printable,
    special_option,
    token_ids,
)
from gpt2lab.errors import InputError

if TYPE_CHECKING:
    from gpt2lab.score import Score
    from gpt2lab.text.tokenizer import Tokenizer


@click.command(
    cls=Headed,
    headings={
        "Text": ("file", "ids", "allow_special", "stride", "after_end"),
        **headings.MODEL,
        "Output": ("per_token", "per_word", "as_json"),
    },
    epilog="""\b
Examples:
  gpt2lab score "The cat sat on the mat."
  gpt2lab score --file story.txt --per-token
  gpt2lab score --file book.txt --stride 256 --json

Log-probabilities are natural logarithms. Perplexity is per token or per word; bits per byte allow a
comparison of models with different vocabularies.""",
)
@click.argument("text", required=False)
@model_options
@click.option("--file", metavar="PATH", help="Read the text from this file; - is standard input.")
@click.option("--ids", metavar="'ID ID ...'", help="Give the text as token ids.")
@special_option
@click.option("--per-token", is_flag=True, help="Print a line for every token.")
@click.option("--per-word", is_flag=True, help="Print a line for every word.")
@click.option(
    "--stride",
    type=int,
    help="Tokens by which the context window moves in a longer text.  [half of the window]",
)
@click.option(
    "--after-end/--not-after-end",
    default=None,
    help="Score the first token as the beginning of a document (after the end token), or do not "
    "score it.  [--after-end if the model has an end token]",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def command(text: str | None, file: str | None, **flags: Any) -> None:
    """Compute the log-probability and perplexity of TEXT, in total and per token, word and byte."""
    if flags["ids"] is not None and (text is not None or file is not None):
        raise InputError("the text is given twice, as ids and as text; give one")
    given: Any = token_ids(flags["ids"]) if flags["ids"] is not None else None
    given = given or given_text(text, file, "text")
    lm = load_model(flags["model"], **engine_options(flags))
    result = lm.score(
        given,
        stride=flags["stride"],
        after_end=flags["after_end"],
        allowed_special=allowed(flags),
    )
    if flags["as_json"]:
        echo_json(result.to_dict())
        return
    if flags["per_token"]:
        _per_token(result, lm.tokenizer)
    if flags["per_word"]:
        for word, logprob in result.words:
            click.echo(f"{logprob:10.4f}  {printable(word)}")
    _summary(result)


def _per_token(result: Score, tokenizer: Tokenizer | None) -> None:
    """Token, log-probability, probability; one a line."""
    from gpt2lab.lens.traces import pieces_of

    pieces = pieces_of(tokenizer, result.tokens)
    for token, logprob, piece in zip(result.tokens, result.logprobs, pieces, strict=True):
        number = "         -         -"
        if logprob is not None:
            number = f"{logprob:10.4f}{math.exp(logprob):10.2%}"
        click.echo(f"{token:6d}{number}  {piece!r}")


def _number(value: float) -> str:
    return f"{value:.4f}" if value < 1e9 else f"{value:.4g}"


def _summary(result: Score) -> None:
    """The numbers, and what they were counted over."""
    first = "after the end token" if result.after_end else "first token not scored"
    rows = [
        ("log-probability", f"{result.total:.4f}", "nats in all"),
        ("tokens", f"{result.n_scored}", first),
        (
            "per token",
            f"{result.total / result.n_scored:.4f}",
            f"perplexity {_number(result.perplexity)}",
        ),
    ]
    if result.n_words:
        value = result.total / result.n_words
        rows.append(("per word", f"{value:.4f}", f"perplexity {result.word_perplexity:.4g}"))
    if result.n_bytes:
        rows.append(
            ("per byte", f"{result.total / result.n_bytes:.4f}", f"{result.bits_per_byte:.4f} bits")
        )
    if result.stride is not None:
        rows.append(("stride", f"{result.stride}", "the text is longer than the window"))
    for name, value_text, note in rows:
        click.echo(f"{name:16} {value_text:>12}  {note}")
