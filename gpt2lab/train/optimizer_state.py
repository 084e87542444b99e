"""A model with its optimizer, made from settings; the optimizer's moments by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gpt2lab.engines.torch import model
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.train import optim
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.parallel.group import ALONE, Group
from gpt2lab.train.parallel.sharding import fill
from gpt2lab.train.probe import DTYPES
from gpt2lab.train.spikes import Window
from gpt2lab.train.step import Objective, State
from gpt2lab.weights import Checkpoint

MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps for each number


def model_options(settings: TrainConfig) -> dict[str, Any]:
    """Return the options of `GPT2` that the settings ask for."""
    return {
        "compute": DTYPES[settings.dtype],
        "dropout": settings.dropout,
        "fused": settings.attention == "fused",
        "recompute": settings.recompute,
    }


def freeze(gpt: model.GPT2, settings: TrainConfig) -> None:
    """Freeze the parameters that the settings do not train."""
    for name, parameter in gpt.named_parameters():
        parameter.requires_grad_(settings.train_only == "all" or name.startswith("h."))


def to_checkpoint(
    gpt: model.GPT2,
    group: Group = ALONE,
    tokenizer: Tokenizer | None = None,
    generation: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Return the model as a checkpoint; of a sharded one the first process gets the parameters."""
    params = {name: tensor.cpu().numpy() for name, tensor in group.whole(gpt).items()}
    return Checkpoint(gpt.config, params, tokenizer, "huggingface", None, dict(generation or {}))


def new_state(
    start: Checkpoint, settings: TrainConfig, device: torch.device, group: Group
) -> State:
    """Return a model ready to be trained with these settings."""
    sharded, options = group.divides(settings), model_options(settings)
    if sharded:
        with torch.device("meta"):  # each process gets memory for its part alone
            gpt = model.GPT2(start.config, tied="lm_head.weight" not in start.params, **options)
    else:
        gpt = model.build(start.config, start.params, **options).to(device)
    freeze(gpt, settings)
    objective = group.wrap(Objective(gpt, whole=settings.loss == "whole"), settings, device)
    if sharded:
        fill(gpt, start.params)
    betas = (settings.beta1, settings.beta2)
    optimizer = optim.adamw(gpt, settings.learning_rate, betas, settings.weight_decay)
    return State(gpt, objective, optimizer, Window(settings.spike_sigma))


def moments(state: State) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    """Return how many updates AdamW has made of each parameter, and its moments, by name.

    Nothing before the first. The counts differ if the set of trained parameters was changed.
    """
    kept: dict[str, torch.Tensor] = {}
    updates: dict[str, int] = {}
    for name, parameter in state.model.named_parameters():
        own = state.optimizer.state.get(parameter, {})
        for moment in MOMENTS:
            if moment in own:
                kept[f"{moment}.{name}"], updates[name] = own[moment], int(own["step"])
    return updates, kept


def room_for_moments(state: State) -> dict[str, torch.Tensor]:
    """Return tensors for AdamW's moments, by name, with nothing in them yet."""
    return {
        f"{moment}.{name}": torch.empty_like(parameter, requires_grad=False)
        for name, parameter in state.model.named_parameters()
        for moment in MOMENTS
        if parameter.requires_grad
    }


def give_moments(state: State, updates: dict[str, int], kept: dict[str, torch.Tensor]) -> None:
    """The inverse of `moments`; the tensors become the optimizer's own."""
    state.optimizer.state.clear()
    for name, parameter in state.model.named_parameters():
        own = {m: kept[f"{m}.{name}"] for m in MOMENTS if f"{m}.{name}" in kept}
        if own:
            step = torch.tensor(float(updates[name]), device=parameter.device)
            state.optimizer.state[parameter] = {"step": step, **own}
