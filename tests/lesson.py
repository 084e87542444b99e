"""The lesson in docs/reading-gpt2.md and its Chinese twin: all that it shows is made by running it.

A page holds four kinds of parts, which run in one namespace from top to bottom:

    ```pycon                        a session; what it prints is put under it
    <!-- source: attn.split_heads -->    the ```python block behind it is quoted from the reference
    10<!-- = {len(tokens)} -->      a number, or a `code span`, that the f-string in the mark makes
    <!-- holds: a < b -->           what a sentence claims; it must be true

`make docs` puts the outputs, numbers and quotations in place; tests/test_reading.py compares them.
Both pages hold the same code, so it runs once.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import inspect
import io
import re
import sys
import textwrap
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gpt2lab import reference

DOCS = Path(__file__).parent.parent / "docs"
PAGES = (DOCS / "reading-gpt2.md", DOCS / "reading-gpt2.zh-CN.md")

TOLERANCE = 1e-3  # relative, of a decimal fraction: another processor rounds otherwise

PART = re.compile(
    r"""
    ^```pycon\n(?P<session>.*?)^```$
    | ^<!--\ source:\ (?P<source>.+?)\ -->\n```python\n(?P<quoted>.*?)^```$
    | <!--\ holds:\ (?P<claim>.+?)\ -->
    | (?P<shown>-?\d(?:[\d.,]*\d)?%?|`[^`\n]*`)<!--\ =\ (?P<value>.+?)\ -->
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
FRACTION = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?")


@dataclass(frozen=True)
class Part:
    """One part of a page: its kind, the code that makes it, what the page shows, and where."""

    kind: str
    code: str
    shown: str
    line: int


def parts(text: str) -> list[Part]:
    """The parts of a page in their order."""
    return [_part(match) for match in PART.finditer(text)]


def codes(text: str) -> list[tuple[str, str]]:
    """Kind and code of each part: what the twins have in common."""
    return [(part.kind, part.code) for part in parts(text)]


def _part(match: re.Match[str]) -> Part:
    line = match.string.count("\n", 0, match.start()) + 1
    if match["session"] is not None:
        code = "".join(example.source for example in _examples(match["session"]))
        return Part("session", code, match["session"], line)
    if match["source"] is not None:
        return Part("source", match["source"], match["quoted"], line)
    if match["claim"] is not None:
        return Part("claim", match["claim"], "True", line)
    return Part("value", match["value"], match["shown"], line)


def _examples(session: str) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(session)


# ---- Running.


def run(page: list[Part]) -> list[str]:
    """What each part should show, by running them all."""
    names: dict[str, Any] = {"__name__": "lesson"}
    return [_found(part, names) for part in page]


def _found(part: Part, names: dict[str, Any]) -> str:
    if part.kind == "session":
        return _session(part.shown, names)
    if part.kind == "source":
        return quotation(part.code)
    if part.kind == "claim":
        return str(bool(eval(part.code, names)))
    value = str(eval(f'f"""{part.code}"""', names))
    return f"`{value}`" if part.shown.startswith("`") else value


def _session(session: str, names: dict[str, Any]) -> str:
    """The session with what its examples print."""
    lines = []
    for example in _examples(session):
        first, *more = example.source.rstrip("\n").split("\n")
        lines += [f">>> {first}", *(f"... {line}".rstrip() for line in more)]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(example.source, "<lesson>", "single"), names)
        lines += [line.rstrip() for line in printed.getvalue().splitlines()]
    return "\n".join([*lines, ""])


def quotation(name: str) -> str:
    """The source of a function of the reference: "attn", "attn.split_heads", or "attn less inner".

    The last is without its inner functions; one comment names them in their place.
    """
    outer, _, inner = name.removesuffix(" less inner").partition(".")
    source = inspect.getsource(getattr(reference, outer))
    lines = source.splitlines(keepends=True)
    [function] = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    within = {node.name: node for node in function.body if isinstance(node, ast.FunctionDef)}
    if inner:
        node = within[inner]
        return textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))
    if name.endswith(" less inner"):
        first, *_, last = within.values()
        lines[first.lineno - 1 : last.end_lineno] = [f"    # here: {', '.join(within)}\n"]
    return "".join(lines)


