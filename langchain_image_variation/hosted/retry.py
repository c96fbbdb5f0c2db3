"""Whether and when a failed request is sent again."""

import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import isfinite

from langchain_image_variation.exceptions import (
    BillingLimitError,
    ContentPolicyError,
    ImageVariationError,
    QuotaExceededError,
)

__all__ = ["Retries", "advice", "retry_after"]

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 8.0
_NEVER = (BillingLimitError, ContentPolicyError, QuotaExceededError)
_PASSING = {408, 409, 429}
_NOT_IMPLEMENTED = 501

# "Please try again in 12s", "in 1m30.5s", "in 250ms": image rate limits say it in their text alone.
_IN_TEXT = re.compile(
    r"(?:try again|retry) (?:in|after) (?:about )?(?=\d)"
    r"(?:(?P<h>\d+) ?h(?:ours?)?(?![a-z]) ?)?"
    r"(?:(?P<m>\d+) ?m(?:in(?:ute)?s?)?(?![a-z]) ?)?"
    r"(?:(?P<s>\d+(?:\.\d+)?) ?s(?:ec(?:ond)?s?)?\b)?(?:(?P<ms>\d+(?:\.\d+)?) ?ms\b)?",
    re.IGNORECASE,
)
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a request is sent again, and after which failures.

    Sent again are requests that met a failing connection, 408, 409, 429 or 5xx but 501; never one
    that met a used-up budget or quota, or a refusal of what the picture shows.
    """

    max_retries: int = 2
    """How many times one request may be sent again."""
    resend_lost: bool = False
    """Whether to send again when the answer was lost, though it may have been billed."""

    def delay(
        self,
        error: ImageVariationError,
        attempt: int,
        *,
        advised: bool | None = None,
        lost: bool = False,
    ) -> float | None:
        """Return after how many seconds to send again, or None for not at all.

        The delay is what the server asked for, or if that is nothing, exponential with full jitter:
        evenly drawn from 0 to 0.5, 1, 2, 4 and then 8 seconds.

        Args:
            error: The failure.
            attempt: How many times the request was sent before, 0 for the first failure.
            advised: What the server's `x-should-retry` said.
            lost: Whether the server may have made the pictures, and the answer got lost.
        """
        if attempt >= self.max_retries or isinstance(error, _NEVER):
            return None
        if lost:
            again = self.resend_lost
        elif advised is not None:
            again = advised
        else:
            status = error.status_code
            again = status in _PASSING or (status >= 500 and status != _NOT_IMPLEMENTED)
        if not again:
            return None
        # "At once" is no time to wait: without a delay of our own, all attempts would be over in an
        # instant.
        return error.retry_after or random.uniform(
            0, min(_FIRST_DELAY * 2 ** min(attempt, 10), _LONGEST_DELAY)
        )


def retry_after(headers: Mapping[str, str], message: str) -> float | None:
    """Return after how many seconds the server wants the request again, if it says so.

    Read are, in this order, `retry-after-ms`, `Retry-After` in seconds or as a date (RFC 9110,
    section 10.2.3), and "try again in N s" in the error's message.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    # Two headers of a name are joined by a comma, which a date has too.
    value = headers.get("retry-after")
    seconds = _number((value or "").partition(",")[0])
    if seconds is not None:
        return seconds
    if value is not None:
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, OverflowError):
            pass  # A broken header is no header.
    found = _IN_TEXT.search(message)
    if found is None:
        return None
    parts = {unit: float(text) for unit, text in found.groupdict().items() if text is not None}
    return sum(_SECONDS[unit] * amount for unit, amount in parts.items()) if parts else None


def advice(headers: Mapping[str, str]) -> bool | None:
    """Return what `x-should-retry` says, or None."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return max(0.0, number) if isfinite(number) else None
