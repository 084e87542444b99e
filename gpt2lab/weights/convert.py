"""Convert a checkpoint to another format, and prove that the result computes the same.

The new folder is written under another name, read back, compared on fixed tokens, and gets its
name only then. The layout of a format is explained in its own module.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab import reference, weights
from gpt2lab.errors import InputError, few
from gpt2lab.files.atomic import new_folder
from gpt2lab.files.json_files import write_json
from gpt2lab.weights import checksums, likeness
from gpt2lab.weights.checkpoint import Checkpoint

TOLERANCE = 1e-3  # of the largest logit; float32 sources come out with 0, float64 ones far below


@dataclass(frozen=True)
class Report:
    """What a conversion did. The three numbers are None when it was not verified.

    note: what the target's own code computes otherwise than the source, empty where nothing.
    compared: what was held against the source besides the logits, in words.
    largest_difference: of all logits, in absolute value. top1_agreement: share of positions with
    the same most probable token, 0 to 1. tokens: number of positions compared.
    """

    source: str
    target: str
    source_format: str
    target_format: str
    largest_difference: float | None = None
    top1_agreement: float | None = None
    tokens: int | None = None
    note: str = ""
    compared: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return asdict(self)


def fixed_tokens(n_vocab: int, n_ctx: int) -> np.ndarray:
    """The same ids on every machine: Philox of seed 0, [2, min(n_ctx, 64)]."""
    random = np.random.Generator(np.random.Philox(0))
    return random.integers(0, n_vocab, (2, min(n_ctx, 64)))  # [2, T]


_FORMS = {"gelu_new": "the tanh form of GELU", "gelu": "the exact GELU"}


def other_gelu(one: Checkpoint, other: Checkpoint) -> str:
    """Return a note when only the form of GELU differs; empty when it does not."""
    a, b = one.config.activation_function, other.config.activation_function
    if a == b:
        return ""
    return f"the source computes {_FORMS[a]}, the target's code {_FORMS[b]}; the weights are equal"


def _logits(checkpoint: Checkpoint, tokens: np.ndarray) -> np.ndarray:
    return reference.model(checkpoint.config, checkpoint.params, tokens)["logits"]


def compare(one: Checkpoint, other: Checkpoint) -> tuple[float, float, int]:
    """Largest absolute logit difference, top-1 agreement, and the number of positions compared."""
    tokens = fixed_tokens(one.config.n_vocab, one.config.n_ctx)
    a, b = _logits(one, tokens), _logits(other, tokens)  # [2, T, V]
    if a.shape != b.shape:
        raise InputError(f"logits of shapes {list(a.shape)} and {list(b.shape)}: not one model")
    difference = float(np.max(np.abs(a.astype(np.float64) - b)))
    near = difference <= TOLERANCE * max(1.0, float(np.max(np.abs(a))))
    if not near and not other_gelu(one, other):
        raise InputError(
            f"the result computes other logits than the source, by up to {difference:.3g}; nothing "
            "was kept; please report this with the source's format"
        )
    return difference, float(np.mean(a.argmax(-1) == b.argmax(-1))), tokens.size


def _refuse_overlap(source: Path, target: Path) -> None:
    here, there = source.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise InputError(
            f"{target}: overlaps with the source {source}; choose a folder beside it, not in it"
        )


def _refuse_strangers(target: Path) -> None:
    """--force replaces a model, never a folder of something else."""
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        weights.recognise(target)
    except InputError as error:
        raise InputError(
            f"{target}: is there and is no checkpoint, so --force leaves it alone; "
            "choose another folder or delete it yourself"
        ) from error


def _read_back(checkpoint: Checkpoint, folder: Path, format: str) -> Checkpoint:
    """What was written, as a program finds it; InputError where it does not behave alike.

    This is no matter of --verify: a lost pre-tokenizer or end token must not stay unseen.
    """
    try:
        result = weights.load(folder)
    except InputError as error:  # a vocabulary may be written and not be readable
        said = str(error).replace(f"{folder}{os.sep}", "")
        raise InputError(
            f"the format {format} cannot hold the vocabulary or the settings ({said}); nothing was "
            "kept; convert to huggingface"
        ) from error
    if lost := likeness.differences(checkpoint, result):
        way = "please report this" if format == "huggingface" else "convert to huggingface"
        raise InputError(f"the format {format} cannot hold {few(lost)}; nothing was kept; {way}")
    return result


def convert(
    source: Path | str,
    target: Path | str,
    format: str,
    *,
    verify: bool = True,
    force: bool = False,
) -> Report:
    """Write the checkpoint at `source` as a new folder `target` in a format of `weights.writable`.

    With `verify`, both are run on the same tokens and the outcome is returned and stored as
    verify.json. Raises InputError when the format cannot hold the model, when `target` exists (and
    no `force`), or overlaps with the source; then `target` is as it was.
    """
    source, target = Path(source), Path(target)
    writer = weights.writer(format)
    _refuse_overlap(source, target)
    if force:
        _refuse_strangers(target)
    with new_folder(target, force=force) as temporary:
        checkpoint = weights.load(source)
        writer.save(checkpoint, temporary)
        result = _read_back(checkpoint, temporary, format)
        count = len(likeness.texts(checkpoint.tokenizer)) if checkpoint.tokenizer else 0
        report = Report(
            str(source),
            str(target),
            checkpoint.format,
            format,
            note=other_gelu(checkpoint, result),
            compared=f"{count} encoded texts, the configuration, end tokens, recommended settings",
        )
        if verify:
            difference, agreement, tokens = compare(checkpoint, result)
            report = replace(
                report, largest_difference=difference, top1_agreement=agreement, tokens=tokens
            )
            files = {file.name: checksums.entry(file) for file in checksums.weights(temporary)}
            write_json(temporary / checksums.RECORD, {**report.to_dict(), "files": files})
    return report
