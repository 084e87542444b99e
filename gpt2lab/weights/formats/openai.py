"""OpenAI's own layout: hparams.json, encoder.json, vocab.bpe and a TensorFlow checkpoint.

The layout of the checkpoint's files is explained in `tensorbundle`; the runs of gpt-2-simple and
nshepperd's fork, which share the tensors but not the folder, in `gpt2simple`.

Source: openai/gpt-2 `src/model.py` (the names of the variables) and `download_model.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from gpt2lab.config import Config
from gpt2lab.errors import InputError, few
from gpt2lab.files.io import accessing, read_text
from gpt2lab.files.json_files import read_json, write_json
from gpt2lab.files.visible import shown
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.weights import tensors, tokenizer_files
from gpt2lab.weights.checkpoint import Checkpoint, Params
from gpt2lab.weights.formats import plain, tensorbundle

FORMAT = "openai"
HPARAMS = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
IDLE = ("embd_dropout", "embed_dropout", "attn_dropout", "res_dropout", "resid_dropout", "dtype")
FILES = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"}  # other name, same content
#: What the layout has no place for; OpenAI's code does not look at them.
BESIDE = ("tokenizer_config.json", "special_tokens_map.json")

_VARIABLE = re.compile(
    r"model/(?:(wte|wpe)|(ln_f/[gb])|h(\d{1,6})/(ln_[12]/[gb]|attn/c_(?:attn|proj)/[wb]"
    r"|mlp/c_(?:fc|proj)/[wb]))(/.+)?$"
)
_PARTS = {"g": "weight", "b": "bias", "w": "weight"}


def is_model(name: str) -> bool:
    """Whether a variable belongs to the model: an optimizer's slots and counters do not."""
    match = _VARIABLE.match(name)
    if match is not None:
        return match[5] is None
    return name.startswith("model/") and not name.endswith(("_power", "global_step"))


def ours(name: str) -> str:
    """model/h3/attn/c_attn/w -> h.3.attn.c_attn.weight; an unknown name stays as it is."""
    match = _VARIABLE.match(name)
    if match is None:
        return name
    table, last, layer, inner, _ = match.groups()
    if table:
        return f"{table}.weight"
    path, _, part = (last or inner).rpartition("/")
    place = path if last else f"h.{layer}.{path.replace('/', '.')}"
    return f"{place}.{_PARTS[part]}"


def theirs(name: str) -> str:
    """h.3.attn.c_attn.weight -> model/h3/attn/c_attn/w."""
    *path, kind = name.split(".")
    if path in (["wte"], ["wpe"]):
        return f"model/{path[0]}"
    part = "b" if kind == "bias" else "g" if path[-1].startswith("ln_") else "w"
    if path[0] == "h":
        path = [f"h{path[1]}", *path[2:]]
    return "/".join(["model", *path, part])


# --- where the checkpoint lies ---


def prefixes(folder: Path) -> list[Path]:
    """The checkpoints in a folder, each as the common beginning of its files' names."""
    with accessing(folder):
        indexes = sorted(folder.glob("*.index")) if folder.is_dir() else []
    return [path.with_suffix("") for path in indexes if any(folder.glob(f"{path.stem}.data-*"))]


def named(folder: Path) -> Path | None:
    """The checkpoint that the text file `checkpoint` calls the latest, if it lies in this folder.

    Runs are moved between machines, so of a path only the last name counts.
    """
    if not (folder / "checkpoint").is_file():
        return None
    match = re.search(r'^model_checkpoint_path: "(.*)"', read_text(folder / "checkpoint"), re.M)
    if match is None:
        return None
    prefix = folder / re.split(r"[/\\]", match[1])[-1]
    return prefix if prefix in prefixes(folder) else None


def prefix_of(path: Path) -> Path | None:
    """The checkpoint that a path means: a prefix, or one of its files."""
    name = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path.name)
    prefix = path.with_name(name) if name else path
    return prefix if not path.is_dir() and tensorbundle.index_path(prefix).is_file() else None


def recognise(path: Path) -> bool:
    """A folder with one TensorFlow checkpoint, or one of its files; runs are gpt2simple's."""
    return bool(prefixes(path)) if path.is_dir() else prefix_of(path) is not None


