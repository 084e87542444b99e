"""The settings that a model's files recommend for generation, read and written.

They are in generation_config.json; before that file existed, in config.json. What `Sampling` has
is obeyed, and three of transformers' names that depend on the prompt or on other settings are kept
for `aliases` to translate: do_sample, max_length, min_length. One note names everything else that
would change a text. End tokens are part of the configuration, so `huggingface` reads them.

Source: transformers 5.24 `generation/configuration_utils.py`, `logits_process.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2lab.checks import whole
from gpt2lab.config import Config
from gpt2lab.errors import InputError, few, quoted
from gpt2lab.files.json_files import read_json
from gpt2lab.files.visible import shown
from gpt2lab.generation.sampling import Sampling
from gpt2lab.weights.checkpoint import Checkpoint

FILE = "generation_config.json"
SETTINGS = (  # names that are also Sampling's
    "max_new_tokens",
    "min_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "num_beams",
    "length_penalty",
    "early_stopping",
)
LENGTHS = ("max_length", "min_length")  # with the prompt
OBEYED = (*SETTINGS, *LENGTHS, "stop", "do_sample")
WORDS = ("bad_words_ids", "suppress_tokens")
#: Beginnings of names that change no text here, whatever their value: special tokens, caches,
#: what is returned, how a small model helps a large one, notes of the writer.
_HARMLESS = (
    *("bos_", "eos_", "pad_", "decoder_start_", "use_cache", "use_mtp", "cache_", "max_cache_"),
    *("output_", "return_", "is_assistant", "assistant_", "num_assistant_", "speculation_"),
    *("prompt_lookup_", "max_matching_", "target_lookbehind", "low_memory", "compile_", "disable_"),
    *("continuous_batching_", "prefill_", "remove_invalid_", "stop_strings", "transformers_", "_"),
)
#: Names that nothing here computes, with the value at which they change nothing.
_NEUTRAL = {
    "num_return_sequences": 1,
    "num_beam_groups": 1,
    "encoder_repetition_penalty": 1,
    "guidance_scale": 1,
    "top_h": 1,
}
#: transformers before version 3 wrote every one of its defaults into config.json. There, such a
#: value recommends nothing.
_OLD_DEFAULTS = {
    "do_sample": False,
    "max_length": 20,
    "min_length": 0,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
#: Part of OpenAI's own config.json, and in that of every model tuned from it.
_EVERYWHERE = {"do_sample": True, "max_length": 50}
_OLD_NAMES = (
    *(*SETTINGS, *LENGTHS, *WORDS, *_NEUTRAL, "do_sample", "forced_eos_token_id"),
    *("forced_bos_token_id", "begin_suppress_tokens", "sequence_bias", "diversity_penalty"),
)


# --- reading ---


def _from_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """What an older config.json recommends, at its top or for transformers' text generation."""
    found = {key: values[key] for key in _OLD_NAMES if values.get(key) is not None}
    if set(_OLD_DEFAULTS) - {"no_repeat_ngram_size", "min_length"} <= found.keys():
        set_ = {key: value for key, value in found.items() if value != _OLD_DEFAULTS.get(key, 0)}
        shaped = {"temperature", "top_k", "top_p"} & set_.keys()
        found = {**set_, "do_sample": False} if shaped and not found["do_sample"] else set_
    tasks = values.get("task_specific_params")
    task = tasks.get("text-generation") if isinstance(tasks, dict) else None
    if isinstance(task, dict) and task != _EVERYWHERE:
        found |= {key: value for key, value in task.items() if value is not None}
    return found


def are_ids(value: Any, config: Config) -> bool:
    """Whether a value of a file is a token id of the model, or a list of such."""
    ids = value if isinstance(value, list) else [value]
    return bool(ids) and all(type(i) is int and 0 <= i < config.n_vocab for i in ids)


