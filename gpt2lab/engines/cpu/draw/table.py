"""What Python and the compiled draw agree on: the words of a call, of a row, of its settings."""

from __future__ import annotations

from enum import IntEnum, auto

from gpt2lab.engines.cpu.layout import _Words


class DrawCall(_Words):
    """The words of one call, which draws for several rows."""

    ROWS = auto()  # address, [rows, len(DrawRow)]
    VOCAB = auto()  # V
    PADDED = auto()  # V up to whole blocks
    ROOM = auto()  # memory of the threads, ROOM_BYTES apart
    ROOM_BYTES = auto()


class DrawRow(_Words):
    """The words of one row."""

    LOGITS = auto()  # address of V float32
    LIMIT = auto()  # no token from this id on
    PLAN = auto()  # address of the settings: an operation after the other, the last is END
    SEED = auto()
    INDEX = auto()
    TOKENS = auto()  # address of the ids so far
    COUNT = auto()  # how many
    PROMPT = auto()  # how many of them are the prompt
    TOKEN = auto()  # the answer: the id, or -1
    LOGPROB = auto()  # the bits of its float64 log-probability


class Op(IntEnum):
    """Operations: GREEDY and END, or the processors of `generation.processors`."""

    END = 0
    GREEDY = 1
    LOGIT_BIAS = 2
    REPETITION_PENALTY = 3
    PRESENCE_PENALTY = 4
    FREQUENCY_PENALTY = 5
    NO_REPEAT_NGRAM = 6
    BAD_WORDS = 7
    MIN_NEW_TOKENS = 8
    TEMPERATURE = 9
    TOP_K = 10
    TOP_P = 11
    TOP_P_NARROW = 12
    TOP_P_OR_K = 13
    MIN_P = 14
    TYPICAL_P = 15
    EPSILON_CUTOFF = 16
    ETA_CUTOFF = 17
    PROBE = 18  # no draw: exp of COUNT units of numbers, written to TOKENS


class DrawStep(_Words):
    """The words of an operation."""

    OP = auto()
    NUMBER = auto()  # the bits of a float64
    LIST = auto()  # address of int64s
    COUNT = auto()  # of them, or a number of its own
    VALUES = auto()  # address of float32s


UNIT = 64  # logits: a word of bits
BLOCK = 512  # logits whose weights are added up together
HEADER = 512  # bytes before the arrays of a thread's memory
ROOM = 53  # bytes of them for a padded logit
