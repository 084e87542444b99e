"""What a user asks of training, from names to a run: `prepare_run`, for Python and the commands.

It reads the model, claims the folder, prepares the texts or compares them with those of an earlier
start, and starts or resumes the run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from gpt2lab import weights
from gpt2lab.config import Config
from gpt2lab.corpus.documents import READING
from gpt2lab.corpus.token_set import vocabulary_hash
from gpt2lab.errors import InputError
from gpt2lab.text import tokenizer as vocabularies
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.train.config import BUDGETS, TUNING, TrainConfig
from gpt2lab.train.data_sources import Gathered, again, gather
from gpt2lab.train.new_model import NewModel
from gpt2lab.train.parallel.group import ALONE, Group
from gpt2lab.train.run import Run
from gpt2lab.train.run_folder import (
    RUN,
    claim,
    data_folder,
    described,
    give_up,
    locked,
    settings_of,
)
from gpt2lab.train.same_data import differs, is_same_model, vocabulary_of
from gpt2lab.train.start import check_early, give_text, resume, start
from gpt2lab.weights.find import load_vocabulary
from gpt2lab.weights.hub import locate

Given = Mapping[str, Any]

log = logging.getLogger(__name__)

#: The fields of `NewModel`, and the vocabulary that goes with a model trained from scratch.
SCRATCH = (*(item.name for item in fields(NewModel)), "vocabulary", "weights")


@dataclass(frozen=True)
class Launch:
    """A run as a user asks for it.

    data: texts or token sets. out: the run's folder. settings: the fields of `TrainConfig` that
    were given. new: the shape of a model to train from scratch, None to start from `model` (a name;
    None is the bundled model). tunes: whether the defaults are those of fine-tuning. resume: True
    resumes the run in `out`; "if there" does so where there is one, and trains its weights on
    another text if that is what `data` is (gpt-2-simple's rule).
    """

    data: Sequence[str]
    out: Path
    settings: Given
    model: str | None = None
    new: NewModel | None = None
    tunes: bool = False
    vocabulary: str | Tokenizer | None = None
    weights: Sequence[float] = ()
    val: str | None = None
    held_out: float | None = None
    reading: Given = field(default_factory=dict)
    overwrite: bool = False
    resume: bool | str | None = None
    allow_changes: bool = False


_OPTIONS = {item.name for item in fields(Launch)} - {"data", "settings", "new", "tunes", "reading"}
#: What `finetune` and `pretrain` take besides the fields of `TrainConfig` and of `Reading`.
MORE = tuple(sorted(_OPTIONS - {"vocabulary", "weights"}))


def _new_model(given: Given) -> NewModel | None:
    """Return the shape of the model to train from scratch, None if a model is named."""
    names = [item.name for item in fields(NewModel) if given.get(item.name) is not None]
    if given.get("model") is None:
        return NewModel(**{name: given[name] for name in names})
    if names:
        raise InputError(f"{names[0]} is for a new model, and model names one; give one of them")
    return None


def shape_of(given: Given) -> Config:
    """Return the configuration that `pretrain` would train, with GPT-2's vocabulary."""
    new = _new_model(given)
    if new is not None:
        return new.config(50257, 50256)
    return weights.load(locate(given["model"])).config


def _launch(data: Sequence[str], given: Given, tunes: bool) -> Launch:
    """Sort what was given; InputError for unknown names."""
    settings = {item.name for item in fields(TrainConfig)}
    known = settings | set(READING) | set(MORE) | (set() if tunes else set(SCRATCH))
    if unknown := sorted(set(given) - known):
        raise InputError(
            f"unknown setting {', '.join(unknown)}; known are those of TrainConfig, and of the "
            "Trainer, gpt-2-simple and nanoGPT what has a counterpart"
        )

    def taken(names: Any) -> dict[str, Any]:
        return {name: given[name] for name in names if given.get(name) is not None}

    options = taken(_OPTIONS)
    options["out"] = Path(options.get("out") or ("finetuned" if tunes else "trained"))
    return Launch(
        data, settings={name: given[name] for name in settings & set(given)}, tunes=tunes,
        new=None if tunes else _new_model(given), reading=taken(READING), **options,
    )  # fmt: skip


def prepare_run(
    data: Sequence[str], given: Given, *, tunes: bool = True, group: Group = ALONE
) -> Run:
    """Return the run that the settings (in our words) ask for, ready to `go`.

    tunes: whether they are those of `finetune`, or of `pretrain`. Raises InputError for everything
    that does not fit together; a folder that was there is then as it was.
    """
    launch = _launch(data, given, tunes)
    if launch.resume and launch.overwrite:
        raise InputError("resume continues a run, overwrite replaces it; give one of them")
    if launch.resume and group.agree(lambda: (launch.out / RUN).exists()):
        return _resumed(launch, group)
    if launch.allow_changes and not launch.resume:
        raise InputError("allow_changes is for a run that is resumed; leave it out, or add resume")
    if launch.resume is True:
        raise InputError(
            f"{launch.out} holds no run to resume; check the path, or leave resume out"
        )
    return _started(launch, group)


# ---- A new run.


def _vocabulary(launch: Launch, model: weights.Checkpoint | None) -> Tokenizer | None:
    """Return what texts are encoded with: the vocabulary that was named, the model's or GPT-2's."""
    if isinstance(launch.vocabulary, Tokenizer):
        return launch.vocabulary
    if launch.vocabulary is not None:
        return load_vocabulary(launch.vocabulary)
    if model is None:
        return vocabularies.official()
    if launch.tunes and model.tokenizer is None:
        raise InputError(f"{model.path} has no vocabulary; texts cannot be cut into tokens without")
    return model.tokenizer


def tuning(given: Given, model: weights.Checkpoint) -> TrainConfig:
    """Return the settings of a fine-tuning run: what was given, over `TUNING`."""
    usual = {**TUNING, "block_size": min(TUNING["block_size"], model.config.n_ctx)}
    if any(given.get(name) is not None for name in BUDGETS):
        del usual["epochs"]
    return TrainConfig(**{**usual, **given})


def _gathered(
    launch: Launch, tokenizer: Tokenizer | None, validates: bool, group: Group
) -> Gathered:
    if launch.val is not None and not validates:
        log.warning(f"validation is switched off, so {launch.val} is not used")
    return gather(
        launch.data, group.agree(lambda: data_folder(launch.out)), weights=launch.weights,
        val=launch.val if validates else None, validates=validates,
        tokenizer=tokenizer, named=launch.new is None or launch.vocabulary is not None,
        held_out=launch.held_out, group=group, **launch.reading,
    )  # fmt: skip


def _started(launch: Launch, group: Group) -> Run:
    group.at("reading the model")
    model = None if launch.new else weights.load(locate(launch.model))
    tokenizer = _vocabulary(launch, model)
    if model is not None:
        config = model.config
    else:
        assert launch.new is not None and tokenizer is not None
        config = launch.new.config(tokenizer.n_vocab, None)
    settings = TrainConfig(**launch.settings)
    if launch.tunes and model is not None:
        settings = tuning(launch.settings, model)
    check_early(settings, config, group)
    claimed = claim(launch.out, launch.overwrite, group)
    try:
        gathered = _gathered(launch, tokenizer, settings.validate, group)
        if model is None:
            assert launch.new is not None
            model = launch.new.checkpoint(gathered.sets[0][0], settings.seed)
        if gathered.val is None and settings.validate:
            log.info("nothing is held out, so there is no validation; --val names a text for it")
        return start(
            launch.out, model, gathered.sets, settings, val=gathered.val, claimed=claimed,
            sources={"data": gathered.places(launch.out), "model": launch.model}, group=group,
        )  # fmt: skip
    except BaseException:
        give_up(claimed, group)
        raise


# ---- A run that is resumed.


def _check_same(launch: Launch, made: Given) -> None:
    """Raise InputError if the model that is named is not that of the run."""
    run, old, shares = launch.out, made.get("model"), made["sources"].get("weights")
    if launch.model is not None and not is_same_model(launch.model, old):
        raise InputError(
            f"{run} began with the model {old or 'that is bundled'}, not {launch.model}; leave the "
            "model out to go on, or choose another folder for a new run"
        )
    if launch.new is not None:
        launch.new.check_same(made["config"])
    if launch.vocabulary is not None:
        named, own = _vocabulary(launch, None), vocabulary_of(run)
        if named is None or own is None or vocabulary_hash(named) != vocabulary_hash(own):
            raise InputError(f"{run} was trained with another vocabulary; leave vocabulary out")
    if launch.weights and shares is not None and list(launch.weights) != shares:
        raise InputError(f"{run} was trained with weights {shares}; leave weights out")


def _other_data(launch: Launch, made: Given, group: Group) -> str | None:
    """Why the data that are named are not those of the run, found by the first process."""
    options = dict(launch.reading)
    if launch.held_out is not None:
        options["held_out"] = launch.held_out
    run, data = launch.out, launch.data
    group.at("comparing the data")
    return group.agree(
        lambda: differs(made, run, data, val=launch.val, tokenizer=vocabulary_of(run), **options)
    )


def _refused(launch: Launch, why: str) -> InputError:
    """A run cannot go on with other data: how to do what is asked for."""
    run, verb = launch.out, "finetune" if launch.tunes else "train"
    if not launch.data:
        return InputError(f"{run} was made otherwise ({why}); leave it out to go on with the run")
    named = " ".join(map(str, launch.data))
    return InputError(
        f"{run} was trained on other data than {named} ({why}); leave them out to go on with its "
        f"own, or train its weights on them: gpt2lab {verb} {named} --model {run} --out {run}-2"
    )


def _resumed(launch: Launch, group: Group) -> Run:
    """Resume the run in `out`; what is given again is compared with what it was made from.

    In gpt-2-simple's words another text is trained on from the last weights, and another budget
    needs no permission; otherwise both are refused.
    """
    folder, given, if_there = launch.out, launch.settings, launch.resume == "if there"
    made, old = described(folder), settings_of(folder)
    _check_same(launch, made)
    if any(name in given for name in BUDGETS):
        given = {**dict.fromkeys(BUDGETS), **given}
    settings = replace(old, **given)
    why = _other_data(launch, made, group)
    if why is not None:
        if if_there and launch.data:
            return _train_on(launch, settings, group)
        raise _refused(launch, why)
    gathered = again(made["sources"], folder, launch.data, launch.val)
    longer = replace(settings, **{name: getattr(old, name) for name in BUDGETS}) == old
    return resume(
        folder, gathered.sets, settings, val=gathered.val, sources=gathered.places(folder),
        allow_changes=launch.allow_changes or (if_there and longer), group=group,
    )  # fmt: skip


def _train_on(launch: Launch, settings: TrainConfig, group: Group) -> Run:
    """Train the last weights of an existing run on another text; steps are counted from there."""
    log.warning(
        f"{launch.out} was trained on other texts; its last weights are trained on with these"
    )
    claimed = locked(launch.out, group)
    try:
        gathered = _gathered(launch, vocabulary_of(launch.out), settings.validate, group)
        give_text(launch.out, gathered.sets, gathered.places(launch.out), settings, group)
        return resume(
            launch.out, gathered.sets, settings, val=gathered.val, claimed=claimed,
            allow_changes=True, group=group,
        )  # fmt: skip
    except BaseException:
        give_up(claimed, group)
        raise
