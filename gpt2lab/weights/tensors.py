"""The names of GPT-2's tensors, and the check that a set of them is one whole model.

Every format module brings its tensors under the names of `config.parameter_shapes` and ends with
`check`. Other names, of a format, are explained in its own module.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from gpt2lab.config import Config, parameter_shapes
from gpt2lab.errors import InputError, few
from gpt2lab.files.io import let_go
from gpt2lab.files.tensor_bytes import is_hollow
from gpt2lab.files.visible import shown
from gpt2lab.weights.checkpoint import Checkpoint, Params

HEAD = "lm_head.weight"
LINEARS = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")

PART = 1 << 18  # numbers; one MiB of float32

LONGEST = 512  # characters of a name; a longer one belongs to no GPT-2

_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)$")
#: What torch.compile, DataParallel, FSDP and checkpointing of activations put into names, anywhere.
_WRAPPERS = re.compile(
    r"(?<![^.])(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
#: The names of the language model itself, after those of the objects that hold it.
_BODY = re.compile(r"(?:.+?\.)?((?:wte|wpe|ln_f|lm_head)\.\w+|h\.\d+\..+)")


def bare(name: str) -> str:
    """A tensor's name without what the objects around the model add to it.

    `module.transformer.h.0.ln_1.bias` of DataParallel, `model.transformer. ...` of Lightning,
    `pretrained_model. ...` of trl: whatever the holder is called, in any order and number.
    """
    if len(name) > LONGEST:
        return name
    name = _WRAPPERS.sub("", name)
    match = _BODY.fullmatch(name)
    return match[1] if match else name


def is_body(name: str) -> bool:
    """Whether a bare name is one of the language model's, or would be in a larger one."""
    return len(name) <= LONGEST and _BODY.fullmatch(name) is not None


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
    """Whether two tables hold the same numbers; by headers alone it is taken for granted."""
    return is_hollow(one) or np.array_equal(one, other)


def _tie(params: Params) -> Params:
    """Without a head that only repeats `wte`."""
    head, wte = params.get(HEAD), params.get("wte.weight")
    if head is None or wte is None or not same(head, wte):
        return params
    return {name: array for name, array in params.items() if name != HEAD}


def _is_finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or infinite: both survive min and max.

    In parts, so that the second pass finds its numbers in the processor's cache, and that a mapped
    file does not stay in memory.
    """
    flat = array.reshape(-1)
    for start in range(0, flat.size, PART):
        part = flat[start : start + PART]
        if not (np.isfinite(part.min()) and np.isfinite(part.max())):
            return False
        let_go(part)
    return True


def configured(where: str, **fields: Any) -> Config:
    """Return the Config of numbers from a file; InputError names the file and what is wrong."""
    try:
        return Config(**fields)
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix('config: ')}") from error


def _complaints(
    params: Params, shapes: dict[str, tuple[int, ...]], finite: bool = False
) -> list[str]:
    known = {**shapes, HEAD: shapes["wte.weight"]}
    missing = [name for name in shapes if name not in params]
    extra = [name for name in params if name not in known]
    both = [name for name in known if name in params]
    wrong = [
        f"{name} is {list(params[name].shape[:8])}, expected {list(known[name])}"
        for name in both
        if params[name].shape != known[name]
    ]
    fitting = [name for name in both if params[name].shape == known[name]]
    broken = [name for name in fitting if not finite and not _is_finite(params[name])]
    parts = (
        ("missing", missing),
        ("unexpected", extra),
        ("wrong shape", wrong),
        ("holding NaN or infinity", broken),
    )
    return [f"{len(items)} {what}: {few(map(shown, items))}" for what, items in parts if items]


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
    complaints = _complaints(params, parameter_shapes(config), finite)
    if complaints:
        adapted = any(".lora_" in name for name in params)
        raise InputError(
            f"{where}: the tensors are not the GPT-2 of the configuration; {'; '.join(complaints)}"
            + "; a LoRA adapter is not merged: merge_and_unload() in peft, then save" * adapted
        )
    order = [name for name in (*parameter_shapes(config), HEAD) if name in params]
    return _tie({name: params[name] for name in order})


def must_be_plain(checkpoint: Checkpoint, format: str) -> None:
    """Refuse to write what `format` has no place for: the reader of the file would compute else.

    The two forms of GELU are let through, whichever the format computes: they are so near that
    everybody carries GPT-2's weights between them, and `convert` says what it costs.
    """
    config = checkpoint.config
    faults = [
        said
        for said, is_fault in (
            ("a head of its own (lm_head.weight)", HEAD in checkpoint.params),
            (
                f"activation_function {config.activation_function} (only GELU)",
                config.activation_function not in ("gelu", "gelu_new"),
            ),
            (
                f"layer_norm_epsilon {config.layer_norm_epsilon} (only 1e-05)",
                config.layer_norm_epsilon != 1e-5,
            ),
            (
                f"n_inner {config.n_inner} (only 4 * n_embd)",
                config.mlp_width != 4 * config.n_embd,
            ),
            ("scale_attn_weights false", not config.scale_attn_weights),
            ("scale_attn_by_inverse_layer_idx true", config.scale_attn_by_inverse_layer_idx),
        )
        if is_fault
    ]
    if faults:
        raise InputError(
            f"the format {format} cannot hold {', '.join(faults)}; "
            "convert to huggingface, which holds every variant"
        )
