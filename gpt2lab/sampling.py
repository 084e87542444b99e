"""Logits to the next token: the settings, the ordered processors, the draw.

`Sampling` holds every setting, neutral by default: nothing is changed that was not asked for.
`process` runs the processors in their order and shows what they leave. A new one is a function of
the signature `Processor` and a line in `PROCESSORS`. Whole texts are the work of `generate`.

Shapes: V vocabulary, B batch. Logits are float32; what is removed is -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, NamedTuple

import numpy as np

from gpt2lab.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Sampling:
    """Every setting of a generation. Values out of range raise an error naming value and limit.

    Names are those of Hugging Face and OpenAI where these have one; `temperature` 0 is greedy.
    The command line's flags are made from these lines.
    """

    max_new_tokens: Annotated[int, "tokens to write at most"] = 128
    min_new_tokens: Annotated[int, "no end token, sentence end or stop string before so many"] = 0
    temperature: Annotated[float, "divides the logits; 0 takes the likeliest token"] = 1.0
    top_k: Annotated[int, "keep the k likeliest tokens; 0 is off"] = 0
    top_p: Annotated[float, "keep the likeliest tokens whose mass reaches p; 1 is off"] = 1.0
    min_p: Annotated[
        float, "keep tokens with at least this share of the likeliest one's probability"
    ] = 0.0
    typical_p: Annotated[float, "keep the tokens of most typical surprise whose mass reaches p"] = (
        1.0
    )
    epsilon_cutoff: Annotated[float, "keep tokens at least this probable"] = 0.0
    eta_cutoff: Annotated[float, "the same with a limit that falls with the entropy"] = 0.0
    repetition_penalty: Annotated[float, "above 1, makes every token seen so far less likely"] = 1.0
    presence_penalty: Annotated[float, "taken off the logit of a token written before"] = 0.0
    frequency_penalty: Annotated[float, "taken off once for each time that it was written"] = 0.0
    no_repeat_ngram_size: Annotated[int, "no run of so many tokens comes twice; 0 is off"] = 0
    bad_words: Annotated[tuple[Any, ...], "texts, or lists of ids, that are never written"] = ()
    logit_bias: Annotated[Mapping[Any, float], "id or one-token text -> bias"] = field(
        default_factory=dict
    )
    stop: Annotated[tuple[str, ...], "texts that end the text and are not shown"] = ()
    stop_tokens: Annotated[
        tuple[int, ...] | None, "ids that end the text; None is the model's own"
    ] = None
    end_on: Annotated[str | None, "'sentence' or 'paragraph': end where one ends"] = None
    n: Annotated[int, "samples of each prompt"] = 1
    num_beams: Annotated[
        int, "beams; above 1 with temperature 0 is beam search, else beam sampling"
    ] = 1
    length_penalty: Annotated[float, "power of the length that a beam's score is divided by"] = 1.0
    early_stopping: Annotated[bool | str, "when beams end: False, True or 'never'"] = False
    seed: Annotated[int | None, "of the random streams; None draws one and records it"] = None
    preset: Annotated[
        str | None, "the exact sampler of 'hf', 'openai', 'gpt-2-simple', 'nanogpt'"
    ] = None
    processors: Annotated[tuple[str, ...] | None, "names of processors in your own order"] = None
    window_keep: Annotated[float, "share of the window that is encoded again when it is full"] = 0.5

    def __post_init__(self) -> None:
        for name, check in _RANGES.items():
            check(name, getattr(self, name))
        for name in ("bad_words", "stop", "stop_tokens", "processors"):
            value = getattr(self, name)
            if isinstance(value, str):
                value = (value,)
            elif value is not None:
                value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
            object.__setattr__(self, name, value)
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

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn at random."""
        return self.temperature == 0

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sampling:
        """The inverse of `to_dict`, also after a journey through JSON."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(
                f"unknown setting {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        values = dict(values)
        bias = values.get("logit_bias") or {}
        values["logit_bias"] = {_id_or_text(key): value for key, value in bias.items()}
        return cls(**values)


#: What `LM` and the commands write with when nothing else is said: a neutral sampler rambles. Not
#: used when a preset or an order of processors is given; beams search unless a temperature is.
WRITING: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): v for k, v in value.items()}
    return value


def _id_or_text(key: Any) -> Any:
    """JSON has text keys only: digits are an id again, as in OpenAI's API."""
    return int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key


# Ranges: each checker raises one line that names the setting, the value and the limit.


