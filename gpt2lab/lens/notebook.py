"""How results look in a notebook: HTML fragments without a script or a style sheet.

Notebooks and code hosts strip both, so every colour stands where it is used; a coloured cell brings
the ink that is read on it, everything else takes the ink of the page, light or dark. What is exact
stands in the titles, which a pointer brings up. Tokens are escaped, and signs stand for what cannot
be seen: a middle dot for a space, an arrow for a line's end, the bytes of a broken character.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from gpt2lab.files.visible import sign
from gpt2lab.lens import hook_names as naming

if TYPE_CHECKING:
    from gpt2lab.lens.heads import Attention, HeadScores
    from gpt2lab.lens.logits import Attribution, LogitLens
    from gpt2lab.lens.patching import Sweep
    from gpt2lab.lens.prediction import Expected, NextTokens
    from gpt2lab.lens.traces import Array, Trace

Colour = tuple[int, int, int]

TOKENS, ROWS = 60, 40  # more columns, more rows than these are cut, and it is said
SURPRISING = 8.0  # nats; what is more surprising than 1 in 3,000 is coloured alike
MASKED = -1e9  # scores below were put there by the mask

# ---- Colours. Each scale goes one way in lightness, so it is read without hues too.

BLUES = ((246, 245, 240), (198, 221, 229), (121, 178, 206), (47, 115, 168), (17, 49, 105))
WARMS = ((247, 245, 240), (250, 220, 165), (241, 165, 102), (202, 88, 84), (110, 31, 87))
ORANGES = ((246, 245, 240), (249, 217, 176), (235, 165, 96), (196, 105, 28), (122, 54, 8))


def _between(anchors: Sequence[Colour], value: float) -> Colour:
    """The colour at `value`, 0 to 1, on a line through anchors; what is no number is at 0."""
    place = min(max(value, 0.0), 1.0) * (len(anchors) - 1) if value == value else 0.0
    first = min(int(place), len(anchors) - 2)
    ends = zip(anchors[first], anchors[first + 1], strict=True)
    r, g, b = (round(one + (other - one) * (place - first)) for one, other in ends)
    return r, g, b


def shade(value: float) -> Colour:
    """Paper to deep blue for 0 to 1: how much of something (probability, attention)."""
    return _between(BLUES, value)


def heat(value: float) -> Colour:
    """Paper to deep red for 0 to 1: how much a token surprises."""
    return _between(WARMS, value)


def diverging(value: float) -> Colour:
    """Orange for -1, paper for 0, blue for 1; also told apart by those who see no red or green."""
    return _between(ORANGES if value < 0 else BLUES, abs(value))


def luminance(colour: Colour) -> float:
    """The relative luminance of an sRGB colour, 0 to 1 (WCAG 2)."""
    r, g, b = (c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def ink(colour: Colour) -> str:
    """Black or white, whichever is read on the colour; the contrast is at least 4.5."""
    return "#000" if luminance(colour) > 0.179 else "#fff"


# ---- Tokens.


def _sign(char: str) -> str:
    """What stands for a character that cannot be seen, "" where it can."""
    shown = "·" if char == " " else sign(char)
    return "" if shown == char else shown


def signs(piece: str) -> list[tuple[str, bool]]:
    """A token's text in runs: (text, whether it is a sign for what cannot be seen)."""
    if not piece:
        return [("∅", True)]
    runs: list[tuple[str, bool]] = []
    if unicodedata.category(piece[0])[0] == "M":  # a mark would sit on what stands before it
        runs.append(("◌", True))
    for char in piece:
        stands = _sign(char)
        if runs and runs[-1][1] == bool(stands):
            runs[-1] = (runs[-1][0] + (stands or char), bool(stands))
        else:
            runs.append((stands or char, bool(stands)))
    return runs


def plain(piece: str) -> str:
    """A token's text with its signs, as it may stand in a title."""
    return "".join(run for run, _ in signs(piece))


def token(piece: str) -> str:
    """A token's text as HTML, signs faint, kept in one piece whichever way it is written."""
    runs = [
        f'<span style="opacity:.5">{escape(run)}</span>' if is_sign else escape(run)
        for run, is_sign in signs(piece)
    ]
    return f"<bdi>{''.join(runs)}</bdi>"


