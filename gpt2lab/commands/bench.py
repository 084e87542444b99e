"""`gpt2lab bench`: how fast this machine is, as a table; `engines.benchmark` measures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands.models import short, table
from gpt2lab.commands.options import echo_json, printable
from gpt2lab.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from gpt2lab.config import Config
    from gpt2lab.engines.protocol import Engine

    Params = dict[str, np.ndarray[Any, np.dtype[Any]]]

SHAPE = "124M"  # without --model and --shape


def _progress(line: str) -> None:
    click.echo(f"note: {line}", err=True)


def _model(model: str | None, shape: str | None, engine: str) -> tuple[str, Config, Params]:
    """What is measured: its name, its shape, and its weights or random ones."""
    from gpt2lab import weights
    from gpt2lab.config import SIZES
    from gpt2lab.engines import benchmark
    from gpt2lab.weights import find
    from gpt2lab.weights.hub import locate

    if model is not None and shape is not None:
        raise InputError("--model and --shape are both given; a model has its own shape, give one")
    if model is not None:
        config, params, _ = weights.load(locate(model))
        return model, config, params
    shape = shape or SHAPE
    if shape not in (*SIZES, "fable"):
        raise InputError(f"shape {shape!r} is unknown; known: {', '.join((*SIZES, 'fable'))}")
    config = SIZES[shape] if shape in SIZES else weights.load(find.bundled()).config
    return f"{shape}, random weights", config, benchmark.random_params(config, engine != "cpu")


def _measure(report: dict[str, Any], config: Config, engine: Engine, seconds: float) -> None:
    """Measure an engine into the report, number by number, so that Ctrl-C loses only the next."""
    from gpt2lab import engines
    from gpt2lab.engines import benchmark
    from gpt2lab.engines.cpu import cpu_features

    described, here = engines.described(engine), report["machine"]
    if here["read"] is None:
        here["threads"] = getattr(engine, "threads", None) or cpu_features.cores()
        here["read"] = benchmark.bandwidth(here["threads"], seconds)
        _progress(f"memory: {here['read']:.1f} GB/s")
    row: dict[str, Any] = {
        "dtype": engine.dtype,
        "cache_dtype": described.get("cache_dtype"),
        "cases": [],
        "weight_bytes": benchmark.bytes_per_token(config, engine.dtype),
        "limit": None,
        "share": None,
    }
    report["results"].append(row)
    for case in benchmark.cases(config):
        speed = benchmark.speed(engine, case, seconds)
        row["cases"].append({"case": case.title, "rows": case.rows, "tokens_per_second": speed})
        _progress(f"{engine.dtype}, {case.title}: {_number(speed)} tokens/s")
    if described.get("device", "cpu") == "cpu":
        row["share"], row["limit"] = benchmark.share(engine, here["threads"], seconds)


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _text(report: dict[str, Any], titles: list[str]) -> str:
    """The report for people; what was not measured is a dash."""
    here, model = report["machine"], report["model"]
    rows = [["weights", "cache", *titles, "of limit"]]
    for row in report["results"]:
        speeds = [_number(case["tokens_per_second"]) for case in row["cases"]]
        speeds += ["-"] * (len(titles) - len(speeds))
        share = "-" if row["share"] is None else f"{row['share']:.0%}"
        rows.append([row["dtype"], row["cache_dtype"] or "-", *speeds, share])
    lines = [
        f"machine  {here['path']}; threads {here['threads']}, reading memory at "
        f"{here['read']:.1f} GB/s",
        f"model    {model['name']}; {short(model['parameters'])} parameters, "
        f"context {model['n_ctx']}",
        f"engine   {report['engine']}; tokens a second, and the share of the memory's limit that "
        f"{titles[0]} reaches",
        "",
        table(rows, (0, 1)),
    ]
    return "\n".join(lines)


@click.command(
    epilog="""\b
Examples:
  gpt2lab bench
  gpt2lab bench --shape 355M --dtype int8 --dtype bfloat16
  gpt2lab bench -m my-model --engine numpy --json

\b
decode 32      tokens/s of one sequence after 32 tokens
decode 512     the same after half the context length
prefill 512    tokens/s of a prompt of half the context length
batch 8        tokens/s of 8 sequences in a batch, after 32 tokens
of limit       each new token reads every weight once, so memory bandwidth limits
               the throughput: the fraction of this limit that decode 32 reaches
Only the steps of the engine are timed; the numbers are medians.""",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "-m", "--model", metavar="MODEL", help="Measure this model instead of random weights."
)
@click.option(
    "--shape",
    metavar="SIZE",
    help=f"Measure random weights of this size: 124M, 355M, 774M, 1558M or fable.  [{SHAPE}]",
)
@click.option(
    "--engine",
    metavar="NAME",
    help="Inference engine: cpu, numpy or torch.  [cpu where it can run]",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    metavar="DTYPE",
    help="Precision of the weights. Can be repeated.  [float32, bfloat16, int8 and int4, where the "
    "engine supports them]",
)
@click.option(
    "--cache-dtype", metavar="DTYPE", help="Precision of the KV cache: float32, bfloat16 or int8."
)
@click.option("--threads", type=int, metavar="N", help="Threads of the cpu engine.  [one per core]")
@click.option("--device", metavar="NAME", help="Device of the torch engine: cpu, cuda or mps.")
@click.option("--seconds", type=float, default=1.0, help="Time for each measurement.  [1.0]")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def command(
    model: str | None,
    shape: str | None,
    dtypes: tuple[str, ...],
    seconds: float,
    as_json: bool,
    **engine: Any,
) -> None:
    """Measure the throughput of this machine and compare it with its memory bandwidth.

    Ctrl-C ends the measurement early and prints what was measured so far.
    """
    from gpt2lab import engines
    from gpt2lab.engines import benchmark
    from gpt2lab.engines.cpu import compile_cache, cpu_features

    if not (math.isfinite(seconds) and 0 < seconds <= 3600):
        raise InputError(f"seconds is {seconds:g}; it must be above 0, at most 3600")
    if engine["engine"] is None:
        why = cpu_features.why_not() or compile_cache.why_none()
        engine["engine"] = "numpy" if why else "cpu"
        if why:
            _progress(f"the cpu engine cannot run here ({why}); measuring numpy")
    wanted = benchmark.dtypes(engine["engine"], dtypes)
    name, config, params = _model(model, shape, engine["engine"])
    here = cpu_features.here()
    report: dict[str, Any] = {
        "machine": {
            "path": here.name if here else f"no path of the cpu engine ({cpu_features.why_not()})",
            "threads": None,
            "read": None,
        },
        "model": {
            "name": name,
            "parameters": sum(int(value.size) for value in params.values()),
            **config.to_dict(),
        },
        "engine": engine["engine"],
        "seconds": seconds,
        "results": [],
    }
    try:
        for dtype in wanted:
            made = engines.choose(config, params, dtype=dtype, **engine)
            _measure(report, config, made, seconds)
            del made  # before the next one takes memory
    finally:  # an error or Ctrl-C takes the rest, not what is known
        if report["results"] and as_json:
            echo_json(report)
        elif report["results"]:
            click.echo(printable(_text(report, [case.title for case in benchmark.cases(config)])))
