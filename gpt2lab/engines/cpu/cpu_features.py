"""What this processor can do for the CPU engine: which vectors, which products, which tiles.

The kernels are one program for every machine; a `Target` is what differs. It is chosen from the
processor's own list of features, and `gpt2lab models --verbose` says which one was taken.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from gpt2lab import forks
from gpt2lab.engines.cpu.layout import STEP, KStep
from gpt2lab.errors import InputError
from gpt2lab.files import file_facts
from gpt2lab.files.io import Identity, identity


@dataclass(frozen=True)
class Target:
    """One way through the kernels.

    name: for people. lanes: 32-bit numbers in a vector. rows: the height of the largest tile, its
    width is two vectors. features: LLVM's, of those that the kernels may use. bfloat16, int8: the
    products that serve these weights:
        "shift"  bfloat16 widened to float32 and multiplied by float32
        "pairs"  bfloat16 by bfloat16, two at a time (AVX512-BF16 of AMD)
        "int16"  int8 by int16 activations, two at a time (any machine)
        "vnni"   int8 by int8, four at a time (x86; weights stored with an offset)
        "dot"    int8 by int8, four at a time (Arm)
    int4 weights are multiplied by int8 activations ("nibbles") where int8 weights are "vnni", else
    by int16 activations ("nibbles16").
    """

    name: str
    lanes: int
    rows: int
    bfloat16: str
    int8: str
    x86: bool
    features: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many columns of a weight matrix stand side by side in a panel."""
        return 2 * self.lanes

    def product(self, dtype: str) -> str:
        """The product that serves weights of a dtype, a key of `layout.STEP`."""
        int4 = "nibbles" if self.int8 == "vnni" else "nibbles16"
        products = {"bfloat16": self.bfloat16, "int8": self.int8, "int4": int4, "float32": "float"}
        return products[dtype]

    def packs(self, dtype: str) -> bool:
        """Whether that product takes rows in another form than float32."""
        return self.product(dtype) not in ("float", "shift")

    def step(self, dtype: str) -> KStep:
        """That product's step along K."""
        return STEP[self.product(dtype)]


#: Features that AMD's processors alone have. Intel's take as long for a pair of bfloat16 as for two
#: products of float32, or longer: on an Emerald Rapids without AMX a prefill by pairs reached 0.61
#: of float32's rate, while weights widened to float32 reach it (1.08 on a Cascade Lake).
_AMD = {"sse4a", "clzero"}
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq")


def target_of(machine: str, features: frozenset[str]) -> Target | None:
    """The target of a processor, None where the kernels would be no faster than NumPy.

    machine: as `platform.machine()` says it. features: LLVM's names.
    """
    machine, kept = machine.lower(), tuple(sorted(features))
    if machine in ("x86_64", "amd64"):
        if set(_AVX512) <= features:
            pairs = "avx512bf16" in features and bool(_AMD & features)
            bfloat16 = "pairs" if pairs else "shift"
            int8 = "vnni" if "avx512vnni" in features else "int16"
            more = ", BF16" * (bfloat16 == "pairs") + ", VNNI" * (int8 == "vnni")
            return Target("x86 AVX-512" + more, 16, 12, bfloat16, int8, True, kept)
        if {"avx2", "fma"} <= features:
            int8 = "vnni" if "avxvnni" in features else "int16"
            more = ", VNNI" * (int8 == "vnni")
            return Target("x86 AVX2" + more, 8, 6, "shift", int8, True, kept)
        return None
    if machine in ("aarch64", "arm64"):
        int8 = "dot" if "dotprod" in features else "int16"
        return Target("Arm NEON" + ", dot" * (int8 == "dot"), 8, 6, "shift", int8, False, kept)
    return None


class Host(NamedTuple):
    """What LLVM says: its version (llvmlite's), its name for this processor, the features."""

    compiler: str
    name: str
    features: frozenset[str]


@cache
def _host() -> Host:
    """What LLVM says of this machine, remembered: importing it takes longer than a warm start."""
    library, processor = _llvm_library(), _processor()
    what = f"host {processor}"
    if library and processor and (found := _as_host(file_facts.recall([library], what))):
        return found
    found = _asked()
    if library and processor:
        file_facts.remember([library], what, [*found[:2], sorted(found.features)])
    return found


def _asked() -> Host:
    import llvmlite
    import llvmlite.binding as llvm

    with forks.whole():  # llvmlite has a lock of its own
        has, name = llvm.get_host_cpu_features(), llvm.get_host_cpu_name()
    names = {name for name, there in has.items() if there}
    if platform.machine().lower() in ("aarch64", "arm64"):  # LLVM asks for few, on macOS for none
        names |= {"neon", "dotprod"} if _dotprod() else {"neon"}
    return Host(llvmlite.__version__, name, frozenset(names))


def _llvm_library() -> Identity | None:
    """The file of LLVM, None where it is not found; what LLVM says is remembered beside it."""
    spec = find_spec("llvmlite")
    try:
        folder = Path(spec.origin).parent if spec and spec.origin else None
        return identity(folder / "binding" / "libllvmlite.so") if folder else None
    except InputError:
        return None


def _processor() -> str:
    """A hash of how the system describes the first processor; "" where it does not."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except (OSError, ValueError):
        return ""
    lines = [line for line in first.splitlines() if "MHz" not in line]  # which changes all the time
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _as_host(value: Any) -> Host | None:
    """A remembered value, None where it is none, or of another form."""
    try:
        version, name, features = value
        texts = all(isinstance(text, str) for text in (version, name, *features))
    except (TypeError, ValueError):
        return None
    return Host(version, name, frozenset(features)) if texts else None


def compiler() -> str:
    """The version of llvmlite, and with it of LLVM."""
    return _host().compiler


def features() -> tuple[str, frozenset[str]]:
    """LLVM's name for this processor and the features that it has."""
    return _host()[1:]


def _dotprod() -> bool:
    """Whether the system says that this Arm processor multiplies four int8 at a time (sdot)."""
    if platform.system() == "Darwin":
        return True  # since the first Mac with one
    try:
        if platform.system() == "Windows":
            kernel32 = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
            return bool(kernel32.IsProcessorFeaturePresent(43))
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
        return bool(getauxval(16) >> 20 & 1)  # AT_HWCAP, HWCAP_ASIMDDP
    except (AttributeError, OSError):
        return False


@cache
def here() -> Target | None:
    """The target of this machine; None where llvmlite is missing too."""
    try:
        found = features()[1]
    except (ImportError, OSError):
        return None
    return target_of(platform.machine(), found)


def why_not() -> str:
    """Why the cpu engine cannot run here, as part of a sentence; empty where it can."""
    if find_spec("llvmlite") is None or find_spec("numba") is None:
        return "the package numba is not installed"
    try:
        features()
    except (ImportError, OSError, RuntimeError) as error:
        return f"the package llvmlite does not load ({error})"
    if here() is None:
        return f"a {platform.machine()} processor without AVX2 or NEON is not served"
    return ""


def cores() -> int:
    """How many physical cores this process may use: its affinity and its container's quota."""
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
        count = len({_siblings(cpu) for cpu in allowed})
    else:
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return count


def _siblings(cpu: int) -> str:
    """A text that logical processors of one core have in common."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def memory() -> int | None:
    """Bytes of memory that are free for this process to take, None where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    found = free * 1024
    try:
        folder = Path("/sys/fs/cgroup")
        limit = (folder / "memory.max").read_text().strip()
        if limit != "max":
            used = int((folder / "memory.current").read_text())
            found = min(found, max(0, int(limit) - used))
    except (OSError, ValueError):
        pass
    return found
