"""Every setting of a training run, its range and what it means; the commands' flags are made of it.

What a setting does is described where it is used: `batches`, `optim`, `step`, `run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from gpt2lab.checks import number, one_of, whole
from gpt2lab.errors import InputError, quoted

#: Settings of the arithmetic on a CPU, which are chosen by measuring where they are "auto".
ARITHMETIC = ("dtype", "attention", "matmul", "loss")
BUDGETS = ("steps", "epochs", "tokens", "minutes")


#: The defaults of fine-tuning that differ from those of training from scratch.
TUNING: dict[str, Any] = {
    "epochs": 3.0,
    "batch_size": 8,
    "block_size": 128,
    "learning_rate": 1e-4,
    "warmup": 20,
    "weight_decay": 0.01,
    "val_every": 100,
    "sample_every": 100,
}


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run. Values out of range raise an error naming value and limit.

    Exactly one budget is given: steps, epochs, tokens or minutes. A batch counts over all
    processes, so the same settings are the same run on one and on many.
    """

    steps: Annotated[int | None, "Train for this many optimizer steps."] = None
    epochs: Annotated[float | None, "Train for this many passes over the data."] = None
    tokens: Annotated[int | None, "Train on this many tokens, rounded to whole blocks."] = None
    minutes: Annotated[
        float | None, "Train for this time, counted in steps; such a run is not reproducible."
    ] = None

    batch_size: Annotated[int, "Sequences per step, over all processes."] = 16
    micro_batch: Annotated[
        int | None,
        "Sequences per process at a time; a larger batch uses gradient accumulation.",
    ] = None
    block_size: Annotated[int | None, "Tokens per sequence; the context length by default."] = None
    order: Annotated[
        str, "Train on 'packed' documents in shuffled order, or on random 'windows'."
    ] = "packed"

    learning_rate: Annotated[float, "Peak learning rate."] = 6e-4
    final_learning_rate: Annotated[
        float | None, "Learning rate at the end; a tenth of the peak by default."
    ] = None
    warmup: Annotated[
        int, "Steps in which the learning rate rises to its peak; at most a tenth of the run."
    ] = 100
    schedule: Annotated[
        str, "How the learning rate falls after warmup: cosine, linear or constant."
    ] = "cosine"
    beta1: Annotated[float, "Decay rate of AdamW's mean of the gradients."] = 0.9
    beta2: Annotated[float, "Decay rate of AdamW's mean of the squared gradients."] = 0.95
    weight_decay: Annotated[float, "Weight decay for matrices."] = 0.1
    clip: Annotated[float, "Clip gradients to this norm; 0 is off."] = 1.0
    dropout: Annotated[float, "Dropout probability."] = 0.0
    train_only: Annotated[
        str, "Train 'all' parameters, or only 'blocks': embeddings and the last norm are frozen."
    ] = "all"
    seed: Annotated[int, "Random seed for the data order and dropout."] = 0

    dtype: Annotated[
        str,
        "Precision of the computation: float32, bfloat16 (mixed precision) or auto, the faster "
        "of the two; the weights are float32.",
    ] = "auto"
    attention: Annotated[
        str,
        "Attention on a CPU: two 'products' with a softmax between, torch's 'fused' function, or "
        "auto, the faster.",
    ] = "auto"
    matmul: Annotated[
        str,
        "Library of the float32 product on a CPU: torch's own 'blas', 'onednn' (only where it is "
        "as exact), or auto, the faster.",
    ] = "auto"
    loss: Annotated[
        str,
        "Loss on a CPU: over 'pieces' of the logits, 'whole', or auto, the faster where all "
        "logits are small.",
    ] = "auto"
    compile: Annotated[bool, "Compile each block with torch.compile."] = False
    recompute: Annotated[
        bool, "Use gradient checkpointing: less memory, about a third more time."
    ] = False
    parallel: Annotated[
        str, "With several processes: ddp, or fsdp if the model does not fit into one."
    ] = "ddp"
    device: Annotated[str | None, "Device: cpu, cuda or mps; cuda if available, else cpu."] = None
    threads: Annotated[int | None, "CPU threads; one per core by default."] = None

    on_spike: Annotated[
        str,
        "After a loss spike, 'skip' the step, go 'back' to the last checkpoint, or 'stop'.",
    ] = "skip"
    spike_sigma: Annotated[
        float, "Standard deviations above the mean of 128 steps that make a spike; 0 is off."
    ] = 6.0

    log_every: Annotated[int, "Steps between log records."] = 1
    validate: Annotated[bool, "Validate; without it no documents are held out."] = True
    val_every: Annotated[int, "Steps between validations; 0 validates only at the end."] = 250
    val_tokens: Annotated[
        int, "Validate on this many tokens, evenly spaced in the validation set; 0 is all."
    ] = 1 << 18
    patience: Annotated[
        int, "Early stopping: stop after this many validations without improvement; 0 is off."
    ] = 0
    save_every: Annotated[int, "Steps between checkpoints; 0 saves only at the end."] = 500
    save_total_limit: Annotated[int, "Checkpoints to keep besides the best one; 0 is all."] = 2
    sample_every: Annotated[int, "Steps between generated samples; 0 is never."] = 500
    sample_length: Annotated[int, "Tokens per sample."] = 60
    prompts: Annotated[
        tuple[str, ...],
        "Prompt of a sample; by default a sample starts a new document. Can be repeated.",
    ] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        for name, (check, *limits) in _RANGES.items():
            value = getattr(self, name)
            if value is not None or getattr(TrainConfig, name) is not None:
                plain = value.item() if hasattr(value, "item") else value  # of NumPy
                object.__setattr__(self, name, check(name, plain, *limits))
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} are given; a run has one budget, give one")
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise InputError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch "
                f"{self.micro_batch}; a step is made of equal parts"
            )
        if self.final > self.learning_rate:
            raise InputError(
                f"final_learning_rate {self.final} is above learning_rate {self.learning_rate}; "
                "the rate falls from the one to the other"
            )

    @property
    def final(self) -> float:
        """The learning rate at the end."""
        given = self.final_learning_rate
        return self.learning_rate / 10 if given is None else given

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {**asdict(self), "prompts": list(self.prompts)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`. Unknown keys are an error that lists them."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"unknown setting {', '.join(unknown)} of a training run")
        return cls(**values)


#: What may differ when a run is resumed: nothing that a weight depends on.
HARMLESS = ("save_every", "save_total_limit", "sample_every", "sample_length", "prompts",
            "log_every", "device")  # fmt: skip


def changes(old: TrainConfig, new: TrainConfig) -> list[str]:
    """What of two runs' settings differs in a way that weights depend on, as `name old -> new`."""
    before, after = old.to_dict(), new.to_dict()
    return [
        f"{name} {before[name]} -> {after[name]}"
        for name in before
        if before[name] != after[name] and name not in HARMLESS
    ]


def _texts(name: str, value: Any) -> Any:
    for text in value:
        if not isinstance(text, str) or not text:
            raise InputError(f"{name} holds {quoted(text)}; a prompt is a text")
    return value


_COUNT: tuple[Any, ...] = (whole, 1)
_COUNT_OR_OFF: tuple[Any, ...] = (whole, 0)

#: A check of `checks` and its limits for each field. None is allowed where it is the default.
_RANGES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("steps", "tokens", "batch_size", "micro_batch", "block_size"), _COUNT),
    **dict.fromkeys(("threads", "log_every", "sample_length"), _COUNT),
    **dict.fromkeys(("warmup", "val_every", "val_tokens", "patience"), _COUNT_OR_OFF),
    **dict.fromkeys(("save_every", "save_total_limit", "sample_every"), _COUNT_OR_OFF),
    "epochs": (number, 1e-9, 1e9),
    "minutes": (number, 1e-3, 1e9),
    "order": (one_of, ("packed", "windows")),
    "learning_rate": (number, 0, 10),
    "final_learning_rate": (number, 0, 10),
    "schedule": (one_of, ("cosine", "linear", "constant")),
    "beta1": (number, 0, 0.9999),
    "beta2": (number, 0, 0.99999),
    "weight_decay": (number, 0, 100),
    "clip": (number, 0, 1e9),
    "dropout": (number, 0, 0.99),
    "train_only": (one_of, ("all", "blocks")),
    "seed": (whole, 0, 2**63 - 1),
    "dtype": (one_of, ("auto", "float32", "bfloat16")),
    "attention": (one_of, ("auto", "products", "fused")),
    "matmul": (one_of, ("auto", "blas", "onednn")),
    "loss": (one_of, ("auto", "pieces", "whole")),
    "parallel": (one_of, ("ddp", "fsdp")),
    "on_spike": (one_of, ("skip", "back", "stop")),
    "spike_sigma": (number, 0, 1e6),
    "prompts": (_texts,),
}
