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
from gpt2lab.files.io import accessing, is_file_name, read_head
from gpt2lab.files.visible import shown
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.weights import recommended, tensors, tokenizer_files
from gpt2lab.weights.checkpoint import Checkpoint, Params
from gpt2lab.weights.formats import state_dict

FORMAT = "nanogpt"
DEFAULTS = {  # GPTConfig
    "block_size": 1024,
    "vocab_size": 50304,
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "bias": True,
}
OLD_GELU = (
    "nanoGPT before 17 May 2023 computed the tanh GELU and its files do not say so; for a model of "
    "that time convert to huggingface and set activation_function to gelu_new"
)


def _is_checkpoint(path: Path) -> bool:
    # The pickle comes first in the file; that of the largest GPT-2 has half a megabyte.
    return torchfile.is_torch_file(path) and b"model_args" in read_head(path, 1 << 22)


def _found(path: Path) -> list[Path]:
    """The checkpoint files that a path means."""
    if not path.is_dir():
        return [path] if _is_checkpoint(path) else []
    if _is_checkpoint(path / "ckpt.pt"):
        return [path / "ckpt.pt"]
    return [file for file in sorted(path.glob("*.pt")) if _is_checkpoint(file)]


def recognise(path: Path) -> bool:
    """A torch file that holds `model_args`, or a folder with one."""
    return bool(_found(path))


def _config(arguments: Any, where: str) -> tuple[Config, bool]:
    """The configuration, and whether the model has biases."""
    if not isinstance(arguments, dict):
        raise InputError(f"{where}: model_args is no dict; it is not from nanoGPT's train.py")
    unknown = [key for key in arguments if key not in {*DEFAULTS, "dropout"}]
    if unknown:
        named = few([shown(key) if isinstance(key, str) else quoted(key) for key in unknown])
        raise InputError(
            f"{where}: model_args has unknown keys {named}; the model is from a changed nanoGPT"
        )
    values = {**DEFAULTS, **arguments}
    if type(values["bias"]) is not bool:
        raise InputError(f"{where}: model_args' bias is {quoted(values['bias'])}, expected a bool")
    config = tensors.configured(
        f"{where}: model_args",
        n_vocab=values["vocab_size"],
        n_ctx=values["block_size"],
        n_embd=values["n_embd"],
        n_head=values["n_head"],
        n_layer=values["n_layer"],
        activation_function="gelu",
    )
    return config, values["bias"]


def _params(
    state: Any, config: Config, bias: bool, where: str, headers: bool = False
) -> tuple[Params, tuple[str, ...]]:
    """The model's tensors, and a note on the heads left out beside it."""
    found = state_dict.tensors_of(state, where, headers)
    params, notes = state_dict.without_heads(state_dict.joined([(Path(where), found)], Path(where)))
    if "wte.weight" not in params and tensors.HEAD in params:  # always tied
        params["wte.weight"] = params[tensors.HEAD]
    if not bias and config.n_layer <= len(params):
        for name, shape in parameter_shapes(config).items():
            if name.endswith(".bias"):
                params.setdefault(name, np.zeros(shape, np.float32))
    flat = {name: array for name, array in params.items() if array.ndim == 2}
    return tensors.check(
        {**params, **tensors.transposed(flat)}, config, where, finite=headers
    ), notes


def _alphabet(path: Path) -> list[str]:
    """The texts of a meta.pkl, whose `itos` maps 0 ... n-1 to characters, or to words."""
    meta = torchfile.read_plain(path)
    itos = meta.get("itos") if isinstance(meta, dict) else None
    if not isinstance(itos, dict) or not itos:
        raise InputError(f"{path}: holds no itos; it is not from nanoGPT's prepare.py")
    alphabet = [itos.get(token) for token in range(len(itos))]
    if not all(isinstance(character, str) for character in alphabet):
        raise InputError(f"{path}: itos does not map 0 to {len(itos) - 1} to characters")
    return [str(character) for character in alphabet]


def _characters(path: Path) -> Tokenizer:
    """The tokenizer of a meta.pkl."""
    alphabet = _alphabet(path)
    words = [text for text in alphabet if len(text) != 1]
    if words:
        raise InputError(
            f"{path}: is a vocabulary of words or pieces ({few(map(quoted, words))}), only one of "
            "characters is read"
        )
    return Tokenizer.characters(alphabet)


