"""The names of GPT-2's tensors, and the check that a set of them is one whole model.

Every format module brings its tensors under the names of `config.parameter_shapes` and ends with
`check`. Other names, of a format, are explained in its own module.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np

from gpt2lab.config import Config, parameter_shapes
from gpt2lab.errors import InputError, few
from gpt2lab.files.io import in_parts
from gpt2lab.files.tensor_bytes import is_hollow
from gpt2lab.files.visible import shown
from gpt2lab.weights.checkpoint import Params

HEAD = "lm_head.weight"
LINEARS = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")

LONGEST = 512  # characters of a name; a longer one belongs to no GPT-2

_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)$")
#: What torch.compile, DataParallel, FSDP and checkpointing of activations put into names, anywhere.
_WRAPPERS = re.compile(
    r"(?<![^.])(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
#: The names of the language model itself, after those of the objects that hold it.
_BODY = re.compile(r"(?:.+?\.)?((?:wte|wpe|ln_f|lm_head)\.\w+|h\.\d+\..+)")


def _body(name: str) -> re.Match[str] | None:
    return _BODY.fullmatch(name) if len(name) <= LONGEST else None


def bare(name: str) -> str:
    """A tensor's name without what the objects around the model add to it.

    `module.transformer.h.0.ln_1.bias` of DataParallel, `model.transformer. ...` of Lightning,
    `pretrained_model. ...` of trl: whatever the holder is called, in any order and number.
    """
    name = _WRAPPERS.sub("", name)
    match = _body(name)
    return match[1] if match else name


def is_body(name: str) -> bool:
    """Whether a bare name is one of the language model's, or would be in a larger one."""
    return _body(name) is not None


def is_buffer(name: str) -> bool:
    """Whether a bare name is a stored causal mask; the model makes its own."""
    return _BUFFER.match(name) is not None


def _turned(array: np.ndarray) -> np.ndarray:
    return array.T if is_hollow(array) else np.ascontiguousarray(array.T)


def transposed(params: Params) -> Params:
    """Matrices turned between [in, out] (OpenAI's Conv1D) and [out, in] (torch's Linear)."""
    return {
        name: _turned(array) if name.endswith(LINEARS) else array for name, array in params.items()
    }


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two tables hold the same numbers; by headers alone, none are compared."""
    return not is_hollow(one) and np.array_equal(one, other)


def _is_finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or infinite: both survive min and max."""
    return all(np.isfinite(part.min()) and np.isfinite(part.max()) for part in in_parts(array))


def configured(where: str, **fields: Any) -> Config:
    """Return the Config of numbers from a file; InputError names the file and what is wrong."""
    try:
        return Config(**fields)
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix('config: ')}") from error


def _complaints(params: Params, shapes: dict[str, tuple[int, ...]], finite: bool) -> list[str]:
    known = {**shapes, HEAD: shapes["wte.weight"]}
    both = {name: params[name] for name in known if name in params}
    fits = {name: array.shape == known[name] for name, array in both.items()}
    broken = (n for n, array in both.items() if fits[n] and not finite and not _is_finite(array))
    faults = {
        "missing": [name for name in shapes if name not in params],
        "unexpected": [name for name in params if name not in known],
        "wrong shape": [
            f"{name} is {list(array.shape[:8])}, expected {list(known[name])}"
            for name, array in both.items()
            if not fits[name]
        ],
        "holding NaN or infinity": list(broken),
    }
    return [f"{len(said)} {what}: {few(map(shown, said))}" for what, said in faults.items() if said]


def check(params: Params, config: Config, where: str, *, finite: bool = False) -> Params:
    """The parameters in the order of the forward pass, or one InputError that lists all faults.

    A head equal to `wte` is dropped: it is tied. The dtype becomes float32, unless every tensor is
    float64. finite: it is known already that no number is NaN or infinite, so none is read.
    """
    if not any(map(is_body, params)):
        raise InputError(
            f"{where}: holds no tensor of a GPT-2; its {len(params)} tensors are "
            f"{few(map(shown, params)) or 'none'}"
        )
    if config.n_layer > len(params):  # before a list of a million expected names is made
        raise InputError(
            f"{where}: the configuration says n_layer {config.n_layer}, but there are only "
            f"{len(params)} tensors; the two do not belong together"
        )
    dtype = np.float64 if all(a.dtype == np.float64 for a in params.values()) else np.float32
    with np.errstate(over="ignore"):  # what overflows is found below, with its name
        params = {name: array.astype(dtype, copy=False) for name, array in params.items()}
    shapes = parameter_shapes(config)
    if complaints := _complaints(params, shapes, finite):
        adapted = any(".lora_" in name for name in params)
        raise InputError(
            f"{where}: the tensors are not the GPT-2 of the configuration; {'; '.join(complaints)}"
            + "; a LoRA adapter is not merged: merge_and_unload() in peft, then save" * adapted
        )
    own_head = HEAD in params and not same(params[HEAD], params["wte.weight"])
    return {name: params[name] for name in (*shapes, *([HEAD] if own_head else []))}


def count(config: Config) -> int:
    """How many numbers a model with a tied head has.

    Without a list of every name, as n_layer is anyone's word.
    """
    one, two = (
        sum(math.prod(shape) for shape in parameter_shapes(replace(config, n_layer=n)).values())
        for n in (1, 2)
    )
    return one + (config.n_layer - 1) * (two - one)
