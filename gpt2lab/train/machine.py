"""What a machine trains with: the device, its threads, memory that is kept, the faster dtype."""

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from statistics import median

from gpt2lab import forks
from gpt2lab.config import Config
from gpt2lab.engines.torch.model import GPT2
from gpt2lab.errors import InputError
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.loss import cross_entropy
from gpt2lab.train.parallel.group import ALONE, Group

import torch  # isort: skip  (after the model, which names the extra that it is in)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GAIN = 1.1  # what bfloat16 must be faster by, as it is the less exact one
PROBE = 5e9  # operations of a pass by which it is measured: 0.1 s on two slow cores
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def ready(
    settings: TrainConfig, config: Config | None = None, group: Group = ALONE
) -> tuple[TrainConfig, torch.device, list[str]]:
    """Prepare the process for training; return settings with device and dtype chosen, and notes.

    config: of the model, for which dtype "auto" is measured; the notes then name the figures.
    """
    device = _device(settings.device)
    if forks.torch_is_inherited and (settings.threads or 1) > 1:
        raise InputError(
            f"threads is {settings.threads}, and torch computes with one in a process forked from "
            "one that had imported it; leave threads out, or start the process by spawn"
        )
    if settings.threads:
        torch.set_num_threads(settings.threads)
    keep_memory()
    if device.type == "cpu":
        quicken_float32()
    dtype, why = group.agree(
        lambda: choose_dtype(settings.dtype, device, config, settings.block_size)
    )
    return replace(settings, dtype=dtype, device=str(device)), device, [why] if why else []


def _device(name: str | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here ({error!s:.100})") from None
    return device


# ---- Memory.


def keep_memory() -> bool:
    """Ask the C library to keep what a step frees for the next one; return whether it will.

    glibc gives large freed blocks back to the system, and every step's tensors are then mapped and
    zeroed again, a page fault for each 4 KB: 1.2 to 1.7 times the time of a step on a CPU. Other C
    libraries do not know these settings.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            if libc.gnu_get_libc_version:
                return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, -1))
    return False


def peak_memory() -> int:
    """Return the most memory that this process has held in bytes, 0 if the system does not say."""
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


# ---- Which dtype is faster.


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
        self.tokens = torch.randint(share, (tokens // length, length), generator=random)  # [B, T]

    def seconds(self, dtype: torch.dtype) -> float:
        """The time of one forward and backward pass of mixed precision."""
        start = time.perf_counter()
        self.model.compute = dtype
        h = self.model.hidden(self.tokens).flatten(0, 1)  # [B T, E]
        cross_entropy(h, self.model.head, self.tokens.flatten(), 1.0).backward()
        self.model.zero_grad(set_to_none=True)
        return time.perf_counter() - start


def _turns(run: Callable[[torch.dtype], float], seconds: float) -> tuple[float, float, float]:
    """The medians of turns in float32, in bfloat16, and of their ratio.

    Taking turns, and medians, so that another program's load for a moment decides nothing. It ends
    early where five turns all say the same.
    """
    for dtype in (torch.float32, torch.bfloat16):
        run(dtype)  # the first is slower
    wide: list[float] = []
    narrow: list[float] = []
    ratios: list[float] = []
    end = time.perf_counter() + seconds
    while len(ratios) < 3 or time.perf_counter() < end:
        wide.append(run(torch.float32))
        narrow.append(run(torch.bfloat16))
        ratios.append(wide[-1] / narrow[-1])
        if len(ratios) >= 5 and (min(ratios) > GAIN or max(ratios) < GAIN):
            break
    return median(wide), median(narrow), median(ratios)


def measured_dtype(config: Config, length: int, seconds: float = 1.0) -> tuple[str, str]:
    """Return the faster dtype on this CPU, and the figures: a processor's flags do not tell.

    A Xeon with instructions for bfloat16 and no units for its matrices was 0.65 times as fast with
    it. length: tokens per sequence.
    """
    wide, narrow, ratio = _turns(_Slice(config, length).seconds, seconds)
    best = "bfloat16" if ratio > GAIN else "float32"
    return best, (
        f"dtype auto is {best} here: one layer and its share of the head: "
        f"{1000 * wide:.1f} ms in float32 and {1000 * narrow:.1f} ms in bfloat16"
    )


def choose_dtype(
    dtype: str, device: torch.device, config: Config | None = None, length: int | None = None
) -> tuple[str, str]:
    """Return the dtype of the arithmetic and why; on a CPU "auto" is measured for `config`.

    length: tokens per sequence, the model's context by default.
    """
    if dtype != "auto":
        return dtype, ""
    if device.type == "cpu" and config is not None:
        return measured_dtype(config, length or config.n_ctx)
    has_units = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bfloat16" if has_units else "float32", ""


# ---- How fast products are.


def _error_of_a_product() -> float:
    """The largest error of a float32 product of random matrices, in parts of a typical entry."""
    random = torch.Generator().manual_seed(0)
    a = torch.randn(256, 768, generator=random)
    b = torch.randn(768, 256, generator=random)
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).abs().max() / exact.std())


def quicken_float32() -> bool:
    """Let torch take its faster float32 product where it is as exact; return whether it does now.

    "medium" leads to oneDNN, which is 2.5 times MKL on processors that are not Intel's. Where there
    are units for bfloat16 matrices it means rounding to bfloat16 instead: the probe finds out.
    """
    torch.set_float32_matmul_precision("medium")
    if _error_of_a_product() < 2e-5:
        return True
    torch.set_float32_matmul_precision("highest")
    return False


def matmul_speed(dtype: torch.dtype, device: torch.device, seconds: float = 0.2) -> float:
    """Floating-point operations per second in a product of the sizes of training, for the MFU."""
    a = torch.ones(1024, 1024, dtype=dtype, device=device)
    a @ a
    best, end = float("inf"), time.perf_counter() + seconds
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    while time.perf_counter() < end:
        synchronize()
        start = time.perf_counter()
        a @ a
        synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best
