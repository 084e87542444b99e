"""Which part of the model makes the difference: patching swept over layers, and directions.

Two prompts of one length differ in what matters (a name, say). The values of the clean one are put,
part by part, into the reading of the corrupt one; where the answer comes back, it went through.

Shapes: B batch, T tokens, H heads, E embedding, L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2lab import reference
from gpt2lab.checks import one_of
from gpt2lab.errors import InputError
from gpt2lab.lens import hook_names as naming
from gpt2lab.lens import interventions as acting
from gpt2lab.lens.heads import highest
from gpt2lab.lens.traces import Array, Trace, TracedModel, exact, plain_fields, trace
from gpt2lab.lens.unembedding import place_of, token_of, unembed
from gpt2lab.pages import fragments as view
from gpt2lab.pages.palette import diverging

ROWS = 16  # patched readings at once
Metric = Callable[[Array], Array]


@dataclass
class Sweep:
    """What each single patch does to the answer.

    name: of the value that was patched. by: "position" or "head". metric: what was measured.
    values: the metric after each patch, [L, T] by layer and position or [L, H] by layer and head.
    clean, corrupt: the metric of both prompts unpatched. tokens: of the corrupt prompt, as text.
    """

    name: str
    by: str
    metric: str
    values: Array
    clean: float
    corrupt: float
    tokens: list[str]

    @property
    def restored(self) -> Array:
        """The values on a scale of 0, the corrupt prompt's, to 1, the clean one's."""
        return (self.values - self.corrupt) / (self.clean - self.corrupt)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return plain_fields(self)

    def top(self, count: int = 8) -> list[tuple[int, int, float]]:
        """(layer, position or head, share restored) of the patches that restore most."""
        return highest(self.restored, count)

    def __repr__(self) -> str:
        rows = [f"{f'layer {i}, {self.by} {j}':>24} {share:8.1%}" for i, j, share in self.top()]
        return "\n".join(
            [
                f"{self.name} patched, {self.metric}: corrupt {self.corrupt:.3f}, clean "
                f"{self.clean:.3f}; restored most:",
                *rows,
                "Sweep: .top(n) has more, .values [L, n] every patch, .to_dict() everything",
            ]
        )

    def _repr_html_(self) -> str:
        """What each patch restores, layers down, positions or heads across."""
        layers, count = self.values.shape
        heads = view.numbers_axis("heads", count)
        across = heads if self.by == "head" else view.tokens_axis(self.tokens)
        restored = self.restored
        most = max(1.0, float(np.abs(restored).max(initial=0.0)))

        def cell(i: int, j: int) -> str:
            share = float(restored[i, j])
            about = f"layer {i}, {self.by} {j}: {self.values[i, j]:.4f}, restored {share:.4f}"
            written = f"{share:.2f}" if abs(share) >= 0.005 else ""
            return view.cell(written, diverging(share / most), about)

        return view.fragment(
            f"{self.name} patched in, by layer (down) and {self.by} (across): {self.metric}",
            view.grid(view.numbers_axis("layers", layers), across, cell),
            view.legend(diverging, f"{-most:.3g}", f"{most:.3g}"),
            view.notes(
                f"0 is the corrupt prompt's {self.corrupt:.4f}, 1 the clean one's {self.clean:.4f}."
            ),
        )


def sweep(
    model: TracedModel,
    clean: Any,
    corrupt: Any,
    answer: int | str | Metric,
    against: int | str | None = None,
    *,
    name: str = "resid_pre",
    position: int = -1,
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Patch one value of the clean prompt into the corrupt one, in each layer at each place.

    clean, corrupt: texts or ids of the same number of tokens. answer: the token whose logit at
    `position` is the metric, less that of `against` where it is given; or a function from logits
    [B, V] there to numbers [B]. name: the value, by our name or TransformerLens's ("hook_z"); those
    of heads (z, pattern, q, k, v, scores) are swept by head over all positions, all others by
    position. progress: is called with the layers done and their number after each layer.
    Meng et al. 2022 (causal tracing); Wang et al. 2023 (IOI).
    """
    name = naming.of_a_layer(naming.of_hook(name))
    by = "head" if name in naming.OF_HEADS else "position"
    good = trace(model, clean, [name, "logits", "resid_pre", "resid_post"])
    bad = trace(model, corrupt, ["logits", "resid_pre", "resid_post"])
    if len(good.tokens) > 1 or len(bad.tokens) > 1:
        raise InputError(
            f"the prompts are lists of {len(good.tokens)} and {len(bad.tokens)} texts; a sweep "
            "takes one pair of texts, so call it for each pair"
        )
    if good.tokens.shape != bad.tokens.shape:
        raise InputError(
            f"the prompts have {good.tokens.shape[1]} and {bad.tokens.shape[1]} tokens; patching "
            "puts place on place, so give two texts of one length"
        )
    at, c = place_of(bad, position), model.config
    metric, told = _metric(bad, answer, against)
    ends = [float(metric(t["logits"][:, at])[0]) for t in (good, bad)]
    if ends[0] == ends[1]:
        raise InputError(
            f"both prompts give the same {told}, {ends[0]:.6g}, so there is nothing to restore; "
            "give prompts or an answer that differ"
        )
    count = c.n_head if by == "head" else bad.tokens.shape[1]
    values = np.zeros((c.n_layer, count))
    for layer in range(c.n_layer):
        for start in range(0, count, ROWS):
            places = np.arange(start, min(count, start + ROWS))
            logits = _patched(model, bad, good[name, layer], name, layer, places, at)
            values[layer, places] = metric(logits)
        if progress is not None:
            progress(layer + 1, c.n_layer)
    return Sweep(name, by, told, values, ends[0], ends[1], bad.pieces)


