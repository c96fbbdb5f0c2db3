"""The units (OBUs) of AV1 data, found without decoding anything."""

from collections.abc import Iterator

__all__ = ["FRAMES", "SEQUENCE_HEADER", "read_sequence_size", "read_units"]

SEQUENCE_HEADER = 1
"""The type of the unit that states the size of the frames (AV1 specification, 6.2.2)."""

FRAMES = (3, 6)
"""The types of the units that begin a frame."""


def read_units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the content of each unit (AV1 specification, 5.3)."""
    start = 0
    while start < len(data):
        kind, has_extension, has_size = data[start] >> 3 & 15, data[start] & 4, data[start] & 2
        start += 2 if has_extension else 1
        size = len(data) - start
        if has_size:
            size, start = _read_leb128(data, start)
        yield kind, data[start : start + size]
        start += size


def _read_leb128(data: bytes, start: int) -> tuple[int, int]:
    """Return a number and the offset after it (AV1 specification, 4.10.5)."""
    value = 0
    for number, byte in enumerate(data[start : start + 8]):
        value |= (byte & 127) << 7 * number
        if byte < 128:
            return value, start + number + 1
    return value, start + 8


def read_sequence_size(body: bytes) -> int:
    """Return the largest number of pixels of a frame (AV1 specification, 5.5.1)."""
    bits = _Bits(body)
    bits.take(4)  # The profile, and whether the sequence is a still picture.
    if bits.take(1):  # A reduced header has only a level.
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return (bits.take(width_bits) + 1) * (bits.take(height_bits) + 1)


def _skip_operating_points(bits: "_Bits") -> None:
    has_decoder_model, delay_bits = 0, 0
    if bits.take(1):  # timing_info_present_flag
        bits.take(64)
        if bits.take(1):  # equal_picture_interval
            zeros = 0
            while not bits.take(1) and zeros < 32:
                zeros += 1
            bits.take(zeros)
        has_decoder_model = bits.take(1)
        if has_decoder_model:
            delay_bits = bits.take(5) + 1
            bits.take(42)
    has_initial_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:  # seq_level_idx
            bits.take(1)
        if has_decoder_model and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if has_initial_delay and bits.take(1):
            bits.take(4)


class _Bits:
    """Reads numbers from the bits of a header, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        # The longest header that matters has 32 operating points of about 12 bytes.
        self._bits = int.from_bytes(data[:1024].ljust(1024, b"\0"))
        self._rest = 8 * 1024

    def take(self, count: int) -> int:
        self._rest = max(self._rest - count, 0)
        return self._bits >> self._rest & ((1 << count) - 1)
