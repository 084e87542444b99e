"""`gpt2lab finetune`: train a model on one's own texts, in our words or other trainers'."""

from __future__ import annotations

from typing import Any

import click

from gpt2lab.commands import headings
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import dataclass_options, field_kinds
from gpt2lab.commands.text_options import reading_of, reading_options
from gpt2lab.commands.train import joined
from gpt2lab.commands.training import SPELLING, follow, teller
from gpt2lab.errors import InputError
from gpt2lab.train import aliases
from gpt2lab.train.config import TUNING, TrainConfig

#: The kinds of other trainers' words that are none of our fields.
KINDS: dict[str, Any] = {
    "output_dir": str,
    "dataset": str,
    "model_name": str,
    "overwrite_output_dir": bool,
    "per_device_train_batch_size": int,
    "gradient_accumulation_steps": int,
    "accumulate_gradients": int,
    "only_train_transformer_layers": bool,
    "do_train": bool,
    "do_eval": bool,
    "load_best_model_at_end": bool,
    "logging_first_step": bool,
    "disable_tqdm": bool,
    "bf16": bool,
    "fp16": bool,
    "use_cpu": bool,
    "multi_gpu": bool,
    "prediction_loss_only": bool,
}


def _kind_of(word: str, kinds: dict[str, Any]) -> Any:
    """What a value of their word is: what ours is, where it has a field of ours."""
    return KINDS.get(word) or kinds.get(aliases.NAMES.get(word, ""), str)


def _theirs(function: Any) -> Any:
    """Other trainers' flags, out of sight in --help; what they mean is told in `train.aliases`."""
    kinds = field_kinds(TrainConfig)
    for word in (*aliases.NAMES, *aliases.TOLD, *aliases.RULES):
        kind = _kind_of(word, kinds)
        flag = {"is_flag": True, "default": None} if kind is bool else {"type": kind}
        spelt = f"--{word.replace('_', '-')}"
        function = click.option(spelt, word, hidden=True, **flag)(function)
    return function


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
@click.option("--val", metavar="PATH", help="Validate on these texts.  [held-out documents]")
@click.option(
    "--held-out",
    type=float,
    help="Fraction of the documents that is held out for validation.  [0.01]",
)
@reading_options
@click.option("--resume", is_flag=True, default=None, help="Resume the run in --out.")
@click.option(
    "--allow-changes", is_flag=True, default=None, help="Let --resume change the settings."
)
@click.option("--overwrite", is_flag=True, default=None, help="Replace the run in --out.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print each record as a line of JSON on stdout."
)
@dataclass_options(TrainConfig, defaults=TUNING)
@_theirs
def command(text: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Fine-tune a model on TEXT: files, folders or patterns, of any kind that prepare reads."""
    from gpt2lab.train.finetune import prepare_run

    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    given.update(reading_of(flags))
    with joined(given.get("device")) as group:
        say = teller(group)
        ours, notes = aliases.translate(given, group.world)
        for note in notes:
            say(note)
        named = ours.pop("text", None)
        if text and named:
            raise InputError("the text is given twice, as an argument and by --dataset; give one")
        texts = text or tuple(filter(None, [named]))
        with prepare_run(texts, ours, group=group, say=say) as run:
            follow(run, as_json=as_json)
