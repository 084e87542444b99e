"""Tokenized benchmark texts as natural text, by named rules.

OpenAI has not published its de-tokenizers. These are the public substitutes, as ordered tables of
replacements; a pattern in `re` syntax is marked by a compiled expression. None of them can be
inverted in general, so numbers are always divided by words or bytes of the *original* text.

Sources: Megatron-LM tasks/zeroshot_gpt/detokenizer.py; lm-evaluation-harness
tasks/wikitext/preprocess_wikitext.py has the same rules for WikiText.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Rule = tuple[str | re.Pattern[str], str]


def _closed_up(opening: str, closing: str) -> Rule:
    """Remove white space inside a pair of brackets or quotation marks."""
    o, c = re.escape(opening), re.escape(closing)
    return re.compile(rf"{o}\s*([^{c}]*?)\s*{c}"), rf"{opening}\1{closing}"


WIKITEXT: tuple[Rule, ...] = (
    ("s '", "s'"),
    # The next rule has slashes that were meant as delimiters, so it never matches; kept for parity.
    (re.compile(r"/' [0-9]/"), r"/'[0-9]/"),
    *((f" @{mark}@ ", mark) for mark in "-,."),
    *((f" {mark} ", f"{mark} ") for mark in ":;.!?,"),
    *(_closed_up(*pair) for pair in ("()", "[]", "{}", '""', "''")),
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" \u00b0 ", "\u00b0"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)
PTB: tuple[Rule, ...] = (
    (" '", "'"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" n't", "n't"),
    (" N ", "1 "),
    ("$ 1", "$1"),
    ("# 1", "#1"),
)
#: Penn Treebank's marks, as in the Children's Book Test; also inside a passage.
TREEBANK: tuple[Rule, ...] = (
    ("-LRB-", "("),
    ("-RRB-", ")"),
    (re.compile(r"`` ?"), '"'),
    (re.compile(r" ?''"), '"'),
    (re.compile(r" (n't|'(?:s|re|ve|m|ll|d)\b)"), r"\1"),
    (re.compile(r" ([,.;:!?)])"), r"\1"),
    ("( ", "("),
)
#: How OpenAI prepared LAMBADA's passages: plain quotation marks (openai/gpt-2#131).
PLAIN_QUOTES: tuple[Rule, ...] = (
    ("\u201c", '"'),
    ("\u201d", '"'),
    ("\u2018", "'"),
    ("\u2019", "'"),
    ("''", '"'),
    ("``", '"'),
)


def _by(rules: tuple[Rule, ...]) -> Callable[[str], str]:
    def detokenize(text: str) -> str:
        for old, new in rules:
            text = text.replace(old, new) if isinstance(old, str) else old.sub(new, text)
        return text

    return detokenize


#: The name in a protocol -> the function.
DETOKENIZERS: dict[str, Callable[[str], str]] = {
    "as-is": lambda text: text,
    "wikitext-megatron": _by(WIKITEXT),
    "ptb-megatron": _by(PTB),
    "treebank": _by(TREEBANK),
    "plain-quotes": _by(PLAIN_QUOTES),
}
