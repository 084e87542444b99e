"""The engine for GPUs: the same GPT-2 in torch, many sequences in one pass over the weights.

All new tokens of a step lie under each other as rows, whatever sequence they belong to, so every
matrix is read once. Only attention tells sequences apart. Torch picks its sums by the size of what
it is given: a row's numbers are those that it would get alone up to rounding, not to the bit.

Needs the extra `train`; this module is imported only when the engine is chosen.

Shapes: N sequences of a step, T new tokens of one, R new tokens of all (the rows), S tokens that a
sequence sees, P positions that a buffer has room for, L layers, H heads, D head width, E embedding,
V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2lab import forks
from gpt2lab.checks import check_batch, check_ids, whole
from gpt2lab.config import Config
from gpt2lab.errors import InputError, MissingExtraError, quoted

try:
    import torch
    from torch.nn import functional as F
except ModuleNotFoundError:
    raise MissingExtraError("the torch engine", "torch", "train") from None

forks.tame(torch)

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


# ---- Where to compute.


def devices() -> list[str]:
    """What torch can compute on here, the best first; the processor is always there."""
    found = []
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def _holds(device: str, dtype: torch.dtype) -> bool:
    """Whether the device computes with this dtype: MPS has no float64, old ones no bfloat16."""
    try:
        torch.ones(1, dtype=dtype, device=device)
    except (RuntimeError, TypeError):
        return False
    return True


def _choose_dtype(dtype: str | None) -> str:
    """The dtype's name, "float32" for None; an error where it is unknown."""
    dtype = "float32" if dtype is None else dtype
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(
            f"dtype {quoted(dtype)} is not one of the torch engine's; choose one of "
            f"{', '.join(DTYPES)}"
        )
    return dtype


def _choose_device(device: str | None, dtype: str) -> str:
    """The device's name, for None the best one that holds the dtype; an error where it is not."""
    here = devices()
    if device is None:
        return next((name for name in here if _holds(name, DTYPES[dtype])), "cpu")
    if not isinstance(device, str | torch.device) or str(device) not in here:
        raise InputError(
            f"device {quoted(device)} is not one that torch can compute on here; "
            f"there is {', '.join(here)}"
        )
    if not _holds(str(device), DTYPES[dtype]):
        fits = [name for name in DTYPES if _holds(str(device), DTYPES[name])]
        raise InputError(
            f"dtype {quoted(dtype)} is not one that the device {str(device)!r} computes with; "
            f"choose one of {', '.join(fits)}, or another device of {', '.join(here)}"
        )
    return str(device)


# ---- The past.


class TorchCache:
    """Slots of keys and values: a buffer [2, N, H, P, D] for every layer, a slot in each row.

    Rows and positions double as they are needed, and all memory goes when the last slot is freed.
    What lies past a slot's end is kept zero: attention over several slots reads up to the end of
    the longest, and what is left there counts 0 times; of an overflow, that would still be NaN.
    """

    chunked = False  # torch's sums depend on what else is in a call

    def __init__(
        self, config: Config, dtype: torch.dtype, device: str, slots: int | None = None
    ) -> None:
        if slots is not None:
            whole("slots", slots, 1)
        self.config, self._dtype, self._device, self._limit = config, dtype, device, slots
        self.layers: list[torch.Tensor] = []
        self._rows: dict[int, int] = {}
        self._lengths: dict[int, int] = {}
        self._next = 0
        self._release()

    def new(self) -> int:
        """A fresh slot of length 0."""
        if self._limit is not None and len(self) >= self._limit:
            raise InputError(
                f"all {self._limit} slots of the cache hold a sequence; free one, or ask for more"
            )
        row = self._free_row()
        slot, self._next = self._next, self._next + 1
        self._rows[slot], self._lengths[slot] = row, 0
        return slot

    def length(self, slot: int) -> int:
        """How many tokens the slot holds."""
        return self._lengths[self._known(slot)]

    def row(self, slot: int) -> int:
        """Where the slot lies in the buffers."""
        return self._rows[slot]

    def reserve(self, length: int) -> None:
        """Make room for `length` positions in every slot."""
        if length > self.room[1]:
            self._grow(self.room[0], min(self.config.n_ctx, max(length, 2 * self.room[1], 64)))

    def extend(self, slot: int, count: int) -> None:
        """Note that `count` tokens were written at the slot's end."""
        self._lengths[slot] += count

    def rewind(self, slot: int, length: int) -> None:
        """Forget everything past the first `length` tokens."""
        end = self.length(slot)
        assert 0 <= length <= end
        with torch.inference_mode():
            for layer in self.layers:
                layer[:, self._rows[slot], :, length:end] = 0
        self._lengths[slot] = length

    def fork(self, slot: int) -> int:
        """A new slot that begins with all that this one holds; both go on independently."""
        length, other = self.length(slot), self.new()
        old, new = self._rows[slot], self._rows[other]
        with torch.inference_mode():
            for layer in self.layers:
                layer[:, new, :, :length] = layer[:, old, :, :length]
        self._lengths[other] = length
        return other

    def free(self, slot: int) -> None:
        """Give the slot back: the next sequence takes its place, and the last one's memory goes."""
        self.rewind(slot, 0)
        del self._rows[slot], self._lengths[slot]
        if not self._rows:
            self._release()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def position_bytes(self) -> int:
        """The memory of one position of one slot."""
        return 2 * self.config.n_layer * self.config.n_embd * self._dtype.itemsize

    @property
    def nbytes(self) -> int:
        """How much memory the buffers take."""
        return sum(layer.nbytes for layer in self.layers)

    def _known(self, slot: int) -> int:
        if slot not in self._rows:
            raise InputError(
                f"slot {quoted(slot)} holds no sequence of this cache; new() gives one"
            )
        return slot

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
        return torch.zeros(shape, dtype=self._dtype, device=self._device)