def _bad_words(values: dict[str, Any], config: Config) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """The ids that are never generated, and whether all entries could be read.

    As in transformers, an end token on its own is no bad word, but may be suppressed.
    """
    words, suppressed = values.get("bad_words_ids") or [], values.get("suppress_tokens") or []
    if not isinstance(words, list) or not isinstance(suppressed, list):
        return (), False
    ends = [[token] for token in config.end_tokens]
    entries = [*(word for word in words if word not in ends), *([token] for token in suppressed)]
    good = [tuple(e) for e in entries if isinstance(e, list) and are_ids(e, config)]
    return tuple(dict.fromkeys(good)), len(good) == len(entries)


def _checked(key: str, value: Any, beside: dict[str, Any]) -> Any:
    """A setting's value as `Sampling` holds it; InputError when it is out of range."""
    if key == "do_sample":
        if type(value) is not bool:
            raise InputError(f"do_sample is {quoted(value)}; it must be true or false")
        return value
    if key in LENGTHS:
        return whole(key, value)
    room = {"max_new_tokens": 10**9} if key == "min_new_tokens" else {}
    return getattr(Sampling(**{**room, **beside, key: value}), key)


def _notes(values: Mapping[str, Any], found: Mapping[str, Any], where: Path) -> list[str]:
    """What would change a text and is not obeyed, or not as transformers does."""
    left = [
        shown(key)
        for key, value in values.items()
        if key not in {*OBEYED, *WORDS} and not key.startswith(_HARMLESS)
        if value and value != _NEUTRAL.get(key)
    ]
    notes = [f"{where.name} sets {few(left)}, which this GPT-2 does not obey"] if left else []
    if found.get("temperature") and "do_sample" not in found and found.get("num_beams", 1) == 1:
        notes.append(
            f"{where.name} sets a temperature but no do_sample; it is sampled with, where "
            "transformers takes the most probable token"
        )
    return notes


def settings_of(
    values: dict[str, Any], config: Config, where: Path
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings that the values of one file recommend, and notes about them.

    A recommendation that is out of range is left out with a note: it must not stop every use.
    """
    found = {key: values[key] for key in OBEYED if values.get(key) is not None}
    if (stop := values.get("stop_strings")) is not None:
        found.setdefault("stop", stop)
    most = found.get("max_new_tokens")
    beside = {"max_new_tokens": most} if type(most) is int and most > 0 else {}
    wrong = []
    for key, value in list(found.items()):
        try:
            found[key] = _checked(key, value, beside)
        except InputError as error:
            del found[key]
            wrong.append(f"{where.name} recommends what cannot be done and is passed over: {error}")
    words, whole = _bad_words(values, config)
    if words:
        found["bad_words"] = words
    if not whole:
        wrong.append(
            f"{where.name}: bad_words_ids or suppress_tokens hold what is no token id below "
            f"{config.n_vocab}; that is passed over"
        )
    return found, (*_notes(values, found, where), *wrong)


def read(
    folder: Path, values: dict[str, Any], config: Config
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings that a folder recommends and notes; `values` are those of its config.json."""
    path = folder / FILE
    if path.is_file():
        return settings_of(read_json(path), config, path)
    return settings_of(_from_config(values), config, folder / "config.json")


# --- writing ---


def written(checkpoint: Checkpoint) -> dict[str, Any]:
    """The contents of generation_config.json: what `read` gives back, under transformers' names."""
    ends = list(checkpoint.config.end_tokens)
    end = ends[0] if len(ends) == 1 else ends or None
    kept = dict(checkpoint.generation)
    sample = kept.pop("do_sample", None)
    if kept.get("temperature") == 0:  # ours for greedy; transformers refuses it
        del kept["temperature"]
        sample = False
    # "stop" not under transformers' name stop_strings: with that in the file, its generate asks
    # every caller for a tokenizer.
    if "stop" in kept:
        kept["stop"] = list(kept["stop"])
    if "bad_words" in kept:
        kept["bad_words_ids"] = [list(word) for word in kept.pop("bad_words")]
    if sample is None:
        shapes = {"temperature", "top_k", "top_p", "min_p", "typical_p"} & set(kept)
        sample = True if shapes else None
    settings = {} if sample is None else {"do_sample": sample}
    start = checkpoint.config.begin
    return {"bos_token_id": start, "eos_token_id": end, **settings, **kept}
