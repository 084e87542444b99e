"""The files of a run: how its folder is claimed, described, emptied and given up.

run.json        the settings, the data, the model it started from, versions
latest, best    the names of two of the checkpoints
step-00000500/  a model folder (config.json, model.safetensors, tokenizer.json, ...) with
                optimizer.safetensors, state.json and manifest.json beside it
log.jsonl       every record; tensorboard/ the same as events
curve.png, report.html
data/           the texts of the run as tokens, where it prepared them
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt2lab.errors import InputError
from gpt2lab.files.atomic import sync, write_whole
from gpt2lab.files.io import accessing
from gpt2lab.files.json_files import checked, read_json
from gpt2lab.train import checkpoint_files, log
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.data_sources import check_places
from gpt2lab.train.folder_lock import Claim, held
from gpt2lab.train.parallel.group import Group
from gpt2lab.train.state_file import read_state

RUN, BEST, DATA = "run.json", "best", "data"


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
    made = checked(read_json(folder / RUN), str(folder / RUN), kinds)
    if made["sources"]:
        check_places(made["sources"], f"{folder / RUN}: sources")
    return made


def state_of(folder: Path) -> dict[str, Any]:
    """Read the state.json of a run's newest intact checkpoint."""
    described(folder)
    return read_state(checkpoint_files.newest_whole(folder))


def settings_of(folder: Path) -> TrainConfig:
    """Return the settings that a run resumes with: those of its newest intact checkpoint."""
    return TrainConfig.from_dict(state_of(folder)["settings"])


# ---- Claiming a folder for a new run.


def _check_folder(folder: Path, overwrite: bool) -> None:
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
    group.agree(lambda: _check_folder(folder, overwrite))
    return held(folder, group, tuple(new))


def data_folder(folder: Path, group: Group) -> Path:
    """Choose where the texts of a new run are prepared: never over those of an existing run."""

    def free() -> Path:
        names = [DATA, *(f"{DATA}-{number}" for number in range(2, 1000))]
        taken = holds_run(folder)
        return next(folder / n for n in names if not (taken and (folder / n).exists()))

    return group.agree(free)


# ---- Emptying a folder, and giving it up.


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
    if not claimed.made:
        return
    files = [path for path in claimed.folder.rglob("*") if not path.is_dir()]
    if all(path.name in (".lock", "progress.jsonl") for path in files):
        for path in files:
            path.unlink(missing_ok=True)
        inner = sorted(claimed.folder.rglob("*"), reverse=True)
        for path in (*inner, *claimed.made):
            path.rmdir()


def give_up(claimed: Claim, group: Group) -> None:
    """Release a folder in which no run was started; an existing run stays as it was.

    Texts that were prepared for a first run stay, since preparing them may have taken long.
    """
    folder = claimed.folder
    if group.first and (folder / RUN).is_file():
        with suppress(InputError):  # a damaged run.json: then nothing is deleted
            drop_data(folder, described(folder))
    claimed.release()
    if group.first:
        with suppress(OSError):
            _drop_if_unused(claimed)
