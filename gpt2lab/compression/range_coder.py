"""Arithmetic coding with integers: a stream of bytes and a sequence of intervals, both ways.

The encoder narrows an interval [low, low + range) of 64 bits by the share of each symbol, and
writes the leading byte when it is settled. The decoder follows, with the offset of the bytes in
the interval. Source: G. N. N. Martin, "Range encoding: an algorithm for removing redundancy from a
digitised message", 1979; carries as in LZMA's coder.
"""

from __future__ import annotations

_TOP = 1 << 64
_MASK = _TOP - 1
_SETTLED = 1 << 56  # a smaller range writes a byte
LARGEST_TOTAL = 1 << 48  # so that a share is lost by rounding in at most 2^-8 of the range


class RangeEncoder:
    """Symbols to bytes: `encode` each, then `finish`."""

    def __init__(self) -> None:
        self._low, self._range, self._out = 0, _MASK, bytearray()

    def encode(self, start: int, frequency: int, total: int) -> None:
        """Append the symbol whose share is [start, start + frequency) of `total`."""
        assert 0 <= start < start + frequency <= total <= LARGEST_TOTAL
        unit = self._range // total
        self._low += start * unit
        self._range = frequency * unit
        if self._low >= _TOP:
            self._low &= _MASK
            self._carry()
        while self._range < _SETTLED:
            self._out.append(self._low >> 56)
            self._low = self._low << 8 & _MASK
            self._range <<= 8

    def _carry(self) -> None:
        """Add one to the number that the bytes so far are."""
        at = len(self._out) - 1
        while self._out[at] == 255:
            self._out[at] = 0
            at -= 1
        self._out[at] += 1

    def finish(self) -> bytes:
        """The bytes of all symbols: as few as lie in the interval, with zeros after them."""
        for count in range(9):
            rest = (1 << (64 - 8 * count)) - 1
            value = (self._low + rest) & ~rest
            if value < self._low + self._range:
                break
        if value >= _TOP:
            value &= _MASK
            self._carry()
        self._out += (value >> (64 - 8 * count)).to_bytes(count, "big")
        return bytes(self._out)


class RangeDecoder:
    """Bytes to symbols: `target` gives a point in the next one's share, `take` removes it.

    overrun: how many bytes after the end were asked for; more than 8 means that the bytes are not
    those of an encoder.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._range = data, 8, _MASK
        self._offset = int.from_bytes(data[:8].ljust(8, b"\0"), "big")
        self._unit = 0

    @property
    def overrun(self) -> int:
        """How many bytes after the end were used, as zeros."""
        return max(0, self._at - len(self._data))

    def target(self, total: int) -> int:
        """A number in the share of the next symbol, of `total`."""
        self._unit = self._range // total
        return min(self._offset // self._unit, total - 1)

    def take(self, start: int, frequency: int) -> None:
        """Remove the symbol with the share [start, start + frequency) of that total."""
        self._offset -= start * self._unit
        self._range = frequency * self._unit
        while self._range < _SETTLED:
            byte = self._data[self._at] if self._at < len(self._data) else 0
            self._offset = self._offset << 8 | byte
            self._range <<= 8
            self._at += 1
