"""The names of files in messages."""

from pathlib import Path

__all__ = ["shown_name", "shown_path"]

_MAX_LENGTH = 80


def shown_name(path: str) -> str:
    """Return the last part of a path or a URL, cut if it is long.

    Messages do not show folders that the caller did not name, because those may be private.
    """
    return Path(path).name[:_MAX_LENGTH]


def shown_path(path: str) -> str:
    """Return a path that the caller gave, or only its last part if it is long."""
    return path if len(path) <= _MAX_LENGTH else shown_name(path)
