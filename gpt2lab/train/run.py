"""A training run: the main loop with validation, checkpoints, samples and the log.

`Run.go` yields the records of a run (step, val, sample, save and so on) as they are written to
`log.jsonl`. `start` makes and resumes runs, `saving` saves them. A run can be interrupted at any
moment: only the work since the last checkpoint is lost, and resuming does it again with the same
bits.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from gpt2lab.config import Config
from gpt2lab.corpus.batches import Evaluation
from gpt2lab.errors import Failure, MissingExtraError
from gpt2lab.lm import LM
from gpt2lab.train import checkpoint_files, log, machine, probe, report, spikes
from gpt2lab.train import step as loop
from gpt2lab.train.saving import Record, RemovedError, Savable
from gpt2lab.weights import Checkpoint

ENDED = "the run is over: its budget is used up; more of it is a change of settings"

Stop = Callable[[], bool]


def flops_per_token(config: Config, block: int) -> float:
    """Operations of training on one token: 6 a weight and 12 L T E for attention (PaLM, app. B)."""
    E, matrices = config.n_embd, config.n_layer * (4 * config.n_embd**2)
    matrices += config.n_layer * 2 * E * config.mlp_width + config.n_vocab * E
    return 6.0 * matrices + 12.0 * config.n_layer * block * E


@dataclass
class Run(Savable):
    """A run that holds its folder: iterate over `go`, and `close` it (or use it in a `with`).

    windows: the validation set, None if nothing was held out.
    """

    windows: Evaluation | None = None
    _peak: float = 0.0
    _stop: Stop = lambda: False
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
        self.claim.release()

    @property
    def total(self) -> int | None:
        """The length of the run in steps; None if it is limited by time."""
        return loop.total_steps(self.settings, self.batches)

    # ---- The log.

    def _logged(self, record: Record) -> Record:
        """Write a record to the log; what a full disk refuses waits for the next one."""
        self._unlogged.append(record)
        with suppress(Failure):
            self._log()
        return record

    def _log(self) -> None:
        while self._unlogged:
            if self._journal is not None:
                self._journal.write(self._unlogged[0])
            del self._unlogged[0]

    def _step_record(self, step: loop.Step, flops: float) -> Record:
        record: Record = {"kind": "step", **asdict(step), "mfu": None}
        del record["skipped"]
        if self._peak:
            mfu = step.tokens_per_second * flops / (self._peak * self.group.world)
            record["mfu"] = round(mfu, 4)
        for name, digits in (("seconds", 3), ("tokens_per_second", 1)):
            record[name] = round(record[name], digits)
        record["epoch"] = round(record.pop("epoch"), 6)
        return record

    def _after_a_spike(self, step: loop.Step) -> Iterator[Record]:
        """Log the step and its batch, and do as the settings say."""
        places = self.batches.where(step.step - 1)[:64]
        where = [[place.set, place.epoch, place.spans] for place in places]
        yield self._logged(
            {"kind": "skip", "step": step.step, "why": step.skipped, "loss": step.loss,
             "grad_norm": step.grad_norm, "rows": where}
        )  # fmt: skip
        self.follow()
        policy = self.settings.on_spike
        spikes.check_policy(policy, step.step, str(step.skipped), self.skipped, self.folder)
        if policy == "back":
            yield self._logged({"kind": "back", "step": step.step, "to": self._back()})

    def _back(self) -> int:
        """Restore the weights of the last checkpoint, and return its step.

        The counters stay, so the data continue after the bad batch.
        """
        state = self.state
        counters = state.step, state.seconds, state.tokens, state.window.to_dict()
        others = self.best, self.waited, self.skipped
        self.follow()
        self.restore(self.group.agree(lambda: checkpoint_files.newest_whole(self.folder)))
        restored = state.step
        state.step, state.seconds, state.tokens, window = counters
        state.window.restore(window)
        self.best, self.waited, self.skipped = others
        return restored

    # ---- Validation, checkpoints and samples.

    def validate(self) -> Iterator[Record]:
        """Compute the validation loss; save a checkpoint if it is the best so far."""
        assert self.windows is not None
        size = self.settings.micro_batch or self.settings.batch_size // self.group.world
        loss = loop.evaluate(self.state, self.windows, size, group=self.group, stop=self._stop)
        if loss is None:
            return
        is_best = math.isfinite(loss) and (self.best is None or loss < self.best["loss"])
        self.waited = 0 if is_best else self.waited + 1
        self.validated = self.state.step
        yield self._logged({"kind": "val", "step": self.state.step, "loss": loss, "best": is_best})
        if is_best:
            before, self.best = self.best, {"step": self.state.step, "loss": loss}
            yield from self._try_to_save()
            if self.saved != self.state.step:  # what is not on the disk is not the best there
                self.best = before

    def _try_to_save(self) -> Iterator[Record]:
        """Save a checkpoint; if the disk is full the run continues, with a record of it."""
        try:
            yield from self._saving()
        except RemovedError:
            raise
        except Failure as error:
            yield self._logged({"kind": "not_saved", "step": self.state.step, "why": str(error)})

    def _saving(self) -> Iterator[Record]:
        """Save a checkpoint, and note a new name of the folder."""
        record = self.save()
        while self.moves:
            yield {"kind": "note", "step": self.state.step, "text": self.moves.pop(0)}
        yield self._logged(record)

    def samples(self) -> Iterator[Record]:
        """Generate a text from the model after each prompt, with the same seed every time.

        The first process generates while the others wait.
        """
        if not self.group.any(self._stop()):
            checkpoint = self.checkpoint()
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
        dtype = probe.DTYPES[self.settings.dtype]
        self._peak = machine.matmul_speed(dtype, self.state.device)
        flops = flops_per_token(self.state.model.config, self.batches.block)
        kind = "resume" if self.state.step else "start"
        if self.group.agree(self._has_ended):
            yield {"kind": "note", "step": self.state.step, "text": ENDED}
            return
        yield self._logged({"kind": kind, "step": self.state.step, **self.made})
        self.group.begin()
        if self._owes_a_validation(self.state.step):
            yield from self.validate()
        steps = loop.train(self.state, self.batches, self.settings, group=self.group, stop=stop)
        while not self._is_early() and (step := next(steps, None)) is not None:
            self.skipped = self.skipped + 1 if step.skipped else 0
            record = self._step_record(step, flops)
            is_logged = step.step % self.settings.log_every == 0 or step.skipped
            yield self._logged(record) if is_logged else record
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
        return 0 < self.settings.patience <= self.waited

    def _owes_a_validation(self, step: int) -> bool:
        """Return whether a validation is due after this step; a stop may have cut it off."""
        every = self.settings.val_every
        return bool(
            self.windows and step and every and step % every == 0 and self.validated != step
        )

    def _due(self, step: int) -> Iterator[Record]:
        """Validate, save and sample where they are due after this step."""
        s = self.settings
        if self._owes_a_validation(step):
            yield from self.validate()
        if s.save_every and step % s.save_every == 0 and self.saved != step:
            yield from self._try_to_save()
        if s.sample_every and step % s.sample_every == 0:
            yield from self.samples()

    def _end(self, stopped: bool) -> Iterator[Record]:
        """Do the last validation, checkpoint and report; the checkpoint only if `stopped`."""
        step = self.state.step
        s = self.settings
        if not stopped and self.windows and self.validated != step:
            yield from self.validate()
            stopped = self.group.any(self._stop())
        if self.saved != step:
            yield from self._saving()
        if stopped:
            yield {"kind": "stopped", "step": step}
            return
        if s.sample_every and step % s.sample_every:
            yield from self.samples()
        why = "no better validation" if self._is_early() else "the budget is used up"
        memory = machine.peak_memory()
        yield self._logged(
            {"kind": "end", "step": step, "why": why, "best": self.best, "peak_memory": memory}
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