def _prefix(path: Path) -> Path:
    prefix = named(path) if path.is_dir() else prefix_of(path)
    return prefix or plain.only(prefixes(path), path, "checkpoints")


# --- reading ---


def _hparams(path: Path) -> Config:
    """The five numbers of an hparams.json."""
    values = read_json(path)
    unknown = sorted(set(values) - {*HPARAMS, *IDLE})
    missing = [key for key in HPARAMS if key not in values]
    if unknown or missing:
        what = "unknown keys" if unknown else "without"
        raise InputError(f"{path}: {what} {few(map(shown, unknown or missing))}")
    return tensors.configured(str(path), **{key: values[key] for key in HPARAMS})


def _config_from_shapes(params: Params, where: str) -> Config:
    """The configuration that the tensors show; heads are taken to be 64 wide, as in every size."""
    sides: list[int] = []
    for name in ("wte", "wpe"):
        shape = params[f"{name}.weight"].shape if f"{name}.weight" in params else ()
        if len(shape) != 2:
            raise InputError(f"{where}: holds no model/{name}; it is no GPT-2")
        sides += shape
    n_vocab, n_embd, n_ctx, _ = sides
    if n_embd % 64:
        raise InputError(
            f"{where}: there is no hparams.json and the width {n_embd} is not made of heads of 64; "
            "put the model's hparams.json into the folder"
        )
    n_layer = len({name.split(".")[1] for name in params if name.startswith("h.")})
    return Config(n_vocab, n_ctx, n_embd, n_embd // 64, max(n_layer, 1))


def read(prefix: Path, format: str, headers: bool = False) -> Checkpoint:
    """The tensors of a checkpoint under our names, and its configuration; no vocabulary."""
    params = {
        ours(name): array[0] if array.ndim == 3 and array.shape[0] == 1 else array  # [in, out]
        for name, array in tensorbundle.read(prefix, is_model, headers).items()
    }
    hparams = prefix.with_name("hparams.json")
    is_said = hparams.is_file()
    config = _hparams(hparams) if is_said else _config_from_shapes(params, str(prefix))
    note = f"no hparams.json; the shapes show n_head {config.n_head}, if heads are 64 wide"
    params = tensors.check(params, config, str(prefix), finite=headers)
    return Checkpoint(config, params, None, format, prefix, notes=() if is_said else (note,))


def load(path: Path, headers: bool = False) -> Checkpoint:
    """The checkpoint in a folder, or the one that a file of it names."""
    prefix = _prefix(path)
    made = read(prefix, FORMAT, headers)
    if headers:
        return made
    return plain.completed(made, *tokenizer_files.beside(prefix.parent, made.config))


# --- writing ---


def _save_vocabulary(tokenizer: Tokenizer, folder: Path) -> None:
    if tokenizer.kind != "bpe":
        what = "of characters" if tokenizer.kind == "characters" else "with another pre-tokenizer"
        raise InputError(
            "the format openai holds byte-level BPE vocabularies as GPT-2's only, this one is "
            f"{what}; convert to huggingface or nanogpt"
        )
    beside = {name: name for name in BESIDE} if tokenizer.settings else {}
    with TemporaryDirectory(dir=folder) as space:
        tokenizer.save(Path(space))
        for name, called in {**FILES, **beside}.items():
            if (Path(space) / name).is_file():
                (Path(space) / name).rename(folder / called)


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a folder that OpenAI's code and gpt-2-simple open as one of their models."""
    plain.must_be_plain(checkpoint, FORMAT)
    params = {
        theirs(name): array[None] if name.endswith(tensors.LINEARS) else array  # [1, in, out]
        for name, array in checkpoint.params.items()
    }
    tensorbundle.write(folder / "model.ckpt", params)
    write_json(folder / "hparams.json", {key: getattr(checkpoint.config, key) for key in HPARAMS})
    text = 'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    (folder / "checkpoint").write_text(text, encoding="utf-8")
    if checkpoint.tokenizer is not None:
        _save_vocabulary(checkpoint.tokenizer, folder)
    plain.save_settings(checkpoint, folder)