# ---- What a step does.


@dataclass(frozen=True)
class _Group:
    """Sequences with equally many new tokens: they attend in one call.

    first, count, new: the group's rows of the step are [first, first + count * new). slots: their
    rows in the buffers, a slice where these lie together (a view, no copy), else their numbers.
    places: where in the slice the sequences are, None where they fill it. seen: S, of the longest.
    mask: [slots, 1, T, S], 0 where a new token may look and -inf elsewhere; None where the call
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


@dataclass(frozen=True)
class _Plan:
    """A step laid out as rows: ids, positions and buffer rows [R], who attends with whom, and which
    rows hold the last token of each sequence, in the caller's order."""

    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    groups: list[_Group]
    last: torch.Tensor


class TorchEngine:
    """Keeps the protocol of `engines.Engine`.

    dtype: "float32" (None), "bfloat16", "float16" or "float64". device: "cuda", "cuda:1", "mps" or
    "cpu"; None is the best that is there. The arrays are never written to. Where they can be used
    as they are (on the processor, in the same dtype), torch shares their memory.
    """

    name = "torch"

    def __init__(
        self,
        config: Config,
        params: dict[str, Array],
        dtype: str | None = None,
        *,
        device: str | None = None,
    ) -> None:
        self.config, self.dtype = config, _choose_dtype(dtype)
        self.device = _choose_device(device, self.dtype)
        self._process = os.getpid()
        self._dtype = self._past_dtype = DTYPES[self.dtype]
        if self._half and self.device == "cpu":
            # Attention over bfloat16 is slow there: one more token of 8 texts of 400 takes 62 ms
            # instead of 37 (124M, one thread). The price is twice the memory.
            self._past_dtype = torch.float32
        self.params = {name: self._tensor(name, value) for name, value in params.items()}
        self._head = self.params.get("lm_head.weight", self.params["wte.weight"])  # [V, E]
        if self._half:
            self._mean = F.normalize(self._head.mean(0, dtype=torch.float32), dim=0)  # [E]
            self._along = self._head.to(torch.float32) @ self._mean  # [V]
        self._act = ACTIVATIONS[config.activation_function]

    def cache(self, slots: int | None = None) -> TorchCache:
        """An empty cache; `slots` limits how many sequences it holds."""
        self._check_process()
        return TorchCache(self.config, self._past_dtype, self.device, slots)

    def step(
        self,
        cache: TorchCache,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[bool] | None = None,
    ) -> Array:
        """Append tokens[i] to slots[i]; the logits after the last token of each: [N, V].

        wanted: for which slots there shall be logits, all by default; N counts these.

        What is wrong is told before anything is written: after an error every slot is as it was.
        """
        self._check_process()
        checked = self._check(cache, slots, tokens)
        if not checked:
            return np.zeros(
                (0, self.config.n_vocab), np.float64 if self.dtype == "float64" else np.float32
            )
        with forks.whole(), torch.inference_mode():
            plan = self._plan(cache, slots, checked)
            h = self._forward(cache, plan)  # [R, E]
            last = plan.last if wanted is None else plan.last[torch.tensor(wanted)]
            logits = self._logits(h[last])  # [N, V]
        for slot, new in zip(slots, checked, strict=True):
            cache.extend(slot, len(new))
        return logits

    def logits(self, tokens: Any) -> Array:
        """The logits of every position of a batch [B, T] without a past: [B, T, V]."""
        rows = check_batch(tokens, self.config.n_vocab, self.config.n_ctx)
        cache = self.cache()
        slots = [cache.new() for _ in rows]
        with forks.whole(), torch.inference_mode():
            plan = self._plan(cache, slots, rows)
            logits = self._logits(self._forward(cache, plan))  # [B * T, V]
        return logits.reshape(len(rows), -1, self.config.n_vocab)  # [B, T, V]

    def _check_process(self) -> None:
        """InputError in a child of fork whose parent has put this model on a GPU."""
        if self.device != "cpu" and self._process != os.getpid():
            raise InputError(
                f"this model was loaded on {self.device} before the process was forked, and a GPU "
                "cannot be used in a forked child; load the model in each child, started by "
                "multiprocessing's spawn"
            )

    # ---- What is wrong with the tokens.

    def _check(self, cache: TorchCache, slots: Sequence[int], tokens: Any) -> list[list[int]]:
        """The new tokens as lists, or an error that names what is wrong."""
        if len(slots) != len(tokens):
            raise InputError(f"{len(slots)} slots and {len(tokens)} lists of tokens; give as many")
        if len(set(slots)) != len(slots):
            raise InputError(f"a slot is named twice in one step: {list(slots)}")
        checked = []
        for slot, new in zip(slots, tokens, strict=True):
            length = cache.length(slot)
            new = check_ids(new, self.config.n_vocab, f"step of slot {slot}")
            if length + len(new) > self.config.n_ctx:
                raise InputError(
                    f"slot {slot} would hold {length + len(new)} tokens, the model sees "
                    f"{self.config.n_ctx}; rewind it, or give fewer"
                )
            checked.append(new)
        return checked

    # ---- A step as rows.

    def _plan(
        self, cache: TorchCache, slots: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> _Plan:
        """Lay out a step: by how many new tokens there are, then in the order of the buffers."""
        counts, past = [len(new) for new in tokens], [cache.length(slot) for slot in slots]
        cache.reserve(max(p + n for p, n in zip(past, counts, strict=True)))
        at = [cache.row(slot) for slot in slots]
        order = sorted(range(len(slots)), key=lambda i: (counts[i], at[i]))
        groups, last, first = [], [0] * len(slots), 0
        for count in sorted(set(counts)):
            members = [i for i in order if counts[i] == count]
            ats, pasts = [at[i] for i in members], [past[i] for i in members]
            groups.append(self._group(first, count, ats, pasts))
            for i in members:
                first += count
                last[i] = first - 1
        return _Plan(
            self._ints([t for i in order for t in tokens[i]]),  # [R]
            self._ints([past[i] + t for i in order for t in range(counts[i])]),  # [R]
            self._ints([at[i] for i in order for _ in range(counts[i])]),  # [R]
            groups,
            self._ints(last),  # [N]
        )

    def _group(self, first: int, new: int, at: list[int], past: list[int]) -> _Group:
        """The group of the sequences in the buffers' rows `at` (ascending) after `past` tokens.

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
            slots=slice(at[0], at[-1] + 1) if together else self._ints(at),
            places=None if span == count else self._ints(spots),
            seen=max(past) + new,
            mask=None if plain else self._mask(ends, new),
            causal=causal,
        )

    def _mask(self, past: list[int], new: int) -> torch.Tensor:
        """[slots, 1, T, S]: 0 where new token i may look, at the first past + i + 1, else -inf."""
        seen = torch.arange(max(past) + new, device=self.device)  # [S]
        ends = self._ints(past)[:, None] + torch.arange(new, device=self.device)  # [slots, T]
        hidden = seen > ends[:, None, :, None]  # [slots, 1, T, S]
        return torch.zeros_like(hidden, dtype=self._past_dtype).masked_fill_(hidden, -torch.inf)

    # ---- The model.

    def _forward(self, cache: TorchCache, plan: _Plan) -> torch.Tensor:
        """All rows through all layers, keys and values into the cache: [R, E], normalised."""
        x = self.params["wte.weight"][plan.ids] + self.params["wpe.weight"][plan.positions]
        for layer in range(self.config.n_layer):
            x = x + self._attn(self._norm(x, f"h.{layer}.ln_1"), cache.layers[layer], layer, plan)
            m = self._act(self._conv1d(self._norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc"))
            x = x + self._conv1d(m, f"h.{layer}.mlp.c_proj")  # [R, E]
        return self._norm(x, "ln_f")

    def _attn(self, x: torch.Tensor, buffer: torch.Tensor, layer: int, plan: _Plan) -> torch.Tensor:
        """Masked self-attention of the rows [R, E], each over its own slot: [R, E]."""
        c = self._conv1d(x, f"h.{layer}.attn.c_attn")  # [R, 3 E]
        c = c.view(-1, 3, self.config.n_head, self.config.head_width).to(
            buffer.dtype
        )  # [R, 3, H, D]
        buffer[:, plan.slots, :, plan.positions] = c[:, 1:]
        parts = [self._attend(c[:, 0], buffer, layer, group) for group in plan.groups]
        a = parts[0] if len(parts) == 1 else torch.cat(parts)  # [R, E]
        return self._conv1d(a.to(x.dtype), f"h.{layer}.attn.c_proj")

    def _attend(
        self, q: torch.Tensor, buffer: torch.Tensor, layer: int, group: _Group
    ) -> torch.Tensor:
        """A group's queries, from those of all rows [R, H, D], over its slots: [N * T, E]."""
        q = q[group.first : group.first + group.count * group.new]  # [N * T, H, D]
        q = q.reshape(group.count, group.new, *q.shape[1:]).transpose(1, 2)  # [N, H, T, D]
        k, v = buffer[:, group.slots, :, : group.seen]  # 2 x [slots, H, S, D]
        if group.places is not None:
            q = q.new_zeros(len(k), *q.shape[1:]).index_copy_(0, group.places, q)
        a = F.scaled_dot_product_attention(
            q, k, v, attn_mask=group.mask, is_causal=group.causal, scale=self._scale(layer)
        )  # [slots, H, T, D]
        if group.places is not None:
            a = a[group.places]  # [N, H, T, D]
        return a.transpose(1, 2).reshape(-1, self.config.n_embd)  # [N * T, E]

    def _scale(self, layer: int) -> float:
        """What the scores of a layer are multiplied by."""
        c = self.config
        scale = c.head_width**-0.5 if c.scale_attn_weights else 1.0
        return scale / (layer + 1) if c.scale_attn_by_inverse_layer_idx else scale

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        w, b = self.params[f"{name}.weight"], self.params[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], w, b, self.config.layer_norm_epsilon)

    def _conv1d(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """x @ w + b, with w [in, out]: [R, in] -> [R, out]."""
        return torch.addmm(self.params[f"{name}.bias"], x, self.params[f"{name}.weight"])

    def _logits(self, h: torch.Tensor) -> Array:
        """The head over rows [R, E], as an array of its own: [R, V].

        A GPT-2's logits are large numbers close together, about -100 and a few apart, and bfloat16
        has steps of 0.5 there. What makes them large is the part of h along the mean of the head's
        rows. In the short dtypes that part goes around the matrix, in float32.
        """
        if not self._half:
            return F.linear(h, self._head).cpu().numpy()  # [R, V]
        along = h.float() @ self._mean  # [R]
        rest = h.float() - along[:, None] * self._mean  # [R, E]
        logits = F.linear(rest.to(self._dtype), self._head).float()  # [R, V]
        return logits.addr_(along, self._along).cpu().numpy()

    # ---- Into torch.

    @property
    def _half(self) -> bool:
        """Whether numbers have two bytes."""
        return self._dtype.itemsize == 2

    def _ints(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def _tensor(self, name: str, value: Array) -> torch.Tensor:
        """An array on the device in the dtype, of the same shape.

        Torch takes no array that is read-only, in another byte order or with negative strides:
        those are copied first. On the processor, the products of short numbers are up to 1.5 times
        as fast over a matrix that lies column by column; those of float32 over one as it is stored.
        """
        if not (value.flags.writeable and value.flags.c_contiguous and value.dtype.isnative):
            value = np.array(value, value.dtype.newbyteorder("="), order="C")
        tensor = torch.from_numpy(value).to(self.device, self._dtype)
        turn = self._half and tensor.ndim == 2 and name.startswith("h.")
        return tensor.T.contiguous().T if turn else tensor
