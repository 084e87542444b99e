"""Look inside: the inner values of GPT-2, what they mean for the next token, and acting on them.

    from gpt2lab import lens
    trace = lm.trace("The cat sat")
    lens.logit_lens(trace)

Everything works on the reference in NumPy and on any checkpoint; no weight is folded or centred.
Only the text of a model with acts may come from the cpu engine (`lm.LM.acting`).
"""

from gpt2lab.lens.direct_effects import attribution
from gpt2lab.lens.heads import (
    attention,
    copying_scores,
    head_scores,
    ov_circuit,
    ov_tokens,
    qk_circuit,
)
from gpt2lab.lens.hook_names import NAMES, hook_of, keys, select
from gpt2lab.lens.interventions import (
    Act,
    checked,
    custom,
    lasting,
    linear,
    patch,
    scale_heads,
    scale_neurons,
    silence_heads,
    silence_neurons,
    steer,
    tap,
)
from gpt2lab.lens.patching import direction, sweep
from gpt2lab.lens.prediction import next_tokens
from gpt2lab.lens.traces import Trace, probabilities, trace, watch, without_acts
from gpt2lab.lens.unembedding import logit_lens, unembed

__all__ = [
    "NAMES",
    "Act",
    "Trace",
    "attention",
    "attribution",
    "checked",
    "copying_scores",
    "custom",
    "direction",
    "head_scores",
    "hook_of",
    "keys",
    "lasting",
    "linear",
    "logit_lens",
    "next_tokens",
    "ov_circuit",
    "ov_tokens",
    "patch",
    "probabilities",
    "qk_circuit",
    "scale_heads",
    "scale_neurons",
    "select",
    "silence_heads",
    "silence_neurons",
    "steer",
    "sweep",
    "tap",
    "trace",
    "unembed",
    "watch",
    "without_acts",
]
