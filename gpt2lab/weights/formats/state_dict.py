"""The tensors of a state dict, out of what programs put around a GPT-2.

That is a training state that holds the model, and heads beside the body. The prefixes that wrappers
put before the names are removed by `tensors`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt2lab.errors import InputError, few
from gpt2lab.files import torchfile
from gpt2lab.files.tensor_bytes import WIDTHS, hollow
from gpt2lab.files.visible import shown
from gpt2lab.weights import tensors
from gpt2lab.weights.checkpoint import Params

#: Keys under which trainers keep the model in what they save, in the order in which they are tried.
HOLDERS = ("model_state_dict", "state_dict", "model", "module", "net", "model_state", "weights")
BIAS = "lm_head.bias"


def state_of(value: Any, where: str) -> Any:
    """The tensors by name in what a trainer saved; any other value as it is.

    `{"model_state_dict": {...}, "epoch": 3}`, Lightning's `state_dict`, DeepSpeed's `module`.
    """
    for _ in range(3):
        if not isinstance(value, dict):
            return value
        if any(isinstance(name, str) and tensors.is_body(name) for name in value):
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


def _is_wanted(name: str, tensor: Any, where: str) -> bool:
    """Whether an entry is a tensor to read: no stored mask, nor a number beside the model."""
    if tensors.is_buffer(tensors.bare(name)):
        return False
    if isinstance(tensor, torchfile.Tensor) and tensor.dtype in WIDTHS:
        return True
    if tensors.is_body(tensors.bare(name)):
        kind = getattr(tensor, "dtype", type(tensor).__name__)
        raise InputError(f"{where}: {shown(name)} is {kind}, expected a floating-point tensor")
    return False


def tensors_of(state: Any, where: str, headers: bool = False) -> Params:
    """The floating-point arrays of a torch state dict, or of a training state that holds one."""
    state = state_of(state, where)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise InputError(f"{where}: holds no state dict (tensors by name)")
    wanted = {name: tensor for name, tensor in state.items() if _is_wanted(name, tensor, where)}
    storages = {id(tensor.storage): tensor.storage.count for tensor in wanted.values()}
    if sum(tensor.size for tensor in wanted.values()) > 2 * sum(storages.values()):
        raise InputError(f"{where}: its tensors share their numbers far too often; it is damaged")
    return {
        name: hollow(tensor.shape) if headers else tensor.array() for name, tensor in wanted.items()
    }


def joined(parts: Iterable[tuple[Path, Params]], where: Path) -> tuple[Params, tuple[str, ...]]:
    """The language model's tensors in several files under their bare names, and a note on others.

    A value head, a classifier and so on do not change the logits of the body. A bias of the head
    that is all zeros says nothing; any other stays, to be refused.
    """
    whole: Params = {}
    for path, params in parts:
        for name, array in params.items():
            if tensors.bare(name) in whole:
                raise InputError(f"{where}: the tensor {shown(name)} comes twice, also in {path}")
            whole[tensors.bare(name)] = array
    body = {name: array for name, array in whole.items() if tensors.is_body(name)}
    if BIAS in body and not body[BIAS].any():
        del body[BIAS]
    heads = dict.fromkeys(name.partition(".")[0] for name in whole if not tensors.is_body(name))
    if not body or not heads:
        return body or whole, ()
    listed = few(map(shown, heads))
    return body, (f"left out beside the language model: {listed}; only its text is generated",)
