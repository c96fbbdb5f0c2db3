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
from langchain_image_variation.http.status import is_temporary

__all__ = ["Retries", "read_retry_advice", "retry_after"]

_FIRST_DELAY = 0.5
_MAX_DELAY = 8.0
_PERMANENT_ERRORS = (BillingLimitError, ContentPolicyError, QuotaExceededError)

# "Please try again in 12s", "in 1m30.5s", "in 250ms". Image rate limits say it only in the text.
_DELAY_IN_TEXT = re.compile(
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

    A request is retried after a failed connection, 408, 409, 429, or 5xx other than 501. It is
    never retried if a budget or quota is used up, or if the server rejects the content of the
    image.
    """

    max_retries: int = 2
    """The maximum number of retries of one request."""
    resend_lost: bool = False
    """Whether to retry if the answer was lost, although it may have been billed."""

    def delay(
        self,
        error: ImageVariationError,
        attempt: int,
        *,
        server_advice: bool | None = None,
        answer_lost: bool = False,
        until_deadline: bool = False,
    ) -> float | None:
        """Return the seconds to wait before the next attempt, or None if there is none.

        The delay is what the server asked for. If it asked for nothing, the delay is exponential
        with full jitter: random, from 0 up to 0.5, 1, 2, 4 and then 8 seconds.

        Args:
            error: The failure.
            attempt: The number of retries so far.
            server_advice: The value of the server's `x-should-retry`.
            answer_lost: Whether the server may have made the images although the answer was lost.
            until_deadline: Whether `max_retries` does not count.
        """
        has_retry = until_deadline or attempt < self.max_retries
        if not has_retry or isinstance(error, _PERMANENT_ERRORS):
            return None
        if answer_lost:
            should_retry = self.resend_lost
        elif server_advice is not None:
            should_retry = server_advice
        else:
            should_retry = is_temporary(error.status_code)
        if not should_retry:
            return None
        # A server that asks for 0 seconds gets our own delay. Otherwise all attempts would be over
        # in an instant.
        return error.retry_after or random.uniform(
            0, min(_FIRST_DELAY * 2 ** min(attempt, 10), _MAX_DELAY)
        )


def retry_after(headers: Mapping[str, str], message: str) -> float | None:
    """Return the seconds after which the server wants the request again, or None.

    This reads, in this order: `retry-after-ms`, `Retry-After` in seconds or as a date (RFC 9110,
    section 10.2.3), and "try again in N s" in the error's message.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    # httpx joins two headers of the same name by a comma. A date contains one, too.
    value = headers.get("retry-after")
    seconds = _number((value or "").partition(",")[0])
    if seconds is not None:
        return seconds
    if value is not None:
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, OverflowError):
            pass  # An invalid header counts as none.
    match = _DELAY_IN_TEXT.search(message)
    if match is None:
        return None
    amounts = {unit: float(text) for unit, text in match.groupdict().items() if text is not None}
    return sum(_SECONDS[unit] * amount for unit, amount in amounts.items()) if amounts else None


def read_retry_advice(headers: Mapping[str, str]) -> bool | None:
    """Return the value of `x-should-retry`, or None if the server does not send it."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return max(0.0, number) if isfinite(number) else None
