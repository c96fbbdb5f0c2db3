"""The chunks of a WebP file (RFC 9649, section 2.3)."""

__all__ = ["count_chunks", "is_webp"]


def is_webp(data: bytes) -> bool:
    """Return whether a file begins as a WebP file does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def count_chunks(data: bytes, limit: int) -> int:
    """Return the number of chunks at the top level of a WebP file, counted up to a limit."""
    count, start = 0, 12
    while count < limit and start + 8 <= len(data):
        length = int.from_bytes(data[start + 4 : start + 8], "little")
        # A chunk of odd length is followed by a padding byte.
        start += 8 + length + length % 2
        count += 1
    return count
