"""The engine for GPUs: the same GPT-2 in torch, many sequences in one pass over the weights.

All new tokens of a step are rows of one matrix, whatever sequence they belong to, so every weight
is read once; only attention tells sequences apart. Torch picks its sums by the size of its inputs:
a row's numbers are those that it would get alone up to rounding, not to the bit.

Needs the extra `train`; this module is imported only when the engine is chosen.

Shapes: N sequences of a step, T new tokens of one, R new tokens of all (the rows), E embedding,
V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2lab import forks
from gpt2lab.checks import check_batch, one_of
from gpt2lab.config import Config
from gpt2lab.engines.wanted import Scores, Wanted, check_logits, check_wanted, joined, nothing
from gpt2lab.errors import InputError, MissingExtraError, quoted

try:
    import torch
    from torch.nn import functional as F
except ModuleNotFoundError:
    raise MissingExtraError("the torch engine", "torch", "train") from None

from gpt2lab.engines.torch.cache import TorchCache
from gpt2lab.engines.torch.model import with_parameters
from gpt2lab.engines.torch.rows import TorchRows, rows_of

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
SCORED = 64  # rows of logits that are measured together


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


def _choose_device(device: Any, dtype: str) -> str:
    """The device's name, for None the best one that holds the dtype."""
    here = devices()
    if device is None:
        return next((name for name in here if _holds(name, DTYPES[dtype])), "cpu")
    name: str = one_of("device", str(device), here)
    if not _holds(name, DTYPES[dtype]):
        fits = [known for known in DTYPES if _holds(name, DTYPES[known])]
        raise InputError(
            f"dtype {quoted(dtype)} is not one that the device {name!r} computes with; "
            f"choose one of {', '.join(fits)}, or another device of {', '.join(here)}"
        )
    return name


def _measure(logits: torch.Tensor, wanted: Wanted) -> Scores:
    """The scores of rows of logits [P, V]: as `wanted.measure`, on the device."""
    if not logits.max() < torch.inf:  # NaN included
        check_logits(logits.cpu().numpy())
    logprobs, found = logits.log_softmax(-1), dict[str, torch.Tensor]()  # [P, V]
    if wanted.targets is not None:
        own = logprobs.gather(1, torch.tensor(wanted.targets, device=logits.device)[:, None])
        found["logprobs"] = own[:, 0]  # [P]
        if wanted.rank:
            found["ranks"] = (logprobs > own).sum(-1) + 1
    if wanted.top:
        found["top_logprobs"], found["top_ids"] = logprobs.topk(wanted.top)  # [P, K]
    if wanted.entropy:
        found["entropies"] = -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1)
    return Scores(**{name: value.cpu().numpy() for name, value in found.items()})


