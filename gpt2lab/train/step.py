"""The loop: a generator of steps, for new and resumed runs alike.

A step is a function of the state before it, the settings and its number: its batch is
(`corpus.batches`), its learning rate is, and so are its random numbers, which are seeded again for
each. So a checkpoint has little to hold, and a run that was interrupted anywhere continues with the
same bits. Nothing here prints, saves or measures: that is `run`'s.

Shapes: B rows of a micro-batch, T tokens, E embedding, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from gpt2lab.corpus.batches import Batches, Evaluation, TrainingBatch
from gpt2lab.engines.torch.model import GPT2
from gpt2lab.forks import cached_property
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.loss import IGNORED, cross_entropy
from gpt2lab.train.optim import gradient_norm, learning_rate, update
from gpt2lab.train.parallel.group import ALONE, Group
from gpt2lab.train.spikes import Window


class Objective(nn.Module):
    """Ids and targets to the loss that is minimised: the module that processes share or divide.

    whole: make all logits at once.
    """

    def __init__(self, model: GPT2, *, whole: bool = False) -> None:
        super().__init__()
        self.model, self.whole = model, whole

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor, scale: float) -> torch.Tensor:
        """scale times the summed cross entropy of targets [B, T] after ids [B, T]."""
        h = self.model.hidden(tokens).flatten(0, 1)  # [B T, E]
        head = self.model.head
        return cross_entropy(h, head, targets.flatten(), scale, whole=self.whole)


@dataclass
class State:
    """What a step changes.

    objective: the model, wrapped or sharded as the group needs it. step: steps done, also skipped
    ones. tokens, seconds: trained on and spent in steps so far.
    """

    model: GPT2
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    window: Window = field(default_factory=Window)
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """All of the model: to find them takes time in every step."""
        return list(self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.wte.weight.device


@dataclass(frozen=True)
class Step:
    """One step that was done. loss: the mean over its tokens, before the update.

    skipped: why the update was left out, if it was. tokens, seconds, epoch: totals so far.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float
    tokens_per_second: float
    epoch: float
    skipped: str | None


# ---- How long, and how fast.


def total_steps(config: TrainConfig, batches: Batches) -> int | None:
    """The length of a run in steps; None where the clock decides."""
    if config.steps is not None:
        return batches.began + config.steps
    if config.tokens is not None:
        return batches.steps(config.tokens / batches.block)
    if config.epochs is not None:
        return max(batches.began + 1, batches.steps(config.epochs * batches.blocks_per_epoch))
    return None


def is_done(state: State, config: TrainConfig, total: int | None) -> bool:
    """Whether the budget is used up."""
    if total is not None:
        return state.step >= total
    return state.seconds >= 60 * (config.minutes or 0)


def rate(state: State, config: TrainConfig, total: int | None, began: int = 0) -> float:
    """The learning rate of the next step. The warmup is at most a tenth of the run.

    began: the step before the first on these data, where the schedule begins again.
    """
    peak, warmup, step = config.learning_rate, config.warmup, state.step - began
    if total is None:
        done = state.seconds / (60 * (config.minutes or 1))
        warm = max((step + 1) / max(1, warmup), 10 * done)
        return learning_rate(min(done, 1), peak, config.final, config.schedule) * min(1, warm)
    total -= began
    warmup = min(warmup, total // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return learning_rate(min(progress, 1), peak, config.final, config.schedule)


# ---- One step.


def _seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for the random numbers (of dropout) of each step and process."""
    digest = hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def tensors(batch: TrainingBatch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids and the targets [B, T] of a batch; past a row's length there is no target.

    By length, and never by an id: the end token is a target like any other, or a model would not
    learn to stop.
    """
    tokens, targets = torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)
    T = targets.shape[1]
    if batch.lengths.min() < T:
        past = torch.arange(T) >= torch.from_numpy(batch.lengths)[:, None]  # [B, T]
        targets = targets.masked_fill(past, IGNORED)
    return tokens.to(device), targets.to(device)