def _meta(file: Path, config: Any) -> Path | None:
    """The meta.pkl beside the checkpoint, or in the data set that its settings name."""
    places = [file.parent / "meta.pkl"]
    dataset = config.get("dataset") if isinstance(config, dict) else None
    if isinstance(dataset, str) and is_file_name(dataset):
        places.append(file.absolute().parent.parent / "data" / dataset / "meta.pkl")
    return next((place for place in places if place.is_file()), None)


def _tokenizer(
    file: Path, settings: Any, config: Config
) -> tuple[Tokenizer | None, tuple[str, ...]]:
    meta = _meta(file, settings)
    if meta is None or (meta.parent != file.parent and tokenizer_files.has_files(file.parent)):
        return tokenizer_files.beside(file.parent, config)
    try:
        with accessing(meta):
            tokenizer = _characters(meta)
    except InputError as error:
        return None, (f"{error}; without a tokenizer the model takes token ids, not text",)
    return tokenizer, tokenizer_files.vocabulary_notes(tokenizer, config)


def _opened(path: Path) -> tuple[Path, dict[str, Any], Any, Config, bool]:
    """The file, its values, the model's tensors, the configuration, whether it has biases."""
    files = _found(path)
    if len(files) != 1:
        listed = few([shown(file.name) for file in files])
        raise InputError(f"{path}: holds several checkpoints ({listed}); give one of the files")
    file, where = files[0], str(files[0])
    value = torchfile.read(file)
    state = state_dict.state_of(value, where)
    if not isinstance(value, dict) or state is value:
        raise InputError(f"{where}: holds no 'model'; it is not from nanoGPT's train.py")
    return (file, value, state, *_config(value.get("model_args"), where))


def shape(path: Path) -> tuple[Config, bool]:
    """The configuration and whether the head is tied, by headers alone."""
    file, _, state, config, bias = _opened(path)
    _params(state, config, bias, str(file), headers=True)
    return config, True


def load(path: Path) -> Checkpoint:
    """A ckpt.pt, or the folder that it lies in."""
    file, value, state, config, bias = _opened(path)
    params, left_out = _params(state, config, bias, str(file))
    tokenizer, notes = _tokenizer(file, value.get("config"), config)
    config = tokenizer_files.ended(config, tokenizer)
    notes = (*left_out, *notes, OLD_GELU)
    return recommended.beside(Checkpoint(config, params, tokenizer, FORMAT, file, {}, notes))


# --- writing ---


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("writing nanoGPT's ckpt.pt", "torch", "train") from None
    return torch


def _as_tensor(array: np.ndarray) -> Any:
    """The array as a float32 tensor of torch, of the same memory where that is possible."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mapped files cannot be written to, and are not
        return _torch().from_numpy(np.ascontiguousarray(array, np.float32))


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


def _save_meta(tokenizer: Tokenizer, path: Path) -> None:
    alphabet = [tokenizer.decode([token]) for token in range(tokenizer.n_vocab)]
    meta = {
        "vocab_size": len(alphabet),
        "itos": dict(enumerate(alphabet)),
        "stoi": {character: token for token, character in enumerate(alphabet)},
    }
    path.write_bytes(pickle.dumps(meta, protocol=2))


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write ckpt.pt as nanoGPT's sample.py and train.py --init_from=resume open it.

    nanoGPT looks for a character vocabulary in data/<dataset>/meta.pkl and otherwise takes
    GPT-2's; what the model really has is put beside the checkpoint.
    """
    tensors.must_be_plain(checkpoint, FORMAT)
    config = checkpoint.config
    params = {
        name: _as_tensor(array) for name, array in tensors.transposed(checkpoint.params).items()
    }
    state = {f"transformer.{name}": array for name, array in params.items()}
    state[tensors.HEAD] = params["wte.weight"]  # one storage, as torch saves tied weights
    arguments = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    arguments |= {"block_size": config.n_ctx, "bias": True, "vocab_size": config.n_vocab}
    value = {
        "model": state,
        "optimizer": _fresh_optimizer(params),
        "model_args": {**arguments, "dropout": 0.0},
        "iter_num": 0,
        "best_val_loss": 1e9,
        "config": {},
    }
    with accessing(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        _torch().save(value, folder / "ckpt.pt")
        tokenizer = checkpoint.tokenizer
        if tokenizer is not None and tokenizer.kind == "characters":
            _save_meta(tokenizer, folder / "meta.pkl")
        elif tokenizer is not None:
            tokenizer.save(folder)
        recommended.write_beside(checkpoint, folder)
