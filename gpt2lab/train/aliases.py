"""Other trainers' words for our settings: the Trainer of transformers, gpt-2-simple, nanoGPT.

`translate` turns what their users type into settings of `TrainConfig` and of `finetune`. What the
words mean there was read in transformers 5.23 `training_args.py`, gpt-2-simple 0.8.1 `gpt_2.py`
and nanoGPT `train.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2lab import aliases
from gpt2lab.aliases import Alias, Settings
from gpt2lab.errors import InputError, quoted

log = logging.getLogger(__name__)

#: How a run is resumed, and what `steps` means then.
GOES_ON = (
    "an existing run is resumed, as in gpt-2-simple; steps are all those on this text here, not "
    "as many more: to train on, give a higher number"
)


def _optimizer(value: Any, ours: Settings) -> Settings:
    if str(value).lower() not in ("adam", "adamw", "adamw_torch", "adamw_torch_fused"):
        raise InputError(f"optimizer {value!r} is not offered; AdamW is the one there is")
    return {}


def _resume_from(value: Any, ours: Settings) -> Settings:
    """True, or a checkpoint's path: of a run here, which is resumed from its newest one."""
    if value in (None, False, "False", "false"):
        return {}
    if value in (True, "True", "true"):
        return {"resume": True}
    path = Path(str(value))
    run = path.parent if path.name == "latest" or path.name.startswith("step-") else path
    if Path(ours.get("out", run)) != run:
        raise InputError(
            f"resume_from_checkpoint {quoted(str(value))} is in another folder than out "
            f"{quoted(str(ours['out']))}; a run is resumed in its own folder"
        )
    return {"out": str(run), "resume": True}


def _strategy(word: str, setting: str, off: Any) -> Alias:
    """A word that says when: "no" is `setting` off, else another setting says it."""
    every = "val_every" if setting == "validate" else setting

    def convert(value: Any, ours: Settings) -> Settings:
        if str(value).lower().rpartition(".")[2] in ("no", "false"):
            return {setting: off}
        aliases.note(word, f"{word} is left out: {every} says when, in steps")
        return {}

    return Alias(convert=convert)


def _done_here(word: str) -> None:
    aliases.note(word, f"{word} is left out: that is what is done here")


def _do_train(value: Any, ours: Settings) -> Settings:
    if not value:
        raise InputError(
            f"do_train {value} is not offered: finetune trains; gpt2lab score evaluates a text"
        )
    _done_here("do_train")
    return {}


def _do_eval(value: Any, ours: Settings) -> Settings:
    if not value:
        return {"validate": False}
    _done_here("do_eval")
    return {}


def _no_ratio(value: Any, ours: Settings) -> Settings:
    raise InputError(
        f"warmup_ratio {quoted(value)} is not offered; warmup counts steps, and is at most a tenth "
        "of the run"
    )


def _restore(value: Any, ours: Settings) -> Settings:
    return {"_restore": value, **({} if value in ("latest", "fresh") else {"model": value})}


def _for_later(name: str) -> Alias:
    """A word that means something only together with others: `_together` reads it."""
    return Alias(convert=lambda value, ours: {name: value})


