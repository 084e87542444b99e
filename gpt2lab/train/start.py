"""Making a run of a model and its data, and finding one again: `start` and `resume`.

From scratch and on from a checkpoint differ in the model that is given. Everything that does not go
together is found here, before the first step and before anything is written.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt2lab import __version__, forks
from gpt2lab.config import Config
from gpt2lab.corpus.batches import Batches, Part, evaluation
from gpt2lab.corpus.token_set import TokenSet, vocabulary_hash
from gpt2lab.errors import InputError, MissingExtraError, quoted
from gpt2lab.files.io import accessing
from gpt2lab.files.json_files import checked, read_json
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.train import allocator, checkpoint_files, log, model, precision
from gpt2lab.train.config import BUDGETS, TrainConfig, changes
from gpt2lab.train.data_sources import check_places
from gpt2lab.train.folder_lock import Claim, held
from gpt2lab.train.optimizer_state import new_state
from gpt2lab.train.parallel.group import ALONE, Group
from gpt2lab.train.run import BEST, RUN, Run, describe, environment, read_state
from gpt2lab.weights import Checkpoint
from gpt2lab.weights.formats import huggingface

try:
    import torch
except ModuleNotFoundError:
    raise MissingExtraError("training", "torch", "train") from None

Say = Callable[[str], None]
DATA = "data"  # the folder of a run in which its texts are prepared


def ready(
    settings: TrainConfig,
    config: Config | None = None,
    group: Group = ALONE,
    say: Say = lambda line: None,
) -> tuple[TrainConfig, torch.device]:
    """Prepare the process for training; the settings with what was left open decided.

    config: of the model, for which the number type is measured where it is left open. say: is told
    the figures.
    """
    name = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here ({error!s:.100})") from None
    if forks.torch_is_inherited and (settings.threads or 1) > 1:
        raise InputError(
            f"threads is {settings.threads}, and torch computes with one in a process forked from "
            "one that had imported it; leave threads out, or start the process by spawn"
        )
    if settings.threads:
        torch.set_num_threads(settings.threads)
    allocator.keep()
    if device.type == "cpu":
        precision.quicken_float32()
    chosen, why = group.agree(
        lambda: precision.choose(settings.dtype, device, config, settings.block_size)
    )
    if why:
        say(why)
    named = str(chosen).removeprefix("torch.")
    return replace(settings, dtype=named, device=str(device)), device


def holds_run(folder: Path) -> bool:
    """Whether there is a run. One that ended while it was made, before its first step, is none."""
    if (folder / RUN).exists():
        return True
    return any(checkpoint_files.step_of(path.name) > 0 for path in checkpoint_files.all_of(folder))


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


def claim(folder: Path, overwrite: bool, group: Group) -> Claim:
    """Make the folder of a new run and hold it, on all processes.

    Raises InputError for one that holds a run which is not to be replaced, or that is in use.
    """
    group.at("claiming the run's folder")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose another name for the run's folder")
    new = group.agree(lambda: [path for path in (folder, *folder.parents) if not path.exists()])
    with accessing(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
    group.agree(lambda: _check_folder(folder, overwrite))
    return held(folder, group, tuple(new))


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
            own = start.tokenizer is not None and start.tokenizer.n_vocab > start.config.n_vocab
            step = (
                "it is the model's own: take the added tokens out of its files, or give the "
                "weights more rows (transformers: resize_token_embeddings)"
                if own
                else "prepare the texts with the model's own vocabulary"
            )
            raise InputError(
                f"{tokens.name}: its vocabulary has {tokens.n_vocab} tokens, the model's "
                f"{start.config.n_vocab}; {step}"
            )
        both = tokens.tokenizer is not None and start.tokenizer is not None
        if both and vocabulary_hash(tokens.tokenizer) != vocabulary_hash(start.tokenizer):
            raise InputError(
                f"{tokens.name} was made with another vocabulary than the model's; prepare the "
                "texts again with --model"
            )


def _data(sets: Sequence[tuple[TokenSet, float]]) -> list[dict[str, Any]]:
    """What run.json says of the sets."""
    return [{"name": s.name, "tokens": s.n_tokens, "fingerprint": s.fingerprint} for s, _ in sets]


def _made(
    sets: Sequence[tuple[TokenSet, float]],
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
        "data": _data(sets),
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


def parts_of(values: dict[str, Any]) -> list[Part]:
    """The batch sizes that a run had, from its state; where that does not say, it was one."""
    size = values["settings"]["batch_size"]
    found = values.get("parts", [[0, 0, size]])
    fits = isinstance(found, list) and all(
        isinstance(part, list) and len(part) == 3 and all(type(n) is int and n >= 0 for n in part)
        for part in found
    )
    if not fits or not found or found[-1][2] != size:
        raise InputError(
            f"state.json: parts is {quoted(found)}, expected [step, samples, batch size] of each "
            f"batch size, the last {size}; it is damaged"
        )
    return [Part(*part) for part in found]


def batches_of(
    sets: Sequence[tuple[TokenSet, float]], settings: TrainConfig, parts: Sequence[Part] = ()
) -> Batches:
    """The batches of a run. parts: the batch sizes that it had, where it is resumed."""
    assert settings.block_size is not None
    return Batches(
        sets, block=settings.block_size, batch=settings.batch_size, order=settings.order,
        seed=settings.seed, parts=parts,
    )  # fmt: skip


def _parts(
    sets: Sequence[tuple[TokenSet, float]], values: dict[str, Any], settings: TrainConfig
) -> list[Part]:
    """The batch sizes of a run with that of now: samples that were seen stay seen.

    Samples of another length are others: of them as many are taken for seen as make the same share
    of an epoch.
    """
    parts, step = parts_of(values), values["step"]
    before = batches_of(sets, TrainConfig.from_dict(values["settings"]), parts)
    seen, old = before.samples_before(step), before.blocks_per_epoch
    now = batches_of(sets, settings).blocks_per_epoch
    if now == old and settings.batch_size == parts[-1].batch:
        return parts
    seen = seen if now == old else round(seen / old * now)
    return [part for part in parts if part.step < step] + [Part(step, seen, settings.batch_size)]


def _run(
    folder: Path,
    settings: TrainConfig,
    start: Checkpoint,
    batches: Batches,
    val: TokenSet | None,
    made: dict[str, Any],
    claimed: Claim,
    group: Group,
    device: torch.device,
    say: Say,
) -> Run:
    assert settings.block_size is not None
    group.at("building the model")
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
    tokenizer = start.tokenizer or batches.sets[0].tokenizer
    _check_prompts(settings, start.config, tokenizer)
    return Run(
        folder, settings, state, batches, windows, tokenizer, made, claimed, group,
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
    claimed: Claim | None = None,
    group: Group = ALONE,
    say: Say = lambda line: None,
) -> Run:
    """A new run in `folder`, which must not hold one; with `overwrite` the old one is replaced.

    begin: the model as it is at first, fresh (`scratch`) or from anywhere (`weights.load`). sets:
    token sets with their weights. val: what is validated on. sources: where model and data came
    from, for `resume`. claimed: what `claim` gave, where that was called before. say: is told what
    is left out. Raises InputError for all that does not go together; what was there is then
    untouched.
    """
    folder = Path(folder)
    say = say if group.first else _unheard
    check_budget(settings)
    measured: list[str] = []
    settings, device = ready(
        _check_block(settings, begin.config), begin.config, group, measured.append
    )
    for line in measured:
        say(line)
    _check_vocabulary([s for s, _ in sets] + ([val] if val else []), begin)
    if claimed is None:
        claimed = claim(folder, overwrite, group)
    try:
        made = {**_made(sets, settings, begin, sources or {}), "measured": measured}
        batches = batches_of(sets, settings)
        run = _run(folder, settings, begin, batches, val, made, claimed, group, device, say)
        group.agree(lambda: _make_room(folder, made))
        run.save()  # before run.json: a run can be resumed from the moment that it is one
        group.agree(lambda: describe(folder, made))
    except BaseException:
        _let_go(claimed, group)
        raise
    return run


def _drop_data(folder: Path, made: dict[str, Any]) -> None:
    """Remove what was prepared in a run's folder and is not the run's that `made` describes."""
    used = {Path(path).parts[0] for path in made["sources"].get("paths", ()) if path}
    for path in folder.glob(f"{DATA}*"):
        if path.is_dir() and path.name not in used:
            shutil.rmtree(path, ignore_errors=True)


def _drop_if_unused(claimed: Claim) -> None:
    """Remove the folders that were made for a run which did not come about, unless texts were
    prepared or anything else was put there."""
    if not claimed.made:
        return
    files = [path for path in claimed.folder.rglob("*") if not path.is_dir()]
    if all(path.name in (".lock", "progress.jsonl") for path in files):
        for path in files:
            path.unlink(missing_ok=True)
        inner = sorted(claimed.folder.rglob("*"), reverse=True)
        for path in (*inner, *claimed.made):
            path.rmdir()


def _let_go(claimed: Claim, group: Group) -> None:
    claimed.release()
    if group.first:
        with suppress(OSError):
            _drop_if_unused(claimed)


def give_up(folder: Path, claimed: Claim, group: Group) -> None:
    """Let go of a folder in which no run came about: one that was there is as it was.

    Texts that were prepared for a first run stay, as they may have taken long.
    """
    if group.first and (folder / RUN).is_file():
        with suppress(InputError):  # a damaged run.json: then nothing of it is deleted
            _drop_data(folder, described(folder))
    _let_go(claimed, group)


def _make_room(folder: Path, made: dict[str, Any]) -> None:
    """Remove the run that a folder holds, its data too; not those of the new one."""
    _drop_data(folder, made)
    for path in checkpoint_files.all_of(folder):
        shutil.rmtree(path)
    checkpoint_files.clear(folder)
    shutil.rmtree(folder / log.TENSORBOARD, ignore_errors=True)
    for name in (RUN, checkpoint_files.LATEST, BEST, log.NAME, "curve.png", "report.html"):
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


def state_of(folder: Path) -> dict[str, Any]:
    """state.json of a run's newest whole checkpoint."""
    described(folder)
    return read_state(checkpoint_files.newest_whole(folder, _unheard))


