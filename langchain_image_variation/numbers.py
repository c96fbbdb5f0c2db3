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
    least: int,
    most: int | None = None,
    *,
    hint: str = "",
    param: str | None = None,
) -> int:
    """Return a whole number as an `int`. NumPy's integers are allowed; True and False are not.

    Args:
        name: What the message calls the number.
        value: The value to check.
        least: The smallest number allowed.
        most: The largest number allowed. None sets no limit.
        hint: What the message adds at its end.
        param: The error's `param`, if it is not `name`.

    Raises:
        InvalidRequestError: If it is another kind of value, or out of range.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if least <= number and (most is None or number <= most):
            return number
    bounds = f"of at least {least:,}" if most is None else f"from {least:,} to {most:,}"
    raise InvalidRequestError(
        f"{name} must be a whole number {bounds}, got {excerpt(value)}{hint}.", param=param or name
    )


def check_number(
    name: str,
    value: object,
    least: float,
    most: float,
    *,
    hint: str = "",
    param: str | None = None,
) -> float:
    """Return a number as a `float`. NaN, True and False are refused.

    Args:
        name: What the message calls the number.
        value: The value to check.
        least: The smallest number allowed.
        most: The largest number allowed.
        hint: What the message adds at its end.
        param: The error's `param`, if it is not `name`.

    Raises:
        InvalidRequestError: If it is another kind of value, or out of range.
    """
    # The comparison is false for NaN, and does not overflow as a huge whole number's float would.
    if _is_number(value) and least <= value <= most:
        return float(value)
    raise InvalidRequestError(
        f"{name} must be a number from {least:g} to {most:g}, got {excerpt(value)}{hint}.",
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
