"""What every format gives: a configuration, named parameters, a tokenizer, where they came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.config import Config
from gpt2lab.files.io import Identity
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
