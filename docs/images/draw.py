"""Draw the pictures of the README and of the documents: needs Chromium on the path, and playwright.

`look.png` is the real page of `look`, `induction.png` the notebook view of the lesson's head,
`editor.png` the editor after three branches were generated and one was chosen.

python docs/images/draw.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gpt2lab
from gpt2lab import lens
from gpt2lab.lens import page
from gpt2lab.pages.document import document

PROMPT = "The king had a dog. One day, the dog saw the king and"
HERE = Path(__file__).parent
STORY = "Anna and Max went to the park. They saw a big dog. Anna and"
BEGINNING = "Once upon a time, there was a little girl named Lily. One day, she found"
LAYER, HEAD = 5, 1  # the head that the lesson finds


def draw(browser: str, html: str, name: str, size: str, dark: bool = False) -> None:
    """Save a screenshot of a page, `size` pixels wide and high, beside this script."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(html, encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--window-size={size}"]
        command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        command += ["--virtual-time-budget=3000", f"--screenshot={HERE / name}"]
        subprocess.run([*command, file.as_uri()], check=True, capture_output=True)


def draw_editor(browser: str) -> None:
    """Save screenshots of the editor, over the server of its tests."""
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(HERE.parent.parent))
    from tests.editor_server import serving

    with serving() as (base, _), sync_playwright() as driver:
        window = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for name, scheme in (("editor.png", "light"), ("editor-dark.png", "dark")):
            page = window.new_page(viewport={"width": 1280, "height": 860}, color_scheme=scheme)
            page.add_init_script("localStorage.setItem('gpt2lab.seen', '1')")
            page.goto(base)
            page.wait_for_function("() => window.ready === true")
            page.locator("#area").focus()
            page.keyboard.insert_text(BEGINNING)
            page.click("#branches")
            page.get_by_text("120 tokens in").wait_for()
            page.locator(".branchcard").nth(1).click()
            page.wait_for_function("() => layer.dataset.state === 'known'")
            page.wait_for_timeout(1000)  # the panel follows the cursor
            page.screenshot(path=HERE / name)
        window.close()


def main() -> None:
    """Write the pictures beside this script."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise SystemExit("chromium is not on the path; install it to draw the pictures")
    model = gpt2lab.load(engine="numpy")
    look = page.render(model, model.encode(PROMPT))
    draw(browser, look, "look.png", "1280,800")
    draw(browser, look, "look-dark.png", "1280,800", dark=True)
    draw_editor(browser)
    head = lens.attention(model.trace(STORY), LAYER, HEAD)
    view = f'<main style="padding:12px">{head._repr_html_()}</main>'
    for name, dark in (("induction.png", False), ("induction-dark.png", True)):
        draw(browser, document("An induction head", view), name, "730,460", dark)


if __name__ == "__main__":
    main()
