"""Checks of numbers that a caller passes: counts, shares and seconds."""

from numbers import Integral, Real
from typing import TypeGuard

from langchain_image_variation.exceptions import InvalidRequestError, excerpt

__all__ = ["MAX_SECONDS", "check_number", "check_seconds", "check_whole_number"]

MAX_SECONDS = 1e9
"""The longest time that any setting takes: about 32 years. Timers overflow well above it."""


def check_whole_number(
    name: str,
    value: object,
    minimum: int,
    maximum: int | None = None,
    *,
    hint: str = "",
    param: str | None = None,
) -> int:
    """Return a whole number as an `int`. NumPy's integers are allowed; True and False are not.

    Args:
        name: What the message calls the number.
        value: The value to check.
        minimum: The smallest number allowed.
        maximum: The largest number allowed. None sets no limit.
        hint: What the message adds at its end.
        param: The error's `param`, if it is not `name`.

    Raises:
        InvalidRequestError: If it is another kind of value, or out of range.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if minimum <= number and (maximum is None or number <= maximum):
            return number
    bounds = f"of at least {minimum:,}" if maximum is None else f"from {minimum:,} to {maximum:,}"
    raise InvalidRequestError(
        f"{name} must be a whole number {bounds}, got {excerpt(value)}{hint}.", param=param or name
    )


def check_number(
    name: str,
    value: object,
    minimum: float,
    maximum: float,
    *,
    hint: str = "",
    param: str | None = None,
) -> float:
    """Return a number as a `float`. NaN, True and False are refused.

    Args:
        name: What the message calls the number.
        value: The value to check.
        minimum: The smallest number allowed.
        maximum: The largest number allowed.
        hint: What the message adds at its end.
        param: The error's `param`, if it is not `name`.

    Raises:
        InvalidRequestError: If it is another kind of value, or out of range.
    """
    # The comparison is false for NaN, and does not overflow as a huge whole number's float would.
    if _is_number(value) and minimum <= value <= maximum:
        return float(value)
    raise InvalidRequestError(
        f"{name} must be a number from {minimum:g} to {maximum:g}, got {excerpt(value)}{hint}.",
        param=param or name,
    )


def check_seconds(name: str, value: object, *, param: str | None = None) -> float:
    """Return a duration in seconds, above 0 and below `MAX_SECONDS`.

    Raises:
        InvalidRequestError: If it is another kind of value, or out of range.
    """
    if _is_number(value) and 0 < value < MAX_SECONDS:
        return float(value)
    raise InvalidRequestError(
        f"{name} must be a positive number of seconds, got {excerpt(value)}.", param=param or name
    )


def _is_number(value: object) -> TypeGuard[float]:
    # NumPy's numbers are Real too. Type checkers do not know that a Real can be compared.
    return isinstance(value, Real) and not isinstance(value, bool)
