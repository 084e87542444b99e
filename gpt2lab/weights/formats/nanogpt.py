"""nanoGPT's ckpt.pt: exact GELU, matrices [out, in], biases that may be absent, no vocabulary.

The vocabulary of a character model lies in its data set, as meta.pkl; it is read as plain values
and put beside the weights when one is written. The file itself is read by `torchfile`.

Source: karpathy/nanoGPT `model.py`, `train.py`, `sample.py`, `data/shakespeare_char/prepare.py`.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.config import Config, parameter_shapes
from gpt2lab.errors import InputError, MissingExtraError, few, quoted
from gpt2lab.files import torchfile
from gpt2lab.files.io import is_file_name, read_head
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.weights import tensors, tokenizer_files
from gpt2lab.weights.checkpoint import Checkpoint, Params
from gpt2lab.weights.formats import plain, state_dict

FORMAT = "nanogpt"
NAMES = {  # GPTConfig's, and ours
    "block_size": "n_ctx",
    "vocab_size": "n_vocab",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
}
DEFAULTS = {"vocab_size": 50304, "bias": True}  # where GPTConfig has others than `Config`
OLD_GELU = (
    "nanoGPT before 17 May 2023 computed the tanh GELU and its files do not say so; for a model of "
    "that time convert to huggingface and set activation_function to gelu_new"
)


def _is_checkpoint(path: Path) -> bool:
    # The pickle comes first in the file; that of the largest GPT-2 has half a megabyte.
    return torchfile.is_torch_file(path) and b"model_args" in read_head(path, 1 << 22)


def _found(path: Path) -> list[Path]:
    """The checkpoint files that a path means."""
    if path.is_dir() and _is_checkpoint(path / "ckpt.pt"):
        return [path / "ckpt.pt"]
    files = sorted(path.glob("*.pt")) if path.is_dir() else [path]
    return [file for file in files if _is_checkpoint(file)]


def recognise(path: Path) -> bool:
    """A torch file that holds `model_args`, or a folder with one."""
    return bool(_found(path))


# --- reading ---


def _config(arguments: Any, where: str) -> tuple[Config, bool]:
    """The configuration, and whether the model has biases."""
    if not isinstance(arguments, dict):
        raise InputError(f"{where}: model_args is no dict; it is not from nanoGPT's train.py")
    unknown = [key for key in arguments if key not in {*NAMES, "bias", "dropout"}]
    if unknown:
        raise InputError(
            f"{where}: model_args has unknown keys {few(map(quoted, unknown))}; "
            "the model is from a changed nanoGPT"
        )
    values = {**DEFAULTS, **arguments}
    if type(values["bias"]) is not bool:
        raise InputError(f"{where}: model_args' bias is {quoted(values['bias'])}, expected a bool")
    numbers = {ours: values[name] for name, ours in NAMES.items() if name in values}
    config = tensors.configured(f"{where}: model_args", **numbers, activation_function="gelu")
    return config, values["bias"]


def _params(
    state: Any, config: Config, bias: bool, file: Path, headers: bool
) -> tuple[Params, tuple[str, ...]]:
    """The model's tensors, and a note on the heads left out beside it."""
    found = state_dict.tensors_of(state, str(file), headers)
    params, notes = state_dict.joined([(file, found)], file)
    if tensors.HEAD in params and (headers or "wte.weight" not in params):  # always tied
        params["wte.weight"] = params.pop(tensors.HEAD)
    if not bias and config.n_layer <= len(params):
        for name, shape in parameter_shapes(config).items():
            if name.endswith(".bias"):
                params.setdefault(name, np.zeros(shape, np.float32))
    flat = {name: array for name, array in params.items() if array.ndim == 2}
    params = {**params, **tensors.transposed(flat)}
    return tensors.check(params, config, str(file), finite=headers), notes


def _characters(path: Path) -> Tokenizer:
    """The tokenizer of a meta.pkl, whose `itos` maps 0 ... n-1 to characters."""
    meta = torchfile.read_plain(path)
    itos = meta.get("itos") if isinstance(meta, dict) else None
    if not isinstance(itos, dict) or not itos:
        raise InputError(f"{path}: holds no itos; it is not from nanoGPT's prepare.py")
    alphabet = [itos.get(token) for token in range(len(itos))]
    wrong = [text for text in alphabet if not isinstance(text, str) or len(text) != 1]
    if wrong:
        raise InputError(
            f"{path}: itos does not map 0 to {len(itos) - 1} to characters, but to words or pieces "
            f"({few(map(quoted, wrong))}); only a vocabulary of characters is read"
        )
    return Tokenizer.characters([str(character) for character in alphabet])