def percent(value: float) -> str:
    """A probability with three digits: 28.3%, 0.000412%."""
    return f"{100 * value:.3g}%"


def number(value: float) -> str:
    """A number with four digits."""
    return f"{value:.4g}"


# ---- The parts that fragments are made of.

_FONT = "font:13px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif"
_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"


def _whole(title: str, *parts: str) -> str:
    """A fragment: a title and its parts, scrolled sideways where the page is narrow."""
    head = f'<div style="font-weight:600;margin-bottom:4px">{escape(title)}</div>'
    body = "".join(part for part in parts if part)
    return f'<div style="{_FONT};max-width:100%;overflow-x:auto">{head}{body}</div>'


def _note(text: str) -> str:
    """A line of small print; nothing for no text."""
    return f'<div style="opacity:.7;margin-top:4px">{escape(text)}</div>' if text else ""


def _cut(shown: int, count: int, what: str, which: str) -> str:
    """The line that says what was cut, "" where nothing was."""
    return f"Shown are the {which} {shown} of {count} {what}." if shown < count else ""


def _notes(*texts: str) -> str:
    return _note(" ".join(text for text in texts if text))


def _table(rows: Iterable[str]) -> str:
    body = "".join(f'<tr style="background:none">{row}</tr>' for row in rows)
    style = f"border-collapse:separate;border-spacing:1px;margin:0;{_FONT}"
    return f'<table style="{style}">{body}</table>'


def _label(html: str, title: str = "", align: str = "right") -> str:
    """A cell of names; `html` is escaped already."""
    style = f"text-align:{align};padding:1px 6px;white-space:nowrap;{_MONO};font-size:12px"
    hover = f' title="{escape(title)}"' if title else ""
    return f'<th style="{style};font-weight:400"{hover}>{html}</th>'


def _words(text: str, align: str = "left") -> str:
    """A cell of plain text."""
    return f'<td style="text-align:{align};padding:1px 8px;white-space:nowrap">{escape(text)}</td>'


def _cell(html: str, colour: Colour, title: str) -> str:
    """A coloured cell; `html` is escaped already."""
    style = f"background:rgb{colour};color:{ink(colour)};text-align:center;padding:1px 5px"
    return (
        f'<td style="{style};min-width:14px;white-space:nowrap;font-size:12px" '
        f'title="{escape(title)}">{html}</td>'
    ).replace(", ", ",", 2)


def _bar(share: float, colour: Colour, width: int = 160) -> str:
    """A bar of `share` of the width."""
    style = f"display:inline-block;height:10px;border-radius:2px;background:rgb{colour}"
    return f'<span style="{style};width:{max(1, round(share * width))}px"></span>'


def _legend(scale: Callable[[float], Colour], low: str, high: str) -> str:
    """A strip of the scale between the values at its ends."""
    start = -1.0 if scale is diverging else 0.0
    steps = [scale(start + (1 - start) * i / 8) for i in range(9)]
    style = "display:inline-block;width:14px;height:10px;background:rgb"
    strip = "".join(f'<span style="{style}{colour}"></span>' for colour in steps)
    return f'<div style="opacity:.9;margin:4px 0">{escape(low)} {strip} {escape(high)}</div>'


# ---- One function for each kind of result.


def trace(t: Trace) -> str:
    """A trace as a table: each value's name, shape, range and hook, of one layer and the ends."""
    layers = sorted({layer for key in t if (layer := naming.parse(key)[1]) is not None})
    one = layers[0] if layers else None
    chosen = [key for key in t if naming.parse(key)[1] in (None, one)]
    head = "".join(f'<th style="text-align:left;padding:1px 8px">{name}</th>' for name in _COLUMNS)
    said = ""
    if len(layers) > 1:
        said = f"Of {len(layers)} layers, {layers[0]} to {layers[-1]}, layer {one} is shown."
    acts = "; ".join(act.about for act in t.acts)
    batch, length = t.tokens.shape
    return _whole(
        f"Trace of {batch} x {length} tokens: {len(t)} values",
        _table([head, *(_traced(key, t[key]) for key in chosen)]),
        _notes(said, "Ranges leave out what is masked.", f"Changed: {acts}." if acts else ""),
    )


