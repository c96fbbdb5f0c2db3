"""The wire contract's error bodies: the schemas `Error` and `ErrorResponse`."""

from typing import Any, Self

from pydantic_core import from_json

from langchain_image_variation.contract import LenientBody, OptionalText
from langchain_image_variation.exceptions import ImageVariationError, error_from_wire

__all__ = ["Error", "ErrorResponse"]


class Error(LenientBody):
    """What went wrong, inside an `ErrorResponse`. All four keys are always written."""

    message: OptionalText = None
    type: OptionalText = None
    param: OptionalText = None
    code: OptionalText = None


def _first_broken_field(detail: dict[str, Any]) -> Error:
    """Read an item of `detail` as FastAPI lists broken fields."""
    where, message = detail.get("loc"), detail.get("msg")
    field = str(where[-1]) if isinstance(where, list) and where else None
    if field is not None and isinstance(message, str):
        message = f"{field}: {message}"
    return Error.model_validate({"message": message, "param": field})


class ErrorResponse(LenientBody):
    """The body of every answer that is not a success."""

    error: Error

    @classmethod
    def from_json(cls, body: str | bytes) -> Self:
        """Read the body of an answer that is not a success, whatever its shape.

        Servers send the contract's envelope, `{"error": "text"}`, `{"detail": …}`,
        `{"message": …}`, a page of HTML or nothing. What is not understood is left out, so this
        raises nothing.
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
                return cls(error=_first_broken_field(text[0]))
        return cls(error=Error())

    @classmethod
    def from_exception(cls, error: ImageVariationError) -> Self:
        """Return the body that stands for an error of the tree."""
        return cls(
            error=Error(message=error.message, type=error.type, param=error.param, code=error.code)
        )

    def to_exception(self, status_code: int) -> ImageVariationError:
        """Return the error of the tree that this body stands for, with the answer's status."""
        error = self.error
        return error_from_wire(
            status_code,
            error.message or "",
            # Some gateways send an empty string for null.
            type=error.type or None,
            code=error.code or None,
            param=error.param or None,
        )

    def to_json(self) -> str:
        """Return the body as the vendor writes it: all four keys, two spaces of indent."""
        known = self.error.model_dump(include={"message", "type", "param", "code"})
        return ErrorResponse(error=Error(**known)).model_dump_json(indent=2)
