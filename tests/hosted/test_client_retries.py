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
def test_a_temporary_failure_is_sent_again(call: Caller, status: int) -> None:
    """Each attempt of a call has the same idempotency key and the whole body."""
    handler, requests = answering(httpx.Response(status, headers=NOW), ok())
    assert len(call(handler).data) == 1
    assert len(requests) == 2
    assert len({request.headers["idempotency-key"] for request in requests}) == 1
    assert parts(requests[0]) == parts(requests[1])


def test_each_call_has_its_idempotency_key(call: Caller) -> None:
    """Two calls have different idempotency keys, because they are two purchases."""
    handler, requests = answering(ok())
    call(handler)
    call(handler)
    assert len({request.headers["idempotency-key"] for request in requests}) == 2


def test_the_last_failure_is_raised(call: Caller) -> None:
    """A call raises the failure of its last retry."""
    handler, requests = answering(httpx.Response(500, content=failure("boom"), headers=NOW))
    with pytest.raises(EngineError, match="boom"):
        call(handler, max_retries=3)
    assert len(requests) == 4


@pytest.mark.mostly_slow("sync-error0", "asyncio-error1", "trio-error2")
@pytest.mark.parametrize(
    "error", [httpx.ConnectError("x"), httpx.ConnectTimeout("x"), httpx.ReadError("x")]
)
def test_a_failed_connection_is_retried(call: Caller, error: Exception) -> None:
    """A connection that fails to open or breaks before an answer is retried."""
    handler, requests = answering(error, ok())
    assert len(call(handler).data) == 1
    assert len(requests) == 2


def test_a_lost_answer_is_not_retried_by_default(call: Caller) -> None:
    """A lost answer is retried only with `resend_lost`, as its images may have been billed."""
    handler, requests = answering(httpx.ReadTimeout("x"), ok())
    with pytest.raises(EngineTimeoutError, match="may have been billed"):
        call(handler)
    assert len(requests) == 1
    handler, requests = answering(httpx.ReadTimeout("x"), ok())
    assert len(call(handler, resend_lost=True).data) == 1
    assert len(requests) == 2


@pytest.mark.mostly_slow("asyncio")
def test_a_truncated_answer_counts_as_lost(call: Caller) -> None:
    """A success that breaks off counts as lost, because its images were made and billed."""
    cut_answer = ok(b'{"created": 1, "data": [{"b64_json": "')
    handler, requests = answering(cut_answer, ok())
    with pytest.raises(EngineResponseError):
        call(handler)
    assert len(requests) == 1
    handler, requests = answering(cut_answer, ok())
    assert len(call(handler, resend_lost=True).data) == 1


@pytest.mark.parametrize(("status", "advice", "attempts"), [(400, "true", 2), (500, "false", 1)])
def test_the_advice_of_the_server_is_followed(
    call: Caller, status: int, advice: str, attempts: int
) -> None:
    """The header `x-should-retry` overrides the status."""
    handler, requests = answering(httpx.Response(status, headers={**NOW, "x-should-retry": advice}))
    with pytest.raises(ImageVariationError):
        call(handler, max_retries=1)
    assert len(requests) == attempts


def test_a_wait_past_the_deadline_is_not_started(call: Caller) -> None:
    """If the server's delay exceeds the time left, an error gives both times immediately."""
    handler, requests = answering(httpx.Response(429, headers={"retry-after": "3600"}))
    with pytest.raises(
        RateLimitError, match=r"wait 3,600 s, but only \d+ s of the deadline"
    ) as caught:
        call(handler, deadline=60)
    assert len(requests) == 1
    assert caught.value.retry_after == 3600


def test_a_delay_in_the_text_is_waited_for(call: Caller) -> None:
    """The delay in an error's text counts, since image rate limits have no header."""
    text = "Rate limit reached on input-images per min: Limit 5. Please try again in 30ms."
    limit_answer = httpx.Response(429, content=failure(text, code="rate_limit_exceeded"))
    handler, requests = answering(limit_answer, ok())
    assert len(call(handler).data) == 1
    assert len(requests) == 2
