"""Every setting of a generation, its range, and the orders in which the processors may run.

`Sampling` is neutral by default: nothing is changed that was not asked for. What the settings do to
logits is described in `processors`, and applied in `sampler`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import partial
from itertools import islice
from typing import Annotated, Any

import numpy as np

from gpt2lab.checks import is_number, is_whole, one_of, whole
from gpt2lab.errors import InputError, few, quoted

MOST = 1_000_000  # samples of a prompt, and entries of a list of stops or bad words


@dataclass(frozen=True)
class Sampling:
    """Every setting of a generation. Values out of range raise an error naming value and limit.

    Names are those of Hugging Face and OpenAI where these have one; `temperature` 0 is greedy.
    The command line's flags are made from these lines.
    """

    max_new_tokens: Annotated[int, "Stop after this many new tokens."] = 128
    min_new_tokens: Annotated[
        int, "Allow no end token, stop string or --end-on before this many new tokens."
    ] = 0
    temperature: Annotated[float, "Divide the logits by this; 0 is greedy decoding."] = 1.0
    top_k: Annotated[int, "Sample from the k most probable tokens only; 0 is off."] = 0
    top_p: Annotated[
        float,
        "Sample from the most probable tokens whose probabilities add up to p (nucleus "
        "sampling); 1 is off.",
    ] = 1.0
    min_p: Annotated[
        float,
        "Drop tokens whose probability is below this fraction of the most probable one's; "
        "0 is off.",
    ] = 0.0
    typical_p: Annotated[
        float,
        "Sample from the tokens whose surprisal is closest to the entropy and whose "
        "probabilities add up to p (locally typical sampling); 1 is off.",
    ] = 1.0
    epsilon_cutoff: Annotated[float, "Drop tokens below this probability; 0 is off."] = 0.0
    eta_cutoff: Annotated[
        float,
        "Drop tokens below a probability that decreases with the entropy (eta sampling); 0 is off.",
    ] = 0.0
    repetition_penalty: Annotated[
        float, "Above 1, make every token of the prompt and the text less probable; 1 is off."
    ] = 1.0
    presence_penalty: Annotated[
        float, "Subtract this from the logit of each token generated so far."
    ] = 0.0
    frequency_penalty: Annotated[
        float, "Subtract this from a token's logit once for each time it was generated."
    ] = 0.0
    no_repeat_ngram_size: Annotated[
        int, "Generate no sequence of this many tokens twice; 0 is off."
    ] = 0
    bad_words: Annotated[
        tuple[Any, ...],
        "Never generate this text (in Python also a list of token ids). Can be repeated.",
    ] = ()
    logit_bias: Annotated[
        Mapping[Any, float],
        "Add BIAS to the logit of TOKEN, an id or the text of one token. Can be repeated.",
    ] = field(default_factory=dict, hash=False)
    stop: Annotated[
        tuple[str, ...], "Stop before this text, which is not printed. Can be repeated."
    ] = ()
    stop_tokens: Annotated[
        tuple[int, ...] | None,
        "Stop at this token id instead of at the model's end token. Can be repeated.",
    ] = None
    end_on: Annotated[str | None, "Stop at the end of a 'sentence' or 'paragraph'."] = None
    n: Annotated[int, "Generate this many samples for each prompt."] = 1
    num_beams: Annotated[
        int,
        "Use this many beams: beam search at temperature 0, otherwise beam sampling; 1 is off.",
    ] = 1
    length_penalty: Annotated[
        float, "Divide the score of a beam by its length to the power of this."
    ] = 1.0
    early_stopping: Annotated[
        bool | str, "When beam search ends: true, false or never, as in transformers."
    ] = False
    seed: Annotated[
        int | None, "Seed of the random streams; by default a random one, which is recorded."
    ] = None
    preset: Annotated[
        str | None,
        "Sample exactly as 'hf', 'openai', 'gpt-2-simple' or 'nanogpt' does.",
    ] = None
    processors: Annotated[tuple[str, ...] | None, "Apply these processors, in this order."] = None
    window_keep: Annotated[
        float, "Fraction of the context window that is encoded again when the window is full."
    ] = 0.5

    def __post_init__(self) -> None:
        for name in _NONE_IS_OFF:
            if getattr(self, name) is None:
                object.__setattr__(self, name, _NEUTRAL[name])
        check_each(vars(self))
        for name in ("bad_words", "stop", "stop_tokens", "processors"):
            object.__setattr__(self, name, several(name, getattr(self, name)))
        _check_words(self)
        if self.min_new_tokens > self.max_new_tokens:
            raise InputError(
                f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens "
                f"{self.max_new_tokens}; lower the one or raise the other"
            )
        if self.num_beams > 1 and self.n > self.num_beams:
            raise InputError(
                f"n {self.n} is more than num_beams {self.num_beams}; beams give one text each"
            )
        _check_order(self)
        object.__setattr__(self, "_order", _order(self))

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn at random."""
        return self.temperature == 0

    @property
    def order(self) -> tuple[str, ...]:
        """The names of the processors that these settings run, in the order in which they run."""
        order: tuple[str, ...] = vars(self)["_order"]  # asked for at every token
        return order

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sampling:
        """The inverse of `to_dict`, also after a journey through JSON."""
        known = {f.name for f in fields(cls)}
        if not isinstance(values, Mapping):
            raise InputError(f"the settings are {quoted(values)}; they are a mapping of names")
        unknown = [key for key in values if not (isinstance(key, str) and key in known)]
        if unknown:
            raise InputError(
                f"unknown setting {few(map(quoted, unknown))}; known: {', '.join(sorted(known))}"
            )
        values = dict(values)
        bias = values.get("logit_bias")
        if isinstance(bias, Mapping):
            values["logit_bias"] = {_id_or_text(key): _bias(value) for key, value in bias.items()}
        return cls(**values)


