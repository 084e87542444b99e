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
from gpt2lab.files.json_files import checked_keys
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.train.parallel.group import ALONE, Group

log = logging.getLogger(__name__)

HELD_OUT = 0.01  # fraction of the documents that is held out by default


@dataclass(frozen=True)
class Gathered:
    """Sets with their weights, the validation set, and where all of them are."""

    sets: list[tuple[TokenSet, float]]
    val: TokenSet | None
    paths: list[Path]
    val_path: Path | None

    def places(self, run: Path) -> dict[str, Any]:
        """Return how to find it again, for run.json: relative to the run's folder if inside it."""

        def place(path: Path) -> str:
            path, home = path.resolve(), run.resolve()
            return str(path.relative_to(home) if path.is_relative_to(home) else path)

        return {
            "paths": [place(path) for path in self.paths],
            "weights": [weight for _, weight in self.sets],
            "val": None if self.val_path is None else place(self.val_path),
        }


def any_split(path: Path | str, tokenizer: Tokenizer | None = None) -> TokenSet | None:
    """Return a token set's first split, None for anything else."""
    return next(filter(None, (open_set(path, split, tokenizer) for split in SPLITS)), None)


def _prepared(
    texts: Sequence[str], folder: Path, tokenizer: Tokenizer | None, group: Group, **options: Any
) -> Path:
    """Prepare texts as tokens in `folder`; of several processes the first does.

    The folder belongs to a run that does not exist yet: what an earlier attempt left there is used
    or continued if it fits, and replaced if it does not.
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
    """Return the sets to train on with their weights, and the one to validate on.

    data: prepared folders, nanoGPT's and gpt-2-simple's files, or texts, which are prepared into
    `folder` first. weights: one for each of `data`, equal by default. tokenizer: for texts; if it
    was `named`, sets must have been made with it. options: of `prepare`. Validation is on the
    held-out part of the first set that has one, or on `val`, a set or a text.
    """
    if not data:
        raise InputError("no data; name texts, or a folder made by gpt2lab prepare")
    if weights and len(weights) != len(data):
        raise InputError(f"{len(weights)} weights for {len(data)} sets of data; give one for each")
    if held_out and val is not None:
        raise InputError("held_out and val are given; a run validates on one of them, give one")
    wanted = tokenizer if named else None
    are_sets = [open_set(path, "train", wanted) is not None for path in data]
    val_is_text = val is not None and any_split(val, wanted) is None
    reading = {**options, "held_out": held_out}
    unread = [name for name, value in reading.items() if value is not None]
    if all(are_sets) and not val_is_text and unread:
        raise InputError(
            f"{unread[0]} is about reading texts, and {data[0]} holds tokens already; leave it "
            "out, or prepare the texts again with it"
        )
    usual = HELD_OUT if validates and val is None else 0.0
    options["held_out"] = usual if val is not None or held_out is None else held_out
    if not any(are_sets) and not weights:
        paths, weights = [_prepared(data, folder, tokenizer, group, **options)], [1.0]
    else:
        paths = [
            Path(path) if is_set
            else _prepared([path], folder / str(number), tokenizer, group, **options)
            for number, (path, is_set) in enumerate(zip(data, are_sets, strict=True))
        ]  # fmt: skip
    val_path = None if val is None else Path(val)
    if val is not None and val_is_text:
        options["held_out"] = 0.0
        val_path = _prepared([val], folder / "val", tokenizer, group, **options)
    gathered = _opened(paths, list(weights) or [1.0] * len(paths), val_path, wanted)
    trained = [tokens.fingerprint for tokens, _ in gathered.sets]
    if val is not None and gathered.val is not None and gathered.val.fingerprint in trained:
        log.warning(
            "validation is on %s, which is trained on: its loss says nothing of other texts; "
            "name another text, or leave --val out and a part is held out",
            val,
        )
    return gathered


def _opened(
    paths: Sequence[Path], weights: Sequence[float], val: Path | None, tokenizer: Tokenizer | None
) -> Gathered:
    """Open the sets at these places."""
    sets = []
    for path, weight in zip(paths, weights, strict=True):
        tokens = open_set(path, "train", tokenizer)
        if tokens is None:
            raise InputError(
                f"{path} holds no tokens to train on; a run that is resumed finds its data by "
                "itself, leave them out, or name the prepared folder where it has moved"
            )
        sets.append((tokens, weight))
    held = (open_set(path, "val", tokenizer) for path in ([val] if val is not None else paths))
    tokens = next((tokens for tokens in held if tokens is not None), None)
    if val is not None and tokens is None:
        tokens = open_set(val, "train", tokenizer)
    return Gathered(sets, tokens, list(paths), val)


def check_places(places: dict[str, Any], where: str) -> None:
    """Raise InputError if these are not what `Gathered.places` gives."""
    checked_keys(places, where, {"paths": (list,), "weights": (list,), "val": (str, type(None))})
    for name, kinds in (("paths", (str,)), ("weights", (float, int))):
        values = dict(enumerate(places[name]))
        checked_keys(values, f"{where}: {name}", dict.fromkeys(values, kinds))
    paths, weights = places["paths"], places["weights"]
    if not paths or len(paths) != len(weights):
        raise InputError(f"{where}: {len(weights)} weights for {len(paths)} paths; it is damaged")


def again(
    places: dict[str, Any], run: Path, data: Sequence[str] = (), val: str | None = None
) -> Gathered:
    """Open what `Gathered.places` described.

    data, val: as they are named now. Sets are taken from there, as they may have moved; texts were
    prepared (`same_data.differs` finds out whether they are the same).
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
    if val is not None and any_split(val) is not None:
        held = Path(val)
    return _opened(paths, places["weights"], held, None)
