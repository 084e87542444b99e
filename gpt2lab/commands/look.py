"""`gpt2lab look`: see a model think, in a terminal, as JSON, or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands import looking
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import (
    allowed,
    check_target,
    echo_json,
    given_text,
    load_model,
    printable,
    special_option,
    token_ids,
)
from gpt2lab.errors import InputError
from gpt2lab.files.atomic import write_whole

if TYPE_CHECKING:
    from gpt2lab.lens import Act
    from gpt2lab.lens.prediction import Expected
    from gpt2lab.lm import LM


@click.command(
    cls=Headed,
    headings={
        "Model and prompt": ("model", "file", "ids", "allow_special", "after_end"),
        "Prediction": ("position", "top", "token", "against"),
        "Ablation": ("silence", "scale"),
        "Other views": ("source", "layer", "run"),
        "Output": ("html", "force", "as_json", "color"),
    },
    epilog="""\b
Examples:
  gpt2lab look "The cat sat on the"
  gpt2lab look "The cat sat on the" --html cat.html
  gpt2lab look "The cat sat on the" --source --layer 2 | less -R
  gpt2lab look "The dog saw the boy. The" --token " dog" --against " boy" --silence 4.1
  gpt2lab look --run runs/letters --html grown.html

The NumPy reference computes everything. Logarithms are natural. A head is LAYER.HEAD, both counted
from 0.""",
)
@click.argument("prompt", required=False)
@click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="A checkpoint of any format, an official size (124M) or a name on the Hugging Face hub; "
    "the bundled model by default.",
)
@click.option("--file", metavar="PATH", help="Read the prompt from this file; - is standard input.")
@click.option("--ids", metavar="'ID ID ...'", help="Give the prompt as token ids.")
@special_option
@click.option(
    "--after-end",
    is_flag=True,
    help="Put the end token before the prompt, as at the start of a document.",
)
@click.option("--top", type=int, default=10, help="Number of next tokens to list.  [10]")
@click.option(
    "--token",
    metavar="TEXT",
    help="Token whose logit is attributed to heads and layers.  [the most probable]",
)
@click.option(
    "--against", metavar="TEXT", help="Attribute the difference from the logit of this token."
)
@click.option("--position", type=int, default=-1, help="Position of the prediction.  [the last]")
@click.option(
    "--silence",
    multiple=True,
    metavar="LAYER.HEAD",
    help="Ablate a head: set its output to zero. Can be repeated.",
)
@click.option(
    "--scale",
    multiple=True,
    metavar="LAYER.HEAD=X",
    help="Multiply the output of a head by X. Can be repeated.",
)
@click.option(
    "--source",
    is_flag=True,
    help="Walk through the source code of the model, with the numbers of this prompt.",
)
@click.option("--layer", type=int, help="Layer that --source shows in full.  [0]")
@click.option(
    "--run",
    metavar="DIR",
    help="Show the heads at each checkpoint of this training run; no prompt is needed.",
)
@click.option("--html", metavar="FILE", help="Write one HTML page that works offline.")
@click.option("--force", is_flag=True, help="Replace an existing page.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
@click.option(
    "--color", metavar="WHEN", default="auto", help="Use colours: auto, always or never.  [auto]"
)
def command(prompt: str | None, **flags: Any) -> None:
    """Look inside a model as it reads PROMPT: surprisal, logit lens, heads, source code."""
    _check_flags(flags)
    target = check_target(flags["html"], flags["force"]) if flags["html"] is not None else None
    canvas = looking.Canvas(flags["color"])
    if flags["run"] is not None:
        _grown(canvas, prompt, target, flags)
        return
    if flags["ids"] is not None and (prompt is not None or flags["file"] is not None):
        raise InputError("the prompt is given twice, as ids and as text; give one")
    given: Any = token_ids(flags["ids"]) if flags["ids"] is not None else None
    given = given or given_text(prompt, flags["file"], "prompt")
    lm = load_model(flags["model"], engine="numpy")
    lm = lm.acting(*_acts(flags))
    tokens = _tokens(lm, lm.encode(given, allowed(flags)), flags["after_end"])
    if flags["source"]:
        from gpt2lab.lens import hook_names, walkthrough

        layer = hook_names.check_layer(lm.config, flags["layer"] or 0)
        looking.source_view(canvas, walkthrough.walk(lm, tokens), layer)
        return
    if target is not None:
        from gpt2lab.lens.page import render

        _write(target, flags["html"], render(lm, tokens))
        return
    _looked(canvas, lm, tokens, flags)


#: Flags that have no meaning together: the first excludes each of the others, and why.
_APART: list[tuple[str, tuple[str, ...], str]] = [
    (
        "run",
        ("model", "file", "ids", "source", "token", "against", "silence", "scale"),
        "--run looks at every checkpoint of a run",
    ),
    ("source", ("html", "json"), "--source is for a terminal, and the page contains the source"),
    ("html", ("json",), "--html and --json are two kinds of output"),
]


def _check_flags(flags: dict[str, Any]) -> None:
    """Flags that have no meaning together, reported before anything is loaded."""
    given = {name.removeprefix("as_") for name, value in flags.items() if value}
    for first, others, why in _APART:
        for other in others:
            if {first, other} <= given:
                raise InputError(f"{why}; leave --{other} out")
    if flags["layer"] is not None and not flags["source"]:
        raise InputError("--layer is the layer that --source shows; add --source, or leave it out")
    if flags["force"] and flags["html"] is None:
        raise InputError("--force is for --html FILE; add that, or leave --force out")
    if flags["top"] < 1:
        raise InputError(f"--top is {flags['top']}; it must be 1 or more")


def _head(text: str) -> tuple[int, int]:
    """LAYER.HEAD as two numbers."""
    layer, dot, head = text.partition(".")
    if not (dot and layer.isdecimal() and head.isdecimal()):
        raise InputError(f"{text!r} is no head; write LAYER.HEAD, both from 0, as in 4.1")
    return int(layer), int(head)


def _acts(flags: dict[str, Any]) -> list[Act]:
    """What --silence and --scale ask for."""
    from gpt2lab import lens

    made = [lens.silence_heads(layer, head) for layer, head in map(_head, flags["silence"])]
    for text in flags["scale"]:
        where, sign, factor = text.partition("=")
        layer, head = _head(where)
        try:
            number = float(factor)
        except ValueError:
            sign = ""
        if not sign:
            raise InputError(f"scale {text!r} is not LAYER.HEAD=X, as in 4.1=0.5")
        made.append(lens.scale_heads(layer, head, number))
    return made


def _tokens(lm: LM, prompt: list[int], after_end: bool) -> list[int]:
    """The prompt as ids, after the end token unless the vocabulary put it there."""
    begin = lm.encode(None) if after_end else []
    tokens = prompt if prompt[: len(begin)] == begin else [*begin, *prompt]
    if len(tokens) > lm.config.n_ctx:
        raise InputError(
            f"the prompt has {len(tokens)} tokens, the model sees {lm.config.n_ctx}; shorten it"
        )
    return tokens


def _note_spelling(lm: LM, token: str | None, after: Expected) -> None:
    """Say so where a token that was asked for is more probable with a space before it."""
    if token is None or token.startswith(" ") or lm.tokenizer is None:
        return
    spaced = lm.tokenizer.encode(f" {token}")
    chances = dict(after.alternatives)
    own = chances.get(lm.tokenizer.encode(token)[0], 0.0)
    if len(spaced) == 1 and chances.get(spaced[0], 0.0) > own:
        click.echo(
            f"note: {printable(token)!r} was taken as written; with a space before it, "
            f"{printable(' ' + token)!r}, it is a token too, and more probable here",
            err=True,
        )


def _write(target: Path, name: str, page: str) -> None:
    write_whole(target, page)
    click.echo(f"note: {printable(name)} is written; open it in a browser", err=True)


def _looked(canvas: looking.Canvas, lm: LM, tokens: list[int], flags: dict[str, Any]) -> None:
    """The prompt in a terminal, or as JSON."""
    from gpt2lab import lens

    wanted = ["embed", "pos_embed", "z", "mlp_out", "resid_pre", "resid_post", "logits"]
    trace = lm.trace(tokens, wanted)
    seen = lens.next_tokens(trace, flags["top"])
    plain = lens.probabilities(lens.without_acts(lm), tokens) if lm.acts else None
    read = lens.logit_lens(trace, top=min(5, flags["top"]))
    parts = lens.attribution(
        trace, flags["token"], against=flags["against"], position=flags["position"], by="head"
    )
    # Where the window is too short for random tokens that come twice, there are no scores.
    scores = lens.head_scores(lm, batch=1) if lm.config.n_ctx >= 5 else None
    _note_spelling(lm, flags["token"], seen.next)
    if flags["as_json"]:
        echo_json(
            {
                "model": lm.name,
                "acts": [act.about for act in lm.acts],
                "tokens": tokens,
                "next_tokens": seen.to_dict(),
                "plain": None if plain is None else looking.plain_dict(seen, plain),
                "logit_lens": read.to_dict(),
                "attribution": parts.to_dict(),
                "head_scores": scores.to_dict() if scores else None,
            }
        )
        return
    if lm.acts:
        told = "; ".join(act.title for act in lm.acts)
        canvas.line(canvas.paint(f"{told}; plain: the model without that", bold=True, fg="red"))
    looking.text_view(canvas, seen, plain)
    looking.next_view(canvas, seen, seen.next, None if plain is None else plain[-1])
    looking.lens_view(canvas, read, trace.pieces)
    looking.heads_view(canvas, parts, scores, 8)


def _grown(
    canvas: looking.Canvas, text: str | None, target: Path | None, flags: dict[str, Any]
) -> None:
    """The heads of a run at every checkpoint."""
    from gpt2lab.lens import over_training
    from gpt2lab.train import log as journal

    run = Path(flags["run"])
    log = run / journal.NAME
    records = journal.read(log) if log.is_file() else []
    shown = not flags["as_json"] and target is None
    stages: list[over_training.Stage] = []
    for stage in over_training.stages(run, records, text):
        if shown:
            looking.growth_row(canvas, stage, names=not stages)
        stages.append(stage)
    grown = over_training.Growth(str(run), stages, text or "")
    if flags["as_json"]:
        echo_json(grown.to_dict())
    elif target is not None:
        _write(target, flags["html"], over_training.page(grown))
    else:
        looking.growth_view(canvas, grown)
