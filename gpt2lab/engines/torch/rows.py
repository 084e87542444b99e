"""A step of the torch engine as rows: all new tokens of all sequences below each other.

Only attention tells sequences apart: `Rows.attend` writes keys and values into the cache, and lets
each group of sequences with equally many new tokens attend in one call.

Shapes: as in `engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from gpt2lab.engines.torch.cache import TorchCache


@dataclass(frozen=True)
class _Group:
    """Sequences with equally many new tokens: they attend in one call.

    first, count, new: the group's rows of the step are [first, first + count * new). slots: their
    rows in the buffers, a slice if these are adjacent (a view, no copy), else their numbers.
    places: where in the slice the sequences are, None if they fill it. seen: S, of the longest.
    mask: [slots, 1, T, S], 0 where a new token may look and -inf elsewhere; None if the call
    itself knows: with `causal` the lower triangle, without it everything.
    """

    first: int
    count: int
    new: int
    slots: slice | torch.Tensor
    places: torch.Tensor | None
    seen: int
    mask: torch.Tensor | None
    causal: bool

    def attend(self, q: torch.Tensor, buffer: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend from the group's queries, in those of all rows [R, H, D]: [N * T, E]."""
        q = q[self.first : self.first + self.count * self.new]  # [N * T, H, D]
        q = q.reshape(self.count, self.new, *q.shape[1:]).transpose(1, 2)  # [N, H, T, D]
        k, v = buffer[:, self.slots, :, : self.seen]  # 2 x [slots, H, S, D]
        if self.places is not None:
            q = q.new_zeros(len(k), *q.shape[1:]).index_copy_(0, self.places, q)
        a = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.mask, is_causal=self.causal, scale=scale
        )  # [slots, H, T, D]
        if self.places is not None:
            a = a[self.places]  # [N, H, T, D]
        return a.transpose(1, 2).flatten(2).flatten(0, 1)  # [N * T, E]


@dataclass(frozen=True)
class TorchRows:
    """A step laid out as rows: the `model.Past` of the engine.

    ids, positions, slots: of each row [R], the last one the row in the cache's buffers. last: the
    row of the last token of each sequence, in the caller's order.
    """

    cache: TorchCache
    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    groups: list[_Group]
    last: torch.Tensor

    def attend(self, layer: int, c: torch.Tensor, scale: float) -> torch.Tensor:
        """Store the new keys and values, and attend: c [1, R, 3, H, D] -> [1, R, E]."""
        buffer = self.cache.layers[layer]
        rows = c[0].to(buffer.dtype)  # [R, 3, H, D]
        buffer[:, self.slots, :, self.positions] = rows[:, 1:]
        parts = [group.attend(rows[:, 0], buffer, scale) for group in self.groups]
        a = parts[0] if len(parts) == 1 else torch.cat(parts)  # [R, E]
        return a.to(c.dtype)[None]  # [1, R, E]


def _ints(cache: TorchCache, values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, device=cache.device)


def _mask(cache: TorchCache, past: list[int], new: int) -> torch.Tensor:
    """[slots, 1, T, S]: 0 where new token i may look, at the first past + i + 1, else -inf."""
    seen = torch.arange(max(past) + new, device=cache.device)  # [S]
    ends = _ints(cache, past)[:, None] + torch.arange(new, device=cache.device)  # [slots, T]
    hidden = seen > ends[:, None, :, None]  # [slots, 1, T, S]
    return torch.zeros_like(hidden, dtype=cache.dtype).masked_fill_(hidden, -torch.inf)


def _group(cache: TorchCache, first: int, new: int, at: list[int], past: list[int]) -> _Group:
    """Return the group of the sequences in the buffers' rows `at` (ascending) after `past` tokens.

    A stretch of the buffers is read in place up to twice as long as what is wanted of it: a
    copy of keys and values reads and writes them once before attention reads them again.
    """
    count, span = len(at), at[-1] - at[0] + 1
    spots, together = [row - at[0] for row in at], span <= 2 * count
    if not together:
        spots, span = list(range(count)), count
    ends = [0] * span
    for spot, length in zip(spots, past, strict=True):
        ends[spot] = length
    causal = new > 1 and max(past) == 0
    plain = causal or (new == 1 and min(past) == max(past))
    return _Group(
        first,
        count,
        new,
        slots=slice(at[0], at[-1] + 1) if together else _ints(cache, at),
        places=None if span == count else _ints(cache, spots),
        seen=max(past) + new,
        mask=None if plain else _mask(cache, ends, new),
        causal=causal,
    )


def rows_of(cache: TorchCache, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> TorchRows:
    """Lay out a step: sorted by the number of new tokens, then in the order of the buffers.

    tokens: the new ones of each slot.
    """
    counts, past = [len(new) for new in tokens], [cache.length(slot) for slot in slots]
    cache.reserve(max(p + n for p, n in zip(past, counts, strict=True)))
    at = [cache.row(slot) for slot in slots]
    order = sorted(range(len(slots)), key=lambda i: (counts[i], at[i]))
    groups, last, first = [], [0] * len(slots), 0
    for count in sorted(set(counts)):
        members = [i for i in order if counts[i] == count]
        ats, pasts = [at[i] for i in members], [past[i] for i in members]
        groups.append(_group(cache, first, count, ats, pasts))
        for i in members:
            first += count
            last[i] = first - 1
    return TorchRows(
        cache,
        _ints(cache, [t for i in order for t in tokens[i]]),  # [R]
        _ints(cache, [past[i] + t for i in order for t in range(counts[i])]),  # [R]
        _ints(cache, [at[i] for i in order for _ in range(counts[i])]),  # [R]
        groups,
        _ints(cache, last),  # [N]
    )
