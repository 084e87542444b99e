"""Acts in the compiled step: factors of heads and neurons, and directions in the biases.

An engine with acts shares the packed weights. It has words of layers of its own, which differ in
the addresses of a few vectors: factors that the phases HEADS and FC multiply by, and biases of
PROJECT and OUT with what is added to the residual stream.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpt2lab.engines.cpu.layout import Layer, ceil_to

Array = np.ndarray[Any, np.dtype[Any]]


class LinearActs(NamedTuple):
    """Acts that multiply or add the same at every position, summed up.

    about: each in words, for a record. heads: by layer, factors of what its heads give, for each
    entry [E]. neurons: by layer, factors of its MLP's inner values [F]. stream: what is added to
    the residual stream [E], by place: 0 before the first layer, 2 i + 1 after the attention of
    layer i, 2 i + 2 after its MLP. All are float32.
    """

    about: list[str]
    heads: dict[int, Array]
    neurons: dict[int, Array]
    stream: dict[int, Array]


class ActedLayers(NamedTuple):
    """words: [L, len(Layer)]. vectors: the arrays that these hold addresses of."""

    words: Array
    vectors: list[Array]


def layer_words(
    acts: LinearActs, layers: Array, params: dict[str, Array], width: int
) -> ActedLayers:
    """The words of layers for acts. layers: without acts. width: columns of a panel."""
    words, vectors = layers.copy(), list[Array]()

    def put(layer: int, word: Layer, vector: Array) -> None:
        """Let a word have the address of a vector, up to whole panels."""
        padded = np.zeros(ceil_to(len(vector), width), np.float32)
        padded[: len(vector)] = vector
        vectors.append(padded)
        words[layer, word] = padded.ctypes.data

    for layer, factors in acts.heads.items():
        put(layer, Layer.HEADS_FACTORS, factors)
    for layer, factors in acts.neurons.items():
        put(layer, Layer.INNER_FACTORS, factors)
    for place, added in acts.stream.items():
        if place:
            layer, part = divmod(place - 1, 2)
            name = ("attn.c_proj", "mlp.c_proj")[part]
            word = (Layer.PROJECT_BIAS, Layer.OUT_BIAS)[part]
            put(layer, word, params[f"h.{layer}.{name}.bias"] + added)
    return ActedLayers(words, vectors)
