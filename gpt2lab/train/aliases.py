"""Other trainers' words for our settings: the Trainer of transformers, gpt-2-simple, nanoGPT.

`translate` turns what their users type into settings of `TrainConfig` and of `finetune`, with a
note on each word, and refuses what has no counterpart by name. What the words mean there was read
in transformers 5.23 `training_args.py`, gpt-2-simple 0.8.1 `gpt_2.py` and nanoGPT `train.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpt2lab.errors import InputError, quoted

Given = dict[str, Any]
Notes = list[str]

#: Their word -> ours, where the value means the same.
NAMES = {
    # transformers
    "output_dir": "out",
    "train_file": "text",
    "validation_file": "val",
    "model_name_or_path": "model",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "save_steps": "save_every",
    "eval_steps": "val_every",
    "logging_steps": "log_every",
    "warmup_steps": "warmup",
    "lr_scheduler_type": "schedule",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "max_grad_norm": "clip",
    "early_stopping_patience": "patience",
    "gradient_checkpointing": "recompute",
    "torch_compile": "compile",
    "overwrite_output_dir": "overwrite",
    # gpt-2-simple
    "dataset": "text",
    "model_name": "model",
    "print_every": "log_every",
    "max_checkpoints": "save_total_limit",
    "use_memory_saving_gradients": "recompute",
    # nanoGPT
    "max_iters": "steps",
    "min_lr": "final_learning_rate",
    "warmup_iters": "warmup",
    "grad_clip": "clip",
    "eval_interval": "val_every",
    "log_interval": "log_every",
}

#: Words whose effect we have by other means, or always: told, and left out.
TOLD = {
    "multi_gpu": "several processes are torchrun's: torchrun --nproc-per-node N -m gpt2lab train",
    "sample_num": "samples are one for each prompt; give --prompts several times",
    "decay_lr": "schedule says how the learning rate falls",
    "lr_decay_iters": "the learning rate falls over the whole run",
    "logging_dir": "TensorBoard's files are in the run's folder, under tensorboard/",
    "report_to": "log.jsonl, TensorBoard's files and report.html are always written",
    "prediction_loss_only": "validation is always of the loss only",
    "fp16": "dtype auto takes bfloat16 where that is measured quicker",
    "use_cpu": "device says where to train",
    "reuse": "there is no session to reuse",
    "per_device_eval_batch_size": "validation takes as many texts at once as training",
    "load_best_model_at_end": "the run's folder names its best checkpoint: best",
    "logging_first_step": "the first step is always logged",
    "logging_strategy": "log_every says when to log",
    "dataloader_num_workers": "batches are read from mapped files, without workers",
    "disable_tqdm": "in Python verbose=False is silent",
}
#: How a run is resumed, and what `steps` means then.
GOES_ON = (
    "an existing run is resumed, as in gpt-2-simple; steps are all those on this text here, not "
    "as many more: to train on, give a higher number"
)

Rule = Callable[[Any, Given, Notes], None]


def _per_device(value: Any, given: Given, notes: Notes) -> None:
    """Texts at once; a step has as many times the accumulation (and the processes) of them."""
    given["micro_batch"] = value


def _accumulate(value: Any, given: Given, notes: Notes) -> None:
    given["_accumulate"] = value


def _only_layers(value: Any, given: Given, notes: Notes) -> None:
    given["train_only"] = "blocks" if value else "all"


def _bf16(value: Any, given: Given, notes: Notes) -> None:
    given["dtype"] = "bfloat16" if value else "float32"


def _restore(value: Any, given: Given, notes: Notes) -> None:
    given["_restore"] = value
    if value not in ("latest", "fresh"):
        given["model"] = value


def _run_name(value: Any, given: Given, notes: Notes) -> None:
    given["_run_name"] = value


def _folder(value: Any, given: Given, notes: Notes) -> None:
    given["_folder"] = value


def _optimizer(value: Any, given: Given, notes: Notes) -> None:
    if str(value).lower() not in ("adam", "adamw", "adamw_torch", "adamw_torch_fused"):
        raise InputError(f"optimizer {value!r} is not offered; AdamW is the one there is")


def _resume_from(value: Any, given: Given, notes: Notes) -> None:
    """True, or a checkpoint's path: of a run here, which is resumed from its newest one."""
    if value in (None, False, "False", "false"):
        return
    if value not in (True, "True", "true"):
        path = Path(str(value))
        run = path.parent if path.name == "latest" or path.name.startswith("step-") else path
        if Path(given.get("out", run)) != run:
            raise InputError(
                f"resume_from_checkpoint {quoted(str(value))} is in another folder than out "
                f"{quoted(str(given['out']))}; a run is resumed in its own folder"
            )
        given["out"] = str(run)
    given["resume"] = True


