"""gpt2lab: the whole of GPT-2 in one Python package.

    import gpt2lab
    lm = gpt2lab.load()
    lm.generate("Once upon a time", max_new_tokens=60, seed=1)

These are the public words. Each is fetched when it is first used, so importing costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gpt2lab.chat import Chat, generate_response
    from gpt2lab.config import SIZES, Config
    from gpt2lab.corpus.prepare import prepare
    from gpt2lab.errors import Failure, InputError
    from gpt2lab.generation.generate import Completion, Piece
    from gpt2lab.generation.sampling import Sampling
    from gpt2lab.generation.stopping import StreamDecoder
    from gpt2lab.lm import LM, load
    from gpt2lab.score import Score
    from gpt2lab.text.tokenizer import Tokenizer
    from gpt2lab.train.config import TrainConfig
    from gpt2lab.train.finetune import finetune, pretrain

_HOME = {
    "Chat": "chat",
    "generate_response": "chat",
    "SIZES": "config",
    "Config": "config",
    "Failure": "errors",
    "InputError": "errors",
    "Completion": "generation.generate",
    "Piece": "generation.generate",
    "LM": "lm",
    "load": "lm",
    "Sampling": "generation.sampling",
    "Score": "score",
    "StreamDecoder": "generation.stopping",
    "Tokenizer": "text.tokenizer",
    "finetune": "train.finetune",
    "prepare": "corpus.prepare",
    "pretrain": "train.finetune",
    "TrainConfig": "train.config",
}

__all__ = [
    "LM",
    "SIZES",
    "Chat",
    "Completion",
    "Config",
    "Failure",
    "InputError",
    "Piece",
    "Sampling",
    "Score",
    "StreamDecoder",
    "Tokenizer",
    "TrainConfig",
    "finetune",
    "generate_response",
    "load",
    "prepare",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"gpt2lab.{_HOME[name]}"), name)
    raise AttributeError(f"module 'gpt2lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
