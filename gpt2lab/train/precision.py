"""Which number types a machine trains fast with, and whether a faster product is still exact."""

from __future__ import annotations

import time

import torch

from gpt2lab.config import Config
from gpt2lab.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _block_seconds(config: Config, dtype: torch.dtype, seconds: float) -> float:
    """The best time of a training step of one small block of this width, weights in float32.

    As in training: the products of a block, forward and backward, and the weights cast for them.
    """
    E = config.n_embd
    w = torch.ones(4 * E, E, requires_grad=True)
    x = torch.ones(512, E, dtype=dtype, requires_grad=True)  # [B T, E]
    best, end, tries = float("inf"), time.perf_counter() + seconds, 0
    while tries < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        cast = w.to(dtype)
        h = torch.nn.functional.gelu(x @ cast.T, approximate="tanh")  # [B T, 4 E]
        (h @ cast).float().sum().backward()
        best = min(best, time.perf_counter() - start)
        w.grad = x.grad = None
        tries += 1
    return best


def measured(config: Config, seconds: float = 0.5) -> tuple[torch.dtype, str]:
    """The quicker dtype on this CPU, and the figures in words: flags of a processor do not tell.

    bfloat16 must win by a tenth, as it is the less exact one. A Xeon with instructions for bfloat16
    and no units for its matrices was 0.65 times as quick with it.
    """
    times = {d: _block_seconds(config, d, seconds) for d in (torch.float32, torch.bfloat16)}
    times = {d: min(t, _block_seconds(config, d, 0.0)) for d, t in times.items()}
    ratio = times[torch.float32] / times[torch.bfloat16]
    best = torch.bfloat16 if ratio > 1.1 else torch.float32
    said = ", ".join(f"{str(d).removeprefix('torch.')} {1000 * t:.1f} ms" for d, t in times.items())
    return best, f"dtype auto is {str(best).removeprefix('torch.')} here: a block takes {said}"


def choose(
    dtype: str, device: torch.device, config: Config | None = None
) -> tuple[torch.dtype, str]:
    """The dtype of the arithmetic and why; "auto" is measured on a CPU, for a model of `config`."""
    if dtype == "auto" and device.type == "cpu" and config is not None:
        return measured(config)
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
