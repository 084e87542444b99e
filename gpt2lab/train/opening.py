"""Making a run of a model and its data, and finding one again: `start` and `resume`.

From scratch and on from a checkpoint differ in the model that is given. Everything that does not go
together is found here, before the first step and before anything is written.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock

from gpt2lab import __version__
from gpt2lab.config import Config
from gpt2lab.errors import InputError, MissingExtraError
from gpt2lab.files import accessing, checked, read_json, sync, write_whole
from gpt2lab.tokenizer import Tokenizer
from gpt2lab.train import checkpoint, journal, memory, model, precision
from gpt2lab.train.data import Batches, evaluation
from gpt2lab.train.distributed import ALONE, Group
from gpt2lab.train.run import BEST, RUN, Run, environment, read_state
from gpt2lab.train.settings import BUDGETS, TrainConfig, changes
from gpt2lab.train.shards import TokenSet, vocabulary_hash
from gpt2lab.train.sources import check_places
from gpt2lab.train.state import new_state
from gpt2lab.weights import Checkpoint, huggingface

try:
    import torch
except ModuleNotFoundError:
    raise MissingExtraError("training", "torch", "train") from None

Say = Callable[[str], None]
DATA = "data"  # the folder of a run in which its texts are prepared


def ready(settings: TrainConfig) -> tuple[TrainConfig, torch.device]:
    """Prepare the process for training; the settings with what was left open decided."""
    name = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here ({error!s:.100})") from None
    if settings.threads:
        torch.set_num_threads(settings.threads)
    memory.keep()
    chosen = precision.choose(settings.dtype, device)
    if device.type == "cpu" and chosen == torch.float32:
        precision.quicken_float32()
    named = str(chosen).removeprefix("torch.")
    return replace(settings, dtype=named, device=str(device)), device


def _locked(folder: Path, group: Group) -> filelock.BaseFileLock | None:
    """Hold the folder, or an error that says that another process does."""
    lock = filelock.FileLock(folder / ".lock")

    def acquire() -> None:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(
                f"{folder} is in use by another process; wait for it, or choose another folder"
            ) from None

    group.agree(acquire)
    return lock if group.first else None


def holds_run(folder: Path) -> bool:
    """Whether there is a run. One that ended while it was made, before its first step, is none."""
    if (folder / RUN).exists():
        return True
    return any(checkpoint.step_of(path.name) > 0 for path in checkpoint.all_of(folder))


def _check_folder(folder: Path, overwrite: bool) -> None:
    if holds_run(folder) and not overwrite:
        raise InputError(
            f"{folder} holds a run already; go on with --resume, replace it with --overwrite, or "
            "choose another folder"
        )


def _check_block(settings: TrainConfig, config: Config) -> TrainConfig:
    block = settings.block_size or config.n_ctx
    if block > config.n_ctx:
        raise InputError(
            f"block_size {block} is more than the model's context n_ctx {config.n_ctx}; "
            "lower it, or make a model with a longer context"
        )
    return replace(settings, block_size=block)


def check_budget(settings: TrainConfig) -> None:
    """Raise InputError where nothing says how long to train."""
    if all(getattr(settings, name) is None for name in BUDGETS):
        raise InputError(f"no budget; give one of {', '.join(BUDGETS)}")


def check_early(settings: TrainConfig, config: Config, group: Group) -> None:
    """Raise InputError for settings that cannot be, before hours go into preparing texts."""
    check_budget(settings)
    _check_block(settings, config)
    group.check_batch(settings)
    ready(settings)


def claim(folder: Path, overwrite: bool, group: Group) -> filelock.BaseFileLock | None:
    """Make the folder of a new run and hold it; the first process's lock, None on the others.

    Raises InputError for one that holds a run which is not to be replaced, or that is in use.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose another name for the run's folder")
    with accessing(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
    group.agree(lambda: _check_folder(folder, overwrite))
    return _locked(folder, group)


def data_folder(folder: Path, group: Group) -> Path:
    """Where the texts of a new run are prepared: never where those of a run that is there are."""

    def free() -> Path:
        names = [DATA, *(f"{DATA}-{number}" for number in range(2, 1000))]
        taken = holds_run(folder)
        return next(folder / n for n in names if not (taken and (folder / n).exists()))

    return group.agree(free)


def _check_vocabulary(sets: Sequence[TokenSet], start: Checkpoint) -> None:
    for tokens in sets:
        if tokens.n_vocab > start.config.n_vocab:
            raise InputError(
                f"{tokens.name}: its vocabulary has {tokens.n_vocab} tokens, the model's "
                f"{start.config.n_vocab}; prepare the texts with the model's own vocabulary"
            )
        both = tokens.tokenizer is not None and start.tokenizer is not None
        if both and vocabulary_hash(tokens.tokenizer) != vocabulary_hash(start.tokenizer):
            raise InputError(
                f"{tokens.name} was made with another vocabulary than the model's; prepare the "
                "texts again with --model"
            )


def _made(
    sets: Sequence[TokenSet],
    settings: TrainConfig,
    start: Checkpoint,
    sources: dict[str, Any],
) -> dict[str, Any]:
    """What run.json says."""
    return {
        "format": 1,
        "gpt2lab": __version__,
        "settings": settings.to_dict(),
        "config": start.config.to_dict(),
        "model": sources.get("model"),
        "sources": sources.get("data", {}),
        "data": [
            {"name": s.name, "tokens": s.n_tokens, "fingerprint": s.fingerprint} for s in sets
        ],
    }


def _check_prompts(settings: TrainConfig, config: Config, tokenizer: Tokenizer | None) -> None:
    """Raise InputError for a prompt that no sample could begin with, before hours are spent."""
    for prompt in settings.prompts:
        if tokenizer is None:
            raise InputError(f"the prompt {prompt!r} cannot be encoded: there is no vocabulary")
        length = len(tokenizer.encode(prompt))
        if length >= config.n_ctx:
            raise InputError(
                f"the prompt {prompt[:40]!r} has {length} tokens, the model's context is "
                f"{config.n_ctx}; shorten it"
            )


def _run(
    folder: Path,
    settings: TrainConfig,
    start: Checkpoint,
    sets: Sequence[tuple[TokenSet, float]],
    val: TokenSet | None,
    made: dict[str, Any],
    lock: filelock.BaseFileLock | None,
    group: Group,
    device: torch.device,
    say: Say,
) -> Run:
    assert settings.block_size is not None
    batches = Batches(
        sets, block=settings.block_size, batch=settings.batch_size, order=settings.order,
        seed=settings.seed,
    )  # fmt: skip
    group.check_batch(settings)
    windows = None
    if val is not None and val.n_tokens > 1:
        most = math.ceil(settings.val_tokens / settings.block_size) if settings.val_tokens else None
        windows = evaluation(val, settings.block_size, most)
    state = new_state(start, settings, device, group)
    if settings.compile and group.divides(settings):
        for block in state.model.h:  # of these none can be tried alone
            block.compile(dynamic=False)
    elif settings.compile:
        rows = settings.micro_batch or settings.batch_size // group.world
        why = model.compile_blocks(state.model, rows, settings.block_size)
        if why is not None:
            say(f"torch.compile does not work here and is left out: {why}")
    tokenizer = start.tokenizer or sets[0][0].tokenizer
    _check_prompts(settings, start.config, tokenizer)
    return Run(
        folder, settings, state, batches, windows, tokenizer, made, lock, group,
        generation=dict(start.generation),
    )  # fmt: skip


def _unheard(line: str) -> None:
    """Of many processes one tells."""


def start(
    folder: Path | str,
    begin: Checkpoint,
    sets: Sequence[tuple[TokenSet, float]],
    settings: TrainConfig,
    *,
    val: TokenSet | None = None,
    sources: dict[str, Any] | None = None,
    overwrite: bool = False,
    lock: filelock.BaseFileLock | None = None,
    group: Group = ALONE,
    say: Say = lambda line: None,
) -> Run:
    """A new run in `folder`, which must not hold one; with `overwrite` the old one is replaced.

    begin: the model as it is at first, fresh (`scratch`) or from anywhere (`weights.load`). sets:
    token sets with their weights. val: what is validated on. sources: where model and data came
    from, for `resume`. lock: what `claim` gave, where that was called before. say: is told what is
    left out. Raises InputError for all that does not go together; what was there is then untouched.
    """
    folder = Path(folder)
    say = say if group.first else _unheard
    check_budget(settings)
    settings, device = ready(_check_block(settings, begin.config))
    _check_vocabulary([s for s, _ in sets] + ([val] if val else []), begin)
    lock = lock or claim(folder, overwrite, group)
    try:
        made = _made([s for s, _ in sets], settings, begin, sources or {})
        run = _run(folder, settings, begin, sets, val, made, lock, group, device, say)
        group.agree(lambda: _make_room(folder, made))
        run.save()  # before run.json: a run can be resumed from the moment that it is one
        group.agree(lambda: _describe(folder, made))
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    return run


def _describe(folder: Path, made: dict[str, Any]) -> None:
    write_whole(folder / RUN, json.dumps(made, indent=2, ensure_ascii=False) + "\n")
    sync(folder / RUN)
    sync(folder)


def _drop_data(folder: Path, made: dict[str, Any]) -> None:
    """Remove what was prepared in a run's folder and is not the run's that `made` describes."""
    used = {Path(path).parts[0] for path in made["sources"].get("paths", ()) if path}
    for path in folder.glob(f"{DATA}*"):
        if path.is_dir() and path.name not in used:
            shutil.rmtree(path, ignore_errors=True)


def give_up(folder: Path, lock: filelock.BaseFileLock | None, group: Group) -> None:
    """Let go of a folder in which no run came about: one that was there is as it was.

    Texts that were prepared for a first run stay, as they may have taken long.
    """
    if group.first and (folder / RUN).is_file():
        with suppress(InputError):  # a damaged run.json: then nothing of it is deleted
            _drop_data(folder, described(folder))
    if lock is not None:
        lock.release()


def _make_room(folder: Path, made: dict[str, Any]) -> None:
    """Remove the run that a folder holds, its data too; not those of the new one."""
    _drop_data(folder, made)
    for path in checkpoint.all_of(folder):
        shutil.rmtree(path)
    checkpoint.clear(folder)
    shutil.rmtree(folder / journal.TENSORBOARD, ignore_errors=True)
    for name in (RUN, checkpoint.LATEST, BEST, journal.NAME, "curve.png", "report.html"):
        (folder / name).unlink(missing_ok=True)


def described(folder: Path) -> dict[str, Any]:
    """run.json of a folder; InputError where there is no run."""
    if not (folder / RUN).is_file():
        raise InputError(f"{folder} holds no run ({RUN} is missing); check the path")
    kinds: dict[str, tuple[type, ...]] = {
        "settings": (dict,),
        "config": (dict,),
        "sources": (dict,),
    }
    made = checked(read_json(folder / RUN), str(folder / RUN), kinds)
    if made["sources"]:
        check_places(made["sources"], f"{folder / RUN}: sources")
    return made


def settings_of(folder: Path) -> TrainConfig:
    """The settings that a run goes on with: those of its newest whole checkpoint."""
    described(folder)
    newest = checkpoint.newest_whole(folder, _unheard)
    return TrainConfig.from_dict(read_state(newest)["settings"])


def resume(
    folder: Path | str,
    sets: Sequence[tuple[TokenSet, float]],
    settings: TrainConfig | None = None,
    *,
    val: TokenSet | None = None,
    allow_changes: bool = False,
    group: Group = ALONE,
    say: Say = lambda line: None,
) -> Run:
    """The run in `folder` as it was at its newest whole checkpoint, ready to go on.

    settings: None for those it began with; others are refused with a list, unless `allow_changes`.
    say: is told what was passed over, and what makes the last bits differ. Raises InputError for
    other data, Failure when no checkpoint is whole.
    """
    folder = Path(folder)
    say = say if group.first else _unheard
    made = described(folder)
    lock = _locked(folder, group)
    try:
        newest = group.agree(lambda: checkpoint.newest_whole(folder, say))
        values = read_state(newest)
        old = TrainConfig.from_dict(values["settings"])
        begin = huggingface.load(newest)
        settings = _agreed(old, settings, begin.config, allow_changes)
        settings, device = ready(settings)
        made = {**made, "settings": settings.to_dict()}
        run = _run(folder, settings, begin, sets, val, made, lock, group, device, say)
        if run.batches.fingerprint != values["data"]:
            raise InputError(
                f"{folder} was trained on other data (fingerprint {values['data'][:12]}, these "
                f"have {run.batches.fingerprint[:12]}); give the data it was started with"
            )
        _tell_of_changes(values["environment"], environment(settings, group), say)
        run.restore(newest)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    return run


def _agreed(
    old: TrainConfig, new: TrainConfig | None, config: Config, allow_changes: bool
) -> TrainConfig:
    """The settings to go on with."""
    if new is None:
        return old
    new = _check_block(new, config)
    if new.dtype == "auto":
        new = replace(new, dtype=old.dtype)
    changed = changes(old, new)
    if changed and not allow_changes:
        raise InputError(
            f"the run was started with other settings: {'; '.join(changed)}; leave them as they "
            "were, or add --allow-changes to go on with the new ones"
        )
    return new


def _tell_of_changes(old: dict[str, Any], new: dict[str, Any], say: Say) -> None:
    other = [
        f"{key} {old.get(key)} -> {value}" for key, value in new.items() if old.get(key) != value
    ]
    if other:
        say(f"the run goes on elsewhere than it began ({', '.join(other)}): equal up to rounding")
