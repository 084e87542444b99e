"""`gpt2lab download`: fetch a model and print its folder."""

from __future__ import annotations

import sys
import time

import click

from gpt2lab.commands.models import as_dict, disk
from gpt2lab.files.json_files import to_json


class TransferMeter:
    """A progress line on stderr for one file after another."""

    def __init__(self) -> None:
        self.file = ""
        self.start = (0.0, 0)  # when the file began to arrive in this call, and what was there
        self.shown = 0.0

    def __call__(self, file: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if file != self.file:
            self.end()
            self.file, self.start, self.shown = file, (now, done), 0.0
        is_last = total is not None and done >= total
        if now - self.shown < 0.2 and not is_last:
            return
        self.shown = now
        seconds = now - self.start[0]
        speed = f"  {disk((done - self.start[1]) / seconds)}/s" if seconds > 1 else ""
        of = f" of {disk(total)}, {done / total:.0%}" if total else ""
        click.echo(f"\r\x1b[K{file}  {disk(done)}{of}{speed}", err=True, nl=False)

    def end(self) -> None:
        """Leave the line as it is and go to the next."""
        if self.file:
            click.echo(err=True)
        self.file = ""


@click.command(
    epilog="Example: gpt2lab download 124M",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("name")
@click.option("--revision", metavar="NAME", help="Branch, tag or commit to download.  [main]")
@click.option("--endpoint", metavar="URL", help="Mirror of the hub; HF_ENDPOINT by default.")
@click.option(
    "--token", metavar="TOKEN", help="Access token for gated and private models; prefer HF_TOKEN."
)
@click.option(
    "--offline", is_flag=True, help="Only print where the model is, as with HF_HUB_OFFLINE=1."
)
@click.option("--force", is_flag=True, help="Download existing files again.")
@click.option("--json", "as_json", is_flag=True, help="Print the downloaded model as JSON.")
def command(
    name: str,
    revision: str | None,
    endpoint: str | None,
    token: str | None,
    offline: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Download the model NAME from the Hugging Face hub and print its folder.

    NAME is an official size (124M, 355M, 774M, 1558M) or a name on the hub such as
    distilbert/distilgpt2. Each file is checked against the hash that the hub gives; where a mirror
    gives none, a note names the files, and only their size is checked. The same command resumes an
    interrupted download. Models are stored in the cache that other tools of the hub share
    (HF_HUB_CACHE or HF_HOME set its place).
    """
    from gpt2lab.weights import find
    from gpt2lab.weights.hub import download

    meter = TransferMeter() if sys.stderr.isatty() else None
    try:
        path = download.download(
            name,
            revision=revision,
            endpoint=endpoint,
            token=token,
            offline=offline,
            force=force,
            progress=meter,
        )
    finally:
        if meter:
            meter.end()
    if as_json:
        found = find.describe(path, find.hub_name(name) or name, "hub cache")
        click.echo(to_json(as_dict(found), ensure_ascii=True, indent=2))
    else:
        click.echo(str(path))
