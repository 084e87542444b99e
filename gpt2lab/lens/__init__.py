"""Look inside: the inner values of GPT-2, what they mean for the next token, and acting on them.

    from gpt2lab import lens
    trace = lm.trace("The cat sat")
    trace["h.3.attn.pattern"]

Everything works on the reference in NumPy and on any checkpoint; no weight is folded or centred.
"""

from gpt2lab.lens.acts import (
    Act,
    checked,
    custom,
    patch,
    scale_heads,
    scale_neurons,
    silence_heads,
    silence_neurons,
    steer,
    tap,
)
from gpt2lab.lens.names import NAMES, hook_of, keys, select
from gpt2lab.lens.traces import Trace, trace, watch

__all__ = [
    "NAMES",
    "Act",
    "Trace",
    "checked",
    "custom",
    "hook_of",
    "keys",
    "patch",
    "scale_heads",
    "scale_neurons",
    "select",
    "silence_heads",
    "silence_neurons",
    "steer",
    "tap",
    "trace",
    "watch",
]
