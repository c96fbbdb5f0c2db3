"""The units (NAL units) of HEVC data, found without decoding anything."""

from collections.abc import Iterator

__all__ = ["begins_picture", "read_units"]


def read_units(data: bytes, configuration: bytes) -> Iterator[bytes]:
    """Yield the first three bytes of each unit (ISO/IEC 14496-15, 8.3).

    Args:
        data: The data of an image.
        configuration: The content of its hvcC box, which may contain units too.
    """
    length_size = (configuration[21] & 3) + 1 if len(configuration) > 22 else 4
    start = 0
    while start + length_size < len(data):
        size = int.from_bytes(data[start : start + length_size])
        start += length_size
        yield data[start : start + 3]
        start += size
    start, arrays = 23, configuration[22] if len(configuration) > 22 else 0
    for _ in range(arrays):
        count = int.from_bytes(configuration[start + 1 : start + 3])
        start += 3
        for _ in range(count):
            if start + 2 >= len(configuration):
                break
            yield configuration[start + 2 : start + 5]
            start += 2 + int.from_bytes(configuration[start : start + 2])


def begins_picture(unit: bytes) -> bool:
    """Return whether a unit is the first slice of a picture (ITU-T H.265, 7.3.1 and 7.3.6).

    Args:
        unit: Its first three bytes.
    """
    return len(unit) == 3 and not unit[0] & 0x40 and unit[2] >= 128
