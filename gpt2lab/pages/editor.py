"""The editor's files by name: what a server hands out, and the policy under which they run.

The page is plain HTML and ES modules that share style, script and colours with the page of `look`.
Only the names of `files` exist: no name of a request ever becomes a path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

from gpt2lab.pages import palette
from gpt2lab.pages.document import part

#: Scripts and styles from this server alone, none inside the page; no other address is asked.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-src 'self'; frame-ancestors 'self'; base-uri 'none'; "
    "form-action 'none'"
)
#: The parts of the page of `look` in their order; the editor shows it in a frame.
LOOK_SCRIPTS = ("kit", "state", "expected", "flow", "attention", "lens", "parts", "start")
_JS, _CSS, _HTML = "text/javascript", "text/css", "text/html"


@dataclass(frozen=True)
class PageFile:
    """A file of the page: its bytes, and its type for the header Content-Type."""

    content: bytes
    kind: str


def look_script() -> str:
    """The script of the page of `look`: its parts in one scope."""
    parts = [part("kit.js"), *(part(f"look.{name}.js") for name in LOOK_SCRIPTS)]
    return "'use strict';\n(async () => {\n" + "\n".join(parts) + "})();"


def _kit() -> str:
    """The shared script as a module: its colours before it, all its names exported after it."""
    text = part("kit.js")
    names = re.findall(r"^(?:const|function) (\$|\w+)", text, re.MULTILINE)
    scales = json.dumps(palette.SCALES, separators=(",", ":"))
    return f"const SCALES = {scales};\n{text}export {{{', '.join(names)}}};\n"


def _frame() -> str:
    """The page of `look` without numbers: the editor sends them as a message."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>look inside</title>\n"
        '<link rel="stylesheet" href="kit.css">\n<link rel="stylesheet" href="look.css">\n'
        f'</head>\n<body>\n{part("look.html")}\n<script src="look.js"></script>\n</body>\n</html>\n'
    )


def _texts() -> dict[str, tuple[str, str]]:
    """Every name with its text and type."""
    found = {
        "index.html": (part("editor.html"), _HTML),
        "kit.css": (palette.style() + part("kit.css"), _CSS),
        "kit.js": (_kit(), _JS),
        "look.html": (_frame(), _HTML),
        "look.css": (part("look.css"), _CSS),
        "look.js": (look_script(), _JS),
        "editor.css": (part("editor.css"), _CSS),
    }
    for path in resources.files("gpt2lab.pages").iterdir():
        if path.name.startswith("editor.") and path.name.endswith(".js"):
            found[path.name] = (part(path.name), _JS)
    return found


def _light(text: str) -> str:
    """A text without its indentation, which is a twelfth of the bytes; no string spans lines."""
    return re.sub(r"^ +", "", text, flags=re.MULTILINE)


@cache
def files() -> Mapping[str, PageFile]:
    """Every file of the page by its name; "index.html" is the page itself."""
    return MappingProxyType(
        {
            name: PageFile(_light(text).encode(), f"{kind}; charset=utf-8")
            for name, (text, kind) in _texts().items()
        }
    )
