"""The model object: configuration, parameters, tokenizer and engine, with short ways to use them.

It adds what the floors below leave open: defaults for writing, other systems' names for settings,
and the record that lets a text be written again. All work is theirs.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2lab import __version__, engines, forks, weights
from gpt2lab import score as scoring
from gpt2lab.checks import MOST, check_ids, whole
from gpt2lab.engines.numpy_engine import NumpyEngine
from gpt2lab.errors import Failure, InputError, few, quoted
from gpt2lab.files import file_facts
from gpt2lab.files.io import let_go
from gpt2lab.generation import aliases, generate
from gpt2lab.generation.generate import Completion, Piece
from gpt2lab.generation.request import (
    Request,
    check_prompt,
    check_reach,
    fit,
    plain_names,
    requests,
)
from gpt2lab.generation.sampling import WRITING, Sampling, check_each
from gpt2lab.text.tokenizer import Allowed
from gpt2lab.weights import find
from gpt2lab.weights.tensors import PART

if TYPE_CHECKING:
    from gpt2lab.lens import Act, Trace

log = logging.getLogger(__name__)

Array = np.ndarray[Any, np.dtype[Any]]
Prompt = str | Sequence[int] | None


@contextmanager
def _naming(prompt: str) -> Iterator[None]:
    """Begin what is wrong with one of many prompts with its name."""
    try:
        yield
    except InputError as error:
        if not prompt:
            raise
        raise InputError(f"{prompt}: {error}") from error


class LM:
    """A GPT-2 that is ready to use; `load` makes one.

    config: the `Config`. params: name -> array, as in the checkpoints. tokenizer: or None where the
    files hold no vocabulary. engine: what computes (`engines.Engine`). name: how it was asked for.
    more: further keyword arguments of `engines.choose`.
    """

    def __init__(
        self,
        checkpoint: weights.Checkpoint,
        *,
        engine: str | None = None,
        dtype: str | None = None,
        name: str = "",
        **more: Any,
    ) -> None:
        self.config, self.params, self.tokenizer = checkpoint
        self.checkpoint = checkpoint
        self.name = name or (checkpoint.path.name if checkpoint.path else "model")
        self.acts: tuple[Act, ...] = ()
        unknown = [key for key in more if key not in ("cache_dtype", "threads", "device")]
        if unknown:
            raise InputError(
                f"{few(map(quoted, unknown))} is no option of a model; known: engine, dtype, "
                "cache_dtype, threads, device"
            )
        self.engine = engines.choose(
            self.config, self.params, engine, dtype, key=lambda: self.hash, **more
        )

    def __repr__(self) -> str:
        c = self.config
        return (
            f"LM({self.name!r}, {c.n_layer} layers, {c.n_embd} wide, context {c.n_ctx}, "
            f"vocabulary {c.n_vocab}, {self.engine.name} {self.engine.dtype})"
        )

    def __copy__(self) -> LM:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __reduce__(self) -> Any:
        raise InputError(
            f"the model {quoted(self.name)} cannot be pickled, as it holds compiled code and large "
            "memory; call gpt2lab.load in each process, or fork one that has loaded it"
        )

    @property
    def hash(self) -> str:
        """sha256 over configuration and parameters, the same whatever file they came from.

        It reads the whole model, so that of a large file is remembered between processes.
        """
        with forks.whole():  # until Python 3.12 a cached property holds a lock of its own
            return self._sha256

    @cached_property
    def _sha256(self) -> str:
        described = json.dumps(self.config.to_dict(), sort_keys=True)
        source = self.checkpoint.source
        if source is None or not source.holds(self.params):
            return self._hash(described)
        what = f"sha256 with {described}"
        known = file_facts.recall(source.files, what)
        if not isinstance(known, str):
            known = self._hash(described)
            file_facts.remember(source.files, what, known)
        return known

    def _hash(self, described: str) -> str:
        digest = hashlib.sha256(described.encode())
        for name in sorted(self.params):
            value = self.params[name]
            digest.update(f"{name} {value.shape} {value.dtype}".encode())
            flat = np.ascontiguousarray(value).reshape(-1)
            for start in range(0, flat.size, PART):
                digest.update(flat[start : start + PART].data)
                let_go(flat[start : start + PART])
        return digest.hexdigest()

    def acting(self, *acts: Act | Iterable[Act]) -> LM:
        """The same model with interventions on its inner values, as an object beside this one.

        acts: acts, or lists of them. The new object generates, scores and traces with the reference
        in NumPy, one token at about a fifth of the cpu engine's speed. This one stays as it is.
        """
        from gpt2lab import lens
        from gpt2lab.lens.hook_names import listed as as_list
        from gpt2lab.lens.traces import exact

        other = copy.copy(self)
        listed: list[Any] = []
        for given in acts:
            listed += [given] if isinstance(given, lens.Act) else as_list("acts", given)
        other.acts = (*self.acts, *lens.lasting(lens.checked(listed, self.config)))
        plain = exact(self)
        other.engine = NumpyEngine(
            self.config,
            plain.params,
            plain.dtype,
            tap=lambda before: lens.tap(other.acts, before),
            acts=[act.about for act in other.acts],
        )
        return other

    # ---- From what people give to what the floors take.

    def settings(self, prompt_length: int = 0, **given: Any) -> Sampling:
        """The `Sampling` of these keyword arguments over the defaults.

        The defaults are `sampling.WRITING`, over them what the checkpoint's files recommend. Other
        systems' names are translated, each with one warning.
        """
        settings, notes = aliases.translate(given, prompt_length)
        check_each(settings)
        recommended, more = aliases.recommended(
            self.checkpoint.generation, {**given, **settings}, prompt_length
        )
        ends = recommended.pop("stop", ())
        writing = WRITING
        if settings.get("preset") is not None or settings.get("processors") is not None:
            writing = {}
            recommended, more = aliases.beside_order(recommended, settings)
        for note in (*notes, *more):
            log.warning(note)
        merged = {**writing, **recommended, **settings}
        if "temperature" not in {**recommended, **settings} and merged.get("num_beams", 1) != 1:
            merged["temperature"] = 0
        if given.get("do_sample") and "temperature" not in given:
            merged["temperature"] = merged.get("temperature") or 1.0  # a recommended 0 gives way
        _yield_to(merged, recommended, settings)
        merged["stop"] = self._stop(settings, ends)
        return Sampling.from_dict(merged)

    def _stop(self, settings: Mapping[str, Any], ends: tuple[str, ...]) -> tuple[str, ...]:
        """The stop strings: the caller's, and the text that ends the model's own documents.

        The latter counts as an end token does: no stop tokens, or an empty `stop`, drop it.
        """
        own = Sampling.from_dict({"stop": settings.get("stop")}).stop
        dropped = settings.get("stop") is not None and not own
        ends_dropped = Sampling.from_dict({"stop_tokens": settings.get("stop_tokens")})
        if dropped or ends_dropped.stop_tokens == () or self.tokenizer is None:
            return own
        return tuple(dict.fromkeys((*own, *ends)))

    def encode(
        self, prompt: Prompt, allowed_special: Allowed = (), *, add_special_tokens: bool = True
    ) -> list[int]:
        """A prompt as ids: a text, ids, or None for the beginning of a document.

        allowed_special: the special tokens that a text may spell, or "all"; the names of others are
        plain text, with a warning. add_special_tokens: with what the vocabulary's files put before
        and after a text (`Tokenizer.encode`).
        """
        if prompt is None:
            if self.config.begin is None:
                raise InputError(f"{self.name} has no end token to begin from; give a prompt")
            return [self.config.begin]
        if not isinstance(prompt, str):
            return check_ids(prompt, self.config.n_vocab)
        if not prompt:
            raise InputError("the prompt is empty; give some text, or ask for no prompt at all")
        if self.tokenizer is None:
            raise InputError(
                f"{self.name} comes without a tokenizer; give token ids instead of text"
            )
        ids = self.tokenizer.encode(prompt, allowed_special, add_special_tokens=add_special_tokens)
        own = self.checkpoint.generation.get("stop", ())  # a mark that this model spells as text
        for name in plain_names(prompt, self.tokenizer, allowed_special):
            if name not in own:
                log.warning(
                    f"{name!r} in the text is read as plain text; allowed_special='all' "
                    "(--allow-special) reads it as the special token"
                )
        return check_reach(ids, self.config, self.tokenizer)

    def requests(
        self,
        listed: Sequence[Prompt],
        overflow: str,
        given: Mapping[str, Any],
        allowed_special: Allowed = (),
        names: Sequence[str] = (),
    ) -> list[Request]:
        """A request for each prompt: ids that fit the window, and the settings of `given`.

        names: what to call each prompt in an error; of several, its number where none is given.
        """
        if not names:
            names = [f"prompt {i}" for i, _ in enumerate(listed, 1)] if len(listed) > 1 else [""]
        encoded = []
        for name, prompt in zip(names, listed, strict=True):
            with _naming(name):
                encoded.append(self.encode(prompt, allowed_special))
        if "max_length" in given and len({len(ids) for ids in encoded}) > 1:
            raise InputError(
                "max_length counts the prompt, and these prompts differ in length; give "
                "max_new_tokens instead"
            )
        s = self.settings(max(map(len, encoded), default=0), **given)
        fitted = [fit(ids, self.config, s, overflow) for ids in encoded]
        for name, ids in zip(names, fitted, strict=True):
            with _naming(name):
                check_prompt(ids, self.config)
        return requests(fitted, s, self.config, self.tokenizer)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids, the inverse of `encode`; InputError without a tokenizer."""
        if self.tokenizer is None:
            raise InputError(f"{self.name} comes without a tokenizer; its ids have no text")
        return self.tokenizer.decode(tokens)

    # ---- What it does.

    def logits(self, tokens: Any) -> Array:
        """[B, T] ids -> logits [B, T, V], float32 (float64 for a float64 model)."""
        return self.engine.logits(tokens)

    def generate(
        self,
        prompt: Prompt = None,
        *,
        overflow: str = "refuse",
        allowed_special: Allowed = (),
        **given: Any,
    ) -> Any:
        """Continue one prompt: str, or list[str] when n > 1. Keyword arguments: `Sampling`'s.

        allowed_special: the special tokens that the prompt may spell, or "all" (`encode`).
        """
        asked = self.requests([prompt], overflow, given, allowed_special)
        parts = generate.pieces(self.engine, self.tokenizer, asked)
        texts = [done.text for done in generate.collect(parts, asked)]
        return texts[0] if len(texts) == 1 else texts

    def stream(
        self,
        prompt: Prompt = None,
        *,
        overflow: str = "refuse",
        allowed_special: Allowed = (),
        **given: Any,
    ) -> Iterator[Piece]:
        """Continue one prompt piece by piece; `piece.text` holds whole characters only.

        With n > 1 the pieces of all samples come in turn; `piece.index` tells them apart.
        """
        asked = self.requests([prompt], overflow, given, allowed_special)
        return generate.pieces(self.engine, self.tokenizer, asked)

    def complete(
        self,
        prompts: Any,
        *,
        overflow: str = "refuse",
        batch_size: int = 16,
        allowed_special: Allowed = (),
        **given: Any,
    ) -> list[Completion]:
        """Continue a text, a list of ids, or a list of either: a Completion for each sample.

        They come in the order of the prompts, and n for each. overflow: what to do with a prompt
        that is longer than the window (`generate.fit`). batch_size: how many are on their way at
        once; it changes the speed alone.
        """
        listed = _listed(prompts)
        asked = self.requests(listed, overflow, given, allowed_special)
        parts = generate.pieces(self.engine, self.tokenizer, asked, batch_size=batch_size)
        done = generate.collect(parts, asked)
        for completion in done:
            s = asked[completion.prompt].sampling
            completion.record = self.record(completion, s, listed[completion.prompt])
        return done

    def record(self, done: Completion, s: Sampling, prompt: Prompt = None) -> dict[str, Any]:
        """Everything that a text is a function of, and the text: plain values, ready for JSON."""
        return {
            "gpt2lab": __version__,
            "model": {"name": self.name, "format": self.checkpoint.format, "sha256": self.hash},
            "engine": engines.described(self.engine),
            "settings": s.to_dict(),
            "seed": s.seed,
            "index": done.index,
            "prompt": prompt if isinstance(prompt, str) else None,
            "prompt_tokens": done.prompt_tokens,
            "text": done.text,
            "tokens": done.tokens,
            "logprobs": done.logprobs,
            "finish_reason": done.finish_reason,
            "window": {
                "n_ctx": self.config.n_ctx,
                "keep": max(1, int(self.config.n_ctx * s.window_keep)),
                "slides": done.slides,
            },
        }

    def replay(self, record: Mapping[str, Any]) -> Completion:
        """Write the text of a record again. Another model than the record's is an error."""
        s, index = checked_record(record)
        model, engine = record["model"], record["engine"]
        theirs = model.get("sha256")  # of any kind: an array would compare as an array
        if not isinstance(theirs, str) or theirs != self.hash:
            raise InputError(
                f"the record was made with the model {quoted(model.get('name'))}, sha256 "
                f"{quoted(theirs)[:13]}, and {self.name!r} is {self.hash[:12]}; "
                "load that model"
            )
        here = engines.described(self.engine)
        if not _same(engine, here):
            raise InputError(
                f"the record was made with {_spelled(engine)}, this is {_spelled(here)}; "
                "load the model with that"
            )
        asked = requests([record["prompt_tokens"]], s, self.config, self.tokenizer)
        parts = generate.pieces(self.engine, self.tokenizer, asked, indices=[index])
        done = generate.collect(parts, asked)
        if not done:
            raise InputError(f"the record's index {index} is beyond the texts that its beams find")
        done[0].record = self.record(done[0], s, record.get("prompt"))
        return done[0]

    def score(
        self,
        text: Prompt,
        *,
        stride: int | None = None,
        after_end: bool | None = None,
        allowed_special: Allowed = (),
    ) -> scoring.Score:
        """How likely a text (or ids) is: total and per-token logprobs, perplexity, bits per byte.

        after_end: score the first token as the beginning of a document, after the end token; None
        does so where the model has one. What the vocabulary puts around a prompt is not scored;
        a begin token of its own is the one that `after_end` puts first. stride: how far the window
        moves in a text longer than it.
        """
        if text is None or (isinstance(text, str) and not text):
            raise InputError("the text is empty; give some text to score")
        tokens = self.encode(text, allowed_special, add_special_tokens=False)
        return scoring.score(
            self.engine, self.tokenizer, tokens, after_end=after_end, stride=stride
        )

    def trace(
        self,
        text: Any,
        names: Iterable[str] | str | None = None,
        layers: Iterable[int] | int | None = None,
        acts: Iterable[Act] = (),
        *,
        allowed_special: Allowed = (),
    ) -> Trace:
        """Every inner value of reading a text, by name: `lm.trace(text)["h.3.attn.pattern"]`.

        text: a text, ids, or several of one length. names: which values, as "pattern",
        "h.3.resid_post", "h.*.attn.*" or TransformerLens's hooks; layers: of which layers; the rest
        costs nothing. acts: interventions. The names are those of `lens.NAMES`.
        """
        from gpt2lab import lens

        if allowed_special:
            text = [self.encode(one, allowed_special) for one in _listed(text)]
        return lens.trace(self, text, names, layers, acts)

    def watch(
        self,
        prompt: Prompt = None,
        *,
        names: Iterable[str] | str | None = None,
        layers: Iterable[int] | int | None = None,
        acts: Iterable[Act] = (),
        overflow: str = "refuse",
        allowed_special: Allowed = (),
        **given: Any,
    ) -> Iterator[tuple[Piece, Trace]]:
        """`stream`, and with each piece the trace of the step that it was drawn from.

        The first trace is of the prompt, each further one of a single token after the cache.
        """
        from gpt2lab import lens

        [asked] = self.requests([prompt], overflow, given, allowed_special)
        return lens.watch(self, asked, names, layers, acts)


