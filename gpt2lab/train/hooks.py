"""Inside the torch model: its inner values in the graph, their gradients, attribution patching.

The names are those of `lens.hook_names`. Whatever hooks are set here are gone when it is over,
after an error too, and the model's parameters get no gradient but by your own `backward`.

Shapes: B batch, T tokens, H heads, L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from gpt2lab.checks import check_ids
from gpt2lab.engines.torch.model import GPT2
from gpt2lab.errors import InputError
from gpt2lab.lens import hook_names as naming

import torch  # isort: skip  (after the model, which names the extra that it is in)

Array = np.ndarray[Any, np.dtype[Any]]
Names = Iterable[str] | str | None
Layers = Iterable[int] | int | None
Metric = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def watch(
    model: GPT2, names: Names = None, layers: Layers = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Collect inner values by key while the model is called, each in the graph.

    So `torch.autograd.grad(metric, values["h.3.attn.z"])` works, and after `metric.backward()` its
    `.grad` is there, even if the parameters are frozen. A second call replaces the values of the
    first. A hook of your own that replaces a value has to be set before, to be seen. names, layers:
    what to collect (`hook_names.select`), by default everything. InputError for unknown ones.
    """
    values: dict[str, torch.Tensor] = {}

    def keep(key: str, value: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            value = value if value.requires_grad else value.detach().requires_grad_()
            value.retain_grad()
        values[key] = value
        return value

    with ExitStack() as hooks:
        for key in naming.select(model.config, names, layers):

            def hook(point: Any, given: Any, value: torch.Tensor, key: str = key) -> torch.Tensor:
                return keep(key, value)

            hooks.callback(model.get_submodule(key).register_forward_hook(hook).remove)
        yield values


def attribution_patching(
    model: GPT2,
    clean: Iterable[int],
    corrupt: Iterable[int],
    metric: Metric,
    names: Names = ("resid_pre",),
    layers: Layers = None,
) -> dict[str, Array]:
    """Estimate how much each value of the clean run would change the metric of the corrupt one.

    Nanda (2023, "Attribution patching: activation patching at industrial scale"): (clean - corrupt)
    * d metric / d value at the corrupt run, summed over the last axis of the value. Two forward
    passes and one backward pass give it for every key, where patching takes a pass for each
    position. It is exact where the metric is linear in the value, and says little where the two
    runs are far apart.

    clean, corrupt: ids of equally many tokens. metric: logits [1, T, V] -> one number. Returns
    key -> [H, T] if the value has heads, else [T] (`picture` joins layers); for scores and pattern
    T is the query's position. InputError for ids, names or a metric that do not fit.
    """
    runs = _tokens(model, clean, corrupt)
    with watch(model, names, layers) as values:
        with torch.no_grad():
            model(runs[0])
        wanted = dict(values)
        with torch.enable_grad():
            score = _number(metric(model(runs[1])))
            found = dict(values)
            slopes = torch.autograd.grad(score, list(found.values()), materialize_grads=True)
    return {
        key: _estimate(wanted[key], value, slope)
        for (key, value), slope in zip(found.items(), slopes, strict=True)
    }


def _tokens(model: GPT2, clean: Iterable[int], corrupt: Iterable[int]) -> list[torch.Tensor]:
    """Both texts as ids [1, T] where the model is."""
    if model.training and model.dropout:
        raise InputError(
            f"the model drops values out at random ({model.dropout:g}); call model.eval() first"
        )
    given = {"clean": clean, "corrupt": corrupt}
    listed = [check_ids(ids, model.config.n_vocab, f"{what} text") for what, ids in given.items()]
    first, second = (len(ids) for ids in listed)
    if first != second:
        raise InputError(
            f"the clean text has {first} tokens and the corrupt one {second}; values are compared "
            "place by place, so give two texts of one length"
        )
    if first > model.config.n_ctx:
        raise InputError(
            f"the texts have {first} tokens, the model sees {model.config.n_ctx}; shorten them"
        )
    return [torch.tensor([ids], device=model.wte.weight.device) for ids in listed]


def _number(score: Any) -> torch.Tensor:
    """A metric's result, if it is one that a gradient can be taken of."""
    if not isinstance(score, torch.Tensor) or score.numel() != 1 or not score.requires_grad:
        shape = f"a tensor {list(score.shape)}" if isinstance(score, torch.Tensor) else f"{score!r}"
        raise InputError(
            f"the metric gives {shape:.80}; it has to give one number, made of the logits by torch "
            "alone, so that its gradient can be taken"
        )
    return score


def _estimate(clean: torch.Tensor, corrupt: torch.Tensor, slope: torch.Tensor) -> Array:
    """The estimate of one value [1, ..., X], summed over X."""
    difference = torch.where(clean == corrupt, 0, clean - corrupt)  # masked scores are infinite
    estimate = (difference.float() if difference.dtype.itemsize < 4 else difference) * slope
    return estimate.sum(-1)[0].detach().cpu().numpy()


def picture(estimates: Mapping[str, Array], name: str) -> Array:
    """Return the estimates of one name as activation patching shows them, by layer.

    [L, H] if the value has heads, as if a head were patched at all positions, else [L, T]. L counts
    the layers that were asked for.
    """
    rows = [value for key, value in estimates.items() if naming.parse(key)[0] == name]
    if not rows:
        there = ", ".join(dict.fromkeys(naming.parse(key)[0] for key in estimates))
        raise InputError(f"no estimates of {name!r}; there are those of: {there}")
    return np.stack([row.sum(-1) if row.ndim == 2 else row for row in rows])
