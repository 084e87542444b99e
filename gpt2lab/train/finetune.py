"""Train a model on one's own texts in one call, in our words or in those of other trainers.

`translate` turns what users of transformers' Trainer, gpt-2-simple and nanoGPT type into settings
of `TrainConfig` and of `finetune`, with a note on each word, and refuses what has no counterpart by
name. What the words mean there was read in transformers 5.23 `training_args.py`, gpt-2-simple 0.8.1
`gpt_2.py` and nanoGPT `train.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gpt2lab import weights
from gpt2lab.errors import InputError
from gpt2lab.lm import LM, load, place
from gpt2lab.train.distributed import ALONE, Group
from gpt2lab.train.opening import check_folder, described, resume, start
from gpt2lab.train.run import RUN, Run
from gpt2lab.train.settings import BUDGETS, TrainConfig
from gpt2lab.train.sources import again, gather

Given = dict[str, Any]
Notes = list[str]

#: Their word -> ours, where the value means the same.
NAMES = {
    # transformers
    "output_dir": "out",
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
    "evaluation_strategy": "val_every says when to validate",
    "eval_strategy": "val_every says when to validate",
    "save_strategy": "save_every says when to save",
    "prediction_loss_only": "validation is always of the loss only",
    "fp16": "bfloat16 is used where the machine is made for it",
    "use_cpu": "device says where to train",
    "reuse": "there is no session to reuse",
}

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
    if value == "latest":
        given["resume"] = "if there"
    elif value != "fresh":
        given["model"] = value


def _run_name(value: Any, given: Given, notes: Notes) -> None:
    given["_run_name"] = value


def _folder(value: Any, given: Given, notes: Notes) -> None:
    given["_folder"] = value


def _optimizer(value: Any, given: Given, notes: Notes) -> None:
    if str(value).lower() not in ("adam", "adamw", "adamw_torch", "adamw_torch_fused"):
        raise InputError(f"optimizer {value!r} is not offered; AdamW is the one there is")


RULES: dict[str, Rule] = {
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
            "moment, and --resume goes on"
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
    if name is not None or folder is not None:
        given.setdefault("out", f"{folder or 'checkpoint'}/{name or 'run1'}")


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
    for word, value in given.items():
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
    made = [
        f"{k} {ours[k]}"
        for k in ("batch_size", "micro_batch", "out")
        if ours.get(k) != before.get(k)
    ]
    if made:
        notes.append(f"together they make {', '.join(made)}")
    return ours, notes


# ---- Tuning.

#: What a tuning run differs in from one from scratch, where nothing else is said.
TUNING: dict[str, Any] = {
    "epochs": 3.0,
    "batch_size": 8,
    "block_size": 128,
    "learning_rate": 1e-4,
    "warmup": 20,
    "weight_decay": 0.01,
    "val_every": 100,
    "sample_every": 100,
}
#: What `finetune` takes besides the settings.
MORE = ("model", "out", "val", "held_out", "overwrite", "resume", "allow_changes")
#: What of it is about reading texts.
READING = ("columns", "field", "encoding")


def tuning(given: Mapping[str, Any], model: weights.Checkpoint) -> TrainConfig:
    """The settings of a tuning run: what was given, over `TUNING`."""
    usual = dict(TUNING)
    if any(given.get(name) is not None for name in BUDGETS):
        del usual["epochs"]
    usual["block_size"] = min(usual["block_size"], model.config.n_ctx)
    return TrainConfig(**{**usual, **given})


def _known(given: Mapping[str, Any]) -> tuple[Given, Given]:
    """(settings of the run, what else `finetune` takes); InputError for words of neither."""
    names = {field.name for field in fields(TrainConfig)}
    unknown = sorted(set(given) - names - {*MORE, *READING, "text"})
    if unknown:
        raise InputError(
            f"unknown setting {', '.join(unknown)}; known are those of TrainConfig, and of the "
            "Trainer, gpt-2-simple and nanoGPT what has a counterpart"
        )
    return (
        {name: value for name, value in given.items() if name in names},
        {name: value for name, value in given.items() if name not in names},
    )


def prepare_run(
    texts: Sequence[str],
    given: Mapping[str, Any],
    *,
    group: Group = ALONE,
    say: Callable[[str], None] = lambda line: None,
) -> Run:
    """The run that `finetune` does, ready to `go`. given: settings in our words."""
    settings, more = _known(given)
    folder = Path(more.get("out") or "finetuned")
    if more.get("resume") and (folder / RUN).exists():
        return _go_on(folder, settings, bool(more.get("allow_changes")), group, say)
    if more.get("resume") is True:
        raise InputError(f"{folder} holds no run to resume; check the path, or leave resume out")
    overwrite = bool(more.get("overwrite"))
    check_folder(folder, overwrite)
    begin = weights.load(place(more.get("model")))
    if begin.tokenizer is None:
        raise InputError(f"{begin.path} has no vocabulary; texts cannot be cut into tokens without")
    config = tuning(settings, begin)
    gathered = gather(
        texts, folder / "data", val=more.get("val"), tokenizer=begin.tokenizer,
        held_out=more.get("held_out", 0.01), force=overwrite, say=say, group=group,
        **{name: more[name] for name in READING if name in more},
    )  # fmt: skip
    sources = {"data": gathered.places(folder), "model": more.get("model")}
    return start(
        folder, begin, gathered.sets, config, val=gathered.val, overwrite=overwrite,
        sources=sources, group=group, say=say,
    )  # fmt: skip


def _go_on(
    folder: Path, given: Given, allow_changes: bool, group: Group, say: Callable[[str], None]
) -> Run:
    """The run that is there; settings that are given again may be the same ones."""
    made = described(folder)
    old = TrainConfig.from_dict(made["settings"])
    if any(name in given for name in BUDGETS):
        given = {**dict.fromkeys(BUDGETS), **given}
    gathered = again(made["sources"], folder)
    return resume(
        folder, gathered.sets, replace(old, **given), val=gathered.val,
        allow_changes=allow_changes, group=group, say=say,
    )  # fmt: skip


def finetune(text: str | Path | Sequence[str | Path], **given: Any) -> LM:
    """Train a model on texts, and give it back; everything that the run made is in its folder.

    text: files, folders, patterns, or a set of tokens, as `gpt2lab train` takes them. given: model
    (the bundled one by default), out (the run's folder, "finetuned"), val, held_out, overwrite,
    resume, what `prepare` reads texts by (columns, field, encoding), every field of `TrainConfig`;
    or other trainers' words for them, each with a warning (`translate`): output_dir,
    num_train_epochs, per_device_train_batch_size, save_steps, run_name, restore_from,
    accumulate_gradients and so on. Raises InputError for what does not fit.
    """
    ours, notes = translate(given)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    texts = [str(text)] if isinstance(text, str | Path) else [str(path) for path in text]
    with prepare_run(texts, ours) as run:
        for _ in run.go():
            pass
    return load(str(run.folder))