def _whole(low: int, high: float = math.inf, *, optional: bool = False) -> Callable[..., None]:
    def check(name: str, value: Any) -> None:
        if optional and value is None:
            return
        ok = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not ok or not low <= value < high:
            limit = f"from {low} up" if high == math.inf else f"from {low} to {int(high) - 1}"
            raise InputError(f"{name} is {value!r}; it must be a whole number {limit}")

    return check


def _real(rule: str, test: Callable[[float], bool]) -> Callable[..., None]:
    def check(name: str, value: Any) -> None:
        ok = isinstance(value, int | float | np.floating | np.integer)
        if not ok or isinstance(value, bool) or not math.isfinite(value) or not test(value):
            raise InputError(f"{name} is {value!r}; it must be {rule}")

    return check


def _one_of(*known: Any) -> Callable[..., None]:
    def check(name: str, value: Any) -> None:
        if not any(value is k or (isinstance(value, str) and value == k) for k in known):
            raise InputError(
                f"{name} is {value!r}; it must be one of {', '.join(map(repr, known))}"
            )

    return check


_RANGES: dict[str, Callable[..., None]] = {
    "max_new_tokens": _whole(1),
    "min_new_tokens": _whole(0),
    "temperature": _real("0 (greedy) or above", lambda x: x >= 0),
    "top_k": _whole(0),
    "top_p": _real("above 0 and at most 1 (off)", lambda x: 0 < x <= 1),
    "min_p": _real("from 0 (off) to 1", lambda x: 0 <= x <= 1),
    "typical_p": _real("above 0 and at most 1 (off)", lambda x: 0 < x <= 1),
    "epsilon_cutoff": _real("0 (off) or above, below 1", lambda x: 0 <= x < 1),
    "eta_cutoff": _real("0 (off) or above, below 1", lambda x: 0 <= x < 1),
    "repetition_penalty": _real("above 0; 1 is off", lambda x: x > 0),
    "presence_penalty": _real("a number; 0 is off", lambda x: True),
    "frequency_penalty": _real("a number; 0 is off", lambda x: True),
    "no_repeat_ngram_size": _whole(0),
    "end_on": _one_of(None, "sentence", "paragraph"),
    "n": _whole(1),
    "num_beams": _whole(1),
    "length_penalty": _real("a number", lambda x: True),
    "early_stopping": _one_of(False, True, "never"),
    "seed": _whole(0, 2**64, optional=True),
    "window_keep": _real("above 0 and at most 1", lambda x: 0 < x <= 1),
}


def _check_words(s: Sampling) -> None:
    """Stop strings, stop tokens, bad words and biases: the kinds of their entries."""
    for text in s.stop:
        if not isinstance(text, str) or not text:
            raise InputError(f"stop holds {text!r}; every stop string needs at least one character")
    for token in s.stop_tokens or ():
        if not isinstance(token, int | np.integer) or token < 0:
            raise InputError(f"stop_tokens holds {token!r}; it takes token ids, from 0 up")
    for word in s.bad_words:
        ids = isinstance(word, tuple) and all(isinstance(i, int | np.integer) for i in word)
        if not word or not (isinstance(word, str) or ids):
            raise InputError(f"bad_words holds {word!r}; it takes texts or lists of token ids")
    for token, bias in s.logit_bias.items():
        if not isinstance(token, int | str | np.integer) or not bias < math.inf:
            raise InputError(
                f"logit_bias holds {token!r}: {bias!r}; it takes a token id or text and a number, "
                "finite or -inf"
            )


class Seen(NamedTuple):
    """What a processor may know beside the settings.

    tokens: all ids so far, the prompt first. prompt_length: how many of them are the prompt.
    keep: how many tokens a truncation must leave; beams need more than one.
    """

    tokens: Sequence[int]
    prompt_length: int = 0
    keep: int = 1


Processor = Callable[[Array, Sampling, Seen], Array]


def log_softmax(logits: Array) -> Array:
    """Normalised log-probabilities along the last axis, in the dtype of the logits."""
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    total = np.sum(np.exp(shifted), axis=-1, keepdims=True, dtype=np.float64)
    return shifted - np.log(total).astype(logits.dtype)


def _probabilities(logits: Array) -> Array:
    """softmax in float64: sums of 50,257 float32 numbers would move the borders."""
    ex = np.exp((logits - np.max(logits)).astype(np.float64))
    return ex / ex.sum()  # [V]


def _without(logits: Array, removed: Array) -> Array:
    return np.where(removed, np.float32(-np.inf), logits)  # [V]


