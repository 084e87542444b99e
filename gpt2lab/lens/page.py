"""The look inside as one HTML page: every view of one text, in one file that asks for nothing.

The page is a template, a style sheet and a script of several parts in `pages/`, with the numbers
as JSON. Here they are computed, there they are drawn.

Shapes: T tokens, H heads, L layers, N places in the stream, V vocabulary.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping
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
    Trace,
    TracedModel,
    pieces_of,
    probabilities,
    trace,
    without_acts,
)
from gpt2lab.lens.unembedding import LogitLens, logit_lens, unembed
from gpt2lab.pages import palette
from gpt2lab.pages.document import document, part
from gpt2lab.pages.editor import look_script
from gpt2lab.pages.text import signs

LIMIT = 40 * 2**20  # bytes of a page; browsers open more, but not at once
NEXT, LENS = 50, 10  # alternatives told after each token, and in each place of the lens
LONG = 200  # tokens; beyond, queries and keys stand for the scores, and the data is compressed
ROWS = 64  # of logits at once
TEMPERATURES = tuple(round(0.1 * step, 1) for step in range(1, 21))


def render(model: TracedModel, tokens: list[int], *, layer_scores: bool = True) -> str:
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
    # With no `<` in the JSON nothing can end the script element.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    kind, text = "application/json", text.replace("<", "\\u003c")
    if len(data["tokens"]) > LONG:  # mtime: the same bytes at any time
        packed_text = gzip.compress(text.encode(), 6, mtime=0)
        kind, text = "application/gzip", base64.b64encode(packed_text).decode()
    body = f'{part("look.html")}<script type="{kind}" id="data">{text}</script>'
    first = "".join("".join(data["words"][str(one)]) for one in data["tokens"][:12])
    beginning = first.replace("·", " ").strip() + (" …" if len(data["tokens"]) > 12 else "")
    title = f"{data['model']['name']}, looked inside: {beginning}"
    return document(title, body, style=part("look.css"), script=look_script())


def check_size(config: Config, count: int) -> None:
    """Refuse a text whose page would be too large, before anything is computed."""
    size = estimate(config, count)
    if size > LIMIT:
        fits = next((n for n in range(count, 1, -1) if estimate(config, n) <= LIMIT), 1)
        raise InputError(
            f"the page of {count} tokens would have {size / 2**20:.0f} MB, more than "
            f"{LIMIT / 2**20:.0f}; give {fits} tokens or fewer"
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


def gather(model: TracedModel, tokens: list[int], *, layer_scores: bool = True) -> dict[str, Any]:
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
        "next": (after := [_after(row) for row in t["logits"][0]]),
        "plain": _plain(model, tokens, after),
        "attention": _attention(t),
        "heads": _heads(model) if layer_scores else None,
        "lens": _lens(t, lens),
        "attribution": _attribution(t, lens),
        "flow": flow(model, tokens),
    }
    return {**parts, "words": _words(model, parts)}


def _about(model: TracedModel, t: Trace) -> dict[str, Any]:
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


def _words(model: TracedModel, parts: Mapping[str, Any]) -> dict[str, list[str]]:
    """Every id of the page -> its text in runs, by turns of text and of signs (`signs`)."""
    ids = {*parts["tokens"], *parts["lens"]["targets"]}
    ids.update(one for row in parts["next"] for one in row["ids"])
    ids.update(one for place in parts["lens"]["best"] for best in place for one in best)
    found, listed = {}, sorted(ids)
    for one, piece in zip(listed, pieces_of(model.tokenizer, listed), strict=True):
        runs = signs(piece)
        found[str(one)] = [*([""] if runs[0][1] else []), *(text for text, _ in runs)]
    return found


def decimals(values: Any, count: int = 4) -> Any:
    """A number, or every number of nested lists, to some decimals; None for what is not finite."""
    if isinstance(values, list):
        return [decimals(value, count) for value in values]
    return round(float(values), count) if math.isfinite(values) else None


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


def _after(logits: Array) -> dict[str, Any]:
    """The most probable ids after one token with their logits, and what all others have together.

    rest: for each of TEMPERATURES the log of the sum of exp(logit / temperature) over all other
    tokens, so that every probability at these temperatures is exact.
    """
    best = top(logits, NEXT)
    others = np.delete(logits, best).astype(np.float64)
    most = float(others.max(initial=-math.inf))
    rest = [-math.inf] * len(TEMPERATURES)
    if others.size:
        sums = (float(np.exp((others - most) / value).sum()) for value in TEMPERATURES)
        rest = [most / t + math.log(total) for t, total in zip(TEMPERATURES, sums, strict=True)]
    logprobs = log_softmax(logits)
    p = np.exp(logprobs)
    return {
        "ids": best.tolist(),
        "logits": decimals(logits[best].tolist()),
        "rest": decimals(rest),
        "entropy": decimals(-float(np.sum(p * logprobs, where=p > 0))),
    }


def _attention(t: Trace) -> dict[str, Any]:
    """The scaled scores of every head [L, H, T (T + 1) / 2], of each token for itself and before.

    The pattern is their softmax and q k^T is what they are without the scale, so both are left out.
    Of a long text q and k [L, H, T, D] stand for them, in 12 bits, which moves scores by about a
    thousandth; `units` [L, H] makes scaled scores of the products.
    """
    scale = [t.config.attention_scale(layer) for layer in range(t.config.n_layer)]
    if t.tokens.shape[1] <= LONG:
        i, j = np.tril_indices(t.tokens.shape[1])
        return {"scale": scale, "scores": packed(t.stack("scores")[:, 0][..., i, j], "<f4")}
    units, found = np.array(scale)[:, None], {}
    for name in ("q", "k"):
        values = t.stack(name)[:, 0]  # [L, H, T, D]
        unit = np.maximum(np.abs(values).max((2, 3)), 1e-30) / 2047  # [L, H]
        found[name] = _twelve_bits(np.rint(values / unit[:, :, None, None]))
        units = units * unit
    return {"scale": scale, **found, "units": units.tolist()}


def _twelve_bits(values: Array) -> str:
    """An even number of integers from -2047 to 2047: two make three bytes, each two of base64."""
    first, second = (values.astype(np.int32).reshape(-1, 2) + 2048).T
    parts = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    return packed(np.stack(parts, 1), "u1")


def _plain(
    model: TracedModel, tokens: list[int], shown: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """What the model without its acts says of the same tokens; None where it has no acts.

    expected: the probability of each token but the first. next: of the ids told after each.
    """
    if not model.acts:
        return None
    p = probabilities(without_acts(model), tokens)  # [T, V]
    return {
        "expected": [None, *(digits(p[i, one]) for i, one in enumerate(tokens[1:]))],
        "next": [digits(p[i, row["ids"]].tolist()) for i, row in enumerate(shown)],
    }


def _heads(model: TracedModel) -> dict[str, Any] | None:
    """What heads look for, None where the window is too short to find out."""
    if (model.config.n_ctx - (model.config.begin is not None)) // 2 < 2:
        return None
    scores = head_scores(model)
    return {
        **{kind: decimals(getattr(scores, kind).tolist()) for kind in KINDS},
        "losses": decimals(list(scores.losses)),
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
        "p": digits(lens.probabilities.tolist()),
        "target_p": digits(lens.target_probabilities.tolist()),
        "target_rank": lens.target_ranks.tolist(),
        "entropy": decimals(lens.entropies.tolist()),
        "kl": decimals(lens.divergences.tolist()),
        "pinned": [
            {"ids": ids.tolist(), "p": digits(rows)}
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
    follows = [*lens.targets.tolist()[:-1], None]
    predicted = [attribution(t, position=i, by="head") for i in range(len(follows))]
    return {
        "labels": predicted[0].labels,
        "predicted": [_shares(a) for a in predicted],
        "follows": [
            None if token is None else _shares(attribution(t, token, position=i, by="head"))
            for i, token in enumerate(follows)
        ],
    }


def _shares(a: Attribution) -> dict[str, Any]:
    values = decimals(a.values.tolist(), 6)
    return {"token": a.token, "logit": decimals(a.logit, 6), "values": values}
