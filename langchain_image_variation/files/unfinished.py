"""The temporary names of files that are being written, by which leftovers of a kill are known."""

import re
import secrets

__all__ = ["UNFINISHED", "unfinished_name"]

UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.part")
"""Matches such a name, and nothing that a person would choose."""


def unfinished_name() -> str:
    """Return a new one: hidden, and of no other file."""
    return f".{secrets.token_hex(8)}.part"
