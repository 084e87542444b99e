"""`gpt2lab generate --replay`: generate the texts of saved records again."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from gpt2lab.commands.options import (
    ENGINE,
    check_target,
    echo_json,
    engine_options,
    load_model,
    printable,
    read_text,
    write_new,
)
from gpt2lab.commands.showing import in_digits, rule_of
from gpt2lab.errors import InputError
from gpt2lab.files.json_files import to_json
from gpt2lab.records import checked_record

#: What --replay leaves open: where the model lies now, and where the texts go.
_WITH_REPLAY = {"replay", "model", "out", "force", "as_json", "delimiter", *ENGINE}


def replay(flags: dict[str, Any]) -> None:
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
    texts = [d.text if lm.tokenizer else in_digits(d.tokens) for d in done]
    if flags["as_json"]:
        content = "".join(to_json(d.record) + "\n" for d in done)
    else:
        content = rule_of(flags).join(text + "\n" for text in texts)
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
