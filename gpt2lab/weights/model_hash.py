"""The sha256 of a model: configuration and parameters, whatever file they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt2lab.files import file_facts
from gpt2lab.files.io import let_go
from gpt2lab.weights.checkpoint import Checkpoint
from gpt2lab.weights.tensors import PART

Array = np.ndarray[Any, np.dtype[Any]]


def model_hash(checkpoint: Checkpoint) -> str:
    """The sha256 in hexadecimal; that of a large file is remembered between processes."""
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


def _hash(params: Mapping[str, Array], described: str) -> str:
    digest = hashlib.sha256(described.encode())
    for name in sorted(params):
        value = params[name]
        digest.update(f"{name} {value.shape} {value.dtype}".encode())
        flat = np.ascontiguousarray(value).reshape(-1)
        for start in range(0, flat.size, PART):
            digest.update(flat[start : start + PART].data)
            let_go(flat[start : start + PART])
    return digest.hexdigest()
