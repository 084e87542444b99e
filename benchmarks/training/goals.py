"""What training is meant to reach: ratios of tokens a second to peers, and a limit of memory."""

from __future__ import annotations

OURS = "gpt2lab"

#: Case -> peer -> how many times as fast as the peer.
RATIOS: dict[str, dict[str, float]] = {
    "a": {"nanogpt": 4.5, "hf-trainer-compile": 1.6},
    "b": {"nanogpt": 3.7, "hf-trainer-compile": 1.65},
    "c": {"nanogpt": 3.5, "hf-trainer-compile": 1.5},
    "d": {"nanogpt": 3.7, "hf-trainer-compile": 1.65},
    "e": {"nanogpt": 2.4, "hf-trainer-compile": 2.7},
}

#: Case -> the most memory that the process may hold, in MB.
MEMORY: dict[str, float] = {"a": 1800.0}
