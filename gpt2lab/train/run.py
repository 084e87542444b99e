"""A run in its folder: what is kept of it, what is told of it, and how it goes on.

`Run.go` is a generator of records: each step, validation, sample and save, as it stands in
`log.jsonl`. Whoever iterates prints. How a run is made, and found again, is `opening`'s.

    run.json        the settings, the data, the model it began with, versions
    latest, best    the names of two of the checkpoints
    step-00000500/  a model folder (config.json, model.safetensors, tokenizer.json, ...) with
                    optimizer.safetensors, state.json and manifest.json beside it
    log.jsonl       every record; tensorboard/ the same as events
    curve.png, report.html

A run can be broken off at any moment. What is lost is the work since the last checkpoint, and it is
done again to the same bits.
"""

from __future__ import annotations

import importlib.util
import json
import math
import platform
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from gpt2lab.config import Config
from gpt2lab.corpus.batches import Batches, Evaluation
from gpt2lab.errors import Failure, InputError, MissingExtraError
from gpt2lab.files import safetensors_file
from gpt2lab.files.atomic import sync, write_whole
from gpt2lab.files.io import accessing
from gpt2lab.files.json_files import checked, read_json, write_json
from gpt2lab.lm import LM
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.train import allocator, checkpoint_files, log, precision, report
from gpt2lab.train import step as loop
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.folder_lock import Claim
from gpt2lab.train.optimizer_state import give_moments, moments, room_for_moments
from gpt2lab.train.parallel.group import ALONE, Group, fill, read_parts, write_parts
from gpt2lab.weights import Checkpoint
from gpt2lab.weights.formats import huggingface

RUN, STATE, OPTIMIZER = "run.json", "state.json", "optimizer.safetensors"
BEST = "best"
ENDED = "the run is over: its budget is used up; more of it is a change of settings"
IN_A_ROW = 10  # skipped steps after which a run is taken for lost

Record = dict[str, Any]
Stop = Callable[[], bool]
Say = Callable[[str], None]


def flops_per_token(config: Config, block: int) -> float:
    """Operations of training on one token: 6 a weight and 12 L T E for attention (PaLM, app. B)."""
    E, matrices = config.n_embd, config.n_layer * (4 * config.n_embd**2)
    matrices += config.n_layer * 2 * E * config.mlp_width + config.n_vocab * E
    return 6.0 * matrices + 12.0 * config.n_layer * block * E


_STATE: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("step", "tokens", "skipped_in_a_row", "waited", "validated"), (int,)),
    **dict.fromkeys(("updates", "window", "settings", "environment"), (dict,)),
    "seconds": (float, int),
    "best": (dict, type(None)),
    "data": (str,),
}


def read_state(folder: Path) -> dict[str, Any]:
    """The state.json of a checkpoint; InputError for one that no run wrote."""
    where, number = str(folder / STATE), (float, int)
    values = checked(read_json(folder / STATE), where, _STATE)
    updates, window, best = values["updates"], values["window"], values["best"]
    checked(updates, f"{where}: updates", dict.fromkeys(updates, (int,)))
    checked(window, f"{where}: window", {"loss": (list,), "norm": (list,)})
    for name in ("loss", "norm"):
        losses = dict(enumerate(window[name]))
        checked(losses, f"{where}: window", dict.fromkeys(losses, number))
    if best is not None:
        checked(best, f"{where}: best", {"step": (int,), "loss": number})
    return values


def _never() -> bool:
    return False


def _device_name(device: str) -> str:
    if torch.device(device).type != "cuda":
        return device
    return f"{device} {torch.cuda.get_device_name(device)}"


