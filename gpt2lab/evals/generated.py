"""What sampled text is like: variety, repetition, and what it copies.

Each piece of a text gives a prompt of up to 64 tokens, which the model continues by 64 tokens with
its default settings and a seed of its own. Rates over all continuations:

    distinct-2       different pairs of neighbouring words, of all pairs of one continuation
    repeated-4       runs of 4 words that occurred before in the same continuation
    copied-8         runs of 8 words that the given text holds (`text.txt`: the training text, say)

Words are lower-case and alphanumeric, as in the overlap tables of the paper (section 4). The
control is the text's own continuation of the same prompts, by the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpt2lab.evals import reading
from gpt2lab.evals.data import Published
from gpt2lab.evals.measures import Measure
from gpt2lab.evals.perplexity import TextBlock, pieces
from gpt2lab.evals.task import Task, Watch
from gpt2lab.lm import LM

PROMPT, CONTINUED, TOGETHER = 64, 64, 16


def runs(text: str, length: int) -> list[tuple[str, ...]]:
    """The runs of `length` neighbouring words of a text."""
    words = re.findall(r"\w+", text.lower())
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]


def repeated(found: Sequence[tuple[str, ...]]) -> int:
    """How many runs occurred before."""
    return len(found) - len(set(found))


def rates(texts: Sequence[str], known: set[tuple[str, ...]]) -> list[Measure]:
    """The rates of continuations. known: runs of 8 words."""
    distinct, again = Measure("distinct-2", "rate"), Measure("repeated-4", "rate")
    copied = Measure("copied-8", "rate")
    for text in texts:
        pairs, fours, eights = (runs(text, n) for n in (2, 4, 8))
        distinct.add(len(set(pairs)), len(pairs))
        again.add(repeated(fours), len(fours))
        copied.add(sum(run in known for run in eights), len(eights))
    return [distinct, again, copied]


def score_generated(lm: LM, blocks: list[TextBlock], watch: Watch) -> list[Measure]:
    """The rates of the model's continuations; of the text's own where the blocks are swapped."""
    count = max(1, min(PROMPT, lm.config.n_ctx // 2))
    tokens = [reading.ids(lm, block.text) for block in blocks]
    known = {run for block in blocks for run in runs(block.text, 8)}
    if any(block.swapped for block in blocks):
        texts = [lm.decode(ids[count : count + CONTINUED]) for ids in tokens]
        known = set()  # the text would copy itself
        return rates(texts, known)
    texts = []
    for start in range(0, len(tokens), TOGETHER):
        prompts = [ids[:count] for ids in tokens[start : start + TOGETHER]]
        done = lm.complete(prompts, max_new_tokens=CONTINUED, seed=start)
        texts += [one.text for one in done]
        watch(len(texts))
    return rates(texts, known)


def _load(path: Path) -> list[TextBlock]:
    return [block for block in pieces(path) if block.text.strip()]


generated = Task(
    "generated",
    "continuations of a text (text.txt)",
    "today",
    (Published(("text.txt",)),),
    _load,
    score_generated,
    lambda blocks: [replace(block, swapped=True) for block in blocks],
)
