"""`gpt2lab decompress`: the file that `gpt2lab compress` was given, to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands import headings
from gpt2lab.commands.compressing import SUFFIX, check_output, read_bytes, token_bar, write_bytes
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import echo_json, engine_options, load_model, model_options
from gpt2lab.errors import InputError

if TYPE_CHECKING:
    from gpt2lab.compression import Container
    from gpt2lab.lm import LM


@click.command(
    cls=Headed,
    headings={**headings.MODEL, "Output": ("out", "force", "as_json")},
    epilog="""\b
Examples:
  gpt2lab decompress book.txt.g2z
  gpt2lab decompress book.g2z --model 124M --out book.txt
  gpt2lab decompress - < book.g2z > book.txt

The engine and its dtype are those of the file, unless options name others. Another model or another
path through the engine is refused, since its logits would decode other bytes.""",
)
@click.argument("file")
@model_options
@click.option("-o", "--out", metavar="PATH", help=f"File to write.  [FILE without {SUFFIX}]")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print the sizes as JSON.")
def command(file: str, out: str | None, force: bool, as_json: bool, **flags: Any) -> None:
    """Decompress FILE, written by `gpt2lab compress`; - is standard input."""
    from gpt2lab import compression

    if out is None and file != "-" and not file.endswith(SUFFIX):
        raise InputError(f"{file} does not end in {SUFFIX}; name the file to write by --out")
    out = out or ("-" if file == "-" else file.removesuffix(SUFFIX))
    if out != "-":
        check_output(out, force)
    elif as_json:
        raise InputError("--json would be mixed with the data on standard output; name --out")
    data, where = read_bytes(file), "standard input" if file == "-" else file
    known = compression.needed(data, where)
    lm = _loaded(known, flags) if known.coded else None
    with token_bar("decompressing") as watch:
        found = compression.decompress(lm, data, where, watch)
    write_bytes(out, found, force)
    facts = {"file": out, "bytes": len(found), "compressed_bytes": len(data)}
    told = f"{out}: {len(data):,} to {len(found):,} bytes"
    echo_json(facts) if as_json else click.echo(told, err=out == "-")


def _loaded(known: Container, flags: dict[str, Any]) -> LM:
    """The model of --model, on the engine that the file names unless options name another."""
    options = engine_options(flags)
    words = known.path.split(", ")
    if not options.keys() & {"engine", "dtype"} and len(words[0].split()) == 2:
        options["engine"], options["dtype"] = words[0].split()
        cache = [word.split()[1] for word in words if word.startswith("cache ")]
        if cache and options["engine"] == "cpu":
            options.setdefault("cache_dtype", cache[0])
    return load_model(flags["model"], **options)