_COLUMNS = ("name", "shape", "least", "mean", "largest", "what it is", "TransformerLens")


def _traced(key: str, value: Array) -> str:
    """The row of one value."""
    real = value[value > MASKED]
    ends = [f"{f(real):.4g}" for f in (np.min, np.mean, np.max)] if real.size else ["-"] * 3
    name = naming.NAMES[naming.parse(key)[0]]
    shape = f"{list(value.shape)}"
    return (
        _label(escape(key), f"axes {name.shape}", "left")
        + _label(escape(shape), f"axes {name.shape}", "left")
        + "".join(_words(end, "right") for end in ends)
        + _words(name.about)
        + _label(escape(naming.hook_of(key) or "(its result)"), "", "left")
    )


def next_tokens(n: NextTokens) -> str:
    """A text coloured by how much each token surprises, and a table of what comes next."""
    start = max(0, len(n.tokens) - TOKENS)
    places = range(start, len(n.tokens))
    text = "".join(_expected(n, i) for i in places)
    following = [
        _words(str(rank)) + _label(token(piece), repr(piece), "left") + _likely(value)
        for rank, (piece, value) in enumerate(n.names(n.next)[:ROWS], 1)
    ]
    count = len(n.tokens) - 1
    mean = f", {n.total / count:.3f} a token" if count else ""
    return _whole(
        f"What was expected: {n.total:.4f} nats over {count} tokens{mean}",
        f'<div style="line-height:2">{text}</div>',
        _legend(heat, "0", f"{SURPRISING:g} nats of surprise or more"),
        _notes(_cut(len(places), len(n.tokens), "tokens", "last")),
        f'<div style="font-weight:600;margin:6px 0 2px">What comes next, of an entropy of '
        f"{n.next.entropy:.4f} nats</div>",
        _table(following),
    )


def _likely(value: float) -> str:
    """A probability as a cell with a bar."""
    written = f"{_bar(value, (90, 150, 195))} {percent(value)}"
    title = f"probability {value!r}"
    return f'<td style="padding:1px 8px;white-space:nowrap" title="{title}">{written}</td>'


def _expected(n: NextTokens, place: int) -> str:
    """One token of a text, coloured by its surprisal."""
    row, piece = n.expected[place], n.pieces[place]
    if row is None or row.surprisal is None:
        return f'<span style="padding:2px 1px" title="nothing expected it">{token(piece)}</span>'
    colour = heat(row.surprisal / SURPRISING)
    style = f"background:rgb{colour};color:{ink(colour)};padding:2px 1px;border-radius:2px"
    return f'<span style="{style}" title="{escape(_told(n, row, place))}">{token(piece)}</span> '


def _told(n: NextTokens, row: Expected, place: int) -> str:
    """Everything about one token, as a title."""
    assert row.probability is not None
    assert row.surprisal is not None
    best = [f"{plain(piece)}  {percent(value)}" for piece, value in n.names(row)[:5]]
    return "\n".join(
        [
            f"token {place}, id {row.token}",
            f"probability {percent(row.probability)}, rank {row.rank}",
            f"surprisal {row.surprisal:.4f} nats, entropy {row.entropy:.4f} nats",
            "expected:",
            *best,
        ]
    )


def logit_lens(found: LogitLens) -> str:
    """The logit lens as a table: layers down, tokens across, in each the likeliest next token."""
    from gpt2lab.lens.traces import pieces_of

    tokenizer = found.trace.tokenizer
    count, length = found.best.shape[:2]
    columns, rows = range(max(0, length - TOKENS), length), range(max(0, count - ROWS), count)
    given = pieces_of(tokenizer, found.tokens.tolist())
    follows = pieces_of(tokenizer, found.targets.tolist())
    head = _label("") + "".join(_label(token(given[i]), f"token {i}", "center") for i in columns)
    foot = _label("follows") + "".join(
        _label(token(follows[i]), _follows(i, length), "center") for i in columns
    )
    body = [
        _label(escape(found.keys[n])) + "".join(_seen(found, n, i) for i in columns) for n in rows
    ]
    return _whole(
        "Logit lens: what the head would say at each layer, after each token",
        _table([head, *body, foot]),
        _legend(shade, "0%", "100% for the likeliest token"),
        _notes(
            _cut(len(columns), length, "tokens", "last"), _cut(len(rows), count, "layers", "last")
        ),
    )


