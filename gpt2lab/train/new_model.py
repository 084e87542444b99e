"""The shape of a model that is trained from scratch, and its initial weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gpt2lab.config import SIZES, Config
from gpt2lab.corpus.token_set import TokenSet
from gpt2lab.errors import InputError
from gpt2lab.init import initialise
from gpt2lab.weights import Checkpoint

#: What a user calls the numbers of a shape -> their names in `Config`.
SHAPE = {"layers": "n_layer", "heads": "n_head", "width": "n_embd", "context": "n_ctx"}


@dataclass(frozen=True)
class NewModel:
    """A model to train from scratch.

    size: an official size ("124M"), which layers, heads, width and context may change; without one
    they are those of a small model. init: how weights are drawn ("paper", "openai" or "hf").
    """

    size: str | None = None
    layers: int | None = None
    heads: int | None = None
    width: int | None = None
    context: int | None = None
    init: str | None = None

    def given(self) -> dict[str, Any]:
        """Return the fields that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def config(self, n_vocab: int, end_token: int | None) -> Config:
        """Return the configuration for a vocabulary; InputError if the shape is impossible."""
        ends = () if end_token is None else (end_token,)
        given = {SHAPE[name]: value for name, value in self.given().items() if name in SHAPE}
        if self.size is None:
            usual = {"n_layer": 6, "n_head": 6, "n_embd": 384, "n_ctx": 256}
            return Config(n_vocab=n_vocab, end_tokens=ends, **{**usual, **given})
        if self.size not in SIZES:
            raise InputError(f"size {self.size!r} is unknown; known: {', '.join(SIZES)}")
        return replace(SIZES[self.size], n_vocab=n_vocab, end_tokens=ends, **given)

    def checkpoint(self, tokens: TokenSet, seed: int) -> Checkpoint:
        """Return the untrained model for the vocabulary of a token set."""
        own = tokens.tokenizer
        end = own.end_token if own is not None else tokens.end_token
        config = self.config(tokens.n_vocab, end)
        params = initialise(config, seed, self.init or "paper")
        return Checkpoint(config, params, own, "scratch")

    def check_same(self, config: Mapping[str, Any]) -> None:
        """Raise InputError if a run that is resumed trains a model of another shape."""
        shape = self.given()
        wanted = self.config(config["n_vocab"], None).to_dict() if shape else {}
        names = SHAPE.values() if self.size else [SHAPE[name] for name in shape if name in SHAPE]
        for name in names:
            if wanted and config.get(name) != wanted[name]:
                raise InputError(
                    f"the run trains a model of {name} {config.get(name)}, not {wanted[name]}; "
                    "leave the shape out to resume, or choose another folder for a new run"
                )
