"""A browser window on the editor, over a server of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from .editor_server import Calls, serving

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
expect.set_options(timeout=30_000)
START = "localStorage.setItem('gpt2lab.seen', '1')"  # no tour


@pytest.fixture(scope="module")
def calls() -> Iterator[tuple[str, Calls]]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def served(calls: tuple[str, Calls]) -> str:
    """The address of a server of the bundled model."""
    return calls[0]


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


class Desk:
    """A page with the editor, and what went wrong in it."""

    expect = staticmethod(expect)

    def __init__(self, context: BrowserContext, base: str, fragment: str = "") -> None:
        self.context, self.base = context, base
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("request", self._ask)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._console)
        self.page.goto(base + fragment)
        self.ready()

    def _ask(self, request: Any) -> None:
        if not request.url.startswith((self.base, "data:", "blob:" + self.base)):
            self.wrong.append(f"asked {request.url}")
        if request.method == "POST":
            self.asked.append(request.url)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"console: {message.text}")

    def ready(self) -> None:
        self.page.wait_for_function("() => window.ready === true")

    def wait(self, expression: str, argument: Any = None) -> None:
        self.page.wait_for_function(expression, arg=argument)

    def text(self) -> str:
        return self.page.locator("#area").input_value()

    def write(self, text: str) -> None:
        """Type a text at the end, and wait until its colours are there."""
        self.page.locator("#area").focus()
        self.page.keyboard.insert_text(text)
        self.coloured()

    fill = write

    def coloured(self) -> None:
        self.wait("() => document.getElementById('layer').dataset.state === 'known'")

    def cursor(self, place: int) -> None:
        self.page.evaluate("at => document.getElementById('area').setSelectionRange(at, at)", place)

    def slide(self, name: str, value: float) -> None:
        self.page.evaluate(
            "([name, value]) => { const one = document.getElementById('knob-' + name);"
            "one.value = value; one.dispatchEvent(new Event('input')); }",
            [name, value],
        )

    def wait_generated(self) -> None:
        expect(self.page.locator("#status")).to_contain_text("tokens in")
        self.coloured()

    def hover(self, token: int) -> None:
        box = self.page.locator("#layer .tok").nth(token).bounding_box()
        assert box is not None
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def another(self) -> Desk:
        """A second tab of the same browser."""
        return Desk(self.context, self.base)

    def stranger(self, fragment: str) -> Desk:
        """The same address in another browser."""
        browser = self.context.browser
        assert browser is not None
        context = browser.new_context()
        context.add_init_script(START)
        return Desk(context, self.base, fragment)


@pytest.fixture
def desk(window: Browser, served: str) -> Iterator[Desk]:
    """A desk of its own for a test, in which nothing may go wrong."""
    context = window.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.add_init_script(START)
    one = Desk(context, served)
    yield one
    context.close()
    assert one.wrong == []
