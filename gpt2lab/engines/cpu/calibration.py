"""Rounding to int4 that compensates its own errors, by the activations of a calibration text.

Rounded to the nearest, each weight of a column errs for itself. Here the numbers of K are rounded
one after another, and what one of them misses is taken over by those that are still to come, as
far as the text's activations make them interchangeable: GPTQ (Frantar et al. 2022), which solves
Optimal Brain Surgeon with the Hessian H = X^T X of the activations X that meet the matrix.

The result is a checkpoint like any other, in float32, whose matrices int4 holds exactly
(`packing.quantised_in_groups`); the embeddings and the head stay as they are.

Shapes: T tokens, E embedding, K rows and N columns of a matrix, F width of the MLP.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2lab import reference
from gpt2lab.config import Config
from gpt2lab.engines.cpu.packing import GROUP, evened, nearest, quantised_in_groups

Array = np.ndarray[Any, np.dtype[Any]]

log = logging.getLogger(__name__)

#: The matrices of a layer in the order in which a token meets them, and what each is multiplied by.
MET_BY = {
    "attn.c_attn": "ln_1",
    "attn.c_proj": "attn.z",
    "mlp.c_fc": "ln_2",
    "mlp.c_proj": "mlp_post",
}
DAMPING = 0.01  # of the mean of H's diagonal, added to it: the text may not reach every direction


def calibrated(
    config: Config, params: dict[str, Array], sequences: Sequence[Sequence[int]]
) -> dict[str, Array]:
    """The parameters in float32, with every matrix of the layers on a grid of int4.

    sequences: ids of a calibration text, each at most a context long; 10,000 tokens are enough. A
    matrix is rounded by the activations that the matrices before it, rounded already, give.
    """
    new = {name: np.array(value, np.float32) for name, value in params.items()}
    for layer in range(config.n_layer):
        _even(new, f"h.{layer}.ln_1", f"h.{layer}.attn.c_attn.weight")
        _even(new, f"h.{layer}.ln_2", f"h.{layer}.mlp.c_fc.weight")
    states = [_embedded(new, np.asarray(ids)) for ids in sequences]  # [1, T, E] each
    for layer in range(config.n_layer):
        for matrix, value in MET_BY.items():
            name = f"h.{layer}.{matrix}.weight"
            hessian = np.zeros((len(new[name]), len(new[name])))  # [K, K]
            for x in states:
                hessian += _hessian(config, new, layer, value, x)
            new[name] = np.ascontiguousarray(compensated(new[name].T, hessian).T)  # [K, N]
        states = [reference.block(x, new, layer, past=None, config=config)[0] for x in states]
        log.info(f"calibrated layer {layer + 1} of {config.n_layer}")
    return new


def _even(params: dict[str, Array], norm: str, matrix: str) -> None:
    """Share large columns between a norm and its matrix, as packing would (`packing.evened`)."""
    gain, bias = f"{norm}.weight", f"{norm}.bias"
    factor = evened(params[gain], params[bias], params[matrix].T, "float32")  # [K]
    params[gain], params[bias] = params[gain] / factor, params[bias] / factor
    params[matrix] = params[matrix] * factor[:, None]


def _embedded(params: dict[str, Array], ids: Array) -> Array:
    """The residual stream before the first layer, [1, T, E]."""
    embedded: Array = params["wte.weight"][ids] + params["wpe.weight"][: len(ids)]
    return embedded[None]


def _hessian(config: Config, params: dict[str, Array], layer: int, value: str, x: Array) -> Array:
    """X^T X [K, K] in float64, for the activations X [T, K] of that name in a layer."""
    seen: dict[str, Array] = {}

    def at(name: str, found: Array) -> Array:
        seen[name] = found
        return found

    reference.block(x, params, layer, past=None, config=config, at=at)
    found = seen[f"h.{layer}.{value}"][0]  # [T, K], or [H, T, D]
    if found.ndim == 3:
        found = found.swapaxes(0, 1).reshape(found.shape[1], -1)  # [T, E]
    product: Array = (found.T @ found).astype(np.float64)
    return product


def compensated(columns: Array, hessian: Array) -> Array:
    """columns [N, K] rounded to int4, each group of K with its scale: float32 [N, K].

    hessian: [K, K] of the activations. With U upper triangular and inv(H) = U^T U, an error e of
    number k moves the numbers after it by -e * U[k, later] / U[k, k].
    """
    left, count = columns.astype(np.float64), columns.shape[1]
    damped = hessian + DAMPING * np.diag(hessian).mean() * np.eye(count)
    damped[np.diag_indices(count)] += np.diag(damped) == 0
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T  # [K, K]
    rounded = np.empty_like(left)
    for start in range(0, count, GROUP):
        end = min(start + GROUP, count)
        scale, errors = _scales(left[:, start:end]), np.empty((len(left), end - start))
        for k in range(start, end):
            rounded[:, k] = nearest(left[:, k], scale) * scale
            errors[:, k - start] = (left[:, k] - rounded[:, k]) / upper[k, k]
            left[:, k + 1 : end] -= np.outer(errors[:, k - start], upper[k, k + 1 : end])
        left[:, end:] -= errors @ upper[start:end, end:]
    return rounded.astype(np.float32)


def _scales(group: Array) -> Array:
    """The scale of each column's group [N, up to GROUP], as packing will find it: [N]."""
    whole = np.zeros((len(group), GROUP), np.float32)
    whole[:, : group.shape[1]] = group
    return quantised_in_groups(whole)[1][:, 0].astype(np.float64)
