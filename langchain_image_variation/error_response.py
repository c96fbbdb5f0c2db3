"""The error bodies of the contract, and the exceptions that they become."""

from collections.abc import Iterator
from typing import Any, Self

from pydantic_core import from_json

from langchain_image_variation.contract.lenient_body import LenientBody, OptionalText
from langchain_image_variation.exceptions import (
    BillingLimitError,
    ContentPolicyError,
    EngineError,
    EngineTimeoutError,
    ImageVariationError,
    InvalidImageError,
    InvalidRequestError,
    ModelNotFoundError,
)

__all__ = ["Error", "ErrorResponse", "error_from_wire"]


class Error(LenientBody):
    """The error inside an `ErrorResponse`. All four keys are always written."""

    message: OptionalText = None
    type: OptionalText = None
    param: OptionalText = None
    code: OptionalText = None


_CODES_IN_DETAIL = ("content_policy_violation",)


def _read_validation_error(detail: dict[str, Any]) -> Error:
    """Read an item of `detail`, FastAPI's list of invalid fields."""
    location, message = detail.get("loc"), detail.get("msg")
    field = str(location[-1]) if isinstance(location, list) and location else None
    if field is not None and isinstance(message, str):
        message = f"{field}: {message}"
    # fal.ai names its reason in `type`. Other servers have names of pydantic there.
    code = detail.get("type") if detail.get("type") in _CODES_IN_DETAIL else None
    return Error.model_validate({"message": message, "param": field, "code": code})


class ErrorResponse(LenientBody):
    """The body of every response that is not a success."""

    error: Error

    @classmethod
    def from_json(cls, body: str | bytes) -> Self:
        """Read the body of an error response of any shape.

        Servers send the contract's envelope, `{"error": "text"}`, `{"detail": …}`,
        `{"message": …}`, an HTML page or nothing. Anything else is ignored, so this method never
        raises an error.
        """
        try:
            content = from_json(body)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            return cls(error=Error())
        error = content.get("error")
        if isinstance(error, dict):
            return cls(error=Error.model_validate(error))
        for text in (error, content.get("detail"), content.get("message")):
            if isinstance(text, str):
                return cls(error=Error(message=text))
            if isinstance(text, list) and text and isinstance(text[0], dict):
                return cls(error=_read_validation_error(text[0]))
        return cls(error=Error())

    @classmethod
    def from_exception(cls, error: ImageVariationError) -> Self:
        """Return the error body for an exception."""
        return cls(
            error=Error(message=error.message, type=error.type, param=error.param, code=error.code)
        )

    def to_exception(self, status_code: int) -> ImageVariationError:
        """Return the exception for this error body and the status of the response."""
        error = self.error
        return error_from_wire(
            status_code,
            error.message or "",
            # Some gateways send an empty string instead of null.
            type=error.type or None,
            code=error.code or None,
            param=error.param or None,
        )

    def to_json(self) -> str:
        """Return the body as the vendor writes it: all four keys, indented by two spaces."""
        fields = self.error.model_dump(include={"message", "type", "param", "code"})
        return ErrorResponse(error=Error(**fields)).model_dump_json(indent=2)


def error_from_wire(
    status_code: int,
    message: str,
    *,
    type: str | None = None,
    code: str | None = None,
    param: str | None = None,
) -> ImageVariationError:
    """Return the error for an HTTP error body.

    The class is chosen by `code`, then by `type` and status, then by status alone. Status 402
    becomes a `BillingLimitError`, 408 an `EngineTimeoutError`, any other 4xx an
    `InvalidRequestError`, and any other 5xx an `EngineError`. The error keeps the status, type,
    code and param of the body.

    Args:
        status_code: The HTTP status.
        message: The body's message. If it is empty, the error says "HTTP <status>".
        type: The body's `type`, if it has one.
        code: The body's `code`, if it has one.
        param: The body's `param`, if it has one.
    """
    error = _class_for(status_code, type, code, param)(message or f"HTTP {status_code}")
    error.status_code = status_code
    error.type = type if type is not None else error.default_type
    error.code = code
    error.param = param
    return error


_ALIASES: dict[str | None, type[ImageVariationError]] = {
    "invalid_image": InvalidImageError,
    "missing_file_mimetype": InvalidImageError,
    "moderation_blocked": ContentPolicyError,
    "unsupported_file_mimetype": InvalidImageError,
}
"""Codes of the GPT Image endpoints for errors that had another code on the older endpoint."""


def _class_for(
    status_code: int, type: str | None, code: str | None, param: str | None
) -> type[ImageVariationError]:
    if (code, param) == ("invalid_value", "model"):
        # The vendor answers this for its own retired models.
        return ModelNotFoundError
    if code in _ALIASES:
        return _ALIASES[code]
    if status_code == 402:
        return BillingLimitError
    if status_code == 408:
        return EngineTimeoutError
    classes = list(_subclasses(ImageVariationError))
    for error_class in classes:
        if code is not None and error_class.default_code == code:
            return error_class
    for error_class in classes:
        if (error_class.default_status_code, error_class.default_type) == (status_code, type):
            return error_class
    for error_class in classes:
        if error_class.default_status_code == status_code:
            return error_class
    if 400 <= status_code < 500:
        return InvalidRequestError
    return EngineError if status_code >= 500 else ImageVariationError


def _subclasses(base: type[ImageVariationError]) -> Iterator[type[ImageVariationError]]:
    """Yield the subclasses in the error tree, general classes before specific ones."""
    children = [child for child in base.__subclasses__() if child.__module__ == base.__module__]
    yield from children
    for child in children:
        yield from _subclasses(child)
