import json

import pytest

from langchain_image_variation.error_response import ErrorResponse, error_from_wire
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineConnectionError,
    EngineError,
    EngineTimeoutError,
    ImageVariationError,
    InvalidImageError,
    InvalidRequestError,
    QuotaExceededError,
    RateLimitError,
    ServiceUnavailableError,
)


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ('{"error": {"message": "m", "type": "t", "param": null, "code": null}}', "m", None),
        ('{"error": {"message": "m", "code": 404, "extra": 1}}', "m", "404"),
        ('{"error": {"message": "m", "param": ["x", 0], "code": true}}', "m", None),
        ('{"error": "m"}', "m", None),
        ('{"error": {}}', "HTTP 400", None),
        ('{"error": null}', "HTTP 400", None),
        ('{"detail": "m"}', "m", None),
        ('{"detail": [{"loc": ["body", "model"], "msg": "m"}]}', "model: m", None),
        ('{"message": "m"}', "m", None),
        ("[1]", "HTTP 400", None),
        ("<html>", "HTTP 400", None),
        (b"\xff", "HTTP 400", None),
        (b"", "HTTP 400", None),
    ],
)
def test_reads_the_error_bodies_of_real_servers(
    body: str | bytes, message: str, code: str | None
) -> None:
    """Every shape of error body is read without an error, and all four keys are written."""
    response = ErrorResponse.from_json(body)
    error = response.to_exception(400)
    assert (error.message, error.code) == (message, code)
    assert list(json.loads(response.to_json())["error"]) == ["message", "type", "param", "code"]


@pytest.mark.parametrize(
    ("status", "type", "code", "expected"),
    [
        (400, None, None, InvalidRequestError),
        (418, None, None, InvalidRequestError),
        (422, "", "", InvalidRequestError),
        (429, None, None, RateLimitError),
        (429, "insufficient_quota", None, QuotaExceededError),
        (500, None, None, EngineError),
        (502, None, None, EngineConnectionError),
        (504, None, None, EngineTimeoutError),
        (408, None, None, EngineTimeoutError),
        (400, "image_generation_user_error", "moderation_blocked", ContentPolicyError),
        (400, "invalid_request_error", "missing_file_mimetype", InvalidImageError),
        (503, "server_error", None, ServiceUnavailableError),
        (302, None, None, ImageVariationError),
    ],
)
def test_an_unknown_code_falls_back_to_the_status(
    status: int, type: str | None, code: str | None, expected: type[ImageVariationError]
) -> None:
    """Without a known code, the type decides, and then the status."""
    error = error_from_wire(status, "", type=type, code=code)
    assert error.__class__ is expected
    assert error.status_code == status
    assert error.message == f"HTTP {status}"


def test_subclasses_outside_the_tree_are_not_used() -> None:
    """A subclass that a program defines never replaces a class of the tree."""

    class Mine(RateLimitError):
        default_code = "mine"

    assert type(error_from_wire(429, "x", code="mine")) is RateLimitError
    assert Mine("x").status_code == 429
