"""`gpt2lab models`: list the models on this machine; `weights.find` tells what is looked at."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands.options import printable
from gpt2lab.files.json_files import to_json

if TYPE_CHECKING:
    from gpt2lab.engines.cpu.cpu_features import Target
    from gpt2lab.weights.checksums import Checked
    from gpt2lab.weights.find import Found

NUMBERS = ("n_layer", "n_head", "n_embd", "n_ctx", "n_vocab")
TITLES = ("name", "format", "parameters", "layers", "heads", "width", "context", "tokens", "disk")


def short(number: float, units: tuple[str, ...] = ("", "k", "M", "G")) -> str:
    """A large number with three or four digits and a unit: 124.4M."""
    power = 0
    while number >= 999.95 and power < len(units) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.1f}{units[power]}" if power else f"{number:.0f}{units[0]}"


def disk(size: float) -> str:
    """A number of bytes as people read it: 548.1 MB."""
    return short(size, (" B", " kB", " MB", " GB"))


def as_dict(found: Found) -> dict[str, Any]:
    """One model as JSON; what is unknown is null."""
    numbers = {key: getattr(found.config, key) if found.config else None for key in NUMBERS}
    return {
        "name": found.name,
        "path": str(found.path.absolute()),
        "place": found.place,
        "format": found.format,
        "parameters": found.parameters,
        **numbers,
        "bytes": found.size,
        "problem": found.problem,
    }


def _row(found: Found) -> list[str]:
    numbers = [str(getattr(found.config, key)) for key in NUMBERS]
    return [
        found.name,
        found.format or "",
        short(found.parameters or 0),
        *numbers,
        disk(found.size),
    ]


def table(rows: list[list[str]], left: tuple[int, ...]) -> str:
    """Rows as aligned columns with two blanks between; those in `left` are flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _text(listed: list[Found], verbose: bool) -> str:
    good = [found for found in listed if found.problem is None]
    rows = [list(TITLES), *map(_row, good)]
    if verbose:
        places = ["where", *(f"{f.place}: {f.path.absolute()}" for f in good)]
        rows = [[*row, place] for row, place in zip(rows, places, strict=True)]
    lines = [table(rows, (0, 1, len(TITLES)))] if good else []
    lines += [f"{found.name}: cannot be read: {found.problem}" for found in listed if found.problem]
    return "\n".join(lines)


def _notes(listed: list[Found], folders: tuple[str, ...]) -> list[str]:
    """What else a person may want to know, for stderr."""
    from gpt2lab.weights import find

    if folders:
        return [] if listed else [f"no model in {', '.join(folders)} nor three folders deep"]
    notes = [f"looked at the package, ., models/, checkpoint/ and {find.hub_cache()}"]
    absent = [size for size in find.OFFICIAL if find.find(size) is None]
    if absent:
        notes.append(f"not here: {', '.join(absent)}; fetch one: gpt2lab download {absent[0]}")
    return notes


def _checks(listed: list[Found]) -> list[tuple[Found, Checked]]:
    """Every file of weights of the models, held against the checksum that it has, if any."""
    from gpt2lab.weights import checksums, find

    return [
        (found, line) for found in listed for line in checksums.report(find.resolve(found.path))
    ]


def _checked(found: Found, line: Checked) -> list[str]:
    said = line.fault or ("the same" if line.kind else "cannot be checked")
    return [found.name, line.file.name, line.kind or "no checksum", said]


#: A product of `cpu_features.Target` in words.
PRODUCTS = {
    "float": "by float32 products",
    "shift": "widened to float32",
    "pairs": "by bfloat16 pairs",
    "int16": "by int8 times int16",
    "vnni": "by int8 (VNNI)",
    "dot": "by int8 (dot)",
    "nibbles": "by int8 (VNNI)",
    "nibbles16": "by int16",
}


def _reasons(target: Target) -> str:
    """Why bfloat16 and int8 weights are multiplied as they are on this processor."""
    if target.bfloat16 == "pairs":
        bfloat16 = "this AMD has AVX512-BF16"
    elif "avx512bf16" in target.features:
        bfloat16 = "Intel's AVX512-BF16 is slower than float32"
    else:
        bfloat16 = "there are no products of bfloat16 pairs here"
    found = [name for name in ("avx512vnni", "avxvnni", "dotprod") if name in target.features]
    int8 = f"it has {found[0]}" if target.int8 != "int16" else "it multiplies no int8 by int8"
    return f"bfloat16 so because {bfloat16}; int8 and int4 because {int8}"


