import httpx
import pytest

from langchain_image_variation.exceptions import (
    EngineError,
    EngineResponseError,
    EngineTimeoutError,
    ImageVariationError,
    RateLimitError,
)
from tests.calling import (
    Caller,
    answering,
    failure,
    ok,
    parts,
)

NOW = {"retry-after-ms": "1"}


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_passing_failure_is_sent_again(call: Caller, status: int) -> None:
    """With the same idempotency key and the whole body each time."""
    handler, seen = answering(httpx.Response(status, headers=NOW), ok())
    assert len(call(handler).data) == 1
    assert len(seen) == 2
    assert len({request.headers["idempotency-key"] for request in seen}) == 1
    assert parts(seen[0]) == parts(seen[1])


def test_each_call_has_a_key_of_its_own(call: Caller) -> None:
    """Two calls are two purchases."""
    handler, seen = answering(ok())
    call(handler)
    call(handler)
    assert len({request.headers["idempotency-key"] for request in seen}) == 2


def test_the_last_failure_is_raised(call: Caller) -> None:
    """After so many retries as were allowed."""
    handler, seen = answering(httpx.Response(500, content=failure("boom"), headers=NOW))
    with pytest.raises(EngineError, match="boom"):
        call(handler, max_retries=3)
    assert len(seen) == 4


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("x"), httpx.ConnectTimeout("x"), httpx.ReadError("x")]
)
def test_a_failing_connection_is_tried_again(call: Caller, error: Exception) -> None:
    """Whether it cannot be made or breaks before an answer."""
    handler, seen = answering(error, ok())
    assert len(call(handler).data) == 1
    assert len(seen) == 2


def test_a_lost_answer_is_not_asked_for_again_unasked(call: Caller) -> None:
    """The pictures may have been billed; the caller may choose to."""
    handler, seen = answering(httpx.ReadTimeout("x"), ok())
    with pytest.raises(EngineTimeoutError, match="may have been billed"):
        call(handler)
    assert len(seen) == 1
    handler, seen = answering(httpx.ReadTimeout("x"), ok())
    assert len(call(handler, resend_lost=True).data) == 1
    assert len(seen) == 2


def test_a_cut_answer_is_a_lost_one(call: Caller) -> None:
    """A success that breaks off was made, and billed."""
    cut = ok(b'{"created": 1, "data": [{"b64_json": "')
    handler, seen = answering(cut, ok())
    with pytest.raises(EngineResponseError):
        call(handler)
    assert len(seen) == 1
    handler, seen = answering(cut, ok())
    assert len(call(handler, resend_lost=True).data) == 1


@pytest.mark.parametrize(("status", "advice", "sent"), [(400, "true", 2), (500, "false", 1)])
def test_the_servers_advice_is_followed(call: Caller, status: int, advice: str, sent: int) -> None:
    """`x-should-retry` overrides what the status says."""
    handler, seen = answering(httpx.Response(status, headers={**NOW, "x-should-retry": advice}))
    with pytest.raises(ImageVariationError):
        call(handler, max_retries=1)
    assert len(seen) == sent


def test_a_wait_past_the_deadline_is_not_begun(call: Caller) -> None:
    """The error says how long the server asked to wait, and how long there was."""
    handler, seen = answering(httpx.Response(429, headers={"retry-after": "3600"}))
    with pytest.raises(
        RateLimitError, match=r"wait 3,600 s, but only \d+ s of the deadline"
    ) as caught:
        call(handler, deadline=60)
    assert len(seen) == 1
    assert caught.value.retry_after == 3600


def test_a_limit_told_only_in_the_text_is_waited_for(call: Caller) -> None:
    """Image rate limits carry no header."""
    text = "Rate limit reached on input-images per min: Limit 5. Please try again in 30ms."
    limited = httpx.Response(429, content=failure(text, code="rate_limit_exceeded"))
    handler, seen = answering(limited, ok())
    assert len(call(handler).data) == 1
    assert len(seen) == 2
