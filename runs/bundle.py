"""Put a trained model where the bundled one lies, in half precision.

    python runs/bundle.py MODEL... --out gpt2lab/assets/fable [--log RUN/log.jsonl ...]

MODEL: checkpoints of one run; of several the mean is taken. Weights and log are written anew, and
configuration and vocabulary where they are others; the card and the attributions stay. `make docs`
then writes the figures of the lesson anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from gpt2lab import weights
from gpt2lab.weights import Checkpoint

KINDS = ("step", "val", "end")  # records of a log that are kept
EVERY = 10  # steps


def mean(models: list[Path]) -> dict[str, Any]:
    """The parameters, of several models their mean: name -> float16 array."""
    all_params = [weights.load(path).params for path in models]
    means = {
        name: np.mean([params[name] for params in all_params], axis=0, dtype=np.float64)
        for name in all_params[0]
    }
    return {name: array.astype(np.float16) for name, array in means.items()}


def short_log(logs: list[Path]) -> str:
    """The logs one after the other: every tenth step, and all validations."""
    lines = [line for path in logs for line in path.read_text("utf-8").splitlines()]
    records = [record for record in map(json.loads, lines) if record["kind"] in KINDS]
    kept = [r for r in records if r["kind"] != "step" or r["step"] % EVERY == 0]
    return "".join(json.dumps(record) + "\n" for record in kept)


def same_shape(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two models have one configuration and one vocabulary."""
    assert one.tokenizer is not None and other.tokenizer is not None
    if one.config != other.config:
        return False
    ids = range(one.config.n_vocab)
    return all(one.tokenizer.token_bytes(i) == other.tokenizer.token_bytes(i) for i in ids)


def write_shape(checkpoint: Checkpoint, out: Path) -> None:
    """Write configuration and vocabulary, unless those that lie there say the same."""
    if same_shape(weights.load(out), checkpoint):
        return
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        weights.save(checkpoint, whole, "huggingface")
        config = json.loads((whole / "config.json").read_text("utf-8"))
        config |= {"torch_dtype": "float16", "dtype": "float16"}
        (out / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
        for name in ("merges.txt", "vocab.json", "tokenizer.json"):
            shutil.copyfile(whole / name, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--log", nargs="*", type=Path, default=[])
    given = parser.parse_args()
    write_shape(weights.load(given.models[0]), given.out)
    data = save(mean(given.models), {"format": "pt"})
    (given.out / "model.safetensors").write_bytes(data)
    if given.log:
        (given.out / "train_log.jsonl").write_text(short_log(given.log), "utf-8")


if __name__ == "__main__":
    main()
