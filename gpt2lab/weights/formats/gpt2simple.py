"""Runs of gpt-2-simple and of nshepperd's fork: checkpoints `model-N` of a fine-tuned GPT-2.

The tensors are OpenAI's (`openai`, `tensorbundle`); the folder and the end of a text are not.
Their encoder never makes the token <|endoftext|>: the marker between documents is cut into seven
ordinary tokens, so these models write it out as text, and stopping is by text here.

Sources: minimaxir/gpt-2-simple `gpt_2.py`; nshepperd/gpt-2 `train.py`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from gpt2lab.config import Config
from gpt2lab.errors import InputError, few
from gpt2lab.files.visible import shown
from gpt2lab.weights import tokenizer_files
from gpt2lab.weights.checkpoint import Checkpoint
from gpt2lab.weights.formats import openai

FORMAT = "gpt2simple"
STOP = "<|endoftext|>"

_STEP = re.compile(r"model-(\d{1,12})$")
_HALF = re.compile(r"model-\d{1,12}\.(index|data-\d+-of-\d+)")


def _step(prefix: Path) -> int:
    match = _STEP.match(prefix.name)
    return int(match[1]) if match else -1


def _is_run(folder: Path) -> bool:
    found = openai.prefixes(folder)
    return bool(found) and ((folder / "counter").is_file() or any(_step(p) >= 0 for p in found))


def _runs(folder: Path) -> list[Path]:
    """The run folders right inside a folder such as `checkpoint/`."""
    try:
        return [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_run(path)]
    except OSError:
        return []


def recognise(path: Path) -> bool:
    """A run folder, a folder of runs, or a file of one run's checkpoint."""
    if path.is_dir():
        return _is_run(path) or (not openai.prefixes(path) and bool(_runs(path)))
    prefix = openai.prefix_of(path)
    return prefix is not None and (_step(prefix) >= 0 or (prefix.parent / "counter").is_file())


def _latest(folder: Path) -> Path:
    """The checkpoint that the run itself calls the latest, else the one with the highest step."""
    named = openai.named(folder)
    if named is not None:
        return named
    latest = max(openai.prefixes(folder), key=_step)
    halves = [file for file in folder.iterdir() if _HALF.fullmatch(file.name)]
    newer = [file.name for file in halves if _step(file.with_suffix("")) > _step(latest)]
    if newer:  # an older one in its place would be another model without a word
        raise InputError(
            f"{folder}: of a later checkpoint there is only {few(map(shown, sorted(newer)))}; copy "
            f"the rest of it, or load {latest.name} by its own path"
        )
    return latest


def _prefix(path: Path) -> Path:
    if not path.is_dir():
        prefix = openai.prefix_of(path)
        assert prefix is not None, "load comes after recognise"
        return prefix
    runs = [path] if _is_run(path) else _runs(path)
    if len(runs) != 1:
        listed = few([shown(str(run)) for run in runs])
        raise InputError(f"{path}: holds {len(runs)} runs; load one of them: {listed}")
    return _latest(runs[0])


def shape(path: Path) -> tuple[Config, bool]:
    """The configuration and whether the head is tied, by headers alone."""
    return openai.shape_of(_prefix(path))


def load(path: Path) -> Checkpoint:
    """The latest checkpoint of a run, or the one that a file names."""
    checkpoint = openai.read_folder(_prefix(path), FORMAT)
    checkpoint.generation = {"stop": (STOP,)}
    if checkpoint.tokenizer is not None:  # sampling without a prefix begins after the one token
        ended = tokenizer_files.ended(checkpoint.config, checkpoint.tokenizer)
        start = ended.end_tokens[0] if ended.end_tokens else None
        checkpoint.config = replace(checkpoint.config, start_token=start)
    return checkpoint