#: Their word -> what it means here. Those that look at other settings come last.
TABLE: dict[str, Alias] = {
    # transformers
    "output_dir": Alias("out"),
    "train_file": Alias("text"),
    "validation_file": Alias("val"),
    "model_name_or_path": Alias("model"),
    "num_train_epochs": Alias("epochs"),
    "max_steps": Alias("steps"),
    "save_steps": Alias("save_every"),
    "eval_steps": Alias("val_every"),
    "logging_steps": Alias("log_every"),
    "warmup_steps": Alias("warmup"),
    "lr_scheduler_type": Alias("schedule"),
    "adam_beta1": Alias("beta1"),
    "adam_beta2": Alias("beta2"),
    "max_grad_norm": Alias("clip"),
    "early_stopping_patience": Alias("patience"),
    "gradient_checkpointing": Alias("recompute"),
    "torch_compile": Alias("compile"),
    "overwrite_output_dir": Alias("overwrite"),
    # gpt-2-simple
    "dataset": Alias("text"),
    "model_name": Alias("model"),
    "print_every": Alias("log_every"),
    "max_checkpoints": Alias("save_total_limit"),
    "use_memory_saving_gradients": Alias("recompute"),
    # nanoGPT
    "max_iters": Alias("steps"),
    "min_lr": Alias("final_learning_rate"),
    "warmup_iters": Alias("warmup"),
    "grad_clip": Alias("clip"),
    "eval_interval": Alias("val_every"),
    "log_interval": Alias("log_every"),
    "per_gpu_train_batch_size": Alias("micro_batch"),
    "per_device_train_batch_size": Alias("micro_batch"),
    # what we have by other means, or always
    "multi_gpu": Alias(
        note="several processes are torchrun's: torchrun --nproc-per-node N -m gpt2lab train"
    ),
    "sample_num": Alias(note="samples are one for each prompt; give --prompts several times"),
    "decay_lr": Alias(note="schedule says how the learning rate falls"),
    "lr_decay_iters": Alias(note="the learning rate falls over the whole run"),
    "logging_dir": Alias(note="TensorBoard's files are in the run's folder, under tensorboard/"),
    "report_to": Alias(note="log.jsonl, TensorBoard's files and report.html are always written"),
    "prediction_loss_only": Alias(note="validation is always of the loss only"),
    "fp16": Alias(note="dtype auto takes bfloat16 where that is measured quicker"),
    "use_cpu": Alias(note="device says where to train"),
    "reuse": Alias(note="there is no session to reuse"),
    "per_device_eval_batch_size": Alias(note="validation takes as many texts at once as training"),
    "load_best_model_at_end": Alias(note="the run's folder names its best checkpoint: best"),
    "logging_first_step": Alias(note="the first step is always logged"),
    "logging_strategy": Alias(note="log_every says when to log"),
    "dataloader_num_workers": Alias(note="batches are read from mapped files, without workers"),
    "disable_tqdm": Alias(note="in Python verbose=False is silent"),
    # what has another value here
    "only_train_transformer_layers": Alias(
        convert=lambda value, ours: {"train_only": "blocks" if value else "all"}
    ),
    "bf16": Alias(convert=lambda value, ours: {"dtype": "bfloat16" if value else "float32"}),
    "do_train": Alias(convert=_do_train),
    "do_eval": Alias(convert=_do_eval),
    "evaluation_strategy": _strategy("evaluation_strategy", "validate", False),
    "eval_strategy": _strategy("eval_strategy", "validate", False),
    "save_strategy": _strategy("save_strategy", "save_every", 0),
    "warmup_ratio": Alias(convert=_no_ratio),
    "optimizer": Alias(convert=_optimizer),
    "optim": Alias(convert=_optimizer),
    "resume_from_checkpoint": Alias(convert=_resume_from),
    "restore_from": Alias(convert=_restore),
    "gradient_accumulation_steps": _for_later("_accumulate"),
    "accumulate_gradients": _for_later("_accumulate"),
    "run_name": _for_later("_run_name"),
    "checkpoint_dir": _for_later("_folder"),
}


def _batch_of_a_step(ours: Settings, world: int) -> None:
    """Theirs is the batch of a device at once; ours is that of a step, on all processes."""
    times = ours.pop("_accumulate", None)
    if times is not None:
        micro = ours.get("micro_batch") or ours.pop("batch_size", 1)
        ours["micro_batch"] = micro
        ours["batch_size"] = micro * times * world
    elif "micro_batch" in ours and "batch_size" not in ours:
        ours["batch_size"] = ours["micro_batch"] * world


def _run_of_gpt2simple(ours: Settings) -> None:
    """There a run continues from its latest step by default, and `overwrite` only means
    that the files before it are deleted; no new run replaces an existing one."""
    name, folder, restore = (ours.pop(k, None) for k in ("_run_name", "_folder", "_restore"))
    if name is not None or folder is not None:
        ours.setdefault("out", f"{folder or 'checkpoint'}/{name or 'run1'}")
    if (name, folder, restore) != (None, None, None) and (restore or "latest") == "latest":
        ours.pop("overwrite", None)
        ours["resume"] = "if there"
        log.warning(GOES_ON)  # of every such run: it is about this one, and not about a word


def translate(given: Mapping[str, Any], world: int = 1) -> Settings:
    """Settings under our names; a word of theirs is explained once in a process.

    world: processes, which the batch of a device is counted on. Raises InputError where a word and
    ours for it are both given, and for what is not offered.
    """
    if given.get("steps") == -1:
        raise InputError(
            "steps -1 is endless in gpt-2-simple; give a number, or --minutes: Ctrl-C saves at any "
            "moment, and --resume continues"
        )
    before = aliases.translate(given, TABLE)
    ours = dict(before)
    _batch_of_a_step(ours, world)
    _run_of_gpt2simple(ours)
    names = ("batch_size", "micro_batch", "out")
    made = [f"{k} {ours[k]}" for k in names if ours.get(k) != before.get(k)]
    if made:
        aliases.note(f"together {made}", f"together they make {', '.join(made)}")
    return ours
