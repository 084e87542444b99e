"""Help under headings: which option of a command is listed where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

#: Heading -> names of parameters, in the order of the help. A command combines some of these.
Headings = Mapping[str, Sequence[str]]

MODEL: Headings = {
    "Model": ("model", "dtype", "cache_dtype", "engine", "device", "threads"),
}
SAMPLING: Headings = {
    "Length and stopping": ("max_new_tokens", "min_new_tokens", "stop", "truncate", "stop_tokens",
                            "ignore_end", "end_on", "overflow", "window_keep"),
    "Sampling": ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff",
                 "eta_cutoff", "seed", "preset", "processors"),
    "Repetition and banned words": ("repetition_penalty", "presence_penalty", "frequency_penalty",
                                    "no_repeat_ngram_size", "bad_words", "logit_bias"),
    "Samples and beams": ("n", "num_beams", "length_penalty", "early_stopping", "endless",
                          "batch_size"),
}  # fmt: skip
READING: Headings = {
    "Reading texts": ("columns", "field", "separator", "encoding", "delimiter", "header", "lines",
                      "keep_line_ends", "split_at_end_token", "allow_special"),
}  # fmt: skip
TRAINING: Headings = {
    "Budget (one of these)": ("steps", "epochs", "tokens", "minutes"),
    "Batches": ("batch_size", "micro_batch", "block_size", "order", "seed"),
    "Optimizer": ("learning_rate", "final_learning_rate", "warmup", "schedule", "weight_decay",
                  "beta1", "beta2", "clip", "dropout", "train_only", "on_spike", "spike_sigma"),
    "Validation, samples and checkpoints": ("validate", "val_every", "val_tokens", "patience",
                                            "save_every", "save_total_limit", "sample_every",
                                            "sample_length", "prompts", "log_every"),
    "Hardware": ("device", "threads", "dtype", "attention", "matmul", "loss",
                 "compile", "recompute", "parallel"),
}  # fmt: skip


class Headed(click.Command):
    """A command whose help lists the options under headings."""

    def __init__(self, *args: Any, headings: Headings, **named: Any) -> None:
        super().__init__(*args, **named)
        self.headings = headings

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each heading; what none names (--help) comes last."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        shown = {str(option.name): option.get_help_record(ctx) for option in options}
        records = {name: record for name, record in shown.items() if record is not None}
        width = min(30, max(len(flags) for flags, _ in records.values()))
        for heading, names in {**self.headings, "Other": tuple(records)}.items():
            rows = [records.pop(name) for name in names if name in records]
            if rows:
                with formatter.section(heading):  # the same column in each section
                    formatter.write_dl([(f"{flags:<{width}}", text) for flags, text in rows])
