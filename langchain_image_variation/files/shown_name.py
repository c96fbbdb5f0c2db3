"""`shown_name`: how messages name a file."""

from pathlib import Path

__all__ = ["shown_name"]

_MAX_LENGTH = 80


def shown_name(path: str) -> str:
    """Return the last part of a path or a URL, cut if it is long.

    Messages show no folders, which may be private.
    """
    return Path(path).name[:_MAX_LENGTH]
