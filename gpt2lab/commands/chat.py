"""`gpt2lab chat`: talk with a model, line by line."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands import headings
from gpt2lab.commands.headings import Headed
from gpt2lab.commands.options import (
    allowed,
    ask,
    engine_options,
    load_model,
    model_options,
    printable,
    sampling_options,
    sampling_settings,
    special_option,
    token_ids,
)
from gpt2lab.errors import InputError
from gpt2lab.generation.sampling import Sampling

if TYPE_CHECKING:
    from gpt2lab.chat import Chat

#: Settings that make no sense for one answer at a time.
SKIPPED = ("n", "num_beams", "length_penalty", "early_stopping")
_HELP = """/reset            forget everything said
/undo             take the last exchange back
/set NAME VALUE   change a setting, as in /set temperature 0.7
/settings         show the settings
/help             this list
/quit             leave (Ctrl-D too)"""


@click.command(
    cls=Headed,
    headings={
        "Conversation": ("you", "them", "opening", "allow_special"),
        **headings.MODEL,
        **headings.SAMPLING,
    },
    epilog="""\b
Examples:
  gpt2lab chat
  gpt2lab chat --model 124M --them Socrates --you Pupil -t 0.7

A base GPT-2 is not an assistant: it continues the script of a conversation between two speakers. A
reply ends at a blank line; /set end_on none changes that. When the context window is full, the
oldest turns are left out. Ctrl-C ends a reply early. Commands in the chat: /reset, /undo,
/set temperature 0.7, /settings, /help, /quit.""",
)
@model_options
@click.option("--you", default="You", metavar="NAME", help="Your name in the script.  [You]")
@click.option(
    "--them", default="Friend", metavar="NAME", help="The model's name in the script.  [Friend]"
)
@click.option(
    "--opening", default="", metavar="TEXT", help="Text of the script before the first line."
)
@special_option
@sampling_options(skip=SKIPPED)
def command(**flags: Any) -> None:
    """Talk with a model in the terminal."""
    from gpt2lab.chat import Chat

    lm = load_model(flags["model"], **engine_options(flags))
    if lm.tokenizer is None:
        raise InputError(f"{lm.name} comes without a tokenizer; there is no way to talk with it")
    if "chat_template" in lm.tokenizer.settings:
        click.echo(
            "note: the model's chat_template is not applied; the conversation is a script of two "
            "speakers",
            err=True,
        )
    settings = {"end_on": "paragraph", **sampling_settings(flags)}
    lm.settings(**settings)  # refuse wrong ones before the first word
    names = flags["you"], flags["them"], flags["opening"]
    chat = Chat(lm, *names, settings, allowed_special=allowed(flags))
    click.echo(
        f"{lm.name}: a base model that continues a script and makes up what it says. Short, simple "
        "lines work best; /help lists what there is.",
        err=True,
    )
    _talk(chat)


def _talk(chat: Chat) -> None:
    """Read a line, do it, until the end of input."""
    while True:
        try:
            line = ask(f"{chat.you}: ").strip()
        except EOFError:
            click.echo(err=True)
            return
        if line == "/quit":
            return
        try:
            if line.startswith("/"):
                click.echo(_do(chat, line.split(maxsplit=2)), err=True)
            elif line:
                _answer(chat, line)
        except InputError as error:
            click.echo(f"gpt2lab: {error}", err=True)


def _answer(chat: Chat, line: str) -> None:
    """Print the answer as it comes; Ctrl-C ends it and keeps what was said."""
    pieces = chat.reply(line)
    if chat.dropped:
        click.echo(
            f"note: the {chat.dropped} oldest turns no longer fit the window and are left out",
            err=True,
        )
    click.echo(f"{chat.them}:", nl=False)
    try:
        for piece in pieces:
            click.echo(printable(piece.text), nl=False)
    except KeyboardInterrupt:
        pieces.close()
    click.echo()


def _do(chat: Chat, words: list[str]) -> str:
    """A slash command; the line to show."""
    name, *rest = words
    if name == "/reset":
        chat.reset()
        return "Everything said is forgotten."
    if name == "/undo":
        return "The last exchange is taken back." if chat.undo() else "There is nothing to undo."
    if name == "/settings":
        s = chat.lm.settings(**chat.settings)
        return "\n".join(f"{key} = {value}" for key, value in s.to_dict().items())
    if name == "/set":
        return _set(chat, rest)
    if name == "/help":
        return _HELP
    raise InputError(f"no command {name!r}; /help lists what there is")


def _set(chat: Chat, words: list[str]) -> str:
    if len(words) != 2:
        raise InputError("/set takes a name and a value, as in /set temperature 0.7; none unsets")
    name, text = words[0].replace("-", "_"), words[1]
    defaults = {item.name: item.default for item in fields(Sampling)}
    if name not in defaults or name in SKIPPED:
        raise InputError(f"no setting {name!r} here; /settings lists them")
    if text.lower() == "none":
        chat.settings = {key: value for key, value in chat.settings.items() if key != name}
        return f"{name} is unset now."
    kind = type(defaults[name])
    value: Any = text
    if kind in (int, float) or name == "seed":
        try:
            value = float(text) if kind is float else int(text)
        except ValueError:
            raise InputError(f"{name} is {text!r}; it must be a number") from None
    elif isinstance(defaults[name], tuple) or name in ("logit_bias", "stop_tokens", "processors"):
        given: Any = text if name == "processors" else (text,)
        if name == "stop_tokens":
            given = tuple(token_ids(text))
        value = sampling_settings({name: given})[name]
    changed = {**chat.settings, name: value}
    chat.lm.settings(**changed)
    chat.settings = changed
    return f"{name} is {value} now."