def _meta(file: Path, settings: Any) -> Path | None:
    """The meta.pkl beside the checkpoint, or in the data set that its settings name."""
    beside = file.with_name("meta.pkl")
    if beside.is_file():
        return beside
    dataset = settings.get("dataset") if isinstance(settings, dict) else None
    if not isinstance(dataset, str) or not is_file_name(dataset):
        return None
    place = file.absolute().parent.parent / "data" / dataset / "meta.pkl"
    return place if place.is_file() and not tokenizer_files.has_files(file.parent) else None


def _tokenizer(
    file: Path, settings: Any, config: Config
) -> tuple[Tokenizer | None, tuple[str, ...]]:
    meta = _meta(file, settings)
    if meta is None:
        return tokenizer_files.beside(file.parent, config)
    return tokenizer_files.noted(_characters, meta, config)


def load(path: Path, headers: bool = False) -> Checkpoint:
    """A ckpt.pt, or the folder that it lies in."""
    file = plain.only(_found(path), path, "checkpoints")
    value = torchfile.read(file)
    state = state_dict.state_of(value, str(file))
    if not isinstance(value, dict) or state is value:
        raise InputError(f"{file}: holds no 'model'; it is not from nanoGPT's train.py")
    config, bias = _config(value.get("model_args"), str(file))
    params, notes = _params(state, config, bias, file, headers)
    made = Checkpoint(config, params, None, FORMAT, file, notes=notes)
    if headers:
        return made
    tokenizer, notes = _tokenizer(file, value.get("config"), config)
    return plain.completed(made, tokenizer, (*notes, OLD_GELU))


# --- writing ---


def _fresh_optimizer(params: dict[str, Any]) -> dict[str, Any]:
    """The state of an AdamW before its first step, in nanoGPT's two groups, so that train.py can
    resume from the file: matrices decay, vectors do not. Its settings are train.py's defaults."""
    count = sum(array.ndim >= 2 for array in params.values())
    common = {"lr": 6e-4, "betas": (0.9, 0.95), "eps": 1e-8}
    groups = [
        {"params": list(range(count)), "weight_decay": 0.1, **common},
        {"params": list(range(count, len(params))), "weight_decay": 0.0, **common},
    ]
    return {"state": {}, "param_groups": groups}


def _value(checkpoint: Checkpoint) -> dict[str, Any]:
    """What nanoGPT's train.py saves; the tensors are of the arrays' memory where possible."""
    from torch import from_numpy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mapped files cannot be written to, and are not
        params = {
            name: from_numpy(np.ascontiguousarray(array, np.float32))
            for name, array in tensors.transposed(checkpoint.params).items()
        }
    state = {f"transformer.{name}": array for name, array in params.items()}
    state[tensors.HEAD] = params["wte.weight"]  # one storage, as torch saves tied weights
    config = checkpoint.config
    arguments = {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "block_size": config.n_ctx,
        "bias": True,
        "vocab_size": config.n_vocab,
        "dropout": 0.0,
    }
    return {
        "model": state,
        "optimizer": _fresh_optimizer(params),
        "model_args": arguments,
        "iter_num": 0,
        "best_val_loss": 1e9,
        "config": {},
    }


def _save_meta(tokenizer: Tokenizer, path: Path) -> None:
    alphabet = [tokenizer.decode([token]) for token in range(tokenizer.n_vocab)]
    stoi = {character: token for token, character in enumerate(alphabet)}
    meta = {"vocab_size": len(alphabet), "itos": dict(enumerate(alphabet)), "stoi": stoi}
    path.write_bytes(pickle.dumps(meta, protocol=2))


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write ckpt.pt as nanoGPT's sample.py and train.py --init_from=resume open it.

    nanoGPT looks for a character vocabulary in data/<dataset>/meta.pkl and otherwise takes
    GPT-2's; what the model really has is put beside the checkpoint.
    """
    plain.must_be_plain(checkpoint, FORMAT)
    try:
        import torch
    except ImportError:
        raise MissingExtraError("writing nanoGPT's ckpt.pt", "torch", "train") from None
    torch.save(_value(checkpoint), folder / "ckpt.pt")
    tokenizer = checkpoint.tokenizer
    if tokenizer is not None and tokenizer.kind == "characters":
        _save_meta(tokenizer, folder / "meta.pkl")
    elif tokenizer is not None:
        tokenizer.save(folder)
    plain.save_settings(checkpoint, folder)
