"""The look inside as one HTML page: every view of one text, in one file that asks for nothing.

The page is a template, a style sheet and a script of several parts in `pages/` with the numbers
as JSON. What the
numbers are is decided here, how they look there; all of them come from the functions of this room.

Shapes: T tokens, H heads, L layers, N places in the stream, V vocabulary.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gpt2lab.checks import check_ids
from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.files.visible import shown
from gpt2lab.generation.sampler import log_softmax
from gpt2lab.lens.direct_effects import Attribution, attribution
from gpt2lab.lens.heads import KINDS, head_scores
from gpt2lab.lens.page_steps import digits, flow, packed
from gpt2lab.lens.prediction import NextTokens, next_tokens, top
from gpt2lab.lens.traces import (
    Array,
    Model,
    Trace,
    pieces_of,
    probabilities,
    trace,
    without_acts,
)
from gpt2lab.lens.unembedding import LogitLens, logit_lens, unembed
from gpt2lab.pages import palette
from gpt2lab.pages.document import document, part
from gpt2lab.pages.text import signs

LIMIT = 40 * 2**20  # bytes of a page; browsers open more, but not at once
NEXT, LENS = 50, 10  # alternatives told after each token, and in each place of the lens
LONG = 200  # tokens; beyond, queries and keys stand for the scores, and the data is compressed
ROWS = 64  # of logits at once
TEMPERATURES = tuple(round(0.1 * step, 1) for step in range(1, 21))
SCRIPTS = ("kit", "state", "expected", "flow", "attention", "lens", "parts", "start")


def render(model: Model, tokens: list[int], *, layer_scores: bool = True) -> str:
    """The page of one text as a string: a whole HTML document.

    tokens: ids that fit the window. layer_scores: whether what heads look for on random tokens is
    included, which reads some more text. Raises InputError where the page would pass 40 MB.
    """
    tokens = check_ids(tokens, model.config.n_vocab, "text")
    check_size(model.config, len(tokens))
    return assemble(gather(model, tokens, layer_scores=layer_scores))


# ---- The file.


def assemble(data: Mapping[str, Any]) -> str:
    """Template, style sheet, script and data as one document."""
    json_text = to_json(data)
    kind, text = "application/json", json_text
    if len(data["tokens"]) > LONG:
        kind, text = "application/gzip", _compressed(json_text)
    body = f'{part("look.html")}<script type="{kind}" id="data">{text}</script>'
    name = data["model"]["name"]
    title = f"{name}, looked inside: {_beginning(data)}"
    return document(title, body, style=part("look.css"), script=script())


def script() -> str:
    """The script of the page: its parts in one scope."""
    parts = "\n".join(part(f"look.{name}.js") for name in SCRIPTS)
    return f"'use strict';\n(async () => {{\n{parts}}})();"


def _beginning(data: Mapping[str, Any]) -> str:
    """The first words of the text, for the title."""
    words = ["".join(data["words"][str(one)]) for one in data["tokens"][:12]]
    text = "".join(words).replace("·", " ").strip()
    return text if len(data["tokens"]) <= 12 else f"{text} …"


def to_json(data: Mapping[str, Any]) -> str:
    """JSON for use in a script element: no `<` in it, so nothing can end the element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _compressed(text: str) -> str:
    """A text as base64 of gzip, the same bytes at any time."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def check_size(config: Config, count: int) -> None:
    """Refuse a text whose page would be too large, before anything is computed."""
    if estimate(config, count) <= LIMIT:
        return
    fits = count
    while fits > 1 and estimate(config, fits) > LIMIT:
        fits -= 1
    raise InputError(
        f"the page of {count} tokens would have {estimate(config, count) / 2**20:.0f} MB, more "
        f"than {LIMIT / 2**20:.0f}; give {fits} tokens or fewer"
    )


def estimate(config: Config, count: int) -> int:
    """About how many bytes the page of `count` tokens has, and seldom less than it has."""
    L, H, T = config.n_layer, config.n_head, count
    scores = L * H * T * (T + 1) / 2 * 16 / 3  # four bytes as base64
    lens = (L + 1) * T * (LENS * 15 + 35) + T * (L + 1) * (L + 2) * 9
    parts = 2 * T * (3 + L * (H + 2)) * 10
    after = T * (NEXT * 13 + len(TEMPERATURES) * 8 + 60)
    source = 160_000 + L * 50_000  # the script and style too
    if T > LONG:  # queries and keys, two characters a number; the rest is packed to about half
        return int(L * T * 4 * config.n_embd + 0.5 * (lens + parts + after) + source)
    return int(scores + lens + parts + after + source)


# ---- The numbers.


def gather(model: Model, tokens: list[int], *, layer_scores: bool = True) -> dict[str, Any]:
    """Everything that the page tells, as plain values; arrays as base64 where there are many.

    Probabilities have four digits, logits four decimals, shares of them six; scores are float32.
    """
    t = trace(model, [tokens])
    if not np.isfinite(t["logits"]).all():
        raise InputError(
            "the model's logits are not all finite numbers, so there is nothing to show; look at "
            "its values with a trace, or take an earlier checkpoint"
        )
    before = next_tokens(t, 1)
    lens = logit_lens(t, top=min(LENS, model.config.n_vocab))
    parts = {
        "model": _about(model, t),
        "palette": palette.SCALES,
        "tokens": t.tokens[0].tolist(),
        "expected": _expected(before),
        "total": decimals(before.total),
        "next": (after := _next(t)),
        "plain": _plain(model, tokens, after),
        "attention": _attention(t),
        "heads": _heads(model) if layer_scores else None,
        "lens": _lens(t, lens),
        "attribution": _attribution(t, lens),
        "flow": flow(model, tokens),
    }
    return {**parts, "words": _words(model, _ids(parts))}


def _about(model: Model, t: Trace) -> dict[str, Any]:
    config = model.config
    used = sum(value.size for value in model.params.values())
    return {
        "name": shown(str(getattr(model, "name", "model"))),
        "config": config.to_dict(),
        "head_width": config.head_width,
        "mlp_width": config.mlp_width,
        "parameters": used,
        "dtype": str(t["logits"].dtype),
        "tied": "lm_head.weight" not in model.params,
        "text": model.tokenizer is not None,
        "acts": [shown(act.title) for act in t.acts],
    }


def _ids(parts: Mapping[str, Any]) -> set[int]:
    """Every id that the page names."""
    found = {*parts["tokens"], *parts["lens"]["targets"]}
    for row in parts["next"]:
        found.update(row["ids"])
    for place in parts["lens"]["best"]:
        for best in place:
            found.update(best)
    return found


def _words(model: Model, ids: Iterable[int]) -> dict[str, list[str]]:
    """id -> its text in runs, in turns what is text and what is a sign (`signs`)."""
    listed = sorted(ids)
    return {
        str(one): _turns(signs(piece))
        for one, piece in zip(listed, pieces_of(model.tokenizer, listed), strict=True)
    }


def _turns(runs: list[tuple[str, bool]]) -> list[str]:
    texts = [text for text, _ in runs]
    return ["", *texts] if runs[0][1] else texts


def decimals(value: float, count: int = 4) -> float | None:
    """A number to some decimals, as `digits`."""
    return round(float(value), count) if math.isfinite(value) else None


def _each(function: Any, values: Any) -> Any:
    """A function over every number of nested lists."""
    if isinstance(values, list):
        return [_each(function, value) for value in values]
    return function(values)


def _expected(n: NextTokens) -> list[dict[str, Any] | None]:
    """How each token was expected; None for the first, which nothing expected."""
    return [
        None
        if row is None or row.probability is None or row.surprisal is None
        else {
            "p": digits(row.probability),
            "rank": row.rank,
            "surprisal": decimals(row.surprisal),
            "entropy": decimals(row.entropy),
        }
        for row in n.expected[:-1]
    ]


def _next(t: Trace) -> list[dict[str, Any]]:
    """After each token the most probable ids and their logits, and what all others have together.

    rest: for each of TEMPERATURES the log of the sum of exp(logit / temperature) over all other
    tokens, so that every probability at these temperatures is exact.
    """
    return [_after(row) for row in t["logits"][0]]


def _after(logits: Array) -> dict[str, Any]:
    best = top(logits, NEXT)
    others = np.delete(logits, best).astype(np.float64)
    logprobs = log_softmax(logits)
    p = np.exp(logprobs)
    return {
        "ids": best.tolist(),
        "logits": _each(decimals, logits[best].tolist()),
        "rest": [decimals(_log_sum(others / value)) for value in TEMPERATURES],
        "entropy": decimals(-float(np.sum(p * logprobs, where=p > 0))),
    }


def _log_sum(x: Array) -> float:
    """log(sum(exp(x))), minus infinity for nothing."""
    if not x.size:
        return -math.inf
    most = float(x.max())
    return most + math.log(float(np.exp(x - most).sum()))


def _attention(t: Trace) -> dict[str, Any]:
    """The scaled scores of every head [L, H, T (T + 1) / 2], of each token for itself and before.

    The pattern is their softmax and q k^T is what they are without the scale, so both are left out.
    Of a long text q and k [L, H, T, D] stand for them, in 12 bits, which moves scores by about a
    thousandth; `units` [L, H] makes scaled scores of the products.
    """
    if t.tokens.shape[1] > LONG:
        return _queries_and_keys(t)
    below = np.tril_indices(t.tokens.shape[1])
    layers = range(t.config.n_layer)
    scores = np.stack([t["scores", layer][0][:, below[0], below[1]] for layer in layers])
    return {
        "scale": [t.config.attention_scale(layer) for layer in layers],
        "scores": packed(scores, "<f4"),
    }


def _queries_and_keys(t: Trace) -> dict[str, Any]:
    layers = range(t.config.n_layer)
    scale = np.array([t.config.attention_scale(layer) for layer in layers])
    units, found = scale[:, None], {}
    for name in ("q", "k"):
        values = np.stack([t[name, layer][0] for layer in layers])  # [L, H, T, D]
        unit = np.maximum(np.abs(values).max((2, 3)), 1e-30) / 2047  # [L, H]
        found[name] = _twelve_bits(np.rint(values / unit[:, :, None, None]))
        units = units * unit
    return {"scale": scale.tolist(), **found, "units": units.tolist()}


def _twelve_bits(values: Array) -> str:
    """An even number of integers from -2047 to 2047: two make three bytes, each two of base64."""
    first, second = (values.astype(np.int32).reshape(-1, 2) + 2048).T
    parts = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    return packed(np.stack(parts, 1), "u1")


def _plain(model: Model, tokens: list[int], shown: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the model without its acts says of the same tokens; None where it has no acts.

    expected: the probability of each token but the first. next: of the ids told after each.
    """
    if not model.acts:
        return None
    p = probabilities(without_acts(model), tokens)  # [T, V]
    return {
        "expected": [None, *(digits(p[i, one]) for i, one in enumerate(tokens[1:]))],
        "next": [_each(digits, p[i, row["ids"]].tolist()) for i, row in enumerate(shown)],
    }


