"""Printing the texts of `gpt2lab generate` in order while several of them are generated at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from gpt2lab.commands.options import printable, unescape

if TYPE_CHECKING:
    from gpt2lab.generation.generate import Piece
    from gpt2lab.lm import LM

Key = tuple[int, int]  # prompt, index


def rule_of(flags: dict[str, Any]) -> str:
    """What is printed between two texts."""
    return "=" * 20 + "\n" if flags["delimiter"] is None else unescape(flags["delimiter"])


def in_digits(ids: Sequence[int]) -> str:
    """Ids as text where there is no tokenizer to decode them."""
    return "".join(f"{token} " for token in ids)


class Show:
    """Prints texts in order, each as far as it is known; what comes before its turn waits.

    `shown` is what was printed, for --out.
    """

    def __init__(self, lm: LM, prompts: Sequence[Any], flags: dict[str, Any]) -> None:
        self.shown: list[str] = []
        self._tokenizer, self._prompts = lm.tokenizer, prompts
        self._live, self._with_prompt = flags["out"] is None, flags["include_prompt"]
        self._rule = rule_of(flags)
        self._current: Key | None = None
        self._waiting: dict[Key, list[Piece]] = {}

    def piece(self, piece: Piece) -> None:
        """Take a piece; print it if it is its text's turn, and all that waited for its text."""
        self._waiting.setdefault((piece.prompt, piece.index), []).append(piece)
        while self._current or self._waiting:
            known = self._known(self._current or min(self._waiting))
            if not known or known[-1].finish_reason is None:
                return
            self._end()

    def close(self) -> None:
        """Print what still waits, and end the line of a text that was interrupted."""
        if self._current:
            self._end()
        for key in sorted(self._waiting):
            self._known(key)
            self._end()

    def _known(self, key: Key) -> list[Piece]:
        """Print what is known of a text and was not printed yet."""
        if self._current is None:
            self._begin(key)
        known = self._waiting.pop(key, [])
        for piece in known:
            self._print(piece.text if self._tokenizer else in_digits([piece.token]))
        return known

    def _print(self, text: str) -> None:
        self.shown.append(text)
        if self._live:
            sys.stdout.write(printable(text))
            sys.stdout.flush()

    def _begin(self, key: Key) -> None:
        if self.shown:
            self._print(self._rule)
        self._current = key
        prompt = self._prompts[key[0]]
        if prompt is None:
            return
        text = self._spelled(prompt) if isinstance(prompt, list) else prompt
        if self._with_prompt:
            self._print(text)
        elif self._live and sys.stdout.isatty():
            click.secho(printable(text), bold=True, nl=False)

    def _spelled(self, ids: list[int]) -> str:
        """A prompt of ids as text; without a tokenizer, or where it lacks an id, as numbers."""
        if self._tokenizer is None or max(ids) >= self._tokenizer.n_vocab:
            return in_digits(ids)
        return self._tokenizer.decode(ids)

    def _end(self) -> None:
        self._print("\n")
        self._current = None
