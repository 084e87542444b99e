"""The optimizer's tensors in safetensors files: one file, or one from each process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gpt2lab.errors import Failure
from gpt2lab.files.visible import reason
from gpt2lab.train.parallel import sharding
from gpt2lab.train.parallel.group import Group, answered


@contextmanager
def _stored(folder: Path, verb: str) -> Iterator[None]:
    """Turn what torch.distributed.checkpoint raises, which is no Exception, into one line."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with answered(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process is no surprise
            yield
    except CheckpointException as error:
        first = next((cause for cause, _ in error.failures.values()), error)
        raise Failure(
            f"{folder}: the optimizer's state cannot be {verb} ({reason(first)}); check the disk"
        ) from error


def write_parts(kept: dict[str, torch.Tensor], folder: Path, name: str, group: Group) -> None:
    """Write tensors that are divided: a safetensors file from each process, called `name-*`.

    Called by all. torch's usual way (`.metadata`) would be a pickle; the positions of the parts
    are in the headers of the files instead. Raises Failure, on all, when one cannot write.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    if kept:
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        with _stored(folder, "written"):
            save(dict(kept), storage_writer=writer, process_group=group.patient)
    group.agree(lambda: _named(folder, name))


def _named(folder: Path, name: str) -> None:
    parts = sorted(folder.glob("shard-*.safetensors"))
    for number, part in enumerate(parts, 1):
        part.rename(folder / f"{name}-{number:05d}-of-{len(parts):05d}.safetensors")


def read_parts(wanted: dict[str, torch.Tensor], folder: Path, group: Group) -> None:
    """Fill the tensors of `wanted` from a checkpoint's files, however many processes wrote those.

    What the files do not hold is taken out of `wanted`. Raises Failure when they cannot be read.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    alone = not any(map(sharding.is_part, wanted.values()))
    with _stored(folder, "read"):
        for name in set(wanted) - set(reader.read_metadata().state_dict_metadata):
            del wanted[name]
        load(wanted, storage_reader=reader, process_group=group.patient, no_dist=alone)
