"""Attention heads: their arithmetic written out, their circuits, and what they look for.

Shapes: B batch, T tokens, S sources, H heads, D head width, E embedding, L layers, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2lab import forks, reference
from gpt2lab.checks import one_of, whole
from gpt2lab.errors import InputError
from gpt2lab.generation.sampler import log_softmax
from gpt2lab.lens import hook_names as naming
from gpt2lab.lens import interventions as acting
from gpt2lab.lens.prediction import MOST, top
from gpt2lab.lens.traces import Array, Trace, TracedModel, exact, pieces_of, plain_fields
from gpt2lab.pages import fragments as view
from gpt2lab.pages.palette import shade
from gpt2lab.pages.text import percent, plain
from gpt2lab.reference import attention_mask, norm, softmax

# ---- One head's arithmetic.


@dataclass
class HeadAttention:
    """One head reading one text, step by step: every array is made here from q, k and v.

    q, k, v: [T, D]. dots: q k^T. scale: what they are multiplied by. scaled: after that. masked:
    with -1e10 where the source comes later. pattern: the softmax of each row. z: pattern v [T, D].
    """

    layer: int
    head: int
    pieces: list[str]
    q: Array
    k: Array
    v: Array
    dots: Array
    scale: float
    scaled: Array
    masked: Array
    pattern: Array
    z: Array

    def explain(self, position: int = -1, top: int = 5) -> str:
        """The arithmetic of one token's look back, as lines of text: the strongest sources."""
        at = naming.in_range("position", position, len(self.pieces))
        top = whole("top", top, 1, MOST)
        lines = [
            f"layer {self.layer}, head {self.head}: {self.pieces[at]!r} at {at} looks back",
            f"{'source':>20} {'q.k':>9} {'x scale':>9} {'exp(x - max)':>13} {'softmax':>8}",
        ]
        x = self.masked[at]
        ex = np.exp(x - x.max())
        for j in np.argsort(-self.pattern[at], kind="stable")[: min(top, at + 1)]:
            lines.append(
                f"{f'{j} {self.pieces[j]!r}':>20} {self.dots[at, j]:9.3f} "
                f"{self.scaled[at, j]:9.3f} {ex[j]:13.4g} {self.pattern[at, j]:8.2%}"
            )
        later = len(self.pieces) - at - 1
        lines.append(
            f"scale {self.scale:.4f}; the mask hides {later} later tokens; the {at + 1} "
            f"exponentials sum to {ex.sum():.4g}"
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        last = len(self.pattern) - 1
        order = np.argsort(-self.pattern[last], kind="stable")[:5]
        looks = ", ".join(f"{self.pieces[j]!r} {self.pattern[last, j]:.1%}" for j in order)
        return (
            f"layer {self.layer}, head {self.head}: token {last} {self.pieces[last]!r} looks at "
            f"{looks}\nHeadAttention: .pattern [T, S] has each token, .explain(i) the arithmetic"
        )

    def _repr_html_(self) -> str:
        """A row for each token, a column for each token that it attends to."""
        tokens = view.tokens_axis(self.pieces)
        return view.fragment(
            f"Layer {self.layer}, head {self.head}: attention of each token (down) to each source "
            "(across)",
            view.grid(tokens, tokens, self._cell),
            view.legend(shade, "0%", "100% of its attention"),
            view.notes(f"Scores are q.k times {self.scale:.4f}; each row is their softmax."),
        )

    def _cell(self, i: int, j: int) -> str:
        """The hundredths, and in the title the arithmetic; nothing for later tokens."""
        if j > i:
            return ""
        value = float(self.pattern[i, j])
        title = (
            f"{plain(self.pieces[i])} ({i}) to {plain(self.pieces[j])} ({j}): {percent(value)}\n"
            f"q.k {self.dots[i, j]:.4f}, scaled {self.scaled[i, j]:.4f}"
        )
        return view.cell(f"{100 * value:.0f}" if value >= 0.005 else "", shade(value), title)


def attention(trace: Trace, layer: int, head: int, *, row: int = 0) -> HeadAttention:
    """A head's attention to a traced text, written out from q, k and v.

    Equal to the traced scores, pattern and z (where nothing was changed between them). The text
    has to be traced in one reading: a step of writing holds its own keys alone.
    """
    layer = naming.check_layer(trace.config, layer)
    head, row = naming.check_unit(trace.config, "H", head), trace.row(row)
    if trace.start:
        raise InputError(
            f"this trace is of a step after {trace.start} cached tokens; trace the whole text"
        )
    q, k, v = (trace[name, layer][row, head] for name in "qkv")  # 3 x [T, D]
    scale = trace.config.attention_scale(layer)
    dots = q @ k.T  # [T, T]
    scaled = dots * dots.dtype.type(scale)
    mask = attention_mask(*dots.shape, dtype=dots.dtype)
    masked = scaled * mask - dots.dtype.type(1e10) * (1 - mask)
    pattern = softmax(masked)
    pieces = pieces_of(trace.tokenizer, trace.tokens[row].tolist())
    return HeadAttention(
        layer, head, pieces, q, k, v, dots, scale, scaled, masked, pattern, pattern @ v
    )


# ---- Circuits: what a head does for any text, from its weights alone.


def _slices(model: TracedModel | Trace, layer: int, head: int) -> tuple[Array, ...]:
    """W_Q, W_K, W_V [E + 1, D] with their biases as last rows, and W_O [D, E]."""
    c, p = model.config, model.params
    layer, head = naming.check_layer(c, layer), naming.check_unit(c, "H", head)
    scope, E, D = f"h.{layer}.attn", c.n_embd, c.head_width
    whole = np.vstack([p[f"{scope}.c_attn.weight"], p[f"{scope}.c_attn.bias"]])  # [E + 1, 3 E]
    parts = whole.reshape(E + 1, 3, c.n_head, D)[:, :, head]  # [E + 1, 3, D]
    out = p[f"{scope}.c_proj.weight"].reshape(c.n_head, D, E)[head]  # [D, E]
    return parts[:, 0], parts[:, 1], parts[:, 2], out


def qk_circuit(model: TracedModel | Trace, layer: int, head: int) -> Array:
    """The matrix [E + 1, E + 1] that says which token meets which: W_Q W_K^T.

    The last row and column are the biases': for x and y as ln_1 gives them, each with a 1 behind,
    x @ qk @ y is the score before scale and mask.
    """
    wq, wk, _, _ = _slices(model, layer, head)
    return wq @ wk.T


def ov_circuit(model: TracedModel | Trace, layer: int, head: int) -> Array:
    """The matrix [E + 1, E] that says what is handed on: W_V W_O.

    The last row is the bias's: for y as ln_1 gives it, with a 1 behind, y @ ov is what the head
    adds to the stream of a token that looks at y alone (c_proj's bias is the whole layer's).
    """
    _, _, wv, wo = _slices(model, layer, head)
    return wv @ wo


def ov_tokens(
    model: TracedModel, layer: int, head: int, token: int, top_count: int = 10
) -> list[tuple[int, float]]:
    """Which next tokens a head pushes that looks at `token` (without context): (id, logit) each.

    The row of wte goes through ln_1, the OV circuit, ln_f's gain and the unembedding; without the
    spread of the whole stream, which only a text has, logits are in the head's own units.
    """
    p, c = model.params, model.config
    token = naming.check_unit(c, "V", token)
    scope = f"h.{naming.check_layer(c, layer)}.ln_1"
    x = norm(p["wte.weight"][token], p[f"{scope}.weight"], p[f"{scope}.bias"])
    out = np.append(x, 1) @ ov_circuit(model, layer, head)  # [E]
    logits = p.get("lm_head.weight", p["wte.weight"]) @ ((out - out.mean()) * p["ln_f.weight"])
    return [(int(i), float(logits[i])) for i in top(logits, whole("top", top_count, 1, MOST))]


def copying_scores(model: TracedModel) -> Array:
    """How much each head copies what it looks at, [L, H] from -1 to 1.

    The eigenvalues of token -> token through the OV circuit, W_E W_V W_O W_U: the sum of their real
    parts over the sum of their sizes (Elhage et al. 2021). They are those of a D x D matrix.
    """
    p, c = model.params, model.config
    wte = p["wte.weight"].astype(np.float64)
    turn = p.get("lm_head.weight", wte).astype(np.float64).T @ wte  # [E, E]
    found = np.zeros((c.n_layer, c.n_head))
    for layer, head in np.ndindex(found.shape):
        _, _, wv, wo = _slices(model, layer, head)
        eigenvalues = np.linalg.eigvals(wo @ turn @ wv[:-1])  # [D]
        size = np.abs(eigenvalues).sum()
        found[layer, head] = eigenvalues.real.sum() / size if size else 0.0
    return found


# ---- What heads look for: scores on repeated random tokens.


def highest(scores: Array, count: int) -> list[tuple[int, int, float]]:
    """(row, column, value) of the largest entries of a matrix, the largest first."""
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(order, scores.shape)
    return [(int(i), int(j), float(scores[i, j])) for i, j in zip(rows, columns, strict=True)]


KINDS = ("previous", "duplicate", "induction")


@dataclass
class HeadScores:
    """What heads look for on random tokens that come twice, r r; each score is [L, H], 0 to 1.

    previous: mean attention to the token before. duplicate, induction: in the second half, mean
    attention to the same token in the first half, and to the one after it. losses: nats a token in
    the first and second half; where a model copies, the second is the smaller. length: of r.
    """

    previous: Array
    duplicate: Array
    induction: Array
    losses: tuple[float, float]
    length: int

    def strongest(self, kind: str, count: int = 5) -> list[tuple[int, int, float]]:
        """(layer, head, score) of the heads that score highest in a kind."""
        return highest(getattr(self, one_of("kind", kind, KINDS)), count)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return plain_fields(self) | {"losses": list(self.losses)}

    def __repr__(self) -> str:
        rows = []
        for kind in KINDS:
            best = ", ".join(f"{i}.{j} {value:.3f}" for i, j, value in self.strongest(kind, 3))
            rows.append(f"{kind:>12}: {best}")
        return "\n".join([*rows, "HeadScores: .strongest(kind, n) has more, .to_dict() everything"])

    def _repr_html_(self) -> str:
        """A table of each kind of score, layers down and heads across."""
        first, second = self.losses
        return view.fragment(
            "Attention on random tokens that come twice",
            "".join(map(self._table, KINDS)),
            view.legend(shade, "0", "1, all of the attention"),
            view.notes(
                f"Loss on {self.length} random tokens: {first:.3f} nats per token the first time, "
                f"{second:.3f} the second."
            ),
        )

    def _table(self, kind: str) -> str:
        scores = getattr(self, kind)
        down, across = map(view.numbers_axis, ("layers", "heads"), scores.shape)

        def cell(i: int, j: int) -> str:
            x = float(scores[i, j])
            return view.cell(f"{x:.2f}", shade(x), f"layer {i}, head {j}: {kind} {x:.4f}")

        style = "display:inline-block;vertical-align:top;margin-right:18px"
        return f'<div style="{style}"><div>{kind}</div>{view.grid(down, across, cell)}</div>'


def repeated_tokens(model: TracedModel, length: int, batch: int, seed: int) -> Array:
    """Random tokens that come twice, after the token that documents begin after: [B, T].

    Drawn from all ids that stand for text: no end token, nothing beyond the tokenizer's.
    """
    config, tokenizer = model.config, model.tokenizer
    count = config.n_vocab if tokenizer is None else min(config.n_vocab, tokenizer.n_vocab)
    ids = np.setdiff1d(np.arange(count), config.end_tokens)
    random = np.random.Generator(np.random.Philox(seed))
    half = ids[random.integers(0, len(ids), (batch, length))]  # [B, length]
    begin = [] if config.begin is None else [np.full((batch, 1), config.begin)]
    return np.concatenate([*begin, half, half], axis=1)


def head_scores(
    model: TracedModel, *, length: int | None = None, batch: int = 4, seed: int = 0
) -> HeadScores:
    """Previous-token, duplicate-token and induction scores of every head (Olsson et al. 2022).

    length: of the random stretch that is repeated; 50, or less where the window is short.
    """
    config = model.config
    room = (config.n_ctx - (config.begin is not None)) // 2
    length = min(50, room) if length is None else length  # repeated once, it has to fit the window
    length, batch = whole("length", length, 2, room), whole("batch", batch, 1, MOST)
    seed = whole("seed", seed, 0, 2**64 - 1)
    scores = {kind: np.zeros((config.n_layer, config.n_head)) for kind in KINDS}
    losses = np.zeros(2)
    tokens = repeated_tokens(model, length, batch, seed)
    params = exact(model).params
    for row in tokens:  # one at a time: a pattern is [H, T, T]
        at = acting.tap(model.acts, 0, _scorer(scores, length, batch))
        with forks.whole():
            logits = reference.model(config, params, row[None], at=at)["logits"][0, :-1]
        own = log_softmax(logits)[np.arange(len(row) - 1), row[1:]]
        # Without an end token before it nothing expects the first token: that half has one less.
        losses += -own[:-length].mean() / batch, -own[-length:].mean() / batch
    return HeadScores(**scores, losses=(float(losses[0]), float(losses[1])), length=length)


def _scorer(scores: dict[str, Array], length: int, batch: int) -> reference.Tap:
    """An `at` that adds each pattern's share to the scores and keeps nothing of it."""

    def at(key: str, value: Array) -> Array:
        if key.endswith(".pattern"):
            layer = naming.parse(key)[1]
            for kind, distance in zip(KINDS, (1, length, length - 1), strict=True):
                diagonal = np.diagonal(value[0], -distance, axis1=1, axis2=2)  # [H, T - distance]
                second_half = diagonal if kind == "previous" else diagonal[:, -length:]
                scores[kind][layer] += second_half.mean(axis=1) / batch
        return value

    return at
