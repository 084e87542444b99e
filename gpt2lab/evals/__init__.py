"""Benchmarks with the protocol in every cell: the visible table of tasks.

A benchmark is a module that ends in its `Task`: files as published, a loader, the scoring under
each protocol, the control, published targets. `suite` runs them and keeps finished ones. Shared:
`measures` numbers and standard errors, `data` files, `reading` texts as tokens, `detokenizers`.

To add one: a module with a `Task`, and a line in `TASKS`.
"""

from __future__ import annotations

from gpt2lab.evals import bytes_of_text, choices, generated, lambada, perplexity
from gpt2lab.evals.task import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        lambada.lambada,
        lambada.lambada_original,
        choices.cbt_cn,
        choices.cbt_ne,
        perplexity.wikitext2,
        perplexity.wikitext103,
        perplexity.ptb,
        perplexity.one_billion,
        bytes_of_text.enwik8,
        bytes_of_text.text8,
        choices.winograd,
        choices.hellaswag,
        choices.piqa,
        choices.arc_easy,
        choices.arc_challenge,
        bytes_of_text.text,
        generated.generated,
    )
}
SUITES = ("paper", "today", "all")
