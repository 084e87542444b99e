"""Which arithmetic trains a model fastest on this CPU, measured once and remembered.

The flags of a processor do not tell. oneDNN's float32 product is 2.5 times MKL's on an AMD EPYC and
0.7 of it on a Xeon; a Xeon with instructions for bfloat16 and no units for its matrices was 0.65
times as fast with it. So the dtype, the float32 product, attention and the loss are chosen by
taking turns on a part of the model. All choices give the same losses up to rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from gpt2lab import __version__
from gpt2lab.config import Config
from gpt2lab.engines.torch.model import GPT2, Block
from gpt2lab.train.config import ARITHMETIC, TrainConfig
from gpt2lab.train.loss import PIECE, cross_entropy
from gpt2lab.train.remembered import Choice, file_of, in_words, recall, remember

import torch  # isort: skip  (after the model, which names the extra that it is in)

Way = TypeVar("Way", bound=Hashable)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GAIN = 1.1  # what bfloat16 must be faster by, as it is the less exact one
MARGIN = 1.03  # what another way of the same exactness must be faster by
PROBE = 2.5e9  # operations of a pass by which it is measured: 50 ms on two slow cores
SECONDS = 1.0
PATIENCE = 8.0  # times that long: a machine too busy for three turns by then is not measured
SHARE = 0.5  # of the time that this thread must have computed, or other programs decide
FAR = 2.0  # times as slow in one turn: not measured again
NARROW = 64  # width; below it a step is all calls: nothing is measured, and little would differ

#: What runs did before anything but the dtype was measured, and what the others are compared with.
PLAIN = {"attention": "products", "matmul": "onednn", "loss": "pieces"}


@dataclass(frozen=True)
class Arithmetic:
    """One way to compute a pass; the words are those of the settings."""

    dtype: str
    matmul: str
    attention: str

    def __str__(self) -> str:
        product = f" by {self.matmul}" if self.dtype == "float32" else ""
        return f"{self.dtype}{product}, attention {self.attention}"


# ---- How fast float32 products are.


def _error_of_a_product() -> float:
    """The largest error of a float32 product of random matrices, in parts of a typical entry."""
    random = torch.Generator().manual_seed(0)
    a = torch.randn(256, 768, generator=random)
    b = torch.randn(768, 256, generator=random)
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).abs().max() / exact.std())


def quicken_float32() -> bool:
    """Let torch take oneDNN's float32 product where it is exact; return whether it does now.

    "medium" leads to it. Where there are units for bfloat16 matrices it means rounding to bfloat16
    instead, which the error of a product shows.
    """
    torch.set_float32_matmul_precision("medium")
    if _error_of_a_product() < 2e-5:
        return True
    torch.set_float32_matmul_precision("highest")
    return False


def use_matmul(name: str) -> bool:
    """Take this float32 product, "onednn" only where it is exact; return whether it is taken."""
    if name == "onednn":
        return quicken_float32()
    torch.set_float32_matmul_precision("highest")
    return True


# ---- What is measured.


class Slice:
    """One layer of a model with its share of the head: of L layers, a step takes about L times as
    long as one of this, whatever its parts are. Of the tokens it takes as many as are cheap."""

    def __init__(self, config: Config, length: int, rows: int) -> None:
        share = math.ceil(config.n_vocab / config.n_layer)
        with torch.device("meta"):  # nothing is drawn of the process's random numbers
            model = GPT2(replace(config, n_layer=1, n_vocab=share, end_tokens=()))
        self.model = model.to_empty(device="cpu")
        random = torch.Generator().manual_seed(0)
        for parameter in self.model.parameters():
            torch.nn.init.uniform_(parameter, -0.05, 0.05, generator=random)
        affordable = int(PROBE / (72 * config.n_embd**2))  # tokens, by the products of a layer
        tokens = max(64, min(1024, affordable))
        length = min(length, tokens)
        rows = min(rows, tokens // length)
        self.tokens = torch.randint(share, (rows, length), generator=random)  # [B, T]

    def seconds(self, way: Arithmetic) -> float:
        """The time of one forward and backward pass."""
        precision = "medium" if way.matmul == "onednn" else "highest"
        torch.set_float32_matmul_precision(precision)
        self.model.compute = DTYPES[way.dtype]
        for block in self.model.h:
            assert isinstance(block, Block)
            block.attn.fused = way.attention == "fused"
        start = time.perf_counter()
        h = self.model.hidden(self.tokens).flatten(0, 1)  # [B T, E]
        cross_entropy(h, self.model.head, self.tokens.flatten(), 1.0).backward()
        self.model.zero_grad(set_to_none=True)
        return time.perf_counter() - start


def _seconds_of_loss(config: Config, rows: int, dtype: str) -> Callable[[str], float]:
    """What times the loss over the whole vocabulary, "whole" or in "pieces"."""
    rows = max(16, min(rows, int(PROBE / (6 * config.n_vocab * config.n_embd))))
    h = torch.zeros(rows, config.n_embd, dtype=DTYPES[dtype], requires_grad=True)  # [R, E]
    head = torch.zeros(config.n_vocab, config.n_embd, requires_grad=True)  # [V, E]
    targets = torch.zeros(rows, dtype=torch.long)

    def seconds(loss: str) -> float:
        start = time.perf_counter()
        cross_entropy(h, head, targets, 1.0, whole=loss == "whole").backward()
        h.grad = head.grad = None
        return time.perf_counter() - start

    return seconds


# ---- Taking turns.


def turns(
    run: Callable[[Way], float], ways: Sequence[Way], seconds: float
) -> dict[Way, list[float]]:
    """The times of each way, turn after turn; empty if the machine is too busy.

    Turns, as another program's load for a moment should decide nothing. What was a tenth
    behind the best in each of three turns or more takes no further part, except for the first,
    which the others are compared with.
    """
    begin, used = time.perf_counter(), time.thread_time()
    for way in ways:
        run(way)  # the first is slower
    times: dict[Way, list[float]] = {way: [] for way in ways}
    alive = list(ways)
    while len(alive) > 1 and (len(times[ways[0]]) < 3 or time.perf_counter() < begin + seconds):
        if time.perf_counter() > begin + PATIENCE * seconds:
            return {}
        for way in alive:
            times[way].append(run(way))
        alive = _still_open(times, alive)
    is_busy = time.thread_time() - used < SHARE * (time.perf_counter() - begin)
    return {} if is_busy else times


def _still_open(times: dict[Way, list[float]], alive: list[Way]) -> list[Way]:
    """The ways that may be the fastest, with the first; the first alone where it is settled."""
    if len(times[alive[0]]) < 3:
        least = min(times[way][-1] for way in alive)
        return alive[:1] + [way for way in alive[1:] if times[way][-1] < FAR * least]
    best = [min(turn) for turn in zip(*(times[way] for way in alive), strict=True)]

    def is_behind(way: Way) -> bool:
        return all(own > GAIN * least for own, least in zip(times[way], best, strict=True))

    near = [way for way in alive if not is_behind(way)]
    settled = len(near) == 1 and len(best) >= 5
    first = alive[:1]
    return first if settled else first + [way for way in near if way != alive[0]] or first


def gains(times: dict[Way, list[float]]) -> dict[Way, float]:
    """How many times as fast as the first each way is, as medians of the ratios of turns."""
    first = next(iter(times.values()))
    return {
        way: median(a / b for a, b in zip(first, own, strict=False)) for way, own in times.items()
    }


def fastest(times: dict[Arithmetic, list[float]]) -> Arithmetic:
    """The way to take: another than the first must gain by MARGIN, and bfloat16 by GAIN."""
    gain = gains(times)
    firsts = {way.dtype: way for way in reversed(times)}  # the first of each dtype
    best: dict[str, Arithmetic] = {}
    for dtype, first in firsts.items():
        found = max((way for way in times if way.dtype == dtype), key=gain.__getitem__)
        best[dtype] = found if gain[found] > MARGIN * gain[first] else first
    wide, narrow = best.get("float32"), best.get("bfloat16")
    if wide is None or (narrow is not None and gain[narrow] > GAIN * gain[wide]):
        assert narrow is not None
        return narrow
    return wide


# ---- Choosing.


def _ways(settings: TrainConfig) -> list[Arithmetic]:
    """What the settings leave open, the plain way first."""

    def options(name: str, every: tuple[str, ...]) -> tuple[str, ...]:
        value = getattr(settings, name)
        return every if value == "auto" else (value,)

    attentions = options("attention", ("products", "fused"))
    if settings.dropout and settings.attention == "auto":
        attentions = ("products",)  # torch's function has no fast path for dropout on a CPU
    matmuls = options("matmul", ("onednn", "blas"))
    if settings.matmul == "auto" and not quicken_float32():
        matmuls = ("blas",)
    found = []
    for dtype in options("dtype", ("float32", "bfloat16")):
        products = matmuls if dtype == "float32" else matmuls[:1]
        found += [Arithmetic(dtype, m, a) for m in products for a in attentions]
    return found


def _loss(config: Config, settings: TrainConfig, rows: int, way: Arithmetic) -> str:
    """In pieces, unless the whole logits are small and measured to be faster."""
    if settings.loss != "auto":
        return settings.loss
    if rows * config.n_vocab * 4 > PIECE:
        return "pieces"
    use_matmul(way.matmul)
    run = _seconds_of_loss(config, rows, way.dtype)
    times = turns(run, ("pieces", "whole"), SECONDS / 5)
    return "whole" if times and gains(times)["whole"] > MARGIN else "pieces"


def measured(config: Config, settings: TrainConfig, rows: int) -> tuple[Choice, str]:
    """Return what is fastest as settings, and the figures; nothing if the machine is too busy.

    rows: sequences at a time in one process. Takes about a second.
    """
    ways = _ways(settings)
    length = settings.block_size or config.n_ctx
    times: dict[Arithmetic, list[float]] = {}
    if len(ways) > 1:
        times = turns(Slice(config, length, rows).seconds, ways, SECONDS)
        if not times:
            return {}, ""
    way = fastest(times) if times else ways[0]
    loss = _loss(config, settings, rows * length, way)
    chosen = {**vars(way), "loss": loss}
    figures = "; ".join(f"{way} {1000 * median(own):.1f} ms" for way, own in times.items())
    if not figures:
        return chosen, ""
    return chosen, (
        f"auto is {in_words(chosen)} here; one layer and its share of the head take: {figures}"
    )


# ---- Remembering.


def _shape(config: Config, settings: TrainConfig, rows: int) -> str:
    """What was measured, in words."""
    length = settings.block_size or config.n_ctx
    return (
        f"{config.n_layer} layers, {config.n_embd} wide, {rows} x {length} tokens, "
        f"vocabulary {config.n_vocab}, threads {torch.get_num_threads()}"
    )


def _file(config: Config, settings: TrainConfig, rows: int) -> Path | None:
    """Where the choice for this torch, shape and open settings is remembered."""
    shape = (config.n_head, config.mlp_width, config.activation_function, settings.dropout > 0)
    asked = [getattr(settings, name) for name in ARITHMETIC]
    versions = (__version__, torch.__version__, torch.backends.cpu.get_cpu_capability())
    return file_of(versions, _shape(config, settings, rows), shape, asked)


def _with(settings: TrainConfig, chosen: Mapping[str, str]) -> TrainConfig:
    """The settings with these values; mypy knows no names of fields."""
    values: dict[str, Any] = dict(chosen)
    return replace(settings, **values)


def choose(config: Config, settings: TrainConfig, rows: int) -> tuple[TrainConfig, str]:
    """Return the settings with nothing of the arithmetic left open, and why, for the run's log.

    Measured for this machine and shape, or remembered. rows: sequences at a time in one process.
    """
    if all(getattr(settings, name) != "auto" for name in ARITHMETIC) or config.n_embd < NARROW:
        return plain(settings), ""
    file = _file(config, settings, rows)
    found = recall(file, settings)
    if found is not None:
        chosen, why = found
        return _with(settings, chosen), f"{why} (remembered)" if why else ""
    chosen, why = measured(config, settings, rows)
    if not chosen:
        return plain(settings), (
            "the machine is too busy to measure which arithmetic is fastest; "
            f"it stays at {_ways(settings)[0]}"
        )
    remember(file, _shape(config, settings, rows), chosen, why)
    return _with(settings, chosen), why


def plain(settings: TrainConfig) -> TrainConfig:
    """The settings with what is open as it was in runs before anything of it was measured."""
    usual: dict[str, Any] = {"dtype": "float32", **PLAIN}
    if settings.matmul == "auto" and not quicken_float32():
        usual["matmul"] = "blas"
    return replace(settings, **{k: v for k, v in usual.items() if getattr(settings, k) == "auto"})
