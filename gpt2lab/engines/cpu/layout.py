"""What the engine and its kernels agree on: how numbers lie in memory, and what a job says.

A job is a list of 64-bit words that the engine fills for every step. Addresses and strides are in
bytes. A panel is `Target.width` neighbouring columns of a matrix: what one row of a tile covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto
from types import ModuleType
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

f32: Any = np.float32
i32: Any = np.int32
i64: Any = np.int64


@dataclass(frozen=True)
class KStep:
    """One step of a product along K.

    numbers: how many numbers of K it takes. weight_bytes: of one column. activation_bytes: of one
    row. block: after how many steps the sums in registers are folded into those in memory; for
    integer products also how many steps share a scale of the activations. scale_bytes: of one
    column's scale for each block, which follows the weights of the block; 0 where a scale serves
    the whole column.
    """

    numbers: int
    weight_bytes: int
    activation_bytes: int
    block: int
    scale_bytes: int = 0

    def weight_steps(self, k: int) -> int:
        """How many steps a matrix of k rows has: whole blocks, where these have scales."""
        return ceil_to(k, self.numbers * (self.block if self.scale_bytes else 1)) // self.numbers

    def panel_bytes(self, k: int, width: int) -> int:
        """Bytes of a panel of a matrix of k rows."""
        steps = self.weight_steps(k)
        return width * (steps * self.weight_bytes + steps // self.block * self.scale_bytes)


STEP = {
    "float": KStep(1, 4, 4, 256),
    "shift": KStep(2, 4, 8, 128),
    "pairs": KStep(2, 4, 4, 128),
    "byte": KStep(1, 1, 4, 256),
    "int16": KStep(2, 2, 4, 64),  # 128 numbers: 128 * 127 * 32767 stays below 2^31
    "vnni": KStep(4, 4, 4, 32),
    "dot": KStep(4, 4, 4, 32),
    "nibbles": KStep(8, 4, 8, 8, 2),  # int4: 64 numbers share a scale in bfloat16
    "nibbles16": KStep(8, 4, 16, 8, 2),
}
#: The products that multiply int8 activations with a scale for each block.
OF_INT8 = ("vnni", "dot", "nibbles")
OF_INT16 = ("int16", "nibbles16")
#: What is added to weights that are stored without a sign, as x86 multiplies unsigned by signed.
OFFSET = {"vnni": 128, "nibbles": 8}

HEAD_BLOCK = 256  # columns of the head whose logits a scoring step holds at once


def head_dtype(weights: str) -> str:
    """The dtype of the head beside weights of a dtype.

    In 4 bits the head alone costs as much perplexity as all other matrices (docs/quality.md).
    """
    return "int8" if weights == "int4" else weights


CACHE_PRODUCT = {"float32": "float", "bfloat16": "shift", "int8": "byte"}  # of keys and values


class _Words(IntEnum):
    """Numbered from 0 in the order of writing."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[int]) -> int:
        return count