NAMES = frozenset(field.name for field in fields(Sampling))

#: What `LM` and the commands write with when nothing else is said: a neutral sampler rambles. Not
#: used when a preset or an order of processors is given; beams search unless a temperature is.
WRITING: dict[str, Any] = {"temperature": 0.7, "top_p": 0.95}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value == -math.inf:  # of a bias; see `_bias`
        return "-Infinity"
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


def several(name: str, value: Any) -> Any:
    """One text or id, or an iterable of them, as a tuple; None stays."""
    if value is None:
        return None
    if isinstance(value, str | int | np.integer):
        return (value,)
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.ndim else [value.item()]
    try:
        if isinstance(value, bytes | Mapping):
            raise TypeError
        entries = tuple(tuple(v) if isinstance(v, list) else v for v in islice(value, MOST + 1))
    except TypeError:
        raise InputError(f"{name} is {quoted(value)}; it takes a list") from None
    if len(entries) > MOST:
        raise InputError(f"{name} holds more than {MOST} entries; give fewer")
    return entries


def _id_or_text(key: Any) -> Any:
    """JSON has text keys only: digits are an id again, as in OpenAI's API."""
    return int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key


def _bias(value: Any) -> Any:
    """What `to_dict` makes of a bias, and back: JSON has no minus infinity."""
    return -math.inf if isinstance(value, str) and value == "-Infinity" else value


#: Settings for which None is another way to say "off", as in other systems.
_NONE_IS_OFF = ("bad_words", "stop", "logit_bias", "top_k", "top_p", "min_p", "typical_p")


def check_each(values: Mapping[str, Any]) -> None:
    """InputError for a value that is out of its own setting's range, whatever the others are."""
    for name, check in _RANGES.items():
        if name in values and not (values[name] is None and name in _NONE_IS_OFF):
            check(name, values[name])


# Ranges: each checker raises one line that names the setting, the value and the limit.


def _is_utf8(text: str) -> bool:
    return not any(0xD800 <= ord(c) <= 0xDFFF for c in text)


def _fits(value: Any) -> bool:
    """A number that leaves room in float32, in which logits are."""
    return is_number(value) and abs(value) <= 1e30


def _real(rule: str, test: Callable[[float], bool]) -> Callable[..., None]:
    def check(name: str, value: Any) -> None:
        if not _fits(value) or not test(value):
            raise InputError(f"{name} is {quoted(value)}; it must be {rule}")

    return check


def _seed(name: str, value: Any) -> None:
    if value is not None:
        whole(name, value, 0, 2**64 - 1)


_RANGES: dict[str, Callable[..., Any]] = {
    "max_new_tokens": partial(whole, low=1),
    "min_new_tokens": whole,
    "temperature": _real("0 (greedy), or from 1e-6 to 1e6", lambda x: x == 0 or 1e-6 <= x <= 1e6),
    "top_k": whole,
    "top_p": _real("above 0 and at most 1 (off)", lambda x: 0 < x <= 1),
    "min_p": _real("from 0 (off) to 1", lambda x: 0 <= x <= 1),
    "typical_p": _real("above 0 and at most 1 (off)", lambda x: 0 < x <= 1),
    "epsilon_cutoff": _real("0 (off) or above, below 1", lambda x: 0 <= x < 1),
    "eta_cutoff": _real("0 (off) or above, below 1", lambda x: 0 <= x < 1),
    "repetition_penalty": _real("from 1e-6 to 1e6; 1 is off", lambda x: 1e-6 <= x <= 1e6),
    "presence_penalty": _real("from -1e6 to 1e6; 0 is off", lambda x: abs(x) <= 1e6),
    "frequency_penalty": _real("from -1e6 to 1e6; 0 is off", lambda x: abs(x) <= 1e6),
    "no_repeat_ngram_size": whole,
    "end_on": partial(one_of, known=(None, "sentence", "paragraph")),
    "n": partial(whole, low=1, high=MOST),
    "num_beams": partial(whole, low=1, high=1024),
    "length_penalty": _real("from -100 to 100", lambda x: abs(x) <= 100),
    "early_stopping": partial(one_of, known=(False, True, "never")),
    "seed": _seed,
    "window_keep": _real("above 0 and at most 1", lambda x: 0 < x <= 1),
}