def _largest(values: Array, count: int) -> Array:
    """A mask of the `count` largest values; equal ones at the border are all in."""
    count = min(count, len(values))
    return values >= np.partition(values, -count)[-count]  # [V]


# The processors. Those that change what is likely come first, then those that shape a draw.


def logit_bias(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Adds the given number to the logit of each given token."""
    logits = logits.copy()
    for token, bias in s.logit_bias.items():
        logits[_token(token, "logit_bias", len(logits))] += bias
    return logits


def _token(token: Any, where: str, n_vocab: int) -> int:
    if isinstance(token, str):
        raise InputError(f"{where}: the text {token!r} must be turned into a token id first")
    if not 0 <= token < n_vocab:
        raise InputError(f"{where}: id {token} is outside the vocabulary; ids end at {n_vocab - 1}")
    return int(token)


def repetition_penalty(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Divides positive and multiplies negative logits of all tokens seen (Keskar et al. 2019)."""
    logits = logits.copy()
    tokens = np.unique(np.asarray(seen.tokens, dtype=np.intp))
    old, penalty = logits[tokens], np.float32(s.repetition_penalty)
    logits[tokens] = np.where(old < 0, old * penalty, old / penalty)
    return logits


def presence_penalty(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Takes a number off the logit of each token written so far; the prompt does not count."""
    written = np.bincount(seen.tokens[seen.prompt_length :], minlength=len(logits))
    return logits - np.float32(s.presence_penalty) * (written > 0).astype(np.float32)


def frequency_penalty(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Takes a number off for each time a token was written; the prompt does not count."""
    written = np.bincount(seen.tokens[seen.prompt_length :], minlength=len(logits))
    return logits - np.float32(s.frequency_penalty) * written.astype(np.float32)


def no_repeat_ngram(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Removes every token that would complete an n-gram which is there already."""
    size, tokens = s.no_repeat_ngram_size, list(seen.tokens)
    if len(tokens) < size:
        return logits
    logits, start = logits.copy(), tokens[len(tokens) - size + 1 :]
    for i in range(len(tokens) - size + 1):
        if tokens[i : i + size - 1] == start:
            logits[tokens[i + size - 1]] = -np.inf
    return logits


def bad_words(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Removes the last token of each bad word whose beginning has just been written.

    An end token alone is never a bad word, as in Hugging Face.
    """
    logits, tokens = logits.copy(), tuple(seen.tokens)
    for word in s.bad_words:
        if len(word) == 1 and word[0] in (s.stop_tokens or ()):
            continue
        *start, last = (_token(t, "bad_words", len(logits)) for t in word)
        if not start or tokens[-len(start) :] == tuple(start):
            logits[last] = -np.inf
    return logits


def min_new_tokens(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Removes the end tokens while fewer than `min_new_tokens` are written."""
    if len(seen.tokens) - seen.prompt_length >= s.min_new_tokens or not s.stop_tokens:
        return logits
    logits = logits.copy()
    logits[[_token(t, "stop_tokens", len(logits)) for t in s.stop_tokens]] = -np.inf
    return logits


def temperature(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Divides by the temperature."""
    return logits / np.float32(s.temperature)


def top_k(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Keeps the k largest (Fan et al. 2018); ties with the k-th stay."""
    return _without(logits, ~_largest(logits, max(s.top_k, seen.keep)))


def _top_p_candidates(logits: Array, p: float, keep: int = 1) -> tuple[Array, Array, float]:
    """Ids that may stay, in ascending order of probability, theirs, and the mass of all others.

    Tokens below (1 - p) / V weigh less than 1 - p together, so they go without being sorted.
    """
    probs = _probabilities(logits)
    ids = np.flatnonzero((probs >= (1 - p) / len(probs)) | _largest(probs, keep))
    ids = ids[np.argsort(probs[ids], kind="stable")]
    return ids, probs[ids], 1 - float(probs[ids].sum())


def top_p(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Keeps the smallest set of likeliest tokens whose mass reaches p (Holtzman et al. 2019).

    The token that crosses p stays, as in Hugging Face and gpt-2-simple.
    """
    ids, probs, rest = _top_p_candidates(logits, s.top_p, seen.keep)
    below = rest + np.cumsum(probs)  # the mass up to and with each token, from the least likely
    removed = np.ones(len(logits), bool)
    removed[ids[below > 1 - s.top_p]] = False
    removed[ids[-seen.keep :]] = False
    return _without(logits, removed)


def top_p_narrow(logits: Array, s: Sampling, seen: Seen) -> Array:
    """openai/gpt-2's top-p: the token that crosses p is dropped; at least one stays, and ties."""
    ids, probs, _ = _top_p_candidates(logits, s.top_p)
    count = int(np.sum(np.cumsum(probs[::-1]) <= s.top_p))
    return _without(logits, logits < logits[ids[::-1][max(count - 1, 0)]])


def top_p_or_k(logits: Array, s: Sampling, seen: Seen) -> Array:
    """gpt-2-simple's rule: top-p, when it is set, takes the place of top-k; ties stay."""
    if s.top_p == 1:
        return top_k(logits, s, seen) if s.top_k else logits
    kept = top_p(logits, s, seen)
    return _without(logits, logits < np.min(kept, where=kept > -np.inf, initial=np.inf))


def min_p(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Keeps tokens with at least `min_p` times the top probability (Nguyen et al. 2024)."""
    probs = _probabilities(logits)
    low = probs < s.min_p * probs.max()
    low[np.argpartition(probs, -min(seen.keep, len(probs)))[-seen.keep :]] = False
    return _without(logits, low)


def typical_p(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Keeps tokens whose surprise is nearest to the entropy (Meister et al. 2022)."""
    probs = _probabilities(logits)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(probs)
        entropy = np.nansum(probs * surprise)
    distance = np.abs(surprise - entropy)
    order = np.argsort(distance, kind="stable")
    last = min(int(np.sum(np.cumsum(probs[order]) < s.typical_p)), len(order) - 1)
    removed = distance > distance[order[last]]
    removed[order[: seen.keep]] = False
    return _without(logits, removed)


def epsilon_cutoff(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Removes tokens less probable than epsilon (Hewitt et al. 2022)."""
    low = _probabilities(logits) < s.epsilon_cutoff
    return _without(logits, low & ~_largest(logits, seen.keep))


def eta_cutoff(logits: Array, s: Sampling, seen: Seen) -> Array:
    """Removes tokens below min(eta, sqrt(eta) * exp(-entropy)) (Hewitt et al. 2022)."""
    probs = _probabilities(logits)
    entropy = -np.sum(probs * np.log(np.where(probs > 0, probs, 1)))
    low = probs < min(s.eta_cutoff, math.sqrt(s.eta_cutoff) * math.exp(-entropy))
    return _without(logits, low & ~_largest(logits, seen.keep))


class Step(NamedTuple):
    """A processor, when it is on, and whether it only shapes a draw (so greedy needs none)."""

    run: Processor
    on: Callable[[Sampling], bool]
    shapes_draw: bool = True


PROCESSORS: dict[str, Step] = {
    "logit_bias": Step(logit_bias, lambda s: bool(s.logit_bias), False),
    "repetition_penalty": Step(repetition_penalty, lambda s: s.repetition_penalty != 1, False),
    "presence_penalty": Step(presence_penalty, lambda s: s.presence_penalty != 0, False),
    "frequency_penalty": Step(frequency_penalty, lambda s: s.frequency_penalty != 0, False),
    "no_repeat_ngram": Step(no_repeat_ngram, lambda s: s.no_repeat_ngram_size > 0, False),
    "bad_words": Step(bad_words, lambda s: bool(s.bad_words), False),
    "min_new_tokens": Step(min_new_tokens, lambda s: s.min_new_tokens > 0, False),
    "temperature": Step(temperature, lambda s: s.temperature != 1),
    "top_k": Step(top_k, lambda s: s.top_k > 0),
    "top_p": Step(top_p, lambda s: s.top_p < 1),
    "top_p_narrow": Step(top_p_narrow, lambda s: s.top_p < 1),
    "top_p_or_k": Step(top_p_or_k, lambda s: s.top_k > 0 or s.top_p < 1),
    "min_p": Step(min_p, lambda s: s.min_p > 0),
    "typical_p": Step(typical_p, lambda s: s.typical_p < 1),
    "epsilon_cutoff": Step(epsilon_cutoff, lambda s: s.epsilon_cutoff > 0),
    "eta_cutoff": Step(eta_cutoff, lambda s: s.eta_cutoff > 0),
}

_COMMON = ("logit_bias", "repetition_penalty", "no_repeat_ngram", "bad_words", "min_new_tokens")
_SHAPE = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")

#: The order of each system's own sampler, read in its source.
PRESETS: dict[str, tuple[str, ...]] = {
    "hf": (*_COMMON, *_SHAPE),
    "openai": ("temperature", "top_k", "top_p_narrow"),
    "gpt-2-simple": ("temperature", "top_p_or_k"),
    "nanogpt": ("temperature", "top_k"),
}
#: Our own order: Hugging Face's, with the two penalties of OpenAI's API among the first.
DEFAULT_ORDER = (*_COMMON[:2], "presence_penalty", "frequency_penalty", *_COMMON[2:], *_SHAPE)

_SAME_SETTING = {"top_p": ("top_p_narrow", "top_p_or_k"), "top_k": ("top_p_or_k",)}


def order(s: Sampling) -> tuple[str, ...]:
    """The names of the processors that these settings run, in the order in which they run."""
    names = s.processors if s.processors is not None else _preset_order(s)
    return tuple(
        name
        for name in names
        if PROCESSORS[name].on(s) and not (s.greedy and PROCESSORS[name].shapes_draw)
    )


def _preset_order(s: Sampling) -> tuple[str, ...]:
    return DEFAULT_ORDER if s.preset is None else PRESETS[s.preset]


def _check_order(s: Sampling) -> None:
    """Unknown names, and settings that the chosen list would silently ignore, are errors."""
    if s.preset is not None and s.preset not in PRESETS:
        raise InputError(f"preset {s.preset!r} is unknown; known: {', '.join(PRESETS)}")
    if s.preset is not None and s.processors is not None:
        raise InputError("preset and processors both name an order; give one of them")
    names = s.processors if s.processors is not None else _preset_order(s)
    for name in names:
        if name not in PROCESSORS:
            raise InputError(f"processor {name!r} is unknown; known: {', '.join(PROCESSORS)}")
    where = "the given processors" if s.preset is None else f"the preset {s.preset!r}"
    for name in DEFAULT_ORDER:
        covered = {name, *_SAME_SETTING.get(name, ())} & set(names)
        if PROCESSORS[name].on(s) and not covered:
            raise InputError(f"{name} is set, but {where} would ignore it; leave one of them out")


def process(
    logits: Any, sampling: Sampling, tokens: Any, *, prompt_length: int = 0, keep: int = 1
) -> Array:
    """What the processors leave of the logits: float32, with -inf where a token is removed.

    logits [V] with tokens [T], the ids so far, or [B, V] with B lists of ids. The penalties for
    written tokens and `min_new_tokens` count from `prompt_length` on. `keep` is the least number of
    tokens that a truncation leaves (beam sampling needs more than one).
    """
    logits = np.asarray(logits, dtype=np.float32)
    if logits.ndim == 2:
        rows = [
            process(row, sampling, seen, prompt_length=prompt_length, keep=keep)
            for row, seen in zip(logits, tokens, strict=True)
        ]
        return np.stack(rows)  # [B, V]
    tokens = np.asarray(tokens, dtype=np.intp).tolist()
    if tokens and not 0 <= min(tokens) <= max(tokens) < len(logits):
        raise InputError(f"tokens hold an id outside the vocabulary; ids end at {len(logits) - 1}")
    seen = Seen(tokens, prompt_length, keep)
    for name in order(sampling):
        logits = PROCESSORS[name].run(logits, sampling, seen)
    return logits  # [V]


def stream(seed: int, index: int, step: int) -> np.random.Generator:
    """The random numbers of one step of one sample: a function of the three numbers alone.

    Philox is counter-based (Salmon et al. 2011): the key is (seed, index), the counter the step. So
    neither the batch, nor the order, nor other samples, nor earlier draws can change them.
    """
    return np.random.Generator(np.random.Philox(key=[seed, index], counter=[0, step, 0, 0]))


def draw(logits: Array, random: np.random.Generator) -> int:
    """One token by the probabilities of processed logits [V]: the inverse of their running sum."""
    ids = np.flatnonzero(logits > -np.inf)
    heights = np.cumsum(np.exp((logits[ids] - np.max(logits[ids])).astype(np.float64)))
    place = np.searchsorted(heights, random.random() * heights[-1], side="right")
    return int(ids[min(place, len(ids) - 1)])


def choose(logits: Array, sampling: Sampling, index: int, step: int) -> int:
    """The next token from processed logits [V]: the likeliest when greedy, otherwise a draw."""
    best = int(np.argmax(logits))
    if not logits[best] > -np.inf:
        raise InputError(
            "every token is ruled out; loosen bad_words, logit_bias or no_repeat_ngram_size"
        )
    if sampling.greedy:
        return best
    assert sampling.seed is not None
    return draw(logits, stream(sampling.seed, index, step))
