"""state.json: everything in a checkpoint that is not a tensor.

There are no random states in it: each step seeds its own random numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2lab.corpus.batches import BatchSize
from gpt2lab.errors import InputError, quoted
from gpt2lab.files.json_files import checked, read_json

STATE = "state.json"
_NUMBER = (float, int)
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("step", "tokens", "skipped_in_a_row", "waited", "validated"), (int,)),
    **dict.fromkeys(("updates", "window", "settings", "environment"), (dict,)),
    "seconds": _NUMBER,
    "best": (dict, type(None)),
    "data": (str,),
}


def read_state(folder: Path) -> dict[str, Any]:
    """Read the state.json of a checkpoint; InputError if no run wrote it."""
    where = str(folder / STATE)
    values = checked(read_json(folder / STATE), where, _KINDS)
    updates, window, best = values["updates"], values["window"], values["best"]
    checked(updates, f"{where}: updates", dict.fromkeys(updates, (int,)))
    checked(window, f"{where}: window", {"loss": (list,), "norm": (list,)})
    for name in ("loss", "norm"):
        losses = dict(enumerate(window[name]))
        checked(losses, f"{where}: window", dict.fromkeys(losses, _NUMBER))
    if best is not None:
        checked(best, f"{where}: best", {"step": (int,), "loss": _NUMBER})
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
            f"state.json: parts is {quoted(found)}, expected [step, samples, batch size] of each "
            f"batch size, the last {size}; it is damaged"
        )
    return [BatchSize(*part) for part in found]
