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

from gpt2lab.errors import InputError, few
from gpt2lab.files.visible import shown
from gpt2lab.weights import tokenizer_files
from gpt2lab.weights.checkpoint import Checkpoint
from gpt2lab.weights.formats import openai, plain

FORMAT = "gpt2simple"
STOP = "<|endoftext|>"

_STEP = re.compile(r"model-(\d{1,12})")
_HALF = re.compile(r"model-\d{1,12}\.(index|data-\d+-of-\d+)")


def _step(prefix: Path) -> int:
    match = _STEP.fullmatch(prefix.name)
    return int(match[1]) if match else -1


def _is_of_run(prefix: Path) -> bool:
    return _step(prefix) >= 0 or (prefix.parent / "counter").is_file()


def _is_run(folder: Path) -> bool:
    return any(map(_is_of_run, openai.prefixes(folder)))


def _runs(path: Path) -> list[Path]:
    """The run folder that a path is, or those right inside it: the path may be `checkpoint/`."""
    if _is_run(path):
        return [path]
    if openai.prefixes(path):
        return []
    try:
        return [inner for inner in sorted(path.iterdir()) if inner.is_dir() and _is_run(inner)]
    except OSError:
        return []


def recognise(path: Path) -> bool:
    """A run folder, a folder of runs, or a file of one run's checkpoint."""
    if path.is_dir():
        return bool(_runs(path))
    prefix = openai.prefix_of(path)
    return prefix is not None and _is_of_run(prefix)


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


def load(path: Path, headers: bool = False) -> Checkpoint:
    """The latest checkpoint of a run, or the one that a file names."""
    found = None if path.is_dir() else openai.prefix_of(path)
    prefix = found or _latest(plain.only(_runs(path), path, "runs"))
    made = openai.read(prefix, FORMAT, headers)
    if headers:
        return made
    tokenizer, notes = tokenizer_files.beside(prefix.parent, made.config)
    # Sampling without a prompt begins after the one token <|endoftext|>, which ends nothing.
    start = next(iter(plain.own_ends(made.config, tokenizer).end_tokens), None)
    config, generation = replace(made.config, start_token=start), {"stop": (STOP,)}
    notes = made.notes + notes
    return replace(made, config=config, tokenizer=tokenizer, generation=generation, notes=notes)
