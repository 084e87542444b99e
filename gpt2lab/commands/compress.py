"""`gpt2lab compress`: any file, by the probabilities that a model gives its tokens."""

from __future__ import annotations

from typing import Any

import click

from gpt2lab.commands import headings
from gpt2lab.commands.compressing import SUFFIX, check_output, read_bytes, token_bar, write_bytes
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import echo_json, engine_options, load_model, model_options
from gpt2lab.errors import InputError


@click.command(
    cls=Headed,
    headings={
        **headings.MODEL,
        "Compression": ("streams",),
        "Output": ("out", "force", "as_json"),
    },
    epilog="""\b
Examples:
  gpt2lab compress book.txt
  gpt2lab compress book.txt --model 124M --dtype int8 --out book.g2z
  cat book.txt | gpt2lab compress - > book.g2z

`gpt2lab decompress` needs the same model, dtype and kind of processor; the file names them. It is
slow, about as slow as generating the text: compress texts that are worth it.""",
)
@click.argument("file")
@model_options
@click.option(
    "--streams",
    type=int,
    metavar="N",
    help="Number of parts that are coded side by side; more are faster and compress less.  [one "
    "for 1,024 tokens, at most 32]",
)
@click.option("-o", "--out", metavar="PATH", help=f"File to write.  [FILE{SUFFIX}]")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print the sizes as JSON.")
def command(file: str, out: str | None, force: bool, as_json: bool, **flags: Any) -> None:
    """Compress FILE, of any bytes, with a model; - is standard input."""
    from gpt2lab import compression

    out = out or ("-" if file == "-" else file + SUFFIX)
    check_output(out, force)
    if as_json and out == "-":
        raise InputError("--json would be mixed with the data on standard output; name --out")
    data = read_bytes(file)
    lm = load_model(flags["model"], **engine_options(flags))
    with token_bar("compressing") as watch:
        found = compression.compress(lm, data, streams=flags["streams"], watch=watch)
    write_bytes(out, found, force)
    kept = compression.needed(found)
    facts = {
        "file": out,
        "bytes": len(data),
        "compressed_bytes": len(found),
        "bits_per_byte": 8 * len(found) / len(data) if data else None,
        "stored": not kept.coded,
        "n_tokens": kept.n_tokens,
        "streams": len(kept.parts) if kept.coded else 0,
        "model": {"name": kept.name, "sha256": kept.model.hex()} if kept.coded else None,
        "path": kept.path or None,
    }
    echo_json(facts) if as_json else click.echo(_told(facts), err=out == "-")


def _told(facts: dict[str, Any]) -> str:
    """The sizes in a line."""
    how = "stored, as the model does not make it smaller" if facts["stored"] else facts["path"]
    share = f", {facts['bits_per_byte']:.3f} bits per byte" if facts["bytes"] else ""
    sizes = f"{facts['bytes']:,} to {facts['compressed_bytes']:,} bytes"
    return f"{facts['file']}: {sizes}{share} ({how})"
