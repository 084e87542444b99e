"""The colours of every page, light and dark.

Each scale changes lightness in one direction only, so it can be read without seeing hues; on dark
pages it starts from the dark paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Colour = tuple[int, int, int]

#: The colours of a page by name; `style` makes CSS variables of them (`--paper`).
LIGHT = {
    "paper": "#fbfaf7", "card": "#ffffff", "soft": "#f3f1eb", "line": "#e3e0d8",
    "ink": "#1b2025", "muted": "#5d666e", "ring": "#1b2025", "accent": "#2568a0",
    "good": "#2f73a8", "bad": "#c46a1c", "previous": "#2f73a8", "duplicate": "#b5543c",
    "induction": "#6a4ba3", "blue": "#0a66b7", "orange": "#c2410c", "green": "#15803d",
    "violet": "#7c3aed", "red": "#b3123f",
}  # fmt: skip
DARK = {
    "paper": "#121518", "card": "#191d21", "soft": "#20252a", "line": "#2d3338",
    "ink": "#e7e5df", "muted": "#9ba4ab", "ring": "#f4f2ec", "accent": "#7db8e0",
    "good": "#62a6d4", "bad": "#e39a57", "previous": "#62a6d4", "duplicate": "#e08a70",
    "induction": "#ab90e0", "blue": "#62a6d4", "orange": "#e39a57", "green": "#7bc48a",
    "violet": "#ab90e0", "red": "#ff6b8b",
}  # fmt: skip
#: The scales for cells: how much (blue), how surprising (warm), and below zero (orange).
SCALES: Mapping[str, Mapping[str, tuple[Colour, ...]]] = {
    "light": {
        "blue": ((246, 245, 240), (198, 221, 229), (121, 178, 206), (47, 115, 168), (17, 49, 105)),
        "warm": ((247, 245, 240), (250, 220, 165), (241, 165, 102), (202, 88, 84), (110, 31, 87)),
        "orange": ((246, 245, 240), (249, 217, 176), (235, 165, 96), (196, 105, 28), (122, 54, 8)),
    },
    "dark": {
        "blue": ((32, 37, 42), (27, 63, 93), (39, 105, 155), (98, 166, 212), (214, 235, 247)),
        "warm": ((33, 36, 40), (88, 50, 45), (166, 78, 52), (229, 141, 72), (255, 224, 160)),
        "orange": ((32, 37, 42), (84, 53, 22), (151, 88, 27), (227, 154, 87), (253, 228, 196)),
    },
}


def style() -> str:
    """Return the CSS variables of light pages, and of dark ones where the reader prefers them."""
    light, dark = (
        "; ".join(f"--{name}: {value}" for name, value in colours.items())
        for colours in (LIGHT, DARK)
    )
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def colour(name: str) -> str:
    """Return a named colour as CSS, usable where no style sheet defines the variable."""
    return f"var(--{name}, {LIGHT[name]})"


def _between(anchors: Sequence[Colour], value: float) -> Colour:
    """Return the colour at `value` (0 to 1) of a scale; that of 0 for NaN."""
    place = min(max(value, 0.0), 1.0) * (len(anchors) - 1) if value == value else 0.0
    first = min(int(place), len(anchors) - 2)
    ends = zip(anchors[first], anchors[first + 1], strict=True)
    r, g, b = (round(one + (other - one) * (place - first)) for one, other in ends)
    return r, g, b


def shade(value: float) -> Colour:
    """Return paper to deep blue for 0 to 1: a share (probability, attention)."""
    return _between(SCALES["light"]["blue"], value)


def heat(value: float) -> Colour:
    """Return paper to deep red for 0 to 1: surprisal."""
    return _between(SCALES["light"]["warm"], value)


def diverging(value: float) -> Colour:
    """Return orange for -1, paper for 0, blue for 1; readable with red-green blindness."""
    return _between(SCALES["light"]["orange" if value < 0 else "blue"], abs(value))


def luminance(colour: Colour) -> float:
    """Return the relative luminance of an sRGB colour, 0 to 1 (WCAG 2)."""
    r, g, b = (c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def ink(colour: Colour) -> str:
    """Return black or white, whichever is readable on the colour (contrast at least 4.5)."""
    return "#000" if luminance(colour) > 0.179 else "#fff"


def css(colour: Colour) -> str:
    """Return a colour as CSS."""
    return f"rgb({colour[0]},{colour[1]},{colour[2]})"