class TorchEngine:
    """Keeps the protocol of `engines.protocol.Engine`.

    dtype: "float32" (None), "bfloat16", "float16" or "float64". device: "cuda", "cuda:1", "mps" or
    "cpu"; None is the best available. The arrays are never written to; torch shares the memory of
    those that it can use as they are.
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
        self.config = config
        self.dtype = str(one_of("dtype", "float32" if dtype is None else dtype, tuple(DTYPES)))
        self.device = _choose_device(device, self.dtype)
        self._process = os.getpid()
        self._dtype = self._past_dtype = DTYPES[self.dtype]
        self._half = self._dtype.itemsize == 2
        if self._half and self.device == "cpu":
            # Attention over bfloat16 is slow there: one more token of 8 texts of 400 takes 62 ms
            # instead of 37 (124M, one thread). The price is twice the memory.
            self._past_dtype = torch.float32
        tensors = {name: self._tensor(name, value) for name, value in params.items()}
        self.model = with_parameters(config, tensors).requires_grad_(False).eval()
        self._head = self.model.head  # [V, E]
        if self._half:
            self._mean = F.normalize(self._head.mean(0, dtype=torch.float32), dim=0)  # [E]
            self._along = self._head.to(torch.float32) @ self._mean  # [V]

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
        """Append tokens[i] to slots[i] and return the logits after the last token of each: [N, V].

        wanted: for which slots there shall be logits, all by default; N counts these. After an
        error every slot is as it was.
        """
        self._check_process()
        checked = cache.check_step(slots, tokens)
        if not checked:
            wide = np.float64 if self.dtype == "float64" else np.float32
            return np.zeros((0, self.config.n_vocab), wide)
        with forks.whole(), torch.inference_mode():
            rows = rows_of(cache, slots, checked)
            h = self._hidden(rows)  # [R, E]
            last = rows.last if wanted is None else rows.last[torch.tensor(wanted)]
            logits = self._logits(h[last]).cpu().numpy()  # [N, V]
        for slot, new in zip(slots, checked, strict=True):
            cache.extend(slot, len(new))
        return logits

    def score(
        self,
        cache: TorchCache,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[Wanted],
    ) -> list[Scores]:
        """Append tokens[i] to slots[i]; the scores at the positions of wanted[i], for each slot."""
        self._check_process()
        checked = cache.check_step(slots, tokens)
        asked = check_wanted(wanted, checked, self.config.n_vocab)
        if not checked:
            return []
        with forks.whole(), torch.inference_mode():
            rows = rows_of(cache, slots, checked)
            h = self._hidden(rows)  # [R, E]
            found = [
                self._scores(h[end + 1 - len(new) :], one)
                for end, new, one in zip(rows.last.tolist(), checked, asked, strict=True)
            ]
        for slot, new in zip(slots, checked, strict=True):
            cache.extend(slot, len(new))
        return found

    def logits(self, tokens: Any) -> Array:
        """The logits of every position of a batch [B, T] without a past: [B, T, V]."""
        batch = check_batch(tokens, self.config.n_vocab, self.config.n_ctx)
        cache = self.cache()
        slots = [cache.new() for _ in batch]
        with forks.whole(), torch.inference_mode():
            rows = rows_of(cache, slots, batch)
            logits = self._logits(self._hidden(rows)).cpu().numpy()  # [B * T, V]
        return logits.reshape(len(batch), -1, self.config.n_vocab)  # [B, T, V]

    def _check_process(self) -> None:
        """InputError in a child of fork whose parent has put this model on a GPU."""
        if self.device != "cpu" and self._process != os.getpid():
            raise InputError(
                f"this model was loaded on {self.device} before the process was forked, and a GPU "
                "cannot be used in a forked child; load the model in each child, started by "
                "multiprocessing's spawn"
            )

    # ---- The model.

    def _hidden(self, rows: TorchRows) -> torch.Tensor:
        """The input of the head for all rows, keys and values written to the cache: [R, E]."""
        return self.model.hidden(rows.ids[None], rows.positions[None], rows)[0]  # [R, E]

    def _logits(self, h: torch.Tensor) -> torch.Tensor:
        """The logits of rows [R, E]: [R, V].

        GPT-2's logits are large numbers close together, about -100 and a few apart, and bfloat16
        has steps of 0.5 there. What makes them large is the part of h along the mean of the head's
        rows: in reduced precision that part goes around the matrix, in float32.
        """
        if not self._half:
            return F.linear(h, self._head)  # [R, V]
        along = h.float() @ self._mean  # [R]
        rest = h.float() - along[:, None] * self._mean  # [R, E]
        logits = F.linear(rest.to(self._dtype), self._head).float()  # [R, V]
        return logits.addr_(along, self._along)

    def _scores(self, h: torch.Tensor, wanted: Wanted) -> Scores:
        """The scores at positions of rows h [T, E], by blocks of rows."""
        parts = [nothing(wanted)]
        for start in range(0, len(wanted.positions), SCORED):
            part = wanted.of(slice(start, start + SCORED))
            logits = self._logits(h[torch.tensor(part.positions, device=h.device)])  # [P, V]
            parts.append(_measure(logits, part))
        return joined(parts)

    def _tensor(self, name: str, value: Array) -> torch.Tensor:
        """An array on the device in the dtype, of the same shape.

        Torch takes no array that is read-only, in another byte order or with negative strides. On
        the processor, products in reduced precision are up to 1.5 times as fast over a matrix that
        lies column by column; those of float32 over one as it is stored.
        """
        if not (value.flags.writeable and value.flags.c_contiguous and value.dtype.isnative):
            value = np.array(value, value.dtype.newbyteorder("="), order="C")
        tensor = torch.from_numpy(value).to(self.device, self._dtype)
        turn = self._half and tensor.ndim == 2 and name.startswith("h.")
        return tensor.T.contiguous().T if turn else tensor
