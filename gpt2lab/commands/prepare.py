"""`gpt2lab prepare`: texts to token shards; the work is `corpus.prepare`'s."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands import headings
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import echo_json
from gpt2lab.commands.text_options import READING, reading_of, reading_options

if TYPE_CHECKING:
    from gpt2lab.corpus.encoding_pass import PrepareProgress
    from gpt2lab.corpus.prepare import Prepared


class PrepareMeter:
    """A bar on stderr over the bytes of the texts; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, progress: PrepareProgress) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=progress.total, unit="B", unit_scale=True, dynamic_ncols=True,
                initial=progress.bytes, disable=not sys.stderr.isatty(),
            )  # fmt: skip
        told = f"{progress.tokens:,} tokens, {progress.documents:,} documents"
        self._bar.set_postfix_str(told, refresh=False)
        self._bar.update(progress.bytes - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def _told(done: Prepared) -> str:
    """What the folder holds, in a line."""
    splits = [
        f"{split} {done.tokens[split]:,} tokens in {done.documents[split]:,} documents"
        for split in done.tokens
    ]
    per = f"{done.characters_per_token:.2f} characters a token"
    return f"{done.folder}: {', '.join(splits)}; {per}"


def _as_dict(done: Prepared) -> dict[str, Any]:
    return {
        "folder": str(done.folder),
        "tokens": done.tokens,
        "documents": done.documents,
        "characters": done.characters,
        "characters_per_token": done.characters_per_token,
        "n_vocab": done.n_vocab,
        "read": done.read,
    }


@click.command(
    cls=Headed,
    headings={
        "Output": ("out", "shard_tokens", "workers", "force", "as_json"),
        "Vocabulary": ("model", "learn", "characters"),
        "Validation set": ("held_out", "val", "seed"),
        **headings.READING,
    },
    epilog="""\b
Examples:
  gpt2lab prepare book.txt --out tokens
  gpt2lab prepare 'stories/**/*.txt.gz' more/ --out tokens --held-out 0.05
  gpt2lab prepare train.jsonl --val valid.jsonl --out tokens --learn 4096
  gpt2lab prepare reviews.csv --column title --column body --out tokens --model my-model

TEXT is files, folders or patterns: .txt, .md, .csv, .tsv, .jsonl, .parquet, and .gz of these. A
text file is one document, or several between lines <|endoftext|>; each row of a table and each line
of JSON is a document. Notes at the end report what was read. The same command resumes after an
interruption.""",
)
@click.argument("text", nargs=-1, required=True)
@click.option("--out", required=True, metavar="DIR", help="Folder for the token shards.")
@click.option(
    "-m",
    "--model",
    "--vocabulary",
    "model",
    metavar="SOURCE",
    help="Encode with this vocabulary, or with that of this model.  [GPT-2's]",
)
@click.option(
    "--learn", type=int, metavar="N", help="Learn a vocabulary of N tokens from the texts first."
)
@click.option("--characters", is_flag=True, help="Use a vocabulary of the characters in the texts.")
@click.option(
    "--held-out",
    type=float,
    default=0.01,
    metavar="FRACTION",
    help="Fraction of the documents that is held out for validation.  [0.01]",
)
@click.option(
    "--val",
    multiple=True,
    metavar="TEXT",
    help="Use these texts for validation and hold out none. Can be repeated.",
)
@click.option(
    "-s", "--seed", type=int, default=0, help="Random seed of the train/validation split.  [0]"
)
@click.option(
    "--shard-tokens", type=int, default=1 << 26, metavar="N", help="Tokens per file.  [67108864]"
)
@click.option("--workers", type=int, metavar="N", help="Threads; one per core by default.")
@reading_options
@click.option("--force", is_flag=True, help="Replace what was prepared in this folder before.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(text: tuple[str, ...], out: str, **flags: Any) -> None:
    """Tokenize TEXTs into shards for training."""
    from gpt2lab.corpus.prepare import prepare
    from gpt2lab.weights.find import load_vocabulary

    as_json, model = flags.pop("as_json"), flags.pop("model")
    tokenizer = None if model is None else load_vocabulary(model)
    reading, rest = reading_of(flags), {k: v for k, v in flags.items() if k not in READING}
    meter = PrepareMeter()
    try:
        done = prepare(text, out, tokenizer=tokenizer, progress=meter, **reading, **rest)
    except KeyboardInterrupt:
        meter.close()
        click.echo(f"stopped; finished parts stay in {out}, the same command resumes", err=True)
        raise
    finally:
        meter.close()
    if not done.is_new:
        click.echo(f"note: {done.left_as_it_is()}", err=True)
    echo_json(_as_dict(done)) if as_json else click.echo(_told(done))
