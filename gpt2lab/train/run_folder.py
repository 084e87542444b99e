"""The folder of a run: how it is locked, described, emptied and given up.

run.json        the settings, the data, the initial model, versions
latest, best    the names of two of the checkpoints
step-00000500/  a model folder (config.json, model.safetensors, tokenizer.json, ...) with
                optimizer.safetensors, state.json and manifest.json beside it
log.jsonl       every record; tensorboard/ has the same as events
curve.png, report.html
data/           the texts of the run as tokens, where it prepared them
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from gpt2lab.corpus.batches import BatchSize
from gpt2lab.errors import InputError, quoted
from gpt2lab.files.atomic import sync, write_whole
from gpt2lab.files.io import accessing
from gpt2lab.files.json_files import checked_keys, read_json
from gpt2lab.train import checkpoint_files, log
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.data_sources import check_places
from gpt2lab.train.parallel.group import Group

RUN, STATE, BEST, DATA, LOCK = "run.json", "state.json", "best", "data", ".lock"

_NUMBER = (float, int)
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("step", "tokens", "skipped_in_a_row", "waited", "validated"), (int,)),
    **dict.fromkeys(("updates", "window", "settings", "environment"), (dict,)),
    "seconds": _NUMBER,
    "best": (dict, type(None)),
    "data": (str,),
}


# ---- What a folder holds.


def holds_run(folder: Path) -> bool:
    """Return whether a folder holds a run that made its first checkpoint."""
    if (folder / RUN).exists():
        return True
    return any(checkpoint_files.step_of(path.name) > 0 for path in checkpoint_files.all_of(folder))


def describe(folder: Path, made: dict[str, Any]) -> None:
    """Write run.json, which makes the folder a run."""
    write_whole(folder / RUN, json.dumps(made, indent=2, ensure_ascii=False) + "\n")
    sync(folder / RUN)
    sync(folder)


def described(folder: Path) -> dict[str, Any]:
    """Read the run.json of a folder; InputError if there is no run."""
    if not (folder / RUN).is_file():
        raise InputError(f"{folder} holds no run ({RUN} is missing); check the path")
    kinds: dict[str, tuple[type, ...]] = dict.fromkeys(("settings", "config", "sources"), (dict,))
    made = checked_keys(read_json(folder / RUN), str(folder / RUN), kinds)
    if made["sources"]:
        check_places(made["sources"], f"{folder / RUN}: sources")
    return made


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read state.json: everything in a checkpoint that is not a tensor.

    There are no random states in it: each step seeds its own random numbers. Raises InputError if
    no run wrote it.
    """
    where = str(checkpoint / STATE)
    values = checked_keys(read_json(checkpoint / STATE), where, _KINDS)
    updates, window, best = values["updates"], values["window"], values["best"]
    checked_keys(updates, f"{where}: updates", dict.fromkeys(updates, (int,)))
    settings = values["settings"]
    checked_keys(
        settings, f"{where}: settings", {name: (type(settings[name]),) for name in settings}
    )
    checked_keys(window, f"{where}: window", {"loss": (list,), "norm": (list,)})
    for name in ("loss", "norm"):
        losses = dict(enumerate(window[name]))
        checked_keys(losses, f"{where}: window", dict.fromkeys(losses, _NUMBER))
    if best is not None:
        checked_keys(best, f"{where}: best", {"step": (int,), "loss": _NUMBER})
    return values


def sizes_of(values: dict[str, Any]) -> list[BatchSize]:
    """Return the batch sizes of a run from its state; without an entry it had a single one."""
    size = values["settings"]["batch_size"]
    found = values.get("parts", [[0, 0, size]])
    fits = isinstance(found, list) and all(
        isinstance(part, list) and len(part) == 3 and all(type(n) is int and n >= 0 for n in part)
        for part in found
    )
    if not fits or not found or found[-1][2] != size:
        raise InputError(
            f"{STATE}: parts is {quoted(found)}, expected [step, samples, batch size] of each "
            f"batch size, the last {size}; it is damaged"
        )
    return [BatchSize(*part) for part in found]


def state_of(folder: Path) -> dict[str, Any]:
    """Read the state.json of a run's newest intact checkpoint."""
    described(folder)
    return read_state(checkpoint_files.newest_whole(folder))


def settings_of(folder: Path) -> TrainConfig:
    """Return the settings that a run resumes with: those of its newest intact checkpoint."""
    return TrainConfig.from_dict(state_of(folder)["settings"])


# ---- Locking a folder.


def _identity(path: Path | int) -> tuple[int, int] | None:
    """What tells a folder from all others, whatever its name; None where there is none."""
    with suppress(OSError):
        found = os.stat(path)  # noqa: PTH116  (of an open folder, too)
        return found.st_dev, found.st_ino
    return None


