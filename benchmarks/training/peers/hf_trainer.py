"""The Hugging Face Trainer on its own GPT-2, in bfloat16 on a CPU, with its default optimiser.

Dropout is off, or its work would be another; its attention is torch's fused function. A row of T
tokens has T - 1 targets here, as the model shifts its labels itself.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from benchmarks.training.cases import Case
from benchmarks.training.contenders import Trained


class Rows:
    """A map-style data set of windows of the tokens."""

    def __init__(self, case: Case, count: int) -> None:
        import numpy as np

        self.data, self.block = case.tokens(), case.block
        self.starts = np.random.default_rng(0).integers(0, len(self.data) - case.block, count)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> dict[str, Any]:
        import torch

        start = self.starts[i]
        row = torch.from_numpy(self.data[start : start + self.block].astype("int64"))
        return {"input_ids": row, "labels": row}


def build(case: Case) -> Any:
    from transformers import AutoModelForCausalLM, GPT2Config

    config = GPT2Config(
        vocab_size=case.n_vocab,
        n_positions=case.block,
        n_embd=case.n_embd,
        n_layer=case.n_layer,
        n_head=case.n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    make: Any = AutoModelForCausalLM.from_config
    return make(config, attn_implementation="sdpa")


def watch(trained: Trained) -> Any:
    """A callback that notes when steps end and what they lost."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            trained.times.append(time.perf_counter())

        def on_log(self, *_: Any, **given: Any) -> None:
            if "loss" in given["logs"]:
                trained.losses.append(float(given["logs"]["loss"]))

    return Watch()


def train(case: Case, steps: int, threads: int, compiled: bool) -> Trained:
    import torch
    from transformers import Trainer, TrainingArguments

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    trained = Trained()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            bf16=True,
            torch_compile=compiled,
            per_device_train_batch_size=case.batch,
            max_steps=steps,
            learning_rate=1e-3,
            weight_decay=0.1,
            adam_beta2=0.95,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        rows = Rows(case, case.batch * steps)
        Trainer(build(case), arguments, train_dataset=rows, callbacks=[watch(trained)]).train()
    return trained
