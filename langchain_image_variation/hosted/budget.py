"""The time and bytes that a call may still use, no matter what the server sends."""

import time
from dataclasses import dataclass, replace

__all__ = ["MAX_ANSWER_BYTES", "Budget"]

MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""The default number of bytes that a call may receive. Ten images of 1024x1024 with 16-bit samples
and alpha need 112 MB in base64, even if they are not compressed at all."""


@dataclass(slots=True)
class Budget:
    """The time and bytes that a call may use. Its answers and downloads share them."""

    deadline: float
    """In seconds of `time.monotonic`."""
    max_bytes: int
    """The maximum number of bytes that the call may receive and keep."""
    kept_bytes: int = 0
    """The total length of the answers and downloads so far."""

    @property
    def seconds_left(self) -> float:
        """The seconds until the deadline. They are negative once it has passed."""
        return self.deadline - time.monotonic()

    @property
    def bytes_left(self) -> int:
        """How many more bytes the call may receive."""
        return self.max_bytes - self.kept_bytes

    def within(self, seconds: float) -> "Budget":
        """Return the same budget with a deadline at most that many seconds from now."""
        return replace(self, deadline=min(self.deadline, time.monotonic() + seconds))

    def share(self, n: int, total: int) -> "Budget":
        """Return the budget of a part that makes `n` of `total` images: its share of the bytes."""
        return replace(self, max_bytes=self.max_bytes * n // total)
