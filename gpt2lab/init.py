"""Initial parameters of a new model: the three schemes in use."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpt2lab.checks import one_of
from gpt2lab.config import Config, parameter_shapes

Array = np.ndarray[Any, np.dtype[Any]]


def initialise(config: Config, seed: int, scheme: str = "paper") -> dict[str, Array]:
    """Fresh float32 parameters: normal matrices, zero biases, unit gains; the same for a seed.

    "openai": the published code: 0.02, positions 0.01. "paper": the same, with the projections
    back into the residual stream scaled by 1/sqrt(N), N = 2 L the number of residual layers
    (Radford et al. 2019, section 2.3; the published code leaves it out). "hf": 0.02 everywhere,
    positions too, with the scaling (transformers, `_init_weights` of GPT-2).
    """
    one_of("scheme", scheme, ("paper", "openai", "hf"))
    random = np.random.Generator(np.random.Philox(seed))
    scaled = 1.0 if scheme == "openai" else 1 / math.sqrt(2 * config.n_layer)
    params: dict[str, Array] = {}
    for name, shape in parameter_shapes(config).items():
        if name.endswith(".bias"):
            params[name] = np.zeros(shape, np.float32)
        elif len(shape) == 1:
            params[name] = np.ones(shape, np.float32)
        else:
            stdev = 0.01 if name == "wpe.weight" and scheme != "hf" else 0.02
            stdev *= scaled if name.endswith("c_proj.weight") else 1.0
            params[name] = random.standard_normal(shape, np.float32) * np.float32(stdev)
    return params
