"""`BilledCalls`: how many calls an engine may make, and has made."""

import threading

from langchain_image_variation.exceptions import BillingLimitError
from langchain_image_variation.numbers import check_whole_number

__all__ = ["BilledCalls"]


class BilledCalls:
    """Counts the billed calls of an engine and its copies, and refuses calls above a limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit = (
            None if limit is None else check_whole_number("max_billed_calls", limit, 1, 2**40)
        )
        self._lock = threading.Lock()
        self._count = 0

    def add(self, number: int) -> None:
        """Count calls that are about to be made.

        Raises:
            BillingLimitError: If they would exceed the limit. None of them is counted then.
        """
        with self._lock:
            if self.limit is not None and self._count + number > self.limit:
                calls = "1 call" if number == 1 else f"{number} calls"
                raise BillingLimitError(
                    f"The request needs {calls}, and {self._count} of the {self.limit:,} that "
                    "max_billed_calls allows are used. Nothing was sent. Raise max_billed_calls."
                )
            self._count += number

    def take_back(self, number: int) -> None:
        """Uncount calls that were not made after all."""
        with self._lock:
            self._count -= number
