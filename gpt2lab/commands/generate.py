"""`gpt2lab generate`: continue a text and print what comes."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands import aliases, headings
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import (
    allowed,
    ask,
    check_target,
    echo_json,
    engine_options,
    given_text,
    load_model,
    model_options,
    read_text,
    sampling_options,
    sampling_settings,
    special_option,
    token_ids,
    unescape,
    write_new,
)
from gpt2lab.commands.replaying import replay
from gpt2lab.commands.showing import Key, Show
from gpt2lab.errors import Failure, InputError
from gpt2lab.files.json_files import to_json

if TYPE_CHECKING:
    from gpt2lab.generation.generate import Piece
    from gpt2lab.generation.request import Request
    from gpt2lab.lm import LM


class _Generate(Headed):
    """The command, with the flags of other programs translated before click sees them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [param for param in self.params if isinstance(param, click.Option)]
        own = {name: not option.is_flag for option in options for name in option.opts}
        args = aliases.translate(args, {**own, "--help": False, "-h": False})
        return super().parse_args(ctx, args)


@click.command(
    cls=_Generate,
    headings={
        "Prompt": ("file", "lines", "ids", "unconditional", "allow_special"),
        **headings.MODEL,
        **headings.SAMPLING,
        "Output": ("include_prompt", "delimiter", "out", "force", "as_json", "record", "replay"),
    },
    epilog="""\b
Examples:
  gpt2lab generate "Once upon a time"
  gpt2lab generate "The dog" -n 3 -l 40 --seed 7
  gpt2lab generate --file prompts.txt --lines --json > texts.jsonl
  gpt2lab generate "Hello" --model path/to/checkpoint --preset openai --top-k 40

At a terminal the text appears as it is generated, after the prompt; without a prompt, the command
asks for one after another. Unless a preset is given, the temperature is 0.7 and top-p is 0.95; with
--num-beams the temperature is 0.""",
)
@click.argument("prompt", required=False)
@model_options
@click.option("--file", metavar="PATH", help="Read the prompt from this file; - is standard input.")
@click.option(
    "--lines", is_flag=True, help="Take each line of the file or of standard input as a prompt."
)
@click.option("--ids", metavar="'ID ID ...'", help="Give the prompt as token ids.")
@click.option("--unconditional", is_flag=True, help="Start a new document, without a prompt.")
@special_option
@click.option("--prompt", "prompt_flag", hidden=True)
@sampling_options()
@click.option("--max-length", type=int, hidden=True)
@click.option("--ignore-end", is_flag=True, help="Continue after the model's end token.")
@click.option(
    "--overflow",
    default="refuse",
    help="For a prompt that is too long: refuse it, or keep its tail or head+tail.  [refuse]",
)
@click.option("--endless", is_flag=True, help="Generate sample after sample until Ctrl-C.")
@click.option("--batch-size", type=click.IntRange(1), default=16, help="Sequences per batch.  [16]")
@click.option("--include-prompt", is_flag=True, help="Print the prompt before each text.")
@click.option("--truncate", metavar="TEXT", help="Stop before this text, as --stop does.")
@click.option("--delimiter", metavar="TEXT", help="Print this between texts.  [a line of =]")
@click.option("--out", metavar="PATH", help="Write the texts to this new file.")
@click.option("--force", is_flag=True, help="Let --out and --record replace an existing file.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON record per text, with token ids and settings.",
)
@click.option("--record", metavar="PATH", help="Also save the records to this file.")
@click.option("--replay", metavar="PATH", help="Generate the texts of these saved records again.")
def command(prompt: str | None, **flags: Any) -> None:
    """Generate text that continues PROMPT, a file or standard input, or text without a prompt."""
    prompt = prompt if prompt is not None else flags["prompt_flag"]
    if flags["replay"] is not None:
        replay(flags)
        return
    settings = _settings(flags)
    prompts = _prompts(prompt, flags)
    lm_flags = {"model": flags["model"], **engine_options(flags)}
    if prompts is None:
        if flags["out"] is not None or flags["record"] is not None:
            raise InputError("--out and --record need a prompt; the loop only shows its texts")
        _loop(load_model(**lm_flags), settings, flags)
        return
    _check_targets(flags)
    _hint(prompts)
    _write(load_model(**lm_flags), prompts, settings, flags)


