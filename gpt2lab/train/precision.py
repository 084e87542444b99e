"""Which number types a machine trains fast with, and whether a faster product is still exact."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from gpt2lab.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is quicker than float32 there: instructions for it, not an emulation."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return any(f" {name}" in flags for name in ("avx512_bf16", "amx_bf16", "bf16"))


def choose(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of the arithmetic; "auto" is bfloat16 where the device is made for it."""
    if dtype == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


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
