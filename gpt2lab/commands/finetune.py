"""`gpt2lab finetune`: train a model on one's own texts, in our words or other trainers'."""

from __future__ import annotations

from typing import Any

import click

from gpt2lab.commands.options import dataclass_options
from gpt2lab.commands.train import joined
from gpt2lab.commands.training import SPELLING, follow, reading_options, teller
from gpt2lab.train.settings import TrainConfig

#: Other trainers' flags -> the kind of their value; what they mean is told in `train.finetune`.
THEIRS: dict[str, Any] = {
    "output_dir": str,
    "num_train_epochs": float,
    "max_steps": int,
    "per_device_train_batch_size": int,
    "gradient_accumulation_steps": int,
    "save_steps": int,
    "eval_steps": int,
    "logging_steps": int,
    "warmup_steps": int,
    "lr_scheduler_type": str,
    "adam_beta1": float,
    "adam_beta2": float,
    "max_grad_norm": float,
    "bf16": bool,
    "fp16": bool,
    "gradient_checkpointing": bool,
    "overwrite_output_dir": bool,
    "dataset": str,
    "model_name": str,
    "run_name": str,
    "checkpoint_dir": str,
    "restore_from": str,
    "accumulate_gradients": int,
    "only_train_transformer_layers": bool,
    "use_memory_saving_gradients": bool,
    "optimizer": str,
    "max_checkpoints": int,
    "print_every": int,
    "sample_num": int,
    "multi_gpu": bool,
}


def _theirs(function: Any) -> Any:
    """Their flags, out of sight in --help."""
    for name, kind in THEIRS.items():
        spelt = f"--{name.replace('_', '-')}"
        flag = {"is_flag": True, "default": None} if kind is bool else {"type": kind}
        function = click.option(spelt, name, hidden=True, **flag)(function)
    return function


@click.command(
    context_settings=SPELLING,
    epilog="""\b
Examples:
  gpt2lab finetune letters.txt --out runs/letters
  gpt2lab finetune texts/ --model 124M --out runs/mine --epochs 3 --val held.txt
  gpt2lab finetune shakespeare.txt --model_name 124M --run_name run1 --steps 500
  gpt2lab finetune train.txt --output_dir out --num_train_epochs 3 --save_steps 500

\b
The flags of transformers' Trainer and of gpt-2-simple are understood, each with a note; where they
differ from ours they are not listed here. The same command with --resume goes on.""",
)
@click.argument("text", nargs=-1)
@click.option("-m", "--model", metavar="MODEL", help="What to begin with.  [the bundled model]")
@click.option("--out", metavar="RUN", help="The folder of the run.  [finetuned]")
@click.option("--val", metavar="PATH", help="Validate on this.  [what is held out]")
@click.option("--held-out", type=float, help="Share of the texts held out.  [0.01]")
@reading_options
@click.option("--resume", is_flag=True, default=None, help="Go on with the run in --out.")
@click.option("--allow-changes", is_flag=True, default=None, help="Of --resume: other settings.")
@click.option("--overwrite", is_flag=True, default=None, help="Replace the run in --out.")
@click.option("--json", "as_json", is_flag=True, help="Every record as a line of JSON on stdout.")
@dataclass_options(TrainConfig)
@_theirs
def command(text: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Train a model on TEXT: files, folders or patterns, of any kind that prepare reads."""
    from gpt2lab.train.finetune import prepare_run, translate

    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    with joined(given.get("device")) as group:
        say = teller(group)
        ours, notes = translate(given, group.world)
        for note in notes:
            say(note)
        texts = text or tuple(filter(None, [ours.pop("text", None)]))
        with prepare_run(texts, ours, group=group, say=say) as run:
            follow(run, as_json=as_json)