def _name_of(handle: int) -> Path | None:
    """The system's name of an open folder, where it gives one."""
    with suppress(OSError):
        return Path(f"/proc/self/fd/{handle}").readlink()
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        return Path(os.fsdecode(fcntl.fcntl(handle, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))  # type: ignore[attr-defined]
    return None


@dataclass
class Claim:
    """A folder that a run holds from before its first file to its end.

    Every process of the run has one; the first one's holds the lock and the open folder. made: the
    folders that were created for it, the innermost first.
    """

    folder: Path
    made: tuple[Path, ...] = ()
    lock: filelock.BaseFileLock | None = None
    handle: int | None = None

    def _candidates(self) -> Iterator[Path | None]:
        """Where the folder may be: its name, the system's name, beside its name."""
        assert self.handle is not None
        yield self.folder
        yield _name_of(self.handle)
        with suppress(OSError):
            yield from self.folder.parent.iterdir()

    def whereabouts(self) -> Path | None:
        """Where the folder is now, under another name perhaps; None if it is gone.

        To be asked of the first process. Where folders cannot be opened (Windows) they cannot be
        renamed either while they hold an open file.
        """
        if self.handle is None:
            return self.folder
        own = _identity(self.handle)
        found = (path for path in self._candidates() if path is not None and _identity(path) == own)
        return next(found, None)

    def release(self) -> None:
        """Unlock the folder."""
        if self.lock is not None:
            self.lock.release()
        if self.handle is not None:
            os.close(self.handle)
        self.lock = self.handle = None


def locked(folder: Path, group: Group, made: tuple[Path, ...] = ()) -> Claim:
    """Lock an existing folder; InputError if another process holds it."""
    claimed = Claim(folder, made)

    def acquire() -> None:
        lock = filelock.FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(
                f"{folder} is in use by another process; wait for it, or choose another folder"
            ) from None
        claimed.lock = lock
        with suppress(OSError):  # Windows
            claimed.handle = os.open(folder, os.O_RDONLY)

    group.agree(acquire)
    return claimed


# ---- Claiming a folder for a new run, and giving it up.


def _check_new(folder: Path, overwrite: bool) -> None:
    if holds_run(folder) and not overwrite:
        raise InputError(
            f"{folder} holds a run already; go on with --resume, replace it with --overwrite, or "
            "choose another folder"
        )


def claim(folder: Path, overwrite: bool, group: Group) -> Claim:
    """Create the folder of a new run and lock it, on all processes.

    Raises InputError if it holds a run that is not to be replaced, or if it is in use.
    """
    group.at("claiming the run's folder")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose another name for the run's folder")
    new = group.agree(lambda: [path for path in (folder, *folder.parents) if not path.exists()])
    with accessing(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
    group.agree(lambda: _check_new(folder, overwrite))
    return locked(folder, group, tuple(new))


def data_folder(folder: Path) -> Path:
    """Choose where the texts of a new run are prepared: never over those of an existing run."""
    names = [DATA, *(f"{DATA}-{number}" for number in range(2, 1000))]
    taken = holds_run(folder)
    return next(folder / n for n in names if not (taken and (folder / n).exists()))


def drop_data(folder: Path, made: dict[str, Any]) -> None:
    """Remove prepared data in a run's folder that are not those of the run `made` describes."""
    used = {Path(path).parts[0] for path in made["sources"].get("paths", ()) if path}
    for path in folder.glob(f"{DATA}*"):
        if path.is_dir() and path.name not in used:
            shutil.rmtree(path, ignore_errors=True)


def replace_run(folder: Path, made: dict[str, Any]) -> None:
    """Remove the run that a folder holds with its data, but not the data of the new one."""
    drop_data(folder, made)
    for path in checkpoint_files.all_of(folder):
        shutil.rmtree(path)
    checkpoint_files.clear(folder)
    shutil.rmtree(folder / log.TENSORBOARD, ignore_errors=True)
    for name in (RUN, checkpoint_files.LATEST, BEST, log.NAME, "curve.png", "report.html"):
        (folder / name).unlink(missing_ok=True)


def _drop_if_unused(claimed: Claim) -> None:
    """Remove folders created for a run that never started, unless anything else is in them."""
    inside = sorted(claimed.folder.rglob("*"), reverse=True)
    files = [path for path in inside if not path.is_dir()]
    if claimed.made and all(path.name in (LOCK, "progress.jsonl") for path in files):
        for path in files:
            path.unlink(missing_ok=True)
        for path in (*(path for path in inside if path not in files), *claimed.made):
            path.rmdir()


def give_up(claimed: Claim, group: Group) -> None:
    """Release a folder in which no run was started; an existing run stays as it was.

    Texts that were prepared for a first run stay, since preparing them may have taken long.
    """
    if group.first and (claimed.folder / RUN).is_file():
        with suppress(InputError):  # a damaged run.json: then nothing is deleted
            drop_data(claimed.folder, described(claimed.folder))
    claimed.release()
    if group.first:
        with suppress(OSError):
            _drop_if_unused(claimed)
