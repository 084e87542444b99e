"""`gpt2lab convert`: write a checkpoint in another format, and prove that it is the same."""

from __future__ import annotations

import click

from gpt2lab.commands.options import echo_json


@click.command(
    epilog="""\b
Examples:
  gpt2lab convert models/124M gpt2-hf --to huggingface --verify
  gpt2lab convert checkpoint/run1 my-model --to huggingface --verify
  gpt2lab convert my-model ckpt --to nanogpt --force"""
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
    "--force", is_flag=True, help="Replace an existing TARGET once the new one is complete."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    source: str, target: str, format_: str, verify: bool, force: bool, as_json: bool
) -> None:
    """Convert the checkpoint SOURCE, of any format, to TARGET.

    SOURCE is a path or the name of a model on this machine. TARGET must not exist, unless --force
    is given; it appears when it is complete. --verify prints the largest difference of a logit and
    how often the most probable token is the same, and stores them in TARGET/verify.json.
    """
    from pathlib import Path

    from gpt2lab.weights import find
    from gpt2lab.weights.convert import convert

    path = find.resolve(source)
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