def _spelled(engine: Mapping[str, Any]) -> str:
    """An engine of a record for people."""
    words = {"name": "engine", "cache_dtype": "cache dtype"}
    told = (
        f"{words.get(key, str(key)[:40])} {value if isinstance(value, str) else quoted(value):.80}"
        for key, value in islice(engine.items(), 6)
    )
    return ", ".join(told)


def _same(one: Any, other: Mapping[str, Any]) -> bool:
    """Whether a record's engine is this one; a record may hold anything, also arrays."""
    return {str(k): quoted(v) for k, v in islice(one.items(), 9)} == {
        k: quoted(v) for k, v in other.items()
    }


def _yield_to(
    merged: dict[str, Any], recommended: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Where a number contradicts one that was only recommended, the latter gives way."""
    for key, other, pick in (("min_new_tokens", "max_new_tokens", min), ("num_beams", "n", max)):
        value = merged.get(other, getattr(Sampling, other))
        if key in recommended and key not in settings and isinstance(value, int):
            merged[key] = pick(recommended[key], value)


def _listed(given: Any) -> list[Prompt]:
    """One prompt or many, as a list of prompts. A flat list of ids is one prompt."""
    if given is None or isinstance(given, str):
        return [given]
    wrong = isinstance(given, bytes | bytearray | Mapping | set) or not isinstance(given, Iterable)
    if wrong or getattr(given, "ndim", 1) == 0:
        raise InputError(
            f"prompts are {quoted(given)}; they are texts, lists of token ids, or None"
        )
    listed = list(islice(given, MOST + 1))
    if not 0 < len(listed) <= MOST:
        raise InputError(f"there are no prompts, or more than {MOST}; give one at least")
    flat = not any(p is None or isinstance(p, str | Iterable) for p in listed)
    return [listed] if flat else listed


def checked_record(record: Any) -> tuple[Sampling, int]:
    """The settings and the index of a record; an error names what is missing or damaged in it."""
    if not isinstance(record, Mapping):
        raise InputError(f"no record of a generation: it is {type(record).__name__}")
    kinds = {"model": Mapping, "engine": Mapping, "settings": Mapping, "prompt_tokens": list}
    for key, kind in kinds.items():
        if not isinstance(record.get(key), kind):
            raise InputError(f"no record of a generation: its {key!r} is missing or damaged")
    missing = [f.name for f in fields(Sampling) if f.name not in record["settings"]]
    if missing:
        raise InputError(f"the record's settings lack {', '.join(missing)}; take the whole record")
    index = whole("the record's index", record.get("index"), 0, 2**64 - 1)
    return Sampling.from_dict(record["settings"]), index


def place(source: str | Path | None = None, download: bool = True) -> Path:
    """The path of a model by any name: on this machine first, else fetched from the hub.

    Raises InputError when there is no such model, or it would have to be fetched and `download` is
    False; Failure when the network fails.
    """
    name = source if isinstance(source, str) else None
    here = name is None or find.find(name) is not None or not find.can_be_fetched(name)
    if name is None or here or not download:
        return find.resolve(source)
    from gpt2lab.weights.hub import download as hub

    try:
        return hub.download(name)
    except (InputError, Failure) as error:
        kind = Failure if isinstance(error, Failure) else InputError
        raise kind(f"{name} is not on this machine, and {error}") from error


def load(
    source: str | Path | None = None,
    *,
    engine: str | None = None,
    dtype: str | None = None,
    download: bool = True,
    **more: Any,
) -> LM:
    """Load a model: None is the bundled "fable", else a path, an official size or a hub name.

    A path may be a folder or file of any format that `weights` knows; it is recognised by its
    content. "124M", "355M", "774M", "1558M" and hub names ("owner/name") are looked for on this
    machine first and downloaded otherwise, unless `download` is False.
    engine: "cpu", "numpy" or "torch"; None is the best there is. dtype: "float32", "bfloat16" or
    "int8" (cpu), "float64" (numpy, torch), "float16" (torch). More keyword arguments are those of
    `engines.choose`: cache_dtype and threads of cpu, device of torch.
    """
    path = place(source, download=download)
    checkpoint = weights.load(path)
    return LM(checkpoint, engine=engine, dtype=dtype, name=str(source or "fable"), **more)
