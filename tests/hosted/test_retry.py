import time
from dataclasses import FrozenInstanceError
from email.utils import formatdate

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_image_variation.error_response import error_from_wire
from langchain_image_variation.exceptions import (
    BillingLimitError,
    ContentPolicyError,
    EngineConnectionError,
    EngineTimeoutError,
    ImageVariationError,
    QuotaExceededError,
)
from langchain_image_variation.hosted.retry import Retries, read_retry_advice, retry_after

LIMIT = "Rate limit reached for gpt-image-2 on input-images per min: Limit 5, Used 5, Requested 1. "


@pytest.mark.parametrize(
    ("headers", "message", "seconds"),
    [
        ({"retry-after-ms": "1500"}, "", 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, "", 1.5),
        ({"retry-after": "9"}, "try again in 2s", 9.0),
        ({"retry-after": "0.5"}, "", 0.5),
        ({"retry-after": "86400"}, "", 86400.0),
        ({"retry-after": "-3"}, "", 0.0),
        ({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}, "", 0.0),
        ({}, LIMIT + "Please try again in 12s.", 12.0),
        ({}, "Please try again in 1.5s.", 1.5),
        ({}, "Please try again in 250ms.", 0.25),
        ({}, "Please try again in 6m0s.", 360.0),
        ({}, "Please try again in 1h2m3s.", 3723.0),
        ({}, "Please try again in 20 s", 20.0),
        ({}, "Please try again in 20 seconds", 20.0),
        ({}, "Please try again in 2m.", 120.0),
        ({}, "Please try again in a while.", None),
        ({}, "Please try again in 5 minutes", 300.0),
        ({}, "try again in about 1 hour 2 min 3 sec", 3723.0),
        ({}, "Please retry after 20 seconds.", 20.0),
        ({}, "try again in 1m 30s", 90.0),
        ({"retry-after": "5, 5"}, "", 5.0),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "Mon, 99 Foo 2001"}, "", None),
        ({}, "", None),
    ],
)
def test_the_delay_of_the_server_is_read(
    headers: dict[str, str], message: str, seconds: float | None
) -> None:
    """Milliseconds come before seconds and dates, and those before the text."""
    assert retry_after(headers, message) == seconds


def test_a_date_is_counted_from_now() -> None:
    """A date in Retry-After is converted to the seconds from now."""
    seconds = retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)}, "")
    assert seconds is not None
    assert 90 < seconds <= 100


@given(st.text(), st.text(), st.text())
def test_any_header_gives_seconds_or_none(ms: str, after: str, message: str) -> None:
    """Any header and any text is read without an error."""
    headers = {"retry-after-ms": ms, "retry-after": after}
    seconds = retry_after(headers, f"try again in {message}")
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize(("value", "advice"), [("true", True), ("False ", False), ("maybe", None)])
def test_the_advice_of_the_server_is_read(value: str, advice: bool | None) -> None:
    """`x-should-retry` is true or false; anything else is ignored."""
    assert read_retry_advice({"x-should-retry": value}) is advice


@pytest.mark.parametrize(
    ("status", "is_retried"),
    [
        *((status, True) for status in (408, 409, 429, 500, 502, 503, 504, 529)),
        *((status, False) for status in (400, 401, 403, 404, 413, 422, 499, 501)),
    ],
)
def test_temporary_failures_are_retried(status: int, is_retried: bool) -> None:
    """Only temporary failures are retried, unless the server advises otherwise."""
    error = error_from_wire(status, "x")
    assert (Retries().delay(error, 0) is not None) is is_retried
    assert Retries().delay(error, 0, server_advice=True) is not None
    assert Retries().delay(error, 0, server_advice=False) is None


@pytest.mark.parametrize("error_class", [BillingLimitError, ContentPolicyError, QuotaExceededError])
def test_permanent_failures_are_never_retried(
    error_class: type[ImageVariationError],
) -> None:
    """Some failures are never retried, whatever the server advises."""
    assert Retries(max_retries=5).delay(error_class("x"), 0, server_advice=True) is None


def test_the_defaults_are_those_of_the_sdk() -> None:
    """A client retries as often as the official SDK by default."""
    assert Retries().max_retries == openai.DEFAULT_MAX_RETRIES
    error = EngineConnectionError("x")
    delays = [Retries().delay(error, attempt) for attempt in range(4)]
    assert [delay is None for delay in delays] == [False, False, True, True]


def test_retries_cannot_be_changed() -> None:
    """The clients of several threads can share one `Retries`."""
    with pytest.raises(FrozenInstanceError):
        Retries().max_retries = 3  # type: ignore[misc]  # what the test is about


def test_a_lost_answer_is_retried_only_on_request() -> None:
    """A lost answer is not retried by default, because its images may have been billed."""
    error = EngineTimeoutError("x")
    assert Retries().delay(error, 0, answer_lost=True) is None
    assert Retries(resend_lost=True).delay(error, 0, answer_lost=True) is not None
    assert Retries().delay(EngineConnectionError("x"), 0) is not None


def test_delays_grow_with_full_jitter() -> None:
    """Each delay is random, up to a limit that doubles until it is 8 seconds."""
    retries = Retries(max_retries=6)
    error = EngineConnectionError("x")
    for attempt, limit in enumerate((0.5, 1, 2, 4, 8, 8)):
        delays = [retries.delay(error, attempt) or 0.0 for _ in range(200)]
        assert 0 <= min(delays) < limit / 4
        assert limit * 3 / 4 < max(delays) <= limit
    assert retries.delay(error, 6) is None


def test_a_delay_of_zero_is_replaced() -> None:
    """A delay of zero is replaced, so that the attempts are not over in an instant."""
    error = error_from_wire(429, "x")
    error.retry_after = 0.0
    delays = [Retries(max_retries=3000).delay(error, attempt) or 0.0 for attempt in range(2000)]
    assert 3.5 < sum(delays) / len(delays) < 4.5


def test_a_delay_of_the_server_is_not_shortened() -> None:
    """A delay from the server stays as it is; the code that waits checks the deadline."""
    error = error_from_wire(429, "x")
    error.retry_after = 7200.0
    assert Retries().delay(error, 0) == 7200.0