def _strategy(word: str, setting: str, off: Any) -> Rule:
    """Return a rule for a word that says when: "no" is `setting` off, else another word says it."""

    def rule(value: Any, given: Given, notes: Notes) -> None:
        if str(value).lower().rpartition(".")[2] in ("no", "false"):
            given[setting] = off
        else:
            every = "val_every" if setting == "validate" else setting
            notes.append(f"{word} is left out: {every} says when, in steps")

    return rule


def _do_eval(value: Any, given: Given, notes: Notes) -> None:
    if value:
        notes.append("do_eval is left out: that is what is done here")
    else:
        given["validate"] = False


def _does(word: str, ours: str) -> Rule:
    """A rule for a switch that cannot be off here; ours: what to do instead."""

    def rule(value: Any, given: Given, notes: Notes) -> None:
        if not value:
            raise InputError(f"{word} {value} is not offered: {ours}")
        notes.append(f"{word} is left out: that is what is done here")

    return rule


def _no_ratio(value: Any, given: Given, notes: Notes) -> None:
    raise InputError(
        f"warmup_ratio {quoted(value)} is not offered; warmup counts steps, and is at most a tenth "
        "of the run"
    )


RULES: dict[str, Rule] = {
    "resume_from_checkpoint": _resume_from,
    "do_train": _does("do_train", "finetune trains; gpt2lab score evaluates a text"),
    "do_eval": _do_eval,
    "evaluation_strategy": _strategy("evaluation_strategy", "validate", False),
    "eval_strategy": _strategy("eval_strategy", "validate", False),
    "save_strategy": _strategy("save_strategy", "save_every", 0),
    "warmup_ratio": _no_ratio,
    "per_gpu_train_batch_size": _per_device,
    "per_device_train_batch_size": _per_device,
    "gradient_accumulation_steps": _accumulate,
    "accumulate_gradients": _accumulate,
    "only_train_transformer_layers": _only_layers,
    "bf16": _bf16,
    "restore_from": _restore,
    "run_name": _run_name,
    "checkpoint_dir": _folder,
    "optimizer": _optimizer,
    "optim": _optimizer,
}


def _endless(given: Mapping[str, Any]) -> None:
    if given.get("steps") == -1:
        raise InputError(
            "steps -1 is endless in gpt-2-simple; give a number, or --minutes: Ctrl-C saves at any "
            "moment, and --resume continues"
        )


def _together(given: Given, world: int) -> None:
    """What two of their words make of one of ours."""
    times = given.pop("_accumulate", None)
    if times is not None:
        micro = given.get("micro_batch") or given.pop("batch_size", 1)
        given["micro_batch"] = micro
        given["batch_size"] = micro * times * world
    elif "micro_batch" in given and "batch_size" not in given:
        given["batch_size"] = given["micro_batch"] * world
    name, folder = given.pop("_run_name", None), given.pop("_folder", None)
    restore = given.pop("_restore", None)
    if name is not None or folder is not None:
        given.setdefault("out", f"{folder or 'checkpoint'}/{name or 'run1'}")
    if (name, folder, restore) != (None, None, None):
        _as_gpt2simple(restore or "latest", given)


def _as_gpt2simple(restore: Any, given: Given) -> None:
    """There a run continues from its latest step by default, and `overwrite` only means
    that the files before it are deleted; no new run replaces an existing one."""
    if restore == "latest":
        given.pop("overwrite", None)
        given["resume"] = "if there"


def _is_theirs(word: str) -> bool:
    return word in NAMES or word in TOLD or word in RULES


def translate(given: Mapping[str, Any], world: int = 1) -> tuple[Given, Notes]:
    """Settings under our names, and a note on each that came under another.

    world: processes, which the batch of a device is counted on. Raises InputError where a word and
    ours for it are both given, and for what is not offered.
    """
    _endless(given)
    ours: Given = {word: value for word, value in given.items() if not _is_theirs(word)}
    notes: Notes = []
    for word, value in sorted(given.items(), key=lambda item: item[0] in RULES):  # rules come last
        if word in TOLD:
            notes.append(f"{word} is left out: {TOLD[word]}")
        elif word in NAMES:
            if NAMES[word] in ours:
                raise InputError(f"{word} and {NAMES[word]} are the same setting; give one")
            ours[NAMES[word]] = value
            notes.append(f"{word} is {NAMES[word]} here")
        elif word in RULES:
            before = dict(ours)
            RULES[word](value, ours, notes)
            set_here = [k for k in ours if not k.startswith("_") and ours.get(k) != before.get(k)]
            if set_here:
                notes.append(f"{word} is {' and '.join(set_here)} here")
    before = dict(ours)
    _together(ours, world)
    if ours.get("resume") == "if there":
        notes.append(GOES_ON)
    made = [
        f"{k} {ours[k]}"
        for k in ("batch_size", "micro_batch", "out")
        if ours.get(k) != before.get(k)
    ]
    if made:
        notes.append(f"together they make {', '.join(made)}")
    return ours, notes
