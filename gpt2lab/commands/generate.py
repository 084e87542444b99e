"""`gpt2lab generate`: continue a text and print what comes."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands import aliases, headings
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import (
    ENGINE,
    allowed,
    ask,
    check_target,
    echo_json,
    engine_options,
    given_text,
    load_model,
    model_options,
    printable,
    read_text,
    sampling_options,
    sampling_settings,
    special_option,
    token_ids,
    unescape,
    write_new,
)
from gpt2lab.errors import Failure, InputError
from gpt2lab.files.json_files import to_json
from gpt2lab.records import checked_record

if TYPE_CHECKING:
    from gpt2lab.generation.generate import Piece
    from gpt2lab.generation.request import Request
    from gpt2lab.lm import LM

Key = tuple[int, int]  # prompt, index

RULE = "=" * 20 + "\n"


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
asks for one after another. Unless a preset is given, the temperature is 0.8 and top-p is 0.95; with
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
        _replay(flags)
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


# ---- Texts as they come.


class _Show:
    """Prints texts in order, each as far as it is known; what comes before its turn waits.

    `shown` is what was printed, for --out.
    """

    def __init__(self, lm: LM, prompts: Sequence[Any], flags: dict[str, Any]) -> None:
        self.shown: list[str] = []
        self._lm, self._prompts, self._flags = lm, prompts, flags
        self._live = flags["out"] is None
        self._rule = RULE if flags["delimiter"] is None else unescape(flags["delimiter"])
        self._current: Key | None = None
        self._waiting: dict[Key, list[Piece]] = {}
        self._ended: set[Key] = set()
        self._texts = 0

    def piece(self, piece: Piece) -> None:
        """Take a piece; print it if it is its text's turn, and what this lets go."""
        key = (piece.prompt, piece.index)
        if piece.finish_reason:
            self._ended.add(key)
        self._waiting.setdefault(key, []).append(piece)
        while self._current or self._waiting:
            if self._current is None:
                self._begin(min(self._waiting))
            assert self._current is not None
            for known in self._waiting.pop(self._current, []):
                self._print(known.text if self._lm.tokenizer else f"{known.token} ")
            if self._current not in self._ended:
                return
            self._end()

    def close(self) -> None:
        """Print what still waits, and end the line of a text that was interrupted."""
        if self._current:
            self._end()
        for key in sorted(self._waiting):
            self._begin(key)
            for known in self._waiting.pop(key):
                self._print(known.text if self._lm.tokenizer else f"{known.token} ")
            self._end()

    def _print(self, text: str) -> None:
        self.shown.append(text)
        if self._live:
            sys.stdout.write(printable(text))
            sys.stdout.flush()

    def _begin(self, key: Key) -> None:
        if self._texts:
            self._print(self._rule)
        self._current, self._texts = key, self._texts + 1
        text = self._prompts[key[0]]
        if isinstance(text, list):
            text = self._spelled(text)
        if text is None:
            return
        if self._flags["include_prompt"]:
            self._print(text)
        elif self._live and sys.stdout.isatty():
            click.secho(printable(text), bold=True, nl=False)

    def _spelled(self, ids: list[int]) -> str:
        """A prompt of ids as text; without a tokenizer, or where it lacks an id, as numbers."""
        tokenizer = self._lm.tokenizer
        if tokenizer is None or max(ids) >= tokenizer.n_vocab:
            return "".join(f"{token} " for token in ids)
        return tokenizer.decode(ids)

    def _end(self) -> None:
        self._print("\n")
        if self._current:
            self._ended.discard(self._current)
        self._current = None


def _write(lm: LM, prompts: list[Any], settings: dict[str, Any], flags: dict[str, Any]) -> None:
    """Write all texts; on Ctrl-C keep what there is."""
    names = flags.get("names", ())
    asked = lm.requests(prompts, flags["overflow"], settings, allowed(flags), names)
    s = asked[0].sampling
    if flags["endless"] and (s.num_beams > 1 or s.greedy):
        raise InputError("--endless would write the same text for ever; it needs a temperature")
    show = _Show(lm, prompts, flags)
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


def _save(show: _Show, records: list[dict[str, Any]], flags: dict[str, Any]) -> None:
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


# ---- The other two ways in.


#: What --replay leaves open: where the model lies now, and where the texts go.
_WITH_REPLAY = {"replay", "model", "out", "force", "as_json", "delimiter", *ENGINE}


def _replay(flags: dict[str, Any]) -> None:
    """Write the texts of saved records again; model, engine and settings are the records'."""
    context = click.get_current_context()
    for param in context.command.params:
        given = context.get_parameter_source(param.name or "")
        if given == click.core.ParameterSource.COMMANDLINE and param.name not in _WITH_REPLAY:
            name = param.opts[-1] if param.opts[-1].startswith("-") else param.opts[-1].upper()
            raise InputError(f"--replay takes everything from the record; leave out {name}")
    if flags["out"] is not None:
        target = check_target(flags["out"], flags["force"])
        if target == Path(os.path.realpath(flags["replay"])):
            raise InputError("--out and --replay name the same file; give different ones")
    records = _read_records(flags["replay"])
    first = records[0]
    made = engine_options({**first["engine"], "engine": first["engine"].get("name")})
    lm = load_model(
        flags["model"] or first["model"].get("name"),
        **{**made, **engine_options(flags)},
        download=flags["model"] is not None,  # a name in a file is no order to reach the network
    )
    done = [lm.replay(record) for record in records]
    texts = [d.text if lm.tokenizer else "".join(f"{token} " for token in d.tokens) for d in done]
    if flags["as_json"]:
        content = "".join(to_json(d.record) + "\n" for d in done)
    else:
        rule = RULE if flags["delimiter"] is None else unescape(flags["delimiter"])
        content = rule.join(text + "\n" for text in texts)
    if flags["out"] is not None:
        write_new(flags["out"], content, flags["force"])
        click.echo(f"written to {flags['out']}", err=True)
    elif flags["as_json"]:
        for d in done:
            echo_json(d.record)
    else:
        sys.stdout.write(printable(content))


def _read_records(path: str) -> list[dict[str, Any]]:
    """A file of records: one a line, or a single one over many lines; each is checked."""
    text = read_text(path)
    try:
        whole = json.loads(text)
        found = [("", record) for record in (whole if isinstance(whole, list) else [whole])]
    except (ValueError, RecursionError):
        lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        found = [(f", line {i}", _parse(line, f"{path}, line {i}")) for i, line in lines]
    for place, record in found:
        try:
            checked_record(record)
        except InputError as error:
            raise InputError(f"{path}{place}: {error}") from None
    if not found:
        raise InputError(f"{path} holds no record; it is empty")
    return [record for _, record in found]


def _parse(line: str, path: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no record of a generation: {error}") from None


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