def _settings(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags as keyword arguments of `LM.settings`."""
    settings = sampling_settings(flags)
    if flags["max_length"] is not None:
        settings["max_length"] = flags["max_length"]
    if flags["truncate"]:
        settings["stop"] = (*settings.get("stop", ()), unescape(flags["truncate"]))
    if flags["ignore_end"] and "stop_tokens" in settings:
        raise InputError("--ignore-end and --stop-tokens contradict each other; give one")
    if flags["ignore_end"]:
        settings["stop_tokens"] = ()
    if settings.get("preset") == "gpt-2-simple" and settings.get("top_p") == 0:
        del settings["top_p"]  # 0 is its "off"
    return settings


def _prompts(prompt: str | None, flags: dict[str, Any]) -> list[Any] | None:
    """What to continue: texts, ids, [None] for no prompt; None asks a person."""
    sources = [prompt, flags["file"], flags["ids"], flags["unconditional"] or None]
    if sum(source is not None for source in sources) > 1:
        raise InputError("more than one of PROMPT, --file, --ids and --unconditional; give one")
    if flags["unconditional"]:
        return [None]
    if flags["ids"] is not None:
        return [token_ids(flags["ids"])]
    if prompt is None and flags["file"] is None and sys.stdin is not None and sys.stdin.isatty():
        return None
    if flags["lines"]:
        if prompt is not None:
            raise InputError("--lines goes with --file or standard input, not with a PROMPT")
        lines = [line.rstrip("\r") for line in read_text(flags["file"] or "-").split("\n")]
        if not any(line.strip() for line in lines):
            raise InputError("there are no prompts: every line is empty")
        flags["names"] = [f"line {i}" for i, line in enumerate(lines, 1) if line.strip()]
        return [line for line in lines if line.strip()]
    text = given_text(prompt, flags["file"], "prompt")
    if prompt is None:
        text = text.replace("\r\n", "\n")
    if flags["file"] is not None:  # a file ends with a line end that the text does not mean
        text = text.removesuffix("\n")
    if not text:
        raise InputError("the prompt is empty; give some text, or --unconditional for none")
    return [text]


def _hint(prompts: list[Any]) -> None:
    if any(isinstance(text, str) and text.endswith((" ", "\t")) for text in prompts):
        click.echo(
            "note: the prompt ends with a space; GPT-2's words begin with theirs, so the text is "
            "usually better without it",
            err=True,
        )


def _check_targets(flags: dict[str, Any]) -> None:
    """Refuse what cannot be written before the work is done, not after."""
    given = [flags[key] for key in ("out", "record") if flags[key] is not None]
    targets = [check_target(path, flags["force"]) for path in given]
    if flags["file"] not in (None, "-"):
        targets.append(Path(os.path.realpath(flags["file"])))
    if len(set(targets)) < len(targets):
        raise InputError("--out, --record and --file name the same file; give different ones")
    for key in ("delimiter", "truncate"):
        try:
            (flags[key] or "").encode()
        except UnicodeEncodeError:
            raise InputError(f"--{key} {flags[key]!r} is not UTF-8") from None


def _write(lm: LM, prompts: list[Any], settings: dict[str, Any], flags: dict[str, Any]) -> None:
    """Write all texts; on Ctrl-C keep what there is."""
    names = flags.get("names", ())
    asked = lm.requests(prompts, flags["overflow"], settings, allowed(flags), names)
    s = asked[0].sampling
    if flags["endless"] and (s.num_beams > 1 or s.greedy):
        raise InputError("--endless would write the same text for ever; it needs a temperature")
    show = Show(lm, prompts, flags)
    parts: dict[Key, list[Piece]] = {}
    records: list[dict[str, Any]] = []
    wants_records = flags["as_json"] or flags["record"] is not None
    try:
        for piece in _pieces(lm, asked, flags):
            if not flags["as_json"]:
                show.piece(piece)
            if not wants_records:
                continue
            key = piece.prompt, piece.index
            parts.setdefault(key, []).append(piece)
            if piece.finish_reason:
                record = _record(lm, parts[key], asked, prompts)  # the first hashes the model
                del parts[key]
                _keep_record(record, records, flags)
    except BaseException:  # Ctrl-C, a closed pipe, a full disk: what is finished is kept
        with suppress(OSError):
            show.close()
        for kept in parts.values():
            records.append(_record(lm, kept, asked, prompts))
        _save(show, records, flags)
        raise
    _save(show, records, flags)


def _pieces(lm: LM, asked: list[Request], flags: dict[str, Any]) -> Iterator[Piece]:
    """All samples at once, or with --endless one after the other."""
    from gpt2lab.generation import generate

    once = [range(asked[0].sampling.n)]
    rounds = ([index] for index in itertools.count()) if flags["endless"] else once
    for indices in rounds:
        yield from generate.pieces(
            lm.engine, lm.tokenizer, asked, indices=indices, batch_size=flags["batch_size"]
        )


def _record(lm: LM, kept: list[Piece], asked: list[Request], prompts: list[Any]) -> dict[str, Any]:
    from gpt2lab.generation.generate import collect

    [done] = collect(iter(kept), asked)
    return lm.record(done, asked[done.prompt].sampling, prompts[done.prompt])


def _keep_record(
    record: dict[str, Any], records: list[dict[str, Any]], flags: dict[str, Any]
) -> None:
    if flags["as_json"] and flags["out"] is None:
        echo_json(record)
    if flags["out"] is not None or flags["record"] is not None:
        records.append(record)


def _save(show: Show, records: list[dict[str, Any]], flags: dict[str, Any]) -> None:
    lines = "".join(to_json(record) + "\n" for record in records)
    text = lines if flags["as_json"] else "".join(show.shown)
    written = []
    for key, content in (("out", text), ("record", lines)):
        if flags[key] is not None and content:
            _write_or_show(flags[key], content, flags["force"])
            written.append(flags[key])
    with suppress(OSError):
        if flags["out"] is not None and written:
            click.echo(f"written to {' and '.join(written)}", err=True)


def _write_or_show(path: str, content: str, force: bool) -> None:
    """Write the file; where that fails after all, the work goes to stdout and is not lost."""
    try:
        write_new(path, content, force)
    except (InputError, Failure):
        sys.stdout.write(content)
        raise


def _loop(lm: LM, settings: dict[str, Any], flags: dict[str, Any]) -> None:
    """Ask for a prompt, continue it, and again, until Ctrl-D. Ctrl-C stops a text, or the loop."""
    click.echo(f"{lm.name}: type a prompt to continue it; Ctrl-D ends.", err=True)
    while True:
        try:
            text = ask("Model prompt >>> ")
        except EOFError:
            click.echo(err=True)
            return
        if not text.strip():
            click.echo("The prompt is empty; type some text.", err=True)
            continue
        try:
            _hint([text])
            _write(lm, [text], settings, flags)
        except InputError as error:
            click.echo(f"gpt2lab: {error}", err=True)
        except KeyboardInterrupt:
            continue
