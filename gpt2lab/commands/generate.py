"""`gpt2lab generate`: continue a text and print what comes."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands import legacy
from gpt2lab.commands.options import (
    given_text,
    load_model,
    model_options,
    printable,
    read_text,
    sampling_options,
    sampling_settings,
    unescape,
    write_new,
)
from gpt2lab.errors import InputError

if TYPE_CHECKING:
    from gpt2lab.generate import Completion, Piece
    from gpt2lab.lm import LM

RULE = "=" * 20 + "\n"


class _Generate(click.Command):
    """The command, with the flags of other systems translated before click sees them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args, notes = legacy.translate(args)
        for note in notes:
            click.echo(f"note: {note}", err=True)
        return super().parse_args(ctx, args)


@click.command(
    cls=_Generate,
    epilog="""\b
Examples:
  gpt2lab generate "Once upon a time"
  gpt2lab generate "The dog" -n 3 -l 40 --seed 7
  gpt2lab generate --file prompts.txt --lines --json > texts.jsonl
  gpt2lab generate "Hello" --model path/to/checkpoint --preset openai --top-k 40

\b
At a terminal the text appears as it is written, after the prompt; with no prompt
at all, prompts are asked for one after another. Unless a preset is given, texts
are written with temperature 0.8 and top-p 0.95; beams search without drawing.""",
)
@click.argument("prompt", required=False)
@model_options
@click.option("--file", metavar="PATH", help="Read the prompt from a file; - is standard input.")
@click.option("--lines", is_flag=True, help="Every line of the file or input is a prompt.")
@click.option("--ids", metavar="'ID ID ...'", help="The prompt as token ids.")
@click.option("--unconditional", is_flag=True, help="No prompt: begin a new document.")
@click.option("--prompt", "prompt_flag", hidden=True)
@sampling_options()
@click.option("--max-length", type=int, hidden=True)
@click.option("--ignore-end", is_flag=True, help="Write on past the model's end token.")
@click.option("--overflow", default="refuse", help="Prompt too long: refuse, tail, head+tail.")
@click.option("--endless", is_flag=True, help="Sample after sample until Ctrl-C.")
@click.option("--batch-size", type=click.IntRange(1), default=16, help="Texts at once.  [16]")
@click.option("--include-prompt", is_flag=True, help="Print the prompt before each text.")
@click.option("--truncate", metavar="TEXT", help="End each text before this; like --stop.")
@click.option("--delimiter", metavar="TEXT", help="Between texts.  [a line of =]")
@click.option("--out", metavar="PATH", help="Write the texts to a new file.")
@click.option("--force", is_flag=True, help="Let --out and --record replace a file.")
@click.option("--json", "as_json", is_flag=True, help="One record a line, with ids and settings.")
@click.option("--record", metavar="PATH", help="Save the records beside the text.")
@click.option("--replay", metavar="PATH", help="Write the texts of saved records again.")
def command(prompt: str | None, **flags: Any) -> None:
    """Continue a text: from PROMPT, a file, standard input, or nothing."""
    if flags["replay"]:
        _replay(flags)
        return
    lm_flags = {key: flags[key] for key in ("model", "engine", "dtype")}
    settings = sampling_settings(flags)
    if flags["max_length"] is not None:
        settings["max_length"] = flags["max_length"]
    if flags["ignore_end"]:
        settings["stop_tokens"] = ()
    if flags["truncate"]:
        settings["stop"] = (*settings.get("stop", ()), unescape(flags["truncate"]))
    if settings.get("preset") == "gpt-2-simple" and settings.get("top_p") == 0:
        del settings["top_p"]  # 0 is its "off"
    prompts = _prompts(prompt if prompt is not None else flags["prompt_flag"], flags)
    if prompts is None:
        _loop(load_model(**lm_flags), settings, flags)
        return
    for text in prompts:
        if isinstance(text, str) and text.endswith((" ", "\t")):
            click.echo(
                "note: the prompt ends with a space; GPT-2's words begin with theirs, so the text "
                "is usually better without it",
                err=True,
            )
            break
    _check_targets(flags)
    _write(load_model(**lm_flags), prompts, settings, flags)