# ---- Comparing and writing.


def same(shown: str, found: str) -> bool:
    """Texts and whole numbers exactly, decimal fractions to the tolerance."""
    if FRACTION.sub("#", shown) != FRACTION.sub("#", found):
        return False
    pairs = zip(FRACTION.findall(shown), FRACTION.findall(found), strict=True)
    return all(abs(float(a) - float(b)) <= TOLERANCE * abs(float(b)) for a, b in pairs)


def differences(text: str, found: list[str]) -> list[str]:
    """What a page shows that running does not give, each with its line."""
    listed = parts(text)
    assert len(listed) == len(found), "the page holds other parts than those that were run"
    return [
        _difference(part, now)
        for part, now in zip(listed, found, strict=True)
        if not same(part.shown, now)
    ]


def _difference(part: Part, now: str) -> str:
    """The first line of a part that is not what running gives."""
    start = part.line + {"session": 1, "source": 2}.get(part.kind, 0)  # behind the fence
    lines = zip_longest(part.shown.splitlines(), now.splitlines(), fillvalue="")
    at, a, b = next((i, a, b) for i, (a, b) in enumerate(lines) if not same(a, b))
    what = f"{part.code} is" if part.kind in ("claim", "value") else "running gives"
    return f"line {start + at}: {what} {b!r}, the page shows {a!r}"


def filled(text: str, found: list[str]) -> str:
    """The page with what running gives; what is the same to the tolerance stays."""
    now = iter(found)

    def replaced(match: re.Match[str]) -> str:
        part, new = _part(match), next(now)
        if part.kind == "claim" or same(part.shown, new):
            return match[0]
        group = {"session": "session", "source": "quoted", "value": "shown"}[part.kind]
        start, end = (at - match.start() for at in match.span(group))
        return match[0][:start] + new + match[0][end:]

    return PART.sub(replaced, text)


def loose_digits(text: str) -> list[str]:
    """The numbers in a page's sentences that nothing makes, each with what stands around it.

    Free are code, names as conv1d, links, the numbering of headings and lists, the year of a paper.
    A code span of a number alone is a number.
    """
    text = PART.sub(" ", text)
    text = re.sub(r"^```.*?^```$", " ", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", " ", text, flags=re.DOTALL)
    text = re.sub(r"`[^`\n]*[^\W\d_][^`\n]*`", " ", text)
    text = re.sub(r"\]\([^)]*\)|https?://\S+", " ", text)
    text = re.sub(r"^\s*(?:#+ )?\d+\. ", " ", text, flags=re.MULTILINE)
    text = re.sub(r"GPT-2|(?<!\d)20[12]\d(?!\d)", " ", text)
    return [
        text[max(0, m.start() - 30) : m.end() + 30].replace("\n", " ")
        for m in re.finditer(r"(?<![A-Za-z\d])\d+", text)
    ]


def main() -> None:
    """Write both pages anew."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    twins = zip(*map(codes, texts), strict=False)
    odd = next((pair for pair in twins if pair[0] != pair[1]), None)
    if odd or len({len(codes(text)) for text in texts}) > 1:
        sys.exit(f"the pages differ in their parts: {odd or 'one has more of them'}")
    listed = parts(texts[0])
    found = run(listed)
    for part, now in zip(listed, found, strict=True):
        if part.kind == "claim" and now != "True":
            sys.exit(f"line {part.line} of {PAGES[0].name} claims {part.code}, which is false")
    for page, text in zip(PAGES, texts, strict=True):
        page.write_text(filled(text, found), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
