"""Files of weights, prepared sets and runs: damaged by chance, and made to harm."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from gpt2lab import weights
from gpt2lab.weights.convert import convert
from tests import test_weights_pickles as pickles
from tests import weights_helpers as helpers

from .jobs import MARKER, Case

Damage = Callable[[Path, random.Random], None]
CODE = f"cos\nsystem\n(S'touch {MARKER}'\ntR.".encode()

#: Values that a JSON file of ours never holds where another stands.
ODD: list[Any] = [None, [], {}, "", "x" * 10**5, -1, 0, 1, 2, 2**31, 2**70, 1e308, -0.5, True, [[]]]
ODD += [float("nan"), float("inf"), [None] * 1000, {"a": {"b": None}}, "../../etc/passwd", "a\nb"]


# --- damage by chance ---


def _changed(path: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def cut(path: Path, chance: random.Random) -> None:
    _changed(path, lambda data: data.__delitem__(slice(chance.randrange(len(data) + 1), None)))


def flip(path: Path, chance: random.Random) -> None:
    def change(data: bytearray) -> None:
        at = (
            chance.randrange(len(data))
            if chance.random() < 0.5
            else chance.randrange(200) % len(data)
        )
        data[at] ^= 1 << chance.randrange(8)

    _changed(path, change)


def zero(path: Path, chance: random.Random) -> None:
    def change(data: bytearray) -> None:
        at, size = chance.randrange(len(data)), chance.choice((1, 16, 512))
        data[at : at + size] = bytes(len(data[at : at + size]))

    _changed(path, change)


def noise(path: Path, chance: random.Random) -> None:
    def change(data: bytearray) -> None:
        at, size = chance.randrange(len(data)), chance.choice((4, 64, 4096))
        data[at : at + size] = chance.randbytes(len(data[at : at + size]))

    _changed(path, change)


def insert(path: Path, chance: random.Random) -> None:
    _changed(path, lambda data: data.insert(chance.randrange(len(data)), chance.randrange(256)))


def twice(path: Path, _: random.Random) -> None:
    _changed(path, lambda data: data.extend(data))


def _special(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path, _: random.Random) -> None:
        path.unlink()
        make(path)

    return damage


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(50 << 30)


BY_CHANCE: dict[str, Damage] = {
    "cut": cut, "flip": flip, "zero": zero, "noise": noise, "insert": insert,
}  # fmt: skip
ONCE: dict[str, Damage] = {
    "twice": twice,
    "missing": _special(lambda path: None),
    "empty": _special(lambda path: path.write_bytes(b"")),
    "folder": _special(lambda path: path.mkdir()),
    "pipe": _special(os.mkfifo),
    "link to itself": _special(lambda path: path.symlink_to(path.name)),
    "device": _special(lambda path: path.symlink_to("/dev/zero")),
    "sparse": _special(_sparse),
    "program": _special(lambda path: path.write_bytes(b"\x7fELF" + bytes(5000))),
    "page": _special(lambda path: path.write_bytes(b"<!DOCTYPE html><html></html>\n")),
}


def json_damages(path: Path, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """(name, text): every value of an object, also one level down, replaced by some odd ones."""
    whole = json.loads(path.read_text())
    for text in ("[" * 10**5, '{"a":' * 10**5, "null", "[]", "{}", '{"a":1,"a":2}', " " * 10**6):
        yield "text", text
    places = [(whole, key) for key in whole]
    places += [(v, k) for v in whole.values() if isinstance(v, dict) for k in list(v)[:3]]
    for inside, key in places:
        there = inside[key]
        for odd in chance.sample(ODD, min(tries, len(ODD))):
            inside[key] = odd
            yield f"{key[:40]} {odd!r:.20}", json.dumps(whole)
        inside[key] = there


# --- what comes out ---


def loaded(path: Path) -> str:
    """A model as a hash: configuration, numbers, recommended settings."""
    found = weights.load(path)
    digest = hashlib.sha256(repr((found.config, sorted(found.generation.items()))).encode())
    for name, array in found.params.items():
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


def _opened(path: Path) -> str:
    """A prepared set as a hash."""
    from gpt2lab.corpus.open import open_set

    tokens = open_set(path)
    assert tokens is not None
    return tokens.fingerprint


def _resumable(path: Path) -> str:
    """All that a resumed run reads before it makes its model, and the model."""
    from gpt2lab.train import checkpoint_files, data_sources, log, run_folder

    made, _ = run_folder.described(path), run_folder.settings_of(path)
    if made["sources"]:
        data_sources.again(made["sources"], path)
    run_folder.read_state(checkpoint_files.newest_whole(path))
    log.read(path / "log.jsonl")
    return loaded(path)


# --- cases ---


def _rewritten(file: Path, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(text)


def _copy(source: Path, damage: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True, symlinks=True)
        damage(folder)

    return make


def damaged(
    kind: str,
    source: Path,
    act: Callable[[Path], str],
    checked: frozenset[str],
    tries: int,
    chance: random.Random,
) -> Iterator[Case]:
    """Each file of a folder, damaged in each way; checked: names that a checksum stands over."""
    expected = act(source)
    for file in sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file()):
        if file.name in ("README.md", "report.html", "curve.png", ".lock"):
            continue
        ways = [(name, way) for name, way in BY_CHANCE.items() for _ in range(tries)]
        for name, way in [*ways, *ONCE.items()]:
            seed = chance.random()

            def damage(
                folder: Path, file: Path = file, way: Damage = way, seed: float = seed
            ) -> None:
                way(folder / file, random.Random(seed))

            strict = file.name in checked or "all" in checked
            yield Case(kind, f"{file} {name}", _copy(source, damage), act, expected, strict)
        if file.suffix == ".json" and (source / file).stat().st_size < 20_000:
            for name, text in json_damages(source / file, tries, chance):
                make = _copy(source, _rewritten(file, text))
                yield Case(kind, f"{file} {name}", make, act, expected, "all" in checked)


CHECKED = {  # what each layout's own checksums stand over
    "pytorch_model.bin": {"pytorch_model.bin"},
    "openai": {"model.ckpt.index", "model.ckpt.data-00000-of-00001"},
    "gpt-2-simple": {"model-100.index", "model-100.data-00000-of-00001"},
    "nanogpt": {"ckpt.pt"},
}
LAYOUTS = ("safetensors", "safetensors sharded", *CHECKED, "llm.c 3", "llm.c 5")


def weights_cases(home: Path, tries: int, chance: random.Random) -> Iterator[Case]:
    """Every layout of weights."""
    for layout in LAYOUTS:
        source = helpers.LAYOUTS[layout][1](home / layout.replace(" ", "-"))
        yield from damaged(
            layout, source, loaded, frozenset(CHECKED.get(layout, ())), tries, chance
        )
    for format in ("huggingface", "llmc"):
        source = home / f"proven-{format}"
        convert(home / "safetensors", source, format)
        names = frozenset({"model.safetensors", "model.bin"})
        yield from damaged(f"{format}, verified", source, loaded, names, tries, chance)


def pickle_cases(tries: int, chance: random.Random) -> Iterator[Case]:
    """Programs that mean harm, in each place where a pickle is read, and programs by chance."""
    programs = {**pickles.HOSTILE, "code": CODE[:-1]}
    good = pickles.placed(pickles.TENSOR)
    for number in range(40 * tries):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        programs[f"by chance {number}"] = bytes(data)
    for name, program in programs.items():
        body = b"\x80\x02" + program + b"."

        def zipped(folder: Path, body: bytes = body) -> None:
            helpers.config_json(folder)
            pickles.zipped(body, folder / "pytorch_model.bin")

        def stream(folder: Path, body: bytes = body) -> None:
            helpers.config_json(folder)
            pickles.streamed(body, folder / "pytorch_model.bin")

        def meta(folder: Path, body: bytes = body) -> None:
            helpers.nanogpt_file(folder)
            (folder / "meta.pkl").write_bytes(body)

        def arguments(folder: Path, program: bytes = program) -> None:
            inside = b"\x80\x02}" + pickles.text("model_args") + program + b"s"
            inside += pickles.text("model") + b"}s."
            pickles.zipped(inside, folder / "ckpt.pt")

        for place, make in (
            ("zip", zipped),
            ("stream", stream),
            ("meta", meta),
            ("args", arguments),
        ):
            yield Case("pickles", f"{place}: {name}", make, loaded)


def header_cases() -> Iterator[Case]:
    """safetensors headers, their entries replaced by odd values."""
    header: dict[str, Any] = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    texts = [
        "{" * 10**5,
        "[" * 10**5,
        '{"a":1,"a":2}',
        json.dumps({f"x{i}": header["a"] for i in range(10**5)}),
    ]
    for key in header["a"]:
        for odd in ODD:
            texts.append(json.dumps({"a": {**header["a"], key: odd}}))
    for number, text in enumerate(texts):
        for size in (None, 2**63, 2**40, 0):

            def make(folder: Path, text: str = text, size: int | None = size) -> None:
                helpers.config_json(folder)
                data = text.encode()
                length = (len(data) if size is None else size).to_bytes(8, "little")
                (folder / "model.safetensors").write_bytes(length + data + bytes(4))

            yield Case("safetensors headers", f"{number} {size}", make, loaded)


@cache
def _trained(home: Path) -> tuple[Path, Path]:
    """A prepared set, and a run on it."""
    from gpt2lab.corpus import prepare
    from gpt2lab.train import data_sources, start
    from tests.train_helpers import LETTERS, TEXT, finished, fresh, settings

    (home / "text.txt").write_text(TEXT)
    prepare.prepare([str(home / "text.txt")], home / "set", tokenizer=LETTERS, held_out=0.2)
    found = data_sources.gather([str(home / "set")], home / "unused", tokenizer=LETTERS)
    made = settings(steps=4, val_every=2, save_every=2)
    finished(
        start.start(
            home / "run", fresh(), found.sets, made, val=found.val,
            sources={"data": found.places(home / "run")},
        )
    )  # fmt: skip
    shutil.rmtree(home / "run" / "tensorboard", ignore_errors=True)
    return home / "set", home / "run"


def training_cases(home: Path, tries: int, chance: random.Random) -> Iterator[Case]:
    """Prepared sets and runs."""
    tokens, run = _trained(home)
    names = frozenset(p.name for p in tokens.iterdir() if p.suffix == ".npy")
    yield from damaged("prepared sets", tokens, _opened, names, tries, chance)
    newest = run / (run / "latest").read_text().strip()
    held = frozenset(p.name for p in newest.iterdir() if p.suffix == ".safetensors")
    yield from damaged("runs", run, _resumable, held, max(1, tries // 3), chance)