class Job(_Words):
    """The words of a job."""

    # What each step changes.
    SERIAL = auto()  # of this step among the engine's
    ROWS = auto()  # new tokens of this step
    GROUPS = auto()  # neighbouring rows of one sequence that attend together
    LAST = auto()  # rows whose logits are wanted
    LOGITS = auto()  # address, [LAST, LOGITS_STRIDE]
    # What a scoring step measures instead of logits (`scoring`): two counts, and addresses.
    TARGETS = auto()  # how many
    TARGET = auto()  # [TARGETS, 2] which of the LAST rows, the id
    TARGET_LOGIT = auto()  # [TARGETS]
    PARTS = auto()  # [blocks, LAST, 3] largest logit, sum of e = exp(logit - largest), of e * ...
    ABOVE = auto()  # [blocks, TARGETS] how many logits are larger than the target's
    TOP = auto()  # how many of the largest logits of a block
    TOP_LOGIT = auto()  # [blocks, LAST, TOP], and their ids
    TOP_ID = auto()
    # The model.
    LAYERS = auto()
    EMBED = auto()  # E
    HEADS = auto()
    HEAD = auto()  # D, the width of one head
    SIZE = auto()  # D up to whole panels
    INNER = auto()
    ACTIVATION = auto()  # 0 the tanh form of GELU, 1 the exact one, 2 relu
    EPSILON = auto()  # the bits of a float32
    # Buffers that all threads share.
    X = auto()  # [ROWS, X_STRIDE] the residual stream
    X_STRIDE = auto()
    ACTS = auto()  # [ROWS, ACTS_STRIDE] what a product multiplies
    ACTS_STRIDE = auto()
    SCALES = auto()  # [ROWS, blocks, 2] scale and start of the integers in ACTS
    SCALES_STRIDE = auto()
    WIDE = auto()  # [ROWS, WIDE_STRIDE] attention's output, then the inside of the MLP
    WIDE_STRIDE = auto()
    LOGITS_STRIDE = auto()
    # Buffers of one thread each, SCRATCH_STRIDE apart; the others are offsets into them.
    SCRATCH = auto()
    SCRATCH_STRIDE = auto()
    OWN_ACTS = auto()
    OWN_SCALES = auto()
    OWN_Q = auto()
    OWN_P = auto()
    OWN_Z = auto()
    # Lists.
    ROW = auto()  # [ROWS, 2] the slot's address, the position
    GROUP = auto()  # [GROUPS, 2] first row, how many
    LAST_ROW = auto()  # [LAST]
    LAYER = auto()  # [LAYERS, len(Layer)]
    FINAL = auto()  # [2] ln_f's gain and bias
    HEAD_WEIGHT = auto()
    HEAD_SCALE = auto()
    HEAD_PANELS = auto()
    VOCAB = auto()  # V
    # The cache: a slot holds keys, values and their scales, each [layer][head].
    KEY_BYTES = auto()  # of one head of one layer; its values take as much
    SCALE_BYTES = auto()  # of one head of one layer, keys' and values' scales each
    V_OFFSET = auto()  # from a slot's keys to its values
    SCALE_OFFSET = auto()  # from a slot's keys to its scales
    V_PANEL = auto()  # bytes of one panel of values
    POSITIONS = auto()  # n_ctx up to whole panels
    WORKERS = auto()
    FEW = auto()  # whether every thread prepares rows for itself
    TICKETS = auto()  # this word and the next ones: how many tickets each phase has (`phases`)


JOB_WORDS = len(Job) + 11  # there are twelve phases


class Layer(_Words):
    """The words of a layer: addresses, and the bits of its attention scale.

    The last two are of acts (`acting`), 0 where there are none: up to whole panels, what the heads'
    output [E] and the inside of the MLP [F] are multiplied by.
    """

    LN_1_G = auto()
    LN_1_B = auto()
    QKV = auto()
    QKV_SCALE = auto()
    QKV_BIAS = auto()
    PROJECT = auto()
    PROJECT_SCALE = auto()
    PROJECT_BIAS = auto()
    LN_2_G = auto()
    LN_2_B = auto()
    FC = auto()
    FC_SCALE = auto()
    FC_BIAS = auto()
    OUT = auto()
    OUT_SCALE = auto()
    OUT_BIAS = auto()
    ATTENTION = auto()
    HEADS_FACTORS = auto()
    INNER_FACTORS = auto()


class Control(IntEnum):
    """The words that threads meet at, each on a cache line of its own."""

    CLAIM = 0  # epoch << 32 | the next ticket
    DONE = 8  # tickets done
    TOTAL = 16  # tickets of this job
    RUN = 24  # address of the function
    JOB = 32
    STOP = 40
    ASLEEP = 48  # + 8 * worker


SHUT = 0x40000000  # a ticket beyond every job's: in CLAIM, it says that no thread draws


def constants(words: type[IntEnum]) -> Any:
    """The numbers of an enumeration as a module's, which every Numba takes as an index."""
    module = ModuleType(words.__name__)
    module.__dict__.update({word.name: int(word) for word in words})
    return module


def ceil_to(number: int, multiple: int) -> int:
    """The next multiple from a number up."""
    return -(-number // multiple) * multiple


def bfloat16(x: Array) -> Array:
    """float32 as bfloat16 bits (uint16), rounded to the nearest, ties to even."""
    raw = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((raw + (0x7FFF + ((raw >> 16) & 1))) >> 16).astype(np.uint16)


def widened(raw: Array) -> Array:
    """bfloat16 bits as float32."""
    return (raw.astype(np.uint32) << 16).view(np.float32)
