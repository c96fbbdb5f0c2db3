import inspect

import pytest

from langchain_image_variation import exceptions
from langchain_image_variation.error_response import ErrorResponse
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineConnectionError,
    EngineError,
    EngineTimeoutError,
    ImageVariationError,
    InvalidImageError,
    InvalidRequestError,
    MissingExtraError,
    QuotaExceededError,
    RateLimitError,
    ServiceUnavailableError,
    error_from_wire,
)

TREE = [
    value
    for value in vars(exceptions).values()
    if inspect.isclass(value) and issubclass(value, ImageVariationError)
]


@pytest.mark.parametrize("error_class", [c for c in TREE if c is not ImageVariationError])
def test_every_error_survives_the_wire(error_class: type[ImageVariationError]) -> None:
    """Each class becomes an error body and is read back as itself, with all it carried."""
    sent = error_class("n must be at most 10, got 11.", param="n")
    body = ErrorResponse.from_exception(sent).to_json()
    received = ErrorResponse.from_json(body).to_exception(sent.status_code)
    assert type(received) is error_class
    assert vars(received) == vars(sent)
    assert str(received) == "n must be at most 10, got 11."


def test_every_error_is_exported_and_in_the_tree_of_the_docstring() -> None:
    """The tree that opens the module names every class, and so does `__all__`."""
    tree = (exceptions.__doc__ or "").split("\n\n")[1]
    for error_class in TREE:
        assert error_class.__name__ in tree.replace("+--", "").split()
        assert error_class.__name__ in exceptions.__all__


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
def test_an_unknown_body_becomes_the_error_of_its_status(
    status: int, type: str | None, code: str | None, expected: type[ImageVariationError]
) -> None:
    """A body without a code we know is classed by its type, then by its status."""
    error = error_from_wire(status, "", type=type, code=code)
    assert error.__class__ is expected
    assert error.status_code == status
    assert error.message == f"HTTP {status}"


def test_a_subclass_of_a_program_does_not_take_part() -> None:
    """A program's own subclass never appears in place of a class of the tree."""

    class Mine(RateLimitError):
        default_code = "mine"

    assert type(error_from_wire(429, "x", code="mine")) is RateLimitError
    assert Mine("x").status_code == 429


def test_a_missing_extra_is_an_import_error() -> None:
    """Code that guards an optional import with `except ImportError` keeps working."""
    assert issubclass(MissingExtraError, ImportError)
