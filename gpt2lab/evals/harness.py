"""gpt2lab as a model of lm-evaluation-harness, for its own tasks and command.

The next release of the harness finds the class by the entry point `lm_eval.models`; release 0.4.13
has no plug-ins, so `gpt2lab evaluate --harness ARGS` imports this module and calls its command.
Log-probabilities come from the engine's own scoring, so a score here is the one of `lm.score`.

Source of the contract: lm_eval/api/model.py (`TemplateLM`), lm_eval/utils.py (windows).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from gpt2lab import score
from gpt2lab.engines.fallback import settled
from gpt2lab.errors import InputError, MissingExtraError
from gpt2lab.evals import reading
from gpt2lab.evals.perplexity import harness_windows
from gpt2lab.lm import load

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError:
    raise MissingExtraError("the evaluation harness", "lm_eval", "harness") from None

OPTIONS = ("engine", "dtype", "cache_dtype", "threads", "device")


@register_model("gpt2lab")
class Harness(TemplateLM):  # type: ignore[misc]
    """A loaded model. pretrained: as `gpt2lab.load` takes it; more of its options by name."""

    def __init__(self, pretrained: str | None = None, batch_size: Any = 1, **more: Any) -> None:
        super().__init__()
        given = {name: more[name] for name in OPTIONS if more.get(name) is not None}
        if given.get("engine", "cpu") != "torch":  # the harness's command names one by default
            given.pop("device", None)
        self.lm = load(pretrained, **given)
        self.lm.engine = settled(self.lm.engine)
        if self.lm.tokenizer is None or self.lm.config.begin is None:
            raise InputError(
                f"{self.lm.name} has no tokenizer or no end token, which the harness needs; "
                "evaluate a model that has both"
            )

    @property
    def eot_token_id(self) -> int:
        """The token that documents begin after."""
        assert self.lm.config.begin is not None
        return self.lm.config.begin

    @property
    def max_length(self) -> int:
        """The context window."""
        return self.lm.config.n_ctx

    @property
    def tokenizer_name(self) -> str:
        """What cached requests are kept under."""
        return self.lm.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **more: Any
    ) -> list[int]:
        """The tokens of a text."""
        return reading.ids(self.lm, string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **more: Any
    ) -> list[tuple[float, bool]]:
        """The log-probability of each ending, and whether greedy decoding gives it.

        Contexts are cut from the left to fit the window, as in the harness's own models.
        """
        asked = [(context, [ending]) for _, context, ending in requests]
        found = reading.questions(self.lm, asked, lambda done: None)
        return [(answer.total, answer.greedy) for [answer] in found]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in the harness's windows."""
        texts = [reading.ids(self.lm, request.args[0]) for request in requests]
        windows = [harness_windows(self.lm, tokens) for tokens in texts]
        asked = [window for text in windows for window in text]
        found = iter(score.continuations(self.lm.engine, asked))
        return [sum(next(found)[0].total for _ in text) for text in windows]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Continue each text until a stop string, greedily unless sampling is asked for."""
        return [self._continued(*request.args) for request in requests]

    def _continued(self, context: str, given: dict[str, Any]) -> str:
        until = given.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        count = int(given.get("max_gen_toks", 256))
        room = self.lm.config.n_ctx - min(count, self.lm.config.n_ctx // 2)
        prompt = reading.ids(self.lm, context)[-room:] or [self.eot_token_id]
        sampled = given.get("do_sample", False)
        temperature = float(given.get("temperature", 1.0)) if sampled else 0.0
        [done] = self.lm.complete(
            prompt,
            max_new_tokens=count,
            temperature=temperature,
            stop=[text for text in until if text],
        )
        return done.text


def main(arguments: Sequence[str]) -> None:
    """Run the harness's command with these arguments, and this model where none is named."""
    from lm_eval.__main__ import cli_evaluate

    words = list(arguments)
    if not {"--model", "-M"} & set(words):
        words += ["--model", "gpt2lab"]
    sys.argv = ["lm_eval", *words]
    cli_evaluate()
