"""`gpt2lab finetune`: fine-tune a model on your own texts, in our words or other trainers'."""

from __future__ import annotations

from typing import Any

import click

from gpt2lab.commands import headings
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.training import SPELLING, given_flags, run_options, train
from gpt2lab.train.config import TUNING


@click.command(
    cls=Headed,
    headings={
        "Model and data": ("model", "val", "held_out"),
        "Output": ("out", "resume", "allow_changes", "overwrite", "as_json"),
        **headings.TRAINING,
        **headings.READING,
    },
    context_settings=SPELLING,
    epilog="""\b
Examples:
  gpt2lab finetune letters.txt --out runs/letters
  gpt2lab finetune texts/ --model 124M --out runs/mine --epochs 3 --val held.txt
  gpt2lab finetune shakespeare.txt --model_name 124M --run_name run1 --steps 500
  gpt2lab finetune train.txt --output_dir out --num_train_epochs 3 --save_steps 500

The flags of transformers' Trainer and of gpt-2-simple are accepted too, each with a note; they are
not listed here. The same command with --resume resumes an interrupted run.""",
)
@click.argument("text", nargs=-1)
@click.option("-m", "--model", metavar="MODEL", help="Model to fine-tune.  [the bundled model]")
@click.option("--out", metavar="RUN", help="Folder of the run.  [finetuned]")
@click.option("--resume", is_flag=True, default=None, help="Resume the run in --out.")
@run_options(TUNING)
def command(text: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Fine-tune a model on TEXT: files, folders or patterns, of any kind that prepare reads."""
    train(text, given_flags(flags), tunes=True, as_json=as_json)
