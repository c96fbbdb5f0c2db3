"""How many processors this process may use."""

import os

__all__ = ["processor_count"]


def processor_count() -> int:
    """Return the number of processors that this process may use, which its affinity may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
