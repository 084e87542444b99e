"""The Hugging Face hub: `locate` finds a model by any name, after a download where it takes one."""

from __future__ import annotations

from pathlib import Path

from gpt2lab.errors import Failure, InputError
from gpt2lab.weights import find


def locate(source: str | Path | None = None, download: bool = True) -> Path:
    """The path of a model: on this machine first, otherwise downloaded from the hub.

    Raises InputError when there is no such model, or it would have to be downloaded and `download`
    is False; Failure when the network fails.
    """
    name = source if isinstance(source, str) else None
    here = name is None or find.find(name) is not None or not find.can_be_fetched(name)
    if name is None or here or not download:
        return find.resolve(source)
    from gpt2lab.weights.hub.download import download as fetch

    try:
        return fetch(name)
    except (InputError, Failure) as error:
        kind = Failure if isinstance(error, Failure) else InputError
        raise kind(f"{name} is not on this machine, and {error}") from error
