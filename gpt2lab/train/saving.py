"""Saving a run and restoring it, wherever its folder is moved meanwhile."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from gpt2lab.corpus.batches import Batches
from gpt2lab.errors import Failure, InputError
from gpt2lab.files import safetensors_file
from gpt2lab.files.io import accessing
from gpt2lab.files.json_files import write_json
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.train import checkpoint_files, step
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.optimizer_state import give_moments, moments, room_for_moments, to_checkpoint
from gpt2lab.train.parallel.group import ALONE, Group
from gpt2lab.train.parallel.shard_files import read_parts, write_parts
from gpt2lab.train.parallel.sharding import fill
from gpt2lab.train.run_folder import BEST, STATE, Claim, describe, read_state
from gpt2lab.weights import Checkpoint
from gpt2lab.weights.formats import huggingface

OPTIMIZER = "optimizer.safetensors"

Record = dict[str, Any]


def environment(settings: TrainConfig, group: Group) -> dict[str, Any]:
    """Return what the last bits of a step depend on, besides the settings."""
    device = settings.device or "cpu"
    is_gpu = torch.device(device).type == "cuda"
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": f"{device} {torch.cuda.get_device_name(device)}" if is_gpu else device,
        "threads": torch.get_num_threads(),
        "world": group.world,
    }


class RemovedError(Failure):
    """The folder of a run is gone; the run is saved in another, which the line names."""


@dataclass
class Savable:
    """Everything of a run that its checkpoints hold, and the claimed folder that they are in.

    settings: with nothing left open. made: the contents of run.json. best: {"step", "loss"} of the
    best validation so far. waited: validations since. saved, validated: the steps of the last
    checkpoint and validation. skipped: steps skipped in a row. moves: notes on a renamed folder.
    """

    folder: Path
    settings: TrainConfig
    state: step.State
    batches: Batches
    tokenizer: Tokenizer | None
    made: dict[str, Any]
    claim: Claim
    group: Group = ALONE
    generation: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    waited: int = 0
    saved: int = -1
    validated: int = -1
    skipped: int = 0
    moves: list[str] = field(default_factory=list)

    def checkpoint(self) -> Checkpoint:
        """Return the model as it is now; of a sharded one the first process has the parameters."""
        return to_checkpoint(self.state.model, self.group, self.tokenizer, self.generation)

    def _state(self, updates: dict[str, int]) -> dict[str, Any]:
        """Return the contents of state.json."""
        return {
            "format": 1,
            "step": self.state.step,
            "updates": updates,
            "tokens": self.state.tokens,
            "seconds": self.state.seconds,
            "window": self.state.window.to_dict(),
            "skipped_in_a_row": self.skipped,
            "best": self.best,
            "waited": self.waited,
            "validated": self.validated,
            "data": self.batches.fingerprint,
            "parts": [list(size) for size in self.batches.sizes],
            "settings": self.settings.to_dict(),
            "environment": environment(self.settings, self.group),
        }

    def _write(self, folder: Path) -> None:
        """Write a checkpoint, on all processes: each its part of a sharded optimizer."""
        checkpoint, (updates, kept) = self.checkpoint(), moments(self.state)
        sharded = self.group.divides(self.settings)
        if sharded:
            write_parts(kept, folder, Path(OPTIMIZER).stem, self.group)

        def write_shared() -> None:
            with accessing(folder, "written"):
                huggingface.save(checkpoint, folder)
                if not sharded:
                    arrays = {name: value.detach().cpu().numpy() for name, value in kept.items()}
                    safetensors_file.write(folder / OPTIMIZER, arrays)
                write_json(folder / STATE, self._state(updates))

        self.group.agree(write_shared)

    def _tidy(self) -> None:
        """Update `best`, and delete old checkpoints."""
        best = checkpoint_files.name_of(self.best["step"]) if self.best else None
        if best is not None and (self.folder / best).is_dir():
            checkpoint_files.point(self.folder, BEST, best)
        checkpoint_files.prune(self.folder, self.settings.save_total_limit, best)

    def save(self) -> Record:
        """Write a checkpoint; Failure if it cannot be written, with everything else untouched."""
        step = self.state.step
        self.follow()
        failed: InputError | Failure | None = None
        try:
            checkpoint_files.save(self.folder, step, self._write, self.group)
        except (InputError, Failure) as error:
            failed = error
        if self.follow():  # it was renamed during the save
            checkpoint_files.save(self.folder, step, self._write, self.group)
        elif failed is not None:
            raise failed
        self.group.agree(self._tidy)
        self.saved = step
        return {"kind": "save", "step": step, "folder": checkpoint_files.name_of(step)}

    def follow(self) -> bool:
        """Follow the run's folder, which may have been renamed; return whether it was.

        Raises Failure if it was removed: the run is then saved in a new folder, and stops.
        """
        before, now = self.folder, self.group.agree(self.claim.whereabouts)
        if now is None:
            self._rescue()
        if now != before:
            self.folder = self.claim.folder = now
            self.moves.append(f"the run's folder {before} is {now} now; the run continues there")
        return now != before

    def _rescue(self) -> NoReturn:
        """Save a run whose folder is gone in a new one."""
        old = self.folder
        names = [old, *(old.with_name(f"{old.name}-{number}") for number in range(2, 1000))]
        self.folder = self.group.agree(lambda: next(name for name in names if not name.exists()))
        checkpoint_files.save(self.folder, self.state.step, self._write, self.group)
        self.group.agree(lambda: describe(self.folder, self.made))
        inside = any(not Path(path).is_absolute() for path in self.made["sources"].get("paths", ()))
        texts, added = (" TEXT", ", with the texts of the run") if inside else ("", "")
        raise RemovedError(
            f"the run's folder {old} was removed while it was trained; step {self.state.step} is "
            f"saved in {self.folder}; to go on: gpt2lab train{texts} --resume {self.folder}{added}"
        )

    def restore(self, folder: Path, *, weights_only: bool = False) -> None:
        """Take weights, optimizer and everything else from an intact checkpoint.

        weights_only: only these and the number of the step, to train on another text.
        """
        values, state = read_state(folder), self.state
        fill(state.model, huggingface.load(folder).params)
        state.step = values["step"]
        if weights_only:
            return
        kept = room_for_moments(state) if values["updates"] else {}
        read_parts(kept, folder, self.group)
        give_moments(state, values["updates"], kept)
        state.tokens, state.seconds = values["tokens"], values["seconds"]
        state.window.restore(values["window"])
        self.best, self.waited, self.saved = values["best"], values["waited"], values["step"]
        self.skipped, self.validated = values["skipped_in_a_row"], values["validated"]
