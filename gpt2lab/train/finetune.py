"""Train a model on one's own texts in one call, in our words or in those of other trainers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gpt2lab import weights
from gpt2lab.corpus.documents import READING
from gpt2lab.errors import InputError
from gpt2lab.lm import LM, load, place
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.train import progress
from gpt2lab.train.aliases import translate
from gpt2lab.train.config import BUDGETS, TUNING, TrainConfig
from gpt2lab.train.data_sources import Gathered, again, gather
from gpt2lab.train.folder_lock import Claim, held
from gpt2lab.train.parallel.group import ALONE, Group
from gpt2lab.train.run import RUN, Run
from gpt2lab.train.same_data import check_same_model, different, refuse_other, vocabulary_of
from gpt2lab.train.start import (
    check_early,
    claim,
    data_folder,
    described,
    give_text,
    give_up,
    resume,
    settings_of,
    start,
)

log = logging.getLogger(__name__)

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
    if more.get("resume") and more.get("overwrite"):
        raise InputError("resume goes on with a run, overwrite replaces it; give one of them")
    if more.get("resume") and group.agree(lambda: (folder / RUN).exists()):
        return _go_on(texts, folder, settings, more, group, say)
    if more.get("allow_changes") and not more.get("resume"):
        raise InputError("allow_changes is for a run that is resumed; leave it out, or add resume")
    if more.get("resume") is True:
        raise InputError(f"{folder} holds no run to resume; check the path, or leave resume out")
    group.at("reading the model")
    begin = weights.load(place(more.get("model")))
    if begin.tokenizer is None:
        raise InputError(f"{begin.path} has no vocabulary; texts cannot be cut into tokens without")
    config = tuning(settings, begin)
    check_early(config, begin.config, group)
    claimed = claim(folder, bool(more.get("overwrite")), group)
    try:
        return _new(texts, folder, begin, config, more, claimed, group, say)
    except BaseException:
        give_up(folder, claimed, group)
        raise


def _gathered(
    texts: Sequence[str],
    folder: Path,
    tokenizer: Tokenizer | None,
    more: Given,
    say: Callable[[str], None],
    group: Group,
) -> Gathered:
    return gather(
        texts, data_folder(folder, group), val=more.get("val"), tokenizer=tokenizer,
        held_out=more.get("held_out"), say=say, group=group,
        **{name: more[name] for name in READING if name in more},
    )  # fmt: skip


def _new(
    texts: Sequence[str],
    folder: Path,
    begin: weights.Checkpoint,
    config: TrainConfig,
    more: Given,
    claimed: Claim,
    group: Group,
    say: Callable[[str], None],
) -> Run:
    gathered = _gathered(texts, folder, begin.tokenizer, more, say, group)
    sources = {"data": gathered.places(folder), "model": more.get("model")}
    return start(
        folder, begin, gathered.sets, config, val=gathered.val, claimed=claimed,
        sources=sources, group=group, say=say,
    )  # fmt: skip


def _go_on(
    texts: Sequence[str],
    folder: Path,
    given: Given,
    more: Given,
    group: Group,
    say: Callable[[str], None],
) -> Run:
    """The run that is there; what is given again is compared with what it was made of.

    Another text is refused, or, in gpt-2-simple's words, trained on from the last weights; in those
    words another budget is no change that has to be allowed.
    """
    made, old = described(folder), settings_of(folder)
    check_same_model(made, more.get("model"), folder)
    if any(name in given for name in BUDGETS):
        given = {**dict.fromkeys(BUDGETS), **given}
    settings = replace(old, **given)
    options = {name: more[name] for name in (*READING, "held_out") if name in more}
    why = different(made, folder, texts, group, val=more.get("val"), **options)
    if why is not None and more.get("resume") == "if there" and texts:
        return _train_on(texts, folder, settings, more, group, say)
    refuse_other(why, "finetune", texts, folder)
    gathered = again(made["sources"], folder, texts, more.get("val"))
    longer = replace(settings, **{name: getattr(old, name) for name in BUDGETS}) == old
    allowed = more.get("allow_changes") or (more.get("resume") == "if there" and longer)
    return resume(
        folder, gathered.sets, settings, val=gathered.val, sources=gathered.places(folder),
        allow_changes=bool(allowed), group=group, say=say,
    )  # fmt: skip


def _train_on(
    texts: Sequence[str],
    folder: Path,
    settings: TrainConfig,
    more: Given,
    group: Group,
    say: Callable[[str], None],
) -> Run:
    """The run that is there on another text: its last weights, and steps counted on from there."""
    say(f"{folder} was trained on other texts; its last weights are trained on with these")
    claimed = held(folder, group)
    try:
        gathered = _gathered(texts, folder, vocabulary_of(folder), more, say, group)
        places = gathered.places(folder)
        give_text(folder, gathered.sets, places, settings, group)
        return resume(
            folder, gathered.sets, settings, val=gathered.val, claimed=claimed, allow_changes=True,
            group=group, say=say,
        )  # fmt: skip
    except BaseException:
        give_up(folder, claimed, group)
        raise


def _texts(text: str | Path | Sequence[str | Path] | None, dataset: Any) -> list[str]:
    """The texts, which have two names: ours and gpt-2-simple's."""
    if text is not None and dataset is not None:
        raise InputError("the text is given twice, as an argument and as dataset; give one")
    text = text if text is not None else dataset
    if text is None:
        return []
    return [str(text)] if isinstance(text, str | Path) else [str(path) for path in text]


def finetune(
    text: str | Path | Sequence[str | Path] | None = None,
    *,
    verbose: bool = True,
    callback: Callable[[dict[str, Any]], None] | None = None,
    **given: Any,
) -> LM:
    """Train a model on texts, and give it back; everything that the run made is in its folder.

    text: files, folders, patterns, or a set of tokens, as `gpt2lab train` takes them; also called
    dataset; not needed to resume. verbose: show a line of loss every ten
    seconds, validations and notes on stderr. All are INFO records of the
    logger `gpt2lab.train`: where the program has handlers, these get them and nothing is added;
    with verbose False that is left to the program's own settings. callback: is given each record of
    the run (its kind, step, loss and so on, as in log.jsonl).
    given: model (the bundled one by default), out (the run's folder, "finetuned"), val, held_out,
    overwrite, resume, how texts are read (the fields of `documents.Reading`), every field of
    `TrainConfig`; or other trainers' words for them, each with a warning (`translate`): output_dir,
    num_train_epochs, per_device_train_batch_size, save_steps, run_name, restore_from,
    accumulate_gradients and so on. Raises InputError for what does not fit.
    """
    ours, notes = translate(given)
    for note in notes:
        log.warning(note)
    texts = _texts(text, ours.pop("text", None))
    with progress.heard(verbose), prepare_run(texts, ours, say=progress.LOGGER.info) as run:
        for record in progress.log(run.folder, run.go()):
            if callback is not None:
                callback(record)
    return load(str(run.folder))
