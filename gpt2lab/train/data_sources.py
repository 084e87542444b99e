"""What a run learns from: token sets as they are, texts made into one, each with its weight."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2lab.corpus.open import open_set
from gpt2lab.corpus.prepare import PreparedOtherwiseError, prepare
from gpt2lab.corpus.token_set import SPLITS, TokenSet
from gpt2lab.errors import InputError
from gpt2lab.files.json_files import checked
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.train.parallel.group import ALONE, Group

log = logging.getLogger(__name__)

HELD_OUT = 0.01  # the share of texts that is held out where nothing else is said


@dataclass(frozen=True)
class Gathered:
    """Sets with their weights, what is validated on, and where all of it lies."""

    sets: list[tuple[TokenSet, float]]
    val: TokenSet | None
    paths: list[Path]
    val_path: Path | None

    def places(self, run: Path) -> dict[str, Any]:
        """How to find it again, for run.json: what lies in the run's folder goes along with it."""

        def place(path: Path | None) -> str | None:
            if path is None:
                return None
            path, home = path.resolve(), run.resolve()
            return str(path.relative_to(home) if path.is_relative_to(home) else path)

        weights = [weight for _, weight in self.sets]
        return {
            "paths": [place(path) for path in self.paths],
            "weights": weights,
            "val": place(self.val_path),
        }


def _weights(weights: Sequence[float], count: int) -> list[float]:
    if weights and len(weights) != count:
        raise InputError(f"{len(weights)} weights for {count} sets of data; give one for each")
    return list(weights) or [1.0] * count


def _prepared(
    texts: Sequence[str], folder: Path, tokenizer: Tokenizer | None, group: Group, **options: Any
) -> Path:
    """Texts as token shards in `folder`; of many processes the first makes them.

    The folder belongs to a run that is yet to be: what an earlier attempt left there is used, or
    gone on with, where it fits, and replaced where it does not.
    """

    def make() -> None:
        try:
            done = prepare(texts, folder, tokenizer=tokenizer, **options)
            if not done.is_new:
                log.info(done.left_as_it_is())
        except PreparedOtherwiseError:
            prepare(texts, folder, tokenizer=tokenizer, force=True, **options)

    group.at("preparing the texts")
    group.agree(make)
    return folder


def _check_unread(data: Sequence[str], options: dict[str, Any]) -> None:
    """Raise InputError for an option of reading texts where there are none."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(
            f"{given[0]} is about reading texts, and {data[0]} holds tokens already; leave it out, "
            "or prepare the texts again with it"
        )


def _is_trained_on(gathered: Gathered) -> bool:
    """Whether the text that is validated on is one of those to train on, by its tokens."""
    val = gathered.val
    return val is not None and any(
        val.fingerprint == tokens.fingerprint for tokens, _ in gathered.sets
    )


def gather(
    data: Sequence[str],
    folder: Path,
    *,
    weights: Sequence[float] = (),
    val: str | None = None,
    tokenizer: Tokenizer | None = None,
    named: bool = True,
    group: Group = ALONE,
    held_out: float | None = None,
    validates: bool = True,
    **options: Any,
) -> Gathered:
    """The sets to train on with their weights, and the one to validate on.

    data: prepared folders, nanoGPT's and gpt-2-simple's files, or texts, which are prepared into
    `folder` first. weights: one for each of `data`, equal when not given. tokenizer: for texts;
    where it was `named`, sets must have been made with it. options: of `prepare`. Validation is on
    the held-out part of the first set that has one, or on `val`, a set or a text.
    """
    if not data:
        raise InputError("no data; name texts, or a folder made by gpt2lab prepare")
    wanted = tokenizer if named else None
    sets = [open_set(path, "train", wanted) for path in data]
    shares = _weights(weights, len(data))
    val_is_text = val is not None and not any(open_set(val, split, wanted) for split in SPLITS)
    if held_out and val is not None:
        raise InputError("held_out and val are given; a run validates on one of them, give one")
    if all(sets) and not val_is_text:
        _check_unread(data, {**options, "held_out": held_out})
    usual = HELD_OUT if validates and val is None else 0.0
    options.update(held_out=usual if val is not None or held_out is None else held_out)
    if not any(sets) and not weights:
        paths, shares = [_prepared(data, folder, tokenizer, group, **options)], [1.0]
    else:
        paths = [
            Path(path)
            if found
            else _prepared([path], folder / str(number), tokenizer, group, **options)
            for number, (path, found) in enumerate(zip(data, sets, strict=True))
        ]
    val_path = None if val is None else Path(val)
    if val is not None and val_is_text:
        options.update(held_out=0.0)
        val_path = _prepared([val], folder / "val", tokenizer, group, **options)
    gathered = _opened(paths, shares, val_path, wanted)
    if val_path is not None and _is_trained_on(gathered):
        log.warning(
            "validation is on %s, which is trained on: its loss says nothing of other texts; "
            "name another text, or leave --val out and a part is held out",
            val,
        )
    return gathered


def _opened(
    paths: Sequence[Path], weights: Sequence[float], val: Path | None, tokenizer: Tokenizer | None
) -> Gathered:
    """The sets at these places."""
    sets = []
    for path, weight in zip(paths, weights, strict=True):
        tokens = open_set(path, "train", tokenizer)
        if tokens is None:
            raise InputError(
                f"{path} holds no tokens to train on; a run that is resumed finds its data by "
                "itself, leave them out, or name the prepared folder where it has moved"
            )
        sets.append((tokens, weight))
    held = [val] if val is not None else paths
    found = (open_set(path, "val", tokenizer) for path in held)
    tokens = next((tokens for tokens in found if tokens is not None), None)
    if val is not None and tokens is None:
        tokens = open_set(val, "train", tokenizer)
    return Gathered(sets, tokens, list(paths), val)


def check_places(places: dict[str, Any], where: str) -> None:
    """Raise InputError where these are not what `Gathered.places` gives."""
    checked(places, where, {"paths": (list,), "weights": (list,), "val": (str, type(None))})
    paths, weights = (dict(enumerate(places[name])) for name in ("paths", "weights"))
    checked(paths, f"{where}: paths", dict.fromkeys(paths, (str,)))
    checked(weights, f"{where}: weights", dict.fromkeys(weights, (float, int)))
    if not paths or len(paths) != len(weights):
        raise InputError(f"{where}: {len(weights)} weights for {len(paths)} paths; it is damaged")


def again(
    places: dict[str, Any], run: Path, data: Sequence[str] = (), val: str | None = None
) -> Gathered:
    """What `Gathered.places` described.

    data, val: as they are named now. Sets are taken from there, as they may have moved; texts were
    prepared (`same.differs` tells whether they are the same).
    """
    if not places:
        raise InputError(
            f"{run}: its data are known to the program that began it alone; go on there"
        )
    paths = [run / path for path in places["paths"]]
    if len(data) == len(paths):
        pairs = zip(data, paths, strict=True)
        paths = [Path(now) if open_set(now) is not None else path for now, path in pairs]
    held = None if places["val"] is None else run / places["val"]
    if val is not None and any(open_set(val, split) for split in SPLITS):
        held = Path(val)
    return _opened(paths, places["weights"], held, None)