def _prompts(prompt: str | None, flags: dict[str, Any]) -> list[Any] | None:
    """What to continue: texts, ids, [None] for no prompt; None asks a person."""
    sources = [prompt, flags["file"], flags["ids"], flags["unconditional"] or None]
    if sum(source is not None for source in sources) > 1:
        raise InputError("more than one of PROMPT, --file, --ids and --unconditional; give one")
    if flags["unconditional"]:
        return [None]
    if flags["ids"] is not None:
        return [_ids(flags["ids"])]
    if prompt is None and flags["file"] is None and sys.stdin.isatty():
        return None
    if flags["lines"]:
        if prompt is not None:
            raise InputError("--lines goes with --file or standard input, not with a PROMPT")
        lines = [line for line in read_text(flags["file"] or "-").split("\n") if line.strip()]
        if not lines:
            raise InputError("there are no prompts: every line is empty")
        return list(lines)
    text = given_text(prompt, flags["file"], "prompt")
    if not text:
        raise InputError("the prompt is empty; give some text, or --unconditional for none")
    return [text]


def _ids(text: str) -> list[int]:
    words = text.replace(",", " ").split()
    wrong = [word for word in words if not (word.isascii() and word.isdigit())]
    if wrong or not words:
        raise InputError(f"--ids {text!r}: {(wrong or [''])[0]!r} is no token id; ids are numbers")
    return [int(word) for word in words]


def _check_targets(flags: dict[str, Any]) -> None:
    """Refuse a file that exists before the work is done, not after."""
    from pathlib import Path

    for key in ("out", "record"):
        if flags[key] and not flags["force"] and Path(flags[key]).exists():
            raise InputError(
                f"{flags[key]} exists and is left as it is; choose another name or add --force"
            )


# ---- Texts as they come.


class _Show:
    """Prints texts in order, each as far as it is known; the rest waits for its turn.

    `shown` is what was printed, for --out.
    """

    def __init__(self, lm: LM, prompts: Sequence[Any], flags: dict[str, Any]) -> None:
        self.shown: list[str] = []
        self._lm, self._prompts, self._flags = lm, prompts, flags
        self._live = not flags["out"]
        self._begun = False
        self._first = True
        delimiter = flags["delimiter"]
        self._rule = RULE if delimiter is None else unescape(delimiter)

    def _print(self, text: str) -> None:
        self.shown.append(text)
        if self._live:
            sys.stdout.write(printable(text))
            sys.stdout.flush()

    def piece(self, piece: Piece) -> None:
        """Show a piece of the text whose turn it is."""
        self._begin(piece.prompt)
        self._print(piece.text if self._lm.tokenizer else f"{piece.token} ")
        if piece.finish_reason:
            self._print("\n")
            self._begun = False

    def _begin(self, prompt: int) -> None:
        if self._begun:
            return
        if not self._first:
            self._print(self._rule)
        self._begun, self._first = True, False
        text = self._prompts[prompt]
        if not isinstance(text, str):
            return
        if self._flags["include_prompt"]:
            self._print(text)
        elif self._live and sys.stdout.isatty():
            click.secho(printable(text), bold=True, nl=False)

    def close(self) -> None:
        """End the line of a text that was broken off."""
        if self._begun:
            self._print("\n")