def _kept(name: str, what: str) -> str:
    """How much of one kind is kept in the cache folder, and where."""
    from gpt2lab.files.kept import cache_folder

    folder = cache_folder(name)
    sizes = [file.stat().st_size for file in folder.iterdir() if file.is_file()]
    return f"{what}: {len(sizes)} file{'s' * (len(sizes) != 1)}, {disk(sum(sizes))}, in {folder}"


def _caches() -> list[str]:
    """What is kept for the next start; nothing where there is no folder for it."""
    from gpt2lab.errors import Failure

    with suppress(Failure, OSError):
        return [
            _kept("kernels", "compiled kernels, also of other versions"),
            _kept("weights", "packed weights"),
            _kept("vocabularies", "checked vocabularies"),
        ]
    return []


def _engines() -> list[str]:
    """Which engines would compute on this machine, how and why, for stderr."""
    from importlib.util import find_spec

    from gpt2lab.engines.cpu import compile_cache, cpu_features, engine

    torch = "there" if find_spec("torch") else "not installed (gpt2lab[train])"
    others = f"the numpy engine is there, torch is {torch}"
    target = cpu_features.here()
    if target is None or cpu_features.why_not():
        return [f"engine: numpy; cpu cannot run here: {cpu_features.why_not()}", others]
    ways = [f"{dtype} {PRODUCTS[target.product(dtype)]}" for dtype in engine.DTYPES]
    ready = [  # each with its own dtype of keys and values
        dtype
        for dtype in engine.DTYPES
        if compile_cache.ready(target, dtype, "float32" if dtype == "float32" else "bfloat16")
    ]
    kernels = f"kernels compiled: {', '.join(ready) or 'none'}"
    if len(ready) < len(ways):
        kernels += "; the others will be when they are first used"
    cores = cpu_features.cores()
    return [
        f"engine: cpu, {target.name}, {cores} thread{'s' * (cores > 1)}; {', '.join(ways)}",
        f"processor: {cpu_features.features()[0]}; {_reasons(target)}",
        kernels,
        *_caches(),
        others,
    ]


def _training() -> list[str]:
    """How runs compute on this machine, as they measured it, for stderr."""
    from gpt2lab.train import remembered

    return [f"training measured: {line}" for line in remembered.listing()]


@click.command(
    epilog="Example: gpt2lab models runs/ --json",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("folders", nargs=-1, metavar="[FOLDER]...")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Also show the path of each model, the engines, how and why they compute, how training "
    "computes here, and what is kept for the next start.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Read the weights and verify their checksums, where there are any.",
)
def command(folders: tuple[str, ...], as_json: bool, verbose: bool, check: bool) -> None:
    """List the models on this machine, or those in the FOLDERs.

    Without FOLDER, the command lists the bundled model, the models in the working folder and in its
    subfolders models/ and checkpoint/, and those in the cache of the Hugging Face hub. It does not
    use the network.

    --check verifies each file of weights. A checksum is in the file itself (torch's zip,
    TensorFlow), in the manifest of a training run, in verify.json of `convert --verify`, or in the
    file's name in the cache of the hub. The exit code is 1 if one differs.
    """
    from gpt2lab.weights import find

    listed = find.listing(folders)
    checks = _checks(listed) if check else []
    if as_json:
        values = [as_dict(found) for found in listed]
        for value, found in zip(values, listed, strict=True):
            if check:
                value["files"] = [
                    {"file": line.file.name, "checksum": line.kind or None, "fault": line.fault}
                    for model, line in checks
                    if model is found
                ]
        click.echo(to_json(values, ensure_ascii=True, indent=2))
    elif listed:
        click.echo(printable(_text(listed, verbose)))
    if checks and not as_json:
        rows = [["name", "file", "checksum", "compared"], *(_checked(*line) for line in checks)]
        click.echo("\n" + printable(table(rows, (0, 1, 2, 3))))
    if not as_json:
        for note in [*_notes(listed, folders), *(_engines() + _training() if verbose else [])]:
            click.echo(f"note: {note}", err=True)
    if any(line.fault for _, line in checks):
        raise SystemExit(1)
