"""Start a run from a model and its data, or resume one: `start` and `resume`.

Training from scratch and fine-tuning differ only in the model that is given. Whatever does not fit
together is found here, before the first step and before anything is written.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt2lab import __version__
from gpt2lab.config import Config
from gpt2lab.corpus.batches import Batches, BatchSize, Evaluation
from gpt2lab.corpus.token_set import TokenSet, vocabulary_hash
from gpt2lab.engines.torch import model
from gpt2lab.errors import InputError
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.train import checkpoint_files
from gpt2lab.train.config import ARITHMETIC, BUDGETS, TrainConfig, changes
from gpt2lab.train.machine import ready
from gpt2lab.train.optimizer_state import new_state
from gpt2lab.train.parallel.group import ALONE, Group
from gpt2lab.train.probe import plain
from gpt2lab.train.run import Run
from gpt2lab.train.run_folder import (
    BEST,
    Claim,
    claim,
    describe,
    described,
    drop_data,
    give_up,
    locked,
    read_state,
    replace_run,
    sizes_of,
    state_of,
)
from gpt2lab.train.saving import environment
from gpt2lab.train.step import State
from gpt2lab.weights import Checkpoint
from gpt2lab.weights.formats import huggingface

import torch  # isort: skip  (after the model, which names the extra that it is in)

Sets = Sequence[tuple[TokenSet, float]]

log = logging.getLogger(__name__)


# ---- Whether everything fits together.


def _with_block(settings: TrainConfig, config: Config) -> TrainConfig:
    """Return the settings with a block size; InputError without a budget or with too long a one."""
    if all(getattr(settings, name) is None for name in BUDGETS):
        raise InputError(f"no budget; give one of {', '.join(BUDGETS)}")
    block = settings.block_size or config.n_ctx
    if block > config.n_ctx:
        raise InputError(
            f"block_size {block} is more than the model's context n_ctx {config.n_ctx}; "
            "lower it, or make a model with a longer context"
        )
    return replace(settings, block_size=block)


def check_early(settings: TrainConfig, config: Config, group: Group) -> None:
    """Validate the settings before the data preparation, which may take hours."""
    _with_block(settings, config)
    group.check_batch(settings)
    ready(settings)


def _check_vocabulary(tokens: TokenSet, start: Checkpoint) -> None:
    n_vocab, own = start.config.n_vocab, start.tokenizer
    if tokens.n_vocab > n_vocab:
        step = "prepare the texts with the model's own vocabulary"
        if own is not None and own.n_vocab > n_vocab:
            step = (
                "it is the model's own: take the added tokens out of its files, or give the "
                "weights more rows (transformers: resize_token_embeddings)"
            )
        raise InputError(
            f"{tokens.name}: its vocabulary has {tokens.n_vocab} tokens, the model's {n_vocab}; "
            f"{step}"
        )
    both = tokens.tokenizer is not None and own is not None
    if both and vocabulary_hash(tokens.tokenizer) != vocabulary_hash(own):
        raise InputError(
            f"{tokens.name} was made with another vocabulary than the model's; prepare the texts "
            "again with --model"
        )


def _check_prompts(settings: TrainConfig, config: Config, tokenizer: Tokenizer | None) -> None:
    for prompt in settings.prompts:
        if tokenizer is None:
            raise InputError(f"the prompt {prompt!r} cannot be encoded: there is no vocabulary")
        length = len(tokenizer.encode(prompt))
        if length >= config.n_ctx:
            raise InputError(
                f"the prompt {prompt[:40]!r} has {length} tokens, the model's context is "
                f"{config.n_ctx}; shorten it"
            )


# ---- The parts of a run.


def _data(sets: Sets) -> list[dict[str, Any]]:
    """Describe the sets for run.json."""
    return [{"name": s.name, "tokens": s.n_tokens, "fingerprint": s.fingerprint} for s, _ in sets]


def batches_of(sets: Sets, settings: TrainConfig, sizes: Sequence[BatchSize] = ()) -> Batches:
    """Return the batches of a run. sizes: the batch sizes it had, if it is resumed."""
    assert settings.block_size is not None
    return Batches(
        sets, block=settings.block_size, batch=settings.batch_size, order=settings.order,
        seed=settings.seed, sizes=sizes,
    )  # fmt: skip


def _sizes(sets: Sets, values: dict[str, Any], settings: TrainConfig) -> list[BatchSize]:
    """Return the batch sizes of a run, the current one included: samples are not seen twice.

    With another block size, the samples that count as seen are the same share of an epoch.
    """
    sizes, step = sizes_of(values), values["step"]
    before = batches_of(sets, TrainConfig.from_dict(values["settings"]), sizes)
    seen, old = before.samples_before(step), before.blocks_per_epoch
    now = batches_of(sets, settings).blocks_per_epoch
    if now == old and settings.batch_size == sizes[-1].batch:
        return sizes
    seen = seen if now == old else round(seen / old * now)
    kept = [size for size in sizes if size.step < step]
    return [*kept, BatchSize(step, seen, settings.batch_size)]


def _compile(state: State, settings: TrainConfig, group: Group) -> None:
    """Compile each block; a model that torch cannot compile here trains uncompiled."""
    if group.divides(settings):
        for block in state.model.h:  # a sharded block cannot be tried alone
            block.compile(dynamic=False)
        return
    rows = settings.micro_batch or settings.batch_size // group.world
    why = model.compile_blocks(state.model, rows, settings.block_size or 1)
    if why is not None:
        log.warning(f"torch.compile does not work here and is left out: {why}")


def _run(
    folder: Path,
    settings: TrainConfig,
    begin: Checkpoint,
    batches: Batches,
    val: TokenSet | None,
    made: dict[str, Any],
    claimed: Claim,
    group: Group,
    device: torch.device,
) -> Run:
    assert settings.block_size is not None
    group.at("building the model")
    group.check_batch(settings)
    windows = None
    if settings.validate and val is not None and val.n_tokens > 1:
        most = math.ceil(settings.val_tokens / settings.block_size) if settings.val_tokens else None
        windows = Evaluation(val, settings.block_size, most)
    state = new_state(begin, settings, device, group)
    if settings.compile:
        _compile(state, settings, group)
    tokenizer = begin.tokenizer or batches.sets[0].tokenizer
    _check_prompts(settings, begin.config, tokenizer)
    return Run(
        folder, settings, state, batches, tokenizer, made, claimed, group, dict(begin.generation),
        windows=windows,
    )  # fmt: skip


def start(
    folder: Path | str,
    begin: Checkpoint,
    sets: Sets,
    settings: TrainConfig,
    *,
    val: TokenSet | None = None,
    sources: dict[str, Any] | None = None,
    overwrite: bool = False,
    claimed: Claim | None = None,
    group: Group = ALONE,
) -> Run:
    """Start a run in `folder`, which must not hold one; with `overwrite` the old one is replaced.

    begin: the model before the first step, untrained (`NewModel.checkpoint`) or from anywhere
    (`weights.load`). sets: token sets with their weights. val: the validation set. sources: where
    model and data came from, for `resume`. claimed: the claim on the folder, if it was claimed
    before. Raises InputError for everything that does not fit together; the folder is then
    unchanged.
    """
    folder, sources = Path(folder), sources or {}
    settings, device, measured = ready(_with_block(settings, begin.config), begin.config, group)
    for line in measured:
        log.info(line)
    for tokens in [*(tokens for tokens, _ in sets), *([val] if val else [])]:
        _check_vocabulary(tokens, begin)
    claimed = claimed or claim(folder, overwrite, group)
    made = {
        "format": 1,
        "gpt2lab": __version__,
        "settings": settings.to_dict(),
        "config": begin.config.to_dict(),
        "model": sources.get("model"),
        "sources": sources.get("data", {}),
        "data": _data(sets),
        "measured": measured,
    }
    try:
        batches = batches_of(sets, settings)
        run = _run(folder, settings, begin, batches, val, made, claimed, group, device)
        group.agree(lambda: replace_run(folder, made))
        run.save()  # before run.json: a run can be resumed from the moment that it is one
        group.agree(lambda: describe(folder, made))
    except BaseException:
        give_up(claimed, group)
        raise
    return run


# ---- Resuming.


def give_text(
    folder: Path, sets: Sets, sources: dict[str, Any], settings: TrainConfig, group: Group
) -> None:
    """Give a claimed run another text: it keeps its weights, everything else starts again.

    Its checkpoints stay until newer ones replace them.
    """
    made, last = described(folder), state_of(folder)["data"]
    before = last if last != batches_of(sets, settings).fingerprint else None
    made = {**made, "sources": sources, "data": _data(sets), "before": before}

    def write() -> None:
        (folder / BEST).unlink(missing_ok=True)  # it was the best on the previous text
        describe(folder, made)
        drop_data(folder, made)

    group.agree(write)


def resume(
    folder: Path | str,
    sets: Sets,
    settings: TrainConfig | None = None,
    *,
    val: TokenSet | None = None,
    sources: dict[str, Any] | None = None,
    claimed: Claim | None = None,
    allow_changes: bool = False,
    group: Group = ALONE,
) -> Run:
    """Return the run in `folder` as it was at its newest intact checkpoint, ready to `go`.

    settings: None for those it was started with; others are refused with a list, unless
    `allow_changes`. sources: where the data are now, to be found there the next time. claimed: the
    claim on the folder, if it was claimed before. Damaged checkpoints, and anything that changes
    the last bits of a step, are logged. Raises InputError for other data, Failure if no checkpoint
    is intact. A run that was given another text (`give_text`) takes the weights of its newest
    checkpoint; everything else starts again.
    """
    folder = Path(folder)
    made = described(folder)
    group.at("reading the checkpoint")
    claimed = claimed or locked(folder, group)
    try:
        newest = group.agree(lambda: checkpoint_files.newest_whole(folder, log.warning))
        values = read_state(newest)
        old = TrainConfig.from_dict(values["settings"])
        begin = huggingface.load(newest)
        restarts = values["data"] == made.get("before")
        settings = _agreed(old, settings, begin.config, allow_changes or restarts)
        settings, device, notes = ready(settings, group=group)
        for line in notes:
            log.warning(line)
        now = [BatchSize(values["step"], 0, settings.batch_size)]
        batches = batches_of(sets, settings, now if restarts else _sizes(sets, values, settings))
        if batches.fingerprint != values["data"] and not restarts:
            raise InputError(
                f"{folder} was trained on other data (fingerprint {values['data'][:12]}, these "
                f"have {batches.fingerprint[:12]}); give the data it was started with"
            )
        made = {**made, "settings": settings.to_dict()}
        run = _run(folder, settings, begin, batches, val, made, claimed, group, device)
        _log_changes(values["environment"], environment(settings, group))
        run.restore(newest, weights_only=restarts)
        if sources is not None and sources != made["sources"]:
            group.agree(lambda: describe(folder, {**described(folder), "sources": sources}))
    except BaseException:
        claimed.release()
        raise
    return run


def _agreed(
    old: TrainConfig, new: TrainConfig | None, config: Config, allow_changes: bool
) -> TrainConfig:
    """Return the settings to resume with."""
    if new is None:
        return old
    new = _with_block(new, config)
    old = plain(old)  # older runs name no arithmetic
    kept = {n: getattr(old, n) for n in ARITHMETIC if getattr(new, n) == "auto"}
    new = replace(new, **kept)
    changed = changes(old, new)
    if changed and not allow_changes:
        raise InputError(
            f"the run was started with other settings: {'; '.join(changed)}; leave them as they "
            "were, or add --allow-changes to go on with the new ones"
        )
    return new


def _log_changes(old: dict[str, Any], new: dict[str, Any]) -> None:
    other = [f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]
    if other:
        log.warning(
            f"the run continues elsewhere than it began ({', '.join(other)}): equal up to rounding"
        )
