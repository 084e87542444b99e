"""What decides the bits of a model's logits, as a line of text, and a fingerprint of them.

The cpu engine's logits depend on the weights, their precision and its path through the kernels
(`engines.cpu.cpu_features.Target`), and on nothing else: neither the batch, nor the number of
threads, nor the machine. NumPy's and torch's depend on the libraries' versions and on the machine
too, so more is named, and decoding is promised on the same machine alone.
"""

from __future__ import annotations

import hashlib
import platform
from typing import Any

import numpy as np

from gpt2lab import engines
from gpt2lab.engines.protocol import Engine

PROBED = 16  # tokens


def _of_cpu(engine: Any) -> list[str]:
    return [engine.target.name]


def _of_numpy(engine: Any) -> list[str]:
    blas = np.show_config("dicts")["Build Dependencies"]["blas"]
    found = f"{blas.get('name')} {blas.get('version')}"
    return [f"NumPy {np.__version__}", found, _processor()]


def _of_torch(engine: Any) -> list[str]:
    import torch

    return [f"torch {torch.__version__}", f"{torch.get_num_threads()} threads", _processor()]


def _processor() -> str:
    """The processor's name for LLVM, which tells apart what BLAS libraries do."""
    from gpt2lab.engines.cpu import cpu_features

    try:
        return cpu_features.features()[0]
    except (ImportError, OSError, RuntimeError):
        return platform.machine()


def described_path(engine: Engine) -> str:
    """The engine's path in words, as "cpu int8, cache bfloat16, x86 AVX-512, VNNI"."""
    known = engines.described(engine)
    words = [f"{known.pop('name')} {known.pop('dtype')}"]
    labels = {"cache_dtype": "cache "}
    words += [f"{labels.get(name, '')}{value}" for name, value in known.items()]
    parts = {"cpu": _of_cpu, "numpy": _of_numpy, "torch": _of_torch}[engine.name](engine)
    return ", ".join([*words, *parts])


def fingerprint(engine: Engine) -> bytes:
    """A hash of the logits after each of a few tokens, bit for bit: 4 bytes."""
    c, cache, digest = engine.config, engine.cache(), hashlib.sha256()
    slot = cache.new()
    for i in range(min(PROBED, c.n_ctx)):
        logits = engine.step(cache, [slot], [[(i * i * 40503 + 7 * i) % c.n_vocab]])  # [1, V]
        digest.update(np.ascontiguousarray(logits).tobytes())
    cache.free(slot)
    return digest.digest()[:4]
