"""`LenientBody`: a JSON object as real servers send it, and the types of its fields."""

from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

__all__ = ["Count", "LenientBody", "OptionalText", "OrNone"]


def _value_or_none(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    try:
        return handler(value)
    except ValidationError:
        return None


OrNone = WrapValidator(_value_or_none)
"""Reads a value of a wrong type as None, so that the images of a response are not lost."""

OptionalText = Annotated[str | None, OrNone]
"""A string. It is None if it is missing, null or of another type."""
Count = Annotated[int | None, OrNone]
"""A whole number. It is None if it is missing, null or of another type."""


class LenientBody(BaseModel):
    """A body as real servers send it. Unknown keys are kept."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)
