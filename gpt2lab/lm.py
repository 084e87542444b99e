"""The model object: configuration, parameters, tokenizer and engine, with short ways to use them.

All work is done by the floors below; `generation.request` says what may be asked for.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2lab import engines, records, weights
from gpt2lab import score as scoring
from gpt2lab.engines.numpy_engine import NumpyEngine
from gpt2lab.errors import InputError, few, quoted
from gpt2lab.generation import request
from gpt2lab.generation.generate import Completion, Piece, collect, pieces
from gpt2lab.generation.request import Prompt, Request, as_prompts, naming, one_or_many
from gpt2lab.generation.sampling import Sampling
from gpt2lab.text.tokenizer import Allowed
from gpt2lab.weights.checkpoint import model_hash
from gpt2lab.weights.hub import locate

if TYPE_CHECKING:
    from gpt2lab.lens import Act, Trace

Array = np.ndarray[Any, np.dtype[Any]]

log = logging.getLogger(__name__)


class LM:
    """A GPT-2 that is ready to use; `load` makes one.

    config: the `Config`. params: name -> array, as in the checkpoints. tokenizer: or None where the
    files hold no vocabulary. engine: an `engines.protocol.Engine`. name: how it was asked for.

    Methods take as `given` the fields of `Sampling`, or other systems' names for them; as
    allowed_special the special tokens that a text may spell, or "all"; as overflow what to do with
    a prompt that is longer than the window (`request.fit`).
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
        self._hash = ""
        if unknown := more.keys() - {"cache_dtype", "threads", "device"}:
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
        """sha256 over configuration and parameters, the same whatever file they came from."""
        if not self._hash:
            self._hash = model_hash(self.checkpoint)
        return self._hash

    def acting(self, *acts: Act | Iterable[Act]) -> LM:
        """The same model with interventions on its inner values, as an object beside this one.

        acts: acts, or lists of them. Heads and neurons that are silenced or scaled, and directions
        added to the residual stream, at all positions, are computed by the cpu engine in its own
        step, at its speed. With any other act the reference in NumPy computes; the log says so.
        """
        from gpt2lab import lens
        from gpt2lab.lens.hook_names import as_list

        other, given = copy.copy(self), [act for group in acts for act in as_list(group)]
        other.acts = (*self.acts, *lens.lasting(lens.checked(given, self.config)))
        linear = lens.linear(other.acts, self.config)
        if linear is None and self.engine.name == "cpu":
            told = "; ".join(act.title for act in other.acts)
            log.info(f"the numpy engine generates, as the cpu engine does not compute {told:.200}")
        other.engine = engines.acting(self.engine, linear, other._acting_reference)
        return other

    def _acting_reference(self) -> NumpyEngine:
        """The reference with this model's acts."""
        from gpt2lab import lens
        from gpt2lab.lens.traces import exact

        plain, acts = exact(self), self.acts
        return NumpyEngine(
            self.config,
            plain.params,
            plain.dtype,
            tap=lambda before: lens.tap(acts, before),
            acts=[act.about for act in acts],
        )

    def settings(self, prompt_length: int = 0, **given: Any) -> Sampling:
        """The `Sampling` of these settings, over what the checkpoint's files recommend."""
        return request.settings(given, self.checkpoint, prompt_length)

    def encode(
        self, prompt: Prompt, allowed_special: Allowed = (), *, add_special_tokens: bool = True
    ) -> list[int]:
        """A prompt as ids: a text, ids, or None for the beginning of a document."""
        return request.encode(
            prompt, self.checkpoint, allowed_special, add_special_tokens=add_special_tokens
        )

    def requests(
        self,
        prompts: Sequence[Prompt],
        overflow: str,
        given: Mapping[str, Any],
        allowed_special: Allowed = (),
        names: Sequence[str] = (),
    ) -> list[Request]:
        """A request for each prompt; names: what to call each in an error, else its number."""
        return request.requested(
            prompts,
            given,
            self.checkpoint,
            overflow=overflow,
            allowed_special=allowed_special,
            names=names,
        )

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids, the inverse of `encode`; InputError without a tokenizer."""
        if self.tokenizer is None:
            raise InputError(f"{self.name} comes without a tokenizer; its ids have no text")
        return self.tokenizer.decode(tokens)

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
        """Continue one prompt: str, or list[str] when n > 1."""
        asked = self.requests([prompt], overflow, given, allowed_special)
        texts = [done.text for done in self._completions(asked)]
        return texts[0] if len(texts) == 1 else texts

    def stream(
        self,
        prompt: Prompt = None,
        *,
        overflow: str = "refuse",
        allowed_special: Allowed = (),
        **given: Any,
    ) -> Iterator[Piece]:
        """Continue one prompt piece by piece, whole characters each; of n samples in turn."""
        asked = self.requests([prompt], overflow, given, allowed_special)
        return pieces(self.engine, self.tokenizer, asked)

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

        They come in the order of the prompts, and n for each. batch_size: how many are on their way
        at once; it changes the speed alone.
        """
        listed = as_prompts(prompts)
        asked = self.requests(listed, overflow, given, allowed_special)
        done = self._completions(asked, batch_size=batch_size)
        for one in done:
            one.record = self.record(one, asked[one.prompt].sampling, listed[one.prompt])
        return done

    def _completions(self, asked: list[Request], **options: Any) -> list[Completion]:
        return collect(pieces(self.engine, self.tokenizer, asked, **options), asked)

    def record(self, done: Completion, s: Sampling, prompt: Prompt = None) -> dict[str, Any]:
        """Everything that a text is a function of, and the text: plain values, ready for JSON."""
        return records.record(done, s, prompt, self._origin(), self.config.n_ctx)

    def _origin(self) -> records.Origin:
        """What a record names besides the settings: the model and the engine."""
        model = {"name": self.name, "format": self.checkpoint.format, "sha256": self.hash}
        return records.Origin(model, engines.described(self.engine))

    def replay(self, record: Mapping[str, Any]) -> Completion:
        """Generate the text of a record again. Another model than the record's is an error."""
        s, index = records.checked_record(record)
        records.check_origin(record, self._origin())
        prompt = self.encode(record["prompt_tokens"])
        asked = request.requests([prompt], s, self.config, self.tokenizer)
        done = self._completions(asked, indices=[index])
        if not done:
            raise InputError(f"the record's index {index} is beyond the texts that its beams find")
        done[0].record = self.record(done[0], s, record.get("prompt"))
        return done[0]

    def score(
        self,
        text: Any,
        *,
        stride: int | None = None,
        after_end: bool | None = None,
        allowed_special: Allowed = (),
    ) -> Any:
        """How likely a text (or ids) is: total and per-token logprobs, perplexity, bits per byte.

        A `Score`; for a list of texts (or of lists of ids) a list of them, read together.
        after_end: score the first token too, as the beginning of a document; None does so where the
        model has an end token. stride: how far the window moves in a text longer than it.
        """
        listed, several = one_or_many(text)
        names = [f"text {i}" for i, _ in enumerate(listed, 1)] if several else [""]
        encoded = []
        for name, each in zip(names, listed, strict=True):
            with naming(name):
                if each is None or (isinstance(each, str) and not each):
                    raise InputError("the text is empty; give some text to score")
                ids = self.encode(each, allowed_special, add_special_tokens=False)
                encoded.append(scoring.check_text(ids, self.config, after_end))
        found = scoring.scores(
            self.engine, self.tokenizer, encoded, after_end=after_end, stride=stride
        )
        return found if several else found[0]

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

        text: a text, ids, or several of one length. names (of `lens.NAMES`): as "pattern",
        "h.3.resid_post", "h.*.attn.*" or TransformerLens's hooks; layers: of which layers; the rest
        costs nothing. acts: interventions.
        """
        from gpt2lab import lens

        if allowed_special:
            text = [self.encode(one, allowed_special) for one in as_prompts(text)]
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
        """`stream`, and with each piece the trace of the step that it was drawn from."""
        from gpt2lab import lens

        [asked] = self.requests([prompt], overflow, given, allowed_special)
        return lens.watch(self, asked, names, layers, acts)


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
    engine: "cpu", "numpy" or "torch"; None is the best there is. dtype: "float32", "bfloat16",
    "int8" or "int4" (cpu), "float64" (numpy, torch), "float16" (torch). More keyword arguments are
    those of `engines.choose`: cache_dtype and threads of cpu, device of torch.
    """
    path = locate(source, download=download)
    checkpoint = weights.load(path)
    return LM(checkpoint, engine=engine, dtype=dtype, name=str(source or "fable"), **more)
