"""What every format gives: a configuration, named parameters, a tokenizer, where they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.config import Config
from gpt2lab.files import file_facts
from gpt2lab.files.io import Identity, in_parts
from gpt2lab.text.tokenizer import Tokenizer

Params = dict[str, np.ndarray]


@dataclass(frozen=True)
class Source:
    """The files that parameters were read from, as they were just before, and those parameters."""

    files: tuple[Identity, ...]
    params: Params

    def holds(self, params: Params) -> bool:
        """Whether these are the files' own numbers: the arrays as read, which are read-only."""
        return params.keys() == self.params.keys() and all(
            array is self.params[name] and not array.flags.writeable
            for name, array in params.items()
        )


@dataclass
class Checkpoint:
    """A model as read from disk. Unpacks as `config, params, tokenizer`.

    params: float32 (or float64) arrays under the GPT-2 names, matrices [in, out]; a head of its own
        is `lm_head.weight` [V, E], otherwise the head is tied to `wte.weight`.
    tokenizer: None when the files hold no vocabulary that fits.
    format: the name of the format it was read from, a key of `weights.FORMATS`.
    generation: settings that the files recommend, under the names of `Sampling`.
    notes: things the reader of the files should know, one sentence each.
    source: the weights' files, where what is known of them is remembered (`files.file_facts`).
    """

    config: Config
    params: Params
    tokenizer: Tokenizer | None
    format: str
    path: Path | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: Source | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.config, self.params, self.tokenizer))


def _hash(params: Params, described: str) -> str:
    digest = hashlib.sha256(described.encode())
    for name in sorted(params):
        value = params[name]
        digest.update(f"{name} {value.shape} {value.dtype}".encode())
        for part in in_parts(np.ascontiguousarray(value)):
            digest.update(part.data)
    return digest.hexdigest()


def model_hash(checkpoint: Checkpoint) -> str:
    """The sha256 of configuration and parameters, whatever file they came from, in hexadecimal.

    That of a large file is remembered between processes.
    """
    described = json.dumps(checkpoint.config.to_dict(), sort_keys=True)
    source, params = checkpoint.source, checkpoint.params
    if source is None or not source.holds(params):
        return _hash(params, described)
    what = f"sha256 with {described}"
    known = file_facts.recall(source.files, what)
    if not isinstance(known, str):
        known = _hash(params, described)
        file_facts.remember(source.files, what, known)
    return known
