"""The KV cache of the torch engine: one buffer for each layer, one slot in each of its rows."""

from __future__ import annotations

import torch

from gpt2lab.cache import Slots
from gpt2lab.config import Config


class TorchCache(Slots):
    """Slots of keys and values: a buffer [2, N, H, P, D] for every layer, a slot in each row.

    Rows and positions double as they are needed, and all memory goes when the last slot is freed.
    What lies past a slot's end is kept zero: attention over several slots reads up to the end of
    the longest, and what is left there counts 0 times; of an overflow, that would still be NaN.
    """

    chunked = False  # torch's sums depend on what else is in a call

    def __init__(
        self, config: Config, dtype: torch.dtype, device: str, slots: int | None = None
    ) -> None:
        super().__init__(config, slots)
        self.dtype, self.device = dtype, device
        self.layers: list[torch.Tensor] = []
        self._rows: dict[int, int] = {}
        self._release()

    def row(self, slot: int) -> int:
        """Where the slot lies in the buffers."""
        return self._rows[slot]

    def reserve(self, length: int) -> None:
        """Make room for `length` positions in every slot."""
        if length > self.room[1]:
            self._grow(self.room[0], min(self.config.n_ctx, max(length, 2 * self.room[1], 64)))

    @property
    def position_bytes(self) -> int:
        """The memory of one position of one slot."""
        return 2 * self.config.n_layer * self.config.n_embd * self.dtype.itemsize

    def rewind(self, slot: int, length: int) -> None:
        """Drop everything past the first `length` tokens."""
        end = self.length(slot)
        super().rewind(slot, length)
        with torch.inference_mode():
            for layer in self.layers:
                layer[:, self._rows[slot], :, length:end] = 0

    def _take(self, slot: int) -> None:
        self._rows[slot] = self._free_row()

    def _copy(self, slot: int, other: int, length: int) -> None:
        old, new = self._rows[slot], self._rows[other]
        with torch.inference_mode():
            for layer in self.layers:
                layer[:, new, :, :length] = layer[:, old, :, :length]

    def _give_back(self, slot: int) -> None:
        """The next sequence takes the slot's row; with the last one all memory goes."""
        self.rewind(slot, 0)
        del self._rows[slot]
        if not self._rows:
            self._release()

    def _free_row(self) -> int:
        """The first row without a slot: rows that lie together can be read without a copy."""
        taken = set(self._rows.values())
        row = next(row for row in range(len(taken) + 1) if row not in taken)
        if row >= self.room[0]:
            rows = max(1, 2 * self.room[0])
            self._grow(rows if self._limit is None else min(self._limit, rows), self.room[1])
        return row

    def _release(self) -> None:
        self.room = (0, 0)  # rows, positions
        c = self.config
        self.layers = [self._zeros(c, 0, 0) for _ in range(c.n_layer)]

    def _grow(self, rows: int, positions: int) -> None:
        """Take larger buffers, layer by layer, so that only one is there twice."""
        n, p = self.room
        with torch.inference_mode():
            for i, old in enumerate(self.layers):
                self.layers[i] = self._zeros(self.config, rows, positions)
                self.layers[i][:, :n, :, :p] = old[:, :n, :, :p]
        self.room = (rows, positions)

    def _zeros(self, c: Config, rows: int, positions: int) -> torch.Tensor:
        shape = (2, rows, c.n_head, positions, c.head_width)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)
