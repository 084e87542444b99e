"""What the formats share that hold one plain GPT-2 and no settings: OpenAI's, nanoGPT's, llm.c's.

The settings that such a format would lose lie beside it in generation_config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt2lab.config import Config
from gpt2lab.errors import InputError, few
from gpt2lab.files.json_files import read_json, write_json
from gpt2lab.files.visible import shown
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.weights import recommended, tensors
from gpt2lab.weights.checkpoint import Checkpoint


def only(found: Sequence[Path], path: Path, what: str) -> Path:
    """The one that was found at a path; InputError lists them where there are several."""
    if len(found) != 1:
        listed = few([shown(str(one)) for one in found])
        raise InputError(f"{path}: holds {len(found)} {what}; load one of them: {listed}")
    return found[0]


# --- reading ---


def own_ends(config: Config, tokenizer: Tokenizer | None) -> Config:
    """The configuration where no settings say otherwise: the vocabulary's end token ends a text."""
    end = None if tokenizer is None else tokenizer.end_token
    ends = () if end is None or end >= config.n_vocab else (end,)
    return replace(config, end_tokens=ends, start_token=None)


def _as_written(values: dict[str, Any], config: Config) -> Config:
    """The configuration with the end and start tokens that `save_settings` has stored."""
    end, start = values.get("eos_token_id"), values.get("bos_token_id")
    ends = end if isinstance(end, list) else [] if end is None else [end]
    given = [*ends, *([] if start is None else [start])]
    if given and not recommended.are_ids(given, config):
        return config
    own_start = None if [start] == ends[:1] else start
    return replace(config, end_tokens=tuple(ends), start_token=own_start)


def completed(
    checkpoint: Checkpoint, tokenizer: Tokenizer | None, notes: tuple[str, ...]
) -> Checkpoint:
    """The checkpoint with a vocabulary, notes about it, and the settings that lie beside it."""
    config, notes = own_ends(checkpoint.config, tokenizer), checkpoint.notes + notes
    assert checkpoint.path is not None, "a file, or the prefix of TensorFlow's"
    file = checkpoint.path.with_name(recommended.FILE)
    settings: dict[str, Any] = {}
    if file.is_file():
        values = read_json(file)
        settings, more = recommended.settings_of(values, config, file)
        config, notes = _as_written(values, config), notes + more
    return replace(checkpoint, config=config, tokenizer=tokenizer, generation=settings, notes=notes)


# --- writing ---


def must_be_plain(checkpoint: Checkpoint, format: str) -> None:
    """Refuse to write what `format` has no place for: the reader of the file would compute else.

    The two forms of GELU are let through, whichever the format computes: they are so near that
    everybody carries GPT-2's weights between them, and `convert` says what it costs.
    """
    config, faults = checkpoint.config, []
    if tensors.HEAD in checkpoint.params:
        faults.append(f"a head of its own ({tensors.HEAD})")
    if config.activation_function not in ("gelu", "gelu_new"):
        faults.append(f"activation_function {config.activation_function} (only GELU)")
    if config.layer_norm_epsilon != 1e-5:
        faults.append(f"layer_norm_epsilon {config.layer_norm_epsilon} (only 1e-05)")
    if config.mlp_width != 4 * config.n_embd:
        faults.append(f"n_inner {config.n_inner} (only 4 * n_embd)")
    if not config.scale_attn_weights:
        faults.append("scale_attn_weights false")
    if config.scale_attn_by_inverse_layer_idx:
        faults.append("scale_attn_by_inverse_layer_idx true")
    if faults:
        raise InputError(
            f"the format {format} cannot hold {', '.join(faults)}; "
            "convert to huggingface, which holds every variant"
        )


def save_settings(checkpoint: Checkpoint, folder: Path) -> None:
    """Store what the format would lose, as generation_config.json, if there is anything."""
    own = own_ends(checkpoint.config, checkpoint.tokenizer)
    if checkpoint.generation or checkpoint.config != own:
        write_json(folder / recommended.FILE, recommended.written(checkpoint))
