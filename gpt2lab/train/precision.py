"""Which number types a machine trains fast with, and whether a faster product is still exact."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from gpt2lab.config import Config
from gpt2lab.engines.torch.model import GPT2
from gpt2lab.errors import InputError
from gpt2lab.train.loss import cross_entropy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
GAIN = 1.1  # what bfloat16 must be quicker by
PROBE = 5e9  # operations of a pass by which it is measured: 0.1 s on two slow cores


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


class _Slice:
    """One layer of a model with its share of the head: of L layers, a step takes about L times as
    long as one of this, whatever its parts are. Of the tokens it takes as many as are cheap."""

    def __init__(self, config: Config, length: int) -> None:
        share = math.ceil(config.n_vocab / config.n_layer)
        with torch.device("meta"):  # nothing is drawn of the process's random numbers
            model = GPT2(replace(config, n_layer=1, n_vocab=share, end_tokens=()))
        self.model = model.to_empty(device="cpu")
        random = torch.Generator().manual_seed(0)
        for parameter in self.model.parameters():
            torch.nn.init.uniform_(parameter, -0.05, 0.05, generator=random)
        affordable = int(PROBE / (72 * config.n_embd**2))  # tokens, by the products of a layer
        tokens = max(64, min(512, affordable))
        length = min(length, tokens)
        size = (tokens // length, length)
        self.tokens = torch.randint(share, size, generator=random)  # [B, T]

    def seconds(self, dtype: torch.dtype) -> float:
        """The time of one pass there and back, as training makes it: weights in float32."""
        start = time.perf_counter()
        self.model.compute = dtype
        h = self.model.hidden(self.tokens).flatten(0, 1)  # [B T, E]
        cross_entropy(h, self.model.head, self.tokens.flatten(), 1.0).backward()
        self.model.zero_grad(set_to_none=True)
        return time.perf_counter() - start


def _is_settled(ratios: list[float]) -> bool:
    """Whether some turns all say the same."""
    return len(ratios) >= 5 and (min(ratios) > GAIN or max(ratios) < GAIN)


def _turns(
    run: Callable[[torch.dtype], float], seconds: float
) -> tuple[dict[torch.dtype, float], float]:
    """The medians of turns in float32 and bfloat16 one after the other, and that of their ratios.

    Taking turns, and medians, so that another program's load for a moment decides nothing.
    """
    times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    ratios: list[float] = []
    for dtype in times:
        run(dtype)  # the first is slower
    end = time.perf_counter() + seconds
    while len(ratios) < 3 or (time.perf_counter() < end and not _is_settled(ratios)):
        for dtype, found in times.items():
            found.append(run(dtype))
        ratios.append(times[torch.float32][-1] / times[torch.bfloat16][-1])
    return {dtype: median(found) for dtype, found in times.items()}, median(ratios)


def measured(config: Config, length: int, seconds: float = 1.0) -> tuple[torch.dtype, str]:
    """The quicker dtype on this CPU, and the figures in words: flags of a processor do not tell.

    bfloat16 must win by a tenth, as it is the less exact one. A Xeon with instructions for bfloat16
    and no units for its matrices was 0.65 times as quick with it. length: of the texts.
    """
    times, ratio = _turns(_Slice(config, length).seconds, seconds)
    best = torch.bfloat16 if ratio > GAIN else torch.float32
    figures = " and ".join(f"{1000 * t:.1f} ms in {_name(d)}" for d, t in times.items())
    return best, f"dtype auto is {_name(best)} here: one layer and its share of the head: {figures}"


def choose(
    dtype: str, device: torch.device, config: Config | None = None, length: int | None = None
) -> tuple[torch.dtype, str]:
    """The dtype of the arithmetic and why; "auto" is measured on a CPU, for a model of `config`.

    length: of the texts, the model's context where it is not given.
    """
    if dtype == "auto" and device.type == "cpu" and config is not None:
        return measured(config, length or config.n_ctx)
    if dtype == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32, ""
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype], ""


def _error_of_a_product() -> float:
    """The largest error of a float32 product of random matrices, in parts of a typical entry."""
    random = torch.Generator().manual_seed(0)
    a = torch.randn(256, 768, generator=random)
    b = torch.randn(768, 256, generator=random)
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).abs().max() / exact.std())


def quicken_float32() -> bool:
    """Let torch take its quicker float32 product where it is as exact; whether it does now.

    "medium" leads to oneDNN, which is 2.5 times MKL on processors that are not Intel's. Where there
    are units for bfloat16 matrices it means rounding to bfloat16 instead: the probe finds out.
    """
    torch.set_float32_matmul_precision("medium")
    if _error_of_a_product() < 2e-5:
        return True
    torch.set_float32_matmul_precision("highest")
    return False


def matmul_speed(dtype: torch.dtype, device: torch.device, seconds: float = 0.2) -> float:
    """Floating-point operations a second in a product of the sizes of training: what MFU is of."""
    a = torch.ones(1024, 1024, dtype=dtype, device=device)
    a @ a
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best