def settings_of(folder: Path) -> TrainConfig:
    """The settings that a run goes on with: those of its newest whole checkpoint."""
    return TrainConfig.from_dict(state_of(folder)["settings"])


def give_text(
    folder: Path,
    sets: Sequence[tuple[TokenSet, float]],
    sources: dict[str, Any],
    settings: TrainConfig,
    group: Group,
) -> None:
    """Let a run, which is held, go on with another text: from its weights, all else begins again.

    Its checkpoints stay until newer ones take their place.
    """
    made, last = described(folder), state_of(folder)["data"]
    batches = batches_of(sets, settings)
    before = last if last != batches.fingerprint else None
    made = {**made, "sources": sources, "data": _data(sets), "before": before}

    def write() -> None:
        (folder / BEST).unlink(missing_ok=True)  # it was the best for the text before
        describe(folder, made)
        _drop_data(folder, made)

    group.agree(write)


def resume(
    folder: Path | str,
    sets: Sequence[tuple[TokenSet, float]],
    settings: TrainConfig | None = None,
    *,
    val: TokenSet | None = None,
    sources: dict[str, Any] | None = None,
    claimed: Claim | None = None,
    allow_changes: bool = False,
    group: Group = ALONE,
    say: Say = lambda line: None,
) -> Run:
    """The run in `folder` as it was at its newest whole checkpoint, ready to go on.

    settings: None for those it began with; others are refused with a list, unless `allow_changes`.
    sources: where the data lie now, to be found there the next time. claimed: where the folder is
    held already. say: is told what was passed over, and what makes the last bits differ. Raises
    InputError for other data, Failure when no checkpoint is whole.

    A run that is given another text (`give_text`) takes the weights of its newest checkpoint, and
    begins again with all else.
    """
    folder = Path(folder)
    say = say if group.first else _unheard
    made = described(folder)
    group.at("reading the checkpoint")
    if claimed is None:
        claimed = held(folder, group)
    try:
        newest = group.agree(lambda: checkpoint_files.newest_whole(folder, say))
        values = read_state(newest)
        old = TrainConfig.from_dict(values["settings"])
        begin = huggingface.load(newest)
        anew = values["data"] == made.get("before")
        settings = _agreed(old, settings, begin.config, allow_changes or anew)
        settings, device = ready(settings)
        made = {**made, "settings": settings.to_dict()}
        now = [Part(values["step"], 0, settings.batch_size)]
        parts = now if anew else _parts(sets, values, settings)
        batches = batches_of(sets, settings, parts)
        if batches.fingerprint != values["data"] and not anew:
            raise InputError(
                f"{folder} was trained on other data (fingerprint {values['data'][:12]}, these "
                f"have {batches.fingerprint[:12]}); give the data it was started with"
            )
        run = _run(folder, settings, begin, batches, val, made, claimed, group, device, say)
        _tell_of_changes(values["environment"], environment(settings, group), say)
        run.restore(newest, weights_only=anew)
        if sources is not None and sources != made["sources"]:
            group.agree(lambda: describe(folder, {**described(folder), "sources": sources}))
    except BaseException:
        claimed.release()
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
