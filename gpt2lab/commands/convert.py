"""`gpt2lab convert`: write a checkpoint in another format, and prove that it is the same."""

from __future__ import annotations

from pathlib import Path

import click

from gpt2lab.commands.options import echo_json
from gpt2lab.errors import InputError


@click.command(
    epilog="""\b
Examples:
  gpt2lab convert models/124M gpt2-hf --to huggingface --verify
  gpt2lab convert checkpoint/run1 my-model --to huggingface --verify
  gpt2lab convert my-model ckpt --to nanogpt --force
  gpt2lab convert my-model my-model-int4 --to huggingface --int4 texts.txt"""
)
@click.argument("source")
@click.argument("target")
@click.option(
    "--to",
    "format_",
    required=True,
    metavar="FORMAT",
    help="Format to write: huggingface, openai, nanogpt or llmc.",
)
@click.option(
    "--verify", is_flag=True, help="Load the result and compare its logits with those of SOURCE."
)
@click.option(
    "--int4",
    "text",
    metavar="FILE",
    help="Round the matrices to what --dtype int4 holds, compensating errors by this text.",
)
@click.option(
    "--force", is_flag=True, help="Replace an existing TARGET once the new one is complete."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    source: str,
    target: str,
    format_: str,
    verify: bool,
    text: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert the checkpoint SOURCE, of any format, to TARGET.

    SOURCE is a path or the name of a model on this machine. TARGET must not exist, unless --force
    is given; it appears when it is complete. --verify prints the largest difference of a logit and
    how often the most probable token is the same, and stores them in TARGET/verify.json.
    """
    from gpt2lab.weights import find
    from gpt2lab.weights.convert import convert

    path = find.resolve(source)
    if text is not None:
        _calibrate(path, Path(target), format_, Path(text), verify, force, as_json)
        return
    report = convert(path, Path(target), format_, verify=verify, force=force)
    if report.note:
        click.echo(f"note: {report.note}", err=True)
    if as_json:
        echo_json(report.to_dict())
        return
    click.echo(f"{report.target}: {report.target_format}, from {report.source_format}")
    if report.tokens is not None:
        click.echo(f"largest logit difference  {report.largest_difference:.3g}")
        click.echo(
            f"top-1 agreement           {report.top1_agreement:.2%} of {report.tokens} tokens"
        )
    click.echo(f"the same                  {report.compared}")


def _calibrate(
    source: Path, target: Path, format_: str, text: Path, verify: bool, force: bool, as_json: bool
) -> None:
    """`--int4`: a checkpoint with other weights, so there is nothing to verify."""
    from gpt2lab.weights.calibrate import calibrate

    if format_ != "huggingface" or verify:
        raise InputError("--int4 writes other weights, to huggingface, and nothing to --verify")
    tokens = calibrate(source, target, text, force=force)
    if as_json:
        echo_json({"source": str(source), "target": str(target), "tokens": tokens})
        return
    click.echo(f"{target}: huggingface, rounded for int4 by {tokens:,} tokens of {text}")
