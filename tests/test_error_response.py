import json

import pytest

from langchain_image_variation.error_response import ErrorResponse


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
