"""Sizes of files and of memory, as text."""

__all__ = ["describe_bytes", "describe_memory"]


def describe_bytes(size: int) -> str:
    """Return a size for people, such as "5.2 GB"."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def describe_memory(size: int) -> str:
    """Return an amount of memory for people, such as "0.9 GB", always in gigabytes."""
    return f"{size / 10**9:.1f} GB"
