"""Draw the picture of the README from the real page of `look`: needs Chromium on the path.

python docs/images/draw.py
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import gpt2lab
from gpt2lab.lens import page

PROMPT = "The king had a dog. One day, the dog saw the king and"
HERE = Path(__file__).parent
SCHEMES = {"look.png": "1", "look-dark.png": "0"}  # Chromium's preferred color scheme


def draw(browser: str, url: str, profile: str, target: Path, scheme: str) -> None:
    """Save a screenshot of the page in a light or dark color scheme."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={profile}", "--window-size=1280,800", f"--screenshot={target}"]
    command += [f"--blink-settings=preferredColorScheme={scheme}", "--virtual-time-budget=3000"]
    subprocess.run([*command, url], check=True, capture_output=True)


def main() -> None:
    """Write the pictures beside this script."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise SystemExit("chromium is not on the path; install it to draw the pictures")
    model = gpt2lab.load(engine="numpy")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "look.html"
        file.write_text(page.render(model, model.encode(PROMPT)), encoding="utf-8")
        for name, scheme in SCHEMES.items():
            draw(browser, file.as_uri(), f"{folder}/profile", HERE / name, scheme)


if __name__ == "__main__":
    main()
