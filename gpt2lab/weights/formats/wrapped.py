"""What programs put around a GPT-2: a dict of a training state, heads beside the body.

The prefixes that wrappers put before the names are `tensors`'s.
"""

from __future__ import annotations

from typing import Any

from gpt2lab.errors import InputError, few
from gpt2lab.files.visible import shown
from gpt2lab.weights import tensors
from gpt2lab.weights.checkpoint import Params

#: Keys under which trainers keep the model in what they save, in the order in which they are tried.
HOLDERS = ("model_state_dict", "state_dict", "model", "module", "net", "model_state", "weights")
BIAS = "lm_head.bias"


def _is_body(name: Any) -> bool:
    return isinstance(name, str) and tensors.is_body(name)


def state_of(value: Any, where: str) -> Any:
    """The tensors by name in what a trainer saved; any other value as it is.

    `{"model_state_dict": {...}, "epoch": 3}`, Lightning's `state_dict`, DeepSpeed's `module`.
    """
    for _ in range(3):
        if not isinstance(value, dict) or any(map(_is_body, value)):
            return value
        inner = next((value[key] for key in HOLDERS if isinstance(value.get(key), dict)), None)
        if inner is None and {"state", "param_groups"} <= value.keys():
            raise InputError(
                f"{where}: is the state of an optimizer, not a model; give the file of the weights"
            )
        if inner is None:
            return value
        value = inner
    return value


def without_heads(params: Params) -> tuple[Params, tuple[str, ...]]:
    """The tensors of the language model under their bare names, and a note on those left out.

    A value head, a classifier and so on stand beside the body and change no logits of it. A bias of
    the head that is all zeros says nothing; any other stays, to be refused.
    """
    body = {name: array for name, array in params.items() if tensors.is_body(name)}
    if BIAS in body and not body[BIAS].any():
        del body[BIAS]
    heads = dict.fromkeys(name.partition(".")[0] for name in params if not tensors.is_body(name))
    if not body:
        return params, ()
    if not heads:
        return body, ()
    listed = few(map(shown, heads))
    return body, (f"left out beside the language model: {listed}; only its text is generated",)
