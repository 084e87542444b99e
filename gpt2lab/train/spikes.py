"""Loss spikes: which steps are skipped, and when a run stops because of them.

A step whose loss or gradient is not finite, or far above those of the last steps, is skipped. The
rule is OLMo-core's SkipStepOptimizer: more than 6 standard deviations above the mean of 128 steps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gpt2lab.errors import Failure

SIZE = 128
IN_A_ROW = 10  # skipped steps after which a run counts as diverged


class Window:
    """The losses and gradient norms of the last `SIZE` steps, skipped ones too, if finite.

    So the window follows a level that has changed for good.
    """

    def __init__(self, sigma: float = 6.0) -> None:
        self.sigma = sigma
        self.loss: deque[float] = deque(maxlen=SIZE)
        self.norm: deque[float] = deque(maxlen=SIZE)

    def judge(self, loss: float, norm: float) -> str | None:
        """Return why a step of this loss and gradient norm must not be taken, None if it may be.

        The step then belongs to the window. Below half a window there is nothing to compare with.
        """
        why = self._why("loss", loss, self.loss) or self._why("gradient norm", norm, self.norm)
        for value, values in ((loss, self.loss), (norm, self.norm)):
            if math.isfinite(value):
                values.append(value)
        return why

    def _why(self, name: str, value: float, values: Collection[float]) -> str | None:
        if not math.isfinite(value):
            return f"{name} {value} is not finite"
        if not self.sigma or len(values) < SIZE // 2:
            return None
        mean = math.fsum(values) / len(values)
        variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
        most = mean + self.sigma * math.sqrt(variance)
        if value <= most:
            return None
        return (
            f"{name} {value:.4g} is above {most:.4g}, the mean and {self.sigma:g} standard "
            f"deviations of the last {len(values)} steps"
        )

    def to_dict(self) -> dict[str, Any]:
        """The window as plain values, exactly, for JSON."""
        return {"loss": list(self.loss), "norm": list(self.norm)}

    def restore(self, values: dict[str, Any]) -> None:
        """The inverse of `to_dict`."""
        self.loss = deque(values["loss"], maxlen=SIZE)
        self.norm = deque(values["norm"], maxlen=SIZE)


def check_policy(on_spike: str, step: int, why: str, in_a_row: int, folder: Path) -> None:
    """Raise Failure if a skipped step ends the run: by the policy "stop", or after too many."""
    skipped = f"step {step}: {why}"
    look = f"gpt2lab train --resume {folder} --which-data {step} shows its texts"
    if on_spike == "stop":
        raise Failure(
            f"{skipped}; the update was not made, the run stops as told; go on past it with "
            f"--resume {folder} --on-spike skip --allow-changes; {look}"
        )
    if in_a_row >= IN_A_ROW:
        raise Failure(
            f"{skipped}; that is the {IN_A_ROW}th step in a row, the run is taken for lost: "
            f"resume it with a lower --learning-rate and --allow-changes; {look}"
        )
