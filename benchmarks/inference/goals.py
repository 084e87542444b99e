"""What the engine is meant to reach: ratios to the peers, and shares of the memory's limit."""

from __future__ import annotations

from benchmarks.inference.contenders import CONTENDERS

#: Precision of ours, case, peer, how many times as fast as the peer.
RATIOS: list[tuple[str, str, str, float]] = [
    ("int8", "decode32", "openvino int8", 1.5),
    ("int8", "decode32", "llama.cpp Q8_0", 1.7),
    ("int8", "decode32", "transformers float32", 10.0),
    ("int8", "decode512", "openvino int8", 1.6),
    ("bfloat16", "decode32", "llama.cpp BF16", 1.35),
    ("bfloat16", "decode32", "openvino bfloat16", 1.8),
    ("bfloat16", "decode32", "transformers bfloat16", 4.0),
    ("bfloat16", "decode512", "llama.cpp BF16", 1.5),
    ("float32", "decode32", "ctranslate2 float32", 1.3),
    ("float32", "decode32", "llama.cpp F32", 0.95),
    ("float32", "decode512", "ctranslate2 float32", 1.3),
    ("float32", "decode512", "llama.cpp F32", 0.95),
    ("float32", "prefill512", "ctranslate2 float32", 1.0),
    ("bfloat16", "prefill512", "openvino bfloat16", 1.2),
    ("int8", "prefill512", "ctranslate2 int8", 1.7),
    ("int8", "batch32", "openvino int8", 2.0),
    ("int8", "batch8", "openvino int8", 1.3),
    ("bfloat16", "batch32", "openvino bfloat16", 1.3),
]

#: Precision of ours -> the share of the memory's limit that a single text from 32 reaches.
SHARES: dict[str, float] = {"int8": 0.8, "bfloat16": 0.9, "float32": 0.9}

MATRICES = 12 * 12 * 768**2 + 50257 * 768  # weights that each new token needs, the head's included


def bytes_per_token(name: str, seen: float) -> float:
    """What a token after `seen` others has to read: every weight, and their keys and values."""
    entry = CONTENDERS[name]
    return MATRICES * entry.bits / 8 + 2 * 12 * 768 * seen * entry.cache
