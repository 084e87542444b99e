"""A checkpoint rounded for int4 by a text, as a new Hugging Face folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gpt2lab import weights
from gpt2lab.engines.cpu.calibration import calibrated
from gpt2lab.errors import InputError
from gpt2lab.files.atomic import new_folder
from gpt2lab.files.io import accessing
from gpt2lab.weights.formats import huggingface

LENGTH = 256  # tokens of a sequence, at most
SEQUENCES = 48  # spread over the text
LEAST = 1000  # tokens: fewer say little about which numbers can replace which
READ = 4 << 20  # characters of a text


def calibrate(source: Path, target: Path, text: Path, *, force: bool = False) -> int:
    """Write `source` to the folder `target` with matrices that int4 holds; return the tokens used.

    text: a file in UTF-8 of the kind that the model is to generate. Raises InputError for a model
    without a tokenizer, for a text of fewer than `LEAST` tokens, and for an existing `target`
    (without `force`).
    """
    with new_folder(target, force=force) as temporary:
        checkpoint = weights.load(source)
        sequences = _sequences(checkpoint, text)
        params = calibrated(checkpoint.config, checkpoint.params, sequences)
        huggingface.save(replace(checkpoint, params=params), temporary)
    return sum(map(len, sequences))


def _sequences(checkpoint: weights.Checkpoint, text: Path) -> list[list[int]]:
    """Parts of a text as ids, evenly spread over it."""
    if checkpoint.tokenizer is None:
        raise InputError("the model comes without a tokenizer, which reading a text requires")
    with accessing(text), text.open(encoding="utf-8") as file:
        try:
            ids = checkpoint.tokenizer.encode(file.read(READ))
        except UnicodeDecodeError as error:
            raise InputError(f"{text}: not a text in UTF-8 ({error.reason})") from None
    if len(ids) < LEAST:
        raise InputError(
            f"{text}: {len(ids)} tokens are too few to calibrate by; give at least {LEAST}"
        )
    length = min(LENGTH, checkpoint.config.n_ctx)
    starts = range(0, len(ids) - length + 1, max(length, (len(ids) - length) // SEQUENCES))
    return [ids[start : start + length] for start in starts][:SEQUENCES]