def _follows(place: int, length: int) -> str:
    return "the likeliest" if place == length - 1 else "the token that follows"


def _seen(found: LogitLens, n: int, place: int) -> str:
    """One cell of the lens."""
    from gpt2lab.lens.traces import pieces_of

    best, values = found.best[n, place], found.probabilities[n, place]
    names = pieces_of(found.trace.tokenizer, best.tolist())
    told = [f"{plain(name)}  {percent(p)}" for name, p in zip(names, values.tolist(), strict=True)]
    title = "\n".join(
        [
            f"{found.keys[n]}, token {place}",
            *told[:5],
            f"what follows: {percent(float(found.target_probabilities[n, place]))}, "
            f"rank {found.target_ranks[n, place]}",
            f"entropy {found.entropies[n, place]:.4f}, KL {found.divergences[n, place]:.4f} nats",
        ]
    )
    return _cell(token(names[0]), shade(float(values[0])), title)


def attribution(a: Attribution) -> str:
    """What each part adds to a logit, as bars to either side of zero."""
    sizes = np.abs(a.values)
    chosen = np.arange(len(a.values))
    rest = ""
    if len(chosen) > ROWS:
        chosen = np.argsort(-sizes, kind="stable")[:ROWS]
        left = float(a.values.sum() - a.values[chosen].sum())
        rest = f"Shown are the {ROWS} largest of {len(sizes)} parts; the others sum to {left:.4f}."
    most = float(sizes.max()) or 1.0
    rows = [_added(a.labels[i], float(a.values[i]), most) for i in chosen]
    return _whole(
        f"What adds to the logit of {plain(a.target)}, {a.logit:.4f}, at token {a.position}",
        _table(rows),
        _notes(rest, f"All parts sum to the logit but for {a.error:.1e}, which is rounding."),
    )


def _added(label: str, value: float, most: float) -> str:
    """One part: its name, its bar to the left or right of zero, its number."""
    bar = _bar(abs(value) / most, diverging(0.55 if value > 0 else -0.55), 120)
    half = "display:inline-block;width:120px;vertical-align:middle"
    sides = ("", bar) if value >= 0 else (bar, "")
    line = "border-left:1px solid rgba(128,128,128,.6)"
    halves = (
        f'<span style="{half};text-align:right">{sides[0]}</span>'
        f'<span style="{half};{line}">{sides[1]}</span>'
    )
    whole = f'<td style="padding:0;white-space:nowrap" title="{label} {value!r}">{halves}</td>'
    return _label(escape(label), "", "right") + whole + _words(f"{value:+.4f}", "right")


def attention(a: Attention) -> str:
    """A head's pattern: a row for each token, a column for each that it looks at."""
    length = len(a.pieces)
    columns, rows = range(max(0, length - TOKENS), length), range(max(0, length - ROWS), length)
    head = _label("") + "".join(_label(token(a.pieces[j]), f"token {j}", "center") for j in columns)
    body = [
        _label(token(a.pieces[i]), f"token {i}")
        + "".join(_looked(a, i, j) for j in columns if j <= i)
        for i in rows
    ]
    missed = "; what they give to earlier tokens is not shown" if columns[0] else ""
    return _whole(
        f"Layer {a.layer}, head {a.head}: where each token (down) looks (across)",
        _table([head, *body]),
        _legend(shade, "0%", "100% of its attention"),
        _notes(
            _cut(len(rows), length, "tokens", "last"),
            f"The columns are the last {len(columns)}{missed}." if missed else "",
            f"Scores are q.k times {a.scale:.4f}, their softmax goes over the row.",
        ),
    )