def _metric(
    about: Trace, answer: int | str | Metric, against: int | str | None
) -> tuple[Metric, str]:
    """The metric as a function of logits [B, V], and in words."""
    if callable(answer):
        return answer, getattr(answer, "__name__", "metric")
    one = token_of(about, answer, "answer")
    if against is None:
        return lambda logits: logits[:, one], f"logit of {answer!r}"
    other = token_of(about, against, "other answer")
    return lambda logits: logits[:, one] - logits[:, other], f"logit of {answer!r} - {against!r}"


def _patched(
    model: TracedModel, bad: Trace, value: Array, name: str, layer: int, places: Array, at: int
) -> Array:
    """The logits [N, V] at one position of N readings, each patched at one of the places.

    What stands below the layer is the corrupt prompt's own, so the readings begin there.
    """
    key, by_head = naming.key_of(name, layer), name in naming.OF_HEADS
    rows = np.arange(len(places))

    def put(found: str, old: Array) -> Array:
        if found != key:
            return old
        old = old.copy()
        old[rows, places] = value[0, places]
        return old

    acts = acting.tap(model.acts, 0, put)
    params = exact(model).params
    h = np.repeat(bad["resid_pre", layer], len(places), axis=0)  # [N, T, E]
    assert by_head or value.shape[1] == h.shape[1]
    for i in range(layer, model.config.n_layer):
        h, _ = reference.block(h, params, i, past=None, config=model.config, at=acts)
    return unembed(bad, h[:, at])  # [N, V]


def direction(
    model: TracedModel,
    toward: Iterable[str],
    away: Iterable[str],
    layer: int,
    *,
    name: str = "resid_post",
    tokens: str = "last",
) -> Array:
    """What sets two kinds of texts apart inside: the difference of their mean states, [E].

    toward, away: texts of either kind, of any lengths. layer, name: where they are compared.
    tokens: "last" takes each text's last token, "mean" the mean over its tokens.
    Give it to `steer`. Turner et al. 2023; Rimsky et al. 2024, "Steering Llama 2 via contrastive
    activation addition".
    """
    one_of("tokens", tokens, ("last", "mean"))
    key = naming.key_of(
        one_of("name", name, naming.OF_THE_STREAM), naming.check_layer(model.config, layer)
    )
    means = []
    for what, texts in (("toward", toward), ("away", away)):
        states = [
            trace(model, text, [key])[key][0] for text in naming.as_list(texts)
        ]  # each [T, E]
        if not states:
            raise InputError(f"there is no text in {what}; give at least one of each kind")
        means.append(np.mean([s[-1] if tokens == "last" else s.mean(0) for s in states], axis=0))
    return means[0] - means[1]