def environment(settings: TrainConfig, group: Group) -> dict[str, Any]:
    """What the last bits of a step depend on, besides the settings."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": _device_name(settings.device or "cpu"),
        "threads": torch.get_num_threads(),
        "world": group.world,
    }


class RemovedError(Failure):
    """The folder of a run is gone; what there was is saved elsewhere, as the line says."""


def describe(folder: Path, made: dict[str, Any]) -> None:
    """Write run.json, which makes the folder a run."""
    write_whole(folder / RUN, json.dumps(made, indent=2, ensure_ascii=False) + "\n")
    sync(folder / RUN)
    sync(folder)


@dataclass
class Run:
    """A run that holds its folder: iterate over `go`, and `close` it (or use it in a `with`).

    settings: with nothing left open. windows: what is validated on, None where nothing was held
    out. made: the contents of run.json. best: {"step", "loss"} of the best validation so far.
    waited: validations since.
    """

    folder: Path
    settings: TrainConfig
    state: loop.State
    batches: Batches
    windows: Evaluation | None
    tokenizer: Tokenizer | None
    made: dict[str, Any]
    claim: Claim
    group: Group = ALONE
    best: dict[str, Any] | None = None
    waited: int = 0
    generation: dict[str, Any] = field(default_factory=dict)
    _saved: int = -1
    _validated: int = -1
    _skipped: int = 0
    _peak: float = 0.0
    _stop: Stop = _never
    _journal: log.Journal | None = None
    _unlogged: list[Record] = field(default_factory=list)
    _moves: list[str] = field(default_factory=list)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log and let go of the folder."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self.claim.release()

    @property
    def total(self) -> int | None:
        """The length of the run in steps; None where the clock decides."""
        return loop.total_steps(self.settings, self.batches)

    # ---- What is kept.

    def params(self) -> dict[str, np.ndarray[Any, Any]]:
        """The model's parameters as arrays; of a divided model, on the first process only."""
        return {n: t.cpu().numpy() for n, t in self.group.whole(self.state.model).items()}

    def checkpoint(self, params: dict[str, np.ndarray[Any, Any]]) -> Checkpoint:
        """The model as it is now."""
        config = self.state.model.config
        return Checkpoint(config, params, self.tokenizer, "huggingface", None, self.generation)

    def _state(self, updates: dict[str, int]) -> dict[str, Any]:
        """Everything but the tensors. There are no random states: each step seeds its own."""
        return {
            "format": 1,
            "step": self.state.step,
            "updates": updates,
            "tokens": self.state.tokens,
            "seconds": self.state.seconds,
            "window": self.state.window.to_dict(),
            "skipped_in_a_row": self._skipped,
            "best": self.best,
            "waited": self.waited,
            "validated": self._validated,
            "data": self.batches.fingerprint,
            "parts": [list(part) for part in self.batches.parts],
            "settings": self.settings.to_dict(),
            "environment": environment(self.settings, self.group),
        }

    def _write(self, folder: Path) -> None:
        """On all processes: what is divided each writes its part of, the rest the first does."""
        params, (updates, kept) = self.params(), moments(self.state)
        divided = self.group.divides(self.settings)
        if divided:
            write_parts(kept, folder, Path(OPTIMIZER).stem, self.group)
        self.group.agree(
            lambda: self._write_whole(folder, params, updates, None if divided else kept)
        )

    def _write_whole(
        self,
        folder: Path,
        params: dict[str, np.ndarray[Any, Any]],
        updates: dict[str, int],
        kept: dict[str, torch.Tensor] | None,
    ) -> None:
        with accessing(folder, "written"):
            huggingface.save(self.checkpoint(params), folder)
            if kept is not None:
                arrays = {name: value.detach().cpu().numpy() for name, value in kept.items()}
                safetensors_file.write(folder / OPTIMIZER, arrays)
            write_json(folder / STATE, self._state(updates))

    def _tidy(self) -> None:
        """Name the best checkpoint, and delete old ones."""
        best = checkpoint_files.name_of(self.best["step"]) if self.best else None
        if best is not None and (self.folder / best).is_dir():
            checkpoint_files.point(self.folder, BEST, best)
        checkpoint_files.prune(self.folder, self.settings.save_total_limit, best)

    def save(self) -> Record:
        """Write a checkpoint of this moment. Failure when it cannot be, with all else untouched."""
        step = self.state.step
        self._follow()
        failed: InputError | Failure | None = None
        try:
            checkpoint_files.save(self.folder, step, self._write, self.group)
        except (InputError, Failure) as error:
            failed = error
        if self._follow():  # it was renamed in the middle of this
            checkpoint_files.save(self.folder, step, self._write, self.group)
        elif failed is not None:
            raise failed
        self.group.agree(self._tidy)
        self._saved = step
        return {"kind": "save", "step": step, "folder": checkpoint_files.name_of(step)}

    def _follow(self) -> bool:
        """Go after the run's folder, which may have been renamed; whether it was.

        Raises Failure where it was removed: the run then lies, with this moment's state, in a new
        folder, and stops.
        """
        before, now = self.folder, self.group.agree(self.claim.whereabouts)
        if now is None:
            self._rescue()
        elif now != before:
            self.folder = self.claim.folder = now
            self._moves.append(f"the run's folder {before} is {now} now; the run goes on there")
        return now != before

    def _rescue(self) -> NoReturn:
        """Save a run whose folder is gone in a new one."""
        old = self.folder
        names = [old, *(old.with_name(f"{old.name}-{number}") for number in range(2, 1000))]
        self.folder = self.group.agree(lambda: next(name for name in names if not name.exists()))
        checkpoint_files.save(self.folder, self.state.step, self._write, self.group)
        self.group.agree(lambda: describe(self.folder, self.made))
        inside = any(not Path(path).is_absolute() for path in self.made["sources"].get("paths", ()))
        texts = " TEXT" if inside else ""
        raise RemovedError(
            f"the run's folder {old} was removed while it was trained; step {self.state.step} is "
            f"saved in {self.folder}; to go on: gpt2lab train{texts} --resume {self.folder}"
            f"{', with the texts of the run' * inside}"
        )

    def restore(self, folder: Path, *, weights_only: bool = False) -> None:
        """Take weights, optimiser and all else from a whole checkpoint.

        weights_only: and the number of the step, to train on with another text.
        """
        values = read_state(folder)
        fill(self.state.model, huggingface.load(folder).params)
        if weights_only:
            self.state.step = values["step"]
            return
        kept = room_for_moments(self.state) if values["updates"] else {}
        read_parts(kept, folder, self.group)
        give_moments(self.state, values["updates"], kept)
        self.state.step, self.state.tokens = values["step"], values["tokens"]
        self.state.seconds = values["seconds"]
        self.state.window.restore(values["window"])
        self.best, self.waited = values["best"], values["waited"]
        self._skipped, self._saved = values["skipped_in_a_row"], values["step"]
        self._validated = values["validated"]

    # ---- What is told.

    def _told(self, record: Record) -> Record:
        """Log a record. What a full disk does not take waits for the next one."""
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
        """Name the step and its batch, and do as the settings say."""
        places = self.batches.where(step.step - 1)[:64]
        where = [[place.set, place.epoch, place.spans] for place in places]
        yield self._told(
            {"kind": "skip", "step": step.step, "why": step.skipped, "loss": step.loss,
             "grad_norm": step.grad_norm, "rows": where}
        )  # fmt: skip
        self._follow()
        told = f"step {step.step}: {step.skipped}"
        look = f"gpt2lab train --resume {self.folder} --which-data {step.step} shows its texts"
        if self.settings.on_spike == "stop":
            raise Failure(
                f"{told}; the update was not made, the run stops as told; go on past it with "
                f"--resume {self.folder} --on-spike skip --allow-changes; {look}"
            )
        if self._skipped >= IN_A_ROW:
            raise Failure(
                f"{told}; that is the {IN_A_ROW}th step in a row, the run is taken for lost: "
                f"resume it with a lower --learning-rate and --allow-changes; {look}"
            )
        if self.settings.on_spike == "back":
            yield from self._back()

    def _back(self) -> Iterator[Record]:
        """The weights of the last checkpoint; the data go on after the batch that was bad."""
        step, skipped = self.state.step, self._skipped
        seconds, tokens = self.state.seconds, self.state.tokens
        window = self.state.window.to_dict()
        self._follow()
        folder = self.group.agree(
            lambda: checkpoint_files.newest_whole(self.folder, lambda line: None)
        )
        best, waited = self.best, self.waited
        self.restore(folder)
        came_from = self.state.step
        self.state.step, self.state.seconds, self.state.tokens = step, seconds, tokens
        self.state.window.restore(window)
        self.best, self.waited, self._skipped = best, waited, skipped
        yield self._told({"kind": "back", "step": step, "to": came_from})

    def validate(self) -> Iterator[Record]:
        """The loss on what was held out; a checkpoint when it is the best so far."""
        assert self.windows is not None
        size = self.settings.micro_batch or self.settings.batch_size // self.group.world
        loss = loop.evaluate(self.state, self.windows, size, group=self.group, stop=self._stop)
        if loss is None:
            return
        is_best = math.isfinite(loss) and (self.best is None or loss < self.best["loss"])
        self.waited, self._validated = 0 if is_best else self.waited + 1, self.state.step
        yield self._told({"kind": "val", "step": self.state.step, "loss": loss, "best": is_best})
        if is_best:
            before, self.best = self.best, {"step": self.state.step, "loss": loss}
            yield from self._try_to_save()
            if self._saved != self.state.step:  # what is not on the disk is not the best there
                self.best = before

    def _try_to_save(self) -> Iterator[Record]:
        """A checkpoint; where the disk is full the run goes on, and says so."""
        try:
            yield from self._saving()
        except RemovedError:
            raise
        except Failure as error:
            yield self._told({"kind": "not_saved", "step": self.state.step, "why": str(error)})

    def _saving(self) -> Iterator[Record]:
        """A checkpoint, and where it lies when that has changed."""
        record = self.save()
        for text in self._moves:
            yield {"kind": "note", "step": self.state.step, "text": text}
        self._moves.clear()
        yield self._told(record)

    def samples(self) -> Iterator[Record]:
        """What the model writes now after each of the prompts, the same draws every time.

        The first process writes, and the others wait.
        """
        if not self.group.any(self._stop()):
            params = self.params()
            if self.group.first and self.tokenizer is not None:
                yield from self._written(params)
            self.group.barrier()

    def _written(self, params: dict[str, np.ndarray[Any, Any]]) -> Iterator[Record]:
        assert self.tokenizer is not None
        lm = LM(self.checkpoint(params), engine="numpy")
        for prompt in self.settings.prompts or (None,):
            start: Any = prompt
            if prompt is None and lm.config.begin is None:
                start = [0]  # a vocabulary without an end token: any text may begin anywhere
            text = lm.complete([start], max_new_tokens=self.settings.sample_length, seed=0)[0].text
            told = prompt or (self.tokenizer.decode([0]) if start else "")
            yield self._told(
                {"kind": "sample", "step": self.state.step, "prompt": told, "text": text}
            )

    # ---- The run.

    def go(self, stop: Stop = lambda: False) -> Iterator[Record]:
        """Train until the budget is used up, and yield each record as it is logged.

        stop: asked before each micro-batch; after a yes the last whole step is saved. Whoever stops
        iterating can `save` himself. Raises Failure for a run that is lost, or told to stop at a
        spike.
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
        yield self._told({"kind": kind, "step": self.state.step, **self.made})
        self.group.begin()
        if self._owes_a_validation(self.state.step):
            yield from self.validate()
        steps = loop.train(self.state, self.batches, self.settings, group=self.group, stop=stop)
        while not self._is_early() and (step := next(steps, None)) is not None:
            self._skipped = self._skipped + 1 if step.skipped else 0
            if step.step % self.settings.log_every == 0 or step.skipped:
                yield self._told(self._step_record(step, flops))
            else:
                yield self._step_record(step, flops)
            if step.skipped:
                yield from self._after_a_spike(step)
            yield from self._due(step.step)
        yield from self._end(self.group.any(stop()))

    def _has_ended(self) -> bool:
        """Whether the run was over when it was left."""
        over = self._is_early() or loop.is_done(self.state, self.settings, self.total)
        ends = {"kind": "end", "step": self.state.step}.items()
        return over and any(ends <= record.items() for record in log.read(self.folder / log.NAME))

    def _is_early(self) -> bool:
        """Whether validation has not got better for as long as the settings wait."""
        return 0 < self.settings.patience <= self.waited

    def _owes_a_validation(self, step: int) -> bool:
        """Whether one is due after this step and was not done; a stop may have cut it off."""
        every = self.settings.val_every
        return bool(
            self.windows and step and every and step % every == 0 and self._validated != step
        )

    def _due(self, step: int) -> Iterator[Record]:
        """What is done beside training after this step."""
        s = self.settings
        if self._owes_a_validation(step):
            yield from self.validate()
        if s.save_every and step % s.save_every == 0 and self._saved != step:
            yield from self._try_to_save()
        if s.sample_every and step % s.sample_every == 0:
            yield from self.samples()

    def _end(self, stopped: bool) -> Iterator[Record]:
        """The last validation, checkpoint and report. Stopped: the checkpoint only."""
        step = self.state.step
        s = self.settings
        if not stopped and self.windows and self._validated != step:
            yield from self.validate()
            stopped = self.group.any(self._stop())
        if self._saved != step:
            yield from self._saving()
        if stopped:
            yield {"kind": "stopped", "step": step}
            return
        if s.sample_every and step % s.sample_every:
            yield from self.samples()
        why = "no better validation" if self._is_early() else "the budget is used up"
        yield self._told(
            {
                "kind": "end",
                "step": step,
                "why": why,
                "best": self.best,
                "peak_memory": allocator.peak(),
            }
        )
        self._log()
        if self.group.first:
            yield from self._report()

    def _report(self) -> Iterator[Record]:
        """The curve and the page; without the library that draws, the run is none the worse."""
        try:
            report.write(self.folder, log.read(self.folder / log.NAME), self.folder.name)
        except MissingExtraError as error:
            yield {"kind": "note", "step": self.state.step, "text": str(error)}