def _looked(a: Attention, i: int, j: int) -> str:
    """One cell of a pattern: the hundredths, and in the title the arithmetic."""
    value = float(a.pattern[i, j])
    title = (
        f"{plain(a.pieces[i])} ({i}) to {plain(a.pieces[j])} ({j}): {percent(value)}\n"
        f"q.k {a.dots[i, j]:.4f}, scaled {a.scaled[i, j]:.4f}"
    )
    return _cell(f"{100 * value:.0f}" if value >= 0.005 else "", shade(value), title)


def head_scores(h: HeadScores) -> str:
    """Three tables, layers down and heads across: previous, duplicate and induction."""
    kinds = {"previous": h.previous, "duplicate": h.duplicate, "induction": h.induction}
    tables = "".join(
        f'<div style="display:inline-block;vertical-align:top;margin-right:18px">'
        f"<div>{kind}</div>{_grid(scores, kind)}</div>"
        for kind, scores in kinds.items()
    )
    first, second = h.losses
    layers, heads = h.previous.shape
    return _whole(
        "What heads look for in random tokens that come twice",
        tables,
        _legend(shade, "0", "1, all of the attention"),
        _notes(
            _cut(min(ROWS, layers), layers, "layers", "first"),
            _cut(min(TOKENS, heads), heads, "heads", "first"),
            f"Nats a token of {h.length} random ones: {first:.3f} at first, {second:.3f} when they "
            "come again.",
        ),
    )


def _grid(scores: Array, kind: str) -> str:
    """Scores [L, H] as a table."""
    layers, heads = min(ROWS, scores.shape[0]), min(TOKENS, scores.shape[1])
    head = _label("") + "".join(_label(str(j), f"head {j}", "center") for j in range(heads))
    body = [
        _label(str(i), f"layer {i}")
        + "".join(
            _cell(
                f"{scores[i, j]:.2f}",
                shade(float(scores[i, j])),
                f"layer {i}, head {j}: {kind} {scores[i, j]:.4f}",
            )
            for j in range(heads)
        )
        for i in range(layers)
    ]
    return _table([head, *body])


def sweep(s: Sweep) -> str:
    """What each patch brings back: layers down, positions or heads across."""
    gap = s.clean - s.corrupt
    scaled = s.restored if gap else s.values - s.corrupt
    most = max(1.0, float(np.abs(scaled[np.isfinite(scaled)]).max(initial=0.0)))
    layers, count = s.values.shape
    by_head = s.by == "head"
    first = 0 if by_head else max(0, count - TOKENS)
    columns = range(first, min(count, first + TOKENS))
    rows = range(min(ROWS, layers))
    heads = [str(j) if by_head else token(s.tokens[j]) for j in columns]
    titles = [f"{'head' if by_head else 'token'} {j}" for j in columns]
    head = _label("") + "".join(
        _label(name, title, "center") for name, title in zip(heads, titles, strict=True)
    )
    body = [
        _label(str(i), f"layer {i}")
        + "".join(
            _cell(
                _short(float(scaled[i, j])),
                diverging(float(scaled[i, j]) / most),
                f"layer {i}, {title}: {s.values[i, j]:.4f}, restored {scaled[i, j]:.4f}",
            )
            for j, title in zip(columns, titles, strict=True)
        )
        for i in rows
    ]
    return _whole(
        f"{s.name} patched in, by layer (down) and {s.by} (across): {s.metric}",
        _table([head, *body]),
        _legend(diverging, f"{-most:.3g}", f"{most:.3g}"),
        _notes(
            _cut(
                len(columns),
                count,
                "heads" if by_head else "tokens",
                "first" if by_head else "last",
            ),
            _cut(len(rows), layers, "layers", "first"),
            f"0 is the corrupt prompt's {s.corrupt:.4f}, 1 the clean one's {s.clean:.4f}."
            if gap
            else f"Both prompts have {s.clean:.4f}; shown is the change.",
        ),
    )


def _short(value: float) -> str:
    """A number of two decimals, "" for nearly nothing."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.2f}" if abs(value) >= 0.005 else ""
