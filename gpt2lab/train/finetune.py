"""Train a model on one's own texts in one call, in our words or in those of other trainers."""

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
from gpt2lab.train.documents import READING
from gpt2lab.train.opening import (
    check_early,
    claim,
    data_folder,
    described,
    give_up,
    resume,
    settings_of,
    start,
)
from gpt2lab.train.run import RUN, Run
from gpt2lab.train.settings import BUDGETS, TUNING, TrainConfig
from gpt2lab.train.sources import again, gather
from gpt2lab.train.words import translate

Given = dict[str, Any]

#: What `finetune` takes besides the settings.
MORE = ("model", "out", "val", "held_out", "overwrite", "resume", "allow_changes")


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
    begin = weights.load(place(more.get("model")))
    if begin.tokenizer is None:
        raise InputError(f"{begin.path} has no vocabulary; texts cannot be cut into tokens without")
    config = tuning(settings, begin)
    check_early(config, begin.config, group)
    lock = claim(folder, bool(more.get("overwrite")), group)
    try:
        return _new(texts, folder, begin, config, more, lock, group, say)
    except BaseException:
        give_up(folder, lock, group)
        raise


def _new(
    texts: Sequence[str],
    folder: Path,
    begin: weights.Checkpoint,
    config: TrainConfig,
    more: Given,
    lock: Any,
    group: Group,
    say: Callable[[str], None],
) -> Run:
    gathered = gather(
        texts, data_folder(folder, group), val=more.get("val"), tokenizer=begin.tokenizer,
        held_out=more.get("held_out", 0.01), say=say, group=group,
        **{name: more[name] for name in READING if name in more},
    )  # fmt: skip
    sources = {"data": gathered.places(folder), "model": more.get("model")}
    return start(
        folder, begin, gathered.sets, config, val=gathered.val, lock=lock,
        sources=sources, group=group, say=say,
    )  # fmt: skip


def _go_on(
    folder: Path, given: Given, allow_changes: bool, group: Group, say: Callable[[str], None]
) -> Run:
    """The run that is there; settings that are given again may be the same ones."""
    made, old = described(folder), settings_of(folder)
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
    resume, how texts are read (the fields of `documents.Reading`), every field of `TrainConfig`; or
    other trainers' words for them, each with a warning (`translate`): output_dir,
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