def _in_order(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Pieces of many texts, text after text: those of later texts wait."""
    waiting: dict[tuple[int, int], list[Piece]] = {}
    current: tuple[int, int] | None = None
    ended: set[tuple[int, int]] = set()
    for piece in pieces:
        key = (piece.prompt, piece.index)
        current = current or key
        if key == current:
            yield piece
        else:
            waiting.setdefault(key, []).append(piece)
        if piece.finish_reason:
            ended.add(key)
        while current in ended:
            ended.discard(current)
            current = min(waiting, default=None)
            yield from waiting.pop(current) if current else []


def _write(lm: LM, prompts: list[Any], settings: dict[str, Any], flags: dict[str, Any]) -> None:
    """Write all texts; on Ctrl-C keep what there is."""
    from gpt2lab import generate

    encoded, s = lm.prepare(prompts, flags["overflow"], settings)
    show = _Show(lm, prompts, flags)
    kept: list[Piece] = []
    records: list[dict[str, Any]] = []

    def stream() -> Iterator[Piece]:
        for indices in _rounds(flags["endless"], s.n):
            yield from generate.pieces(
                lm.engine,
                lm.tokenizer,
                encoded,
                s,
                indices=indices,
                batch_size=flags["batch_size"],
            )

    try:
        for piece in _in_order(stream()):
            kept.append(piece)
            if not flags["as_json"]:
                show.piece(piece)
            if piece.finish_reason and (flags["as_json"] or flags["record"]):
                records += _records(lm, kept, encoded, s, prompts)
                _print_json(records[-1:], flags)
            if piece.finish_reason:
                kept.clear()
    except KeyboardInterrupt:
        show.close()
        raise
    finally:
        _save(show, records, flags)


def _rounds(endless: bool, n: int) -> Iterator[Sequence[int]]:
    """Which samples to write: 0 to n - 1 at once, or one after the other without end."""
    if not endless:
        yield range(n)
        return
    for index in itertools.count():
        yield [index]


def _records(
    lm: LM, kept: list[Piece], encoded: list[list[int]], s: Any, prompts: list[Any]
) -> list[dict[str, Any]]:
    from gpt2lab.generate import collect

    return [lm.record(done, s, prompts[done.prompt]) for done in collect(iter(kept), encoded)]


def _print_json(records: list[dict[str, Any]], flags: dict[str, Any]) -> None:
    if flags["as_json"] and not flags["out"]:
        for record in records:
            click.echo(json.dumps(record, ensure_ascii=False))


def _save(show: _Show, records: list[dict[str, Any]], flags: dict[str, Any]) -> None:
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if flags["out"]:
        text = lines if flags["as_json"] else "".join(show.shown)
        write_new(flags["out"], text, flags["force"])
        click.echo(f"written to {flags['out']}", err=True)
    if flags["record"] and records:
        write_new(flags["record"], lines, flags["force"])


# ---- The other two ways in.


def _replay(flags: dict[str, Any]) -> None:
    """Write the texts of saved records again; the model is the one that they name."""
    records = [_parse(line, flags["replay"]) for line in _record_lines(flags["replay"])]
    name = flags["model"] or records[0].get("model", {}).get("name")
    lm = load_model(name, flags["engine"], flags["dtype"])
    for place, record in enumerate(records):
        done: Completion = lm.replay(record)
        if flags["as_json"]:
            click.echo(json.dumps(done.record, ensure_ascii=False))
            continue
        if place:
            sys.stdout.write(RULE)
        click.echo(printable(done.text))


def _record_lines(path: str) -> list[str]:
    """A file of records: one a line, or a single one over many lines."""
    text = read_text(path).strip()
    if not text:
        raise InputError(f"{path} holds no record; it is empty")
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return text.split("\n")
    return [text]


def _parse(line: str, path: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} holds no record of a generation: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{path} holds {type(record).__name__} where a record should be")
    return record


def _loop(lm: LM, settings: dict[str, Any], flags: dict[str, Any]) -> None:
    """Ask for a prompt, continue it, and again, until Ctrl-D. Ctrl-C stops a text, or the loop."""
    click.echo(f"{lm.name}: type a prompt to continue it; Ctrl-D ends.", err=True)
    while True:
        try:
            text = input("Model prompt >>> ")
        except EOFError:
            click.echo(err=True)
            return
        if not text.strip():
            click.echo("The prompt is empty; type some text.", err=True)
            continue
        try:
            _write(lm, [text], settings, flags)
        except InputError as error:
            click.echo(f"gpt2lab: {error}", err=True)
        except KeyboardInterrupt:
            continue