def _parts(batch: TrainingBatch, config: TrainConfig, group: Group) -> list[TrainingBatch]:
    """This process's micro-batches of a step's batch, in order."""
    size = config.micro_batch or config.batch_size // group.world
    starts = range(group.rank * size, config.batch_size, group.world * size)
    return [TrainingBatch(*(rows[start : start + size] for rows in batch)) for start in starts]


def _gradients(
    state: State,
    parts: Sequence[TrainingBatch],
    scale: float,
    group: Group,
    stop: Callable[[], bool],
) -> float | None:
    """Leave the gradient of the step in the parameters; the summed loss of this process's part.

    None when it was asked to stop in between: then nothing is left of the step.
    """
    losses = []
    for number, part in enumerate(parts, 1):
        if group.any(stop()):
            state.optimizer.zero_grad(set_to_none=True)
            return None
        tokens, targets = tensors(part, state.device)
        with group.exchanging(state.objective, last=number == len(parts)):
            loss = state.objective(tokens, targets, scale)
            loss.backward()
        losses.append(loss.detach())
    return float(torch.stack(losses).sum())


def one_step(
    state: State,
    batch: TrainingBatch,
    config: TrainConfig,
    lr: float,
    *,
    group: Group = ALONE,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[float, float, str | None] | None:
    """Do one step on a batch: (mean loss, gradient norm, why it was skipped); None if stopped.

    The loss is divided by the number of targets of the whole step, so a batch in k parts has the
    gradient of the batch. Processes average gradients, hence `world` in the scale.
    """
    if not state.objective.training:  # the walk through all modules takes time
        state.objective.train()
    if config.dropout:
        torch.manual_seed(_seed(config.seed, state.step, group.rank))
    count = int(batch.lengths.sum())
    scale = group.world / count
    loss = _gradients(state, _parts(batch, config, group), scale, group, stop)
    if loss is None:
        return None
    (loss,) = group.sum([loss / group.world])
    norm = gradient_norm(state.parameters)
    why = state.window.judge(loss, norm.item())
    if why is None:
        for part in state.optimizer.param_groups:
            part["lr"] = lr
        update(state.optimizer, norm, config.clip)
        state.tokens += count
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return loss, norm.item(), why


def train(
    state: State,
    batches: Batches,
    config: TrainConfig,
    *,
    group: Group = ALONE,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Do step after step on `state` until the budget of the settings is used up.

    stop: asked before each micro-batch; once it says yes the current step is dropped and the
    generator ends, with the state as after the last step that was yielded. Raises InputError for a
    batch that the processes cannot share.
    """
    total = total_steps(config, batches)
    group.check_batch(config)
    while not is_done(state, config, total):
        start, lr = time.perf_counter(), rate(state, config, total, batches.began)
        batch = batches.rows(state.step)
        done = one_step(state, batch, config, lr, group=group, stop=stop)
        if done is None:
            return
        (seconds,) = group.sum([time.perf_counter() - start if group.first else 0.0])
        state.seconds += seconds
        loss, norm, why = done
        speed = int(batch.lengths.sum()) / seconds
        epoch = batches.samples_before(state.step) / batches.blocks_per_epoch
        yield Step(state.step, loss, lr, norm, state.tokens, state.seconds, speed, epoch, why)


# ---- Validation.


@torch.no_grad()
def evaluate(
    state: State,
    windows: Evaluation,
    size: int,
    *,
    group: Group = ALONE,
    stop: Callable[[], bool] = lambda: False,
) -> float | None:
    """The mean loss over the tokens of these windows, in the dtype of training; None if stopped.

    size: windows at once. The processes take turns; one that has nothing in the last round computes
    the last windows again, uncounted: a sharded model needs all processes for each pass.
    """
    state.objective.eval()
    total, rounds = 0.0, math.ceil(len(windows) / (size * group.world))
    for number in range(group.rank, rounds * group.world, group.world):
        if group.any(stop()):
            return None
        start = min(number * size, (len(windows) - 1) // size * size)
        tokens, targets = tensors(windows.rows(start, start + size), state.device)
        loss = float(state.objective(tokens, targets, 1.0))
        total += loss if start == number * size else 0.0
    (total,) = group.sum([total])
    return total / windows.n_targets
