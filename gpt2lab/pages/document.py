"""The template of every page: one file that needs nothing else and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources

from gpt2lab.pages import palette
from gpt2lab.pages.text import escaped

#: The browser fetches nothing; styles and images are part of the page, and one script may run.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


def part(name: str) -> str:
    """Return a file of this package: a style sheet, a script, a template."""
    return resources.files("gpt2lab.pages").joinpath(name).read_text(encoding="utf-8")


def policy(script: str) -> str:
    """Return the content security policy of a page with this script, "" for none."""
    if not script:
        return POLICY
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{POLICY}; script-src 'sha256-{digest}'"


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return a whole HTML document with the look of the kit.

    title: as text. body: HTML. style: CSS after the kit's. script: JavaScript that runs at the end
    of the body; no other script can run.
    """
    run = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        f'content="{escape(policy(script), quote=False)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n"
        f"<style>\n{palette.style()}{part('kit.css')}{style}</style>\n"
        f"</head>\n<body>\n{body}\n{run}</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    """Return a section under a heading; `title` is text, `body` HTML."""
    return f"<section>\n<h2>{escaped(title)}</h2>\n{body}\n</section>"


def article(kind: str, title: str, *parts: str) -> str:
    """Return a document of text, tables and charts in one column; `parts` are HTML."""
    head = f'<p class="mark">gpt2lab · {escaped(kind)}</p>\n<h1>{escaped(title)}</h1>'
    body = "\n".join([head, *(one for one in parts if one)])
    return document(title, f'<main class="article">\n{body}\n</main>')
