"""Settings as the operations of the cpu engine's compiled draw."""

from __future__ import annotations

from gpt2lab.engines.cpu.draw.drawer import Operation, Plan
from gpt2lab.engines.cpu.draw.table import Op
from gpt2lab.generation.sampling import SHAPE, Sampling

_SHAPE = {*SHAPE, "top_p_narrow", "top_p_or_k"}
_TRUNCATION = _SHAPE - {"temperature"}
_NUMBERS = {
    "no_repeat_ngram": "no_repeat_ngram_size",
    "top_p_narrow": "top_p",
    "top_p_or_k": "top_p",
}
_MOST = 1 << 31  # a larger number than any count of tokens means the same


def plan(s: Sampling) -> Plan | None:
    """The operations of the settings, None where only the processors in NumPy have them.

    These have orders that change logits after tokens were removed, numbers and ids of other kinds.
    """
    order, operations = s.order, list[Operation]()
    words = [token for word in s.bad_words for token in word]
    ids = (*s.logit_bias, *(s.stop_tokens or ()), *words)
    if not all(isinstance(i, int) and i >= 0 for i in ids):
        return None
    if not all(type(value) in (int, float) for value in s.logit_bias.values()):
        return None  # NumPy adds a float64 of its own in float64
    cuts = [place for place, name in enumerate(order) if name in _TRUNCATION]
    if cuts and any(name not in _SHAPE for name in order[cuts[0] :]):
        return None
    if s.greedy:
        operations.append((Op.GREEDY, 0.0, (), ()))
    operations += [_operation(name, s) for name in order]
    return Plan(operations, s.seed or 0, max(ids, default=-1))


def _operation(name: str, s: Sampling) -> Operation:
    op = Op[name.upper()]
    if name == "logit_bias":
        return op, 0.0, tuple(s.logit_bias), tuple(map(float, s.logit_bias.values()))
    if name == "bad_words":
        return op, 0.0, _words(s), ()
    if name == "min_new_tokens":
        return op, float(min(s.min_new_tokens, _MOST)), s.stop_tokens or (), ()
    if name == "top_p_or_k" and s.top_p == 1:
        return Op.TOP_K, float(min(s.top_k, _MOST)), (), ()
    return op, float(min(getattr(s, _NUMBERS.get(name, name)), _MOST)), (), ()


def _words(s: Sampling) -> tuple[int, ...]:
    """The bad words one after the other, each behind its length."""
    ends = s.stop_tokens or ()
    words = [word for word in s.bad_words if len(word) > 1 or word[0] not in ends]
    return tuple(number for word in words for number in (len(word), *word))