def _check_words(s: Sampling) -> None:
    """Stop strings, stop tokens, bad words and biases: the kinds of their entries."""
    for text in s.stop:
        if not isinstance(text, str) or not text or not _is_utf8(text):
            raise InputError(
                f"stop holds {quoted(text)}; a stop string is one character of UTF-8 or more"
            )
    for token in s.stop_tokens or ():
        if not is_whole(token) or token < 0:
            raise InputError(f"stop_tokens holds {quoted(token)}; it takes token ids, from 0 up")
    for word in s.bad_words:
        ids = isinstance(word, tuple) and all(isinstance(i, int | np.integer) for i in word)
        if not (isinstance(word, str) or ids) or not word:
            raise InputError(
                f"bad_words holds {quoted(word)}; it takes texts or lists of token ids"
            )
    if not isinstance(s.logit_bias, Mapping):
        raise InputError(
            f"logit_bias is {quoted(s.logit_bias)}; it takes a mapping of tokens to numbers"
        )
    for token, bias in s.logit_bias.items():
        number = _fits(bias) or bias == -math.inf
        if not isinstance(token, int | str | np.integer) or not number:
            raise InputError(
                f"logit_bias holds {quoted(token)}: {quoted(bias)}; it takes a token "
                "id or text and a number, "
                "finite or -inf"
            )


# Orders: which processors run, one after the other, and which settings each of them obeys.

_FIRST = ("logit_bias", "repetition_penalty", "no_repeat_ngram", "bad_words", "min_new_tokens")
#: Those that only shape a draw, so that greedy needs none of them.
SHAPE = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_SHAPE_ELSEWHERE = ("top_p_narrow", "top_p_or_k")

#: The order of each system's own sampler, read in its source.
PRESETS: dict[str, tuple[str, ...]] = {
    "hf": (*_FIRST, *SHAPE),
    "openai": ("temperature", "top_k", "top_p_narrow"),
    "gpt-2-simple": ("temperature", "top_p_or_k"),
    "nanogpt": ("temperature", "top_k"),
}
#: Our own order: Hugging Face's, with the two penalties of OpenAI's API among the first.
DEFAULT_ORDER = (*_FIRST[:2], "presence_penalty", "frequency_penalty", *_FIRST[2:], *SHAPE)

#: Processor -> the settings that it obeys, where that is not the one of its own name.
_OBEYS = {
    "no_repeat_ngram": ("no_repeat_ngram_size",),
    "top_p_narrow": ("top_p",),
    "top_p_or_k": ("top_p", "top_k"),
}
_NEUTRAL = {f.name: {} if f.default is MISSING else f.default for f in fields(Sampling)}


def obeys(processor: str) -> tuple[str, ...]:
    """The settings that a processor obeys."""
    return _OBEYS.get(processor, (processor,))


def _is_set(s: Sampling, setting: str) -> bool:
    return bool(getattr(s, setting) != _NEUTRAL[setting])


def listed(s: Sampling) -> tuple[str, ...]:
    """The processors of the settings: those of a preset, one's own, or all, in their order."""
    if s.processors is not None:
        return s.processors
    return DEFAULT_ORDER if s.preset is None else PRESETS[s.preset]


def _order(s: Sampling) -> tuple[str, ...]:
    """Those of `listed` that some setting switches on; greedy needs none that shape a draw."""
    off = (*SHAPE, *_SHAPE_ELSEWHERE) if s.greedy else ()
    on = [name for name in listed(s) if any(_is_set(s, setting) for setting in obeys(name))]
    return tuple(name for name in on if name not in off)


def _check_order(s: Sampling) -> None:
    """Unknown names, and settings that the chosen list would silently ignore, are errors."""
    if s.preset is not None and (not isinstance(s.preset, str) or s.preset not in PRESETS):
        raise InputError(f"preset {quoted(s.preset)} is unknown; known: {', '.join(PRESETS)}")
    if s.preset is not None and s.processors is not None:
        raise InputError("preset and processors both name an order; give one of them")
    known = (*DEFAULT_ORDER, *_SHAPE_ELSEWHERE)
    for name in listed(s):
        if not isinstance(name, str) or name not in known:
            raise InputError(f"processor {quoted(name)} is unknown; known: {', '.join(known)}")
    obeyed = {setting for name in listed(s) for setting in obeys(name)}
    where = "the given processors" if s.preset is None else f"the preset {quoted(s.preset)}"
    for setting in {setting: None for name in DEFAULT_ORDER for setting in obeys(name)}:
        if _is_set(s, setting) and setting not in obeyed:
            raise InputError(
                f"{setting} is set, but {where} would ignore it; leave one of them out"
            )
