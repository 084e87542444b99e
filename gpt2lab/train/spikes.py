"""Whether a step is like those before it: the guard between a gradient and the weights.

A step whose loss or gradient is not finite, or lies far above those of the last steps, is not
taken. The rule is OLMo-core's SkipStepOptimizer: more than 6 standard deviations above the mean of
128.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

SIZE = 128


class Window:
    """The losses and gradient norms of the last `SIZE` steps.

    Skipped steps count too, if finite: where the level has changed for good, the window follows it.
    """

    def __init__(self, sigma: float = 6.0) -> None:
        self.sigma = sigma
        self.loss: deque[float] = deque(maxlen=SIZE)
        self.norm: deque[float] = deque(maxlen=SIZE)

    def judge(self, loss: float, norm: float) -> str | None:
        """Why a step of this loss and gradient norm must not be taken, None where it may be.

        The step then belongs to the window. Below half a window there is nothing to compare with.
        """
        why = self._why("loss", loss, self.loss) or self._why("gradient norm", norm, self.norm)
        for value, values in ((loss, self.loss), (norm, self.norm)):
            if math.isfinite(value):
                values.append(value)
        return why

    def _why(self, name: str, value: float, before: Iterable[float]) -> str | None:
        if not math.isfinite(value):
            return f"{name} {value} is not finite"
        values = list(before)
        if not self.sigma or len(values) < SIZE // 2:
            return None
        mean = math.fsum(values) / len(values)
        most = mean + self.sigma * math.sqrt(
            math.fsum((v - mean) ** 2 for v in values) / len(values)
        )
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
