"""The error bodies of the contract: the schemas `Error` and `ErrorResponse`."""

from typing import Any, Self

from pydantic_core import from_json

from langchain_image_variation.contract import LenientBody, OptionalText
from langchain_image_variation.exceptions import ImageVariationError, error_from_wire

__all__ = ["Error", "ErrorResponse"]


class Error(LenientBody):
    """The error inside an `ErrorResponse`. All four keys are always written."""

    message: OptionalText = None
    type: OptionalText = None
    param: OptionalText = None
    code: OptionalText = None


_CODES_IN_DETAIL = ("content_policy_violation",)


def _from_validation_error(detail: dict[str, Any]) -> Error:
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
                return cls(error=_from_validation_error(text[0]))
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
