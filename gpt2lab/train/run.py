"""A training run: the main loop with validation, checkpoints, samples and the log.

`Run.go` is a generator of records: each step, validation, sample and save, as they are written to
`log.jsonl`. The caller prints them. `start` makes runs and resumes them, `saving` saves them. A run
can be interrupted at any moment: only the work since the last checkpoint is lost, and it is done
again with the same bits.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2lab.config import Config
from gpt2lab.corpus.batches import Batches, Evaluation
from gpt2lab.errors import Failure, MissingExtraError
from gpt2lab.lm import LM
from gpt2lab.train import allocator, checkpoint_files, log, precision, report, spikes
from gpt2lab.train import step as loop
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.parallel.group import Group
from gpt2lab.train.saving import RemovedError, Saved
from gpt2lab.weights import Checkpoint

ENDED = "the run is over: its budget is used up; more of it is a change of settings"

Record = dict[str, Any]
Stop = Callable[[], bool]


def flops_per_token(config: Config, block: int) -> float:
    """Operations of training on one token: 6 a weight and 12 L T E for attention (PaLM, app. B)."""
    E, matrices = config.n_embd, config.n_layer * (4 * config.n_embd**2)
    matrices += config.n_layer * 2 * E * config.mlp_width + config.n_vocab * E
    return 6.0 * matrices + 12.0 * config.n_layer * block * E


def _never() -> bool:
    return False


@dataclass
class Run:
    """A run that holds its folder: iterate over `go`, and `close` it (or use it in a `with`).

    kept: what its checkpoints hold. windows: the validation set, None if nothing was held out.
    """

    kept: Saved
    windows: Evaluation | None
    _peak: float = 0.0
    _stop: Stop = _never
    _journal: log.Journal | None = None
    _unlogged: list[Record] = field(default_factory=list)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log and release the folder."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self.kept.claim.release()

    @property
    def folder(self) -> Path:
        """Where the run is now."""
        return self.kept.folder

    @property
    def settings(self) -> TrainConfig:
        """The settings, with nothing left open."""
        return self.kept.settings

    @property
    def state(self) -> loop.State:
        """The model, the optimizer and the counters of a step."""
        return self.kept.state

    @property
    def batches(self) -> Batches:
        """The training data."""
        return self.kept.batches

    @property
    def group(self) -> Group:
        """The processes of the run."""
        return self.kept.group

    @property
    def total(self) -> int | None:
        """The length of the run in steps; None if it is limited by time."""
        return loop.total_steps(self.settings, self.batches)

    def save(self) -> Record:
        """Write a checkpoint; Failure if it cannot be written, with everything else untouched."""
        return self.kept.save()

    # ---- The log.

    def _logged(self, record: Record) -> Record:
        """Write a record to the log; what a full disk refuses waits for the next one."""
        self._unlogged.append(record)
        with suppress(Failure):
            self._log()
        return record

    def _log(self) -> None:
        if self._journal is None:
            self._unlogged.clear()
        while self._unlogged:
            assert self._journal is not None
            self._journal.write(self._unlogged[0])
            del self._unlogged[0]

    def _step_record(self, step: loop.Step, flops: float) -> Record:
        mfu = 0.0
        if self._peak:
            mfu = step.tokens_per_second * flops / (self._peak * self.group.world)
        return {
            "kind": "step",
            "step": step.step,
            "loss": step.loss,
            "lr": step.lr,
            "grad_norm": step.grad_norm,
            "tokens": step.tokens,
            "seconds": round(step.seconds, 3),
            "tokens_per_second": round(step.tokens_per_second, 1),
            "mfu": round(mfu, 4) if self._peak else None,
            "epoch": round(step.epoch, 6),
        }

    def _after_a_spike(self, step: loop.Step) -> Iterator[Record]:
        """Log the step and its batch, and do as the settings say."""
        places = self.batches.where(step.step - 1)[:64]
        where = [[place.set, place.epoch, place.spans] for place in places]
        yield self._logged(
            {"kind": "skip", "step": step.step, "why": step.skipped, "loss": step.loss,
             "grad_norm": step.grad_norm, "rows": where}
        )  # fmt: skip
        self.kept.follow()
        policy = self.settings.on_spike
        spikes.check_policy(policy, step.step, str(step.skipped), self.kept.skipped, self.folder)
        if policy == "back":
            yield self._logged({"kind": "back", "step": step.step, "to": self._back()})

    def _back(self) -> int:
        """Restore the weights of the last checkpoint, and return its step.

        The counters stay, so the data continue after the bad batch.
        """
        kept, state = self.kept, self.state
        counters = state.step, state.seconds, state.tokens
        window, others = state.window.to_dict(), (kept.best, kept.waited, kept.skipped)
        kept.follow()
        kept.restore(self.group.agree(lambda: checkpoint_files.newest_whole(self.folder)))
        restored = state.step
        state.step, state.seconds, state.tokens = counters
        state.window.restore(window)
        kept.best, kept.waited, kept.skipped = others
        return restored

    # ---- Validation, checkpoints and samples.

    def validate(self) -> Iterator[Record]:
        """Compute the validation loss; save a checkpoint if it is the best so far."""
        assert self.windows is not None
        size = self.settings.micro_batch or self.settings.batch_size // self.group.world
        loss = loop.evaluate(self.state, self.windows, size, group=self.group, stop=self._stop)
        if loss is None:
            return
        is_best = math.isfinite(loss) and (self.kept.best is None or loss < self.kept.best["loss"])
        self.kept.waited, self.kept.validated = (
            0 if is_best else self.kept.waited + 1,
            self.state.step,
        )
        yield self._logged({"kind": "val", "step": self.state.step, "loss": loss, "best": is_best})
        if is_best:
            before, self.kept.best = self.kept.best, {"step": self.state.step, "loss": loss}
            yield from self._try_to_save()
            if self.kept.saved != self.state.step:  # what is not on the disk is not the best there
                self.kept.best = before

    def _try_to_save(self) -> Iterator[Record]:
        """Save a checkpoint; if the disk is full the run continues, with a record of it."""
        try:
            yield from self._saving()
        except RemovedError:
            raise
        except Failure as error:
            yield self._logged({"kind": "not_saved", "step": self.state.step, "why": str(error)})

    def _saving(self) -> Iterator[Record]:
        """Save a checkpoint, and note a new place of the folder."""
        record = self.save()
        for text in self.kept.moves:
            yield {"kind": "note", "step": self.state.step, "text": text}
        self.kept.moves.clear()
        yield self._logged(record)

    def samples(self) -> Iterator[Record]:
        """Generate a text from the model after each prompt, with the same seed every time.

        The first process generates while the others wait.
        """
        if not self.group.any(self._stop()):
            checkpoint = self.kept.checkpoint()
            if self.group.first and checkpoint.tokenizer is not None:
                yield from self._generated(checkpoint)
            self.group.barrier()

    def _generated(self, checkpoint: Checkpoint) -> Iterator[Record]:
        assert checkpoint.tokenizer is not None
        lm = LM(checkpoint, engine="numpy")
        for prompt in self.settings.prompts or (None,):
            start: Any = prompt
            if prompt is None and lm.config.begin is None:
                start = [0]  # a vocabulary without an end token: a text may begin with any token
            text = lm.complete([start], max_new_tokens=self.settings.sample_length, seed=0)[0].text
            shown = prompt or (checkpoint.tokenizer.decode([0]) if start else "")
            yield self._logged(
                {"kind": "sample", "step": self.state.step, "prompt": shown, "text": text}
            )

    # ---- The run.

    def go(self, stop: Stop = lambda: False) -> Iterator[Record]:
        """Train until the budget is used up, and yield each record as it is logged.

        stop: asked before each micro-batch; after a yes the last complete step is saved. Who stops
        iterating can call `save`. Raises Failure for a run that diverges or stops at a spike.
        """
        self._stop = stop
        if self.group.first:
            events = importlib.util.find_spec("tensorboardX") is not None
            self._journal = log.Journal(self.folder, after=self.state.step, tensorboard=events)
        self.group.at("training")
        device = self.state.device
        self._peak = precision.matmul_speed(precision.DTYPES[self.settings.dtype], device)
        flops = flops_per_token(self.state.model.config, self.batches.block)
        kind = "resume" if self.state.step else "start"
        if self.group.agree(self._has_ended):
            yield {"kind": "note", "step": self.state.step, "text": ENDED}
            return
        yield self._logged({"kind": kind, "step": self.state.step, **self.kept.made})
        self.group.begin()
        if self._owes_a_validation(self.state.step):
            yield from self.validate()
        steps = loop.train(self.state, self.batches, self.settings, group=self.group, stop=stop)
        while not self._is_early() and (step := next(steps, None)) is not None:
            self.kept.skipped = self.kept.skipped + 1 if step.skipped else 0
            if step.step % self.settings.log_every == 0 or step.skipped:
                yield self._logged(self._step_record(step, flops))
            else:
                yield self._step_record(step, flops)
            if step.skipped:
                yield from self._after_a_spike(step)
            yield from self._due(step.step)
        yield from self._end(self.group.any(stop()))

    def _has_ended(self) -> bool:
        """Return whether the run had ended when it was closed."""
        over = self._is_early() or loop.is_done(self.state, self.settings, self.total)
        ends = {"kind": "end", "step": self.state.step}.items()
        return over and any(ends <= record.items() for record in log.read(self.folder / log.NAME))

    def _is_early(self) -> bool:
        """Return whether early stopping applies."""
        return 0 < self.settings.patience <= self.kept.waited

    def _owes_a_validation(self, step: int) -> bool:
        """Return whether a validation is due after this step; a stop may have cut it off."""
        every = self.settings.val_every
        return bool(
            self.windows and step and every and step % every == 0 and self.kept.validated != step
        )

    def _due(self, step: int) -> Iterator[Record]:
        """Validate, save and sample where they are due after this step."""
        s = self.settings
        if self._owes_a_validation(step):
            yield from self.validate()
        if s.save_every and step % s.save_every == 0 and self.kept.saved != step:
            yield from self._try_to_save()
        if s.sample_every and step % s.sample_every == 0:
            yield from self.samples()

    def _end(self, stopped: bool) -> Iterator[Record]:
        """Do the last validation, checkpoint and report; the checkpoint only if `stopped`."""
        step = self.state.step
        s = self.settings
        if not stopped and self.windows and self.kept.validated != step:
            yield from self.validate()
            stopped = self.group.any(self._stop())
        if self.kept.saved != step:
            yield from self._saving()
        if stopped:
            yield {"kind": "stopped", "step": step}
            return
        if s.sample_every and step % s.sample_every:
            yield from self.samples()
        why = "no better validation" if self._is_early() else "the budget is used up"
        yield self._logged(
            {
                "kind": "end",
                "step": step,
                "why": why,
                "best": self.kept.best,
                "peak_memory": allocator.peak(),
            }
        )
        self._log()
        if self.group.first:
            yield from self._report()

    def _report(self) -> Iterator[Record]:
        """Write the curve and the page; a missing library for plots is only noted."""
        try:
            report.write(self.folder, log.read(self.folder / log.NAME), self.folder.name)
        except MissingExtraError as error:
            yield {"kind": "note", "step": self.state.step, "text": str(error)}