def _heads(model: Model) -> dict[str, Any] | None:
    """What heads look for, None where the window is too short to find out."""
    if (model.config.n_ctx - (model.config.begin is not None)) // 2 < 2:
        return None
    scores = head_scores(model)
    return {
        **{kind: _each(decimals, getattr(scores, kind).tolist()) for kind in KINDS},
        "losses": _each(decimals, list(scores.losses)),
        "length": scores.length,
    }


def _lens(t: Trace, lens: LogitLens) -> dict[str, Any]:
    """The logit lens, and for what may be pinned its probability at every place."""
    pinned = [np.unique([*lens.best[:, i, 0], lens.targets[i]]) for i in range(len(lens.tokens))]
    return {
        "keys": lens.keys,
        "targets": lens.targets.tolist(),
        "depths": lens.depths.tolist(),
        "best": lens.best.tolist(),
        "p": _each(digits, lens.probabilities.tolist()),
        "target_p": _each(digits, lens.target_probabilities.tolist()),
        "target_rank": lens.target_ranks.tolist(),
        "entropy": _each(decimals, lens.entropies.tolist()),
        "kl": _each(decimals, lens.divergences.tolist()),
        "pinned": [
            {"ids": ids.tolist(), "p": _each(digits, rows)}
            for ids, rows in zip(pinned, _along(t, lens.keys, pinned), strict=True)
        ],
    }


def _along(t: Trace, keys: list[str], ids: list[Array]) -> list[list[list[float]]]:
    """The probability of chosen ids of each token at each place: T x [N, ids]."""
    found: list[list[list[float]]] = [[] for _ in ids]
    for start in range(0, len(ids), ROWS):
        for key in keys:
            logprobs = log_softmax(unembed(t, t[key][0, start : start + ROWS]))  # [rows, V]
            for i, row in enumerate(logprobs, start):
                found[i].append(np.exp(row[ids[i]]).tolist())
    return found


def _attribution(t: Trace, lens: LogitLens) -> dict[str, Any]:
    """What adds to the logit of the most probable next token, and of the one that follows."""
    places = range(len(lens.tokens))
    predicted = [attribution(t, position=i, by="head") for i in places]
    follows = [attribution(t, int(lens.targets[i]), position=i, by="head") for i in places[:-1]]
    return {
        "labels": predicted[0].labels,
        "predicted": [_shares(a) for a in predicted],
        "follows": [*(_shares(a) for a in follows), None],
    }


def _shares(a: Attribution) -> dict[str, Any]:
    return {
        "token": a.token,
        "logit": decimals(a.logit, 6),
        "values": [decimals(value, 6) for value in a.values.tolist()],
    }
