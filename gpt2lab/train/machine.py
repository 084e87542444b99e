"""What a machine trains with: the device, its threads, memory that is kept, the arithmetic."""

from __future__ import annotations

import ctypes
import sys
import time
from contextlib import suppress
from dataclasses import replace

from gpt2lab import forks
from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.train import probe
from gpt2lab.train.config import TrainConfig
from gpt2lab.train.parallel.group import ALONE, Group

import torch  # isort: skip  (after the model, which names the extra that it is in)

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def ready(
    settings: TrainConfig, config: Config | None = None, group: Group = ALONE
) -> tuple[TrainConfig, torch.device, list[str]]:
    """Prepare the process for training; return settings with device and arithmetic, and notes.

    config: of the model, for which what is "auto" is measured on a CPU; the notes then name the
    figures. Without it "auto" is what it was in runs before it was measured.
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
    if device.type != "cpu":
        if settings.dtype == "auto":
            settings = replace(settings, dtype=_dtype_of(device))
        return replace(settings, device=str(device)), device, []
    why = ""
    if config is None:
        settings = probe.plain(settings)
    else:
        rows = settings.micro_batch or max(1, settings.batch_size // group.world)
        settings, why = group.agree(lambda: probe.choose(config, settings, rows))
    notes = [why, _take_matmul(settings, group)]
    return replace(settings, device=str(device)), device, [note for note in notes if note]


def _take_matmul(settings: TrainConfig, group: Group) -> str:
    """Take the same float32 product in all processes; return why it is not that of the settings."""
    if not group.any(not probe.use_matmul(settings.matmul)):
        return ""
    probe.use_matmul("blas")
    if settings.dtype != "float32":
        return ""
    return "matmul onednn rounds float32 to bfloat16 on this processor; blas is used instead"


def _dtype_of(device: torch.device) -> str:
    """The dtype for "auto" on a device that is no CPU."""
    has_units = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bfloat16" if has_units else "float32"


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


# ---- How fast products are.


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
