import httpx
import pytest

from langchain_image_variation.exceptions import (
    AuthenticationError,
    BillingLimitError,
    ConflictError,
    ContentPolicyError,
    EndpointRemovedError,
    EngineConnectionError,
    EngineError,
    EngineTimeoutError,
    ImageVariationError,
    InvalidImageError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    ServiceUnavailableError,
)
from tests.calling import (
    Caller,
    answering,
    failure,
)

ERRORS = [
    (400, failure("n is wrong", param="n"), InvalidRequestError, "n is wrong"),
    (400, failure("x", code="invalid_image_format"), InvalidImageError, "x"),
    (400, failure("x", code="billing_hard_limit_reached"), BillingLimitError, "x"),
    (400, failure("x", code="content_policy_violation"), ContentPolicyError, "x"),
    (400, failure("x", code="moderation_blocked"), ContentPolicyError, "x"),
    (400, failure("gone", code="invalid_value", param="model"), ModelNotFoundError, "gone"),
    (400, b'{"detail": "no such thing"}', InvalidRequestError, "no such thing"),
    (401, b"", AuthenticationError, "pass api_key or set OPENAI_API_KEY"),
    (403, failure("must be verified"), PermissionDeniedError, "must be verified"),
    (404, b"", EndpointRemovedError, "removed image variations in May 2026.*gpt-image.*local"),
    (404, failure("Invalid URL (POST /v1/images/variations)"), EndpointRemovedError, "May 2026"),
    (404, b"<html>nope</html>", NotFoundError, "base_url right.*HTML"),
    (404, b'{"detail": "Model not found: flux"}', NotFoundError, "Model not found: flux"),
    (405, b"", InvalidRequestError, "base_url right"),
    (409, b'{"detail": "cancelled"}', ConflictError, "cancelled"),
    (413, b"<html>", PayloadTooLargeError, "smaller image"),
    (
        422,
        b'{"detail": [{"loc": ["body", "model"], "msg": "Field required"}]}',
        InvalidRequestError,
        "model: Field required",
    ),
    (429, failure("slow down"), RateLimitError, "slow down"),
    (429, failure("x", type="insufficient_quota"), QuotaExceededError, "x"),
    (500, b'{"detail": "cannot identify image"}', EngineError, "cannot identify image"),
    (
        501,
        b'{"error": {"message": "API not implemented", "type": "one_api_error", "param": "",'
        b' "code": "api_not_implemented"}}',
        EngineError,
        "API not implemented",
    ),
    (501, b"", EngineError, "another server or engine"),
    (502, b"<html>", EngineConnectionError, "gateway"),
    (503, b'{"detail": "loading"}', ServiceUnavailableError, "loading"),
    (504, b"<html><h1>504</h1></html>", EngineTimeoutError, "timed out.*HTML page"),
    (301, b"", ImageVariationError, "redirects"),
    (418, b'{"error": null}', InvalidRequestError, "HTTP 418"),
    (500, b'{"error": {"message": null, "type": null, "code": null}}', EngineError, "HTTP 500"),
    (500, b'{"error": {"message": "cut', EngineError, "HTTP 500"),
    (500, b'{"error": "plain"}', EngineError, "plain"),
    (404, b'{"detail": "Not Found"}', EndpointRemovedError, "base_url, which usually ends in /v1"),
    (405, b'{"detail": "Method Not Allowed"}', InvalidRequestError, "does not accept this method"),
    (500, b"\xff\xfe\x00", EngineError, "HTTP 500"),
]


@pytest.mark.parametrize(("status", "body", "error_class", "message"), ERRORS)
def test_each_error_answer_has_its_error(
    call: Caller, status: int, body: bytes, error_class: type[ImageVariationError], message: str
) -> None:
    """Each kind of error answer, whatever its body, has an error with status and request ID."""
    handler, _ = answering(httpx.Response(status, content=body, headers={"x-request-id": "req_7"}))
    with pytest.raises(error_class, match=message) as caught:
        call(handler, max_retries=0)
    assert type(caught.value) is error_class
    assert caught.value.status_code == status
    assert caught.value.request_id == "req_7"


def test_an_error_keeps_type_code_and_param(call: Caller) -> None:
    """An error keeps the body's type, code and param. Empty strings count as None."""
    body = failure("m", type="t", code="c", param="p")
    handler, _ = answering(httpx.Response(400, content=body))
    with pytest.raises(InvalidRequestError) as caught:
        call(handler)
    assert (caught.value.type, caught.value.code, caught.value.param) == ("t", "c", "p")
    empty_error = httpx.Response(501, content=failure("m", type="t", code="", param=""))
    with pytest.raises(EngineError) as caught_empty:
        call(answering(empty_error)[0])
    assert (caught_empty.value.code, caught_empty.value.param) == (None, None)


def test_a_servers_message_is_one_short_line(call: Caller) -> None:
    """A server's text is shortened to one line, without images or keys."""
    text = "bad\n\x1b[31m " + "A" * 300 + " Bearer abcdefghij sk-abcdefghijkl " + "word " * 300
    body = failure(text, type=text, code=text, param=text)
    handler, _ = answering(httpx.Response(400, content=body))
    with pytest.raises(InvalidRequestError) as caught:
        call(handler)
    assert caught.value.message.startswith("bad [31m … Bearer … sk-… word word")
    assert len(caught.value.message) < 510
    texts = {caught.value.type, caught.value.code, caught.value.param}
    assert texts == {caught.value.message}


def test_a_plain_text_body_is_the_message(call: Caller) -> None:
    """Proxies explain their errors in plain text."""
    answer = httpx.Response(502, text="no healthy upstream")
    with pytest.raises(EngineConnectionError, match=r"^no healthy upstream$"):
        call(answering(answer)[0], max_retries=0)


def test_an_endless_error_is_not_read_to_its_end(call: Caller) -> None:
    """The client reads only the beginning of an error body."""
    handler, _ = answering(httpx.Response(400, content=b"<html>" + b"x" * 5_000_000))
    with pytest.raises(InvalidRequestError, match="HTML"):
        call(handler)
