"""The model that all of them run: GPT-2 124M's shape with random weights, as a Hugging Face folder.

The speed does not know the difference, and a benchmark without a download can be run anywhere.
"""

from __future__ import annotations

import os
from pathlib import Path


def default_folder() -> Path:
    """Where the models of all contenders are kept, about 4 GB; `--work` names another place."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "gpt2lab-benchmarks"


def prepare(work: Path) -> Path:
    """The model's folder, written at the first call."""
    from gpt2lab import weights
    from gpt2lab.config import SIZES
    from gpt2lab.init import initialise
    from gpt2lab.text.tokenizer import official
    from gpt2lab.weights.checkpoint import Checkpoint

    folder = work / "model"
    if not folder.exists():
        part = folder.with_name("model.part")
        config = SIZES["124M"]
        params = initialise(config, 0)
        weights.save(Checkpoint(config, params, official(), "random"), part)
        part.rename(folder)
    return folder
