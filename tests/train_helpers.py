"""A tiny model, a tiny text and a run of them, for the tests of training."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab import weights
from gpt2lab.config import Config
from gpt2lab.corpus.token_set import TokenSet
from gpt2lab.init import initialise
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.train import run as run_room
from gpt2lab.train import start as opening
from gpt2lab.train.config import TrainConfig

#: Starts processes that need not import torch.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(  # with what torch would import when it is first used
    [
        "tests.test_distributed",
        "tensorboardX",
        *(f"torch.{n}" for n in ("_dynamo", "_inductor.utils", "distributed.fsdp")),
        *(f"torch.distributed.{n}" for n in ("checkpoint", "tensor")),
    ]
)

TEXT = "the cat sat on the mat. the dog ate the log. a bird sang to the moon at night. " * 12
LETTERS = Tokenizer.characters(sorted(set(TEXT)), ["<|endoftext|>"])
CONFIG = Config(
    n_vocab=LETTERS.n_vocab, n_ctx=16, n_embd=16, n_head=2, n_layer=2,
    end_tokens=(LETTERS.n_vocab - 1,),
)  # fmt: skip


def token_set(text: str = TEXT, name: str = "text", documents: int = 6) -> TokenSet:
    """The text in so many documents, each with its end token."""
    end = LETTERS.n_vocab - 1
    ids = LETTERS.encode_array(text)
    parts = [np.append(part, end) for part in np.array_split(ids, documents)]
    return TokenSet.of(
        name, np.concatenate(parts), n_vocab=LETTERS.n_vocab, end_token=end, tokenizer=LETTERS
    )


def fresh(seed: int = 0, config: Config = CONFIG) -> weights.Checkpoint:
    """A model that knows nothing."""
    return weights.Checkpoint(config, initialise(config, seed), LETTERS, "scratch")


def settings(**given: Any) -> TrainConfig:
    """A run of 12 steps in a moment."""
    plain = {
        "steps": 12,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup": 2,
        "dtype": "float32",
        "val_every": 4,
        "save_every": 3,
        "sample_every": 0,
        "dropout": 0.1,
        "threads": 1,
    }
    if any(name in given for name in ("epochs", "tokens", "minutes")):
        del plain["steps"]
    return TrainConfig(**{**plain, **given})


def start(folder: Path, **given: Any) -> Any:
    """A new run on the text."""
    others = {name: given.pop(name) for name in ("overwrite", "group") if name in given}
    held = token_set(TEXT[:200], "held", 1)
    return opening.start(
        folder, fresh(), [(token_set(), 1.0)], settings(**given), val=held, **others
    )


def resume(folder: Path, **given: Any) -> Any:
    """The run again."""
    held = token_set(TEXT[:200], "held", 1)
    sets = [(token_set(given.pop("text", TEXT)), 1.0)]
    return opening.resume(folder, sets, val=held, **given)


def finished(run: Any, stop: Any = lambda: False) -> list[dict[str, Any]]:
    """All records of a run, which is closed."""
    with run:
        return list(run.go(stop))


def digest(folder: Path, step: int) -> str:
    """What the weights and the optimiser of a checkpoint are, to the bit."""
    found = hashlib.sha256()
    for name in ("model.safetensors", "optimizer.safetensors"):
        found.update((folder / f"step-{step:08d}" / name).read_bytes())
    return found.hexdigest()


def slow_run(folder: Path, dtype: str, seconds: float) -> None:
    """A run in a process of its own, to be killed; or the rest of one that was."""
    run_room.report.write = lambda *args: None
    if (folder / "run.json").exists():
        run = resume(folder)
    else:
        run = start(folder, dtype=dtype, steps=40, save_every=2, save_total_limit=3)
    with run:
        for record in run.go():
            if record["kind"] == "step":
                time.sleep(seconds)
